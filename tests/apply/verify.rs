//! `calibrate verify` against an API server whose pods are simulated servers, and a controller that scales
//! them by the metric that they show.

use super::api_server::answer::recording;
use super::api_server::{ApiServer, PodTimes};
use super::{DEPLOYMENT, HPA, active_status, fails, rbac, said};
use calibrate::simulator::{Preset, Running, serve};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tempfile::TempDir;

const PORT: u16 = 8000;
/// The batch that a replica of the demo may have, as the sample's HPA wants it.
const TARGET: f64 = 6.223;

/// Simulated servers, one for each pod.
struct Servers {
    runtime: tokio::runtime::Runtime,
    by_pod: Mutex<BTreeMap<String, Running>>,
}

impl Servers {
    fn new() -> Servers {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        Servers { runtime, by_pod: Mutex::default() }
    }

    /// Every pod has a server of its own behind its port.
    fn stand_behind(&self, api: &ApiServer) {
        for pod in api.pod_names("deployments", DEPLOYMENT) {
            let mut servers = self.by_pod.lock().unwrap();
            servers.entry(pod.clone()).or_insert_with(|| {
                let config = Preset::by_name("demo").unwrap().config();
                let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
                let running = self.runtime.block_on(serve(config, address)).unwrap();
                api.serve_pod(&pod, &[(PORT, running.addr())]);
                running
            });
        }
    }

    /// The number behind a line of the metrics of each server that shows it.
    fn gauges(&self, name: &str) -> Vec<f64> {
        let addresses: Vec<SocketAddr> = self.by_pod.lock().unwrap().values().map(Running::addr).collect();
        let read = |address| {
            let text = self.runtime.block_on(async {
                reqwest::get(format!("http://{address}/metrics")).await.ok()?.text().await.ok()
            })?;
            text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
        };
        addresses.into_iter().filter_map(read).collect()
    }
}

/// A cluster with one replica and the sample's HPA, and the sample's run.
struct Stage {
    api: Arc<ApiServer>,
    servers: Arc<Servers>,
    directory: TempDir,
}

impl Stage {
    fn new() -> Stage {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let api = Arc::new(ApiServer::start());
        api.pod_times(PodTimes { ready: Duration::from_millis(1500), ..PodTimes::default() });
        // No backend yet: the pods are ready after a while, as those of a server that loads its model.
        api.deployment(DEPLOYMENT, 1, &[(PORT, SocketAddr::from((Ipv4Addr::LOCALHOST, 1)))]);
        let servers = Arc::new(Servers::new());
        servers.stand_behind(&api);
        let manifest = fs::read_to_string(sample().join("hpa-batch.yaml")).unwrap();
        let mut hpa = serde_saphyr::from_str::<Value>(&manifest).unwrap();
        hpa["status"] = active_status();
        let metric = hpa["spec"]["metrics"][0]["pods"]["metric"].clone();
        hpa["status"]["currentMetrics"][0]["pods"]["metric"] = metric;
        hpa["status"]["desiredReplicas"] = 1.into();
        api.put("autoscaling", "horizontalpodautoscalers", Some("default"), hpa);
        let directory = TempDir::new().unwrap();
        copy(&sample(), directory.path());
        Stage { api, servers, directory }
    }

    fn verify(&self, arguments: &[&str]) -> Output {
        let mut calibrate = Command::new(env!("CARGO_BIN_EXE_calibrate"));
        calibrate.arg("verify").arg(self.directory.path()).args(arguments);
        calibrate.args(["--seeds", "20", "--json", "--out"]).arg(self.out());
        calibrate.env("KUBECONFIG", self.api.kubeconfig()).output().unwrap()
    }

    fn out(&self) -> PathBuf {
        self.directory.path().join("verified")
    }
}

fn sample() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("reports/sample")
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}

fn document(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", said(output)))
}

/// Scales as an HPA would, by the batch of all servers, twice a second.
fn control(api: &ApiServer, servers: &Servers, over: &AtomicBool) {
    while !over.load(Ordering::Relaxed) {
        servers.stand_behind(api);
        let batches = servers.gauges("tgi_batch_current_size");
        let sum: f64 = batches.iter().sum();
        let wanted = ((sum / TARGET).ceil() as u32).clamp(1, 5);
        let current = api.pod_names("deployments", DEPLOYMENT).len() as u32;
        let wanted = wanted.max(current);
        if wanted > current {
            api.scale("deployments", DEPLOYMENT, wanted);
        }
        api.change("horizontalpodautoscalers", HPA, |hpa| {
            hpa["status"]["desiredReplicas"] = wanted.into();
            let average = format!("{:.0}m", sum / f64::from(current.max(1)) * 1000.0);
            hpa["status"]["currentMetrics"] = json!([{
                "type": "Pods",
                "pods": { "metric": { "name": super::METRIC }, "current": { "averageValue": average } },
            }]);
        });
        std::thread::sleep(Duration::from_millis(500));
    }
}

#[test]
fn replicas_that_come_are_seen_used_and_held_against_the_prediction() {
    let stage = Stage::new();
    let role = rbac::documents(stage.directory.path(), "verify");
    stage.api.allow_only(&role);
    let granted = rbac::granted(&role);
    let over = Arc::new(AtomicBool::new(false));
    let controller = std::thread::spawn({
        let (api, servers, over) = (Arc::clone(&stage.api), Arc::clone(&stage.servers), Arc::clone(&over));
        move || control(&api, &servers, &over)
    });
    let load = [
        "--traffic",
        "ramp:8..40@1m",
        "--max-duration",
        "15s",
        "--startup",
        "2s",
        "--lag",
        "1s",
        "--scrape",
        "1s",
    ];
    let output = stage.verify(&load);
    over.store(true, Ordering::Relaxed);
    controller.join().unwrap();
    let document = document(&output);
    let exit = output.status.code().unwrap();
    // Whether it holds depends on how fast this machine is, but it must say the same everywhere.
    assert!([0, 3, 4].contains(&exit), "{}", said(&output));
    assert_eq!(
        exit == 0,
        document["holds"] == true && document["client"]["verdict"] != "invalid",
        "{document}"
    );
    assert!(document["requests"].as_u64().unwrap() > 100, "{document}");
    assert!(document["reaction"]["decided"].as_f64().is_some(), "{document}");
    assert!(
        document["reaction"]["served"].as_f64() >= document["reaction"]["decided"].as_f64(),
        "{document}"
    );
    let predicted = &document["violations_predicted"];
    assert!(predicted["low"].as_f64() <= predicted["high"].as_f64(), "{document}");
    assert!(stage.servers.by_pod.lock().unwrap().len() > 1, "it was scaled");
    let served = stage.servers.gauges("tgi_request_count");
    assert!(served.len() > 1, "the load went to more than the first: {served:?}");
    for file in ["run.json", "requests.csv", "autoscaler.jsonl", "timeline.csv", "verify.json"] {
        assert!(stage.out().join(file).exists(), "{file} is missing");
    }
    let looks = fs::read_to_string(stage.out().join("autoscaler.jsonl")).unwrap();
    assert!(looks.lines().count() >= 10, "{looks}");
    assert!(looks.lines().any(|line| line.contains("\"metric\":") && !line.contains("\"metric\":null")));
    let timeline = fs::read_to_string(stage.out().join("timeline.csv")).unwrap();
    assert_eq!(timeline.lines().count(), 16, "{timeline}");
    assert_eq!(stage.api.permissions(), granted, "its Role, and all of it");
}

#[test]
fn a_target_that_never_scales_does_not_hold_and_the_reason_is_said() {
    let stage = Stage::new();
    let status = recording("adapter-down-hpa")["response"]["body"]["status"].clone();
    stage.api.change("horizontalpodautoscalers", HPA, |hpa| hpa["status"] = status);
    let output = stage.verify(&[
        "--traffic",
        "constant:40@1m",
        "--max-duration",
        "8s",
        "--startup",
        "1s",
        "--lag",
        "1s",
        "--scrape",
        "1s",
    ]);
    let exit = output.status.code().unwrap();
    assert!([3, 4].contains(&exit), "{}", said(&output));
    let document = document(&output);
    assert_eq!(document["holds"], false, "{document}");
    let reasons = document["reasons"].to_string();
    assert!(reasons.contains("the HPA could not scale: FailedGetPodsMetric"), "{reasons}");
    assert_eq!(document["reaction"]["served"], Value::Null);
}

#[test]
fn without_an_hpa_or_with_too_little_traffic_nothing_is_sent() {
    let stage = Stage::new();
    stage.api.delete("horizontalpodautoscalers", HPA);
    let text = fails(&stage.verify(&["--traffic", "constant:5@1m"]), 2);
    assert!(
        text.contains("there is no HPA 'gemma-server'") && text.contains("'calibrate apply' makes it"),
        "{text}"
    );
    let text = fails(&stage.verify(&["--traffic", "constant:5@1m", "--max-duration", "1s"]), 2);
    assert!(text.contains("--max-duration leaves less than 5s"), "{text}");
    assert!(!stage.out().exists());
}
