//! A Kubernetes API server on the loopback address, for tests.
//!
//! It keeps objects with their versions and managed fields, watches, dry runs, server-side apply with its
//! conflicts, the scale of Deployments with pods that follow it, metrics APIs, access reviews, the pod
//! proxy and port-forward over a websocket. Its errors are those of a real API server 1.36, held to the
//! recordings in `tests/fixtures/kubernetes` by `tests/kubernetes_api.rs`.
//!
//! ```ignore
//! let api = ApiServer::start();
//! api.deployment("tgi", 1, &[(8000, simulator.addr())]);       // ready pods, port 8000 behind them
//! Command::new("calibrate").env("KUBECONFIG", api.kubeconfig());
//! assert!(api.permissions().contains("patch autoscaling/horizontalpodautoscalers"));
//! ```

#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test uses what it needs of it")]
#![allow(clippy::must_use_candidate, clippy::missing_panics_doc, clippy::unwrap_used, clippy::expect_used)]
#![allow(clippy::panic, clippy::needless_pass_by_value, reason = "a test fails by panicking")]

mod admission;
pub mod answer;
pub mod asked;
mod authorize;
pub mod fields;
mod forward;
pub mod pods;
mod seeds;
pub mod store;
mod verbs;

use answer::Answer;
use asked::Asked;
use authorize::Rights;
use axum::Router;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use store::{Key, Store};
use tokio::sync::watch;

pub use pods::PodTimes;

/// The name of the kubeconfig's context, and of its cluster.
pub const CONTEXT: &str = "loopback";
pub const CLUSTER: &str = "loopback-cluster";
/// The one user, as error messages name it.
pub const USER: &str = "jane";

/// An answer that is given instead of the real one.
#[derive(Debug, Clone)]
struct Fault {
    verb: String,
    resource: String,
    /// Requests of this kind that are still answered well.
    after: u64,
    /// Times that it is given.
    times: u64,
    answer: Answer,
}

/// Where the server stops to answer.
#[derive(Debug, Clone, Copy)]
struct Hang {
    /// At this request, counted from 1.
    at: u64,
    /// Whether what it asks for is done.
    applied: bool,
}

type Hook = Box<dyn FnMut(&Value) -> Option<Value> + Send>;

/// Labels and value of one series.
pub type Series = (BTreeMap<String, String>, String);

/// Everything that the server knows.
pub struct ApiState {
    pub store: Store,
    pub log: Vec<Asked>,
    pub rights: Rights,
    pub times: PodTimes,
    /// Real addresses behind the ports of pods; `*` for all others.
    pub pod_backends: BTreeMap<String, Vec<(u16, SocketAddr)>>,
    /// Values of custom metrics: metric, then pod.
    pub custom: BTreeMap<String, BTreeMap<String, String>>,
    /// Values of external metrics: metric, then labels and value of each series.
    pub external: BTreeMap<String, Vec<Series>>,
    pub adapter_down: bool,
    /// API groups whose CRDs or adapters are not installed.
    pub absent: BTreeSet<String>,
    /// The only token that is good.
    token: Option<String>,
    faults: Vec<Fault>,
    hang: Option<Hang>,
    hung: bool,
    /// Gives the status of an HPA after its spec was written, and how long after.
    hpa_controller: Option<(Duration, Hook)>,
    pods_made: u64,
}

/// What the tasks of the server share.
pub struct Shared {
    state: Mutex<ApiState>,
    /// The latest version, for watches.
    version: watch::Sender<u64>,
    /// Counts up when all port-forwards are to be cut.
    cut_forwards: watch::Sender<u64>,
    runtime: tokio::runtime::Handle,
}

impl Shared {
    pub fn state(&self) -> MutexGuard<'_, ApiState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.runtime.spawn(task);
    }

    /// Wakes the watches.
    fn tell(&self) {
        let version = self.state().store.version;
        self.version.send_replace(version);
    }
}

/// The running server; it ends when this is dropped.
pub struct ApiServer {
    shared: Arc<Shared>,
    address: SocketAddr,
    directory: tempfile::TempDir,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// The time as objects carry it.
pub fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// A client of a server, which lives in the runtime that this is called from.
pub fn client_of(address: SocketAddr) -> kube::Client {
    let mut config = kube::Config::new(format!("http://{address}").parse().unwrap());
    config.default_retry = false;
    kube::Client::try_from(config).unwrap()
}

impl ApiServer {
    /// Starts a server of Kubernetes 1.36 with the namespace `default`, and all rights for everyone.
    pub fn start() -> ApiServer {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let state = ApiState {
            store: Store { version: 100, minor: 36, ..Store::default() },
            log: Vec::new(),
            rights: Rights::default(),
            times: PodTimes::default(),
            pod_backends: BTreeMap::new(),
            custom: BTreeMap::new(),
            external: BTreeMap::new(),
            adapter_down: false,
            absent: BTreeSet::new(),
            token: None,
            faults: Vec::new(),
            hang: None,
            hung: false,
            hpa_controller: None,
            pods_made: 0,
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            version: watch::Sender::new(100),
            cut_forwards: watch::Sender::new(0),
            runtime: runtime.handle().clone(),
        });
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().fallback(verbs::handle).with_state(Arc::clone(&shared));
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            axum::serve(listener, router).await.unwrap();
        });
        let directory = tempfile::TempDir::new().unwrap();
        let server = ApiServer { shared, address, directory, runtime: Some(runtime) };
        server.put(
            "",
            "namespaces",
            None,
            json!({
                "kind": "Namespace", "apiVersion": "v1", "metadata": { "name": "default" },
            }),
        );
        server.write_kubeconfig(None);
        server
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The path of a kubeconfig for this server.
    pub fn kubeconfig(&self) -> PathBuf {
        self.directory.path().join("kubeconfig")
    }

    fn write_kubeconfig(&self, token: Option<&str>) {
        let user = token.map_or(json!({}), |token| json!({ "token": token }));
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": CONTEXT,
            "clusters": [{ "name": CLUSTER, "cluster": { "server": format!("http://{}", self.address) } }],
            "contexts": [{
                "name": CONTEXT,
                "context": { "cluster": CLUSTER, "user": USER, "namespace": "default" },
            }],
            "users": [{ "name": USER, "user": user }],
        });
        std::fs::write(self.kubeconfig(), config.to_string()).unwrap();
    }

    /// A client of this server, as the library makes one.
    pub fn client(&self) -> kube::Client {
        client_of(self.address)
    }

    /// Everything that the server knows, to look at and to change.
    pub fn state(&self) -> MutexGuard<'_, ApiState> {
        self.shared.state()
    }

    // Objects.

    /// Puts an object in as it is, or in place of one. Gives what is stored.
    pub fn put(&self, group: &str, resource: &str, namespace: Option<&str>, object: Value) -> Value {
        let key = Key {
            group: group.to_owned(),
            resource: resource.to_owned(),
            namespace: namespace.map(str::to_owned),
            name: object["metadata"]["name"].as_str().expect("a name").to_owned(),
        };
        let stored = self.state().store.put(key, object);
        self.shared.tell();
        stored
    }

    /// An object by its plural and its name, in the namespace `default`. Panics where there is none.
    pub fn object(&self, resource: &str, name: &str) -> Value {
        self.find(resource, name).unwrap_or_else(|| panic!("there is no {resource}/{name}"))
    }

    pub fn find(&self, resource: &str, name: &str) -> Option<Value> {
        let state = self.state();
        let mut all = state.store.objects.iter();
        all.find(|(key, _)| key.resource == resource && key.name == name).map(|(_, object)| object.clone())
    }

    /// Changes an object as a controller would, without managed fields and admission.
    pub fn change(&self, resource: &str, name: &str, change: impl FnOnce(&mut Value)) {
        let owner = {
            let mut state = self.state();
            let found =
                state.store.objects.iter().find(|(key, _)| key.resource == resource && key.name == name);
            let (key, object) = found.unwrap_or_else(|| panic!("there is no {resource}/{name}"));
            let (key, mut object) = (key.clone(), object.clone());
            change(&mut object);
            state.store.put(key.clone(), object);
            key
        };
        self.shared.tell();
        if pods::OWNERS.contains(&resource) {
            pods::follow(&self.shared, owner);
        }
    }

    /// Scales as an HPA would: pods come and go after the times that are set.
    pub fn scale(&self, resource: &str, name: &str, replicas: u32) {
        self.change(resource, name, |object| object["spec"]["replicas"] = replicas.into());
    }

    /// Takes an object away. The pods' owner makes a new one.
    pub fn delete(&self, resource: &str, name: &str) {
        let owner = {
            let mut state = self.state();
            let found = state.store.objects.keys().find(|key| key.resource == resource && key.name == name);
            let key = found.cloned().unwrap_or_else(|| panic!("there is no {resource}/{name}"));
            let gone = state.store.take(&key).expect("it is there");
            let uid = gone["metadata"]["ownerReferences"][0]["uid"].clone();
            let owner =
                state.store.objects.iter().find(|(_, o)| !uid.is_null() && o["metadata"]["uid"] == uid);
            owner.map(|(key, _)| key.clone())
        };
        self.shared.tell();
        if let Some(owner) = owner {
            pods::follow(&self.shared, owner);
        }
    }

    // Pods.

    /// How long pods take to come.
    pub fn pod_times(&self, times: PodTimes) {
        self.state().times = times;
    }

    /// What is behind the ports of a pod; `*` for every pod that has none of its own.
    pub fn serve_pod(&self, pod: &str, ports: &[(u16, SocketAddr)]) {
        self.state().pod_backends.insert(pod.to_owned(), ports.to_vec());
    }

    /// Restarts the container of a pod, which is ready again after a while.
    pub fn restart_pod(&self, name: &str) {
        let (pod, owner) = {
            let mut state = self.state();
            let pod =
                state.store.objects.keys().find(|key| key.resource == "pods" && key.name == name).cloned();
            let pod = pod.expect("a pod of that name");
            state.pod_restarted(&pod);
            let uid = state.store.objects[&pod]["metadata"]["ownerReferences"][0]["uid"].clone();
            let owner = state.store.objects.iter().find(|(_, o)| o["metadata"]["uid"] == uid);
            (pod, owner.expect("an owner").0.clone())
        };
        self.shared.tell();
        pods::become_ready(&self.shared, pod, owner);
    }

    /// Names of the pods of an owner, the oldest first.
    pub fn pod_names(&self, resource: &str, name: &str) -> Vec<String> {
        let state = self.state();
        let found = state.store.objects.iter().find(|(key, _)| key.resource == resource && key.name == name);
        let (key, owner) = found.unwrap_or_else(|| panic!("there is no {resource}/{name}"));
        pods::pods_of(&state, owner, key).into_iter().map(|pod| pod.name).collect()
    }

    /// Cuts all port-forwards, as a restart of the kubelet would.
    pub fn cut_port_forwards(&self) {
        self.shared.cut_forwards.send_modify(|count| *count += 1);
    }

    // What was asked.

    /// All requests so far.
    pub fn log(&self) -> Vec<Asked> {
        self.state().log.clone()
    }

    /// What was used of a Role: `VERB GROUP/RESOURCE`, the core group without its name and slash.
    pub fn permissions(&self) -> BTreeSet<String> {
        let state = self.state();
        let used = state
            .log
            .iter()
            .filter(|asked| !asked.resource.is_empty() && !asked.resource.starts_with("selfsubject"));
        let used = used.map(|asked| match asked.group.as_str() {
            "" => format!("{} {}", asked.verb, asked.full_resource()),
            group => format!("{} {group}/{}", asked.verb, asked.full_resource()),
        });
        used.collect()
    }

    // What goes wrong.

    /// Forbids `VERB GROUP/RESOURCE`, as `permissions` writes it; access reviews say so too.
    pub fn deny(&self, permission: &str) {
        let (verb, resource) = permission.split_once(' ').expect("VERB GROUP/RESOURCE");
        let (group, resource) = match resource.split_once('/') {
            // A subresource of the core group.
            Some(("pods" | "services" | "nodes", _)) | None => ("", resource),
            Some((group, resource)) => (group, resource),
        };
        let rule = [verb, group, resource].map(str::to_owned);
        self.state().rights.denied.push(rule);
    }

    /// Allows nothing but what the `rules` of these Roles and ClusterRoles grant; those of Roles in their
    /// namespace.
    pub fn allow_only(&self, roles: &[Value]) {
        let granted = roles.iter().flat_map(|role| {
            let namespace = (role["kind"] == "Role")
                .then(|| role["metadata"]["namespace"].as_str().unwrap_or("default").to_owned());
            let own = role["rules"].as_array().cloned().unwrap_or_default();
            own.into_iter().map(move |rule| (namespace.clone(), rule))
        });
        self.state().rights.only = Some(granted.collect());
    }

    /// Gives `answer` to the requests of a kind, `times` times, after `after` of them were answered well. `*`
    /// is any verb or resource.
    pub fn fail(&self, verb: &str, resource: &str, after: u64, times: u64, answer: Answer) {
        let (verb, resource) = (verb.to_owned(), resource.to_owned());
        self.state().faults.push(Fault { verb, resource, after, times, answer });
    }

    /// From now on only this token is good; with `in_kubeconfig` the kubeconfig carries it.
    pub fn require_token(&self, token: &str, in_kubeconfig: bool) {
        self.state().token = Some(token.to_owned());
        self.write_kubeconfig(Some(if in_kubeconfig { token } else { "expired" }));
    }

    /// Stops to answer at a request from now on, counted from 1, before or after it was done. Later
    /// requests are answered again.
    pub fn hang_at(&self, request: u64, applied: bool) {
        let mut state = self.state();
        let at = state.log.len() as u64 + request;
        state.hang = Some(Hang { at, applied });
        state.hung = false;
    }

    /// Whether a request hangs.
    pub fn is_hung(&self) -> bool {
        self.state().hung
    }

    /// Waits until a request hangs. Gives whether one did in this time.
    pub async fn hung(&self, most: Duration) -> bool {
        let waits = async {
            while !self.is_hung() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(most, waits).await.is_ok()
    }

    /// An API group is not installed: its paths do not exist.
    pub fn without(&self, group: &str) {
        self.state().absent.insert(group.to_owned());
    }

    /// The minor version of this Kubernetes 1; one before 1.35 drops an HPA's tolerance.
    pub fn version(&self, minor: u32) {
        self.state().store.minor = minor;
    }

    /// Gives each HPA a status so long after its spec was written.
    pub fn hpa_controller(
        &self,
        after: Duration,
        status: impl FnMut(&Value) -> Option<Value> + Send + 'static,
    ) {
        self.state().hpa_controller = Some((after, Box::new(status)));
    }
}
