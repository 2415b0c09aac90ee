//! The whole way of a user on a cluster: a run, its target applied, verified under load while it scales, and rolled
//! back; each command with the Role that `calibrate manifests --rbac` writes for it and nothing else.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod api_server;
#[path = "apply/roles.rs"]
mod roles;
#[path = "apply/servers.rs"]
mod servers;

use api_server::answer::recording;
use api_server::{ApiServer, PodTimes};
use serde_json::{Value, json};
use servers::{DEPLOYMENT, PORT, Servers};
use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use tempfile::TempDir;

const HPA: &str = "gemma-server";
/// The gauges of the server, as the adapter calls them.
const METRICS: [(&str, &str); 2] = [
    ("prometheus.googleapis.com|tgi_batch_current_size|gauge", "tgi_batch_current_size"),
    ("prometheus.googleapis.com|tgi_queue_size|gauge", "tgi_queue_size"),
];

/// A cluster with the Deployment, a server behind each of its pods, an adapter that shows their gauges, and a
/// controller that scales by them.
struct World {
    api: Arc<ApiServer>,
    servers: Arc<Servers>,
    directory: TempDir,
    over: Arc<AtomicBool>,
    controller: Option<JoinHandle<()>>,
}

impl World {
    fn new() -> World {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let api = Arc::new(ApiServer::start());
        api.pod_times(PodTimes { ready: Duration::from_millis(1500), ..PodTimes::default() });
        api.deployment(DEPLOYMENT, 1, &[(PORT, SocketAddr::from((Ipv4Addr::LOCALHOST, 1)))]);
        api.hpa_controller(Duration::from_millis(50), |hpa| {
            let mut status = recording("hpa-get-with-status")["response"]["body"]["status"].clone();
            status["currentMetrics"][0]["pods"]["metric"] =
                hpa["spec"]["metrics"][0]["pods"]["metric"].clone();
            Some(status)
        });
        let (servers, over) = (Arc::new(Servers::new()), Arc::new(AtomicBool::new(false)));
        servers.stand_behind(&api);
        let controller = std::thread::spawn({
            let (api, servers, over) = (Arc::clone(&api), Arc::clone(&servers), Arc::clone(&over));
            move || {
                while !over.load(Ordering::Relaxed) {
                    control(&api, &servers);
                    std::thread::sleep(Duration::from_millis(500));
                }
            }
        });
        World { api, servers, directory: TempDir::new().unwrap(), over, controller: Some(controller) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Runs a command with the Role of its task and nothing else; gives what it did with it, too.
    fn calibrate(&self, task: &str, arguments: &[&str], out: Option<&Path>) -> (Output, BTreeSet<String>) {
        self.api.allow_only(&roles::documents(self.directory.path(), task));
        self.api.state().log.clear();
        let mut calibrate = Command::new(env!("CARGO_BIN_EXE_calibrate"));
        calibrate.args(arguments).stdin(Stdio::null()).env("KUBECONFIG", self.api.kubeconfig());
        if let Some(out) = out {
            calibrate.arg("--out").arg(out);
        }
        let output = calibrate.env_remove("KUBERNETES_SERVICE_HOST").output().unwrap();
        (output, self.api.permissions())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        let ended = self.controller.take().map(JoinHandle::join);
        assert!(std::thread::panicking() || !matches!(ended, Some(Err(_))), "the controller panicked");
    }
}

/// Shows the gauges in the adapter, and scales up as an HPA would, where there is one.
fn control(api: &ApiServer, servers: &Servers) {
    servers.stand_behind(api);
    for (metric, gauge) in METRICS {
        let values =
            servers.gauges(gauge).into_iter().map(|(pod, value)| (pod, format!("{value}"))).collect();
        api.state().custom.insert(metric.to_owned(), values);
    }
    let Some(hpa) = api.find("horizontalpodautoscalers", HPA) else { return };
    let pods = &hpa["spec"]["metrics"][0]["pods"];
    let metric = pods["metric"]["name"].as_str().unwrap();
    let target = pods["target"]["averageValue"].as_str().unwrap();
    let target = target
        .strip_suffix('m')
        .map_or_else(|| target.parse(), |milli| milli.parse::<f64>().map(|m| m / 1e3));
    let (_, gauge) = METRICS.into_iter().find(|(name, _)| *name == metric).unwrap();
    let sum: f64 = servers.gauges(gauge).into_values().sum();
    let current = api.pod_names("deployments", DEPLOYMENT).len() as u32;
    let wanted = ((sum / target.unwrap()).ceil() as u32).clamp(1, 5).max(current);
    if wanted > current {
        api.scale("deployments", DEPLOYMENT, wanted);
    }
    let average = format!("{:.0}m", sum / f64::from(current.max(1)) * 1000.0);
    api.change("horizontalpodautoscalers", HPA, |hpa| {
        hpa["status"]["desiredReplicas"] = wanted.into();
        hpa["status"]["currentMetrics"] = json!([{
            "type": "Pods", "pods": { "metric": { "name": metric }, "current": { "averageValue": average } },
        }]);
    });
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Measures until a run is valid: on a busy machine the client may be found too slow.
fn measured(world: &World) -> PathBuf {
    let arguments = [
        "run",
        "--deployment",
        &format!("default/{DEPLOYMENT}"),
        "--ramp=rate:4,10,15,18x9s",
        "--input-tokens=lognormal:mean=128,sd=64",
        "--output-tokens=lognormal:mean=48,sd=24",
        "--slo",
        "ttft:p95:1s",
        "--slo",
        "tpot:p95:50ms",
    ];
    for attempt in 1..=3 {
        let run = world.path(&format!("run-{attempt}"));
        let (output, _) = world.calibrate("run", &arguments, Some(&run));
        match output.status.code() {
            Some(0) => return run,
            Some(4) if attempt < 3 => {}
            _ => panic!("{}", said(&output)),
        }
    }
    unreachable!()
}

#[test]
fn a_target_is_measured_applied_verified_and_rolled_back() {
    let world = World::new();
    let before = world.api.object("deployments", DEPLOYMENT)["spec"].clone();
    let run = measured(&world);
    assert_eq!(world.api.object("deployments", DEPLOYMENT)["spec"], before);
    assert!(world.api.find("horizontalpodautoscalers", HPA).is_none());
    let recommended = fs::read_to_string(run.join("recommendation.json")).unwrap();
    let recommended: Value = serde_json::from_str(&recommended).unwrap();
    let capacity = recommended["capacity"]["requests_per_second_per_replica"].as_f64().unwrap();
    assert!((13.0..19.0).contains(&capacity), "the demo carries 15.8: {capacity}");

    let run = run.display().to_string();
    let (output, used) = world.calibrate("apply", &["apply", &run, "--allow-simulated", "--yes"], None);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let granted = roles::granted(&roles::documents(world.directory.path(), "apply"));
    assert_eq!(used, granted, "its Role, and all of it");
    let target = &world.api.object("horizontalpodautoscalers", HPA)["spec"]["metrics"][0]["pods"]["target"];
    assert_eq!(target["averageValue"], recommended["average_value"]);

    verified(&world, &run);

    let (output, _) = world.calibrate("rollback", &["rollback", &run, "--yes"], None);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert!(world.api.find("horizontalpodautoscalers", HPA).is_none(), "it was not there before");
}

fn verified(world: &World, run: &str) {
    let traffic = ["--traffic", "ramp:8..40@1m", "--max-duration", "15s", "--seeds", "20", "--json"];
    let pipeline = ["--startup", "2s", "--lag", "1s", "--scrape", "1s"];
    let out = world.path("verified");
    let arguments: Vec<&str> = ["verify", run].into_iter().chain(traffic).chain(pipeline).collect();
    let (output, used) = world.calibrate("verify", &arguments, Some(&out));
    let document: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", said(&output)));
    let exit = output.status.code().unwrap();
    // Whether it holds depends on how fast this machine is, but it must say the same everywhere.
    assert!([0, 3, 4].contains(&exit), "{}", said(&output));
    let holds = document["holds"] == true && document["client"]["verdict"] != "invalid";
    assert_eq!(exit == 0, holds, "{document}");
    assert!(document["requests"].as_u64().unwrap() > 100, "{document}");
    let reaction = |moment: &str| document["reaction"][moment].as_f64();
    assert!(reaction("decided").is_some() && reaction("served") >= reaction("decided"), "{document}");
    let predicted = &document["violations_predicted"];
    assert!(predicted["low"].as_f64() <= predicted["high"].as_f64(), "{document}");
    assert!(world.api.pod_names("deployments", DEPLOYMENT).len() > 1, "it was scaled");
    for file in ["run.json", "requests.csv", "autoscaler.jsonl", "timeline.csv", "verify.json"] {
        assert!(out.join(file).exists(), "{file} is missing");
    }
    let served = world.servers.gauges("tgi_request_count");
    assert!(served.len() > 1, "the load went to more than the first: {served:?}");
    let looks = fs::read_to_string(out.join("autoscaler.jsonl")).unwrap();
    assert!(looks.lines().count() >= 10, "{looks}");
    assert!(looks.lines().any(|line| line.contains("\"metric\":") && !line.contains("\"metric\":null")));
    let timeline = fs::read_to_string(out.join("timeline.csv")).unwrap();
    assert_eq!(timeline.lines().count(), 16, "{timeline}");
    let granted = roles::granted(&roles::documents(world.directory.path(), "verify"));
    assert_eq!(used, granted, "its Role, and all of it");
}
