//! Which replica a pod is.

use std::collections::BTreeMap;

/// Pods by the numbers of their replicas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReplicaNames {
    /// The pods that a user named, in the order of the replicas; others are left out.
    Named(Vec<String>),
    /// All that are met. One whose address is that of a scraped replica is that replica; others get the
    /// lowest free number in the order in which they are met.
    Met {
        /// Addresses of the scraped replicas, like `10.0.0.7:8000`.
        hosts: Vec<String>,
        /// The numbers given so far.
        numbers: BTreeMap<String, u32>,
    },
}

impl ReplicaNames {
    /// The pods that a user named; where none is, all that are met.
    pub fn new(pods: &[String], hosts: Vec<String>) -> ReplicaNames {
        if pods.is_empty() {
            ReplicaNames::Met { hosts, numbers: BTreeMap::new() }
        } else {
            ReplicaNames::Named(pods.to_vec())
        }
    }

    /// The number of a replica by its pod or, failing that, its address. `None`: it is not one of
    /// those that count.
    pub fn number(&mut self, pod: Option<&str>, address: Option<&str>) -> Option<u32> {
        match self {
            ReplicaNames::Named(pods) => {
                let place = pods
                    .iter()
                    .position(|known| Some(known.as_str()) == pod || Some(known.as_str()) == address);
                place.map(|place| place as u32)
            }
            ReplicaNames::Met { hosts, numbers } => {
                let name = pod.or(address).unwrap_or_default();
                if let Some(number) = numbers.get(name) {
                    return Some(*number);
                }
                let scraped = hosts.iter().position(|host| Some(host.as_str()) == address);
                let free =
                    (0..=numbers.len() as u32).find(|number| !numbers.values().any(|taken| taken == number));
                let number = scraped.map(|place| place as u32).or(free)?;
                numbers.insert(name.to_owned(), number);
                Some(number)
            }
        }
    }
}

impl Default for ReplicaNames {
    fn default() -> ReplicaNames {
        ReplicaNames::new(&[], Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_are_numbered_as_named() {
        let mut named = ReplicaNames::new(&["b".into(), "a".into()], vec!["h:1".into()]);
        assert_eq!(["a", "b", "c"].map(|pod| named.number(Some(pod), Some("h:1"))), [Some(1), Some(0), None]);
    }

    #[test]
    fn pods_that_nobody_named_are_the_replicas_at_their_addresses_or_the_next_ones() {
        let mut met = ReplicaNames::new(&[], vec!["h:1".into(), "h:2".into()]);
        let asked =
            [(Some("x"), Some("h:2")), (Some("y"), Some("h:1")), (Some("z"), Some("h:3")), (Some("x"), None)];
        assert_eq!(asked.map(|(pod, host)| met.number(pod, host)), [Some(1), Some(0), Some(2), Some(1)]);
        // Google knows pods and no addresses: the one pod is the one replica.
        let mut met = ReplicaNames::new(&[], vec!["h:1".into()]);
        assert_eq!(["x", "y", "x"].map(|pod| met.number(Some(pod), None)), [Some(0), Some(1), Some(0)]);
    }
}
