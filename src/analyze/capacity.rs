//! SLO capacity: by the fitted server where its counters allow, else by what clients saw.

use super::server_model::{NoPrediction, Prediction};
use super::{Bracket, Capacity, Measured, Method, NoCapacity, SloCheck, StepAnalysis, logistic};
use crate::units::{Limit, Rate, Replicas, Slo, SloMetric};

/// Steps from this share of the predicted capacity on test the prediction.
const NEAR: f64 = 0.7;
/// A prediction needs a step of at least this share of it, and one of at most its inverse.
const REACHED: f64 = 0.6;
/// A prediction is contradicted where, at the same arrivals, clients saw so many more or fewer violations
/// than the fitted server gives, in shares of the requests, and a figure so much off.
const VIOLATIONS_OFF: f64 = 0.10;
const FIGURE_OFF: f64 = 0.10;

/// The load at which the first SLO is reached.
pub(super) fn find(
    steps: &[StepAnalysis],
    measured: &Measured,
    slos: &[Slo],
    prediction: &Result<Prediction, NoPrediction>,
) -> Result<Capacity, NoCapacity> {
    let by_clients = by_clients(steps, measured, slos);
    let gaps_limited = slos.iter().any(|slo| slo.metric == SloMetric::Itl);
    match prediction {
        // Too far above or below everything that was driven, the fitted server is a guess.
        Ok(prediction) if !within_reach(steps, measured.replicas, prediction.capacity) => by_clients,
        Ok(prediction) if !contradicted(prediction) => {
            let predicted = predicted(prediction, &by_clients);
            match by_clients {
                // Single gaps are not played, so clients have the say where they are what breaks.
                Ok(seen) if gaps_limited && seen.per_replica.0 < predicted.per_replica.0 => Ok(seen),
                _ => Ok(predicted),
            }
        }
        Err(NoPrediction::NotEnclosed) if by_clients == Err(NoCapacity::TooFewSteps) => {
            Err(NoCapacity::NoLoadOrEveryLoad)
        }
        _ => by_clients,
    }
}

fn within_reach(steps: &[StepAnalysis], replicas: Replicas, capacity: Rate) -> bool {
    let loads = || steps.iter().map(|step| step.carried(replicas).0);
    let (lowest, highest) = (loads().fold(f64::INFINITY, f64::min), loads().fold(0.0, f64::max));
    highest >= capacity.0 * REACHED && lowest * REACHED <= capacity.0
}

/// Whether the steps near the predicted capacity came out otherwise than the fitted server does.
pub(super) fn contradicted(prediction: &Prediction) -> bool {
    let near = || prediction.agreement.iter().filter(|step| step.load.0 >= prediction.capacity.0 * NEAR);
    let n: f64 = near().map(|step| step.n as f64).sum();
    let mean = |of: &dyn Fn(&super::server_model::Agreement) -> f64| {
        near().map(|step| step.n as f64 * of(step)).sum::<f64>() / n.max(1.0)
    };
    let violations = mean(&|step| step.measured - step.played).abs();
    let figure = mean(&|step| step.figure_off.unwrap_or(0.0)).abs();
    n > 0.0 && violations > VIOLATIONS_OFF && figure > FIGURE_OFF
}

fn predicted(prediction: &Prediction, by_clients: &Result<Capacity, NoCapacity>) -> Capacity {
    Capacity {
        per_replica: prediction.capacity,
        low: prediction.low,
        high: prediction.high,
        method: Method::ServerModel,
        replicas: prediction.production,
        limited_by: prediction.limited_by,
        bracket: by_clients.as_ref().ok().and_then(|seen| seen.bracket),
    }
}

/// By client latencies alone: a logistic curve over all requests, else a straight line between the last step
/// that holds and the first that fails.
fn by_clients(steps: &[StepAnalysis], measured: &Measured, slos: &[Slo]) -> Result<Capacity, NoCapacity> {
    let line = interpolate(steps, measured.replicas)?;
    let around = (line.low.0, line.high.0);
    let open = steps.iter().all(|step| step.mark.load.is_open_loop());
    let crossing = open.then(|| logistic::first_crossing(steps, measured, slos, around)).flatten();
    Ok(match crossing {
        Some(found) => Capacity {
            per_replica: Rate(found.load),
            low: Rate(found.low),
            high: Rate(found.high),
            method: Method::Logistic,
            limited_by: found.slo,
            ..line
        },
        None => line,
    })
}

/// The load at which the first SLO is reached, on a straight line.
fn interpolate(steps: &[StepAnalysis], replicas: Replicas) -> Result<Capacity, NoCapacity> {
    let mut order: Vec<usize> = (0..steps.len()).filter(|i| steps[*i].is_judged()).collect();
    order.sort_by(|a, b| steps[*a].mark.load.level().total_cmp(&steps[*b].mark.load.level()));
    if order.len() < 2 {
        return Err(NoCapacity::TooFewSteps);
    }
    let Some(first_failing) = order.iter().position(|i| !steps[*i].holds()) else {
        return Err(NoCapacity::NeverReached);
    };
    if first_failing == 0 {
        return Err(NoCapacity::NeverMet);
    }
    let (lower_step, upper_step) = (order[first_failing - 1], order[first_failing]);
    let (lower, upper) = (&steps[lower_step], &steps[upper_step]);
    let crossings = lower.checks.iter().zip(&upper.checks).filter(|(_, upper)| !upper.holds);
    let first =
        crossings.map(|(low, high)| (crossing(low, high), high.slo)).min_by(|a, b| a.0.total_cmp(&b.0));
    let (fraction, limited_by) = first.ok_or(NoCapacity::NeverReached)?;
    let (holds_at, fails_at) = (lower.carried(replicas), upper.carried(replicas));
    Ok(Capacity {
        per_replica: Rate(holds_at.0 + (fails_at.0 - holds_at.0) * fraction),
        low: holds_at,
        high: fails_at,
        method: Method::Interpolation,
        replicas,
        limited_by,
        bracket: Some(Bracket { holds_at, fails_at, lower_step, upper_step }),
    })
}

/// Where between the two steps, 0 to 1, the figure reaches its limit on a straight line. 0 where the
/// upper figure is infinite: then nothing says how soon the limit is crossed.
fn crossing(lower: &SloCheck, upper: &SloCheck) -> f64 {
    let limit = match upper.slo.limit {
        Limit::AtMost(limit) => limit.0,
        Limit::ShareAtMost(limit) | Limit::ShareAtLeast(limit) => limit,
    };
    match (lower.value, upper.value) {
        (Some(low), Some(high)) if high != low => ((limit - low) / (high - low)).clamp(0.0, 1.0),
        _ => 0.0,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::{GaugeSummary, Steadiness};
    use super::*;
    use crate::measurement::StepMark;
    use crate::units::{Load, Seconds, Slo};
    use std::collections::BTreeMap;

    pub(crate) fn step(index: u32, rate: f64, ttft: Option<f64>, batch: f64) -> StepAnalysis {
        let slo: Slo = "ttft:p95:2s".parse().unwrap();
        let gauge = |mean| GaugeSummary {
            n: 10,
            mean,
            std: 1.0,
            standard_error: Some(0.3),
            min: 0.0,
            max: mean * 2.0,
        };
        StepAnalysis {
            mark: StepMark {
                index,
                load: Load::Rate(Rate(rate)),
                start: Seconds(0.0),
                hold_start: Seconds(3.0),
                end: Seconds(13.0),
            },
            attempts: 100,
            lost: 0,
            succeeded: 100,
            failures: BTreeMap::new(),
            offered: Rate(rate),
            achieved: Rate(rate),
            output_tokens_per_second: 0.0,
            in_flight: 1.0,
            ttft: None,
            tpot: None,
            itl: None,
            e2e: None,
            ntpot: None,
            schedule_delay: None,
            goodput: None,
            queue: None,
            batch: Some(gauge(batch)),
            gpu: None,
            checks: vec![SloCheck {
                slo,
                value: ttft,
                holds: ttft.is_some_and(|t| t <= 2.0),
                undecided: false,
            }],
            steady: Steadiness::Steady,
        }
    }

    #[test]
    fn the_limit_is_interpolated_between_the_last_step_that_holds_and_the_first_that_fails() {
        let steps =
            [step(0, 2.0, Some(0.5), 4.0), step(1, 4.0, Some(1.0), 10.0), step(2, 8.0, Some(5.0), 30.0)];
        let capacity = interpolate(&steps, Replicas(1)).unwrap();
        assert_eq!(capacity.per_replica, Rate(5.0));
        assert_eq!((capacity.low, capacity.high), (Rate(4.0), Rate(8.0)));
        let shared = interpolate(&steps, Replicas(2)).unwrap();
        assert_eq!(shared.per_replica, Rate(2.5));
    }

    #[test]
    fn an_infinite_figure_puts_the_limit_at_the_step_that_holds() {
        let capacity =
            interpolate(&[step(0, 2.0, Some(0.5), 4.0), step(1, 4.0, None, 10.0)], Replicas(1)).unwrap();
        assert_eq!(capacity.per_replica, Rate(2.0));
    }

    #[test]
    fn steps_are_taken_in_the_order_of_their_load() {
        let steps = [step(0, 8.0, Some(5.0), 30.0), step(1, 4.0, Some(1.0), 10.0)];
        let capacity = interpolate(&steps, Replicas(1)).unwrap();
        let bracket = capacity.bracket.unwrap();
        assert_eq!((bracket.lower_step, bracket.upper_step), (1, 0));
    }

    #[test]
    fn without_both_sides_there_is_no_capacity() {
        let (good, bad) = (step(0, 2.0, Some(0.5), 4.0), step(1, 4.0, Some(3.0), 10.0));
        assert_eq!(interpolate(&[good.clone(), good.clone()], Replicas(1)), Err(NoCapacity::NeverReached));
        assert_eq!(interpolate(&[bad.clone(), bad], Replicas(1)), Err(NoCapacity::NeverMet));
        assert_eq!(interpolate(&[good], Replicas(1)), Err(NoCapacity::TooFewSteps));
    }
}
