//! Whether a ratio of usage to target is near enough to one for nothing to happen.

use std::fmt;

/// How the controller tests whether a ratio is within tolerance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Generation {
    /// Today's: `1 - tolerance <= ratio <= 1 + tolerance`, both ends included.
    Inclusive,
    /// The older: `abs(1 - ratio) <= tolerance`. In binary64 `abs(1 - 1.1)` is above 0.1, so it
    /// scales up at exactly 1.1.
    Absolute,
}

/// The tolerance of each direction, as a fraction of one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tolerances {
    /// On the way up.
    pub up: f64,
    /// On the way down.
    pub down: f64,
    /// How they are tested. The older form knows one tolerance only, and tests each side with its own.
    pub generation: Generation,
}

impl Tolerances {
    /// The same tolerance in both directions.
    pub const fn both(tolerance: f64, generation: Generation) -> Tolerances {
        Tolerances { up: tolerance, down: tolerance, generation }
    }

    /// Whether nothing is to change at `ratio`. Never at infinity or not-a-number.
    pub fn hold(self, ratio: f64) -> bool {
        match self.generation {
            Generation::Inclusive => 1.0 - self.down <= ratio && ratio <= 1.0 + self.up,
            Generation::Absolute => (1.0 - ratio).abs() <= if ratio > 1.0 { self.up } else { self.down },
        }
    }
}

impl Default for Tolerances {
    /// The controller's default flag, 0.1 both ways.
    fn default() -> Self {
        Tolerances::both(0.1, Generation::Inclusive)
    }
}

impl fmt::Display for Tolerances {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.up == self.down {
            write!(f, "1 +/- {}", self.up)
        } else {
            write!(f, "1 - {} to 1 + {}", self.down, self.up)
        }
    }
}
