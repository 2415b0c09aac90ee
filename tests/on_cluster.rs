//! `run --deployment` and `doctor --restore` as a user runs them, against an API server on the loopback
//! address with the simulated server behind its port-forward.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod api_server;

use api_server::{ApiServer, CLUSTER, CONTEXT};
use calibrate::measurement::{Event, PodChange, RequestOutcome, Source};
use calibrate::record::{RecordedRun, RunState, read};
use calibrate::simulator::{Preset, Running, serve};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use tempfile::TempDir;

/// An API server with a Deployment whose pods are a simulated server.
struct World {
    api: ApiServer,
    directory: TempDir,
    simulator: Running,
    _runtime: tokio::runtime::Runtime,
}

impl World {
    fn new(replicas: u32) -> World {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let preset = Preset::by_name("demo").unwrap();
        let simulator = runtime.block_on(serve(preset.config(), "127.0.0.1:0".parse().unwrap())).unwrap();
        let api = ApiServer::start();
        api.deployment("tgi", replicas, &[(8000, simulator.addr())]);
        World { api, directory: TempDir::new().unwrap(), simulator, _runtime: runtime }
    }

    fn calibrate(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_calibrate"));
        command.env("KUBECONFIG", self.api.kubeconfig()).env_remove("KUBERNETES_SERVICE_HOST");
        command.stdin(Stdio::null());
        command
    }

    fn out(&self) -> String {
        self.directory.path().join("run").display().to_string()
    }

    fn run(&self, more: &[&str]) -> Output {
        self.command(more).output().unwrap()
    }

    fn command(&self, more: &[&str]) -> Command {
        let mut command = self.calibrate();
        command.args(["run", "--deployment", "default/tgi", "--slo", "ttft:p95:2s", "--out", &self.out()]);
        command.args(more);
        command
    }

    fn record(&self) -> RecordedRun {
        read(Path::new(&self.out())).unwrap()
    }

    /// What must be byte for byte as it was.
    fn specs(&self) -> String {
        let state = self.api.state();
        let objects = state.store.objects.iter();
        let objects = objects.filter(|(key, _)| key.resource != "pods" && key.resource != "events");
        let shown =
            objects.map(|(key, o)| format!("{key:?} {} {}\n", o["spec"], o["metadata"]["annotations"]));
        shown.collect()
    }

    fn is_paused(&self) -> bool {
        let hpa = self.api.object("horizontalpodautoscalers", "gemma");
        hpa["spec"]["behavior"]["scaleUp"]["selectPolicy"] == "Disabled"
    }
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn assert_says(output: &Output, exit: i32, parts: &[&str]) {
    let said = text(output);
    assert_eq!(output.status.code(), Some(exit), "{said}");
    for part in parts {
        assert!(said.contains(part), "'{part}' is not in: {said}");
    }
}

#[test]
fn a_deployment_is_calibrated_through_port_forward_with_the_least_rights() {
    let world = World::new(1);
    let before = world.specs();
    let output = world.run(&["--ramp=rate:6,12x4s"]);
    // On a busy machine the client may be found too slow; the way through the cluster is the same.
    assert!(matches!(output.status.code(), Some(0 | 4)), "{}", text(&output));
    let said = text(&output);
    for part in [CONTEXT, CLUSTER, "Deployment default/tgi", "port 8000", "1 GPU", "port-forward"] {
        assert!(said.contains(part), "'{part}' is not in: {said}");
    }
    let run = world.record();
    assert_eq!(run.info.state, RunState::Complete);
    assert!(run.requests.len() > 40 && run.requests.iter().all(RequestOutcome::is_ok), "{said}");
    let scraped = run.samples.iter().filter(|s| s.source == Source::Server && !s.is_empty()).count();
    assert!(scraped >= 4, "{scraped} scrapes: {said}");
    let scenario = &run.info.scenario;
    assert_eq!(scenario["workload"]["deployment"], "default/tgi");
    assert!(scenario["target"].is_null() && scenario["metrics-url"].is_null(), "{scenario}");
    let names = json!({
        "deployment": "tgi", "namespace": "default", "app": "gemma-server", "container": "inference-server",
        "metrics-port": "8000", "cluster-version": "v1.36.2",
    });
    assert_eq!(scenario["cluster"], names);
    let start = run.events.iter().find_map(|event| match event {
        Event::PodStarted { start, .. } => Some(start.clone()),
        _ => None,
    });
    let start = start.expect("the start of the pod is recorded");
    let times = [start.scheduled, start.pulled, start.started, start.ready].map(|time| time.unwrap().0);
    assert_eq!((times, start.first_completion), ([3.0, 40.0, 42.0, 90.0], None));

    assert_eq!(world.specs(), before);
    let permissions: BTreeSet<String> = [
        "get apps/deployments",
        "list pods",
        "list events",
        "get pods/portforward",
        "create pods/portforward",
        "list autoscaling/horizontalpodautoscalers",
        "list keda.sh/scaledobjects",
        "list autoscaling.k8s.io/verticalpodautoscalers",
        "get coordination.k8s.io/leases",
        "create coordination.k8s.io/leases",
        "patch coordination.k8s.io/leases",
        "delete coordination.k8s.io/leases",
    ]
    .map(str::to_owned)
    .into();
    assert_eq!(world.api.permissions(), permissions);
}

#[test]
fn an_autoscaled_deployment_is_refused_and_changes_need_a_yes() {
    let world = World::new(1);
    world.api.hpa("gemma", "tgi", None);
    world.api.change("horizontalpodautoscalers", "gemma", |hpa| {
        hpa["metadata"]["annotations"] = json!({ "argocd.argoproj.io/tracking-id": "llm:x" });
    });
    let before = world.api.state().store.version;
    let refused = world.run(&["--ramp=rate:6x2s"]);
    assert_says(&refused, 2, &["HorizontalPodAutoscaler gemma", "--pause-autoscaler"]);
    let asked = world.run(&["--ramp=rate:6x2s", "--pause-autoscaler"]);
    assert_says(&asked, 2, &["pause HorizontalPodAutoscaler gemma", CONTEXT, CLUSTER, "add --yes"]);
    assert_says(&asked, 2, &["gemma belongs to Argo CD", "may undo the pause"]);
    let outside = world.run(&["--ramp=rate:6x2s", "--pause-autoscaler", "--yes", "--replicas", "7"]);
    assert_says(&outside, 2, &["allows 1 to 5 replicas"]);
    world.api.deny("patch autoscaling/horizontalpodautoscalers");
    world.api.deny("patch apps/deployments/scale");
    let denied = world.run(&["--ramp=rate:6x2s", "--pause-autoscaler", "--yes", "--replicas", "2"]);
    let missing = [
        "may not patch horizontalpodautoscalers.autoscaling in the namespace default; may not patch \
         deployments/scale.apps in the namespace default",
        "manifests --rbac",
    ];
    assert_says(&denied, 1, &missing);
    assert_eq!(world.api.state().store.version, before, "nothing was written");
    assert!(!Path::new(&world.out()).exists());
}

#[test]
fn autoscalers_are_paused_and_replicas_set_for_the_run_alone() {
    let world = World::new(1);
    world.api.hpa("gemma", "tgi", Some(json!({ "scaleDown": { "stabilizationWindowSeconds": 60 } })));
    let before = world.specs();
    let output = world.run(&["--ramp=rate:12x2s", "--pause-autoscaler", "--yes", "--replicas", "2"]);
    assert!(matches!(output.status.code(), Some(0 | 4)), "{}", text(&output));
    assert_eq!(world.specs(), before);
    let run = world.record();
    assert_eq!(run.info.target.replicas, 2);
    // A second HPA on the target would keep both from scaling.
    let names = &run.info.scenario["cluster"];
    assert_eq!((&names["hpa-name"], &names["max-replicas"]), (&json!("gemma"), &json!(5)));
    let starts = run.events.iter().filter_map(|event| match event {
        Event::PodStarted { start, .. } => Some(start),
        _ => None,
    });
    let new: Vec<_> = starts.filter_map(|start| start.first_completion).collect();
    assert_eq!(new.len(), 1, "one pod came for the run");
    assert!((90.0..150.0).contains(&new[0].0), "{new:?}");
    let journal = fs::read_to_string(Path::new(&world.out()).join("cluster.json")).unwrap();
    let journal: Value = serde_json::from_str(&journal).unwrap();
    assert_eq!(
        (journal["restored"].as_bool(), journal["changes"].as_array().unwrap().len()),
        (Some(true), 2)
    );
    assert_eq!(journal["changes"][0]["original"]["scaleDown"]["stabilizationWindowSeconds"], 60);
}

#[test]
fn a_deployment_that_cannot_be_calibrated_is_told_why() {
    let world = World::new(1);
    let ramp = "--ramp=rate:6x2s";
    let missing = world.run(&[ramp, "--deployment", "default/nope"]);
    assert_eq!(missing.status.code(), Some(2), "a flag given twice");
    let of = |name: &str, more: &[&str]| {
        let mut command = world.calibrate();
        command.args(["run", ramp, "--slo", "ttft:p95:2s", "--out", &world.out(), "--deployment", name]);
        command.args(more).output().unwrap()
    };
    assert_says(&of("default/nope", &[]), 1, &["deployments.apps \"nope\" not found", "look at the name"]);
    assert_says(&of("a/b/c", &[]), 2, &["names no workload", "NAMESPACE/NAME"]);
    let wrong = of("default/tgi", &["--context", "prod"]);
    assert_says(&wrong, 2, &["no context 'prod'", CONTEXT, "--context"]);

    world.api.change("deployments", "tgi", |deployment| {
        let container = &mut deployment["spec"]["template"]["spec"]["containers"][0];
        container["ports"] = json!([{ "containerPort": 8000, "name": "http" }, { "containerPort": 9000 }]);
    });
    assert_says(&of("default/tgi", &[]), 2, &["the ports 8000 (http), 9000", "--port"]);
    assert_says(&of("default/tgi", &["--port", "grpc"]), 2, &["no port 'grpc'"]);

    world.api.scale("deployments", "tgi", 0);
    world.api.wait(|| world.api.pod_names("deployments", "tgi").is_empty());
    assert_says(&of("default/tgi", &["--port", "http"]), 1, &["has no ready pod: it is scaled to 0"]);

    let mut without = world.calibrate();
    without.env("KUBECONFIG", world.directory.path().join("nowhere"));
    let without =
        without.args(["run", ramp, "--slo", "ttft:p95:2s", "--deployment", "tgi"]).output().unwrap();
    assert_says(&without, 1, &["no access to a Kubernetes cluster", "set KUBECONFIG"]);

    world.api.require_token("fresh", false);
    let expired = of("default/tgi", &[]);
    assert_says(&expired, 1, &["(HTTP 401)", "log in again"]);
    assert!(!text(&expired).contains("expired-token"), "{}", text(&expired));
}

#[test]
fn a_pod_that_restarts_under_load_spoils_the_measurement_and_is_recorded() {
    let world = World::new(1);
    let mut child = world.command(&["--ramp=rate:6x8s"]).stderr(Stdio::null()).spawn().unwrap();
    let events = Path::new(&world.out()).join("events.jsonl");
    world.api.wait(|| fs::read_to_string(&events).is_ok_and(|text| text.contains("step-started")));
    let pod = world.api.pod_names("deployments", "tgi")[0].clone();
    world.api.restart_pod(&pod);
    assert_eq!(child.wait().unwrap().code(), Some(4));
    let run = world.record();
    let restarted = run.events.iter().any(|event| {
        matches!(event, Event::PodChanged { change: PodChange::Restarted, pod: name, .. } if *name == pod)
    });
    assert!(restarted, "{:?}", run.events);
    let summary = fs::read_to_string(Path::new(&world.out()).join("summary.md")).unwrap();
    assert!(summary.contains(&pod) && summary.contains("restarted"), "{summary}");
}

/// Starts a calibration that pauses and scales, and takes a while.
fn long(world: &World) -> Child {
    world.api.hpa("gemma", "tgi", None);
    let mut command = world.command(&["--ramp=rate:4x60s", "--pause-autoscaler", "--yes", "--replicas", "2"]);
    command.stderr(Stdio::null()).spawn().unwrap()
}

#[test]
fn ctrl_c_puts_everything_back() {
    let world = World::new(1);
    let untouched = World::new(1);
    untouched.api.hpa("gemma", "tgi", None);
    let before = untouched.specs();
    let mut child = long(&world);
    let events = Path::new(&world.out()).join("events.jsonl");
    world.api.wait(|| fs::read_to_string(&events).is_ok_and(|text| text.contains("step-started")));
    assert!(world.is_paused());
    let id = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(id, rustix::process::Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(!world.is_paused());
    assert!(world.api.find("leases", "calibrate-deployment-tgi").is_none());
    assert_eq!(world.specs(), before);
}

#[test]
fn a_directory_with_something_in_it_is_refused_before_the_cluster_is_asked() {
    let world = World::new(1);
    world.api.hpa("gemma", "tgi", None);
    fs::create_dir_all(world.out()).unwrap();
    let journal = Path::new(&world.out()).join("cluster.json");
    fs::write(&journal, "of a run that was killed").unwrap();
    let refused = world.run(&["--ramp=rate:4x2s", "--pause-autoscaler", "--yes"]);
    assert_says(&refused, 2, &["is not empty", "choose another --out"]);
    assert_eq!(fs::read_to_string(&journal).unwrap(), "of a run that was killed");
    assert!(world.api.log().is_empty(), "{:?}", world.api.log());
}

#[test]
fn after_kill_9_doctor_puts_everything_back() {
    let world = World::new(1);
    let untouched = World::new(1);
    untouched.api.hpa("gemma", "tgi", None);
    let before = untouched.specs();
    // In the middle of pausing, of scaling and of the load.
    for request in [12, 15, 40] {
        let _ = fs::remove_dir_all(world.out());
        world.api.hang_at(request, request % 2 == 0);
        let mut child = long(&world);
        world.api.wait(|| world.api.is_hung());
        child.kill().unwrap();
        child.wait().unwrap();
        let restored = world.calibrate().args(["doctor", "--restore"]).output().unwrap();
        assert_says(&restored, 0, &[CONTEXT]);
        assert_eq!(world.specs(), before, "killed at request {request}: {}", text(&restored));
    }
    let again = world.calibrate().args(["doctor", "--restore", "--json"]).output().unwrap();
    let document: Value = serde_json::from_slice(&again.stdout).unwrap();
    assert_eq!((document["exit_code"].as_i64(), again.status.code()), (Some(0), Some(0)));
}

#[test]
fn a_second_calibration_of_one_target_is_refused_while_the_first_goes_on() {
    let world = World::new(1);
    let mut first = world.command(&["--ramp=rate:4x30s"]).stderr(Stdio::null()).spawn().unwrap();
    world.api.wait(|| world.api.find("leases", "calibrate-deployment-tgi").is_some());
    let other = world.directory.path().join("other").display().to_string();
    let mut second = world.calibrate();
    second.args([
        "run",
        "--deployment",
        "default/tgi",
        "--slo",
        "ttft:p95:2s",
        "--ramp=rate:4x2s",
        "--out",
        &other,
    ]);
    assert_says(&second.output().unwrap(), 1, &["another calibration of this target is going on"]);
    first.kill().unwrap();
    first.wait().unwrap();
}

#[test]
fn doctor_says_whether_a_deployment_can_be_calibrated() {
    let world = World::new(1);
    let doctor = |more: &[&str]| {
        let mut command = world.calibrate();
        command.args(["doctor", "--deployment", "default/tgi"]).args(more).output().unwrap()
    };
    assert_says(
        &doctor(&[]),
        0,
        &["1 ready pods; app=gemma-server", "none scales it", "all 12 that a run needs"],
    );
    world.api.hpa("gemma", "tgi", None);
    let version = world.api.state().store.version;
    assert_says(&doctor(&[]), 1, &["HorizontalPodAutoscaler gemma would scale it", "--pause-autoscaler"]);
    assert_says(&doctor(&["--pause-autoscaler"]), 0, &["paused for a run"]);
    world.api.deny("patch autoscaling/horizontalpodautoscalers");
    world.api.deny("create pods/portforward");
    let missing = "may not create pods/portforward in the namespace default; may not patch \
                   horizontalpodautoscalers.autoscaling in the namespace default";
    assert_says(&doctor(&["--pause-autoscaler"]), 1, &[missing, "manifests --rbac"]);
    assert_eq!(world.api.state().store.version, version, "nothing is written");
}

#[test]
fn a_stateful_set_is_reached_by_its_pods_addresses_and_by_its_service() {
    let world = World::new(1);
    let port = world.simulator.addr().port();
    world.api.statefulset("tgi-set", 2, &[(port, world.simulator.addr())]);
    world.api.change("statefulsets", "tgi-set", |set| {
        set["spec"]["selector"] = json!({ "matchLabels": { "app": "set" } });
        set["spec"]["template"]["metadata"]["labels"] = json!({ "app": "set" });
    });
    for pod in world.api.pod_names("statefulsets", "tgi-set") {
        world.api.change("pods", &pod, |pod| pod["metadata"]["labels"] = json!({ "app": "set" }));
    }
    let run = |out: &str, more: &[&str]| {
        let mut command = world.calibrate();
        command.args(["run", "--deployment", "statefulset/default/tgi-set", "--slo", "ttft:p95:2s"]);
        let out = world.directory.path().join(out);
        command.args(["--ramp=rate:8x2s", "--port", &port.to_string()]).arg("--out").arg(&out).args(more);
        let output = command.output().unwrap();
        assert!(matches!(output.status.code(), Some(0 | 4)), "{}", text(&output));
        read(&out).unwrap()
    };
    let direct = run("direct", &["--via", "pod-ip"]);
    assert_eq!(direct.info.target.replicas, 2);
    assert!(direct.requests.iter().all(RequestOutcome::is_ok));
    assert!(!world.api.permissions().contains("create pods/portforward"), "no way through the API server");

    let service = world.api.service("tgi-set", json!([{ "port": port, "targetPort": port }]));
    let mut command = world.calibrate();
    command.args([
        "run",
        "--deployment",
        "statefulset/default/tgi-set",
        "--slo",
        "ttft:p95:2s",
        "--ramp=rate:8x3s",
    ]);
    command.args(["--via", "service", "--port", &port.to_string(), "--out", &world.out()]);
    assert_says(&command.output().unwrap(), 2, &["no Service that selects its pods", "--service"]);
    world.api.change("services", "tgi-set", |changed| {
        assert_eq!(changed["spec"], service["spec"]);
        changed["spec"]["selector"] = json!({ "app": "set" });
    });
    assert_says(&command.output().unwrap(), 2, &["cannot be reached from outside of the cluster"]);
    assert!(!Path::new(&world.out()).exists(), "nothing was measured, so nothing is left");
    world.api.change("services", "tgi-set", |changed| {
        changed["status"]["loadBalancer"] = json!({ "ingress": [{ "ip": "127.0.0.1" }] });
    });
    let by_service = run("service", &["--via", "service"]);
    assert!(by_service.requests.iter().all(RequestOutcome::is_ok));
    assert_eq!(by_service.info.target.url, format!("http://127.0.0.1:{port}"));
}

#[test]
fn a_killed_run_goes_on_where_it_was_and_leaves_everything_as_it_was() {
    let world = World::new(1);
    world.api.hpa("gemma", "tgi", None);
    let before = world.specs();
    let mut command =
        world.command(&["--ramp=rate:6,7x2s", "--pause-autoscaler", "--yes", "--replicas", "2"]);
    let mut child = command.stderr(Stdio::null()).spawn().unwrap();
    let events = Path::new(&world.out()).join("events.jsonl");
    world.api.wait(|| fs::read_to_string(&events).is_ok_and(|text| text.contains("step-ended")));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(world.is_paused());
    let resumed = world.calibrate().args(["run", "--resume", &world.out(), "--yes"]).output().unwrap();
    assert!(matches!(resumed.status.code(), Some(0 | 4)), "{}", text(&resumed));
    assert_eq!(world.specs(), before, "{}", text(&resumed));
    let run = world.record();
    assert_eq!((run.info.state, run.info.target.replicas), (RunState::Complete, 2));
    assert!(run.events.iter().any(|event| matches!(event, Event::Resumed { .. })));
}
