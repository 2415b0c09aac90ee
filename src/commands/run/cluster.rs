//! A run on a workload in a cluster: found, held still, reached, watched, and left as it was.

mod first_answer;

use super::live::Live;
use super::setup;
use crate::cli::console::Console;
use crate::cli::{Exit, Failure, OrExit};
use crate::cluster::{
    self, Autoscaler, AutoscalerKind, Change, Choice, Cluster, ClusterError, Forwarder, Hold, HoldError,
    Journal, LeaseTimes, Rule, Target, TargetError, TargetName, Task, Way, Wish, kinds, pods, pods::Pod,
};
use crate::commands::server;
use crate::measurement::{Event, PodStart, RunClock};
use crate::record::{self, CLUSTER_CHANGES, write_file};
use crate::scenario::{ClusterSettings, Scenario, Settings, Via};
use crate::units::Seconds;
use anyhow::anyhow;
use futures::FutureExt;
use std::io;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::AbortHandle;
use tokio::time::Instant;

/// How long replicas may take to come: a node, an image, a model.
const COME: Duration = Duration::from_secs(30 * 60);
/// Time between two looks at pods that are to come.
const LOOK: Duration = Duration::from_millis(500);
/// The name of a run in the lease: that of its directory.
fn run_name(directory: &Path) -> String {
    directory.file_name().map_or_else(|| "run".to_owned(), |name| name.to_string_lossy().into_owned())
}

/// A workload that was found. Nothing is changed yet.
pub(super) struct Found {
    cluster: Cluster,
    target: Target,
    scenario: Scenario,
    directory: PathBuf,
    version: String,
    /// The one HPA on it, whose name and bounds a new one takes over.
    hpa: Option<Autoscaler>,
    console: Console,
}

/// A cluster that a command speaks to.
pub(in crate::commands) async fn connect(context: Option<&str>) -> Result<Cluster, Failure> {
    cluster::connect(context).await.map_err(|error| {
        let exit = match error {
            ClusterError::NoContext { .. } | ClusterError::NoCurrentContext(_) => Exit::Usage,
            _ => Exit::Failed,
        };
        Failure { exit, error: error.into() }
    })
}

/// The workload of a scenario.
pub(in crate::commands) async fn target_of(
    cluster: &Cluster,
    scenario: &Scenario,
    name: &str,
) -> Result<Target, Failure> {
    let name: TargetName = name.parse().or_exit(Exit::Usage)?;
    let choice =
        Choice { container: scenario.cluster.container.as_deref(), port: scenario.workload.port.as_deref() };
    Target::read(cluster, &name, &choice).await.map_err(|error| {
        let exit = match error {
            TargetError::Cluster(_) => Exit::Failed,
            _ => Exit::Usage,
        };
        Failure { exit, error: error.into() }
    })
}

/// What the user may not do of that which a run needs, by asking the API server for every right.
pub(in crate::commands) async fn missing_rights(
    cluster: &Cluster,
    target: &Target,
    scenario: &Scenario,
) -> Result<Vec<String>, ClusterError> {
    let denied = cluster::denied(cluster, &target.namespace, &needed(target, scenario)).await?;
    Ok(denied.iter().flat_map(|rule| rule.asked(&target.namespace)).map(|asked| asked.to_string()).collect())
}

/// The rights that a run needs.
pub(in crate::commands) fn needed(target: &Target, scenario: &Scenario) -> Vec<Rule> {
    let changes = scenario.workload.pause_autoscaler == Some(true) || scenario.settings.replicas.is_some();
    let task = if changes { Task::PausedRun } else { Task::Run };
    let mut rules = cluster::rules(task, target.workload.kind(), &[]);
    if scenario.workload.via != Some(Via::Service) {
        rules.retain(|rule| rule.resource != kinds::SERVICE.plural);
    }
    rules
}

/// What to say of an autoscaler that a tool keeps in step with its own source.
fn may_be_undone(autoscaler: &Autoscaler) -> Option<String> {
    let owner = autoscaler.owner.as_ref().filter(|owner| owner.reconciles())?;
    Some(format!(
        "{} belongs to {} ({}), which may undo the pause while the load runs: suspend its sync for that time",
        autoscaler.what(),
        owner.tool,
        owner.sign
    ))
}

fn hold_failure(error: HoldError) -> Failure {
    let exit = match error {
        HoldError::Autoscaled { .. } | HoldError::Bounds { .. } => Exit::Usage,
        _ => Exit::Failed,
    };
    Failure { exit, error: error.into() }
}

impl Found {
    /// Finds the workload that a scenario names, if it names one; says in which cluster, what would be changed,
    /// and asks whether it may be.
    pub(super) async fn look(
        scenario: &Scenario,
        directory: PathBuf,
        yes: bool,
        console: Console,
    ) -> Result<Option<Found>, Failure> {
        let Some(name) = &scenario.workload.deployment else { return Ok(None) };
        let cluster = connect(scenario.workload.context.as_deref()).await?;
        console.note(&format!("cluster: {}", cluster.identity()));
        let version = cluster.version().await.or_exit(Exit::Failed)?;
        let target = target_of(&cluster, scenario, name).await?;
        let gpus = match target.gpus {
            0 => String::new(),
            gpus => format!(", {gpus} GPU"),
        };
        console.note(&format!(
            "target: {}, {} replicas, container {} port {}{gpus}{}",
            target.what(),
            target.replicas,
            target.container,
            target.port,
            target.model.as_ref().map_or(String::new(), |model| format!(", model {model}")),
        ));
        let mut hpas = cluster::autoscalers(&cluster, &target).await.or_exit(Exit::Failed)?;
        if scenario.workload.pause_autoscaler == Some(true) {
            hpas.iter().filter_map(may_be_undone).for_each(|warning| console.warn(&warning));
        }
        hpas.retain(|one| one.kind == AutoscalerKind::Hpa);
        let hpa = if hpas.len() == 1 { hpas.pop() } else { None };
        let found = Found { cluster, target, scenario: scenario.clone(), directory, version, hpa, console };
        let changes =
            cluster::plan(&found.cluster, &found.target, &found.wish("")).await.map_err(hold_failure)?;
        let missing = missing_rights(&found.cluster, &found.target, scenario).await.or_exit(Exit::Failed)?;
        if !missing.is_empty() {
            let missing = missing.join("; may not ");
            let error = anyhow!("may not {missing}; grant that: calibrate manifests --rbac writes the Roles");
            return Err(error).or_exit(Exit::Failed);
        }
        if !changes.iter().any(|change| matches!(change, Change::Scaled { .. })) {
            found.target.ready_pods(&found.cluster).await.or_exit(Exit::Failed)?;
        }
        found.ask(&changes, yes).await?;
        Ok(Some(found))
    }

    fn wish<'a>(&self, run: &'a str) -> Wish<'a> {
        Wish {
            run,
            pause: self.scenario.workload.pause_autoscaler == Some(true),
            replicas: self.scenario.settings.replicas,
            times: LeaseTimes::default(),
        }
    }

    /// Asks whether changes may be made; where nobody can be asked they must have been allowed.
    async fn ask(&self, changes: &[Change], yes: bool) -> Result<(), Failure> {
        if changes.is_empty() {
            return Ok(());
        }
        for change in changes {
            self.console.note(&format!("for the time of the run: {}", said(change)));
        }
        if yes {
            return Ok(());
        }
        let place = self.cluster.identity();
        let question = format!("change this in {place}, and put it back afterwards?");
        let console = self.console;
        let answer = tokio::task::spawn_blocking(move || console.confirm(&question));
        match answer.await.or_exit(Exit::Failed)? {
            Some(true) => Ok(()),
            Some(false) => {
                Err(anyhow!("nothing was changed, since you did not say yes")).or_exit(Exit::Interrupted)
            }
            None => {
                Err(anyhow!("this changes objects in {place}; add --yes to allow it")).or_exit(Exit::Usage)
            }
        }
    }

    /// Holds the workload still. To be run to its end, so that nothing is changed half.
    pub(super) async fn hold(self) -> Result<Held, Failure> {
        let path = self.directory.join(CLUSTER_CHANGES);
        let run = run_name(&self.directory);
        let before = self.target.pods(&self.cluster).await.or_exit(Exit::Failed)?;
        let written = std::sync::Mutex::new(None);
        let write = |journal: &Journal| {
            write_journal(&path, journal)?;
            if let Ok(mut written) = written.lock() {
                *written = Some(journal.clone());
            }
            Ok(())
        };
        let hold =
            Hold::take(&self.cluster, &self.target, &self.wish(&run), write).await.map_err(hold_failure)?;
        let journal = written.into_inner().ok().flatten();
        Ok(Held { found: self, hold, before, journal })
    }
}

fn write_journal(path: &Path, journal: &Journal) -> io::Result<()> {
    let text = serde_json::to_string_pretty(journal)?;
    write_file(path, text.as_bytes()).map_err(io::Error::other)
}

/// What a change is, for people.
fn said(change: &Change) -> String {
    match change {
        Change::Paused { kind, name, .. } => format!("pause {} {name}", kind.kind().kind),
        Change::Scaled { workload, name, from, to } => {
            format!("scale {} {name} from {from} to {to}", workload.kind().kind)
        }
    }
}

/// A workload that is held still.
pub(super) struct Held {
    found: Found,
    hold: Hold,
    before: Vec<Pod>,
    journal: Option<Journal>,
}

/// The way to the pods of a workload.
pub(super) struct Reached {
    /// The scenario with what the cluster's objects say.
    pub scenario: Scenario,
    cluster: Cluster,
    target: Target,
    pods: Vec<Pod>,
    starts: Vec<PodStart>,
    load: Option<Arc<Forwarder>>,
    _metrics: Vec<Forwarder>,
    lost: tokio::sync::watch::Receiver<Option<String>>,
}

impl Held {
    /// Waits for the pods and opens the way to them.
    pub(super) async fn reach(&self) -> Result<Reached, Failure> {
        let Found { cluster, target, scenario, console, .. } = &self.found;
        let wanted = scenario.settings.replicas.unwrap_or(target.replicas);
        let (pods, new) = self.wait_for(wanted).await?;
        let inside = cluster.identity().context.is_none();
        let via = scenario.workload.via.unwrap_or(if inside { Via::PodIp } else { Via::PortForward });
        let way = if via == Via::PodIp { Way::Direct } else { Way::PortForward };
        let forward = async |pods: &[Pod], port: u16| {
            Forwarder::start(cluster, &target.namespace, way, pods, port).await.or_exit(Exit::Failed)
        };
        let load = match via {
            Via::Service => None,
            _ => Some(Arc::new(forward(&pods, target.port.number).await?)),
        };
        let url = match &load {
            Some(load) => load.url(),
            None => cluster::service_url(cluster, target, scenario.workload.service.as_deref())
                .await
                .or_exit(Exit::Usage)?,
        };
        if via == Via::PortForward {
            console.note("load goes by port-forward through the API server, which adds to every latency; for figures to rely on run inside the cluster");
        }
        let (port, path) = metrics_at(scenario, target)?;
        let (mut metrics, mut own) = (Vec::new(), Vec::new());
        for pod in &pods {
            metrics.push(forward(std::slice::from_ref(pod), port).await?);
            own.push(forward(std::slice::from_ref(pod), target.port.number).await?);
        }
        let urls: Vec<String> = metrics.iter().map(|one| format!("{}/{path}", one.url())).collect();
        let starts = self.starts(&pods, &new, &own).await;
        Ok(Reached {
            scenario: self.scenario(&pods, url, urls)?,
            cluster: cluster.clone(),
            target: target.clone(),
            pods,
            starts,
            load,
            _metrics: metrics,
            lost: self.hold.lost(),
        })
    }

    /// Waits until so many pods are ready and no others are there. Gives them, and the names of the new ones.
    async fn wait_for(&self, wanted: u32) -> Result<(Vec<Pod>, Vec<String>), Failure> {
        let Found { cluster, target, console, .. } = &self.found;
        let start = tokio::time::Instant::now();
        let mut told = String::new();
        loop {
            let mut pods = target.pods(cluster).await.or_exit(Exit::Failed)?;
            pods.retain(|pod| !pod.ending);
            if pods.len() as u32 == wanted && pods.iter().all(|pod| pod.ready) {
                let is_new = |pod: &&Pod| !self.before.iter().any(|old| old.uid == pod.uid);
                let new = pods.iter().filter(is_new).map(|pod| pod.name.clone()).collect();
                return Ok((pods, new));
            }
            let ready = pods.iter().filter(|pod| pod.ready).count();
            let mut state = format!("waiting for {wanted} ready pods, there are {ready}");
            if ready < pods.len() {
                state = format!("{state}; {}", cluster::waiting(&pods));
            }
            if start.elapsed() > COME {
                return Err(anyhow!("{} did not come to {wanted} ready pods: {state}", target.what()))
                    .or_exit(Exit::Failed);
            }
            if state != told {
                console.note(&state);
                told = state;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// How long the pods took to start; those that came for this run up to their first answer: until they were
    /// ready, and from the first question on, since they are asked one after the other when all are.
    async fn starts(&self, pods: &[Pod], new: &[String], own: &[Forwarder]) -> Vec<PodStart> {
        let Found { cluster, target, console, .. } = &self.found;
        let mut starts = Vec::new();
        for (pod, way) in pods.iter().zip(own) {
            // Without the right to read events the rest is still known.
            let pulled = pods::pulled(cluster, &target.namespace, pod).await.ok().flatten();
            let Some(mut start) = pod.start(pulled) else { continue };
            if new.contains(&pod.name) {
                let asked = Instant::now();
                if first_answer::wait(&way.url()).await {
                    let after = Seconds(asked.elapsed().as_secs_f64());
                    start.first_completion = start.ready.map(|ready| ready + after);
                }
                console.note(&format!("pod {} took {} to serve", pod.name, shown(&start)));
            } else if let Some(ready) = start.ready {
                let name = &pod.name;
                console
                    .note(&format!("pod {name} took {ready} to be ready; less, if it was so more than once"));
            }
            starts.push(start);
        }
        starts
    }

    /// The scenario with what the objects say. Recorded is the workload, and not the local addresses.
    fn scenario(&self, pods: &[Pod], url: String, metrics: Vec<String>) -> Result<Scenario, Failure> {
        let Found { target, scenario, directory, .. } = &self.found;
        let mut settings = scenario.settings.clone();
        settings.out = Some(directory.clone());
        settings.replicas = Some(pods.len() as u32);
        if target.gpus > 1 && settings.gpus_per_replica.is_none_or(|gpus| gpus == 1) {
            settings.gpus_per_replica = Some(target.gpus);
        }
        self.name(&mut settings.cluster);
        let recorded = Settings { target: None, metrics_url: None, preset: None, ..settings.clone() };
        settings.target = Some(url);
        settings.metrics_url = Some(metrics);
        settings.sources.pod = Some(pods.iter().map(|pod| pod.name.clone()).collect());
        let mut resolved = settings.resolve().or_exit(Exit::Usage)?;
        resolved.settings = recorded;
        Ok(resolved)
    }

    /// Fills in the names for the manifests that the user did not give.
    fn name(&self, names: &mut ClusterSettings) {
        let Found { cluster, target, version, hpa, .. } = &self.found;
        let port = match &target.port.name {
            Some(name) => format!("{name}:{}", target.port.number),
            None => target.port.number.to_string(),
        };
        let label = target.label.as_ref().map(|(key, value)| match key.as_str() {
            "app" => value.clone(),
            key => format!("{key}={value}"),
        });
        let gke = cluster.identity().gke();
        let (min, max) = hpa.as_ref().and_then(|hpa| hpa.bounds).unzip();
        let found = ClusterSettings {
            deployment: Some(target.name.clone()),
            hpa_name: hpa.as_ref().map(|hpa| hpa.name.clone()),
            namespace: Some(target.namespace.clone()),
            app: label,
            container: Some(target.container.clone()),
            metrics_port: Some(port),
            project: gke.map(|[project, ..]| project.to_owned()),
            cluster_version: Some(version.clone()),
            prometheus_address: None,
            dcgm_namespace: None,
            cluster_name: gke.map(|[.., name]| name.to_owned()),
            location: gke.map(|[_, location, _]| location.to_owned()),
            min_replicas: min,
            max_replicas: max,
        };
        *names = std::mem::take(names).over(found);
    }

    /// Leaves the workload as it was found, and says so in the run's directory.
    pub(super) async fn release(self) -> Result<(), Failure> {
        let changed = !self.hold.changes().is_empty();
        let what = self.found.target.what();
        self.hold.release().await.map_err(hold_failure)?;
        if changed {
            self.found.console.note(&format!("{what} and what scales it are as they were"));
        }
        let path = self.found.directory.join(CLUSTER_CHANGES);
        if !self.found.directory.join(record::RUN).exists() {
            // Nothing was measured: what was changed for it and put back tells nothing, and is not to be in the way.
            let _ = std::fs::remove_file(&path);
            let _ = std::fs::remove_dir(&self.found.directory);
        } else if let Some(journal) = self.journal {
            write_journal(&path, &Journal { restored: true, ..journal }).or_exit(Exit::Failed)?;
        }
        Ok(())
    }
}

/// The times of a start, for people.
fn shown(start: &PodStart) -> String {
    let steps = [
        ("scheduled", start.scheduled),
        ("image", start.pulled),
        ("container", start.started),
        ("ready", start.ready),
        ("first answer", start.first_completion),
    ];
    let steps = steps.iter().filter_map(|(name, time)| Some(format!("{name} at {}", (*time)?)));
    let whole =
        start.first_completion.or(start.ready).map_or_else(|| "?".to_owned(), |time| time.to_string());
    format!("{whole} ({})", steps.collect::<Vec<_>>().join(", "))
}

/// The port and path of a pod's metrics.
fn metrics_at(scenario: &Scenario, target: &Target) -> Result<(u16, String), Failure> {
    let given = scenario.cluster.metrics_port.as_deref();
    let given = given.and_then(|port| port.rsplit(':').next()?.parse().ok());
    if scenario.server == "auto" {
        return Ok((given.unwrap_or(target.port.number), "metrics".to_owned()));
    }
    let profile = server::named(&scenario.server)?;
    let port = given.or(profile.metrics_port).unwrap_or(target.port.number);
    Ok((port, profile.metrics_path.trim_start_matches('/').to_owned()))
}

/// What looks at the cluster while there is load; it ends when this is dropped.
pub(super) struct Watching(Vec<AbortHandle>);

impl Drop for Watching {
    fn drop(&mut self) {
        self.0.iter().for_each(AbortHandle::abort);
    }
}

impl Reached {
    /// Records the starts of the pods, and from now on what happens to them; a lease that is lost ends the run.
    pub(super) fn watch(&self, live: &Arc<Live>, clock: RunClock) -> Watching {
        for start in &self.starts {
            live.record_event(Event::PodStarted { time: clock.now(), start: start.clone() });
        }
        let load = self.load.clone();
        let sink: Arc<dyn crate::observe::Sink> = Arc::clone(live) as Arc<dyn crate::observe::Sink>;
        let leave_out = move |pod: &str| {
            if let Some(load) = &load {
                load.leave_out(pod);
            }
        };
        let (cluster, target, pods) = (self.cluster.clone(), self.target.clone(), self.pods.clone());
        let watch = tokio::spawn(pods::watch(cluster, target, pods, clock, sink, leave_out));
        let (mut lost, live) = (self.lost.clone(), Arc::clone(live));
        let lease = tokio::spawn(async move {
            let lost = lost.wait_for(Option::is_some).await.ok().and_then(|reason| reason.clone());
            if let Some(reason) = lost {
                live.set_fault(reason);
            }
        });
        Watching(vec![watch.abort_handle(), lease.abort_handle()])
    }
}

/// Does `work` with something that is held, and then `back`, also where `work` panics; the panic goes on
/// afterwards.
pub(super) async fn and_back<H, T, R>(
    held: H,
    work: impl AsyncFnOnce(&H) -> T,
    back: impl AsyncFnOnce(H) -> R,
) -> (T, R) {
    let worked = AssertUnwindSafe(work(&held)).catch_unwind().await;
    let back = back(held).await;
    match worked {
        Ok(worked) => (worked, back),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// The directory of a run, before there is anything in it.
pub(super) fn directory(scenario: &Scenario) -> PathBuf {
    setup::directory(scenario, jiff::Timestamp::now())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[tokio::test]
    async fn the_way_back_is_gone_after_success_failure_and_panic() {
        for outcome in ["succeeds", "fails", "panics"] {
            let back = AtomicBool::new(false);
            let work = async |held: &&str| match *held {
                "succeeds" => Ok(()),
                "fails" => Err("failed"),
                _ => panic!("{held}"),
            };
            let both = and_back(outcome, work, async |_| back.store(true, Ordering::SeqCst));
            let ended = AssertUnwindSafe(both).catch_unwind().await.map(|(worked, ())| worked);
            assert!(back.load(Ordering::SeqCst), "{outcome}");
            match outcome {
                "succeeds" => assert_eq!(ended.unwrap(), Ok(())),
                "fails" => assert_eq!(ended.unwrap(), Err("failed")),
                _ => assert!(ended.is_err()),
            }
        }
    }
}
