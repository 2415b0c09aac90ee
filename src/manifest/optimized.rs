//! The HPA that a search under traffic found.

use super::render::in_unit;
use super::{Adapter, ClusterNames, ManifestError, ManifestFile, Provenance, hpa, to_yaml};
use crate::hpa::{Behavior, BehaviorSpec, Policy, PolicyKind, Rules, RulesSpec, SelectPolicy};
use crate::units::{Milli, Seconds, Signal};
use k8s_openapi::api::autoscaling::v2::{
    HPAScalingPolicy, HPAScalingRules, HorizontalPodAutoscalerBehavior, HorizontalPodAutoscalerSpec,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// Name of its file.
pub const OPTIMIZED: &str = "hpa-optimized.yaml";

/// The controller's flag --horizontal-pod-autoscaler-downscale-stabilization.
const DOWN_WINDOW: Seconds = Seconds(300.0);

/// What the search found.
#[derive(Debug, Clone, Copy)]
pub struct Optimized<'a> {
    /// The metric.
    pub signal: Signal,
    /// Its target for a replica, all of its GPUs together.
    pub average_value: Milli,
    /// As it was played. `None`: no `behavior` at all.
    pub behavior: Option<&'a BehaviorSpec>,
    /// What was reckoned with, as a fraction of 1.
    pub tolerance: f64,
    /// What it comes to, in lines.
    pub reasons: &'a [String],
}

/// The HPA exactly as it was played.
///
/// # Errors
/// A metric that this server does not have or whose names are not known, names that Kubernetes would refuse.
pub fn optimized(
    found: &Optimized,
    names: &ClusterNames,
    provenance: &Provenance,
) -> Result<ManifestFile, ManifestError> {
    names.validate()?;
    let value = in_unit(found.signal, found.average_value, names);
    let written = hpa::hpa(&[(found.signal, value)], Adapter::Stackdriver, found.tolerance, names);
    let mut object = written.map_err(ManifestError::LeftOut)?;
    let behavior = found.behavior.map(behavior);
    object.spec = HorizontalPodAutoscalerSpec { behavior, ..object.spec };
    let mut header =
        vec![format!("Scales {} on {}, as searched under traffic.", names.deployment, found.signal)];
    header.push("It takes the place of the other HPAs: apply only one.".to_owned());
    header.extend(provenance.lines.iter().cloned());
    header.extend(found.reasons.iter().cloned());
    Ok(ManifestFile { name: OPTIMIZED.to_owned(), text: to_yaml(&object, &header)? })
}

/// A behavior with the API's defaults written out.
fn behavior(spec: &BehaviorSpec) -> HorizontalPodAutoscalerBehavior {
    let Behavior { up, down } = spec.complete(DOWN_WINDOW);
    let tolerance = |rules: Option<&RulesSpec>| Some(Quantity(rules?.tolerance?.to_string()));
    HorizontalPodAutoscalerBehavior {
        scale_up: Some(rules(&up, tolerance(spec.scale_up.as_ref()))),
        scale_down: Some(rules(&down, tolerance(spec.scale_down.as_ref()))),
    }
}

fn rules(rules: &Rules, tolerance: Option<Quantity>) -> HPAScalingRules {
    let select = match rules.select {
        SelectPolicy::Max => "Max",
        SelectPolicy::Min => "Min",
        SelectPolicy::Disabled => "Disabled",
    };
    HPAScalingRules {
        stabilization_window_seconds: Some(rules.window.0 as i32),
        policies: Some(rules.policies.iter().map(policy).collect()),
        select_policy: Some(select.to_owned()),
        tolerance,
    }
}

fn policy(policy: &Policy) -> HPAScalingPolicy {
    let type_ = match policy.kind {
        PolicyKind::Pods => "Pods",
        PolicyKind::Percent => "Percent",
    };
    let period_seconds = policy.period_seconds.try_into().unwrap_or(i32::MAX);
    HPAScalingPolicy { type_: type_.to_owned(), value: policy.value, period_seconds }
}
