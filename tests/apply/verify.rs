//! `calibrate verify` where nothing scales; `tests/flow.rs` has it where something does.

use super::api_server::answer::recording;
use super::api_server::{ApiServer, PodTimes};
use super::servers::{PORT, Servers};
use super::{DEPLOYMENT, HPA, active_status, fails, said};
use serde_json::Value;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;
use tempfile::TempDir;

/// A cluster with one replica and the sample's HPA, and the sample's run.
struct Stage {
    api: ApiServer,
    _servers: Servers,
    directory: TempDir,
}

impl Stage {
    fn new() -> Stage {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let api = ApiServer::start();
        api.pod_times(PodTimes { ready: Duration::from_millis(1500), ..PodTimes::default() });
        // No backend yet: the pods are ready after a while, as those of a server that loads its model.
        api.deployment(DEPLOYMENT, 1, &[(PORT, SocketAddr::from((Ipv4Addr::LOCALHOST, 1)))]);
        let servers = Servers::new();
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
        Stage { api, _servers: servers, directory }
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
