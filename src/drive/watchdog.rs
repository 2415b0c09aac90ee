//! Ends requests that must end: those that made no progress for the timeout, and all at a stop.
//!
//! One task looks at every request in flight ten times a second. A timer and a stop signal of its
//! own for each request would be polled with every token.

use super::decode::Failure;
use crate::measurement::{FailureKind, RunClock};
use crate::units::Seconds;
use futures::future::{AbortHandle, AbortRegistration};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::task::JoinHandle;

/// Time between two looks.
const LOOK: Duration = Duration::from_millis(100);

/// Watches requests in flight until it is dropped.
pub(super) struct Watchdog {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    clock: RunClock,
    timeout: Seconds,
    next: AtomicU64,
    flights: Mutex<HashMap<u64, Arc<Flight>>>,
}

struct Flight {
    /// The moment of its last event, or of its sending before any: microseconds of the run.
    progress: AtomicU64,
    timed_out: AtomicBool,
    abort: AbortHandle,
}

/// A request that is watched, until this is dropped.
pub(super) struct Watched {
    shared: Arc<Shared>,
    number: u64,
    flight: Arc<Flight>,
}

impl Watchdog {
    /// Starts to watch. `timeout` is the longest wait for the next event.
    pub(super) fn start(clock: RunClock, timeout: Seconds) -> Watchdog {
        let flights = Mutex::default();
        let shared = Arc::new(Shared { clock, timeout, next: AtomicU64::new(0), flights });
        let watched = Arc::clone(&shared);
        let look = LOOK.min(timeout.to_duration() / 4).max(Duration::from_millis(1));
        let task = tokio::spawn(async move {
            loop {
                tokio::time::sleep(look).await;
                watched.end_what_is_stuck();
            }
        });
        Watchdog { shared, task }
    }

    /// Watches a request from now on; what runs under the registration ends when it must.
    pub(super) fn watch(&self) -> (Watched, AbortRegistration) {
        let (abort, registration) = AbortHandle::new_pair();
        let progress = AtomicU64::new(micros(self.shared.clock.now()));
        let flight = Arc::new(Flight { progress, timed_out: AtomicBool::new(false), abort });
        let number = self.shared.next.fetch_add(1, Ordering::Relaxed);
        self.shared.flights().insert(number, Arc::clone(&flight));
        (Watched { shared: Arc::clone(&self.shared), number, flight }, registration)
    }

    /// Cuts off every request in flight.
    pub(super) fn cut_off(&self) {
        for flight in self.shared.flights().values() {
            flight.abort.abort();
        }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    fn flights(&self) -> MutexGuard<'_, HashMap<u64, Arc<Flight>>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end_what_is_stuck(&self) {
        let now = self.clock.now();
        for flight in self.flights().values() {
            let progress = Seconds(flight.progress.load(Ordering::Relaxed) as f64 / 1e6);
            if now - progress > self.timeout {
                flight.timed_out.store(true, Ordering::Relaxed);
                flight.abort.abort();
            }
        }
    }
}

impl Watched {
    /// Something came at `time`.
    pub(super) fn progressed(&self, time: Seconds) {
        self.flight.progress.store(micros(time), Ordering::Relaxed);
    }

    /// Why the request was ended.
    pub(super) fn verdict(&self) -> Failure {
        if self.flight.timed_out.load(Ordering::Relaxed) {
            let message = format!("no event for {}, the --timeout", self.shared.timeout);
            return Failure { kind: FailureKind::Timeout, message };
        }
        Failure { kind: FailureKind::Stopped, message: "the run ended before the request did".to_owned() }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.shared.flights().remove(&self.number);
    }
}

fn micros(time: Seconds) -> u64 {
    (time.0 * 1e6).round() as u64
}
