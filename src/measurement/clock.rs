//! The clock of a run: the one place where the library reads the time of its measurements.

use crate::units::Seconds;
use std::time::{Duration, Instant};

/// Counts seconds from the origin of a run on the monotonic clock of this machine. Copies of it
/// share the origin, so everything that is measured lies on one time axis.
#[derive(Debug, Clone, Copy)]
pub struct RunClock {
    origin: Instant,
}

impl RunClock {
    /// A clock whose origin is now.
    #[allow(clippy::disallowed_methods, reason = "the origin of a run is read here and nowhere else")]
    pub fn start() -> RunClock {
        RunClock { origin: Instant::now() }
    }

    /// The time since the origin.
    pub fn now(&self) -> Seconds {
        Seconds::from(self.origin.elapsed())
    }

    /// How long it is until `time`; zero where it is past.
    pub fn until(&self, time: Seconds) -> Duration {
        (time - self.now()).to_duration()
    }

    /// `time` as an instant to sleep until.
    pub fn instant(&self, time: Seconds) -> Instant {
        self.origin + time.to_duration()
    }
}
