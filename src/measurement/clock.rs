//! The one clock of a run.

use crate::units::Seconds;
use std::time::{Duration, Instant};

/// Counts seconds from the origin of a run on the monotonic clock of this machine. Copies of it
/// share the origin, so everything that is measured lies on one time axis.
#[derive(Debug, Clone, Copy)]
pub struct RunClock {
    /// A moment of this process, and its time in the run.
    anchor: Instant,
    anchored_at: Seconds,
}

impl RunClock {
    /// A clock whose origin is now.
    pub fn start() -> RunClock {
        RunClock::resume(Seconds::ZERO)
    }

    /// The clock of a run that goes on: it is `now` now.
    #[allow(clippy::disallowed_methods, reason = "the time of a run is anchored here and nowhere else")]
    pub fn resume(now: Seconds) -> RunClock {
        RunClock { anchor: Instant::now(), anchored_at: now }
    }

    /// The time since the origin.
    pub fn now(&self) -> Seconds {
        self.anchored_at + Seconds::from(self.anchor.elapsed())
    }

    /// How long it is until `time`; zero where it is past.
    pub fn until(&self, time: Seconds) -> Duration {
        (time - self.now()).to_duration()
    }

    /// `time` as an instant to sleep until; never before this clock was made.
    pub fn instant(&self, time: Seconds) -> Instant {
        self.anchor + (time - self.anchored_at).to_duration()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resumed_clock_goes_on_from_its_time() {
        let clock = RunClock::resume(Seconds(100.0));
        assert!(clock.now().0 >= 100.0 && clock.now().0 < 160.0);
        assert_eq!(clock.instant(Seconds(101.0)) - clock.instant(Seconds(100.0)), Duration::from_secs(1));
        assert_eq!(clock.until(Seconds(1.0)), Duration::ZERO);
    }
}
