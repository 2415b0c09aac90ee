//! What an HPA does while the load stays the same: nothing, a little, or a limit cycle.

use crate::units::Seconds;
use serde::Serialize;
use std::fmt;

/// The first part, in which replicas settle, is not looked at.
const SETTLING: f64 = 1.0 / 3.0;
/// Swings from so many replicas to at least so many times as many are a limit cycle.
const WIDE: i32 = 2;
/// At least so many replicas lie between.
const LEAST: i32 = 2;
/// So often they must come again.
const AGAIN: usize = 3;

/// A verdict on replicas under a constant load.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "verdict")]
pub enum Steadiness {
    /// Their number stays.
    Steady {
        /// It.
        replicas: i32,
    },
    /// It changes now and then.
    Wanders {
        /// The fewest.
        from: i32,
        /// The most.
        to: i32,
        /// Changes per hour.
        changes_per_hour: f64,
    },
    /// It swings between too few and too many, for ever.
    LimitCycle {
        /// The fewest.
        from: i32,
        /// The most.
        to: i32,
        /// From one swing to the next, on average.
        period: Seconds,
    },
}

impl Steadiness {
    /// The worse the more: nothing, changes per hour, a limit cycle.
    pub(super) fn unrest(&self) -> f64 {
        match self {
            Steadiness::Steady { .. } => 0.0,
            Steadiness::Wanders { changes_per_hour, .. } => *changes_per_hour,
            Steadiness::LimitCycle { .. } => f64::INFINITY,
        }
    }
}

impl fmt::Display for Steadiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Steadiness::Steady { replicas } => write!(f, "steady at {replicas}"),
            Steadiness::Wanders { from, to, changes_per_hour } => {
                write!(f, "wanders between {from} and {to}, {changes_per_hour:.1} changes an hour")
            }
            Steadiness::LimitCycle { from, to, period } => {
                write!(f, "limit cycle: swings between {from} and {to} every {:.0} min", period.0 / 60.0)
            }
        }
    }
}

/// The verdict on replicas of each second.
pub(super) fn steadiness(wanted: &[i32]) -> Steadiness {
    let settled = &wanted[(wanted.len() as f64 * SETTLING) as usize..];
    let from = settled.iter().copied().min().unwrap_or(0);
    let to = settled.iter().copied().max().unwrap_or(0);
    if from == to {
        return Steadiness::Steady { replicas: from };
    }
    // A swing goes down to the lower quarter of the range and up to the upper one.
    let quarter = f64::from(to - from) / 4.0;
    let (low, high) = (f64::from(from) + quarter, f64::from(to) - quarter);
    let mut rises = Vec::new();
    let mut was_low = false;
    for (second, replicas) in settled.iter().map(|n| f64::from(*n)).enumerate() {
        if replicas <= low {
            was_low = true;
        } else if was_low && replicas >= high {
            was_low = false;
            rises.push(second as f64);
        }
    }
    let wide = to - from >= LEAST && to >= WIDE * from;
    if let ([first, .., last], true) = (rises.as_slice(), wide && rises.len() >= AGAIN) {
        let period = Seconds((last - first) / (rises.len() - 1) as f64);
        return Steadiness::LimitCycle { from, to, period };
    }
    let changes = settled.windows(2).filter(|pair| pair[0] != pair[1]).count() as f64;
    Steadiness::Wanders { from, to, changes_per_hour: changes * 3600.0 / settled.len() as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(of: impl Fn(usize) -> i32) -> Steadiness {
        steadiness(&(0..9000).map(of).collect::<Vec<_>>())
    }

    #[test]
    fn a_constant_number_is_steady_whatever_happened_at_first() {
        assert_eq!(verdict(|second| if second < 2000 { 9 } else { 4 }), Steadiness::Steady { replicas: 4 });
    }

    #[test]
    fn swings_that_come_again_are_a_limit_cycle_with_their_period() {
        let found = verdict(|second| if second % 900 < 300 { 12 } else { 1 });
        assert_eq!(found, Steadiness::LimitCycle { from: 1, to: 12, period: Seconds(900.0) });
    }

    #[test]
    fn one_replica_more_or_less_among_many_is_no_cycle() {
        let Steadiness::Wanders { from: 7, to: 8, changes_per_hour } =
            verdict(|second| if second % 900 < 300 { 8 } else { 7 })
        else {
            panic!("not a wandering one")
        };
        assert!((changes_per_hour - 8.0).abs() < 1.0, "{changes_per_hour}");
    }
}
