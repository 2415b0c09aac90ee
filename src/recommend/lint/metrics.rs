//! Rules about which metrics are read and how, and about `behavior`.

use super::node::Node;
use super::rule::{Rule, Severity};
use super::signal::Measures;
use super::subject::{Metric, Scaler, quantity, text};
use super::{Context, Finding};
use crate::hpa::{Quantity, Source};

/// The release since which the API server keeps a tolerance unless it is told not to.
pub(super) const TOLERANCE_SINCE: (u32, u32) = (1, 35);
/// The first release that knows it, behind a gate that is off.
const TOLERANCE_ALPHA: (u32, u32) = (1, 33);

/// All of them for one object.
pub(super) fn check(scaler: &Scaler<'_>, context: &Context, gpus: Option<u32>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for metric in &scaler.metrics {
        findings.extend(upper_case(scaler, metric));
        findings.extend(foreign_series(scaler, metric));
        findings.extend(averages(scaler, metric));
        findings.extend(multi_gpu(scaler, metric, gpus));
        findings.extend(keda(scaler, metric));
    }
    findings.extend(queue_only(scaler));
    findings.extend(to_zero(scaler));
    findings.extend(tolerances(scaler, context));
    findings.extend(one_way(scaler));
    findings
}

fn at<'a>((node, field): &'a (&'a Node, String)) -> (&'a Node, &'a str) {
    (node, field)
}

fn upper_case(scaler: &Scaler<'_>, metric: &Metric<'_>) -> Option<Finding> {
    let name = metric.text();
    let applies = metric.source == Source::External && metric.trigger.is_none();
    if !applies || !name.chars().any(|c| c.is_ascii_uppercase()) {
        return None;
    }
    let reason = format!("the request asks for '{}', so the name {name} never matches", name.to_lowercase());
    let fix = "record or relabel the metric under a lower-case name, and name that";
    Some(scaler.finding(Rule::ExternalUpperCase, at(&metric.named()), reason, fix))
}

/// Which labels hold a Google metric to one cluster, place and namespace.
fn foreign_series(scaler: &Scaler<'_>, metric: &Metric<'_>) -> Option<Finding> {
    let name = metric.text();
    if metric.trigger.is_some() {
        let global = text(metric.node, "metadata.serverAddress")
            .is_some_and(|address| address.contains("monitoring.googleapis.com"));
        let fix = "add cluster=\"NAME\" to its selectors";
        let reason = "the query is answered for all clusters of the project, and names none";
        return (global && !name.contains("cluster=") && !name.contains("cluster_name="))
            .then(|| scaler.finding(Rule::ExternalWithoutCluster, at(&metric.named()), reason, fix));
    }
    let wanted: [(&str, &[&str]); 3] = if name.starts_with("prometheus.googleapis.com|") {
        let namespaces: &[&str] = &["resource.labels.namespace", "metric.labels.exported_namespace"];
        [
            ("cluster", &["resource.labels.cluster"]),
            ("location", &["resource.labels.location"]),
            ("namespace", namespaces),
        ]
    } else if name.starts_with("kubernetes.io|") {
        [
            ("cluster", &["resource.labels.cluster_name"]),
            ("location", &["resource.labels.location"]),
            ("namespace", &["resource.labels.namespace_name"]),
        ]
    } else {
        return None;
    };
    if metric.source != Source::External {
        return None;
    }
    let chosen = selected(metric.selector);
    let missing =
        wanted.iter().filter(|(_, labels)| !labels.iter().any(|label| chosen.contains(&(*label).to_owned())));
    let missing: Vec<&(&str, &[&str])> = missing.collect();
    let what: Vec<&str> = missing.iter().map(|(what, _)| *what).collect();
    if missing.is_empty() {
        return None;
    }
    let labels: Vec<&str> = missing.iter().filter_map(|(_, labels)| labels.first().copied()).collect();
    let reason = format!(
        "it selects no {}: the series of all others in the project are summed too",
        what.join(", no ")
    );
    let fix = format!("add to selector.matchLabels: {}", labels.join(", "));
    // A cluster's name is what sets it apart; the others matter where it is not unique.
    let severity = if what.contains(&"cluster") { Severity::Warning } else { Severity::Note };
    Some(scaler.finding(Rule::ExternalWithoutCluster, at(&metric.named()), reason, fix).with(severity))
}

/// The labels that a selector names.
fn selected(selector: Option<&Node>) -> Vec<String> {
    let Some(selector) = selector else { return Vec::new() };
    let labels = selector.get("matchLabels").map(Node::fields).unwrap_or_default();
    let expressions = selector.get("matchExpressions").map(Node::items).unwrap_or_default();
    let expressions = expressions.iter().filter_map(|expression| text(expression, "key"));
    labels.iter().map(|(key, _)| key.name.clone()).chain(expressions).collect()
}

/// Functions around an aggregation that leave it what it is.
const WRAPPERS: [&str; 9] =
    ["scalar", "round", "ceil", "floor", "abs", "clamp", "clamp_min", "clamp_max", "vector"];
/// Aggregations that are no sum over pods.
const NO_SUMS: [&str; 5] = ["avg", "max", "min", "quantile", "stddev"];

/// The aggregation of a PromQL query, if it is one that is no sum over pods.
fn no_sum(query: &str) -> Option<&str> {
    let mut rest = query.trim_start_matches(['(', ' ', '\n', '\t']);
    loop {
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_')?;
        let word = &rest[..end];
        if !WRAPPERS.contains(&word) {
            let divided =
                query.split('/').skip(1).any(|part| part.trim_start_matches(['(', ' ']).starts_with("count"));
            return NO_SUMS.contains(&word).then_some(word).or_else(|| divided.then_some("a sum / count"));
        }
        rest = rest[end..].trim_start_matches(['(', ' ', '\n', '\t']);
    }
}

/// An AverageValue target divides by the replicas; what is no sum over them must not be.
fn averages(scaler: &Scaler<'_>, metric: &Metric<'_>) -> Option<Finding> {
    let target = metric.target.filter(|target| target.average)?;
    let fix = "take the sum over all pods, or a target of type Value";
    if metric.source == Source::Pods {
        return None;
    }
    let name = metric.text();
    let no_sum = match metric.trigger.as_deref() {
        Some("prometheus") => no_sum(&name),
        Some(_) => None,
        None => {
            let reducer = metric.selector.and_then(|selector| text(selector.get("matchLabels")?, "reducer"));
            if let Some(reducer) =
                reducer.filter(|reducer| reducer != "REDUCE_SUM" && reducer != "REDUCE_NONE")
            {
                let reason = format!("{reducer} over the pods is divided by the replicas once more");
                return Some(scaler.finding(Rule::AverageOfAverages, at(&metric.named()), reason, fix));
            }
            let lower = name.to_lowercase();
            let mut words = lower.split(|c: char| !c.is_ascii_alphanumeric());
            if !words.any(|word| ["avg", "average", "mean"].contains(&word)) {
                return None;
            }
            let reason =
                format!("by its name {name} is an average, and is divided by the replicas once more");
            let finding = scaler.finding(Rule::AverageOfAverages, at(&metric.named()), reason, fix);
            return Some(finding.with(Severity::Warning));
        }
    }?;
    let reason = format!(
        "{no_sum} over the pods is divided by the replicas once more: with a threshold of {} it hardly ever scales up",
        target.milli
    );
    Some(scaler.finding(Rule::AverageOfAverages, at(&metric.named()), reason, fix))
}

fn multi_gpu(scaler: &Scaler<'_>, metric: &Metric<'_>, gpus: Option<u32>) -> Option<Finding> {
    let target = metric.target.filter(|target| target.average && metric.measures == Measures::GpuPercent)?;
    let field = metric.target_field(target);
    let at = (target.node, field.as_str());
    let Some(gpus) = gpus else {
        let reason =
            "there is one series per GPU, and they are summed: this reckons with one GPU per replica";
        let fix = "with more, multiply the target by their number; tell lint with --gpus-per-replica";
        return Some(scaler.finding(Rule::MultiGpuSum, at, reason, fix).with(Severity::Note));
    };
    if gpus <= 1 || target.milli.as_f64() > 100.0 {
        return None;
    }
    let each = target.milli.as_f64() / f64::from(gpus);
    let reason =
        format!("the {gpus} series of a replica are summed, so {} is {each:.1} % of each GPU", target.milli);
    let fix = format!("multiply what one GPU is to show by {gpus}");
    Some(scaler.finding(Rule::MultiGpuSum, at, reason, fix))
}

/// What only KEDA's triggers can get wrong.
fn keda(scaler: &Scaler<'_>, metric: &Metric<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let kind = metric.trigger.as_deref().unwrap_or_default();
    if kind == "gcp-stackdriver" {
        let node = metric.node.get("type").unwrap_or(metric.node);
        let field = format!("{}.type", metric.field);
        let reason = "the trigger gcp-stackdriver is deprecated and gets no more changes";
        let fix = "query Managed Service for Prometheus with the trigger prometheus";
        findings.push(scaler.finding(Rule::KedaDeprecatedTrigger, (node, &field), reason, fix));
    }
    if kind != "prometheus" {
        return findings;
    }
    let given = metric.node.at("metadata.ignoreNullValues");
    if given.and_then(Node::text).is_none_or(|text| text.to_lowercase() != "false") {
        let node = given.or_else(|| metric.node.get("metadata")).unwrap_or(metric.node);
        let field = format!("{}.metadata.ignoreNullValues", metric.field);
        let reason = "an empty answer counts as 0, so an outage of the metrics scales down";
        let fix = "write ignoreNullValues: \"false\"";
        findings.push(scaler.finding(Rule::MissingAsZero, (node, &field), reason, fix));
    }
    let query: String = metric.text().split_whitespace().collect::<Vec<_>>().join(" ");
    if query.contains("vector(0)") {
        let reason = "'or vector(0)' makes missing data a 0, so an outage of the metrics scales down";
        findings.push(scaler.finding(Rule::MissingAsZero, at(&metric.named()), reason, "leave it out"));
    }
    findings
}

fn queue_only(scaler: &Scaler<'_>) -> Option<Finding> {
    let queues = scaler.metrics.iter().filter(|metric| metric.measures == Measures::Queue).count();
    let first = scaler.metrics.first().filter(|_| queues == scaler.declared)?;
    let reason = "a queue stays near zero until the batch is full and then grows without bound: replicas swing \
                  between too few and too many";
    let fix = "scale on the batch size, or add it as a second metric; with the queue alone limit scale-down, like \
               10 % per 5 minutes";
    Some(scaler.finding(Rule::QueueOnly, at(&first.named()), reason, fix))
}

fn to_zero(scaler: &Scaler<'_>) -> Option<Finding> {
    if scaler.min != 0 {
        return None;
    }
    let node = &scaler.object.node;
    if scaler.keda {
        let given = node.at("spec.minReplicaCount");
        let at = (given.unwrap_or(node), "spec.minReplicaCount");
        let reason = "without load no replica is left, and the next request waits for a whole start-up";
        let severity = if given.is_some() { Severity::Note } else { Severity::Warning };
        let fix = "write minReplicaCount: 1; KEDA takes 0 where it is left out";
        return Some(scaler.finding(Rule::ScaleToZero, at, reason, fix).with(severity));
    }
    let at = (node.at("spec.minReplicas")?, "spec.minReplicas");
    let wakes = scaler.metrics.iter().any(|metric| metric.source != Source::Pods);
    if !wakes {
        let reason = "without pods a Pods metric has no value, so nothing would ever scale up again";
        let fix = "write minReplicas: 1, or add an External or Object metric";
        return Some(scaler.finding(Rule::ScaleToZero, at, reason, fix).with(Severity::Error));
    }
    let reason = "the API server refuses 0 unless the feature gate HPAScaleToZero (alpha, off) is on";
    Some(scaler.finding(Rule::ScaleToZero, at, reason, "write minReplicas: 1, or use KEDA"))
}

fn tolerances(scaler: &Scaler<'_>, context: &Context) -> Vec<Finding> {
    let Some(behavior) = scaler.behavior else { return Vec::new() };
    let mut findings = Vec::new();
    let given = |direction: &'static str| Some((direction, behavior.get(direction)?.get("tolerance")?));
    let given: Vec<(&str, &Node)> = ["scaleUp", "scaleDown"].into_iter().filter_map(given).collect();
    for (direction, node) in &given {
        let field = format!("{}.{direction}.tolerance", scaler.behavior_field());
        let at = (*node, field.as_str());
        findings.extend(unsupported(context.version).map(|(severity, reason, fix)| {
            scaler.finding(Rule::ToleranceUnsupported, at, reason, fix).with(severity)
        }));
        let value = quantity(node).map_or(0.0, Quantity::approximate);
        if *direction == "scaleDown" && value >= 1.0 {
            let reason = format!("no ratio is below 1 - {value}, so nothing ever scales down");
            let finding = scaler.finding(Rule::ToleranceTooLarge, at, reason, "write 0.1 for 10 %");
            findings.push(finding.with(Severity::Error));
        } else if value > 1.0 {
            let reason =
                format!("it is a fraction of 1: scale-up begins at {:.4} times the target", 1.0 + value);
            findings.push(scaler.finding(Rule::ToleranceTooLarge, at, reason, "write 0.1 for 10 %"));
        }
    }
    let rules = behavior.fields().iter().flat_map(|(_, rules)| rules.fields());
    if let (Some((_, node)), true) = (given.first(), rules.clone().all(|(key, _)| key.name == "tolerance")) {
        let reason = "any behavior brings all its defaults: scale-up goes from 'twice, or 4, per sync' to '4 pods or \
                      100 % more per 15 s'";
        let fix = "write the policies that you want beside it";
        findings.push(scaler.finding(
            Rule::BehaviorForTolerance,
            (node, scaler.behavior_field()),
            reason,
            fix,
        ));
    }
    findings
}

/// What a cluster of this version makes of a tolerance.
fn unsupported(version: Option<(u32, u32)>) -> Option<(Severity, String, &'static str)> {
    const FIX: &str = "leave it out, or read the object back after applying it";
    match version {
        None => Some((
            Severity::Note,
            "Kubernetes before 1.35 drops a tolerance without a word; with --cluster-version lint knows"
                .to_owned(),
            FIX,
        )),
        Some(version) if version >= TOLERANCE_SINCE => None,
        Some(version @ (major, minor)) if version >= TOLERANCE_ALPHA => Some((
            Severity::Error,
            format!(
                "Kubernetes {major}.{minor} drops it unless the feature gate HPAConfigurableTolerance is on"
            ),
            FIX,
        )),
        Some((major, minor)) => {
            Some((Severity::Error, format!("Kubernetes {major}.{minor} does not know it and drops it"), FIX))
        }
    }
}

/// Replicas that can only go up, or not move at all.
fn one_way(scaler: &Scaler<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let policy = scaler.behavior.and_then(|behavior| behavior.at("scaleDown.selectPolicy"));
    if let Some(node) = policy.filter(|node| node.text().as_deref() == Some("Disabled")) {
        let field = format!("{}.scaleDown.selectPolicy", scaler.behavior_field());
        let reason = "scale-down is switched off: every peak is paid for from then on";
        let fix = "leave it out, and limit scale-down by policies";
        findings.push(scaler.finding(Rule::CannotComeDown, (node, &field), reason, fix));
    }
    if scaler.max == Some(scaler.min) && scaler.min > 0 {
        let reason = format!("minReplicas and maxReplicas are both {}: nothing scales", scaler.min);
        findings.push(scaler.finding(Rule::CannotComeDown, scaler.whole(), reason, "raise maxReplicas"));
    }
    for metric in scaler.metrics.iter().filter(|metric| metric.measures == Measures::GpuMemory) {
        let reason = "a server that takes its GPU memory at the start, as TGI and vLLM do, never gives it back: \
                      it only scales up";
        let fix = "scale on the batch size or the queue";
        let finding = scaler.finding(Rule::CannotComeDown, at(&metric.named()), reason, fix);
        findings.push(finding.with(Severity::Error));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_outermost_aggregation_of_a_query_counts() {
        for (query, expected) in [
            ("sum(tgi_queue_size)", None),
            ("sum by (job) (avg by (pod) (x))", None),
            ("avg(tgi_queue_size{namespace=\"a/b\"})", Some("avg")),
            ("avg by (job) (x)", Some("avg")),
            ("scalar(round(max(x)))", Some("max")),
            ("sum(x) / count(x)", Some("a sum / count")),
            ("avg_over_time(x[1m])", None),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(no_sum(query), expected, "{query}");
        }
    }
}
