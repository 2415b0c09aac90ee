//! Which replica a pod is.

use std::collections::BTreeMap;

/// Pods by the numbers of their replicas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReplicaNames {
    /// The pods that a user named, in the order of the replicas; others are left out.
    Named(Vec<String>),
    /// All that are met. One whose address is that of a scraped replica is that replica; others get the
    /// lowest free number in the order in which they are met, and give way to those.
    Met {
        /// Addresses of the scraped replicas, like `10.0.0.7:8000`.
        hosts: Vec<String>,
        /// The numbers given so far.
        numbers: BTreeMap<String, Place>,
    },
}

/// A number, and why it was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    number: u32,
    /// By its address, and not only because it was free.
    scraped: bool,
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
    /// those that count. Of several that are new, all must be asked for before one is believed: a
    /// later one may be the replica that scrapes have this number for.
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
                let own = hosts.iter().position(|host| Some(host.as_str()) == address);
                let known = numbers.get(name).copied();
                let place = match (own, known) {
                    (Some(own), known) if known.is_none_or(|known| !known.scraped) => {
                        let place = Place { number: own as u32, scraped: true };
                        numbers.insert(name.to_owned(), place);
                        give_way(place.number, hosts.len(), numbers);
                        place
                    }
                    (_, Some(known)) => known,
                    (_, None) => {
                        let place = Place { number: free(hosts.len(), numbers), scraped: false };
                        numbers.insert(name.to_owned(), place);
                        place
                    }
                };
                Some(place.number)
            }
        }
    }
}

/// The lowest free number. Once an address was that of a scraped replica, the numbers of the scraped
/// ones are theirs; until then, as behind port forwards, no address may ever be.
fn free(hosts: usize, numbers: &BTreeMap<String, Place>) -> u32 {
    let least = if numbers.values().any(|place| place.scraped) { hosts as u32 } else { 0 };
    let mut free = least..=least + numbers.len() as u32;
    free.find(|number| !numbers.values().any(|taken| taken.number == *number)).unwrap_or(least)
}

/// Numbers those anew who had a scraped replica's number only because it was free.
fn give_way(number: u32, hosts: usize, numbers: &mut BTreeMap<String, Place>) {
    let had = numbers.iter().find(|(_, place)| place.number == number && !place.scraped);
    if let Some(name) = had.map(|(name, _)| name.clone()) {
        let place = Place { number: free(hosts, numbers), scraped: false };
        numbers.insert(name, place);
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
        // One that is met before those at the scraped addresses gives way to them.
        let mut met = ReplicaNames::new(&[], vec!["h:1".into(), "h:2".into()]);
        let asked = [("z", "h:3"), ("y", "h:4"), ("a", "h:1"), ("b", "h:2")];
        for (pod, host) in asked {
            met.number(Some(pod), Some(host));
        }
        let mut numbers = asked.map(|(pod, host)| met.number(Some(pod), Some(host)).unwrap());
        assert_eq!(numbers[2..], [0, 1], "the replicas at their addresses");
        numbers.sort_unstable();
        assert_eq!(numbers, [0, 1, 2, 3], "and each pod a number of its own");
        // Behind port forwards no address is that of a scraped replica.
        let mut met = ReplicaNames::new(&[], vec!["localhost:8001".into()]);
        assert_eq!(met.number(Some("a"), Some("10.0.0.1:8000")), Some(0));
        // Two jobs that scrape the same address are one replica twice, which is for the caller to tell.
        let mut met = ReplicaNames::new(&[], vec!["h:1".into()]);
        assert_eq!([Some("x"), None].map(|pod| met.number(pod, Some("h:1"))), [Some(0), Some(0)]);
        // Google knows pods and no addresses: the one pod is the one replica.
        let mut met = ReplicaNames::new(&[], vec!["h:1".into()]);
        assert_eq!(["x", "y", "x"].map(|pod| met.number(Some(pod), None)), [Some(0), Some(1), Some(0)]);
    }
}
