//! What must hold in any cluster: an apply and a rollback, a hold and its end, runs that end and runs that are killed,
//! each in a namespace of its own that is gone afterwards. Against the API server of the tests, or against the cluster
//! of the kubeconfig that `CALIBRATE_TEST_KUBECONFIG` names, whose pods run the image of calibrate that
//! `CALIBRATE_TEST_IMAGE` names.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod api_server;

use api_server::ApiServer;
use calibrate::cluster::{
    Choice, Cluster, Hold, HoldError, Identity, Kind, LeaseTimes, Target, Wish, kinds, restore_all,
};
use calibrate::measurement::Event;
use calibrate::record::{self, RunState};
use calibrate::simulator::{Preset, Running, serve};
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, DeleteParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tempfile::TempDir;

const PROBE: &str = r#"{ "httpGet": { "path": "/health", "port": 8000 }, "periodSeconds": 1 }"#;
/// As in the manifests of the sample.
const DEPLOYMENT: &str = "tgi-gemma-deployment";
const HPA: &str = "gemma-server";
const MOST: Duration = Duration::from_secs(60);
const TIMES: LeaseTimes = LeaseTimes { duration: Duration::from_secs(4), renew: Duration::from_millis(500) };

static PLACES: AtomicU32 = AtomicU32::new(0);

/// A namespace of its own with a Deployment of one pod.
struct Place {
    kubeconfig: PathBuf,
    cluster: Cluster,
    namespace: String,
    /// Whether something answers in the pods.
    served: bool,
    _loopback: Option<(ApiServer, Running)>,
}

impl Place {
    async fn new() -> Place {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let named = std::env::var_os("CALIBRATE_TEST_KUBECONFIG");
        let image = std::env::var("CALIBRATE_TEST_IMAGE").ok();
        let served = named.is_none() || image.is_some();
        let (kubeconfig, loopback) = if let Some(named) = named {
            (PathBuf::from(named), None)
        } else {
            let api = ApiServer::start();
            let preset = Preset::by_name("demo").unwrap().config();
            let running = serve(preset, "127.0.0.1:0".parse().unwrap()).await.unwrap();
            api.serve_pod("*", &[(8000, running.addr())]);
            (api.kubeconfig(), Some((api, running)))
        };
        let read = Kubeconfig::read_from(&kubeconfig).unwrap();
        let config = kube::Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await.unwrap();
        let number = PLACES.fetch_add(1, Ordering::Relaxed);
        let namespace = format!("calibrate-test-{}-{number}", std::process::id());
        let identity = Identity {
            context: Some("test".to_owned()),
            cluster: None,
            server: config.cluster_url.to_string(),
            namespace: namespace.clone(),
        };
        let cluster = Cluster::new(kube::Client::try_from(config).unwrap(), identity);
        let new = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": namespace } });
        let namespaces: Api<Namespace> = Api::all(cluster.client());
        namespaces.create(&PostParams::default(), &serde_json::from_value(new).unwrap()).await.unwrap();
        let place = Place { kubeconfig, cluster, namespace, served, _loopback: loopback };
        let labels = json!({ "app": DEPLOYMENT });
        let (image, arguments, probe) = match image {
            Some(image) => (image, vec!["sim", "--host", "0.0.0.0", "--port", "8000"], PROBE),
            None => ("registry.k8s.io/pause:3.10".to_owned(), vec![], "null"),
        };
        let container = json!({
            "name": "inference-server", "image": image, "imagePullPolicy": "IfNotPresent", "args": arguments,
            "ports": [{ "containerPort": 8000 }], "readinessProbe": serde_json::from_str::<Value>(probe).unwrap(),
        });
        let deployment = json!({
            "replicas": 1, "selector": { "matchLabels": labels },
            "template": { "metadata": { "labels": labels }, "spec": { "containers": [container] } },
        });
        place.create(kinds::DEPLOYMENT, DEPLOYMENT, deployment).await;
        place
    }

    /// Does `work` in a place, which is gone afterwards whatever became of it.
    async fn with(work: impl AsyncFnOnce(&Place)) {
        use futures::FutureExt;
        let place = Place::new().await;
        let done = std::panic::AssertUnwindSafe(work(&place)).catch_unwind().await;
        let namespaces: Api<Namespace> = Api::all(place.cluster.client());
        namespaces.delete(&place.namespace, &DeleteParams::default()).await.unwrap();
        if let Err(panic) = done {
            std::panic::resume_unwind(panic);
        }
    }

    async fn create(&self, kind: Kind, name: &str, spec: Value) {
        let mut object = kind.object(name);
        object.data = json!({ "spec": spec });
        self.cluster.create(kind, &self.namespace, &object).await.unwrap();
    }

    async fn spec(&self, kind: Kind, name: &str) -> String {
        self.cluster.get(kind, &self.namespace, name).await.unwrap().data["spec"].to_string()
    }

    /// Once a pod of the Deployment is ready.
    async fn ready(&self) {
        let look = Duration::from_millis(100);
        for _ in 0..MOST.as_millis() / look.as_millis() {
            let object = self.cluster.get(kinds::DEPLOYMENT, &self.namespace, DEPLOYMENT).await.unwrap();
            if object.data["status"]["readyReplicas"] == 1 {
                return;
            }
            tokio::time::sleep(look).await;
        }
        panic!("no pod became ready");
    }

    /// What a calibration must leave as it was.
    async fn specs(&self) -> [String; 2] {
        [self.spec(kinds::DEPLOYMENT, DEPLOYMENT).await, self.spec(kinds::HPA, HPA).await]
    }

    /// An HPA on the Deployment.
    async fn autoscaled(&self) {
        let target = json!({ "apiVersion": "apps/v1", "kind": "Deployment", "name": DEPLOYMENT });
        let hpa = json!({ "scaleTargetRef": target, "minReplicas": 1, "maxReplicas": 3 });
        self.create(kinds::HPA, HPA, hpa).await;
    }

    fn command(&self, command: &str) -> Command {
        let mut calibrate = Command::new(env!("CARGO_BIN_EXE_calibrate"));
        calibrate.arg(command).stdin(Stdio::null()).env("KUBECONFIG", &self.kubeconfig);
        calibrate.env_remove("KUBERNETES_SERVICE_HOST");
        calibrate
    }

    fn calibrate(&self, command: &str, run: &Path, arguments: &[&str]) -> Output {
        self.command(command).arg(run).args(arguments).output().unwrap()
    }

    /// A run that pauses the HPA and scales to two.
    fn run(&self, ramp: &str, out: &Path) -> Command {
        let mut command = self.command("run");
        command.args([ramp, "--slo", "ttft:p95:2s", "--pause-autoscaler", "--replicas", "2", "--yes"]);
        command.args(["--deployment", &format!("{}/{DEPLOYMENT}", self.namespace), "--out"]).arg(out);
        command
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The sample's manifest, for the place.
fn run_for(place: &Place) -> TempDir {
    let directory = TempDir::new().unwrap();
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("reports/sample");
    fs::copy(sample.join("recommendation.json"), directory.path().join("recommendation.json")).unwrap();
    let manifest = fs::read_to_string(sample.join("hpa-batch.yaml")).unwrap();
    assert!(manifest.contains("namespace: default\n"));
    let manifest = manifest.replace("namespace: default\n", &format!("namespace: {}\n", place.namespace));
    fs::write(directory.path().join("hpa-batch.yaml"), manifest).unwrap();
    directory
}

#[tokio::test(flavor = "multi_thread")]
async fn an_hpa_is_applied_and_rolled_back() {
    Place::with(async |place| {
        place.ready().await;
        let before = place.spec(kinds::DEPLOYMENT, DEPLOYMENT).await;
        let run = run_for(place);
        let dry = place.calibrate(
            "apply",
            run.path(),
            &["--allow-simulated", "--allow-missing-metric", "--dry-run"],
        );
        assert_eq!(dry.status.code(), Some(0), "{}", said(&dry));
        let gone = async || place.cluster.find(kinds::HPA, &place.namespace, HPA).await.unwrap().is_none();
        assert!(gone().await, "a dry run writes nothing");
        let arguments = ["--allow-simulated", "--allow-missing-metric", "--yes", "--wait", "2s"];
        let applied = place.calibrate("apply", run.path(), &arguments);
        // No adapter shows the metric here, so it cannot scale; where one does, it can.
        assert!(matches!(applied.status.code(), Some(0 | 1)), "{}", said(&applied));
        let spec = place.spec(kinds::HPA, HPA).await;
        let manifest = fs::read_to_string(run.path().join("hpa-batch.yaml")).unwrap();
        let (_, target) = manifest.split_once("\n        averageValue: ").unwrap();
        let target = target.lines().next().unwrap();
        assert!(spec.contains(&format!("\"averageValue\":\"{target}\"")), "{spec}");
        let again = place.calibrate("apply", run.path(), &arguments);
        assert!(said(&again).contains("is as hpa-batch.yaml wants it already"), "{}", said(&again));
        let back = place.calibrate("rollback", run.path(), &["--yes"]);
        assert_eq!(back.status.code(), Some(0), "{}", said(&back));
        assert!(gone().await, "it was not there before");
        assert_eq!(place.spec(kinds::DEPLOYMENT, DEPLOYMENT).await, before);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_held_is_as_it_was() {
    Place::with(async |place| {
        place.autoscaled().await;
        place.ready().await;
        let specs = async || place.specs().await;
        let before = specs().await;
        let name = format!("{}/{DEPLOYMENT}", place.namespace).parse().unwrap();
        let target = Target::read(&place.cluster, &name, &Choice::default()).await.unwrap();
        let wish = Wish { run: "run-of-the-test", pause: true, replicas: Some(2), times: TIMES };
        let hold = Hold::take(&place.cluster, &target, &wish, |_| Ok(())).await.unwrap();
        assert_ne!(specs().await, before);
        let second = Hold::take(&place.cluster, &target, &wish, |_| Ok(())).await;
        assert!(matches!(second, Err(HoldError::Lease(_))), "two calibrations exclude each other");
        hold.release().await.unwrap();
        assert_eq!(specs().await, before);
        let killed = Hold::take(&place.cluster, &target, &wish, |_| Ok(())).await.unwrap();
        std::mem::drop(killed);
        restore_all(&place.cluster, &place.namespace, TIMES).await.unwrap();
        assert_eq!(specs().await, before);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_that_end_and_runs_that_are_killed_leave_everything_as_it_was() {
    Place::with(async |place| {
        if !place.served {
            eprintln!("CALIBRATE_TEST_IMAGE is not set: nothing in the pods would answer");
            return;
        }
        place.autoscaled().await;
        place.ready().await;
        let before = place.specs().await;
        let directory = TempDir::new().unwrap();
        let out = directory.path().join("ended");
        let ended = place.run("--ramp=rate:3,5x3s", &out).output().unwrap();
        assert!(matches!(ended.status.code(), Some(0 | 4)), "{}", said(&ended));
        assert_eq!(place.specs().await, before);
        let run = record::read(&out).unwrap();
        assert_eq!((run.info.state, run.info.target.replicas), (RunState::Complete, 2));
        let answered = run.requests.iter().filter(|request| request.is_ok());
        assert!(answered.count() > 8, "{:?}", run.requests);
        let new = run.events.iter().find_map(|event| match event {
            Event::PodStarted { start, .. } => start.first_completion.map(|_| start),
            _ => None,
        });
        let start = new.expect("the second pod came for the run");
        let times = [start.scheduled, start.started, start.ready, start.first_completion];
        assert!(times.is_sorted() && times[0].is_some(), "{start:?}");

        let mut paused = 0;
        for milliseconds in [100, 200, 400, 800, 1600, 5000] {
            let out = directory.path().join(milliseconds.to_string());
            let mut child = place.run("--ramp=rate:3x60s", &out).stderr(Stdio::null()).spawn().unwrap();
            tokio::time::sleep(Duration::from_millis(milliseconds)).await;
            child.kill().unwrap();
            child.wait().unwrap();
            paused += u32::from(place.specs().await != before);
            let name = format!("{}/{DEPLOYMENT}", place.namespace);
            let restored =
                place.command("doctor").args(["--restore", "--deployment", &name]).output().unwrap();
            assert_eq!(restored.status.code(), Some(0), "{}", String::from_utf8_lossy(&restored.stdout));
            assert_eq!(place.specs().await, before, "killed after {milliseconds} ms");
        }
        assert!(paused > 0, "no run came so far as to pause");
    })
    .await;
}
