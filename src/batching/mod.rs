//! A continuous-batching server as a state machine with its own clock: discrete events, no I/O.
//!
//! It is the loop of TGI's router and shard: admit and prefill, decode, filter, again. The simulator
//! plays it in real time behind HTTP; studies play it as fast as the machine goes.
//!
//! Invariants: time only moves forward; every job that is accepted and not cancelled ends exactly
//! once, with exactly as many emissions as it has output tokens; reservations never exceed the
//! token budget; the queue is strictly first in, first out.
//!
//! Not imitated: a prompt that is split over several prefills (it joins whole, once it fits), and
//! the re-queueing of requests after 1024 tokens.

mod model;
mod run;
mod server;

pub use model::{Admission, Deviations, ServerModel};
pub use run::{Completed, Counters, Pool, run_closed, run_open};
pub use server::{Emission, Forward, Gauges, Job, JoinReason, Observation, Output, Refused, Server};
