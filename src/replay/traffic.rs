//! The load over time: shapes, traces and series of rates, and arrivals drawn from them.
//!
//! Invariants: pure. A trace or a series is given as values; nothing here opens a file. The same traffic
//! and the same seed give the same arrivals.

use crate::units::{ParseUnitError, Rate, Seconds, nearest};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Gamma, Poisson, StandardNormal};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Length of a shape where none is said.
const LENGTH: Seconds = Seconds(7200.0);
/// The shortest and the longest traffic.
const SHORTEST: Seconds = Seconds(60.0);
const LONGEST: Seconds = Seconds(7.0 * 86_400.0);
/// Most requests per second in all.
const HIGHEST: f64 = 100_000.0;
/// How long a spike takes to rise and to fall, and its plateau as a share of the whole.
const EDGE: f64 = 60.0;
const PLATEAU: f64 = 1.0 / 16.0;
/// The moving mean that turns arrivals of a trace into rates, in seconds.
const SMOOTH: usize = 30;
/// Variance over mean of a trace's arrivals per second, below which they count as Poisson.
const POISSON_LIKE: f64 = 1.05;

/// What `--traffic` asks for.
#[derive(Debug, Clone, PartialEq)]
pub enum TrafficSpec {
    /// The same rate all the time.
    Constant {
        /// Requests per second in all.
        rate: Rate,
        /// How long.
        length: Seconds,
    },
    /// A wave: from the low to the high and back, once.
    Diurnal {
        /// At its ends.
        low: Rate,
        /// In its middle.
        high: Rate,
        /// How long.
        length: Seconds,
    },
    /// Straight from each rate to the next, in equal times.
    Ramp {
        /// At least two.
        rates: Vec<Rate>,
        /// How long in all.
        length: Seconds,
    },
    /// A base rate with peaks that come and go within a minute.
    Spike {
        /// Between the peaks.
        base: Rate,
        /// Each stays for a sixteenth of the whole; they are spread evenly.
        peaks: Vec<Rate>,
        /// How long in all.
        length: Seconds,
    },
    /// A rate whose logarithm wanders around its mean, another way for each seed.
    Bursts {
        /// Mean.
        mean: Rate,
        /// Standard deviation of the rate's logarithm.
        spread: f64,
        /// After this time a deviation is down to 1/e.
        memory: Seconds,
        /// How long.
        length: Seconds,
    },
    /// The arrivals of a recorded trace.
    Trace {
        /// The trace.
        path: PathBuf,
        /// How many times faster than recorded.
        speed: f64,
    },
    /// A CSV of times and rates.
    Rates {
        /// The file.
        path: PathBuf,
    },
}

/// The forms of a traffic, for messages and help.
pub const FORMS: &str = "constant:RATE[@LENGTH], diurnal:LOW..HIGH[@LENGTH], ramp:RATE..RATE[..RATE][@LENGTH], \
    spike:BASE..PEAK[,PEAK][@LENGTH], bursts:MEAN[,sd=0.35][,memory=180s][@LENGTH], trace:FILE[*SPEED] or rates:FILE";

const KINDS: [&str; 7] = ["constant", "diurnal", "ramp", "spike", "bursts", "trace", "rates"];

impl FromStr for TrafficSpec {
    type Err = ParseUnitError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = |expected: String| ParseUnitError::new(text, "a traffic", expected);
        let (kind, rest) = text.trim().split_once(':').unwrap_or((text.trim(), ""));
        if !KINDS.contains(&kind) {
            let hint = nearest(kind, KINDS).map(|word| format!(" (did you mean {word}:?)"));
            return Err(error(format!("{FORMS}{}", hint.unwrap_or_default())));
        }
        match kind {
            "trace" => trace(rest),
            "rates" => file(rest, "rates:load.csv").map(|path| TrafficSpec::Rates { path }),
            _ => shape(kind, rest),
        }
        .map_err(error)
    }
}

fn file(text: &str, example: &str) -> Result<PathBuf, String> {
    let name = text.trim();
    if name.is_empty() { Err(format!("the name of a file, like {example}")) } else { Ok(PathBuf::from(name)) }
}

fn trace(text: &str) -> Result<TrafficSpec, String> {
    let (name, speed) = match text.rsplit_once('*') {
        Some((name, speed)) => {
            let factor = speed.trim().parse::<f64>().ok().filter(|factor| (0.001..=1000.0).contains(factor));
            (name, factor.ok_or_else(|| format!("a speed from 0.001 to 1000 after the * (not '{speed}')"))?)
        }
        None => (text, 1.0),
    };
    Ok(TrafficSpec::Trace { path: file(name, "trace:azure.csv*2")?, speed })
}

fn shape(kind: &str, text: &str) -> Result<TrafficSpec, String> {
    let (levels, length) = match text.rsplit_once('@') {
        None => (text, LENGTH),
        Some((levels, length)) => {
            let length: Seconds =
                length.parse().map_err(|e: ParseUnitError| format!("as length {}", e.expected))?;
            if !(SHORTEST..=LONGEST).contains(&length) {
                return Err("a length from 1m to 168h".to_owned());
            }
            (levels, length)
        }
    };
    let pair = |example: &str| levels.split_once("..").ok_or_else(|| format!("two rates, like {example}"));
    Ok(match kind {
        "constant" => TrafficSpec::Constant { rate: rate(levels)?, length },
        "diurnal" => {
            let (low, high) = pair("diurnal:8..36@4h")?;
            TrafficSpec::Diurnal { low: rate(low)?, high: rate(high)?, length }
        }
        "ramp" => {
            pair("ramp:10..40..10@2h")?;
            let rates = levels.split("..").map(rate).collect::<Result<_, _>>()?;
            TrafficSpec::Ramp { rates, length }
        }
        "spike" => {
            let (base, peaks) = pair("spike:12..30,24@2h")?;
            let peaks: Vec<Rate> = peaks.split(',').map(rate).collect::<Result<_, _>>()?;
            let room = length.0 / (peaks.len() + 1) as f64;
            if room < 2.0 * EDGE + length.0 * PLATEAU {
                return Err(
                    "a length that leaves room for the peaks, which rise and fall within a minute".to_owned()
                );
            }
            TrafficSpec::Spike { base: rate(base)?, peaks, length }
        }
        _ => bursts(levels, length)?,
    })
}

fn bursts(text: &str, length: Seconds) -> Result<TrafficSpec, String> {
    let mut words = text.split(',');
    let mean = rate(words.next().unwrap_or_default())?;
    let (mut spread, mut memory) = (0.35, Seconds(180.0));
    for word in words {
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        match name.trim() {
            "sd" => {
                let parsed = value.trim().parse::<f64>().ok().filter(|sd| (0.0..=2.0).contains(sd));
                spread = parsed.ok_or_else(|| format!("sd from 0 to 2 (not '{value}')"))?;
            }
            "memory" => {
                memory = value.parse().map_err(|e: ParseUnitError| format!("as memory {}", e.expected))?;
                if memory < Seconds(1.0) {
                    return Err("a memory of at least 1s".to_owned());
                }
            }
            other => return Err(format!("sd= and memory= after the mean (not '{other}')")),
        }
    }
    Ok(TrafficSpec::Bursts { mean, spread, memory, length })
}

fn rate(text: &str) -> Result<Rate, String> {
    let found = text.parse::<Rate>().ok().filter(|rate| rate.0 <= HIGHEST);
    found.ok_or_else(|| {
        format!("rates above 0 and up to {HIGHEST} requests per second (not '{}')", text.trim())
    })
}

/// A time as a spec has it, in the largest unit that leaves no fraction.
fn plain(time: Seconds) -> String {
    [(3600.0, "h"), (60.0, "m")]
        .into_iter()
        .find(|(unit, _)| time.0 % unit == 0.0)
        .map_or_else(|| format!("{}s", time.0), |(unit, name)| format!("{}{name}", time.0 / unit))
}

impl fmt::Display for TrafficSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |rates: &[Rate], between: &str| {
            rates.iter().map(|rate| rate.0.to_string()).collect::<Vec<_>>().join(between)
        };
        match self {
            TrafficSpec::Constant { rate, length } => write!(f, "constant:{}@{}", rate.0, plain(*length)),
            TrafficSpec::Diurnal { low, high, length } => {
                write!(f, "diurnal:{}..{}@{}", low.0, high.0, plain(*length))
            }
            TrafficSpec::Ramp { rates, length } => write!(f, "ramp:{}@{}", list(rates, ".."), plain(*length)),
            TrafficSpec::Spike { base, peaks, length } => {
                write!(f, "spike:{}..{}@{}", base.0, list(peaks, ","), plain(*length))
            }
            TrafficSpec::Bursts { mean, spread, memory, length } => {
                write!(f, "bursts:{},sd={spread},memory={}@{}", mean.0, plain(*memory), plain(*length))
            }
            TrafficSpec::Trace { path, speed } => {
                write!(f, "trace:{}", path.display())?;
                if *speed == 1.0 { Ok(()) } else { write!(f, "*{speed}") }
            }
            TrafficSpec::Rates { path } => write!(f, "rates:{}", path.display()),
        }
    }
}

/// Why there is no traffic.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum TrafficError {
    /// Nothing arrives.
    #[error("the traffic has no arrivals; at least one is needed")]
    Empty,
    /// Too long or too short.
    #[error("the traffic lasts {0}; it must last from 1 minute to 7 days; cut it, or play a trace faster")]
    Length(Seconds),
    /// A rate is no rate.
    #[error("row {row}: the rate {rate} is not a number from 0 to 100000 requests per second")]
    BadRate {
        /// Which row of the data, from 1.
        row: usize,
        /// What it says.
        rate: f64,
    },
    /// A time is no time, or not after the one before.
    #[error(
        "row {row}: the time {time} s is not after the one before it ({before} s); sort the rows, one per time"
    )]
    BadTime {
        /// Which row of the data, from 1.
        row: usize,
        /// What it says.
        time: f64,
        /// The time before.
        before: f64,
    },
    /// The rates go beyond what can be computed with.
    #[error("the traffic reaches {0}, above 100000 req/s; use a smaller --scale")]
    TooMuch(Rate),
}

/// A traffic: its rate second by second, and how arrivals scatter around it.
#[derive(Debug, Clone, PartialEq)]
pub struct Traffic {
    /// Requests per second in all, for each second. With bursts, their mean.
    rates: Vec<f64>,
    bursts: Option<(f64, f64)>,
    /// Variance over mean of the arrivals in a second, at least 1.
    dispersion: f64,
}

/// One drawing of a traffic.
#[derive(Debug, Clone, PartialEq)]
pub struct Path {
    /// The rate in each second.
    pub rates: Vec<f64>,
    /// Arrivals in each second.
    pub arrivals: Vec<f64>,
    /// Standard normal numbers, one per second, for whoever needs noise of its own.
    pub noise: Vec<f64>,
}

impl Traffic {
    /// A shape. `None` where the spec names a file, which the caller has to read.
    pub fn of_shape(spec: &TrafficSpec) -> Option<Traffic> {
        let smooth = |length: Seconds, rate: &dyn Fn(f64) -> f64| {
            let seconds = length.0.round() as usize;
            Traffic {
                rates: (0..seconds).map(|second| rate((second as f64 + 0.5) / seconds as f64)).collect(),
                bursts: None,
                dispersion: 1.0,
            }
        };
        match spec {
            TrafficSpec::Constant { rate, length } => Some(smooth(*length, &|_| rate.0)),
            TrafficSpec::Diurnal { low, high, length } => {
                let wave = |share: f64| 0.5 - 0.5 * (share * std::f64::consts::TAU).cos();
                Some(smooth(*length, &|share| low.0 + (high.0 - low.0) * wave(share)))
            }
            TrafficSpec::Ramp { rates, length } => Some(smooth(*length, &|share| {
                let place = share * (rates.len() - 1) as f64;
                let from = (place as usize).min(rates.len() - 2);
                rates[from].0 + (rates[from + 1].0 - rates[from].0) * (place - from as f64)
            })),
            TrafficSpec::Spike { base, peaks, length } => Some(smooth(*length, &|share| {
                let height = |(i, peak): (usize, &Rate)| {
                    let middle = (i + 1) as f64 / (peaks.len() + 1) as f64;
                    let beyond = ((share - middle).abs() - PLATEAU / 2.0) * length.0 / EDGE;
                    (peak.0 - base.0) * (1.0 - beyond).clamp(0.0, 1.0)
                };
                base.0 + peaks.iter().enumerate().map(height).sum::<f64>()
            })),
            TrafficSpec::Bursts { mean, spread, memory, length } => {
                let steady = smooth(*length, &|_| mean.0);
                Some(Traffic { bursts: Some((*spread, memory.0)), ..steady })
            }
            TrafficSpec::Trace { .. } | TrafficSpec::Rates { .. } => None,
        }
    }

    /// A series of `(time, rate)`: the rate holds until the next time, the last one as long as the one before.
    ///
    /// # Errors
    /// Times that do not rise, rates that are none, no arrivals at all.
    pub fn of_rates(series: &[(Seconds, Rate)]) -> Result<Traffic, TrafficError> {
        let mut before = f64::NEG_INFINITY;
        for (row, (time, rate)) in (1..).zip(series) {
            if !time.0.is_finite() || time.0 <= before {
                return Err(TrafficError::BadTime { row, time: time.0, before });
            }
            if !(0.0..=HIGHEST).contains(&rate.0) {
                return Err(TrafficError::BadRate { row, rate: rate.0 });
            }
            before = time.0;
        }
        let (Some(first), Some(last)) = (series.first(), series.last()) else {
            return Err(TrafficError::Empty);
        };
        let gap = series.len().checked_sub(2).map_or(60.0, |i| last.0.0 - series[i].0.0);
        let length = last.0.0 - first.0.0 + gap;
        check_length(length)?;
        let mut place = 0;
        let rates = (0..length.round() as usize).map(|second| {
            let time = first.0.0 + second as f64 + 0.5;
            while series.get(place + 1).is_some_and(|next| next.0.0 <= time) {
                place += 1;
            }
            series[place].1.0
        });
        Traffic { rates: rates.collect(), bursts: None, dispersion: 1.0 }.not_empty()
    }

    /// The arrivals of a trace, in the order of their times from 0 on, `speed` times faster than recorded.
    ///
    /// What is kept is their rate (moving mean over 30 s) and how much they scatter within it; drawn
    /// arrivals have both.
    ///
    /// # Errors
    /// Too few, or over too short or too long a time.
    pub fn of_arrivals(offsets: &[Seconds], speed: f64) -> Result<Traffic, TrafficError> {
        let last = offsets.last().ok_or(TrafficError::Empty)?.0 / speed;
        check_length(last)?;
        let mut counts = vec![0.0; last.ceil().max(1.0) as usize];
        let end = counts.len() - 1;
        for offset in offsets {
            counts[((offset.0 / speed) as usize).min(end)] += 1.0;
        }
        let rates = moving_mean(&counts, SMOOTH);
        let squares: f64 = counts.iter().zip(&rates).map(|(count, rate)| (count - rate).powi(2)).sum();
        let total: f64 = rates.iter().sum();
        // A mean over n seconds takes 1/n of a single second's deviation with it.
        let dispersion = squares / total * SMOOTH as f64 / (SMOOTH as f64 - 1.0);
        let dispersion = if dispersion > POISSON_LIKE { dispersion } else { 1.0 };
        Ok(Traffic { rates, bursts: None, dispersion })
    }

    /// `factor` times as many requests at the same times.
    ///
    /// # Errors
    /// More than can be computed with.
    pub fn scaled(&self, factor: f64) -> Result<Traffic, TrafficError> {
        let rates: Vec<f64> = self.rates.iter().map(|rate| rate * factor).collect();
        let most = rates.iter().copied().fold(0.0, f64::max);
        if !(0.0..=HIGHEST).contains(&most) {
            return Err(TrafficError::TooMuch(Rate(most)));
        }
        Traffic { rates, ..self.clone() }.not_empty()
    }

    /// The traffic that has the very rates of a drawing, for its first `length`: what was sent can be drawn
    /// again with other arrivals only.
    pub fn of_path(&self, path: &Path, length: Seconds) -> Traffic {
        let rates = path.rates.iter().copied().take(length.0.ceil() as usize).collect();
        Traffic { rates, bursts: None, dispersion: self.dispersion }
    }

    /// A constant load: the rate that this traffic stays below for the share `below` of its time.
    pub(super) fn leveled(&self, below: f64, length: Seconds) -> Traffic {
        let mut sorted = self.rates.clone();
        sorted.sort_by(f64::total_cmp);
        let level = sorted.get((sorted.len() as f64 * below) as usize).copied().unwrap_or(0.0);
        Traffic { rates: vec![level; length.0 as usize], bursts: None, dispersion: 1.0 }
    }

    fn not_empty(self) -> Result<Traffic, TrafficError> {
        if self.rates.iter().sum::<f64>() > 0.0 { Ok(self) } else { Err(TrafficError::Empty) }
    }

    /// How long it lasts.
    pub fn length(&self) -> Seconds {
        Seconds(self.rates.len() as f64)
    }

    /// Mean rate.
    pub fn mean(&self) -> Rate {
        Rate(self.rates.iter().sum::<f64>() / self.rates.len().max(1) as f64)
    }

    /// Highest rate; with bursts, of their mean.
    pub fn peak(&self) -> Rate {
        Rate(self.rates.iter().copied().fold(0.0, f64::max))
    }

    /// Draws arrivals.
    pub fn draw(&self, seed: u64) -> Path {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let rates = match self.bursts {
            None => self.rates.clone(),
            Some((spread, memory)) => {
                let kept = (-1.0 / memory).exp();
                let fresh = spread * (1.0 - kept * kept).sqrt();
                let normal = |rng: &mut ChaCha8Rng| -> f64 { StandardNormal.sample(rng) };
                let mut deviation = spread * normal(&mut rng);
                let wander = |rate: &f64| {
                    deviation = kept * deviation + fresh * normal(&mut rng);
                    (rate * (deviation - spread * spread / 2.0).exp()).min(HIGHEST)
                };
                self.rates.iter().map(wander).collect()
            }
        };
        let mut arrivals_of = |rate: f64| -> f64 {
            let excess = self.dispersion - 1.0;
            let rate = match Gamma::new(rate / excess, excess) {
                Ok(gamma) if excess > 0.0 && rate > 0.0 => gamma.sample(&mut rng),
                _ => rate,
            };
            Poisson::new(rate).map_or(0.0, |poisson| poisson.sample(&mut rng))
        };
        let arrivals = rates.iter().map(|rate| arrivals_of(*rate)).collect();
        let noise = rates.iter().map(|_| StandardNormal.sample(&mut rng)).collect();
        Path { rates, arrivals, noise }
    }
}

fn check_length(length: f64) -> Result<(), TrafficError> {
    if (SHORTEST.0..=LONGEST.0).contains(&length) {
        Ok(())
    } else {
        Err(TrafficError::Length(Seconds(length)))
    }
}

/// Rates without what lasts shorter than half a minute.
pub(super) fn smoothed(rates: &[f64]) -> Vec<f64> {
    moving_mean(rates, SMOOTH)
}

/// The mean over `window` values around each; over fewer at the ends.
fn moving_mean(values: &[f64], window: usize) -> Vec<f64> {
    let mut sums = Vec::with_capacity(values.len() + 1);
    sums.push(0.0);
    for value in values {
        sums.push(sums.last().copied().unwrap_or(0.0) + value);
    }
    let mean = |i: usize| {
        let (from, to) = (i.saturating_sub(window / 2), (i + window.div_ceil(2)).min(values.len()));
        (sums[to] - sums[from]) / (to - from) as f64
    };
    (0..values.len()).map(mean).collect()
}

#[cfg(test)]
mod tests;
