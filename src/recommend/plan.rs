//! Capacity planning: what loads need at the SLO in replicas, GPUs and money, with the interval of the capacity
//! carried through; and what other limits would come to.

use crate::analyze::{Analysis, Known, Measured, Method, relative_capacity};
use crate::recommend::{Recommendation, Target};
use crate::units::{Rate, Replicas, Slo};
use serde::Serialize;

/// What is to be planned.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Demand {
    /// Loads on all replicas together. Empty: some round ones.
    pub loads: Vec<Rate>,
    /// What a GPU costs for an hour, in any currency.
    pub gpu_cost: Option<f64>,
    /// GPUs of a replica.
    pub gpus_per_replica: u32,
    /// The most replicas that the HPA may have. `None`: not known.
    pub max_replicas: Option<u32>,
}

/// A figure with the interval that the capacity's makes of it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Between<T> {
    /// At the capacity.
    pub value: T,
    /// The lowest within the interval.
    pub low: T,
    /// The highest within the interval.
    pub high: T,
}

impl<T: Copy> Between<T> {
    fn map<U: Copy + PartialOrd>(self, of: impl Fn(T) -> U) -> Between<U> {
        let (value, low, high) = (of(self.value), of(self.low), of(self.high));
        if low <= high { Between { value, low, high } } else { Between { value, low: high, high: low } }
    }
}

/// A plan.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Plan {
    /// Requests per second that a replica carries within the SLO.
    pub capacity: Between<Rate>,
    /// Replicas that share the load where it holds.
    pub replicas: Replicas,
    /// GPUs of a replica.
    pub gpus_per_replica: u32,
    /// What a GPU costs for an hour.
    pub gpu_cost: Option<f64>,
    /// Mean tokens of a request.
    pub tokens: Option<Tokens>,
    /// What a million tokens cost where every replica is used to its capacity, which is the least possible.
    pub per_million_at_capacity: Option<PerMillion>,
    /// What each load needs.
    pub rows: Vec<Row>,
    /// What other limits would come to, the run's own among them.
    pub alternatives: Vec<Alternative>,
    /// What is approximate, and why.
    pub approximate: Vec<String>,
}

/// Mean tokens of a request.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Tokens {
    /// Of the prompt.
    pub input: f64,
    /// Of the answer.
    pub output: f64,
}

/// The whole cost, laid on one million tokens of a kind. The three are the same money in three ways.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct PerMillion {
    /// All of it on prompt tokens.
    pub input: Between<f64>,
    /// All of it on answer tokens.
    pub output: Between<f64>,
    /// All of it on both together.
    pub both: Between<f64>,
}

/// What a load needs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Row {
    /// Requests per second in all.
    pub load: Rate,
    /// Replicas that carry it within the SLO.
    pub replicas: Between<u32>,
    /// GPUs of these.
    pub gpus: Between<u32>,
    /// The load as a share of what these replicas carry, 0 to 1.
    pub used: f64,
    /// The same once one of them is lost: above 1 the SLO breaks. `None`: there is only one.
    pub used_one_lost: Option<f64>,
    /// Replicas of which one can be lost.
    pub spare: Between<u32>,
    /// Replicas that the recommended HPA holds at this load at least, if it may have so many. `None`: nothing is recommended.
    pub autoscaled: Option<u32>,
    /// Cost of an hour.
    pub cost: Option<Between<f64>>,
    /// Cost of an hour with one replica to lose.
    pub cost_spare: Option<Between<f64>>,
    /// Cost of a million tokens, without the replica to lose.
    pub per_million: Option<PerMillion>,
}

/// Other limits.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Alternative {
    /// What the latency limits were multiplied by.
    pub factor: f64,
    /// The limits.
    pub slos: Vec<Slo>,
    /// What a replica carries within them. `None`: they are met at no load that was tried, or at every one.
    pub capacity: Option<Between<Rate>>,
    /// Replicas for each load of the plan.
    pub replicas: Vec<Between<u32>>,
    /// What a million tokens cost at that capacity.
    pub per_million: Option<PerMillion>,
}

/// What the latency limits are multiplied by.
const FACTORS: [f64; 5] = [0.5, 0.75, 1.0, 1.5, 2.0];
/// Half the 90 % interval that chance in a second play makes, as a share: plays of 6,000 and of 12,000 requests of one
/// server came out 1.7 % apart.
const PLAYED_AGAIN: f64 = 0.025;
/// Loads where none are named, as multiples of a replica's capacity, before they are rounded.
const ROUND_LOADS: [f64; 3] = [2.0, 10.0, 50.0];

/// Plans for the demand. `None` where the capacity is not known.
pub fn plan(
    analysis: &Analysis,
    measured: &Measured,
    known: &Known,
    recommendation: Option<&Recommendation>,
    demand: &Demand,
) -> Option<Plan> {
    let found = analysis.capacity.as_ref().ok()?;
    let capacity = Between { value: found.per_replica, low: found.low, high: found.high };
    if !(capacity.low.0 > 0.0 && capacity.value.0 > 0.0) {
        return None;
    }
    let loads = if demand.loads.is_empty() {
        ROUND_LOADS.map(|times| Rate(round(times * capacity.value.0))).to_vec()
    } else {
        demand.loads.clone()
    };
    let price = Price { demand, tokens: tokens(analysis, measured) };
    let acts_at = recommendation.and_then(|r| {
        let chosen = |target: &&Target| Some(target.signal) == r.recommended && target.average_value.is_ok();
        r.targets.iter().find(chosen)?.fires_at_load
    });
    let alternative = |factor: f64| {
        let slos: Vec<Slo> = analysis.slos.iter().map(|slo| slo.scaled(factor)).collect();
        let share =
            if factor == 1.0 { Some(1.0) } else { relative_capacity(analysis, measured, known, &slos) };
        let capacity = share.map(|share| scaled(capacity, share));
        Alternative {
            factor,
            slos,
            capacity,
            replicas: capacity
                .map(|c| loads.iter().map(|load| needed(*load, c)).collect())
                .unwrap_or_default(),
            per_million: capacity.and_then(|capacity| price.at_capacity(capacity)),
        }
    };
    let alternatives = FACTORS.map(alternative).to_vec();
    let rows: Vec<Row> = loads.iter().map(|load| row(*load, capacity, acts_at, &price)).collect();
    let mut approximate = approximate(found.method, found.replicas);
    approximate.splice(0..0, too_many(&rows, demand.max_replicas));
    Some(Plan {
        capacity,
        replicas: found.replicas,
        gpus_per_replica: demand.gpus_per_replica,
        gpu_cost: demand.gpu_cost,
        tokens: price.tokens,
        per_million_at_capacity: price.at_capacity(capacity),
        rows,
        alternatives,
        approximate,
    })
}

/// What is said where the SLO takes more replicas than the HPA may have.
fn too_many(rows: &[Row], most: Option<u32>) -> Option<String> {
    let most = most?;
    let row = rows.iter().find(|row| row.replicas.value > most)?;
    Some(format!(
        "the HPA's maxReplicas of {most} does not carry {}, which takes {} replicas: raise it with --max-replicas",
        row.load, row.replicas.value
    ))
}

fn approximate(method: Method, replicas: Replicas) -> Vec<String> {
    let by = match method {
        Method::ServerModel => {
            "other limits: the fitted server is played again under them with the same arrivals, with the relative interval of \
             the run's own and chance on top"
        }
        Method::Logistic | Method::Interpolation => {
            "other limits: read off the same steps by client latencies, and given the relative interval of the run's \
             own; nothing is known beyond the loads that were driven"
        }
    };
    vec![
        "replicas: a steady load over the capacity, rounded up; what the HPA holds besides is its reserve for growth until \
         new replicas serve"
            .to_owned(),
        format!(
            "the capacity is that of {replicas} sharing the load: more replicas behind one balancer smooth each other's \
             peaks and carry somewhat more each, which is left as a reserve"
        ),
        by.to_owned(),
        "cost: GPUs alone, used or not".to_owned(),
    ]
}

/// The capacity under other limits, which is so many times the run's own. Chance in the second play adds to the
/// interval.
fn scaled(capacity: Between<Rate>, share: f64) -> Between<Rate> {
    if share == 1.0 {
        return capacity;
    }
    let wider = |end: Rate| {
        let off = (end.0 / capacity.value.0).ln();
        Rate(capacity.value.0 * share * (off.hypot(PLAYED_AGAIN) * off.signum()).exp())
    };
    Between { value: Rate(capacity.value.0 * share), low: wider(capacity.low), high: wider(capacity.high) }
}

/// Mean tokens of the requests that the capacity holds for.
fn tokens(analysis: &Analysis, measured: &Measured) -> Option<Tokens> {
    let seen = || {
        let ok = measured.requests.iter().filter(|request| request.is_ok());
        ok.filter_map(|request| Some((request.input_tokens?, request.output_tokens?))).collect::<Vec<_>>()
    };
    let sizes = analysis.prediction.as_ref().map_or_else(|_| seen(), |p| p.workload.sizes.clone());
    let n = sizes.len() as f64;
    let mean = |of: fn(&(u32, u32)) -> u32| sizes.iter().map(|size| f64::from(of(size))).sum::<f64>() / n;
    (n > 0.0).then(|| Tokens { input: mean(|size| size.0), output: mean(|size| size.1) })
}

/// The replicas that carry a load.
fn needed(load: Rate, capacity: Between<Rate>) -> Between<u32> {
    capacity.map(|capacity| (load.0 / capacity.0 - 1e-9).ceil().max(1.0) as u32)
}

fn row(load: Rate, capacity: Between<Rate>, acts_at: Option<Rate>, price: &Price) -> Row {
    let replicas = needed(load, capacity);
    let spare = replicas.map(|n| n + 1);
    let used = |n: u32| load.0 / (f64::from(n) * capacity.value.0);
    Row {
        load,
        replicas,
        gpus: replicas.map(|n| n * price.demand.gpus_per_replica),
        used: used(replicas.value),
        used_one_lost: (replicas.value > 1).then(|| used(replicas.value - 1)),
        spare,
        autoscaled: acts_at.map(|acts_at| (load.0 / acts_at.0 - 1e-9).ceil().max(1.0) as u32),
        cost: price.of_replicas(replicas),
        cost_spare: price.of_replicas(spare),
        per_million: price.of_replicas(replicas).and_then(|cost| price.per_million(cost, load)),
    }
}

/// What things cost.
struct Price<'a> {
    demand: &'a Demand,
    tokens: Option<Tokens>,
}

impl Price<'_> {
    fn of_replicas(&self, replicas: Between<u32>) -> Option<Between<f64>> {
        let each = self.demand.gpu_cost? * f64::from(self.demand.gpus_per_replica);
        Some(replicas.map(|n| f64::from(n) * each))
    }

    /// An hour's cost, laid on the tokens that a load makes in an hour.
    fn per_million(&self, cost: Between<f64>, load: Rate) -> Option<PerMillion> {
        let Tokens { input, output } = self.tokens?;
        let on = |tokens: f64| {
            let millions = load.0 * 3600.0 * tokens / 1e6;
            cost.map(|cost| cost / millions)
        };
        (input > 0.0 && output > 0.0).then(|| PerMillion {
            input: on(input),
            output: on(output),
            both: on(input + output),
        })
    }

    fn at_capacity(&self, capacity: Between<Rate>) -> Option<PerMillion> {
        let each = self.demand.gpu_cost? * f64::from(self.demand.gpus_per_replica);
        // The cost of one request a second, spread over the tokens of one request a second.
        self.per_million(capacity.map(|rate| each / rate.0), Rate(1.0))
    }
}

/// The nearest of 1, 2 and 5 times a power of ten.
fn round(load: f64) -> f64 {
    let scale = 10_f64.powf(load.log10().floor());
    let digits = load / scale;
    scale
        * [1.0, 2.0, 5.0, 10.0]
            .into_iter()
            .min_by(|a, b| off(*a, digits).total_cmp(&off(*b, digits)))
            .unwrap_or(1.0)
}

fn off(a: f64, b: f64) -> f64 {
    (a / b).ln().abs()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn capacity() -> Between<Rate> {
        Between { value: Rate(4.0), low: Rate(3.5), high: Rate(4.5) }
    }

    fn demand() -> Demand {
        Demand { loads: Vec::new(), gpu_cost: Some(0.70), gpus_per_replica: 2, max_replicas: Some(5) }
    }

    #[test]
    fn a_load_needs_whole_replicas_and_one_more_to_lose_one() {
        let demand = demand();
        let price = Price { demand: &demand, tokens: Some(Tokens { input: 300.0, output: 100.0 }) };
        let row = row(Rate(40.0), capacity(), Some(Rate(2.5)), &price);
        assert_eq!(row.replicas, Between { value: 10, low: 9, high: 12 });
        assert_eq!(row.gpus, Between { value: 20, low: 18, high: 24 });
        assert_eq!(row.spare, Between { value: 11, low: 10, high: 13 });
        assert_eq!(row.autoscaled, Some(16));
        assert_eq!((row.used, row.used_one_lost), (1.0, Some(40.0 / 36.0)));
        let cost = row.cost.unwrap();
        assert!((cost.value - 14.0).abs() < 1e-9 && (cost.high - 16.8).abs() < 1e-9, "{cost:?}");
        // 40/s make 14.4 million output tokens and 57.6 million tokens an hour.
        let tokens = row.per_million.unwrap();
        assert!((tokens.output.value - 14.0 / 14.4).abs() < 1e-9, "{tokens:?}");
        assert!((tokens.both.value - 14.0 / 57.6).abs() < 1e-9, "{tokens:?}");
        assert!((tokens.input.high - 16.8 / 43.2).abs() < 1e-9, "{tokens:?}");
    }

    #[test]
    fn a_replica_used_to_its_capacity_has_the_cheapest_tokens() {
        let demand = demand();
        let price = Price { demand: &demand, tokens: Some(Tokens { input: 300.0, output: 100.0 }) };
        let least = price.at_capacity(capacity()).unwrap();
        // 1.4 an hour for 4/s, which are 1.44 million output tokens.
        assert!((least.output.value - 1.4 / 1.44).abs() < 1e-9);
        assert!(least.output.low < least.output.value && least.output.value < least.output.high);
        for load in [1.0, 3.9, 4.0, 4.1, 17.3, 400.0] {
            let row = row(Rate(load), capacity(), None, &price);
            assert!(row.per_million.unwrap().output.value >= least.output.value - 1e-9, "{load}");
        }
    }

    #[test]
    fn one_replica_is_needed_for_the_least_load_and_none_is_left_when_it_is_lost() {
        let demand = Demand { gpu_cost: None, ..demand() };
        let row = row(Rate(0.1), capacity(), None, &Price { demand: &demand, tokens: None });
        assert_eq!((row.replicas.value, row.used_one_lost, row.cost), (1, None, None));
    }

    #[test]
    fn a_load_of_exactly_the_capacity_needs_no_further_replica() {
        assert_eq!(needed(Rate(4.0 * 3.0), capacity()).value, 3);
        assert_eq!(
            needed(Rate(0.3 * 3.0), Between { value: Rate(0.3), low: Rate(0.3), high: Rate(0.3) }).value,
            3
        );
    }

    #[test]
    fn another_limit_widens_the_interval_and_the_own_one_does_not() {
        assert_eq!(scaled(capacity(), 1.0), capacity());
        let half = scaled(capacity(), 0.5);
        assert!((half.value.0 - 2.0).abs() < 1e-9);
        assert!(half.low.0 < 1.75 && half.low.0 > 1.74, "{half:?}");
        assert!(half.high.0 > 2.25 && half.high.0 < 2.26, "{half:?}");
    }

    #[test]
    fn loads_that_nobody_named_are_round() {
        assert_eq!([33.0, 166.0, 831.0, 0.07].map(round), [50.0, 200.0, 1000.0, 0.05]);
    }
}
