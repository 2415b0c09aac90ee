//! What each command may do in a cluster: one table, from which Roles are written and by which a
//! command asks before it begins whether it may.
//!
//! Invariant: no command asks the API server for anything else, and the table grants nothing that no
//! command asks for; `tests/apply/rbac.rs` holds both.

use super::client::{Cluster, Kind};
use super::error::{Asked, ClusterError};
use super::kinds::{EVENT, HPA, LEASE, POD, SCALED_OBJECT, SERVICE, VPA};
use super::metric::HpaMetric;
use std::fmt;

/// What somebody sets out to do in a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Task {
    /// `calibrate run --deployment`.
    Run,
    /// `calibrate run --deployment` with `--pause-autoscaler` or `--replicas`, and `calibrate doctor --restore`.
    PausedRun,
    /// `calibrate doctor --deployment`.
    Doctor,
    /// `calibrate apply`.
    Apply,
    /// `calibrate rollback`.
    Rollback,
    /// `calibrate verify`.
    Verify,
}

impl Task {
    /// All of them.
    pub const ALL: [Task; 6] =
        [Task::Run, Task::PausedRun, Task::Doctor, Task::Apply, Task::Rollback, Task::Verify];

    /// Its name in files and objects: `run`, `run-paused`.
    pub const fn slug(self) -> &'static str {
        match self {
            Task::Run => "run",
            Task::PausedRun => "run-paused",
            Task::Doctor => "doctor",
            Task::Apply => "apply",
            Task::Rollback => "rollback",
            Task::Verify => "verify",
        }
    }

    /// Its command line.
    pub const fn command(self) -> &'static str {
        match self {
            Task::Run => "calibrate run --deployment",
            Task::PausedRun => "calibrate run --deployment --pause-autoscaler",
            Task::Doctor => "calibrate doctor --deployment",
            Task::Apply => "calibrate apply",
            Task::Rollback => "calibrate rollback",
            Task::Verify => "calibrate verify",
        }
    }
}

/// Verbs on one resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The API group; empty for the core.
    pub group: String,
    /// The resource, with its subresource: `deployments/scale`.
    pub resource: String,
    /// As RBAC has them.
    pub verbs: Vec<&'static str>,
    /// What for.
    pub why: &'static str,
}

impl Rule {
    /// What the API server is asked of each verb.
    pub fn asked(&self, namespace: &str) -> Vec<Asked> {
        let asked = |verb: &&'static str| Asked {
            verb,
            group: self.group.clone(),
            resource: self.resource.clone(),
            namespace: Some(namespace.to_owned()),
            name: None,
        };
        self.verbs.iter().map(asked).collect()
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verbs = self.verbs.join(", ");
        match self.group.as_str() {
            "" => write!(f, "{verbs} on {}", self.resource),
            group => write!(f, "{verbs} on {} of {group}", self.resource),
        }
    }
}

/// The place of a resource in the table.
#[derive(Clone, Copy)]
enum On {
    /// Objects of a kind.
    Kind(Kind),
    /// A part of the objects of a kind.
    Part(Kind, &'static str),
    /// The Deployment, StatefulSet or LeaderWorkerSet itself.
    Workload,
    /// Its scale.
    Scale,
    /// Each metric of the HPA, which is a resource of its own.
    Metrics,
}

type Entry = (&'static [Task], On, &'static [&'static str], &'static str);

/// The table: who, on what, which verbs, what for.
const TABLE: &[Entry] = &[
    (
        &[Task::Run, Task::PausedRun, Task::Doctor, Task::Verify],
        On::Workload,
        &["get"],
        "which pods it has, and where they serve",
    ),
    (
        &[Task::Run, Task::PausedRun, Task::Doctor, Task::Verify],
        On::Kind(POD),
        &["list"],
        "which of them are ready",
    ),
    (
        &[Task::Run, Task::PausedRun, Task::Verify],
        On::Part(POD, "portforward"),
        &["get", "create"],
        "the way to them",
    ),
    (&[Task::Run, Task::PausedRun], On::Kind(EVENT), &["list"], "when their images were there"),
    (
        &[Task::Run, Task::PausedRun],
        On::Kind(SERVICE),
        &["get", "list"],
        "the way to them with --via service",
    ),
    (
        &[Task::Run, Task::PausedRun, Task::Doctor],
        On::Kind(HPA),
        &["list"],
        "whether one scales it under the load",
    ),
    (&[Task::Run, Task::PausedRun, Task::Doctor], On::Kind(SCALED_OBJECT), &["list"], "the same of KEDA"),
    (
        &[Task::Run, Task::PausedRun, Task::Doctor],
        On::Kind(VPA),
        &["list"],
        "the same of a VerticalPodAutoscaler",
    ),
    (
        &[Task::Run, Task::PausedRun],
        On::Kind(LEASE),
        &["get", "create", "patch", "delete"],
        "one calibration at a time",
    ),
    (&[Task::PausedRun], On::Kind(HPA), &["get", "patch"], "to pause it, and to put it back"),
    (&[Task::PausedRun], On::Kind(SCALED_OBJECT), &["get", "patch"], "the same of KEDA"),
    (&[Task::PausedRun], On::Kind(VPA), &["get", "patch"], "the same of a VerticalPodAutoscaler"),
    (&[Task::PausedRun], On::Scale, &["patch"], "to scale it with --replicas, and back"),
    (
        &[Task::PausedRun],
        On::Kind(LEASE),
        &["list"],
        "what a killed run left, for calibrate doctor --restore",
    ),
    (&[Task::Apply], On::Scale, &["get"], "the selector of the pods that the HPA will scale"),
    (&[Task::Apply], On::Kind(HPA), &["list"], "whether another HPA scales the same pods"),
    (
        &[Task::Apply],
        On::Kind(HPA),
        &["get", "patch"],
        "dry run, server-side apply, what was stored, its status",
    ),
    (&[Task::Apply], On::Kind(HPA), &["create"], "an HPA that is not there yet"),
    (&[Task::Apply], On::Metrics, &[], "whether the HPA will see its metric"),
    (&[Task::Rollback], On::Kind(HPA), &["get", "update"], "the HPA as it was"),
    (&[Task::Rollback], On::Kind(HPA), &["delete"], "an HPA that was not there before"),
    (&[Task::Rollback], On::Kind(HPA), &["create"], "an HPA that was there before and is gone (--force)"),
    (&[Task::Verify], On::Kind(HPA), &["get"], "its target, and its status while the load goes on"),
];

/// What a task may do to a kind of workload. `metrics` are those of its HPA.
pub fn rules(task: Task, workload: Kind, metrics: &[HpaMetric]) -> Vec<Rule> {
    let entries = TABLE.iter().filter(|(tasks, ..)| tasks.contains(&task));
    entries.flat_map(|(_, on, verbs, why)| rules_on(*on, verbs, why, workload, metrics)).collect()
}

fn rules_on(
    on: On,
    verbs: &'static [&'static str],
    why: &'static str,
    workload: Kind,
    metrics: &[HpaMetric],
) -> Vec<Rule> {
    let rule = |group: &str, resource: String, verbs: &[&'static str]| Rule {
        group: group.to_owned(),
        resource,
        verbs: verbs.to_vec(),
        why,
    };
    match on {
        On::Kind(Kind { group, plural, .. }) => vec![rule(group, plural.to_owned(), verbs)],
        On::Part(Kind { group, plural, .. }, part) => vec![rule(group, format!("{plural}/{part}"), verbs)],
        On::Workload => vec![rule(workload.group, workload.plural.to_owned(), verbs)],
        On::Scale => vec![rule(workload.group, format!("{}/scale", workload.plural), verbs)],
        On::Metrics => {
            let of = |metric: &HpaMetric| {
                let (group, resource) = metric.resource();
                rule(group, resource, &[metric.verb()])
            };
            metrics.iter().map(of).collect()
        }
    }
}

/// Asks the API server for each verb whether this user may, and gives what is denied.
pub async fn denied(cluster: &Cluster, namespace: &str, rules: &[Rule]) -> Result<Vec<Rule>, ClusterError> {
    let mut denied = Vec::new();
    for rule in rules {
        let mut verbs = Vec::new();
        for asked in rule.asked(namespace) {
            if !cluster.allows(&asked).await? {
                verbs.push(asked.verb);
            }
        }
        if !verbs.is_empty() {
            denied.push(Rule { verbs, ..rule.clone() });
        }
    }
    Ok(denied)
}

#[cfg(test)]
mod tests {
    use super::super::kinds::DEPLOYMENT;
    use super::*;

    #[test]
    fn every_task_has_rules_and_no_rule_is_a_wildcard() {
        for task in Task::ALL {
            let rules = rules(task, DEPLOYMENT, &[]);
            assert!(!rules.is_empty(), "{}", task.command());
            for rule in rules {
                assert!(!format!("{rule}").contains('*'), "{rule}");
                assert!(!rule.verbs.is_empty() && !rule.why.is_empty(), "{rule}");
            }
        }
    }

    #[test]
    fn each_metric_is_a_resource_of_its_own() {
        let metric = HpaMetric { name: "a|b|gauge".to_owned(), external: false, selector: String::new() };
        let rules = rules(Task::Apply, DEPLOYMENT, &[metric]);
        assert_eq!(rules.last().unwrap().to_string(), "get on pods/a|b|gauge of custom.metrics.k8s.io");
    }
}
