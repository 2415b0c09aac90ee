//! What a fitted server carries under other limits than those that it was measured for.

use super::play::{self, Workload};
use super::{Known, Prediction, REACH, playable};
use crate::units::{Rate, Slo};

/// Requests that are played at each rate.
const PLAYED: usize = 12_000;

/// The load of a replica at which the first of `others` breaks, as a share of the one at which the first of
/// `own` does, by playing both with the same arrivals: what chance does to the one it does to the other.
/// `None` where the limits are met at no load that was tried, or at every one.
pub fn capacity_under(prediction: &Prediction, own: &[Slo], others: &[Slo], known: &Known) -> Option<f64> {
    let (own, others) = (playable(own).ok()?, playable(others).ok()?);
    let known = Known { production: prediction.production, ..known.clone() };
    let workload = Workload::poisson(&prediction.workload.sizes, PLAYED, &known, 4);
    let find = |slos: &[Slo], guess: Rate| play::capacity(&prediction.model, &workload, slos, guess, REACH);
    let first = find(&own, prediction.capacity)?;
    Some(find(&others, first)?.0 / first.0)
}
