//! Dispatches scheduled arrivals on time, from a thread of its own.
//!
//! tokio's timers are a millisecond coarse; a thread that sleeps until each arrival starts requests
//! about a tenth of a millisecond late.

use crate::measurement::RunClock;
use crate::units::Seconds;
use std::time::Duration;

/// The longest sleep between two looks at the stop flag.
const SLICE: Duration = Duration::from_millis(50);

/// Calls `dispatch` for each arrival when it is due, in order. Returns early once `stopped` says so.
pub(super) fn pace<T>(
    clock: RunClock,
    arrivals: impl IntoIterator<Item = (Seconds, T)>,
    stopped: impl Fn() -> bool,
    mut dispatch: impl FnMut(Seconds, T),
) {
    for (due, arrival) in arrivals {
        loop {
            let left = clock.until(due);
            // What is due was asked for before any stop, and is dispatched.
            if left.is_zero() {
                break;
            }
            if stopped() {
                return;
            }
            std::thread::sleep(left.min(SLICE));
        }
        dispatch(due, arrival);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn arrivals_are_dispatched_in_order_and_never_early() {
        let clock = RunClock::start();
        let mut seen = Vec::new();
        let arrivals = (0..20).map(|i| (Seconds(f64::from(i) * 0.002), i));
        pace(clock, arrivals, || false, |due, i| seen.push((i, clock.now() >= due)));
        assert_eq!(seen, (0..20).map(|i| (i, true)).collect::<Vec<_>>());
    }

    #[test]
    fn a_stop_ends_the_pacing_before_the_next_arrival_that_is_not_due() {
        let count = Cell::new(0);
        let arrivals = [0.0, 0.0, 0.0, 60.0].into_iter().map(|due| (Seconds(due), ()));
        pace(RunClock::start(), arrivals, || count.get() > 0, |_, ()| count.set(count.get() + 1));
        assert_eq!(count.get(), 3, "all that were due at the stop and none after");
    }
}
