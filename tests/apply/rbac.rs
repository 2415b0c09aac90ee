//! Roles: each command goes through with its own, and uses all
//! that it grants.

use super::api_server::ApiServer;
use super::roles::{documents, granted};
use super::{DEPLOYMENT, HPA, Stage, fails, succeeds};
use calibrate::simulator::{Preset, Running, serve};
use std::collections::BTreeSet;
use std::process::{Command, Output, Stdio};

/// Allows what the Roles of a task grant and nothing else; gives that.
fn confine(stage: &Stage, task: &str) -> BTreeSet<String> {
    let documents = documents(stage.run(), task);
    stage.api.allow_only(&documents);
    stage.api.state().log.clear();
    granted(&documents)
}

#[test]
fn apply_goes_through_with_its_role_and_uses_all_of_it() {
    let stage = Stage::new();
    let granted = confine(&stage, "apply");
    succeeds(&stage.apply(&["--yes"]));
    assert_eq!(stage.api.permissions(), granted);
}

#[test]
fn rollback_goes_through_with_its_role_and_uses_all_of_it() {
    let stage = Stage::new();
    succeeds(&stage.apply(&["--yes"]));
    let granted = confine(&stage, "rollback");
    // One that was not there before.
    succeeds(&stage.calibrate("rollback", &["--yes"]));
    let mut used = stage.api.permissions();
    // One that was.
    let anything = serde_json::json!({ "kind": "ClusterRole", "rules": [{ "apiGroups": ["*"], "resources": ["*"], "verbs": ["*"] }] });
    stage.api.allow_only(std::slice::from_ref(&anything));
    stage.api.hpa(HPA, DEPLOYMENT, None);
    succeeds(&stage.apply(&["--yes", "--force-conflicts"]));
    confine(&stage, "rollback");
    succeeds(&stage.calibrate("rollback", &["--yes"]));
    used.extend(stage.api.permissions());
    // One that somebody has deleted since.
    stage.api.allow_only(&[anything]);
    succeeds(&stage.apply(&["--yes", "--force-conflicts"]));
    stage.api.delete("horizontalpodautoscalers", HPA);
    confine(&stage, "rollback");
    succeeds(&stage.calibrate("rollback", &["--yes", "--force"]));
    used.extend(stage.api.permissions());
    assert_eq!(used, granted);
}

#[test]
fn with_the_role_of_another_command_it_is_said_what_lacks() {
    let stage = Stage::new();
    confine(&stage, "verify");
    let text = fails(&stage.apply(&["--yes"]), 1);
    assert!(text.contains("list on horizontalpodautoscalers of autoscaling (whether another HPA"), "{text}");
    assert!(text.contains("get on deployments/scale of apps"), "{text}");
}

#[test]
fn the_files_bind_a_service_account_and_grant_nothing_outside_of_its_namespace() {
    let stage = Stage::new();
    for task in ["run", "run-paused", "doctor", "apply", "rollback", "verify"] {
        let documents = documents(stage.run(), task);
        let kinds: Vec<&str> = documents.iter().map(|object| object["kind"].as_str().unwrap()).collect();
        assert_eq!(kinds, ["ServiceAccount", "Role", "RoleBinding"]);
        let [account, role, binding] = documents.as_slice() else { panic!("{kinds:?}") };
        assert_eq!(binding["subjects"][0]["name"], account["metadata"]["name"]);
        assert_eq!(binding["roleRef"]["name"], role["metadata"]["name"]);
        assert!(documents.iter().all(|object| object["metadata"]["namespace"] == "default"));
        assert!(!granted(&documents).iter().any(|grant| grant.contains('*')), "{task}");
    }
}

/// A Deployment whose pods are a simulated server.
fn served(api: &ApiServer) -> (tokio::runtime::Runtime, Running) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let config = Preset::by_name("demo").unwrap().config();
    let simulator = runtime.block_on(serve(config, "127.0.0.1:0".parse().unwrap())).unwrap();
    api.deployment("tgi", 1, &[(8000, simulator.addr())]);
    (runtime, simulator)
}

fn run_on_cluster(stage: &Stage, out: &str, arguments: &[&str]) -> Output {
    let mut calibrate = Command::new(env!("CARGO_BIN_EXE_calibrate"));
    calibrate.args([
        "run",
        "--ramp=rate:6x2s",
        "--slo",
        "ttft:p95:2s",
        "--deployment",
        "default/tgi",
        "--out",
    ]);
    calibrate.arg(stage.run().join(out)).args(arguments).stdin(Stdio::null());
    calibrate.env("KUBECONFIG", stage.api.kubeconfig()).output().unwrap()
}

#[test]
fn run_goes_through_with_its_role_and_uses_all_of_it() {
    let stage = Stage::new();
    let _served = served(&stage.api);
    let granted = confine(&stage, "run");
    // So short a run recommends nothing, but it gets to its end.
    fails(&run_on_cluster(&stage, "plain", &[]), 4);
    stage.api.service("llm", serde_json::json!([{ "port": 80, "targetPort": 8000 }]));
    for by_name in [&["--via", "service"][..], &["--via", "service", "--service", "llm"]] {
        let text = fails(&run_on_cluster(&stage, "by-service", by_name), 2);
        assert!(text.contains("cannot be reached from outside of the cluster"), "{text}");
    }
    assert_eq!(stage.api.permissions(), granted);
}

#[test]
fn a_run_that_pauses_and_scales_goes_through_with_its_role_and_uses_all_of_it() {
    let stage = Stage::new();
    let _served = served(&stage.api);
    stage.api.hpa("gemma", "tgi", None);
    stage.api.scaled_object("keda", "tgi");
    stage.api.vpa("vpa", "tgi", "Auto");
    let granted = confine(&stage, "run-paused");
    fails(&run_on_cluster(&stage, "paused", &["--pause-autoscaler", "--replicas", "2", "--yes"]), 4);
    let restore = Command::new(env!("CARGO_BIN_EXE_calibrate"))
        .args(["doctor", "--restore"])
        .env("KUBECONFIG", stage.api.kubeconfig())
        .output()
        .unwrap();
    succeeds(&restore);
    let mut used = stage.api.permissions();
    // The way by a Service is the same as without a pause.
    used.extend(["get services", "list services"].map(str::to_owned));
    assert_eq!(used, granted);
}

#[test]
fn doctor_goes_through_with_its_role_and_says_what_a_run_lacks() {
    let stage = Stage::new();
    let _served = served(&stage.api);
    let granted = confine(&stage, "doctor");
    let doctor = Command::new(env!("CARGO_BIN_EXE_calibrate"))
        .args(["doctor", "--deployment", "default/tgi"])
        .env("KUBECONFIG", stage.api.kubeconfig())
        .output()
        .unwrap();
    let text = fails(&doctor, 1);
    assert!(text.contains("may not delete leases.coordination.k8s.io in the namespace default"), "{text}");
    assert_eq!(stage.api.permissions(), granted);
}
