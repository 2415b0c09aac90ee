//! Several runs of one deployment as one: each is a session of its own, an hour after the one before.

use super::RecordedRun;
use crate::measurement::{Event, RequestOutcome, StepMark};
use crate::units::Seconds;

/// Between the last thing of a run and the first of the next.
const PAUSE: Seconds = Seconds(3600.0);

/// What is added to the clock, the steps and the requests of a run.
#[derive(Clone, Copy)]
struct Shift {
    time: Seconds,
    steps: u32,
    ids: u64,
}

/// Takes runs together, in their order. The first gives its `run.json`.
pub fn together(first: RecordedRun, others: impl IntoIterator<Item = RecordedRun>) -> RecordedRun {
    let mut all = first;
    others.into_iter().for_each(|run| add(&mut all, run));
    all
}

fn add(all: &mut RecordedRun, run: RecordedRun) {
    let ends = all.requests.iter().filter_map(|request| request.ended.or(request.last_token));
    let last = ends.chain(all.samples.iter().map(|sample| sample.time)).fold(Seconds::ZERO, Seconds::max);
    let shift = Shift {
        time: last + PAUSE,
        steps: all.events.iter().filter_map(step_of).max().map_or(0, |step| step + 1),
        ids: all.requests.iter().map(|request| request.id + 1).max().unwrap_or(0),
    };
    all.events.push(Event::Resumed { time: shift.time });
    all.events.extend(run.events.into_iter().map(|event| shift.event(event)));
    all.requests.extend(run.requests.into_iter().map(|request| shift.request(&request)));
    all.samples.extend(run.samples.into_iter().map(|mut sample| {
        sample.time = sample.time + shift.time;
        sample.arrived = sample.arrived + shift.time;
        sample
    }));
    all.gaps.extend(run.gaps.into_iter().map(|(step, gaps)| (step + shift.steps, gaps)));
    all.remarks.push(format!("taken together with {}", run.info.run_id));
    all.remarks.extend(run.remarks.into_iter().map(|remark| format!("{}: {remark}", run.info.run_id)));
}

fn step_of(event: &Event) -> Option<u32> {
    match event {
        Event::StepStarted { index, .. } => Some(*index),
        Event::StepEnded { step, .. } => Some(step.index),
        _ => None,
    }
}

impl Shift {
    fn request(self, request: &RequestOutcome) -> RequestOutcome {
        let later = |time: Option<Seconds>| time.map(|time| time + self.time);
        RequestOutcome {
            id: request.id + self.ids,
            step: request.step + self.steps,
            scheduled: request.scheduled + self.time,
            sent: later(request.sent),
            first_token: later(request.first_token),
            last_token: later(request.last_token),
            ended: later(request.ended),
            ..request.clone()
        }
    }

    fn event(self, mut event: Event) -> Event {
        match &mut event {
            Event::StepStarted { time, index, hold_start, planned_end, .. } => {
                *index += self.steps;
                for time in [time, hold_start, planned_end] {
                    *time = *time + self.time;
                }
            }
            Event::StepEnded { step, ids } => {
                *step = StepMark {
                    index: step.index + self.steps,
                    start: step.start + self.time,
                    hold_start: step.hold_start + self.time,
                    end: step.end + self.time,
                    ..*step
                };
                *ids = ids.map(|(from, to)| (from + self.ids, to + self.ids));
            }
            Event::Heartbeat { time, wall_offset, .. } => {
                *time = *time + self.time;
                *wall_offset = *wall_offset - self.time;
            }
            Event::ScrapeFailed { time, .. }
            | Event::Decision { time, .. }
            | Event::PoolExhausted { time, .. }
            | Event::PodChanged { time, .. }
            | Event::PodStarted { time, .. }
            | Event::Resumed { time }
            | Event::Remark { time, .. } => *time = *time + self.time,
        }
        event
    }
}
