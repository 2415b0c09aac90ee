//! Replicas as levels of requests in flight: a diffusion in steps of one second.
//!
//! The balancer gives requests to the replica with the fewest in flight, so replicas that have been up for
//! a while are all at one level; one that is new fills up from zero to it.

use super::closed_loop::Servers;
use super::plant::Plant;
use crate::units::{Rate, Signal};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

/// Replicas with equally many in flight.
#[derive(Debug, Clone, Copy)]
struct Level {
    in_flight: f64,
    replicas: usize,
}

/// Below this a replica that is to go has nothing left to do.
const EMPTY: f64 = 0.5;

/// Replicas in a replay.
#[derive(Debug, Clone)]
pub(super) struct Fluid<'a> {
    plant: &'a Plant,
    /// The oldest, fullest first.
    levels: Vec<Level>,
    draining: Vec<Level>,
    /// In flight per replica, as the arrivals of each second found it.
    found: Vec<f32>,
    arrivals: Vec<f32>,
    refused: Vec<f32>,
    /// For what gauges show at one moment.
    rng: ChaCha8Rng,
}

impl<'a> Fluid<'a> {
    /// Replicas in the steady state of a load per replica, with room for so many seconds.
    pub(super) fn new(plant: &'a Plant, replicas: usize, load: Rate, seconds: usize, seed: u64) -> Fluid<'a> {
        let level = Level { in_flight: plant.level(load).min(plant.limit()), replicas };
        Fluid {
            plant,
            levels: if replicas > 0 { vec![level] } else { Vec::new() },
            draining: Vec::new(),
            found: Vec::with_capacity(seconds),
            arrivals: Vec::with_capacity(seconds),
            refused: Vec::with_capacity(seconds),
            rng: ChaCha8Rng::seed_from_u64(seed),
        }
    }

    /// Joins the lowest levels as far as the arrivals fill them up.
    fn fill(&mut self, arrivals: f64) {
        while let [.., above, lowest] = self.levels.as_mut_slice() {
            if (above.in_flight - lowest.in_flight) * lowest.replicas as f64 > arrivals {
                return;
            }
            let replicas = above.replicas + lowest.replicas;
            let sum = above.in_flight * above.replicas as f64 + lowest.in_flight * lowest.replicas as f64;
            *above = Level { in_flight: sum / replicas as f64, replicas };
            self.levels.pop();
        }
    }
}

impl Servers for Fluid<'_> {
    fn add(&mut self) {
        self.levels.push(Level { in_flight: 0.0, replicas: 1 });
    }

    fn drain(&mut self, youngest: usize) {
        let mut left = youngest;
        while let Some(level) = self.levels.last_mut().filter(|_| left > 0) {
            let going = level.replicas.min(left);
            self.draining.push(Level { replicas: going, ..*level });
            level.replicas -= going;
            left -= going;
            if level.replicas == 0 {
                self.levels.pop();
            }
        }
    }

    fn step(&mut self, _second: usize, arrivals: f64, noise: f64) {
        let plant = self.plant;
        self.fill(arrivals);
        let mut refused = if self.levels.is_empty() { arrivals } else { 0.0 };
        let mut found = 0.0;
        let lowest = self.levels.len().saturating_sub(1);
        for (place, level) in self.levels.iter_mut().enumerate() {
            let n = level.replicas as f64;
            let share = if place == lowest { arrivals / n } else { 0.0 };
            let before = level.in_flight;
            let (after, left, stay) = plant.second(before, share);
            let after = (after + noise * (left * stay / n).sqrt()).max(0.0);
            refused += (after - plant.limit()).max(0.0) * n;
            level.in_flight = after.min(plant.limit());
            found = f64::midpoint(before, level.in_flight);
        }
        for level in &mut self.draining {
            level.in_flight = plant.second(level.in_flight, 0.0).0;
        }
        self.draining.retain(|level| level.in_flight >= EMPTY);
        self.found.push(found as f32);
        self.arrivals.push(arrivals as f32);
        self.refused.push(refused.min(arrivals) as f32);
    }

    fn gauges(&mut self, signal: Signal, gauges: &mut Vec<Option<f64>>) {
        for level in &self.levels {
            gauges.extend((0..level.replicas).map(|_| {
                let normal = StandardNormal.sample(&mut self.rng);
                self.plant.momentary_gauge(signal, level.in_flight, normal)
            }));
        }
    }

    fn draining(&self) -> usize {
        self.draining.iter().map(|level| level.replicas).sum()
    }

    fn in_flight(&self) -> f64 {
        self.levels.iter().chain(&self.draining).map(|level| level.in_flight * level.replicas as f64).sum()
    }

    /// A request breaks a limit by the mean in flight from its arrival on.
    fn violations(self) -> Vec<f32> {
        let window = self.plant.window_seconds();
        let seconds = self.found.len();
        let mut sum: f64 = self.found.iter().take(window).map(|found| f64::from(*found)).sum();
        let mut broken = Vec::with_capacity(seconds);
        for second in 0..seconds {
            let end = (second + window).min(seconds);
            let mean = sum / (end - second) as f64;
            let served = f64::from(self.arrivals[second] - self.refused[second]);
            broken.push(self.refused[second] + (served * self.plant.violations(mean)) as f32);
            sum -= f64::from(self.found[second]);
            sum += self.found.get(second + window).map_or(0.0, |found| f64::from(*found));
        }
        broken
    }
}
