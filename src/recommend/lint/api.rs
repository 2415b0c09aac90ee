//! What the API server refuses, drops or fills in, and what is still to be replaced in a template.

use super::node::{Content, Node};
use super::rule::{Rule, Severity};
use super::subject::{HPA, Scaler, quantity, text};
use super::{Finding, Object};
use crate::units::nearest;
use serde_json::Value;

/// Findings, each about a part of one object.
struct Check<'a> {
    scaler: &'a Scaler<'a>,
    findings: Vec<Finding>,
}

/// Everything about one object that the API server would say.
pub(super) fn check(scaler: &Scaler<'_>) -> Vec<Finding> {
    let mut check = Check { scaler, findings: Vec::new() };
    let node = &scaler.object.node;
    let as_v2 = scaler.keda || check.version(node);
    check.placeholders(node, "");
    if as_v2 {
        check.names(node);
        if scaler.keda {
            check.scaled_object(node);
        } else {
            check.hpa(node);
        }
        if let Some(behavior) = scaler.behavior {
            check.behavior(behavior, scaler.behavior_field());
        }
    }
    check.findings
}

/// An API version of an object whose kind this is, but which cannot be read.
const OLD: [(&str, &str); 3] = [
    ("autoscaling/v2beta2", "is gone since Kubernetes 1.26"),
    ("autoscaling/v2beta1", "is gone since Kubernetes 1.25"),
    ("autoscaling/v1", "knows CPU only"),
];

/// Whether a text holds something that a template or a person was to replace.
fn is_placeholder(text: &str) -> bool {
    let name = |text: &str| text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '{' || c == '_');
    // A word in brackets, and not the comparisons of a query.
    let word = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    let inner = |after: &str| after.split_once('>').is_some_and(|(inner, _)| name(inner) && word(inner));
    let bracketed = text.split('<').skip(1).any(inner);
    text.match_indices('$').any(|(at, _)| name(&text[at + 1..]))
        || text.contains("{{")
        || bracketed
        || ["TODO", "FIXME", "CHANGEME", "CHANGE_ME", "REPLACE_ME"].iter().any(|word| text.contains(word))
}

impl Check<'_> {
    fn add(&mut self, rule: Rule, at: (&Node, &str), reason: impl Into<String>, fix: impl Into<String>) {
        self.findings.push(self.scaler.finding(rule, at, reason, fix));
    }

    /// A refusal, unless a placeholder is to blame, which is told already.
    fn refuse(&mut self, node: &Node, field: &str, reason: impl Into<String>, fix: impl Into<String>) {
        if !node.text().is_some_and(|text| is_placeholder(&text)) {
            self.add(Rule::ApiRejects, (node, field), reason, fix);
        }
    }

    /// Whether the fields are those of autoscaling/v2.
    fn version(&mut self, node: &Node) -> bool {
        let given = node.get("apiVersion");
        let version = given.and_then(Node::text).unwrap_or_default();
        if version == "autoscaling/v2" {
            return true;
        }
        let old = OLD.iter().find(|(name, _)| *name == version);
        let reason = match old {
            Some((name, why)) => format!("{name} {why}"),
            None if version.is_empty() => "there is no apiVersion".to_owned(),
            None => format!("{version} has no {HPA}"),
        };
        let fix = if version == "autoscaling/v1" {
            "write it as autoscaling/v2; 'kubectl get hpa.v2.autoscaling NAME -o yaml' prints a stored one so"
        } else {
            "write apiVersion: autoscaling/v2"
        };
        // A cluster still takes v1, but no metric of an LLM server fits into it.
        let severity = if version == "autoscaling/v1" { Severity::Warning } else { Severity::Error };
        let finding =
            self.scaler.finding(Rule::ApiVersion, (given.unwrap_or(node), "apiVersion"), reason, fix);
        self.findings.push(finding.with(severity));
        version == "autoscaling/v2beta2"
    }

    /// Texts anywhere that a template or a person was to replace.
    fn placeholders(&mut self, node: &Node, field: &str) {
        match &node.content {
            Content::Map(fields) => {
                for (key, value) in fields {
                    let separator = if field.is_empty() { "" } else { "." };
                    self.placeholders(value, &format!("{field}{separator}{}", key.name));
                }
            }
            Content::List(items) => {
                for (index, item) in items.iter().enumerate() {
                    self.placeholders(item, &format!("{field}[{index}]"));
                }
            }
            Content::Scalar(Value::String(text))
                if is_placeholder(text) && !field.starts_with("metadata.annotations") =>
            {
                let fix = if ["alue", "threshold", "tolerance"].iter().any(|end| field.ends_with(end)) {
                    "put the measured value there, like 17106m; 'calibrate run' finds it"
                } else {
                    "put the value there, or render the template first"
                };
                let reason = format!("'{text}' is still to be replaced; the API server refuses it as it is");
                self.add(Rule::Placeholder, (node, field), reason, fix);
            }
            Content::Scalar(_) => {}
        }
    }

    fn names(&mut self, node: &Node) {
        let name = node.at("metadata.name");
        let text = name.and_then(Node::text).unwrap_or_default();
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.".contains(c);
        let generated = node.at("metadata.generateName").is_some();
        if text.is_empty() && !generated {
            self.refuse(name.unwrap_or(node), "metadata.name", "it has no name", "give it one");
        } else if !text.chars().all(allowed) {
            let fix = "use lower-case letters, digits, '-' and '.'";
            self.refuse(
                name.unwrap_or(node),
                "metadata.name",
                format!("the name '{text}' is no DNS name"),
                fix,
            );
        }
    }

    fn hpa(&mut self, node: &Node) {
        self.unknown(node, "", &["apiVersion", "kind", "metadata", "spec", "status"]);
        let Some(spec) = node.get("spec") else {
            return self.refuse(node, "spec", "there is no spec", "say what to scale, on what, and how far");
        };
        self.unknown(spec, "spec", &["scaleTargetRef", "minReplicas", "maxReplicas", "metrics", "behavior"]);
        let reference = spec.get("scaleTargetRef").unwrap_or(spec);
        for field in ["kind", "name", "apiVersion"] {
            let path = format!("spec.scaleTargetRef.{field}");
            let given = text(reference, field);
            let missing = reference == spec || given.as_deref().is_none_or(str::is_empty);
            if missing {
                self.refuse(
                    reference,
                    &path,
                    format!("{path} is missing"),
                    "name the workload, like a Deployment of apps/v1",
                );
            } else if field == "apiVersion" && !given.is_some_and(|version| version.contains('/')) {
                self.refuse(reference, &path, "the apiVersion lacks its group", "write apps/v1");
            }
        }
        self.replicas(spec);
        let metrics = spec.get("metrics").map(Node::items).unwrap_or_default();
        for (index, metric) in metrics.iter().enumerate() {
            self.metric(metric, &format!("spec.metrics[{index}]"));
        }
        if metrics.is_empty() {
            let fix = "name the metric to scale on; an LLM server's load does not show in its CPU";
            let reason = "there are no metrics, so the API server fills in CPU utilization at 80 %";
            self.add(Rule::NoMetrics, (spec.get("metrics").unwrap_or(spec), "spec.metrics"), reason, fix);
        }
    }

    fn replicas(&mut self, spec: &Node) {
        let min = spec.get("minReplicas");
        if let Some(node) = min {
            match node.integer() {
                Some(0) => {}
                Some(least) if least >= 1 => {}
                _ => self.refuse(
                    node,
                    "spec.minReplicas",
                    "minReplicas is no number of at least 1",
                    "write 1 or more",
                ),
            }
        }
        let Some(node) = spec.get("maxReplicas") else {
            return self.refuse(
                spec,
                "spec.maxReplicas",
                "maxReplicas is missing",
                "say how far it may scale",
            );
        };
        let least = min.and_then(Node::integer).unwrap_or(1);
        match node.integer() {
            Some(most) if most >= 1 && most >= least && i32::try_from(most).is_ok() => {}
            Some(most) if most >= 1 && most < least => {
                let reason = format!("maxReplicas {most} is below minReplicas {least}");
                self.refuse(node, "spec.maxReplicas", reason, "raise it, or lower minReplicas");
            }
            _ => self.refuse(
                node,
                "spec.maxReplicas",
                "maxReplicas is no number from 1 to 2147483647",
                "write a whole number",
            ),
        }
    }

    fn metric(&mut self, metric: &Node, field: &str) {
        let sources = [
            ("Pods", "pods"),
            ("External", "external"),
            ("Object", "object"),
            ("Resource", "resource"),
            ("ContainerResource", "containerResource"),
        ];
        self.unknown(metric, field, &["type", "pods", "external", "object", "resource", "containerResource"]);
        let kind = text(metric, "type").unwrap_or_default();
        let Some((_, name)) = sources.iter().find(|(known, _)| *known == kind) else {
            let at = metric.get("type").unwrap_or(metric);
            let near = nearest(&kind, sources.map(|(known, _)| known))
                .map(|known| format!("; did you mean {known}?"));
            let reason = format!(
                "the type '{kind}' is none of Pods, External, Object, Resource, ContainerResource{}",
                near.unwrap_or_default()
            );
            return self.refuse(at, &format!("{field}.type"), reason, "write the type with its capitals");
        };
        for (_, other) in sources.iter().filter(|(_, other)| other != name) {
            if let Some(node) = metric.get(other) {
                self.refuse(
                    node,
                    &format!("{field}.{other}"),
                    format!("a metric of type {kind} has no {other}"),
                    format!("move it into {name}, or change the type"),
                );
            }
        }
        let Some(source) = metric.get(name) else {
            return self.refuse(
                metric,
                &format!("{field}.{name}"),
                format!("a metric of type {kind} needs its fields in '{name}'"),
                format!("add {name}: with metric and target"),
            );
        };
        if ["pods", "external", "object"].contains(name) {
            let field = format!("{field}.{name}");
            self.unknown(source, &field, &["metric", "target", "describedObject"]);
            self.metric_name(source, &field);
            self.target(source, name, &field);
        }
    }

    fn metric_name(&mut self, source: &Node, field: &str) {
        let field = format!("{field}.metric.name");
        let node = source.at("metric.name");
        let name = node.and_then(Node::text).unwrap_or_default();
        let at = node.unwrap_or(source);
        if name.is_empty() {
            self.refuse(at, &field, "the metric has no name", "name it as the adapter does");
        } else if name == "." || name == ".." || name.contains(['/', '%']) {
            let reason = format!("the metric name '{name}' holds what a name may not: '/' or '%'");
            self.refuse(
                at,
                &field,
                reason,
                "write '|' for '/', as in prometheus.googleapis.com|tgi_queue_size|gauge",
            );
        }
        if let Some(metric) = source.get("metric") {
            self.unknown(metric, field.trim_end_matches(".name"), &["name", "selector"]);
        }
    }

    fn target(&mut self, source: &Node, kind: &str, field: &str) {
        let field = format!("{field}.target");
        let Some(target) = source.get("target") else {
            return self.refuse(source, &field, "the target is missing", "give it a type and a value");
        };
        self.unknown(target, &field, &["type", "value", "averageValue", "averageUtilization"]);
        let types = ["Utilization", "Value", "AverageValue"];
        let given = text(target, "type").unwrap_or_default();
        if !types.contains(&given.as_str()) {
            let at = target.get("type").unwrap_or(target);
            self.refuse(
                at,
                &format!("{field}.type"),
                format!("the target's type '{given}' is none of {}", types.join(", ")),
                "write AverageValue",
            );
        }
        for name in ["value", "averageValue"] {
            if let Some(node) = target.get(name) {
                self.positive(node, &format!("{field}.{name}"));
            }
        }
        let (value, average) = (target.get("value"), target.get("averageValue"));
        match (kind, value, average) {
            ("pods", _, None) => self.refuse(
                target,
                &format!("{field}.averageValue"),
                "a Pods metric needs an averageValue",
                "write averageValue, per pod",
            ),
            ("external" | "object", None, None) => self.refuse(
                target,
                &field,
                "the target has neither value nor averageValue",
                "write averageValue, per pod",
            ),
            ("external", Some(node), Some(_)) => self.refuse(
                node,
                &format!("{field}.value"),
                "an External metric may not have both value and averageValue",
                "keep averageValue",
            ),
            _ => {}
        }
    }

    fn positive(&mut self, node: &Node, field: &str) {
        let text = node.text().unwrap_or_default();
        match quantity(node) {
            None => self.refuse(
                node,
                field,
                format!("'{text}' is not a quantity"),
                "write a number like 4, 0.5 or 4545m",
            ),
            Some(value) if value.milli().0 <= 0 => self.refuse(
                node,
                field,
                format!("the target {text} is not above 0"),
                "write a number like 4, 0.5 or 4545m",
            ),
            Some(_) => {}
        }
    }

    fn behavior(&mut self, behavior: &Node, field: &str) {
        self.unknown(behavior, field, &["scaleUp", "scaleDown"]);
        for direction in ["scaleUp", "scaleDown"] {
            let Some(rules) = behavior.get(direction) else { continue };
            let field = format!("{field}.{direction}");
            self.unknown(
                rules,
                &field,
                &["stabilizationWindowSeconds", "selectPolicy", "policies", "tolerance"],
            );
            self.within(rules, &field, "stabilizationWindowSeconds", 0, 3600);
            if let Some(node) = rules.get("selectPolicy") {
                let given = node.text().unwrap_or_default();
                if !["Max", "Min", "Disabled"].contains(&given.as_str()) {
                    self.refuse(
                        node,
                        &format!("{field}.selectPolicy"),
                        format!("selectPolicy '{given}' is none of Max, Min, Disabled"),
                        "write one of them",
                    );
                }
            }
            if let Some(node) = rules.get("tolerance") {
                let given = node.text().unwrap_or_default();
                if quantity(node).is_none_or(|value| value.milli().0 < 0) {
                    self.refuse(
                        node,
                        &format!("{field}.tolerance"),
                        format!("the tolerance '{given}' is no fraction of at least 0"),
                        "write 0.05 for 5 %",
                    );
                }
            }
            let Some(policies) = rules.get("policies") else { continue };
            if policies.items().is_empty() {
                self.refuse(
                    policies,
                    &format!("{field}.policies"),
                    "the list of policies is empty",
                    "leave it out for the defaults",
                );
            }
            for (index, policy) in policies.items().iter().enumerate() {
                self.policy(policy, &format!("{field}.policies[{index}]"));
            }
        }
    }

    fn policy(&mut self, policy: &Node, field: &str) {
        self.unknown(policy, field, &["type", "value", "periodSeconds"]);
        let kind = text(policy, "type").unwrap_or_default();
        if kind != "Pods" && kind != "Percent" {
            let at = policy.get("type").unwrap_or(policy);
            self.refuse(
                at,
                &format!("{field}.type"),
                format!("the policy's type '{kind}' is neither Pods nor Percent"),
                "write one of them",
            );
        }
        for (name, most) in [("value", i64::from(i32::MAX)), ("periodSeconds", 1800)] {
            if policy.get(name).is_none() {
                self.refuse(policy, &format!("{field}.{name}"), format!("the policy lacks {name}"), "add it");
            }
            self.within(policy, field, name, 1, most);
        }
    }

    /// A whole number within bounds, if it is there.
    fn within(&mut self, parent: &Node, field: &str, name: &str, least: i64, most: i64) {
        let Some(node) = parent.get(name) else { return };
        if !node.integer().is_some_and(|value| (least..=most).contains(&value)) {
            let given = node.text().unwrap_or_default();
            self.refuse(
                node,
                &format!("{field}.{name}"),
                format!("{name} '{given}' is no whole number from {least} to {most}"),
                "write one",
            );
        }
    }

    fn scaled_object(&mut self, node: &Node) {
        if node.at("spec.scaleTargetRef.name").is_none() {
            self.refuse(
                node.at("spec.scaleTargetRef").unwrap_or(node),
                "spec.scaleTargetRef.name",
                "it names no workload",
                "name the Deployment",
            );
        }
        let triggers = node.at("spec.triggers").map(Node::items).unwrap_or_default();
        if triggers.is_empty() {
            self.refuse(
                node.get("spec").unwrap_or(node),
                "spec.triggers",
                "there are no triggers",
                "add one, like prometheus",
            );
        }
        for (index, trigger) in triggers.iter().enumerate() {
            let kind = text(trigger, "type").unwrap_or_default();
            for name in ["serverAddress", "query", "threshold"] {
                let at = trigger.get("metadata").unwrap_or(trigger);
                if kind == "prometheus" && at.get(name).is_none() {
                    let field = format!("spec.triggers[{index}].metadata.{name}");
                    self.refuse(at, &field, format!("a prometheus trigger needs {name}"), "add it");
                }
            }
            if let Some(threshold) = trigger.at("metadata.threshold") {
                self.positive(threshold, &format!("spec.triggers[{index}].metadata.threshold"));
            }
        }
        if let (Some(min), Some(max)) = (node.at("spec.minReplicaCount"), node.at("spec.maxReplicaCount"))
            && let (Some(least), Some(most)) = (min.integer(), max.integer())
            && most < least
        {
            let reason = format!("maxReplicaCount {most} is below minReplicaCount {least}");
            self.refuse(max, "spec.maxReplicaCount", reason, "raise it, or lower minReplicaCount");
        }
    }

    /// Fields that the API does not know.
    fn unknown(&mut self, node: &Node, field: &str, known: &[&str]) {
        for (key, value) in node.fields().iter().filter(|(key, _)| !known.contains(&key.name.as_str())) {
            let path = if field.is_empty() { key.name.clone() } else { format!("{field}.{}", key.name) };
            let fix = match nearest(&key.name, known.iter().copied()) {
                _ if key.name == "tolerance" => {
                    "put tolerance beside policies, in scaleUp or scaleDown".to_owned()
                }
                Some(meant) => format!("did you mean {meant}?"),
                None => format!("known here: {}", known.join(", ")),
            };
            let at = Node { place: key.place, content: value.content.clone() };
            let reason =
                format!("there is no field '{}' here: kubectl refuses it, other clients lose it", key.name);
            self.add(Rule::UnknownField, (&at, &path), reason, fix);
        }
    }
}

/// Objects whose kind is scaled or linted by nobody here.
pub(super) fn describe(object: &Object) -> String {
    let kind = text(&object.node, "kind");
    let name = text(&object.node, "metadata.name");
    match (kind, name) {
        (Some(kind), Some(name)) => format!("{kind} {name}"),
        (Some(kind), None) => kind,
        (None, _) => "an object without a kind".to_owned(),
    }
}
