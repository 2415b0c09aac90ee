//! Which replica a pod is.

/// Pods by the numbers of their replicas. Names that are not known get the next numbers in the order in
/// which they are met, unless the names are fixed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReplicaNames {
    names: Vec<String>,
    fixed: bool,
}

impl ReplicaNames {
    /// The pods that a user named, in the order of the replicas; others are left out. None named: all
    /// that are met, `hosts` (like `10.0.0.7:8000`) being those that are known by their addresses.
    pub fn new(pods: &[String], hosts: Vec<String>) -> ReplicaNames {
        if pods.is_empty() {
            ReplicaNames { names: hosts, fixed: false }
        } else {
            ReplicaNames { names: pods.to_vec(), fixed: true }
        }
    }

    /// The number of a replica by its pod or, failing that, its address. `None`: it is not one of
    /// those that count.
    pub fn number(&mut self, pod: Option<&str>, address: Option<&str>) -> Option<u32> {
        let found = |name: &str| self.names.iter().position(|known| known == name);
        let number = pod.and_then(found).or_else(|| address.and_then(found));
        if let Some(number) = number {
            return Some(number as u32);
        }
        if self.fixed {
            return None;
        }
        self.names.push(pod.or(address).unwrap_or_default().to_owned());
        Some(self.names.len() as u32 - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_are_numbered_as_named_or_as_they_are_met() {
        let mut named = ReplicaNames::new(&["b".into(), "a".into()], vec!["h:1".into()]);
        assert_eq!(["a", "b", "c"].map(|pod| named.number(Some(pod), Some("h:1"))), [Some(1), Some(0), None]);
        let mut met = ReplicaNames::new(&[], vec!["h:1".into()]);
        let asked = [(None, Some("h:1")), (Some("x"), Some("h:2")), (Some("y"), None), (Some("x"), None)];
        assert_eq!(asked.map(|(pod, host)| met.number(pod, host)), [Some(0), Some(1), Some(2), Some(1)]);
    }
}
