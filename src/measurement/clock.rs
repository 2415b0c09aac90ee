//! The one clock of a run.

use crate::units::Seconds;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

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

    /// The time in the run of a moment that another machine's wall clock names, in seconds since 1970.
    pub fn of_wall(&self, unix: f64) -> Seconds {
        self.now() + Seconds(unix - RunClock::wall())
    }

    /// The wall clock of this machine, in seconds since 1970.
    #[allow(clippy::disallowed_methods, reason = "other machines stamp their samples by the wall clock")]
    pub fn wall() -> f64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
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
        let past = clock.of_wall(RunClock::wall() - 50.0);
        assert!((past.0 - clock.now().0 + 50.0).abs() < 5.0, "{past}");
    }
}
