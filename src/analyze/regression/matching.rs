//! Steps of equal load in a run and in its baselines.

use super::Side;
use super::sample::Window;
use crate::analyze::{Steadiness, StepAnalysis};
use crate::measurement::{Load, RequestOutcome};

/// Loads that differ by less, as a share, are equal.
const EQUAL_LOAD: f64 = 0.005;
/// Requests that were scheduled within this time of each other, seconds from the start of their step, are
/// the same. Times are recorded in microseconds.
const SAME_TIME: f64 = 1e-4;

/// A step of the run and the step of each baseline that has its load.
pub(super) struct Matched<'a> {
    pub run: &'a StepAnalysis,
    pub baselines: Vec<&'a StepAnalysis>,
    pub window: Window,
    /// Whether all of them sent the same requests at the same times.
    pub paired: bool,
    /// Attempts of the run.
    pub requests: usize,
}

/// All of them, and what is not compared and why.
pub(super) fn matched<'a>(run: &Side<'a>, baselines: &[Side<'a>]) -> (Vec<Matched<'a>>, Vec<String>) {
    let (mut found, mut remarks) = (Vec::new(), Vec::new());
    let mut taken: Vec<Vec<u32>> = vec![Vec::new(); baselines.len()];
    for step in run.steps.iter().filter(|step| step.attempts > 0 && step.lost == 0) {
        let load = step.mark.load;
        let mut steps = Vec::new();
        for (side, taken) in baselines.iter().zip(&mut taken) {
            let fits = |other: &&StepAnalysis| {
                same(load, other.mark.load)
                    && other.attempts > 0
                    && other.lost == 0
                    && !taken.contains(&other.mark.index)
            };
            if let Some(other) = side.steps.iter().find(fits) {
                taken.push(other.mark.index);
                steps.push(other);
            }
        }
        if steps.len() < baselines.len() {
            remarks.push(format!("{load} is not compared: not every baseline has it"));
        } else if steps.iter().any(|step| matches!(step.steady, Steadiness::Growing { .. })) {
            remarks.push(format!("{load} is not compared: a baseline did not keep up with it"));
        } else {
            let paired =
                baselines.iter().zip(&steps).all(|(side, other)| same_requests(run, step, side, other));
            let others = baselines.iter().zip(steps.iter().copied());
            let window = Window::of(&std::iter::once((run, step)).chain(others).collect::<Vec<_>>());
            found.push(Matched { run: step, baselines: steps, window, paired, requests: step.attempts });
        }
    }
    if found.is_empty() {
        remarks.push(
            "no load is in the run and in every baseline: measure both with one fixed --ramp".to_owned(),
        );
    }
    (found, remarks)
}

fn same(one: Load, two: Load) -> bool {
    let near = |a: f64, b: f64| (a - b).abs() <= EQUAL_LOAD * a.abs().max(b.abs());
    match (one, two) {
        (Load::Rate(a), Load::Rate(b)) | (Load::Trace(a), Load::Trace(b)) => near(a.0, b.0),
        (Load::Concurrency(a), Load::Concurrency(b)) => a == b,
        (Load::Linear { from: a, to: b }, Load::Linear { from: c, to: d }) => {
            near(a.0, c.0) && near(b.0, d.0)
        }
        _ => false,
    }
}

/// Whether two steps of an open loop sent requests at the same times and, as far as prompts are counted, of the
/// same sizes.
fn same_requests(run: &Side, step: &StepAnalysis, side: &Side, other: &StepAnalysis) -> bool {
    if !step.mark.load.is_open_loop() {
        return false;
    }
    let sent = |requests: &[RequestOutcome], step: &StepAnalysis| {
        let of_step = requests.iter().filter(|request| request.step == step.mark.index);
        let mut sent: Vec<(f64, Option<u32>)> =
            of_step.map(|r| ((r.scheduled - step.mark.start).0, r.input_tokens)).collect();
        sent.sort_by(|a, b| a.0.total_cmp(&b.0));
        sent
    };
    let (one, two) = (sent(run.requests, step), sent(side.requests, other));
    let same_size = |a: Option<u32>, b: Option<u32>| a.zip(b).is_none_or(|(a, b)| a.abs_diff(b) <= a / 5 + 5);
    one.len() == two.len()
        && one.iter().zip(&two).all(|(a, b)| (a.0 - b.0).abs() < SAME_TIME && same_size(a.1, b.1))
}
