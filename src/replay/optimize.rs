//! The search for the cheapest target and behavior that hold the SLO, with what it rests on.
//!
//! Invariants: pure apart from using all processors; the same inputs give the same answer, whatever their
//! number. Every candidate sees the same draws, so that chance does not decide between them.

use super::candidate::{Candidate, Draw, Score, World};
use super::conditions::{Autoscaler, Pipeline};
use crate::hpa::{BehaviorSpec, Generation, Policy, Quantity, Range, RulesSpec, Tolerances};
use crate::units::{Milli, Seconds, Signal};
use rayon::prelude::*;
use serde::Serialize;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What is searched, and for what.
#[derive(Debug, Clone, Copy)]
pub struct Search<'a> {
    /// Replica, load, metrics and starts.
    pub world: World<'a>,
    /// The metric to scale on.
    pub signal: Signal,
    /// minReplicas and maxReplicas.
    pub range: Range,
    /// The controller's tolerance.
    pub tolerance: f64,
    /// Whether the cluster has a tolerance for each HPA (Kubernetes 1.35; 1.33 with a feature gate).
    pub own_tolerance: bool,
    /// Whether to search the behavior too.
    pub tune: bool,
    /// Share of requests that may break a limit, 0 to 1.
    pub goal: f64,
    /// Draws of arrivals, pace and start-up.
    pub seeds: u64,
    /// Targets on the grid.
    pub targets: usize,
}

/// How fast an HPA may react.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Tuning {
    /// Stabilization window on the way down; `None`: no `behavior` at all.
    pub down_window: Option<u32>,
    /// At most so many percent down, per so many seconds.
    pub down_percent: Option<(i32, u32)>,
    /// Tolerance on the way up, where it is not the controller's.
    pub up_tolerance: Option<f64>,
}

impl Tuning {
    /// No `behavior`.
    pub const DEFAULT: Tuning = Tuning { down_window: None, down_percent: None, up_tolerance: None };

    /// As the HPA has it.
    pub fn behavior(&self) -> Option<BehaviorSpec> {
        if *self == Tuning::DEFAULT {
            return None;
        }
        let tolerance =
            self.up_tolerance.and_then(|tolerance| tolerance.to_string().parse::<Quantity>().ok());
        let down = RulesSpec {
            stabilization_window_seconds: self.down_window,
            policies: self.down_percent.map(|(percent, period)| vec![Policy::percent(percent, period)]),
            ..RulesSpec::default()
        };
        let up = tolerance.map(|_| RulesSpec { tolerance, ..RulesSpec::default() });
        Some(BehaviorSpec { scale_up: up, scale_down: Some(down) })
    }

    /// All that are tried.
    fn all(own_tolerance: bool) -> Vec<Tuning> {
        let mut all = Vec::new();
        for down_window in [60, 120, 300] {
            for down_percent in [None, Some((10, 60)), Some((10, 180))] {
                for up_tolerance in [None, Some(0.0)] {
                    if up_tolerance.is_none() || own_tolerance {
                        all.push(Tuning { down_window: Some(down_window), down_percent, up_tolerance });
                    }
                }
            }
        }
        all
    }
}

impl fmt::Display for Tuning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(window) = self.down_window else { return write!(f, "default behavior") };
        write!(f, "down window {window} s")?;
        if let Some((percent, period)) = self.down_percent {
            write!(f, ", down {percent} % per {period} s")?;
        }
        if let Some(tolerance) = self.up_tolerance {
            write!(f, ", up tolerance {tolerance}")?;
        }
        Ok(())
    }
}

/// A target that was tried.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Tried {
    /// Per replica.
    pub target: Milli,
    /// With it.
    pub tuning: Tuning,
    /// What it comes to.
    pub score: Score,
    /// Whether the upper bound of its violations is within the goal.
    pub holds: bool,
}

/// What a change of the world does to the chosen candidate.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Sensitivity {
    /// "start-up 240 s".
    pub change: String,
    /// What the candidate then comes to.
    pub score: Score,
}

/// The answer of a search.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Optimum {
    /// The metric.
    pub signal: Signal,
    /// The cheapest that holds, with the default behavior.
    pub default: Option<Tried>,
    /// The cheapest that holds at all. `None`: nothing holds.
    pub best: Option<Tried>,
    /// What is cheaper than all that break limits as rarely, the cheapest first.
    pub frontier: Vec<Tried>,
    /// The best under other circumstances.
    pub sensitivity: Vec<Sensitivity>,
    /// Why, or why not and what to do, in sentences.
    pub reasons: Vec<String>,
    /// How many candidates were played.
    pub played: usize,
}

/// Told how far the search is, 0 to 1.
pub type Progress<'a> = &'a (dyn Fn(f64) + Sync);

/// The lowest target on the grid, as a share of the most that the gauge shows.
const LOWEST: f64 = 0.04;
/// Steps of the search for a target under each behavior.
const HALVINGS: usize = 6;
/// Parts that the grid is divided into around the best.
const REFINED: i64 = 5;
/// Shares of the start-up time that are tried where no target holds.
const SHORTER: [f64; 5] = [0.75, 0.5, 0.33, 0.25, 0.1];

/// Searches.
pub fn optimize(search: &Search, progress: Progress) -> Optimum {
    let draws = search.draws(&search.world);
    let grid = search.grid();
    let done = AtomicUsize::new(0);
    let tunings = if search.tune { Tuning::all(search.own_tolerance) } else { Vec::new() };
    let steps = grid.len() + tunings.len() * HALVINGS + 1;
    let tell = || progress((done.fetch_add(1, Ordering::Relaxed) + 1) as f64 / steps as f64);
    let mut tried: Vec<Tried> = grid
        .par_iter()
        .map(|target| {
            let found = search.try_out(*target, Tuning::DEFAULT, &draws);
            tell();
            found
        })
        .collect();
    let default = cheapest(&tried);
    let tuned: Vec<Vec<Tried>> =
        tunings.par_iter().map(|tuning| search.highest_that_holds(&grid, *tuning, &draws, &tell)).collect();
    tried.extend(tuned.into_iter().flatten());
    let best = cheapest(&tried);
    for from in default.into_iter().chain(best.filter(|best| Some(*best) != default)) {
        tried.extend(search.refine(&grid, &from, &draws));
    }
    let default =
        cheapest(&tried.iter().filter(|tried| tried.tuning == Tuning::DEFAULT).copied().collect::<Vec<_>>());
    let best = cheapest(&tried);
    let (sensitivity, reasons) = match best {
        Some(best) => (search.sensitivity(&best), search.why(&best, default.as_ref())),
        None => (Vec::new(), search.why_not(&grid, &tried)),
    };
    progress(1.0);
    let played = tried.len();
    Optimum { signal: search.signal, default, best, frontier: frontier(tried), sensitivity, reasons, played }
}

fn cheapest(tried: &[Tried]) -> Option<Tried> {
    let holding = tried.iter().filter(|tried| tried.holds);
    holding.min_by(|a, b| a.score.gpu_hours.total_cmp(&b.score.gpu_hours)).copied()
}

/// Those that no other one beats in both cost and violations.
fn frontier(mut tried: Vec<Tried>) -> Vec<Tried> {
    tried.sort_by(|a, b| a.score.gpu_hours.total_cmp(&b.score.gpu_hours));
    let mut least = f64::INFINITY;
    tried.retain(|tried| {
        let better = tried.score.violations_upper < least;
        least = least.min(tried.score.violations_upper);
        better
    });
    tried
}

impl Search<'_> {
    /// The candidate of a target and a tuning.
    pub fn candidate(&self, target: Milli, tuning: Tuning) -> Candidate {
        let behavior = tuning.behavior();
        let flag = Tolerances::both(self.tolerance, Generation::Inclusive);
        let tolerances = Tolerances { up: tuning.up_tolerance.unwrap_or(flag.up), ..flag };
        let scaler =
            Autoscaler::average_value(self.signal, target, self.range, behavior.as_ref(), tolerances);
        let name = format!("{}={}", self.signal.slug(), target.as_f64());
        Candidate { name, origin: format!("optimized, {tuning}"), scaler }
    }

    fn draws(&self, world: &World) -> Vec<Draw> {
        (0..self.seeds).into_par_iter().map(|seed| world.draw(seed)).collect()
    }

    fn try_out(&self, target: Milli, tuning: Tuning, draws: &[Draw]) -> Tried {
        let score = Score::of(&self.candidate(target, tuning).scaler, draws);
        Tried { target, tuning, score, holds: score.violations_upper <= self.goal }
    }

    /// Targets in equal ratios from near nothing to the most that can ever fire, with three digits.
    fn grid(&self) -> Vec<Milli> {
        let most = self.world.plant.most(self.signal).unwrap_or(0.0);
        let gpus =
            if self.signal.is_external() { f64::from(self.world.conditions.gpus_per_replica) } else { 1.0 };
        let highest = most / (1.0 + self.tolerance);
        let lowest = (most * LOWEST).min(1.0).max(highest * 1e-3);
        let n = self.targets.max(2);
        let mut grid: Vec<Milli> = (0..n)
            .map(|i| lowest * (highest / lowest).powf(i as f64 / (n - 1) as f64))
            .map(|target| {
                if target >= 10.0 { (target * 10.0).floor() / 10.0 } else { (target * 100.0).floor() / 100.0 }
            })
            .filter_map(|target| Milli::floor(target * gpus))
            .filter(|target| target.0 > 0)
            .collect();
        grid.dedup();
        grid
    }

    /// Halves the grid: more load per replica breaks more limits and costs less.
    fn highest_that_holds(
        &self,
        grid: &[Milli],
        tuning: Tuning,
        draws: &[Draw],
        tell: &(dyn Fn() + Sync),
    ) -> Vec<Tried> {
        let (mut low, mut high) = (0, grid.len());
        let mut tried = Vec::new();
        for _ in 0..HALVINGS {
            tell();
            if low >= high {
                continue;
            }
            let middle = usize::midpoint(low, high);
            let found = self.try_out(grid[middle], tuning, draws);
            if found.holds {
                low = middle + 1;
            } else {
                high = middle;
            }
            tried.push(found);
        }
        tried
    }

    /// Higher targets than one that holds, up to the next on the grid.
    fn refine(&self, grid: &[Milli], from: &Tried, draws: &[Draw]) -> Vec<Tried> {
        let Some(next) = grid.iter().find(|target| **target > from.target) else { return Vec::new() };
        let gap = (next.0 - from.target.0) / REFINED;
        (1..REFINED)
            .into_par_iter()
            .map(|i| self.try_out(Milli(from.target.0 + gap * i), from.tuning, draws))
            .collect()
    }

    fn sensitivity(&self, best: &Tried) -> Vec<Sensitivity> {
        let scaler = self.candidate(best.target, best.tuning).scaler;
        let score = |change: String, world: World| {
            let draws = self.draws(&world);
            Sensitivity { change, score: Score::of(&scaler, &draws) }
        };
        let with = |change: &dyn Fn(&mut super::Conditions)| {
            let mut conditions = self.world.conditions;
            change(&mut conditions);
            World { conditions, ..self.world }
        };
        let start_up = self.world.conditions.start_up.mean;
        let pipeline = self.world.conditions.pipeline;
        let mut found = Vec::new();
        for factor in [0.5, 2.0, 4.0] {
            let mean = start_up * factor;
            found
                .push(score(format!("start-up {mean}"), with(&|conditions| conditions.start_up.mean = mean)));
        }
        for more in [30.0, 60.0, 120.0] {
            let pipeline = Pipeline { ingest: pipeline.ingest + Seconds(more), ..pipeline };
            found.push(score(
                format!("lag {}", pipeline.lag()),
                with(&|conditions| conditions.pipeline = pipeline),
            ));
        }
        for growth in [1.1, 1.25, 1.5] {
            if let Ok(traffic) = self.world.traffic.scaled(growth) {
                let world = World { traffic: &traffic, ..self.world };
                found.push(score(format!("load x {growth}"), world));
            }
        }
        found
    }

    fn why(&self, best: &Tried, default: Option<&Tried>) -> Vec<String> {
        let percent = |share: f64| format!("{:.1} %", share * 100.0);
        let score = &best.score;
        let mut reasons = vec![format!(
            "{} {} with {}: the cheapest that keeps violations within {} ({} on average over {} draws, at most {} with 90 % confidence; one draw in ten goes above {})",
            self.signal.title(),
            best.target,
            best.tuning,
            percent(self.goal),
            percent(score.violations),
            score.draws,
            percent(score.violations_upper),
            percent(score.violations_bad_day),
        )];
        reasons.push(format!(
            "it costs {:.1} GPU-hours, {:.2} times what somebody would pay who knew the load ahead",
            best.score.gpu_hours, best.score.cost
        ));
        if let Some(default) = default.filter(|default| **default != *best) {
            reasons.push(format!(
                "without any behavior the best target is {} at {:.1} GPU-hours ({:.2} times)",
                default.target, default.score.gpu_hours, default.score.cost
            ));
        }
        reasons.extend(self.too_few());
        reasons
    }

    fn too_few(&self) -> Option<String> {
        let most = usize::try_from(self.range.max).unwrap_or(0);
        let (peak, carried) = (self.world.traffic.peak(), self.world.capacities.total(most));
        (peak.0 > carried.0).then(|| {
            format!("the load rises to {peak}, but maxReplicas ({most}) carry {carried}: raise maxReplicas")
        })
    }

    /// What would let a target hold: more replicas from the start, or quicker starts.
    fn why_not(&self, grid: &[Milli], tried: &[Tried]) -> Vec<String> {
        let safest =
            tried.iter().min_by(|a, b| a.score.violations_upper.total_cmp(&b.score.violations_upper));
        let Some(safest) = safest else {
            return vec![format!(
                "no target can hold this: {} is not known of this server",
                self.signal.title()
            )];
        };
        let too_few = self.too_few();
        let cure = if too_few.is_some() { "raise maxReplicas" } else { "raise minReplicas or cut start-up" };
        let mut reasons = vec![format!(
            "no target can hold this: {cure}. The safest, {} {}, still breaks limits for {:.1} % of requests (upper bound; the goal is {:.1} %)",
            self.signal.title(),
            safest.target,
            safest.score.violations_upper * 100.0,
            self.goal * 100.0
        )];
        reasons.extend(too_few);
        let few: Vec<Milli> = grid.iter().step_by(4).copied().collect();
        let holds = |search: &Search| {
            let draws = search.draws(&search.world);
            few.par_iter().any(|target| search.try_out(*target, safest.tuning, &draws).holds)
        };
        let most = self.range.max;
        let mut mins =
            (self.range.min + 1..=most).step_by(((most - self.range.min) / 8).max(1).unsigned_abs() as usize);
        let enough = mins.find(|min| holds(&Search { range: Range { min: *min, max: most }, ..*self }));
        reasons.push(match enough {
            Some(min) => format!("with minReplicas {min} a target holds"),
            None => "not even a higher minReplicas lets a target hold".to_owned(),
        });
        let start_up = self.world.conditions.start_up.mean;
        let quick_enough = SHORTER.iter().map(|share| start_up * *share).find(|mean| {
            let mut conditions = self.world.conditions;
            conditions.start_up.mean = *mean;
            holds(&Search { world: World { conditions, ..self.world }, ..*self })
        });
        reasons.push(match quick_enough {
            Some(mean) => format!("with a start-up of {mean} instead of {start_up} a target holds"),
            None => format!("not even a start-up of {} lets a target hold", start_up * SHORTER[4]),
        });
        reasons
    }
}

/// The target that Google's page calls "slightly below" the largest batch, which it puts into no number.
pub const SLIGHTLY_BELOW: f64 = 0.9;

/// What Google's page on autoscaling inference advises to start with: a queue of 3 to 5, a batch slightly
/// below its most.
pub fn googles_advice(world: &World) -> Vec<(Signal, f64)> {
    let mut advice = vec![(Signal::Queue, 3.0), (Signal::Queue, 5.0)];
    advice.extend(world.plant.most(Signal::Batch).map(|most| (Signal::Batch, most * SLIGHTLY_BELOW)));
    advice
}
