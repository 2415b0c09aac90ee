//! The server played through without waiting: open loop from given arrivals, closed loop by clients.

use super::{Job, Output, Server, ServerModel};
use crate::units::Seconds;
use std::collections::HashMap;

/// How a request came out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Completed {
    /// Its job's name.
    pub id: u64,
    /// When it arrived.
    pub arrived: Seconds,
    /// When its first token came. `None`: refused.
    pub first_token: Option<Seconds>,
    /// When its last token came. `None`: refused, or not over when the run was.
    pub finished: Option<Seconds>,
    /// Its output tokens so far.
    pub output_tokens: u32,
}

/// Plays arrivals, which must be in the order of their times, until all have ended. The results are
/// in the order of arrival.
pub fn run_open(model: ServerModel, arrivals: impl IntoIterator<Item = (Seconds, Job)>) -> Vec<Completed> {
    let mut play = Play::new(model);
    for (time, job) in arrivals {
        play.advance(time);
        play.submit(time, job);
    }
    while let Some(time) = play.server.next_event() {
        play.advance(time);
    }
    play.results
}

/// Plays `clients` clients that each send their next job as soon as the last one ended, until
/// `until`. A refused client gives up.
pub fn run_closed(
    model: ServerModel,
    clients: u32,
    mut next: impl FnMut() -> Job,
    until: Seconds,
) -> Vec<Completed> {
    let mut play = Play::new(model);
    for _ in 0..clients {
        play.submit(Seconds::ZERO, next());
    }
    while let Some(time) = play.server.next_event().filter(|time| *time <= until) {
        let ended = play.advance(time);
        for _ in 0..ended {
            play.submit(time, next());
        }
    }
    play.results
}

struct Play {
    server: Server,
    out: Output,
    results: Vec<Completed>,
    index: HashMap<u64, usize>,
}

impl Play {
    fn new(model: ServerModel) -> Play {
        Play {
            server: Server::new(model),
            out: Output::default(),
            results: Vec::new(),
            index: HashMap::new(),
        }
    }

    fn submit(&mut self, time: Seconds, job: Job) {
        let result =
            Completed { id: job.id, arrived: time, first_token: None, finished: None, output_tokens: 0 };
        if self.server.submit(time, job, &mut self.out).is_ok() {
            self.index.insert(job.id, self.results.len());
        }
        self.results.push(result);
    }

    /// Moves to `time`; how many requests ended on the way.
    fn advance(&mut self, time: Seconds) -> usize {
        self.out.emissions.clear();
        self.out.observations.clear();
        self.server.advance(time, &mut self.out);
        let mut ended = 0;
        for emission in &self.out.emissions {
            let Some(result) = self.index.get(&emission.id).and_then(|at| self.results.get_mut(*at)) else {
                continue;
            };
            result.output_tokens = emission.index;
            result.first_token.get_or_insert(emission.time);
            if emission.last {
                result.finished = Some(emission.time);
                self.index.remove(&emission.id);
                ended += 1;
            }
        }
        ended
    }
}
