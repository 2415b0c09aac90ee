//! Load goes to addresses of one's own: loopback and private ones, or public ones that the user
//! says are theirs.

use crate::cli::{Exit, Failure, OrExit};
use anyhow::{Context, anyhow};
use std::net::IpAddr;

/// Refuses a target with a public address, unless the user owns it.
pub(super) async fn check(url: &reqwest::Url, i_own_this_target: bool) -> Result<(), Failure> {
    let host = url.host_str().ok_or_else(|| anyhow!("the target {url} has no host")).or_exit(Exit::Usage)?;
    let port = url.port_or_known_default().unwrap_or(80);
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let addresses: Vec<IpAddr> = tokio::net::lookup_host((bare, port))
        .await
        .with_context(|| format!("cannot reach {url}: the host {host} has no address"))
        .or_exit(Exit::Failed)?
        .map(|address| address.ip())
        .collect();
    match addresses.iter().find(|address| !is_own(address)) {
        Some(public) if !i_own_this_target => Err(anyhow!(
            "{host} has the public address {public}, and load is sent only to what is yours; \
             add --i-own-this-target if it is"
        ))
        .or_exit(Exit::Usage),
        _ => Ok(()),
    }
}

/// Whether an address cannot be a stranger's: loopback, private, link-local, carrier-grade NAT.
fn is_own(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let shared = v4.octets()[0] == 100 && (64..128).contains(&v4.octets()[1]);
            v4.is_loopback() || v4.is_private() || v4.is_link_local() || shared
        }
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => is_own(&IpAddr::V4(v4)),
            None => v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_addresses_are_ones_own_and_public_ones_are_not() {
        for own in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "100.64.0.1",
            "169.254.1.1",
            "::1",
            "fd00::1",
            "::ffff:10.0.0.1",
        ] {
            assert!(is_own(&own.parse().unwrap()), "{own}");
        }
        for public in ["8.8.8.8", "172.32.0.1", "100.128.0.1", "2001:4860::8888", "::ffff:8.8.8.8", "0.0.0.0"]
        {
            assert!(!is_own(&public.parse().unwrap()), "{public}");
        }
    }
}
