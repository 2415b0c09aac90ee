//! What the rules look at: HPAs and ScaledObjects in one shape.

use super::node::Node;
use super::rule::{Rule, Severity};
use super::signal::Measures;
use super::{Finding, Object};
use crate::hpa::{Quantity, Source};
use crate::units::Milli;

/// The namespace of an object that names none.
const DEFAULT_NAMESPACE: &str = "default";

/// An HPA, or a ScaledObject, which KEDA makes one of.
pub(super) struct Scaler<'a> {
    pub(super) object: &'a Object,
    pub(super) keda: bool,
    pub(super) namespace: String,
    pub(super) name: String,
    /// Kind and name of what is scaled.
    pub(super) workload: (String, String),
    /// 1 where absent; 0 in KEDA.
    pub(super) min: i64,
    /// `None`: not given, or no number.
    pub(super) max: Option<i64>,
    /// Those that it is known here how to read.
    pub(super) metrics: Vec<Metric<'a>>,
    /// All of them, CPU and the like too.
    pub(super) declared: usize,
    pub(super) behavior: Option<&'a Node>,
}

/// One metric of it.
pub(super) struct Metric<'a> {
    /// The whole entry.
    pub(super) node: &'a Node,
    /// The path to it.
    pub(super) field: String,
    pub(super) source: Source,
    /// The name, or the query.
    pub(super) name: Option<&'a Node>,
    pub(super) selector: Option<&'a Node>,
    /// The type of a KEDA trigger.
    pub(super) trigger: Option<String>,
    pub(super) measures: Measures,
    pub(super) target: Option<Target<'a>>,
}

/// What it is held against.
#[derive(Clone, Copy)]
pub(super) struct Target<'a> {
    pub(super) node: &'a Node,
    pub(super) milli: Milli,
    /// Per replica, rather than the metric as a whole.
    pub(super) average: bool,
}

/// The kinds that are linted.
pub(super) const HPA: &str = "HorizontalPodAutoscaler";
pub(super) const SCALED_OBJECT: &str = "ScaledObject";

/// The text at a path.
pub(super) fn text(node: &Node, path: &str) -> Option<String> {
    node.at(path).and_then(Node::text)
}

/// The quantity that a node holds.
pub(super) fn quantity(node: &Node) -> Option<Quantity> {
    node.text()?.parse().ok()
}

impl<'a> Scaler<'a> {
    /// `None` where the object is of another kind.
    pub(super) fn of(object: &'a Object) -> Option<Scaler<'a>> {
        let node = &object.node;
        let keda = match text(node, "kind").as_deref() {
            Some(HPA) => false,
            Some(SCALED_OBJECT) => true,
            _ => return None,
        };
        let named = |path: &str| text(node, path).unwrap_or_default();
        let (least, most, behavior, absent) = if keda {
            let behavior = "spec.advanced.horizontalPodAutoscalerConfig.behavior";
            ("spec.minReplicaCount", "spec.maxReplicaCount", behavior, (0, Some(100)))
        } else {
            ("spec.minReplicas", "spec.maxReplicas", "spec.behavior", (1, None))
        };
        let kind = text(node, "spec.scaleTargetRef.kind").unwrap_or_else(|| "Deployment".to_owned());
        Some(Scaler {
            object,
            keda,
            namespace: text(node, "metadata.namespace").unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned()),
            name: named("metadata.name"),
            workload: (kind, named("spec.scaleTargetRef.name")),
            min: node.at(least).map_or(Some(absent.0), Node::integer).unwrap_or(absent.0),
            max: node.at(most).map_or(absent.1, Node::integer),
            metrics: if keda { triggers(node) } else { metrics(node) },
            declared: node
                .at(if keda { "spec.triggers" } else { "spec.metrics" })
                .map_or(0, |all| all.items().len()),
            behavior: node.at(behavior),
        })
    }

    /// Where its behavior is written.
    pub(super) fn behavior_field(&self) -> &'static str {
        if self.keda { "spec.advanced.horizontalPodAutoscalerConfig.behavior" } else { "spec.behavior" }
    }

    /// The tolerance of a direction, `scaleUp` or `scaleDown`, as the controller computes with it.
    pub(super) fn tolerance(&self, direction: &str, flag: f64) -> f64 {
        let given = self.behavior.and_then(|behavior| behavior.get(direction)?.get("tolerance"));
        given.and_then(quantity).map_or(flag, Quantity::approximate)
    }

    /// A finding about a part of it.
    pub(super) fn finding(
        &self,
        rule: Rule,
        (node, field): (&Node, &str),
        reason: impl Into<String>,
        fix: impl Into<String>,
    ) -> Finding {
        let kind = if self.keda { SCALED_OBJECT } else { HPA };
        Finding {
            rule,
            severity: rule.severity(),
            file: self.object.file.clone(),
            place: node.place,
            object: format!("{kind} {}/{}", self.namespace, self.name),
            field: field.to_owned(),
            reason: reason.into(),
            fix: fix.into(),
        }
    }

    /// The node and the path of the name, or else of the whole.
    pub(super) fn whole(&self) -> (&'a Node, &'static str) {
        let node = &self.object.node;
        node.at("metadata.name").map_or((node, ""), |name| (name, "metadata.name"))
    }
}

impl Finding {
    pub(super) fn with(self, severity: Severity) -> Finding {
        Finding { severity, ..self }
    }
}

impl<'a> Metric<'a> {
    /// The name or the query; empty where there is none.
    pub(super) fn text(&self) -> String {
        self.name.and_then(Node::text).unwrap_or_default()
    }

    /// The node and path of the name.
    pub(super) fn named(&self) -> (&'a Node, String) {
        let path = if self.trigger.is_some() { "metadata.query" } else { "metric.name" };
        (self.name.unwrap_or(self.node), format!("{}.{path}", self.field))
    }

    /// The path of the target.
    pub(super) fn target_field(&self, target: Target<'_>) -> String {
        match (&self.trigger, target.average) {
            (Some(_), _) => format!("{}.metadata.threshold", self.field),
            (None, true) => format!("{}.target.averageValue", self.field),
            (None, false) => format!("{}.target.value", self.field),
        }
    }
}

fn metrics(node: &Node) -> Vec<Metric<'_>> {
    let items = node.at("spec.metrics").map(Node::items).unwrap_or_default();
    items.iter().enumerate().filter_map(|(index, item)| metric(index, item)).collect()
}

fn metric(index: usize, item: &Node) -> Option<Metric<'_>> {
    let (source, name) = match text(item, "type")?.as_str() {
        "Pods" => (Source::Pods, "pods"),
        "Object" => (Source::Object, "object"),
        "External" => (Source::External, "external"),
        _ => return None,
    };
    let given = item.get(name)?;
    let metric_name = given.at("metric.name");
    Some(Metric {
        node: item,
        field: format!("spec.metrics[{index}].{name}"),
        source,
        name: metric_name,
        selector: given.at("metric.selector"),
        trigger: None,
        measures: Measures::of(&metric_name.and_then(Node::text).unwrap_or_default()),
        target: given.get("target").and_then(|target| hpa_target(target, source)),
    })
}

/// The value that the controller takes.
fn hpa_target(target: &Node, source: Source) -> Option<Target<'_>> {
    let (value, average) = (target.get("value"), target.get("averageValue"));
    let whole = source != Source::Pods && average.is_none()
        || source == Source::Object && text(target, "type").as_deref() == Some("Value");
    let node = if whole { value } else { average }?;
    Some(Target { node, milli: quantity(node)?.milli(), average: !whole })
}

/// KEDA turns each trigger into an External metric; its query must be the sum over all pods.
fn triggers(node: &Node) -> Vec<Metric<'_>> {
    let items = node.at("spec.triggers").map(Node::items).unwrap_or_default();
    items.iter().enumerate().map(|(index, item)| trigger(index, item)).collect()
}

fn trigger(index: usize, item: &Node) -> Metric<'_> {
    let query = item.at("metadata.query").or_else(|| item.at("metadata.filter"));
    let threshold = item.at("metadata.threshold").or_else(|| item.at("metadata.targetValue"));
    let average = text(item, "metricType").is_none_or(|kind| kind == "AverageValue");
    Metric {
        node: item,
        field: format!("spec.triggers[{index}]"),
        source: Source::External,
        name: query,
        selector: None,
        trigger: Some(text(item, "type").unwrap_or_default()),
        measures: Measures::of(&query.and_then(Node::text).unwrap_or_default()),
        target: threshold.and_then(|node| Some(Target { node, milli: quantity(node)?.milli(), average })),
    }
}

/// The GPUs that a pod of a workload asks for.
pub(super) struct Gpus {
    namespace: String,
    kind: String,
    name: String,
    pub(super) count: u32,
}

impl Gpus {
    /// Whether it is this workload that is scaled.
    pub(super) fn belong_to(&self, scaler: &Scaler<'_>) -> bool {
        let (kind, name) = &scaler.workload;
        (&self.namespace, &self.kind, &self.name) == (&scaler.namespace, kind, name)
    }
}

/// `None` where the object has no pods, or they ask for no GPU.
pub(super) fn gpus(object: &Object) -> Option<Gpus> {
    let node = &object.node;
    let of = |resources: &Node, which: &str| {
        let (_, count) =
            resources.get(which)?.fields().iter().find(|(key, _)| key.name == "nvidia.com/gpu")?;
        count.text()?.parse::<u32>().ok()
    };
    let containers = node.at("spec.template.spec.containers")?.items().iter();
    let each = containers.filter_map(|container| {
        let resources = container.get("resources")?;
        of(resources, "limits").or_else(|| of(resources, "requests"))
    });
    let count = each.fold(0, u32::saturating_add);
    let namespace = text(node, "metadata.namespace").unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned());
    let (kind, name) = (text(node, "kind")?, text(node, "metadata.name")?);
    (count > 0).then_some(Gpus { namespace, kind, name, count })
}
