//! `calibrate apply` and `calibrate rollback` as a user runs them, against a stateful API server.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod api_server;
#[path = "apply/image.rs"]
mod image;
#[path = "apply/rbac.rs"]
mod rbac;
#[path = "apply/roles.rs"]
mod roles;
#[path = "apply/servers.rs"]
mod servers;
#[path = "apply/verify.rs"]
mod verify;

use api_server::ApiServer;
use api_server::answer::{Answer, recording};
use serde_json::{Value, json};
use servers::DEPLOYMENT;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;
use tempfile::TempDir;

const METRIC: &str = "prometheus.googleapis.com|tgi_batch_current_size|gauge";
const QUEUE: &str = "prometheus.googleapis.com|tgi_queue_size|gauge";
const HPA: &str = "gemma-server";

/// A cluster with the Deployment that the sample's manifests name, and the files of the sample that an apply
/// reads.
struct Stage {
    api: ApiServer,
    directory: TempDir,
}

impl Stage {
    fn new() -> Stage {
        let api = ApiServer::start();
        api.deployment(DEPLOYMENT, 1, &[]);
        let pod = api.pod_names("deployments", DEPLOYMENT)[0].clone();
        for metric in [METRIC, QUEUE] {
            api.state().custom.entry(metric.to_owned()).or_default().insert(pod.clone(), "3".to_owned());
        }
        api.hpa_controller(Duration::from_millis(50), |hpa| {
            let mut status = active_status();
            let metric = &hpa["spec"]["metrics"][0]["pods"]["metric"];
            status["currentMetrics"][0]["pods"]["metric"] = metric.clone();
            Some(status)
        });
        let directory = TempDir::new().unwrap();
        for file in ["recommendation.json", "hpa-batch.yaml", "hpa-queue.yaml"] {
            let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("reports/sample").join(file);
            fs::copy(sample, directory.path().join(file)).unwrap();
        }
        Stage { api, directory }
    }

    fn run(&self) -> &Path {
        self.directory.path()
    }

    fn calibrate(&self, command: &str, arguments: &[&str]) -> Output {
        let mut calibrate = Command::new(env!("CARGO_BIN_EXE_calibrate"));
        calibrate.arg(command).arg(self.run()).args(arguments).stdin(Stdio::null());
        calibrate.env("KUBECONFIG", self.api.kubeconfig()).output().unwrap()
    }

    fn apply(&self, arguments: &[&str]) -> Output {
        self.calibrate("apply", &[&["--allow-simulated"], arguments].concat())
    }

    /// The records of applies, the oldest first.
    fn records(&self) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(self.run().join("applied")) else { return Vec::new() };
        let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
        paths.sort();
        paths
    }

    fn hpa(&self) -> Value {
        self.api.object("horizontalpodautoscalers", HPA)
    }

    fn has_hpa(&self) -> bool {
        self.api.find("horizontalpodautoscalers", HPA).is_some()
    }

    /// Verbs that change something which were used, dry runs left out.
    fn writes(&self) -> Vec<String> {
        let changes = |verb: &str| matches!(verb, "create" | "update" | "patch" | "delete");
        let log = self.api.log().into_iter();
        let log = log.filter(|asked| changes(&asked.verb) && !asked.dry_run());
        log.filter(|asked| !asked.resource.starts_with("selfsubject"))
            .map(|asked| format!("{} {}", asked.verb, asked.resource))
            .collect()
    }
}

fn active_status() -> Value {
    recording("hpa-get-with-status")["response"]["body"]["status"].clone()
}

/// The target that the sample run recommends, as its manifest has it.
fn target() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("reports/sample/hpa-batch.yaml");
    let text = fs::read_to_string(path).unwrap();
    let (_, rest) = text.split_once("\n        averageValue: ").unwrap();
    rest.lines().next().unwrap().to_owned()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn succeeds(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{}", said(output));
    said(output)
}

fn fails(output: &Output, code: i32) -> String {
    assert_eq!(output.status.code(), Some(code), "{}", said(output));
    said(output)
}

#[test]
fn a_new_hpa_is_applied_watched_and_rolled_back_to_nothing() {
    let stage = Stage::new();
    let text = succeeds(&stage.apply(&["--yes"]));
    for part in [
        "cluster   context loopback, cluster loopback-cluster at http://127.0.0.1:",
        "object    HorizontalPodAutoscaler default/gemma-server",
        "is there: 1 pods, the first with 3",
        &format!("+        averageValue: {}", target()),
        "applied   hpa-batch.yaml",
        "scaling   the HPA was able to successfully calculate",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    let hpa = stage.hpa();
    assert_eq!(hpa["spec"]["metrics"][0]["pods"]["target"]["averageValue"], target());
    assert_eq!(hpa["metadata"]["managedFields"][0]["manager"], "calibrate");
    assert_eq!(hpa["metadata"]["managedFields"][0]["operation"], "Apply");
    let created = ["patch horizontalpodautoscalers", "create horizontalpodautoscalers"];
    assert_eq!(stage.writes(), created);
    let text = succeeds(&stage.calibrate("rollback", &["--yes"]));
    assert!(text.contains("deleted   the HPA 'gemma-server'"), "{text}");
    assert!(!stage.has_hpa());
    let text = fails(&stage.calibrate("rollback", &["--yes"]), 2);
    assert!(text.contains("holds no apply that was not rolled back"), "{text}");
}

#[test]
fn an_existing_hpa_comes_back_byte_by_byte_with_its_owners() {
    let stage = Stage::new();
    let behavior = json!({ "scaleDown": { "stabilizationWindowSeconds": 77, "selectPolicy": "Min" } });
    let before = stage.api.hpa(HPA, DEPLOYMENT, Some(behavior));
    // The recorded object belongs to another manager, so the fields must be taken over.
    let text = succeeds(&stage.apply(&["--yes", "--force-conflicts"]));
    assert!(text.contains("fields are taken over: 'tool-a' owns .spec.metrics"), "{text}");
    assert!(text.contains("-        averageValue: 3600m"), "{text}");
    let applied = stage.hpa();
    assert_ne!(applied["spec"], before["spec"]);
    // The controller writes the status between the look and the change, so the first try is stale.
    stage.api.fail("update", "horizontalpodautoscalers", 0, 1, Answer::recorded("put-409-conflict"));
    let text = succeeds(&stage.calibrate("rollback", &["--yes"]));
    assert!(text.contains("restored  the HPA 'gemma-server'"), "{text}");
    let after = stage.hpa();
    assert_eq!(after["spec"].to_string(), before["spec"].to_string());
    // The status is its controller's.
    let owners = |object: &Value| {
        let all = object["metadata"]["managedFields"].as_array().unwrap().clone();
        all.into_iter().filter(|entry| entry["subresource"] != "status").collect::<Vec<_>>()
    };
    assert_eq!(owners(&after), owners(&before));
}

#[test]
fn a_conflict_names_the_owner_and_writes_nothing() {
    let stage = Stage::new();
    let before = stage.api.hpa(HPA, DEPLOYMENT, None);
    let text = fails(&stage.apply(&["--yes"]), 1);
    assert!(text.contains("'tool-a' owns .spec.metrics"), "{text}");
    assert!(text.contains("--force-conflicts"), "{text}");
    assert_eq!(stage.hpa()["spec"], before["spec"]);
    assert!(stage.writes().is_empty() && stage.records().is_empty());
}

#[test]
fn a_dry_run_shows_the_change_and_writes_nothing() {
    let stage = Stage::new();
    let output = stage.apply(&["--dry-run", "--json", "--metric", "queue"]);
    succeeds(&output);
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["dry_run"], true);
    assert_eq!(document["written"], false);
    assert_eq!(document["manifest"], "hpa-queue.yaml");
    assert_eq!(document["context"], "loopback");
    assert!(document["diff"].as_str().unwrap().contains("+        averageValue: 909m"), "{document}");
    assert!(!stage.has_hpa() && stage.writes().is_empty() && stage.records().is_empty());
}

#[test]
fn where_nobody_can_be_asked_it_takes_yes() {
    let stage = Stage::new();
    let text = fails(&stage.apply(&[]), 2);
    assert!(text.contains("stdin is no terminal; add --yes to change the HPA 'gemma-server'"), "{text}");
    assert!(text.contains("+  minReplicas: 1"), "the change is shown all the same: {text}");
    assert!(!stage.has_hpa() && stage.writes().is_empty());
}

#[test]
fn an_apply_of_the_same_changes_nothing() {
    let stage = Stage::new();
    succeeds(&stage.apply(&["--yes"]));
    let text = succeeds(&stage.apply(&["--yes"]));
    assert!(text.contains("is as hpa-batch.yaml wants it already"), "{text}");
    assert_eq!(stage.records().len(), 1);
    assert_eq!(stage.writes().iter().filter(|write| write.starts_with("patch")).count(), 1);
}

#[test]
fn several_applies_are_rolled_back_one_by_one() {
    let stage = Stage::new();
    succeeds(&stage.apply(&["--yes"]));
    let first = stage.hpa()["spec"].clone();
    succeeds(&stage.apply(&["--yes", "--metric", "queue"]));
    assert_eq!(stage.records().len(), 2);
    succeeds(&stage.calibrate("rollback", &["--yes"]));
    assert_eq!(stage.hpa()["spec"], first);
    succeeds(&stage.calibrate("rollback", &["--yes"]));
    assert!(!stage.has_hpa());
}

#[test]
fn what_somebody_else_changed_since_is_not_undone_unless_by_force() {
    let stage = Stage::new();
    let before = stage.api.hpa(HPA, DEPLOYMENT, None);
    succeeds(&stage.apply(&["--yes", "--force-conflicts"]));
    stage.api.change("horizontalpodautoscalers", HPA, |hpa| hpa["spec"]["maxReplicas"] = 9.into());
    let text = fails(&stage.calibrate("rollback", &["--yes"]), 1);
    assert!(text.contains("somebody has changed it since") && text.contains("+  maxReplicas: 9"), "{text}");
    assert_eq!(stage.hpa()["spec"]["maxReplicas"], 9);
    succeeds(&stage.calibrate("rollback", &["--yes", "--force"]));
    assert_eq!(stage.hpa()["spec"], before["spec"]);
}

#[test]
fn one_that_somebody_deleted_is_made_again_only_by_force() {
    let stage = Stage::new();
    let before = stage.api.hpa(HPA, DEPLOYMENT, None);
    succeeds(&stage.apply(&["--yes", "--force-conflicts"]));
    stage.api.delete("horizontalpodautoscalers", HPA);
    let text = fails(&stage.calibrate("rollback", &["--yes"]), 1);
    assert!(text.contains("somebody has deleted it since"), "{text}");
    let text = succeeds(&stage.calibrate("rollback", &["--yes", "--force"]));
    assert!(text.contains("made      the HPA"), "{text}");
    assert_eq!(stage.hpa()["spec"], before["spec"]);
}

#[test]
fn an_older_cluster_that_drops_the_tolerance_is_found_out() {
    let stage = Stage::new();
    let file = stage.run().join("hpa-batch.yaml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("    scaleUp:\n", "    scaleUp:\n      tolerance: 0.05\n")).unwrap();
    let kept = succeeds(&stage.apply(&["--dry-run"]));
    assert!(!kept.contains("dropped"), "{kept}");
    stage.api.version(34);
    let text = succeeds(&stage.apply(&["--yes"]));
    assert!(text.contains("spec.behavior.scaleUp.tolerance: 0.05 was dropped"), "{text}");
    assert!(text.contains("Kubernetes before 1.35"), "{text}");
    assert!(stage.hpa()["spec"]["behavior"]["scaleUp"].get("tolerance").is_none());
}

#[test]
fn an_old_cluster_that_repeats_metrics_in_a_dry_run_changes_nothing_the_second_time() {
    let stage = Stage::new();
    stage.api.version(20);
    succeeds(&stage.apply(&["--yes"]));
    let text = succeeds(&stage.apply(&["--yes"]));
    assert!(text.contains("is as hpa-batch.yaml wants it already"), "{text}");
    let text = succeeds(&stage.apply(&["--yes", "--metric", "queue"]));
    assert!(!text.contains("is stored as"), "{text}");
    assert_eq!(stage.hpa()["spec"]["metrics"].as_array().map(Vec::len), Some(1));
}

#[test]
fn without_an_adapter_it_is_refused_unless_it_is_wanted_so() {
    let stage = Stage::new();
    stage.api.state().adapter_down = true;
    let text = fails(&stage.apply(&["--yes"]), 1);
    assert!(text.contains("would not see") && text.contains("service unavailable (HTTP 503)"), "{text}");
    assert!(text.contains("--allow-missing-metric"), "{text}");
    assert!(!stage.has_hpa());
    let status = recording("adapter-down-hpa")["response"]["body"]["status"].clone();
    stage.api.hpa_controller(Duration::from_millis(20), move |_| Some(status.clone()));
    let text = fails(&stage.apply(&["--yes", "--allow-missing-metric", "--wait", "2s"]), 1);
    assert!(text.contains("does not scale after 2") && text.contains("FailedGetPodsMetric"), "{text}");
    assert!(stage.has_hpa(), "it is applied");
}

#[test]
fn a_metric_that_is_not_there_yet_is_a_warning() {
    let stage = Stage::new();
    stage.api.state().custom.insert(METRIC.to_owned(), std::collections::BTreeMap::new());
    let text = succeeds(&stage.apply(&["--dry-run"]));
    assert!(
        text.contains("answers and has no value of prometheus.googleapis.com|tgi_batch_current_size"),
        "{text}"
    );
}

#[test]
fn a_permission_that_lacks_is_named_before_anything_is_done() {
    let stage = Stage::new();
    stage.api.deny("patch autoscaling/horizontalpodautoscalers");
    let text = fails(&stage.apply(&["--yes"]), 1);
    assert!(text.contains("patch on horizontalpodautoscalers of autoscaling"), "{text}");
    assert!(text.contains("rbac-apply.yaml"), "{text}");
    assert!(stage.api.permissions().is_empty(), "{:?}", stage.api.permissions());
}

#[test]
fn an_hpa_that_a_tool_keeps_is_left_alone_and_its_change_is_a_file() {
    for (metadata, tool) in [
        (
            json!({ "annotations": { "argocd.argoproj.io/tracking-id": "llm:autoscaling/HorizontalPodAutoscaler" } }),
            "Argo CD",
        ),
        (
            json!({ "labels": { "app.kubernetes.io/managed-by": "Helm" }, "annotations": { "meta.helm.sh/release-name": "llm" } }),
            "Helm",
        ),
    ] {
        let stage = Stage::new();
        stage.api.hpa(HPA, DEPLOYMENT, None);
        stage.api.change("horizontalpodautoscalers", HPA, |hpa| {
            for (field, value) in metadata.as_object().unwrap() {
                hpa["metadata"][field] = value.clone();
            }
        });
        let before = stage.hpa();
        let text = fails(&stage.apply(&["--yes", "--force-conflicts"]), 1);
        assert!(text.contains(&format!("belongs to {tool} (llm")), "{text}");
        assert_eq!(stage.hpa(), before);
        let patch = fs::read_to_string(stage.run().join("applied/patch-gemma-server.yaml")).unwrap();
        assert!(patch.contains(&format!("averageValue: {}", target())) && patch.contains(tool), "{patch}");
    }
}

#[test]
fn a_second_hpa_on_the_same_deployment_would_stop_both() {
    let stage = Stage::new();
    stage.api.hpa("another", DEPLOYMENT, None);
    let text = fails(&stage.apply(&["--yes"]), 1);
    assert!(text.contains("the HPA 'another' scales the Deployment 'tgi-gemma-deployment' too"), "{text}");
    assert!(!stage.has_hpa());
}

#[test]
fn what_is_missing_in_the_cluster_or_the_kubeconfig_is_said() {
    let stage = Stage::new();
    let text = fails(&stage.apply(&["--yes", "--context", "nowhere"]), 2);
    assert!(text.contains("no context 'nowhere', it has loopback"), "{text}");
    let with = |kubeconfig: &str| {
        let mut apply = Command::new(env!("CARGO_BIN_EXE_calibrate"));
        apply.args(["apply", "--allow-simulated", "--yes"]).arg(stage.run());
        fails(&apply.env("KUBECONFIG", stage.run().join(kubeconfig)).output().unwrap(), 1)
    };
    let text = with("none");
    assert!(text.contains("none'") || text.contains("none\""), "the path is named: {text}");
    assert!(text.contains("set KUBECONFIG"), "{text}");
    for (damage, place) in [("users: [{name: a, user: {token: s3cret}]", "line 2"), ("users: s3cret", "")] {
        fs::write(stage.run().join("damaged"), format!("kind: Config\n{damage}\n")).unwrap();
        let text = with("damaged");
        assert!(text.contains("cannot be read as one") && text.contains(place), "{text}");
        assert!(!text.contains("s3cret"), "a token is shown: {text}");
    }
    stage.api.require_token("good", false);
    let text = fails(&stage.apply(&["--yes"]), 1);
    assert!(text.contains("does not accept the credentials (HTTP 401)"), "{text}");
    assert!(!text.contains("expired\""), "the token is not shown: {text}");
}

#[test]
fn a_deployment_that_is_not_there_is_nothing_to_scale() {
    let stage = Stage::new();
    let file = stage.run().join("hpa-batch.yaml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("name: tgi-gemma-deployment", "name: other")).unwrap();
    let text = fails(&stage.apply(&["--yes"]), 1);
    assert!(text.contains("there is no Deployment 'other' in the namespace default"), "{text}");
}

#[test]
fn a_number_from_the_simulated_server_is_not_applied_unless_it_is_wanted_so() {
    let stage = Stage::new();
    let text = fails(&stage.calibrate("apply", &["--yes"]), 2);
    assert!(text.contains("was measured on the embedded simulated server"), "{text}");
    assert!(stage.api.log().is_empty());
}

#[test]
fn a_file_that_the_api_server_would_refuse_is_not_sent() {
    let stage = Stage::new();
    let file = stage.run().join("hpa-batch.yaml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace(&target(), "$HPA_AVERAGEVALUE_TARGET")).unwrap();
    let text = fails(&stage.apply(&["--yes"]), 2);
    assert!(text.contains("is still to be replaced"), "{text}");
    assert!(stage.api.log().is_empty());
}

#[test]
fn a_rollback_in_another_cluster_is_refused() {
    let stage = Stage::new();
    succeeds(&stage.apply(&["--yes"]));
    let other = ApiServer::start();
    let output = Command::new(env!("CARGO_BIN_EXE_calibrate"))
        .args(["rollback", "--yes"])
        .arg(stage.run())
        .env("KUBECONFIG", other.kubeconfig())
        .output()
        .unwrap();
    assert!(fails(&output, 2).contains("it was applied to the cluster at http://127.0.0.1:"));
}

#[test]
fn an_answer_that_never_came_is_looked_after_by_the_rollback() {
    let stage = Stage::new();
    let lost = Answer::text(502, "bad gateway");
    let before = stage.api.hpa(HPA, DEPLOYMENT, None);
    stage.api.fail("patch", "horizontalpodautoscalers", 2, 1, lost);
    let text = fails(&stage.apply(&["--yes", "--force-conflicts"]), 1);
    assert!(text.contains("bad gateway (HTTP 502)"), "{text}");
    assert!(text.contains("whether it was applied is not known; 'calibrate rollback"), "{text}");
    assert_eq!(stage.records().len(), 1);
    let text = succeeds(&stage.calibrate("rollback", &["--yes"]));
    assert!(text.contains("is as it was before already"), "{text}");
    assert_eq!(stage.hpa()["spec"], before["spec"]);
}

#[test]
fn an_hpa_that_a_calibration_has_paused_is_left_to_it() {
    let stage = Stage::new();
    stage.api.hpa(HPA, DEPLOYMENT, None);
    stage.api.change("horizontalpodautoscalers", HPA, |hpa| {
        hpa["metadata"]["annotations"] = json!({ "calibrate/original": "{}" });
    });
    let text = fails(&stage.apply(&["--yes", "--force-conflicts"]), 1);
    assert!(text.contains("a calibration has paused the HPA") && text.contains("doctor --restore"), "{text}");
    assert!(stage.writes().is_empty());
}
