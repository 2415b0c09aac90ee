//! Looks at the autoscaler once a second while the load goes on, and lets connections go to the pods that
//! are ready.

use crate::cluster::{Cluster, Forwarder, Standing, Target, as_json, kinds, standing};
use crate::commands::apply::Place;
use crate::replay::Look;
use crate::units::Seconds;
use kube_quantity::ParsedQuantity;
use serde_json::{Value, json};
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Time between two looks.
const EVERY: Duration = Duration::from_secs(1);
/// The looks, in the run directory.
const FILE: &str = "autoscaler.jsonl";

/// A look and when it was.
#[derive(Debug, Clone)]
pub(super) struct Timed {
    pub(super) at: jiff::Timestamp,
    /// Its own time is not set yet.
    pub(super) look: Look,
}

/// What is watched.
pub(super) struct Watcher {
    pub(super) cluster: Cluster,
    pub(super) target: Target,
    pub(super) place: Place,
    pub(super) forwarder: Option<Forwarder>,
    /// Where the looks are recorded, once there is a run in it.
    pub(super) directory: PathBuf,
}

/// A watcher at work.
pub(super) struct Watching {
    stop: oneshot::Sender<()>,
    task: JoinHandle<Vec<Timed>>,
}

impl Watching {
    /// The looks so far, and no more of them.
    pub(super) async fn finish(self) -> Vec<Timed> {
        drop(self.stop);
        self.task.await.unwrap_or_default()
    }
}

impl Watcher {
    pub(super) fn start(self) -> Watching {
        let (stop, stopped) = oneshot::channel();
        Watching { stop, task: tokio::spawn(self.watch(stopped)) }
    }

    async fn watch(self, mut stopped: oneshot::Receiver<()>) -> Vec<Timed> {
        let mut looks: Vec<Timed> = Vec::new();
        let (mut written, mut failing) = (0, false);
        let mut ticks = tokio::time::interval(EVERY);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                _ = &mut stopped => break,
            }
            match self.look().await {
                Ok(timed) => {
                    failing = false;
                    looks.push(timed);
                }
                Err(error) => {
                    if !failing {
                        tracing::warn!("the autoscaler cannot be looked at: {error:#}");
                    }
                    failing = true;
                }
            }
            written += self.record(&looks[written..]);
        }
        self.record(&looks[written..]);
        looks
    }

    async fn look(&self) -> anyhow::Result<Timed> {
        let Place { namespace, name } = &self.place;
        let hpa = self.cluster.find(kinds::HPA, namespace, name).await?;
        let hpa = hpa.as_ref().map(as_json);
        let pods = self.target.pods(&self.cluster).await?;
        let at = jiff::Timestamp::now();
        let ready: Vec<_> = pods.iter().filter(|pod| pod.ready).cloned().collect();
        if let Some(forwarder) = &self.forwarder {
            forwarder.serve(&ready);
        }
        let look = Look {
            time: Seconds::ZERO,
            wanted: hpa
                .as_ref()
                .and_then(|hpa| u32::try_from(hpa.pointer("/status/desiredReplicas")?.as_i64()?).ok())
                .filter(|wanted| *wanted > 0),
            replicas: pods.iter().filter(|pod| !pod.ending).count() as u32,
            ready: ready.len() as u32,
            metric: hpa.as_ref().and_then(metric),
            not_scaling: match hpa.as_ref().map(standing) {
                None => Some("the HPA is gone".to_owned()),
                Some(Standing::Active(_)) => None,
                Some(Standing::Waiting(reason) | Standing::Stuck(reason)) => Some(reason),
            },
        };
        Ok(Timed { at, look })
    }

    /// Appends looks to the record, once there is one. Gives how many were written.
    fn record(&self, looks: &[Timed]) -> usize {
        if !self.directory.join("run.json").exists() {
            return 0;
        }
        let file = std::fs::OpenOptions::new().create(true).append(true).open(self.directory.join(FILE));
        let write = |mut file: std::fs::File| {
            looks.iter().try_for_each(|Timed { at, look }| {
                let line = json!({
                    "time_utc": at.to_string(), "wanted": look.wanted, "replicas": look.replicas,
                    "ready": look.ready, "metric": look.metric, "not_scaling": look.not_scaling,
                });
                writeln!(file, "{line}")
            })
        };
        match file.and_then(write) {
            Ok(()) => looks.len(),
            Err(error) => {
                tracing::warn!("{FILE} cannot be written: {error}");
                looks.len()
            }
        }
    }
}

/// The first metric in the HPA's status: per replica, or as a whole.
fn metric(hpa: &Value) -> Option<f64> {
    let current = hpa.pointer("/status/currentMetrics/0")?;
    let current =
        ["pods", "external", "object"].iter().find_map(|source| current.get(source)?.get("current"))?;
    let text = current.get("averageValue").or_else(|| current.get("value"))?.as_str()?;
    ParsedQuantity::try_from(text).ok()?.to_bytes_f64()
}
