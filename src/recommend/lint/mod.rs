//! What is wrong with autoscaling manifests: findings as plain values, each with its place, reason and fix.
//!
//! Invariants: pure. What the controller would do with a target is asked of the model in `hpa`, not of a
//! formula beside it. A metric that nobody knows, or a run that does not show it, gives no finding.

mod api;
mod metrics;
mod node;
mod rule;
mod run;
mod signal;
mod subject;
mod targets;

pub use node::{Content, Key, Node, Place};
pub use rule::{Rule, Severity};
pub use run::{RunFacts, RunStep};

use subject::Scaler;

/// An object of a file.
#[derive(Debug, Clone, PartialEq)]
pub struct Object {
    /// The file, as it is to be shown.
    pub file: String,
    /// The object.
    pub node: Node,
}

/// What is known beside the manifests.
#[derive(Debug, Clone, PartialEq)]
pub struct Context {
    /// The controller's tolerance where an HPA has none of its own, as a fraction of 1.
    pub tolerance: f64,
    /// GPUs of each replica, where told. Else they are looked for in the workloads among the objects.
    pub gpus_per_replica: Option<u32>,
    /// Major and minor version of Kubernetes.
    pub version: Option<(u32, u32)>,
    /// A recorded run of the server.
    pub run: Option<RunFacts>,
}

impl Default for Context {
    fn default() -> Self {
        Context { tolerance: 0.1, gpus_per_replica: None, version: None, run: None }
    }
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Which rule found it.
    pub rule: Rule,
    /// How bad it is.
    pub severity: Severity,
    /// The file.
    pub file: String,
    /// Where in it.
    pub place: Place,
    /// Kind, namespace and name of the object; empty where there is none.
    pub object: String,
    /// Path of the field; empty where the object as a whole is meant.
    pub field: String,
    /// What is wrong, and with which numbers.
    pub reason: String,
    /// What to do.
    pub fix: String,
}

/// What was found, and what was not looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Linted {
    /// In the order of the files and of the lines in them.
    pub findings: Vec<Finding>,
    /// HPAs and ScaledObjects.
    pub checked: usize,
    /// Objects of other kinds, in words: `a.yaml:3: Deployment x`.
    pub skipped: Vec<String>,
}

/// Checks all objects, each by itself and all together.
pub fn lint(objects: &[Object], context: &Context) -> Linted {
    let scalers: Vec<Scaler<'_>> = objects.iter().filter_map(Scaler::of).collect();
    let mut findings: Vec<Finding> = scalers.iter().flat_map(api::check).collect();
    let workloads: Vec<subject::Gpus> = objects.iter().filter_map(subject::gpus).collect();
    for scaler in &scalers {
        let gpus = context.gpus_per_replica.or_else(|| {
            let of = workloads.iter().find(|gpus| gpus.belong_to(scaler)).map(|gpus| gpus.count);
            of.or(context.run.as_ref().and_then(|run| run.gpus_per_replica))
        });
        findings.extend(metrics::check(scaler, context, gpus));
        findings.extend(targets::check(scaler, context, gpus));
    }
    findings.extend(together(&scalers));
    let files = |file: &str| objects.iter().position(|object| object.file == file);
    findings.sort_by_cached_key(|finding| (files(&finding.file), finding.place, finding.rule));
    findings.dedup();
    let skipped = objects.iter().filter(|object| Scaler::of(object).is_none());
    let skipped = skipped
        .map(|object| format!("{}:{}: {}", object.file, object.node.place.line, api::describe(object)));
    Linted { checked: scalers.len(), skipped: skipped.collect(), findings }
}

/// What the API server would refuse of one object, or what is still to be replaced in it.
pub fn refused(object: &Object) -> Vec<Finding> {
    let rules = [Rule::Placeholder, Rule::ApiRejects, Rule::ApiVersion];
    let findings = Scaler::of(object).map(|scaler| api::check(&scaler)).unwrap_or_default();
    findings.into_iter().filter(|finding| rules.contains(&finding.rule)).collect()
}

/// Several autoscalers on one workload. Each but the first is told about the first.
fn together(scalers: &[Scaler<'_>]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, scaler) in scalers.iter().enumerate() {
        let (kind, workload) = &scaler.workload;
        let same = |other: &&Scaler<'_>| {
            !workload.is_empty()
                && (&other.workload, &other.namespace) == (&scaler.workload, &scaler.namespace)
        };
        let Some(first) = scalers[..index].iter().find(same) else { continue };
        let (node, field) = scaler.whole();
        let place = format!("{}:{}", first.object.file, first.whole().0.place.line);
        let reason = if first.keda == scaler.keda && first.name == scaler.name {
            format!("{place} has the same name: whichever is applied last replaces the other")
        } else {
            format!(
                "{place} scales {kind} {workload} too: the controller calls that AmbiguousSelector, and neither \
                 scales"
            )
        };
        let fix = "keep one, and put all metrics into it: the largest proposal counts";
        findings.push(scaler.finding(Rule::TwoHpas, (node, field), reason, fix));
    }
    findings
}
