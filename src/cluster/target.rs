//! The workload that is calibrated, and what its objects say of it.

use super::client::{Cluster, Kind};
use super::error::ClusterError;
use super::kinds;
use super::metric::selector;
use super::pods::{self, Pod};
use k8s_openapi::api::core::v1::{Container, PodTemplateSpec};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// What owns the pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Workload {
    /// A Deployment.
    Deployment,
    /// A StatefulSet.
    StatefulSet,
    /// A LeaderWorkerSet, whose leaders serve.
    LeaderWorkerSet,
}

impl Workload {
    const ALL: [Workload; 3] = [Workload::Deployment, Workload::StatefulSet, Workload::LeaderWorkerSet];

    /// Its kind.
    pub const fn kind(self) -> Kind {
        match self {
            Workload::Deployment => kinds::DEPLOYMENT,
            Workload::StatefulSet => kinds::STATEFUL_SET,
            Workload::LeaderWorkerSet => kinds::LEADER_WORKER_SET,
        }
    }
}

/// A workload by its name: `NAME`, `NAMESPACE/NAME` or `KIND/NAMESPACE/NAME`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetName {
    /// What owns the pods.
    pub workload: Workload,
    /// Its namespace; `None`: that of the context.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
}

impl FromStr for TargetName {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<TargetName, TargetError> {
        let wrong = || TargetError::Name(text.to_owned());
        let parts: Vec<&str> = text.split('/').collect();
        let (kind, namespace, name) = match parts[..] {
            [name] => ("deployment", None, name),
            [namespace, name] => ("deployment", Some(namespace), name),
            [kind, namespace, name] => (kind, Some(namespace), name),
            _ => return Err(wrong()),
        };
        let workload =
            Workload::ALL.into_iter().find(|workload| workload.kind().kind.eq_ignore_ascii_case(kind));
        if name.is_empty() || namespace.is_some_and(str::is_empty) {
            return Err(wrong());
        }
        Ok(TargetName {
            workload: workload.ok_or_else(wrong)?,
            namespace: namespace.map(str::to_owned),
            name: name.to_owned(),
        })
    }
}

/// What the user says of the pods, where the objects leave a choice.
#[derive(Debug, Clone, Default)]
pub struct Choice<'a> {
    /// The container that serves.
    pub container: Option<&'a str>,
    /// Its port, by name or number.
    pub port: Option<&'a str>,
}

/// A port of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// Its number.
    pub number: u16,
    /// Its name.
    pub name: Option<String>,
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "{} ({name})", self.number),
            None => write!(f, "{}", self.number),
        }
    }
}

/// A workload as it was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Target {
    /// What owns the pods.
    pub workload: Workload,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its wanted replicas.
    pub replicas: u32,
    /// Takes the pods that serve.
    pub selector: String,
    /// A label that all its pods have: `app` where there is one.
    pub label: Option<(String, String)>,
    /// The labels of its pods.
    pub labels: BTreeMap<String, String>,
    /// The container that serves.
    pub container: String,
    /// Where it serves.
    pub port: Port,
    /// The model that its arguments or variables name.
    pub model: Option<String>,
    /// GPUs of a replica.
    pub gpus: u32,
}

/// Why a workload cannot be calibrated.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// It cannot be read so.
    #[error(
        "'{0}' names no workload; write NAMESPACE/NAME for a Deployment, or deployment/NAMESPACE/NAME, \
         statefulset/NAMESPACE/NAME, leaderworkerset/NAMESPACE/NAME"
    )]
    Name(String),
    /// The cluster does not give it.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The object lacks something.
    #[error("{what} has no {field}; look at it with kubectl get -o yaml")]
    Incomplete {
        /// The object.
        what: String,
        /// What is missing.
        field: &'static str,
    },
    /// Several containers may be the one.
    #[error("{what} has the containers {found}, and which one serves is not clear; name it with --container")]
    Containers {
        /// The object.
        what: String,
        /// Their names.
        found: String,
    },
    /// There is no such container.
    #[error("{what} has no container '{wanted}', it has {found}; mend --container")]
    NoContainer {
        /// The object.
        what: String,
        /// The one that was named.
        wanted: String,
        /// Their names.
        found: String,
    },
    /// Several ports may be the one.
    #[error(
        "the container {container} of {what} has the ports {found}, and which one serves is not clear; name it with --port"
    )]
    Ports {
        /// The object.
        what: String,
        /// The container.
        container: String,
        /// Its ports.
        found: String,
    },
    /// There is no such port.
    #[error(
        "the container {container} of {what} has no port '{wanted}', it has {found}; give its number with --port"
    )]
    NoPort {
        /// The object.
        what: String,
        /// The container.
        container: String,
        /// The one that was named, or "of any kind".
        wanted: String,
        /// Its ports.
        found: String,
    },
    /// No Service leads to the pods, or several do.
    #[error("{what} has {found}; name one with --service, or use --via port-forward")]
    Service {
        /// The object.
        what: String,
        /// What there is.
        found: String,
    },
    /// No pod serves.
    #[error("{what} has no ready pod: {why}; wait until it serves (kubectl get pods -l {selector})")]
    NoReadyPod {
        /// The object.
        what: String,
        /// What its pods wait for.
        why: String,
        /// Takes its pods.
        selector: String,
    },
}

impl Target {
    /// Reads a workload.
    ///
    /// # Errors
    /// It is not there or leaves open what serves.
    pub async fn read(
        cluster: &Cluster,
        name: &TargetName,
        choice: &Choice<'_>,
    ) -> Result<Target, TargetError> {
        let namespace = name.namespace.as_ref().unwrap_or(&cluster.identity().namespace);
        let object = cluster.get(name.workload.kind(), namespace, &name.name).await?;
        Target::of(name, namespace, &object.data["spec"], choice)
    }

    /// What the spec of a workload says.
    fn of(
        name: &TargetName,
        namespace: &str,
        spec: &Value,
        choice: &Choice<'_>,
    ) -> Result<Target, TargetError> {
        let what = format!("{} {namespace}/{}", name.workload.kind().kind, name.name);
        let incomplete = |field| TargetError::Incomplete { what: what.clone(), field };
        let groups = &spec["leaderWorkerTemplate"];
        let worker = &groups["workerTemplate"];
        let template = match name.workload {
            Workload::LeaderWorkerSet if groups["leaderTemplate"].is_object() => &groups["leaderTemplate"],
            Workload::LeaderWorkerSet => worker,
            _ => &spec["template"],
        };
        let template = pod_template(template).ok_or_else(|| incomplete("pod template"))?;
        let selector = selector_of(name, spec).ok_or_else(|| incomplete("selector of pods"))?;
        let labels = template.metadata.and_then(|metadata| metadata.labels).unwrap_or_default();
        let containers = template.spec.map(|spec| spec.containers).unwrap_or_default();
        let container = container(&containers, choice.container, &what)?;
        let leader: u32 = containers.iter().map(gpus).sum();
        let gpus = match name.workload {
            Workload::LeaderWorkerSet => {
                let each = pod_template(worker).and_then(|worker| worker.spec);
                let each: u32 = each.iter().flat_map(|spec| &spec.containers).map(gpus).sum();
                let size = groups["size"].as_u64().unwrap_or(1) as u32;
                leader + each * size.saturating_sub(1)
            }
            _ => leader,
        };
        Ok(Target {
            workload: name.workload,
            namespace: namespace.to_owned(),
            name: name.name.clone(),
            replicas: spec["replicas"].as_u64().unwrap_or(1) as u32,
            label: label(&labels, &selector),
            labels,
            port: port(container, choice.port, &what)?,
            container: container.name.clone(),
            model: model(container),
            selector,
            gpus,
        })
    }

    /// Its kind, namespace and name, for messages.
    pub fn what(&self) -> String {
        format!("{} {}/{}", self.workload.kind().kind, self.namespace, self.name)
    }

    /// Its pods, the oldest first.
    ///
    /// # Errors
    /// They must not be read.
    pub async fn pods(&self, cluster: &Cluster) -> Result<Vec<Pod>, ClusterError> {
        pods::list(cluster, &self.namespace, &self.selector).await
    }

    /// Its pods that serve.
    ///
    /// # Errors
    /// None does, or they must not be read.
    pub async fn ready_pods(&self, cluster: &Cluster) -> Result<Vec<Pod>, TargetError> {
        let all = self.pods(cluster).await?;
        let ready: Vec<Pod> = all.iter().filter(|pod| pod.ready).cloned().collect();
        if !ready.is_empty() {
            return Ok(ready);
        }
        let why = match all.as_slice() {
            [] if self.replicas == 0 => "it is scaled to 0".to_owned(),
            [] => "it has no pods at all".to_owned(),
            pods => waiting(pods),
        };
        Err(TargetError::NoReadyPod { what: self.what(), why, selector: self.selector.clone() })
    }
}

/// What pods wait for.
pub fn waiting(pods: &[Pod]) -> String {
    let waits = pods.iter().filter(|pod| !pod.ready);
    let waits =
        waits.map(|pod| format!("{} ({})", pod.name, pod.why_not.as_deref().unwrap_or("is not ready")));
    waits.collect::<Vec<_>>().join(", ")
}

fn pod_template(value: &Value) -> Option<PodTemplateSpec> {
    value.is_object().then(|| serde_json::from_value(value.clone()).ok())?
}

/// What takes the pods that serve: of a LeaderWorkerSet its leaders. `None`: nothing does.
fn selector_of(name: &TargetName, spec: &Value) -> Option<String> {
    if name.workload == Workload::LeaderWorkerSet {
        let labels = "leaderworkerset.sigs.k8s.io";
        return Some(format!("{labels}/name={},{labels}/worker-index=0", name.name));
    }
    Some(selector(&spec["selector"])).filter(|text| !text.is_empty())
}

/// The label to find the pods by: `app`, else the first that the selector names.
fn label(labels: &BTreeMap<String, String>, selector: &str) -> Option<(String, String)> {
    let named = |key: &&String| selector.split(',').any(|part| part.split('=').next() == Some(key));
    let key = labels.keys().find(|key| *key == "app").or_else(|| labels.keys().find(named))?;
    Some((key.clone(), labels[key].clone()))
}

/// The container that serves: the one that is named, the only one, or the only one with a GPU.
fn container<'a>(
    all: &'a [Container],
    wanted: Option<&str>,
    what: &str,
) -> Result<&'a Container, TargetError> {
    let found = || all.iter().map(|container| container.name.as_str()).collect::<Vec<_>>().join(", ");
    if let Some(wanted) = wanted {
        let no =
            || TargetError::NoContainer { what: what.to_owned(), wanted: wanted.to_owned(), found: found() };
        return all.iter().find(|container| container.name == wanted).ok_or_else(no);
    }
    if let [only] = all {
        return Ok(only);
    }
    let mut with_gpu = all.iter().filter(|container| gpus(container) > 0);
    match (with_gpu.next(), with_gpu.next()) {
        (Some(only), None) => Ok(only),
        _ => Err(TargetError::Containers { what: what.to_owned(), found: found() }),
    }
}

fn gpus(container: &Container) -> u32 {
    let limits = container.resources.as_ref().and_then(|resources| resources.limits.as_ref());
    limits.and_then(|limits| limits.get("nvidia.com/gpu")?.0.parse().ok()).unwrap_or(0)
}

fn port(container: &Container, wanted: Option<&str>, what: &str) -> Result<Port, TargetError> {
    let tcp = container.ports.iter().flatten();
    let tcp = tcp.filter(|port| port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP"));
    let all: Vec<Port> = tcp
        .filter_map(|port| {
            Some(Port { number: port.container_port.try_into().ok()?, name: port.name.clone() })
        })
        .collect();
    let found = match all.as_slice() {
        [] => "none".to_owned(),
        all => all.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    };
    let (what, container) = (what.to_owned(), container.name.clone());
    match (wanted, all.as_slice()) {
        (Some(wanted), _) => {
            let number = wanted.parse::<u16>().ok();
            let listed =
                all.iter().find(|port| Some(port.number) == number || port.name.as_deref() == Some(wanted));
            // A port need not be listed to be open.
            let port = listed.cloned().or_else(|| Some(Port { number: number?, name: None }));
            port.ok_or_else(|| TargetError::NoPort { what, container, wanted: wanted.to_owned(), found })
        }
        (None, [only]) => Ok(only.clone()),
        (None, []) => Err(TargetError::NoPort { what, container, wanted: "of any kind".to_owned(), found }),
        (None, _) => Err(TargetError::Ports { what, container, found }),
    }
}

/// The model that a container is told to serve.
fn model(container: &Container) -> Option<String> {
    const FLAGS: [&str; 3] = ["--model-id", "--model", "--model-path"];
    const VARIABLES: [&str; 3] = ["MODEL_ID", "HF_MODEL_ID", "MODEL"];
    let words: Vec<&String> =
        container.command.iter().flatten().chain(container.args.iter().flatten()).collect();
    let by_flag = words.iter().enumerate().find_map(|(place, word)| match word.split_once('=') {
        Some((flag, model)) if FLAGS.contains(&flag) => Some(model.to_owned()),
        None if FLAGS.contains(&word.as_str()) => words.get(place + 1).map(|model| (*model).clone()),
        _ => None,
    });
    let variables = container.env.iter().flatten();
    let mut by_variable = variables.filter(|variable| VARIABLES.contains(&variable.name.as_str()));
    by_flag.or_else(|| by_variable.find_map(|variable| variable.value.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn spec(containers: &Value) -> Value {
        json!({
            "replicas": 2, "selector": { "matchLabels": { "app": "gemma", "tier": "x" } },
            "template": {
                "metadata": { "labels": { "app": "gemma", "tier": "x" } }, "spec": { "containers": containers },
            },
        })
    }

    fn server(ports: &Value) -> Value {
        json!({
            "name": "server", "args": ["--model-id", "google/gemma-2b", "--num-shard=1"], "ports": ports,
            "resources": { "limits": { "nvidia.com/gpu": "2" } },
        })
    }

    fn read(spec: &Value, choice: &Choice<'_>) -> Result<Target, String> {
        let name = "prod/tgi".parse().unwrap();
        Target::of(&name, "prod", spec, choice).map_err(|error| error.to_string())
    }

    #[test]
    fn names_are_read_with_their_kind() {
        let read = |text: &str| text.parse::<TargetName>().map(|n| (n.workload, n.namespace, n.name)).ok();
        let some = |workload, namespace: &str, name: &str| {
            Some((workload, Some(namespace.to_owned()), name.to_owned()))
        };
        assert_eq!(read("tgi"), Some((Workload::Deployment, None, "tgi".to_owned())));
        assert_eq!(read("prod/tgi"), some(Workload::Deployment, "prod", "tgi"));
        assert_eq!(read("StatefulSet/prod/tgi"), some(Workload::StatefulSet, "prod", "tgi"));
        assert_eq!(read("leaderworkerset/prod/tgi"), some(Workload::LeaderWorkerSet, "prod", "tgi"));
        for wrong in ["", "a/b/c", "/tgi", "prod/", "a/b/c/d"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn what_serves_is_read_from_the_pod_template() {
        let sidecar = json!({ "name": "proxy", "ports": [{ "containerPort": 15000 }] });
        let spec = spec(&json!([sidecar, server(&json!([{ "containerPort": 8000, "name": "http" }]))]));
        let target = read(&spec, &Choice::default()).unwrap();
        assert_eq!((target.container.as_str(), target.gpus, target.replicas), ("server", 2, 2));
        assert_eq!(target.port, Port { number: 8000, name: Some("http".into()) });
        assert_eq!(target.model.as_deref(), Some("google/gemma-2b"));
        assert_eq!(target.selector, "app=gemma,tier=x");
        assert_eq!(target.label, Some(("app".to_owned(), "gemma".to_owned())));
    }

    #[test]
    fn a_choice_that_is_left_open_is_an_error_that_names_what_there_is() {
        let ports = json!([{ "containerPort": 8000, "name": "http" }, { "containerPort": 9000 }]);
        let spec = spec(&json!([server(&ports)]));
        let error = read(&spec, &Choice::default()).unwrap_err();
        assert!(
            error.contains("Deployment prod/tgi has the ports 8000 (http), 9000") && error.contains("--port")
        );
        let number = |port| read(&spec, &Choice { port: Some(port), container: None }).map(|t| t.port.number);
        assert_eq!([number("http"), number("9000"), number("7")], [Ok(8000), Ok(9000), Ok(7)]);
        assert!(number("grpc").unwrap_err().contains("no port 'grpc', it has 8000 (http), 9000"));
        let two = json!([{ "name": "a" }, { "name": "b" }]);
        let error = read(&super::tests::spec(&two), &Choice::default()).unwrap_err();
        assert!(error.contains("the containers a, b") && error.contains("--container"), "{error}");
        let wrong = Choice { container: Some("c"), port: None };
        assert!(read(&super::tests::spec(&two), &wrong).unwrap_err().contains("no container 'c'"));
    }

    #[test]
    fn a_group_of_pods_is_one_replica_with_all_its_gpus() {
        let worker = json!({ "spec": { "containers": [{ "name": "w", "resources": { "limits": { "nvidia.com/gpu": "8" } } }] } });
        let leader = json!({
            "metadata": { "labels": { "role": "leader" } },
            "spec": { "containers": [server(&json!([{ "containerPort": 8080 }]))] },
        });
        let spec = json!({
            "replicas": 1,
            "leaderWorkerTemplate": { "size": 3, "leaderTemplate": leader, "workerTemplate": worker },
        });
        let name = "leaderworkerset/prod/big".parse().unwrap();
        let target = Target::of(&name, "prod", &spec, &Choice::default()).unwrap();
        assert_eq!(target.gpus, 2 + 8 * 2);
        assert!(target.selector.contains("leaderworkerset.sigs.k8s.io/name=big"), "{}", target.selector);
    }
}
