//! The cheapest schedule that somebody who knows the load ahead would run: what costs are compared with.

use super::plant::Plant;
use super::traffic::smoothed;
use crate::hpa::Range;
use crate::units::{Rate, Replicas, Seconds};

/// Beyond so many replicas capacities are extrapolated: each further one carries as much as the last.
const PLAYED: u32 = 64;

/// What each number of replicas carries.
#[derive(Debug, Clone, PartialEq)]
pub struct Capacities {
    /// In all, for 1, 2, 3 replicas and so on; never falling.
    totals: Vec<f64>,
    range: Range,
}

impl Capacities {
    /// Of a plant that may break limits for the share `goal` of requests.
    pub fn of(plant: &Plant, goal: f64, range: Range) -> Capacities {
        let most = range.max.clamp(1, 10_000).cast_unsigned();
        // Each costs a few milliseconds, and between these places the load per replica is nearly straight.
        let mut places: Vec<u32> = vec![1];
        while let Some(last) = places.last().copied().filter(|last| *last < most.min(PLAYED)) {
            places.push((last + (last / 2).max(1)).min(most.min(PLAYED)));
        }
        let found: Vec<(f64, f64)> = places
            .iter()
            .map(|n| (f64::from(*n), plant.capacity(Replicas(*n), goal).0 / f64::from(*n)))
            .collect();
        let each = super::table::Table::through(&found, f64::from(most), most as usize + 1);
        let mut highest: f64 = 0.0;
        let totals = (1..=most).map(|n| {
            highest = highest.max(f64::from(n) * each.at(f64::from(n)));
            highest
        });
        Capacities { totals: totals.collect(), range }
    }

    /// What so many replicas carry in all.
    pub fn total(&self, replicas: usize) -> Rate {
        let place = replicas.clamp(1, self.totals.len().max(1)) - 1;
        Rate(self.totals.get(place).copied().unwrap_or(0.0))
    }

    /// The fewest replicas that carry a load, within the range of the HPA.
    pub fn needed(&self, load: Rate) -> usize {
        let fewest = self.totals.partition_point(|total| *total < load.0) + 1;
        fewest.clamp(self.range.min.max(1) as usize, self.range.max.max(1) as usize)
    }

    /// Seconds of replicas that a clairvoyant pays for: each replica exists for as long as it is needed, and
    /// for its start before.
    pub fn schedule(&self, rates: &[f64], start_up: Seconds) -> Schedule {
        let needed: Vec<usize> = smoothed(rates).iter().map(|rate| self.needed(Rate(*rate))).collect();
        let ahead = start_up.0.round().max(0.0) as usize;
        let exist = largest_ahead(&needed, ahead);
        let replica_seconds = exist.iter().sum::<usize>() as f64;
        Schedule { needed, replica_seconds }
    }
}

/// A clairvoyant's schedule.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    /// Replicas that must serve in each second.
    pub needed: Vec<usize>,
    /// Seconds of replicas, starts included.
    pub replica_seconds: f64,
}

/// For each place the largest value from there to `ahead` places later.
fn largest_ahead(values: &[usize], ahead: usize) -> Vec<usize> {
    // Places of candidates, the largest first, each later and smaller than the one before.
    let mut candidates: std::collections::VecDeque<usize> = std::collections::VecDeque::new();
    let mut found = vec![0; values.len()];
    for place in (0..values.len()).rev() {
        while candidates.back().is_some_and(|back| values[*back] <= values[place]) {
            candidates.pop_back();
        }
        candidates.push_back(place);
        while candidates.front().is_some_and(|front| *front > place + ahead) {
            candidates.pop_front();
        }
        found[place] = candidates.front().map_or(0, |front| values[*front]);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_largest_ahead_is_what_looking_at_each_finds(values in prop::collection::vec(0..9_usize, 1..60), ahead in 0..20_usize) {
            let naive: Vec<usize> = (0..values.len())
                .map(|i| *values[i..(i + ahead + 1).min(values.len())].iter().max().unwrap())
                .collect();
            prop_assert_eq!(largest_ahead(&values, ahead), naive);
        }
    }

    #[test]
    fn a_replica_is_paid_from_its_start_on_and_kept_over_gaps_shorter_than_that() {
        let capacities = Capacities { totals: vec![10.0, 20.0, 30.0], range: Range { min: 1, max: 3 } };
        assert_eq!([5.0, 10.0, 10.1, 30.0, 99.0].map(|load| capacities.needed(Rate(load))), [1, 1, 2, 3, 3]);
        let mut rates = vec![5.0; 1000];
        rates[500..600].fill(15.0);
        rates[650..700].fill(15.0);
        let paid = capacities.schedule(&rates, Seconds(100.0)).replica_seconds;
        // One replica all the time, a second one from 400 to 700; the moving mean widens it a little.
        assert!((paid - 1300.0).abs() < 25.0, "{paid}");
    }
}
