//! What one metric proposes (replica_calculator.go of Kubernetes 1.36).
//!
//! Invariants: milli-units are 64-bit integers and wrap or are capped where the controller's do; ratios are
//! binary64, computed in the controller's order; counts are its 32-bit integers, negative ones included.

use super::tolerance::Tolerances;
use crate::units::Milli;
use std::fmt;

/// Where a metric comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// One sample per pod.
    Pods,
    /// One value of another object.
    Object,
    /// Series from outside the cluster, summed.
    External,
}

/// What a metric is held against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// The metric as a whole.
    Value(Milli),
    /// The metric per replica.
    AverageValue(Milli),
}

/// The phase of a pod, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize)]
pub enum Phase {
    /// Not started yet.
    Pending,
    /// Started; says nothing about readiness.
    #[default]
    Running,
    /// Ended well. Still counted where it has a sample.
    Succeeded,
    /// Ended badly.
    Failed,
    /// Not known.
    Unknown,
}

/// A pod of the workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pod {
    /// Its phase.
    pub phase: Phase,
    /// Whether its Ready condition is true. Only matters for Value targets.
    pub ready: bool,
    /// Whether it is being deleted.
    pub deleted: bool,
}

/// The workload that is scaled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workload {
    /// `scale.spec.replicas`.
    pub spec_replicas: i32,
    /// `scale.status.replicas`: the pods that exist, also those not ready.
    pub status_replicas: i32,
    /// The pods that the selector lists.
    pub pods: Vec<Pod>,
}

/// What a metric proposes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proposal {
    /// Replicas. May be negative, where the metric is.
    pub replicas: i32,
    /// The usage that the HPA's status shows.
    pub usage: Milli,
    /// How it came about.
    pub steps: Vec<String>,
}

/// Why a metric proposes nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoProposal {
    /// The workload has no pods.
    #[error("no pods returned by selector while calculating replica count")]
    NoPods,
    /// No pod that counts has a sample.
    #[error("did not receive metrics for targeted pods (pods might be unready)")]
    NoSamples,
    /// No value came back.
    #[error("no metrics returned from {0} metrics API")]
    NoSeries(&'static str),
}

/// How a proposal came about, where somebody wants to know.
struct Steps(Option<Vec<String>>);

impl Steps {
    fn push(&mut self, step: fmt::Arguments) {
        if let Some(steps) = &mut self.0 {
            steps.push(step.to_string());
        }
    }

    fn into_vec(self) -> Vec<String> {
        self.0.unwrap_or_default()
    }
}

/// What a metric proposes.
///
/// `samples` are one per pod for Pods, in the order of the workload's pods, those of unlisted pods after
/// them; for the other sources, one per series.
pub fn propose(
    source: Source,
    target: Target,
    workload: &Workload,
    samples: &[Option<Milli>],
    tolerances: Tolerances,
) -> Result<Proposal, NoProposal> {
    decide(source, target, workload, samples, tolerances, Steps(Some(Vec::new())))
}

/// The same without the steps, whose text takes longer than the arithmetic: for those who ask often.
pub fn propose_tersely(
    source: Source,
    target: Target,
    workload: &Workload,
    samples: &[Option<Milli>],
    tolerances: Tolerances,
) -> Result<Proposal, NoProposal> {
    decide(source, target, workload, samples, tolerances, Steps(None))
}

fn decide(
    source: Source,
    target: Target,
    workload: &Workload,
    samples: &[Option<Milli>],
    tolerances: Tolerances,
    steps: Steps,
) -> Result<Proposal, NoProposal> {
    let series: Vec<i64> = samples.iter().flatten().map(|sample| sample.0).collect();
    match (source, target) {
        (Source::Pods, Target::Value(target) | Target::AverageValue(target)) => {
            per_pod(target, workload, samples, tolerances, steps)
        }
        (Source::Object, _) if series.is_empty() => Err(NoProposal::NoSeries("custom")),
        (Source::External, _) if series.is_empty() => Err(NoProposal::NoSeries("external")),
        (Source::External, Target::AverageValue(target)) => {
            let count = |replicas: f64| if replicas > MOST { i32::MAX } else { int32(replicas) };
            Ok(per_replica(sum_or_most(&series), target, workload, tolerances, steps, count))
        }
        (Source::Object, Target::AverageValue(target)) => {
            Ok(per_replica(capped_sum(&series), target, workload, tolerances, steps, int32))
        }
        (_, Target::Value(target)) => as_a_whole(capped_sum(&series), target, workload, tolerances, steps),
    }
}

const MOST: f64 = i32::MAX as f64;

/// A double as a 32-bit integer, as the controller's conversion does it on amd64: towards zero, and the
/// smallest integer for whatever does not fit.
pub(super) fn int32(value: f64) -> i32 {
    let whole = value.trunc();
    if (f64::from(i32::MIN)..=MOST).contains(&whole) { whole as i32 } else { i32::MIN }
}

/// The samples that count, added up.
#[derive(Clone, Copy, Default)]
struct Samples {
    sum: i64,
    count: i64,
}

impl Samples {
    fn add(&mut self, sample: Milli) {
        self.sum = self.sum.wrapping_add(sample.0);
        self.count += 1;
    }

    /// The average, truncated to whole milli-units, and its ratio to the target.
    fn usage(self, target: Milli) -> (Milli, f64) {
        let average = self.sum.checked_div(self.count).unwrap_or(0);
        (Milli(average), average as f64 / target.0 as f64)
    }
}

/// The pods in the controller's groups. What it ignores (being deleted, failed) is in none.
#[derive(Default)]
struct Groups {
    ready: i32,
    pending: u32,
    missing: u32,
    kept: Samples,
}

fn group(pods: &[Pod], samples: &[Option<Milli>]) -> Groups {
    let mut groups = Groups::default();
    for (index, pod) in pods.iter().enumerate() {
        let sample = samples.get(index).copied().flatten();
        match (pod.deleted || pod.phase == Phase::Failed, pod.phase, sample) {
            (true, _, _) => {}
            (false, Phase::Pending, _) => groups.pending += 1,
            (false, _, None) => groups.missing += 1,
            (false, _, Some(sample)) => {
                groups.ready += 1;
                groups.kept.add(sample);
            }
        }
    }
    for sample in samples.iter().skip(pods.len()).flatten() {
        groups.kept.add(*sample);
    }
    groups
}

/// Pods. The count of ready pods multiplies the ratio, not the replicas that were asked for.
fn per_pod(
    target: Milli,
    workload: &Workload,
    samples: &[Option<Milli>],
    tolerances: Tolerances,
    mut steps: Steps,
) -> Result<Proposal, NoProposal> {
    if workload.pods.is_empty() {
        return Err(NoProposal::NoPods);
    }
    let Groups { ready, pending, missing, mut kept } = group(&workload.pods, samples);
    if kept.count == 0 {
        return Err(NoProposal::NoSamples);
    }
    let current = workload.spec_replicas;
    let (usage, ratio) = kept.usage(target);
    let count = kept.count;
    steps.push(format_args!(
        "pods: {} listed, {ready} with a sample, {missing} without, {pending} pending",
        workload.pods.len()
    ));
    steps.push(format_args!(
        "average {usage} (truncated to milli, samples: {count}) over target {target} is ratio {ratio}"
    ));
    let up_with_pending = pending > 0 && ratio > 1.0;
    if missing == 0 && !up_with_pending {
        let replicas = hold_or(ratio, current, tolerances, &mut steps, |steps| {
            let replicas = int32((ratio * f64::from(ready)).ceil());
            steps.push(format_args!("ratio {ratio} x {ready} pods, rounded up: {replicas}"));
            replicas
        });
        return Ok(Proposal { replicas, usage, steps: steps.into_vec() });
    }
    let missing_as = if ratio < 1.0 { Some(target) } else { (ratio > 1.0).then_some(Milli(0)) };
    for filled in missing_as.iter().cycle().take(missing as usize) {
        kept.add(*filled);
    }
    if let (Some(filled), true) = (missing_as, missing > 0) {
        steps.push(format_args!("pods without a sample count as {filled}: {missing}"));
    }
    if up_with_pending {
        (0..pending).for_each(|_| kept.add(Milli(0)));
        steps.push(format_args!("pending pods count as 0: {pending}"));
    }
    let replicas = refilled(ratio, kept, target, current, tolerances, &mut steps);
    Ok(Proposal { replicas, usage, steps: steps.into_vec() })
}

/// The proposal after missing and pending pods were filled in: never against the direction of `ratio`.
fn refilled(
    ratio: f64,
    kept: Samples,
    target: Milli,
    current: i32,
    tolerances: Tolerances,
    steps: &mut Steps,
) -> i32 {
    let (average, new_ratio) = kept.usage(target);
    steps.push(format_args!("with them the average is {average} and the ratio {new_ratio}"));
    if (ratio < 1.0 && new_ratio > 1.0) || (ratio > 1.0 && new_ratio < 1.0) {
        steps.push(format_args!("that would turn the direction: {current} stay"));
        return current;
    }
    hold_or(new_ratio, current, tolerances, steps, |steps| {
        let replicas = int32((new_ratio * kept.count as f64).ceil());
        steps.push(format_args!("ratio {new_ratio} x {} pods, rounded up: {replicas}", kept.count));
        if (new_ratio < 1.0 && replicas > current) || (new_ratio > 1.0 && replicas < current) {
            steps.push(format_args!("that would move against the ratio: {current} stay"));
            return current;
        }
        replicas
    })
}

/// `current` where the ratio is within tolerance, else what `otherwise` gives.
fn hold_or(
    ratio: f64,
    current: i32,
    tolerances: Tolerances,
    steps: &mut Steps,
    otherwise: impl FnOnce(&mut Steps) -> i32,
) -> i32 {
    if tolerances.hold(ratio) {
        steps.push(format_args!("ratio {ratio} is inside {tolerances}: no change, {current}"));
        return current;
    }
    steps.push(format_args!("ratio {ratio} is outside {tolerances}"));
    otherwise(steps)
}

/// AverageValue of an External or Object metric: divided by `status.replicas`, loading pods included.
fn per_replica(
    sum: i64,
    target: Milli,
    workload: &Workload,
    tolerances: Tolerances,
    mut steps: Steps,
    count: impl FnOnce(f64) -> i32,
) -> Proposal {
    let current = workload.status_replicas;
    let ratio = sum as f64 / (target.0 as f64 * f64::from(current));
    let total = Milli(sum);
    steps.push(format_args!("sum {total} over target {target} x {current} replicas is ratio {ratio}"));
    let replicas = hold_or(ratio, current, tolerances, &mut steps, |steps| {
        let replicas = count((sum as f64 / target.0 as f64).ceil());
        steps.push(format_args!("sum {total} over target {target}, rounded up: {replicas}"));
        replicas
    });
    let usage = match current {
        _ if sum as f64 >= i64::MAX as f64 => i64::MAX,
        0 => 0,
        current => (sum as f64 / f64::from(current)).ceil() as i64,
    };
    Proposal { replicas, usage: Milli(usage), steps: steps.into_vec() }
}

/// Value: the ratio times the pods that run and are ready.
fn as_a_whole(
    sum: i64,
    target: Milli,
    workload: &Workload,
    tolerances: Tolerances,
    mut steps: Steps,
) -> Result<Proposal, NoProposal> {
    let current = workload.spec_replicas;
    let ratio = sum as f64 / target.0 as f64;
    let usage = Milli(sum);
    steps.push(format_args!("value {usage} over target {target} is ratio {ratio}"));
    if current == 0 {
        let replicas = int32(ratio.ceil());
        steps.push(format_args!("no replicas now, so no tolerance: the ratio rounded up, {replicas}"));
        return Ok(Proposal { replicas, usage, steps: steps.into_vec() });
    }
    if !tolerances.hold(ratio) && workload.pods.is_empty() {
        return Err(NoProposal::NoPods);
    }
    let replicas = hold_or(ratio, current, tolerances, &mut steps, |steps| {
        let ready = workload.pods.iter().filter(|pod| pod.phase == Phase::Running && pod.ready).count();
        let product = ratio * ready as f64;
        let replicas = if product > MOST { i32::MAX } else { int32(product.ceil()) };
        steps.push(format_args!("ratio {ratio} x {ready} ready pods, rounded up: {replicas}"));
        replicas
    });
    Ok(Proposal { replicas, usage, steps: steps.into_vec() })
}

/// The sum, capped where it would pass the largest 64-bit integer.
fn capped_sum(series: &[i64]) -> i64 {
    let mut sum: i64 = 0;
    for value in series {
        match sum.checked_add(*value) {
            None if *value > 0 => return i64::MAX,
            _ => sum = sum.wrapping_add(*value),
        }
    }
    sum
}

/// The sum as the External AverageValue path adds it: it takes any negative sum on the way for an
/// overflow, so that a negative first series scales to the maximum.
fn sum_or_most(series: &[i64]) -> i64 {
    let mut sum: i64 = 0;
    for value in series {
        sum = sum.wrapping_add(*value);
        if sum < 0 {
            return i64::MAX;
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replicas(source: Source, target: Target, series: &[i64], spec: i32, status: i32) -> i32 {
        let pod = Pod { phase: Phase::Running, ready: true, deleted: false };
        let pods = vec![pod; usize::try_from(spec).unwrap()];
        let workload = Workload { spec_replicas: spec, status_replicas: status, pods };
        let samples: Vec<Option<Milli>> = series.iter().map(|value| Some(Milli(*value))).collect();
        propose(source, target, &workload, &samples, Tolerances::default()).unwrap().replicas
    }

    const AVERAGE: Target = Target::AverageValue(Milli(60_000));
    const VALUE: Target = Target::Value(Milli(60_000));

    /// As measured: 200 then -50 gives 3, in the other order everything.
    #[test]
    fn a_negative_first_series_of_an_external_average_scales_to_the_maximum() {
        assert_eq!(replicas(Source::External, AVERAGE, &[200_000, -50_000], 1, 1), 3);
        assert_eq!(replicas(Source::External, AVERAGE, &[-50_000, 200_000], 1, 1), i32::MAX);
        assert_eq!(replicas(Source::External, VALUE, &[-50_000, 200_000], 1, 1), 3);
        assert_eq!(replicas(Source::Object, AVERAGE, &[-500_000], 1, 1), -8);
    }

    #[test]
    fn a_pod_that_is_asked_for_but_not_there_does_not_divide_an_external_average() {
        assert_eq!(replicas(Source::External, AVERAGE, &[300_000], 4, 5), 5, "in band: status, not spec");
        assert_eq!(replicas(Source::Object, AVERAGE, &[300_000], 4, 5), 5);
        assert_eq!(replicas(Source::External, VALUE, &[60_000], 4, 5), 4, "in band: spec");
        assert_eq!(replicas(Source::External, AVERAGE, &[90_000], 0, 0), 2, "infinite ratio");
    }

    #[test]
    fn only_the_object_average_is_not_capped() {
        assert_eq!(replicas(Source::External, Target::AverageValue(Milli(1)), &[i64::MAX], 1, 1), i32::MAX);
        assert_eq!(replicas(Source::Object, Target::Value(Milli(1)), &[i64::MAX], 1, 1), i32::MAX);
        assert_eq!(replicas(Source::Object, Target::AverageValue(Milli(1)), &[i64::MAX], 1, 1), i32::MIN);
    }
}
