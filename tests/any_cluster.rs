//! What must hold in any cluster: an apply and a rollback, a hold and its end, in a namespace of their own that is
//! gone afterwards. Against the API server of the tests, or against the cluster of the kubeconfig that
//! `CALIBRATE_TEST_KUBECONFIG` names.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod api_server;

use api_server::ApiServer;
use calibrate::cluster::{
    Choice, Cluster, Hold, HoldError, Identity, Kind, LeaseTimes, Target, Wish, kinds, restore_all,
};
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

/// As in the manifests of the sample.
const DEPLOYMENT: &str = "tgi-gemma-deployment";
const HPA: &str = "gemma-server";
const MOST: Duration = Duration::from_secs(60);
const TIMES: LeaseTimes = LeaseTimes { duration: Duration::from_secs(4), renew: Duration::from_millis(500) };

static PLACES: AtomicU32 = AtomicU32::new(0);

/// A namespace of its own with a Deployment of one pod that does nothing.
struct Place {
    kubeconfig: PathBuf,
    cluster: Cluster,
    namespace: String,
    _loopback: Option<ApiServer>,
}

impl Place {
    async fn new() -> Place {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let named = std::env::var_os("CALIBRATE_TEST_KUBECONFIG");
        let loopback = named.is_none().then(ApiServer::start);
        let kubeconfig = named.map_or_else(|| loopback.as_ref().unwrap().kubeconfig(), PathBuf::from);
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
        let place = Place { kubeconfig, cluster, namespace, _loopback: loopback };
        let labels = json!({ "app": DEPLOYMENT });
        let container = json!({
            "name": "pause", "image": "registry.k8s.io/pause:3.10", "ports": [{ "containerPort": 8000 }],
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

    fn calibrate(&self, command: &str, run: &Path, arguments: &[&str]) -> Output {
        let mut calibrate = Command::new(env!("CARGO_BIN_EXE_calibrate"));
        calibrate.arg(command).arg(run).args(arguments).stdin(Stdio::null());
        calibrate.env("KUBECONFIG", &self.kubeconfig).output().unwrap()
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
        let target = json!({ "apiVersion": "apps/v1", "kind": "Deployment", "name": DEPLOYMENT });
        let hpa = json!({ "scaleTargetRef": target, "minReplicas": 1, "maxReplicas": 3 });
        place.create(kinds::HPA, HPA, hpa).await;
        place.ready().await;
        let specs =
            async || [place.spec(kinds::DEPLOYMENT, DEPLOYMENT).await, place.spec(kinds::HPA, HPA).await];
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
