//! A recorded run of a real controller, decided again sync by sync.
//!
//! What a recording does not hold is taken as follows:
//! - Up to t = 0 nobody looked at the workload, so `before` shows a later state there: the controller began
//!   with `startReplicas`, and what `before` shows otherwise was set by hand in between.
//! - From t = 0 on the HPA is the one that the API server stored in the end (`final`), where that is given.
//! - Only requests for metrics are recorded. A metric without a request in a sync has failed.
//! - The controller syncs every 15 s. A sync out of that rhythm means it was restarted and remembers nothing.

use super::controller::{Controller, Decision};
use super::quantity::Quantity;
use super::replica_calculator::{Phase, Pod, Source, Workload};
use super::spec::{HpaSpec, MetricSpec};
use super::sync::{Flags, Reading};
use crate::units::{Milli, Seconds};
use serde::{Deserialize, Serialize};

/// Seconds between two syncs of a controller.
const PERIOD: f64 = 15.0;
/// By how many seconds a period may be longer.
const DRIFT: f64 = 0.5;
/// Requests of one sync lie closer together than this, in seconds.
const ONE_SYNC: f64 = 5.0;

/// A recorded run.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Recording {
    name: String,
    hpa: Vec<HpaSpec>,
    start_replicas: i32,
    syncs: Vec<Request>,
    #[serde(rename = "final")]
    stored: Option<Stored>,
}

/// The HPAs as the API server stored them.
#[derive(Debug, Clone, Deserialize)]
struct Stored {
    items: Vec<StoredHpa>,
}

#[derive(Debug, Clone, Deserialize)]
struct StoredHpa {
    spec: HpaSpec,
}

/// One request for one metric.
#[derive(Debug, Clone, Deserialize)]
struct Request {
    t: f64,
    metric: String,
    status: u16,
    #[serde(default)]
    values: Vec<Quantity>,
    before: Option<State>,
}

/// The workload before a sync.
#[derive(Debug, Clone, Copy, Deserialize)]
struct State {
    spec_replicas: i32,
    status_replicas: i32,
    pods_pending: u16,
    pods_running_unready: u16,
    pods_ready: u16,
    pods_terminating: u16,
}

/// The replicas after each recorded request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Replay {
    /// Name of the recording.
    pub name: String,
    /// `spec.replicas` after each sync.
    pub spec_replicas_after: Vec<i32>,
    /// How each came about.
    pub reasons: Vec<String>,
}

/// Decides a recorded run again.
pub(super) fn replay(recording: &Recording) -> Replay {
    let mut replay =
        Replay { name: recording.name.clone(), spec_replicas_after: Vec::new(), reasons: Vec::new() };
    let mut controller = Controller::default();
    let mut replicas = recording.start_replicas;
    let mut last: Option<f64> = None;
    for requests in syncs(&recording.syncs) {
        let Some(first) = requests.first() else { continue };
        if last.is_some_and(|last| is_restart(first.t - last)) {
            controller = Controller::default();
        }
        last = Some(first.t);
        let seen = first.before.map_or(replicas, |before| before.spec_replicas);
        if first.t >= 0.0 {
            replicas = seen;
        }
        let decision = match recording.spec_at(first.t) {
            Ok(spec) => sync(&mut controller, spec, replicas, requests),
            Err(reason) => Decision { replicas, steps: vec![reason.to_owned()], ..Decision::default() },
        };
        let (mut after, mut steps) = (decision.replicas, decision.steps);
        if first.t < 0.0 && seen != replicas && seen != after {
            steps.push(format!("someone then set {seen} replicas by hand"));
            after = seen;
        }
        replicas = after;
        replay.spec_replicas_after.extend(requests.iter().map(|_| after));
        replay.reasons.extend(requests.iter().map(|_| steps.join("; ")));
    }
    replay
}

impl Recording {
    /// The HPA in force, or why the controller leaves the workload alone.
    fn spec_at(&self, t: f64) -> Result<&HpaSpec, &'static str> {
        let stored = self.stored.as_ref().filter(|_| t >= 0.0).and_then(|stored| stored.items.first());
        match self.hpa.as_slice() {
            [] => Err("there is no HPA"),
            [given] => Ok(stored.map_or(given, |stored| &stored.spec)),
            _ => Err("AmbiguousSelector: more than one HPA selects these pods, so none scales"),
        }
    }
}

/// The requests in groups that belong to one sync: close together, each for another metric.
fn syncs(requests: &[Request]) -> Vec<&[Request]> {
    let mut groups = Vec::new();
    let mut rest = requests;
    while let Some(first) = rest.first() {
        let length = (1..rest.len())
            .find(|i| {
                rest[*i].t - first.t > ONE_SYNC || rest[..*i].iter().any(|one| one.metric == rest[*i].metric)
            })
            .unwrap_or(rest.len());
        let (group, others) = rest.split_at(length);
        groups.push(group);
        rest = others;
    }
    groups
}

/// Whether a gap between two syncs is no whole number of periods. A shorter one is an extra request.
fn is_restart(gap: f64) -> bool {
    let periods = (gap / PERIOD).floor();
    periods >= 1.0 && gap - periods * PERIOD > DRIFT * periods
}

fn sync(controller: &mut Controller, spec: &HpaSpec, replicas: i32, requests: &[Request]) -> Decision {
    let readings: Vec<_> = spec.metrics.iter().map(|metric| reading(metric, replicas, requests)).collect();
    let now = Seconds(requests.first().map_or(0.0, |request| request.t));
    controller.sync_metrics(now, replicas, spec, Flags::default(), &readings).decision
}

fn reading(metric: &MetricSpec, replicas: i32, requests: &[Request]) -> Result<Reading, String> {
    let (source, name, _) = metric.resolve().map_err(|error| error.to_string())?;
    // External metric names are lower-cased on the wire.
    let request = requests.iter().find(|request| request.metric.eq_ignore_ascii_case(name));
    let request = request.ok_or_else(|| format!("{name} was not answered"))?;
    if request.status != 200 {
        return Err(format!("{name} was answered with status {}", request.status));
    }
    let samples: Vec<Option<Milli>> = request.values.iter().map(|value| Some(value.milli())).collect();
    let reporting = if source == Source::Pods { samples.len() } else { 0 };
    Ok(Reading { workload: workload(request, replicas, reporting), samples })
}

/// The workload as it was seen. Which pods the values belong to is not recorded: ready ones come first, and
/// pods that report but were not seen are new.
fn workload(request: &Request, replicas: i32, reporting: usize) -> Workload {
    let state = request.before.filter(|before| before.spec_replicas == replicas).unwrap_or(State {
        spec_replicas: replicas,
        status_replicas: replicas,
        pods_ready: u16::try_from(replicas).unwrap_or(0),
        pods_pending: 0,
        pods_running_unready: 0,
        pods_terminating: 0,
    });
    let pods = |count: u16, phase, ready, deleted| vec![Pod { phase, ready, deleted }; usize::from(count)];
    let mut pods = [
        pods(state.pods_ready, Phase::Running, true, false),
        pods(state.pods_running_unready, Phase::Running, false, false),
        pods(state.pods_pending, Phase::Pending, false, false),
        pods(state.pods_terminating, Phase::Running, false, true),
    ]
    .concat();
    let seen = pods.len();
    pods.resize(seen.max(reporting), Pod { phase: Phase::Running, ready: true, deleted: false });
    Workload { spec_replicas: replicas, status_replicas: state.status_replicas, pods }
}
