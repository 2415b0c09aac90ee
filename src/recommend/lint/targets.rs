//! Rules about the number itself: whether it can be reached, soon enough, and left again.

use super::metrics::TOLERANCE_SINCE;
use super::rule::{Rule, Severity};
use super::run::RunFacts;
use super::signal::{Measures, TGI_MOST_CONCURRENT};
use super::subject::{Metric, Scaler, Target};
use super::{Context, Finding};
use crate::hpa::{self, Generation, Phase, Pod, Tolerances, Workload};
use crate::units::Milli;

/// Above this share of what a full batch shows, hardly any room is left to rise above the target.
const NEAR_CAP: f64 = 0.9;
/// Elasticities above this are not told apart.
const STEEP: f64 = 20.0;

/// One target, with all that the rules need.
struct Aim<'a> {
    scaler: &'a Scaler<'a>,
    metric: &'a Metric<'a>,
    target: Target<'a>,
    field: String,
    up: f64,
    down: f64,
    /// Series of one replica that are summed.
    series: f64,
}

/// All of them for one object.
pub(super) fn check(scaler: &Scaler<'_>, context: &Context, gpus: Option<u32>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for metric in &scaler.metrics {
        let Some(target) = metric.target.filter(|target| target.average && target.milli.0 > 0) else {
            continue;
        };
        let gpu = metric.measures == Measures::GpuPercent;
        let aim = Aim {
            scaler,
            metric,
            target,
            field: metric.target_field(target),
            up: tolerance(scaler, "scaleUp", context),
            down: tolerance(scaler, "scaleDown", context),
            series: if gpu { f64::from(gpus.unwrap_or(1)) } else { 1.0 },
        };
        let dead = aim.dead(gpus).or_else(|| context.run.as_ref().and_then(|run| aim.dead_in_run(run)));
        let alive = dead.as_ref().is_none_or(|dead| dead.severity < Severity::Error);
        findings.extend(dead);
        if let Some(run) = &context.run {
            findings.extend(aim.too_late(run).filter(|_| alive));
            findings.extend(aim.stays_up(run));
            findings.extend(aim.flaps(run));
        }
    }
    findings
}

/// The tolerance that counts: the HPA's own, unless the cluster drops it.
fn tolerance(scaler: &Scaler<'_>, direction: &str, context: &Context) -> f64 {
    let kept = context.version.is_none_or(|version| version >= TOLERANCE_SINCE);
    if kept { scaler.tolerance(direction, context.tolerance) } else { context.tolerance }
}

impl Aim<'_> {
    fn finding(&self, rule: Rule, reason: impl Into<String>, fix: impl Into<String>) -> Finding {
        self.scaler.finding(rule, (self.target.node, &self.field), reason, fix)
    }

    /// Whether one replica that shows `value` scales up with this target.
    fn fires(&self, value: f64, target: Milli) -> bool {
        let Some(value) = Milli::floor(value) else { return true };
        hpa::scales_up(self.metric.source, value, target, self.up, Generation::Inclusive)
    }

    /// Where it begins to scale up, in words.
    fn fires_from(&self) -> String {
        let first = hpa::first_average_that_scales_up(self.target.milli, self.up, Generation::Inclusive);
        first.map_or("never".to_owned(), |first| format!("only from {}", first.as_f64()))
    }

    /// The largest target that scales up at `value`.
    fn largest(&self, value: f64) -> String {
        let mut target = Milli::floor(value / (1.0 + self.up)).unwrap_or(Milli(0));
        while target.0 > 0 && !self.fires(value, target) {
            target.0 -= 1;
        }
        target.to_string()
    }

    /// Bounded by what the metric is.
    fn dead(&self, gpus: Option<u32>) -> Option<Finding> {
        let Aim { metric, target, up, series, .. } = self;
        if let Some(bound) = metric.measures.bound().map(|bound| bound * series) {
            if self.fires(bound, target.milli) {
                return None;
            }
            let per_gpu = match (metric.measures, gpus) {
                (Measures::GpuPercent, None) => " with one GPU per replica",
                _ => "",
            };
            let reason = format!(
                "{} is at most {bound}{per_gpu}, and {} with a tolerance of {up} scales up {}",
                metric.measures.title(),
                target.milli,
                self.fires_from()
            );
            return Some(self.finding(
                Rule::DeadTarget,
                reason,
                format!("write {} or less", self.largest(bound)),
            ));
        }
        let counts = matches!(metric.measures, Measures::Queue | Measures::Batch);
        let tgi = counts && metric.text().to_lowercase().contains("tgi_");
        if !tgi || self.fires(TGI_MOST_CONCURRENT, target.milli) {
            return None;
        }
        let reason = format!(
            "TGI takes {TGI_MOST_CONCURRENT} requests at once unless --max-concurrent-requests is raised, so queue and \
             batch together are never more, and this scales up {}",
            self.fires_from()
        );
        let fix = format!("write {} or less", self.largest(TGI_MOST_CONCURRENT));
        Some(self.finding(Rule::DeadTarget, reason, fix))
    }

    /// Bounded by the batch that the run saw full.
    fn dead_in_run(&self, run: &RunFacts) -> Option<Finding> {
        let full = run.full_batch().filter(|_| self.metric.measures == Measures::Batch)?;
        let reason = |how: &str| {
            format!(
                "in run {} the full batch was {full:.2} requests {how} this scales up {}",
                run.id,
                self.fires_from()
            )
        };
        if !self.fires(full, self.target.milli) {
            let fix = format!("write {} or less", self.largest(NEAR_CAP * full));
            return Some(self.finding(Rule::DeadTarget, reason("at its mean, and"), fix));
        }
        if self.fires(NEAR_CAP * full, self.target.milli) {
            return None;
        }
        let fix = format!("write {} or less, so that overload shows", self.largest(NEAR_CAP * full));
        let finding = self.finding(Rule::DeadTarget, reason("at its mean, hardly more than where"), fix);
        Some(finding.with(Severity::Warning))
    }

    /// The SLO breaks first.
    fn too_late(&self, run: &RunFacts) -> Option<Finding> {
        let value = run.at_capacity(self.metric.measures)? * self.series;
        if self.fires(value, self.target.milli) {
            return None;
        }
        let reason = format!(
            "in run {} the SLO breaks at {} {value:.3}, and this scales up {}",
            run.id,
            self.metric.measures.title(),
            self.fires_from()
        );
        Some(self.finding(Rule::TooLate, reason, format!("write {} or less", self.largest(value))))
    }

    /// One replica more than the fewest stays, even at the lowest load that was measured.
    fn stays_up(&self, run: &RunFacts) -> Option<Finding> {
        let lowest = run.curve(self.metric.measures).first().copied()?;
        let replicas = i32::try_from(self.scaler.min.max(1)).ok()?.checked_add(1)?;
        if replicas > 1000 || self.scaler.max.is_some_and(|max| max < i64::from(replicas)) {
            return None;
        }
        let shown = Milli::floor(lowest.value * self.series)?;
        let pods = usize::try_from(replicas).ok()?;
        let pod = Pod { phase: Phase::Running, ready: true, deleted: false };
        let workload = Workload { spec_replicas: replicas, status_replicas: replicas, pods: vec![pod; pods] };
        let tolerances = Tolerances { up: self.up, down: self.down, generation: Generation::Inclusive };
        let target = hpa::Target::AverageValue(self.target.milli);
        let proposal =
            hpa::propose(self.metric.source, target, &workload, &vec![Some(shown); pods], tolerances).ok()?;
        if proposal.replicas < replicas {
            return None;
        }
        let reason = format!(
            "in run {} {} was {} at the lowest load ({:.2} req/s per replica), and {replicas} replicas that show it \
             stay {replicas}",
            run.id,
            self.metric.measures.title(),
            shown.as_f64(),
            lowest.load
        );
        let least = shown.0.saturating_mul(i64::from(replicas)).div_euclid(i64::from(replicas) - 1) + 1;
        let most =
            self.metric.measures.bound().map_or(f64::INFINITY, |bound| bound * self.series / (1.0 + self.up));
        let fix = if Milli(least).as_f64() < most {
            format!("write {} or more, or scale on another metric", Milli(least))
        } else {
            "scale on another metric: it is too high there for any target".to_owned()
        };
        Some(self.finding(Rule::CannotComeDown, reason, fix))
    }

    /// `min((n-1)/n, 1 - down) (n/(n-1))^e > 1 + up`: at some load n replicas become n - 1 and come back.
    fn flaps(&self, run: &RunFacts) -> Option<Finding> {
        let at = self.target.milli.as_f64() / self.series;
        let elasticity = run.elasticity(self.metric.measures, at)?;
        let all = self.scaler.min.max(1) + 1..=self.scaler.max?.min(1000);
        let flapping = all.filter(|n| {
            let (n, fewer) = (*n as f64, (*n - 1) as f64);
            (fewer / n).min(1.0 - self.down) * (n / fewer).powf(elasticity) > 1.0 + self.up
        });
        let flapping: Vec<i64> = flapping.collect();
        let (fewest, most) = (flapping.first()?, flapping.last()?);
        let which = if fewest == most { fewest.to_string() } else { format!("{fewest} to {most}") };
        let steep =
            if elasticity > STEEP { format!("more than {STEEP} %") } else { format!("{elasticity:.1} %") };
        let reason = format!(
            "in run {} {} changes there by {steep} for 1 % of load, so from {which} replicas one can be taken away \
             and come back at the same load",
            run.id,
            self.metric.measures.title(),
        );
        let fix = "lower the target to where the metric is less steep, or slow scale-down: a longer \
                   stabilizationWindowSeconds, 10 % per 180 s";
        Some(self.finding(Rule::FlapProne, reason, fix))
    }
}
