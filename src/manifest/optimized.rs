//! The HPA that a search under traffic found.

use super::render::in_unit;
use super::{Adapter, ClusterNames, ManifestError, ManifestFile, Provenance, hpa, to_yaml};
use crate::hpa::{
    Behavior, BehaviorSpec, DOWNSCALE_STABILIZATION, Policy, PolicyKind, Rules, RulesSpec, SelectPolicy,
    TOLERANCE,
};
use crate::units::{Milli, Signal};
use k8s_openapi::api::autoscaling::v2::{
    HPAScalingPolicy, HPAScalingRules, HorizontalPodAutoscalerBehavior, HorizontalPodAutoscalerSpec,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// Name of its file.
pub const OPTIMIZED: &str = "hpa-optimized.yaml";

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
    let own = (found.tolerance != TOLERANCE && names.has_tolerance()).then_some(found.tolerance);
    let behavior = found.behavior.map(|spec| behavior(spec, own));
    let told = own.is_some() && behavior.is_some();
    object.spec = HorizontalPodAutoscalerSpec { behavior, ..object.spec };
    let mut header =
        vec![format!("Scales {} on {}, as searched under traffic.", names.deployment, found.signal)];
    header.push("It takes the place of the other HPAs: apply only one.".to_owned());
    header.extend(provenance.lines.iter().cloned());
    header.extend(found.reasons.iter().cloned());
    header.extend((found.tolerance != TOLERANCE && !told).then(|| {
        format!(
            "It was played with a tolerance of {}, and controllers have {TOLERANCE} unless told otherwise by \
             --horizontal-pod-autoscaler-tolerance",
            found.tolerance
        )
    }));
    Ok(ManifestFile { name: OPTIMIZED.to_owned(), text: to_yaml(&object, &header)? })
}

/// A behavior with the API's defaults written out, and the tolerance where the controller has another.
fn behavior(spec: &BehaviorSpec, own: Option<f64>) -> HorizontalPodAutoscalerBehavior {
    let Behavior { up, down } = spec.complete(DOWNSCALE_STABILIZATION);
    let tolerance = |rules: Option<&RulesSpec>| {
        let given = rules.and_then(|rules| rules.tolerance).map(|given| Quantity(given.to_string()));
        given.or_else(|| own.map(hpa::fraction))
    };
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
