//! What this machine allows a client: open files and local ports.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Files that are open beside the connections: records, scrapes, logs.
const OTHER_FILES: u64 = 64;

/// Files of a connection that goes straight to the server, and of one that is forwarded to a pod: both ends
/// of the way to the forwarder are here.
pub(crate) const DIRECT: u64 = 1;
pub(crate) const FORWARDED: u64 = 3;

/// Raises the limit of open files as far as it goes, and gives the most requests in flight that
/// `wanted` comes down to where each takes so many `files`, with a remark where it is fewer.
pub(crate) fn most_in_flight(wanted: u32, files: u64) -> (u32, Option<String>) {
    let each = files;
    let limit = getrlimit(Resource::Nofile);
    if limit.current < limit.maximum || (limit.current.is_some() && limit.maximum.is_none()) {
        // A refusal leaves the limit as it was, which is then looked at below.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    }
    let files = getrlimit(Resource::Nofile)
        .current
        .map_or(u64::MAX, |files| files.saturating_sub(OTHER_FILES) / each);
    let ports = local_ports().unwrap_or(u64::MAX);
    let (most, what) = if files <= ports {
        (files, "open files (raise it with ulimit -n)")
    } else {
        (ports, "local ports (net.ipv4.ip_local_port_range)")
    };
    if u64::from(wanted) <= most {
        return (wanted, None);
    }
    let most = u32::try_from(most).unwrap_or(u32::MAX).max(1);
    let remark = format!(
        "this machine's limit of {what} allows {most} requests in flight, not {wanted}; \
         arrivals beyond wait and are counted as late"
    );
    (most, Some(remark))
}

/// How many ports connections to one address may have here.
fn local_ports() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok()?;
    let mut ends = text.split_whitespace().map(str::parse::<u64>);
    let (low, high) = (ends.next()?.ok()?, ends.next()?.ok()?);
    Some((high + 1).saturating_sub(low))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_machine_allows_is_not_cut_and_more_is_with_a_remark() {
        assert_eq!(most_in_flight(1, FORWARDED), (1, None));
        let (most, remark) = most_in_flight(u32::MAX, DIRECT);
        let remark = remark.unwrap();
        assert!(most > 1 && remark.contains(&most.to_string()), "{remark}");
    }
}
