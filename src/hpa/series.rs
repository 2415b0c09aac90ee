//! A recorded metric played through the controller: replicas over time, and why.
//!
//! The load is as it was recorded, whatever the model does with the replicas (an open loop):
//! - A column per pod: these pods exist and report, each from its first value to its last.
//! - A total: the sum over all pods or series. For a Pods metric it is spread evenly over the replicas.
//!
//! A sync reads the newest row. One that is older than the adapter looks back is no answer.

use super::controller::Controller;
use super::replica_calculator::{Phase, Pod, Source, Workload};
use super::spec::{HpaSpec, MetricSpec};
use super::sync::{Flags, Reading, Synced};
use crate::units::{Milli, Seconds};

/// Syncs of one replay that are decided at most: half a year of them, 15 s apart.
const MOST_SYNCS: f64 = 1e6;
/// By how much a sync is later than a period after the one before, in seconds: the controller waits the period
/// only once it is done; of 416 that were recorded the median was 20 ms late. So what a window of 300 s holds is gone
/// after 20 syncs 15 s apart, although it would count at exactly 300 s.
const LATE: f64 = 0.01;

/// A recorded metric, or several. `columns` have one cell per time.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Series {
    /// When each row was recorded: rising.
    pub times: Vec<Seconds>,
    /// What was recorded.
    pub columns: Vec<Column>,
}

/// One column.
#[derive(Debug, Clone, PartialEq)]
pub struct Column {
    /// Which metric of the HPA it belongs to, by its place there.
    pub metric: usize,
    /// Whether it is the sum over all pods or series, rather than one of them.
    pub total: bool,
    /// The values. `None`: there was none.
    pub cells: Vec<Option<Milli>>,
}

/// How a series is played.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SeriesSettings {
    /// Replicas in the beginning.
    pub replicas: i32,
    /// Time between two syncs.
    pub period: Seconds,
    /// From the first row to the first sync. A new HPA is first looked at after one period.
    pub first_sync: Seconds,
    /// How old a row may be to be still read.
    pub look_back: Seconds,
    /// The controller's flags.
    pub flags: Flags,
}

/// What one sync did.
#[derive(Debug, Clone, PartialEq)]
pub struct SeriesSync {
    /// When, on the clock of the series.
    pub time: Seconds,
    /// Replicas before.
    pub before: i32,
    /// What happened.
    pub synced: Synced,
}

/// A series, played.
#[derive(Debug, Clone, PartialEq)]
pub struct SeriesReplay {
    /// In the order of time; at least one.
    pub syncs: Vec<SeriesSync>,
}

/// A series that is far longer than the time between two syncs.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[error("the series lasts {length}: with a sync every {period} that is more than {MOST_SYNCS:.0} syncs")]
pub struct TooManySyncs {
    length: Seconds,
    period: Seconds,
}

impl Series {
    /// Plays the series through the controller. There is at least one sync, also of an empty series.
    pub fn replay(&self, spec: &HpaSpec, settings: SeriesSettings) -> Result<SeriesReplay, TooManySyncs> {
        let SeriesSettings { period, first_sync, .. } = settings;
        let start = self.times.first().copied().unwrap_or_default();
        let length = self.times.last().copied().unwrap_or_default() - start;
        let more = ((length - first_sync).0 / period.0).floor().max(0.0);
        if more.is_nan() || more >= MOST_SYNCS {
            return Err(TooManySyncs { length, period });
        }
        let mut controller = Controller::default();
        let mut replicas = settings.replicas;
        let mut syncs = Vec::new();
        for sync in 0..=more as u32 {
            let time = start + first_sync + period * f64::from(sync);
            let metrics = spec.metrics.iter().enumerate();
            let readings: Vec<_> = metrics
                .map(|(place, metric)| self.reading(place, metric, replicas, time, settings.look_back))
                .collect();
            let now = time + Seconds(LATE * f64::from(sync));
            let synced = controller.sync_metrics(now, replicas, spec, settings.flags, &readings);
            let before = std::mem::replace(&mut replicas, synced.decision.replicas);
            syncs.push(SeriesSync { time, before, synced });
        }
        Ok(SeriesReplay { syncs })
    }

    /// What the metrics API answers at `now`.
    fn reading(
        &self,
        place: usize,
        metric: &MetricSpec,
        replicas: i32,
        now: Seconds,
        look_back: Seconds,
    ) -> Result<Reading, String> {
        let (source, name, _) = metric.resolve().map_err(|error| error.to_string())?;
        let row = self.times.partition_point(|time| *time <= now).checked_sub(1);
        let row = row.ok_or_else(|| format!("{name} has no value yet"))?;
        let age = now - self.times[row];
        if age > look_back {
            return Err(format!(
                "{name} has its last value {age} ago, and the adapter looks back {look_back}"
            ));
        }
        let columns = || self.columns.iter().filter(|column| column.metric == place);
        let cells = |column: &Column| column.cells.get(row).copied().flatten();
        let count = usize::try_from(replicas).unwrap_or(0);
        let samples: Vec<Option<Milli>> = match columns().find(|column| column.total).map(cells) {
            Some(total) if source == Source::Pods => spread(total, count),
            Some(total) => vec![total],
            None if source == Source::Pods => {
                columns().filter(|column| column.exists_at(row)).map(cells).collect()
            }
            None => columns().map(cells).collect(),
        };
        if samples.iter().all(Option::is_none) {
            return Err(format!("{name} has no value now: the metrics API returns an empty list"));
        }
        let pods = if source == Source::Pods { samples.len() } else { count };
        let pod = Pod { phase: Phase::Running, ready: true, deleted: false };
        let workload = Workload { spec_replicas: replicas, status_replicas: replicas, pods: vec![pod; pods] };
        Ok(Reading { samples, workload })
    }
}

impl Column {
    /// Whether a pod's column has begun and not ended at a row.
    fn exists_at(&self, row: usize) -> bool {
        let (until, from) = self.cells.split_at(row.min(self.cells.len()));
        from.iter().any(Option::is_some)
            && (until.iter().any(Option::is_some) || from.first().is_some_and(Option::is_some))
    }
}

/// A sum as samples of so many pods: whole milli-units that differ by at most one.
fn spread(total: Option<Milli>, pods: usize) -> Vec<Option<Milli>> {
    let (Some(Milli(total)), Ok(count)) = (total, i64::try_from(pods)) else { return vec![None; pods] };
    if count == 0 {
        return Vec::new();
    }
    let (each, rest) = (total.div_euclid(count), total.rem_euclid(count));
    (0..count).map(|pod| Some(Milli(each + i64::from(pod < rest)))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn spec(kind: &str, target: &str) -> HpaSpec {
        let source = json!({ "metric": { "name": "m" }, "target": { "type": "AverageValue", "averageValue": target } });
        serde_json::from_value(json!({
            "maxReplicas": 20,
            "metrics": [{ "type": kind, (kind.to_lowercase()): source }],
        }))
        .unwrap()
    }

    fn series(rows: &[(f64, &[Option<i64>])], total: bool) -> Series {
        let width = rows.first().map_or(0, |row| row.1.len());
        let column = |index: usize| Column {
            metric: 0,
            total,
            cells: rows.iter().map(|row| row.1[index].map(|value| Milli(value * 1000))).collect(),
        };
        Series {
            times: rows.iter().map(|row| Seconds(row.0)).collect(),
            columns: (0..width).map(column).collect(),
        }
    }

    fn settings(replicas: i32) -> SeriesSettings {
        SeriesSettings {
            replicas,
            period: Seconds(15.0),
            first_sync: Seconds(15.0),
            look_back: Seconds(300.0),
            flags: Flags::default(),
        }
    }

    fn replicas(series: &Series, spec: &HpaSpec, settings: SeriesSettings) -> Vec<i32> {
        series
            .replay(spec, settings)
            .unwrap()
            .syncs
            .iter()
            .map(|sync| sync.synced.decision.replicas)
            .collect()
    }

    #[test]
    fn a_total_is_held_against_the_replicas_of_the_model() {
        let load = series(&[(0.0, &[Some(30)]), (30.0, &[Some(90)]), (60.0, &[Some(90)])], true);
        assert_eq!(replicas(&load, &spec("External", "10"), settings(1)), [3, 6, 9, 9], "2 x per sync");
        assert_eq!(replicas(&load, &spec("Pods", "10"), settings(1)), [3, 6, 9, 9]);
    }

    #[test]
    fn a_column_per_pod_exists_from_its_first_value_to_its_last() {
        let rows: [(f64, &[Option<i64>]); 4] = [
            (0.0, &[Some(30), None]),
            (15.0, &[Some(30), Some(30)]),
            (30.0, &[None, Some(30)]),
            (45.0, &[Some(12), None]),
        ];
        let replay = series(&rows, false).replay(&spec("Pods", "10"), settings(2)).unwrap();
        let pods = |sync: usize| replay.syncs[sync].synced.decision.steps[0].clone();
        assert!(pods(0).starts_with("pods: 2 listed, 2 with a sample"), "{}", pods(0));
        assert!(pods(1).starts_with("pods: 2 listed, 1 with a sample, 1 without"), "{}", pods(1));
        assert!(pods(2).starts_with("pods: 1 listed, 1 with a sample"), "{}", pods(2));
    }

    #[test]
    fn what_is_missing_or_too_old_fails_the_metric_and_nothing_scales() {
        let gap = series(&[(0.0, &[Some(90)]), (16.0, &[None]), (600.0, &[None])], true);
        let long = SeriesSettings { look_back: Seconds(60.0), ..settings(2) };
        let replay = gap.replay(&spec("External", "10"), long).unwrap();
        let error = |sync: usize| replay.syncs[sync].synced.decision.error.clone().unwrap_or_default();
        assert_eq!(replay.syncs[0].synced.decision.replicas, 4);
        assert!(error(1).contains("empty list"), "{}", error(1));
        assert!(error(8).contains("looks back 60.0 s"), "{}", error(8));
        assert!(replay.syncs[1..].iter().all(|sync| sync.synced.decision.replicas == 4));
    }

    #[test]
    fn the_first_sync_comes_a_period_after_the_start_unless_told_otherwise() {
        let load = series(&[(100.0, &[Some(30)]), (131.0, &[Some(30)])], true);
        let times = |first: f64| {
            let settings = SeriesSettings { first_sync: Seconds(first), ..settings(1) };
            let replay = load.replay(&spec("External", "10"), settings).unwrap();
            replay.syncs.iter().map(|sync| sync.time.0).collect::<Vec<_>>()
        };
        assert_eq!(times(15.0), [115.0, 130.0]);
        assert_eq!(times(0.0), [100.0, 115.0, 130.0]);
        assert_eq!(times(60.0), [160.0], "there is always one");
    }

    #[test]
    fn a_replay_without_end_is_refused() {
        let load = series(&[(0.0, &[Some(30)]), (1e15, &[Some(30)])], true);
        let error = load.replay(&spec("External", "10"), settings(1)).unwrap_err().to_string();
        assert!(error.contains("more than 1000000 syncs"), "{error}");
    }

    #[test]
    fn a_total_is_spread_without_loss() {
        for (total, pods) in [(10, 3), (-10, 3), (0, 2), (7, 1)] {
            let sum: i64 = spread(Some(Milli(total)), pods).iter().flatten().map(|sample| sample.0).sum();
            assert_eq!(sum, total);
        }
        assert!(spread(Some(Milli(5)), 0).is_empty());
    }
}
