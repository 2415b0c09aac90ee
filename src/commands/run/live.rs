//! What a run knows while it goes on: everything measured so far, for the live view, for the
//! adaptive search, and to notice that the server is gone. Passes everything on to the record.

use super::view::Moment;
use crate::analyze::{Known, Measured, StepAnalysis, analyze_last_step, server_model};
use crate::measurement::{Event, FailureKind, RequestOutcome, Sample, Series, StepIndex};
use crate::plan::{Guide, Step, StepResult};
use crate::record::RecordHandle;
use crate::units::{Rate, Replicas, Seconds, Slo};
use crate::{drive, observe};
use hdrhistogram::Histogram;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How far back the live view looks.
const RECENT: Seconds = Seconds(10.0);
/// This many failures in a row of a server that is not there end the run.
const GONE_AFTER: u32 = 20;

/// The state of a run.
pub(crate) struct Live {
    record: Mutex<Option<RecordHandle>>,
    replicas: Replicas,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    requests: Vec<RequestOutcome>,
    samples: Vec<Sample>,
    events: Vec<Event>,
    gaps: BTreeMap<StepIndex, Histogram<u64>>,
    lost_in_a_row: u32,
    fault: Option<String>,
}

impl Live {
    pub(crate) fn new(record: RecordHandle, replicas: Replicas) -> Live {
        Live { record: Mutex::new(Some(record)), replicas, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record(&self, pass: impl FnOnce(&RecordHandle)) {
        if let Some(record) = self.record.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            pass(record);
        }
    }

    /// Lets go of the record, so that it can be finished.
    pub(crate) fn close(&self) {
        self.record.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Why the run cannot go on, if it cannot.
    pub(super) fn fault(&self) -> Option<String> {
        self.state().fault.clone()
    }

    pub(super) fn set_fault(&self, fault: String) {
        self.state().fault.get_or_insert(fault);
    }

    pub(super) fn record_event(&self, event: Event) {
        self.record(|record| record.event(event.clone()));
        self.state().events.push(event);
    }

    /// How the step that was driven last came out, and what all steps so far say of the capacity. This
    /// takes up to a second, in which measuring goes on.
    pub(super) fn judge_last_step(&self, slos: &[Slo], known: &Known) -> Option<StepResult> {
        let State { requests, samples, events, gaps, .. } = &*self.state();
        let (requests, samples, events) = (requests.clone(), samples.clone(), events.clone());
        let gaps = gaps.clone();
        let measured = Measured {
            requests: &requests,
            samples: &samples,
            events: &events,
            gaps: &gaps,
            replicas: self.replicas,
        };
        let step = analyze_last_step(&measured, slos)?;
        Some(step_result(&step, guide(&measured, slos, known)))
    }

    /// How much of a step is over, 0 to 1.
    pub(super) fn share_of_step(&self, step: &Step, now: Seconds) -> f64 {
        let started = self.state().events.iter().rev().find_map(|event| match event {
            Event::StepStarted { time, index, .. } if *index == step.index => Some(*time),
            _ => None,
        });
        started.map_or(0.0, |started| ((now - started).0 / step.length.0).clamp(0.0, 1.0))
    }

    /// What is going on in a step at this moment.
    pub(super) fn moment(&self, step: &Step, now: Seconds, in_flight: usize) -> Moment {
        let state = self.state();
        let recent = || {
            state.requests.iter().rev().take_while(|r| r.ended.is_none_or(|ended| ended.0 > now.0 - RECENT.0))
        };
        let mine = || recent().filter(|r| r.step == step.index);
        let mut ttft: Vec<f64> = mine().filter(|r| r.is_ok()).filter_map(|r| Some(r.ttft()?.0)).collect();
        let failed = mine().filter(|r| !r.is_ok()).count();
        let answered = recent().filter(|r| r.is_ok()).count();
        let last = |series| state.samples.iter().rev().take(8).find_map(|sample| sample.get(series));
        let [queue, batch, gpu] = [Series::QueueSize, Series::BatchSize, Series::GpuUtil].map(last);
        // The workers wait for this lock, so what takes long comes after it.
        drop(state);
        ttft.sort_by(f64::total_cmp);
        let rank = (ttft.len() * 95).div_ceil(100).saturating_sub(1);
        Moment {
            answered: answered as f64 / RECENT.0.min(now.0.max(1.0)),
            ttft_p95: ttft.get(rank).copied(),
            failed,
            in_flight: in_flight as f64,
            queue,
            batch,
            gpu,
        }
    }
}

/// What a search needs to know of a step.
pub(super) fn step_result(step: &StepAnalysis, guide: Option<Guide>) -> StepResult {
    let mark = step.mark;
    StepResult { rate: Rate(mark.load.level()), length: mark.end - mark.start, holds: step.holds(), guide }
}

/// What all steps so far say of the capacity. `None` where the server does not show enough of itself.
pub(super) fn guide(measured: &Measured, slos: &[Slo], known: &Known) -> Option<Guide> {
    // The load of a search goes to the replicas that are there.
    let known = Known { production: measured.replicas, ..known.clone() };
    let estimate = server_model::estimate(measured, slos, &known).ok()?;
    let total = estimate.capacity.0 * f64::from(measured.replicas.0);
    Some(Guide { capacity: Rate(total), drift: estimate.drift })
}

impl drive::Sink for Live {
    fn request(&self, outcome: RequestOutcome, gaps_us: Vec<u32>) {
        let mut state = self.state();
        let lost = matches!(outcome.error, Some(FailureKind::Connect | FailureKind::Truncated));
        state.lost_in_a_row = if lost { state.lost_in_a_row + 1 } else { 0 };
        if state.lost_in_a_row == GONE_AFTER {
            let fault = format!(
                "the server is gone: {GONE_AFTER} requests in a row lost their connection or got none"
            );
            state.fault.get_or_insert(fault);
        }
        if outcome.phase == crate::measurement::Phase::Hold && !gaps_us.is_empty() {
            if let std::collections::btree_map::Entry::Vacant(slot) = state.gaps.entry(outcome.step)
                && let Ok(histogram) = Histogram::new_with_bounds(1, u64::from(u32::MAX), 3)
            {
                slot.insert(histogram);
            }
            if let Some(histogram) = state.gaps.get_mut(&outcome.step) {
                for gap in &gaps_us {
                    histogram.saturating_record(u64::from(*gap));
                }
            }
        }
        state.requests.push(outcome.clone());
        drop(state);
        self.record(|record| record.request(outcome, gaps_us));
    }

    fn event(&self, event: Event) {
        self.record_event(event);
    }
}

impl observe::Sink for Live {
    fn sample(&self, sample: Sample) {
        self.record(|record| record.sample(sample.clone()));
        self.state().samples.push(sample);
    }

    fn event(&self, event: Event) {
        self.record_event(event);
    }
}
