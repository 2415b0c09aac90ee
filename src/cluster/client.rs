//! Which cluster, and the few requests that are made of it.

use super::MANAGER;
use super::error::{Asked, ClusterError, root_cause};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::core::{ApiResource, DynamicObject};
use serde_json::Value;
use std::fmt;

/// A kind of objects, as its API names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    /// API group; empty for the core.
    pub group: &'static str,
    /// Its version.
    pub version: &'static str,
    /// `Deployment`.
    pub kind: &'static str,
    /// `deployments`.
    pub plural: &'static str,
}

impl Kind {
    /// A kind.
    pub const fn new(
        group: &'static str,
        version: &'static str,
        kind: &'static str,
        plural: &'static str,
    ) -> Kind {
        Kind { group, version, kind, plural }
    }

    /// `apps/v1`, or `v1` for the core.
    pub fn api_version(self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    fn resource(self) -> ApiResource {
        ApiResource {
            group: self.group.to_owned(),
            version: self.version.to_owned(),
            api_version: self.api_version(),
            kind: self.kind.to_owned(),
            plural: self.plural.to_owned(),
        }
    }

    /// A new object without anything but its name.
    pub fn object(self, name: &str) -> DynamicObject {
        DynamicObject::new(name, &self.resource())
    }

    /// What is asked of one of them, or of all of them in a namespace.
    pub fn asked(self, verb: &'static str, namespace: &str, name: Option<&str>) -> Asked {
        Asked {
            verb,
            group: self.group.to_owned(),
            resource: self.plural.to_owned(),
            namespace: Some(namespace.to_owned()),
            name: name.map(str::to_owned),
        }
    }
}

/// What a cluster is called, to be named before anything in it is changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The kubeconfig's context; `None`: this runs inside the cluster.
    pub context: Option<String>,
    /// The cluster's name in the kubeconfig.
    pub cluster: Option<String>,
    /// The address of its API server.
    pub server: String,
    /// The namespace where none is named.
    pub namespace: String,
}

impl Identity {
    /// Project, location and name of a GKE cluster, as gcloud writes them into a kubeconfig:
    /// `gke_PROJECT_LOCATION_NAME`.
    pub fn gke(&self) -> Option<[&str; 3]> {
        let name = self.cluster.as_deref()?.strip_prefix("gke_")?;
        let mut parts = name.split('_');
        let found = [parts.next()?, parts.next()?, parts.next()?];
        (parts.next().is_none() && found.iter().all(|part| !part.is_empty())).then_some(found)
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.context, &self.cluster) {
            (Some(context), Some(cluster)) => {
                write!(f, "context {context}, cluster {cluster} at {}", self.server)
            }
            (Some(context), None) => write!(f, "context {context} at {}", self.server),
            _ => write!(f, "the cluster that this runs in, at {}", self.server),
        }
    }
}

/// One cluster.
#[derive(Clone)]
pub struct Cluster {
    client: kube::Client,
    identity: Identity,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.identity)
    }
}

/// Connects to the cluster of a context of the kubeconfig; without one to that of the current context, or
/// to the one that this runs in. A failure is to be seen and not to be tried over, so nothing is retried.
///
/// # Errors
/// No kubeconfig and not inside a cluster; no such context; credentials that cannot be read.
pub async fn connect(context: Option<&str>) -> Result<Cluster, ClusterError> {
    let (mut config, context, cluster) = match Kubeconfig::read() {
        Ok(kubeconfig) => {
            let (context, cluster) = chosen(&kubeconfig, context)?;
            let options =
                KubeConfigOptions { context: Some(context.clone()), ..KubeConfigOptions::default() };
            let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await;
            (config.map_err(|error| unusable(&error))?, Some(context), cluster)
        }
        Err(error) => match kube::Config::incluster() {
            Ok(config) if context.is_none() => (config, None, None),
            _ => return Err(unusable(&error)),
        },
    };
    config.default_retry = false;
    let identity = Identity {
        context,
        cluster,
        server: config.cluster_url.to_string().trim_end_matches('/').to_owned(),
        namespace: config.default_namespace.clone(),
    };
    let client =
        kube::Client::try_from(config).map_err(|error| ClusterError::NoConfig(root_cause(&error)))?;
    Ok(Cluster { client, identity })
}

/// What is wrong with a kubeconfig, without any of its text: the parser's own words quote lines, and tokens are in
/// some.
fn unusable(error: &KubeconfigError) -> ClusterError {
    ClusterError::NoConfig(match error {
        KubeconfigError::Parse(error) => {
            let place = error.location().map(|at| format!(" at line {} column {}", at.line(), at.column()));
            format!("the kubeconfig cannot be read as one{}", place.unwrap_or_default())
        }
        other => other.to_string(),
    })
}

/// The context and its cluster.
fn chosen(kubeconfig: &Kubeconfig, wanted: Option<&str>) -> Result<(String, Option<String>), ClusterError> {
    let known = || kubeconfig.contexts.iter().map(|context| context.name.clone()).collect();
    let current = kubeconfig.current_context.as_deref().filter(|current| !current.is_empty());
    let Some(wanted) = wanted.or(current) else {
        return Err(ClusterError::NoCurrentContext(known()));
    };
    match kubeconfig.contexts.iter().find(|context| context.name == wanted) {
        Some(found) => Ok((wanted.to_owned(), found.context.as_ref().map(|context| context.cluster.clone()))),
        None => Err(ClusterError::NoContext { wanted: wanted.to_owned(), known: known() }),
    }
}

impl Cluster {
    /// A cluster behind a client that is there already.
    pub fn new(client: kube::Client, identity: Identity) -> Cluster {
        Cluster { client, identity }
    }

    /// What it is called.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The client itself.
    pub fn client(&self) -> kube::Client {
        self.client.clone()
    }

    /// The objects of a kind in a namespace.
    pub fn api(&self, kind: Kind, namespace: &str) -> Api<DynamicObject> {
        Api::namespaced_with(self.client(), namespace, &kind.resource())
    }

    /// One object.
    ///
    /// # Errors
    /// It is not there or must not be read.
    pub async fn get(&self, kind: Kind, namespace: &str, name: &str) -> Result<DynamicObject, ClusterError> {
        let object = self.api(kind, namespace).get(name).await;
        object.map_err(|error| ClusterError::of(kind.asked("get", namespace, Some(name)), &error))
    }

    /// One object, if it is there.
    ///
    /// # Errors
    /// It must not be read.
    pub async fn find(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
    ) -> Result<Option<DynamicObject>, ClusterError> {
        match self.get(kind, namespace, name).await {
            Err(error) if error.is_not_found() => Ok(None),
            object => object.map(Some),
        }
    }

    /// The objects of a kind with these labels; an empty selector takes all. None where the kind is not
    /// installed.
    ///
    /// # Errors
    /// They must not be read.
    pub async fn list(
        &self,
        kind: Kind,
        namespace: &str,
        selector: &str,
    ) -> Result<Vec<DynamicObject>, ClusterError> {
        let list = self.api(kind, namespace).list(&ListParams::default().labels(selector)).await;
        match list.map_err(|error| ClusterError::of(kind.asked("list", namespace, None), &error)) {
            Err(error) if error.is_not_found() => Ok(Vec::new()),
            list => Ok(list?.items),
        }
    }

    /// Changes an object by an RFC 7386 merge patch.
    ///
    /// # Errors
    /// It is not there, must not be changed, or was changed since the patch's `resourceVersion`.
    pub async fn merge(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
        patch: &Value,
    ) -> Result<DynamicObject, ClusterError> {
        let parameters = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        let object = self.api(kind, namespace).patch(name, &parameters, &Patch::Merge(patch)).await;
        object.map_err(|error| ClusterError::of(kind.asked("patch", namespace, Some(name)), &error))
    }

    /// Sets the replicas of a workload.
    ///
    /// # Errors
    /// It is not there or must not be scaled.
    pub async fn scale(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
        replicas: u32,
    ) -> Result<(), ClusterError> {
        let parameters = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        let patch = Patch::Merge(serde_json::json!({ "spec": { "replicas": replicas } }));
        let scaled = self.api(kind, namespace).patch_scale(name, &parameters, &patch).await;
        scaled.map(|_| ()).map_err(|error| {
            let mut asked = kind.asked("patch", namespace, Some(name));
            asked.resource.push_str("/scale");
            ClusterError::of(asked, &error)
        })
    }

    /// Makes an object.
    ///
    /// # Errors
    /// It is there already, or must not be made.
    pub async fn create(
        &self,
        kind: Kind,
        namespace: &str,
        object: &DynamicObject,
    ) -> Result<DynamicObject, ClusterError> {
        let parameters = PostParams { field_manager: Some(MANAGER.to_owned()), dry_run: false };
        let name = object.metadata.name.as_deref();
        let made = self.api(kind, namespace).create(&parameters, object).await;
        made.map_err(|error| ClusterError::of(kind.asked("create", namespace, name), &error))
    }

    /// Takes an object away if it is still at `version`, where that is given. Gives whether it was there.
    ///
    /// # Errors
    /// It must not be taken away, or was changed since.
    pub async fn delete(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
        version: Option<&str>,
    ) -> Result<bool, ClusterError> {
        let preconditions =
            version.map(|version| Preconditions { resource_version: Some(version.to_owned()), uid: None });
        let parameters = DeleteParams { preconditions, ..DeleteParams::default() };
        let gone = self.api(kind, namespace).delete(name, &parameters).await;
        match gone.map_err(|error| ClusterError::of(kind.asked("delete", namespace, Some(name)), &error)) {
            Err(error) if error.is_not_found() => Ok(false),
            gone => gone.map(|_| true),
        }
    }

    /// Whether the user may do what is asked, by the API server's own word.
    ///
    /// # Errors
    /// The question is not answered.
    pub async fn allows(&self, asked: &Asked) -> Result<bool, ClusterError> {
        let (resource, subresource) = match asked.resource.split_once('/') {
            Some((resource, subresource)) => (resource, Some(subresource.to_owned())),
            None => (asked.resource.as_str(), None),
        };
        let attributes = ResourceAttributes {
            verb: Some(asked.verb.to_owned()),
            group: Some(asked.group.clone()),
            resource: Some(resource.to_owned()),
            subresource,
            namespace: asked.namespace.clone(),
            name: asked.name.clone(),
            ..ResourceAttributes::default()
        };
        let spec = SelfSubjectAccessReviewSpec {
            resource_attributes: Some(attributes),
            ..SelfSubjectAccessReviewSpec::default()
        };
        let review = SelfSubjectAccessReview { spec, ..SelfSubjectAccessReview::default() };
        let api: Api<SelfSubjectAccessReview> = Api::all(self.client());
        let answer = api.create(&PostParams::default(), &review).await.map_err(|error| {
            let question = Asked {
                verb: "create",
                group: "authorization.k8s.io".to_owned(),
                resource: "selfsubjectaccessreviews".to_owned(),
                namespace: None,
                name: None,
            };
            ClusterError::of(question, &error)
        })?;
        Ok(answer.status.is_some_and(|status| status.allowed))
    }

    /// The version of Kubernetes, like `v1.36.2`.
    ///
    /// # Errors
    /// The API server does not answer.
    pub async fn version(&self) -> Result<String, ClusterError> {
        let version = self.client.apiserver_version().await.map_err(|error| {
            let asked = Asked {
                verb: "get",
                group: String::new(),
                resource: "/version".to_owned(),
                namespace: None,
                name: None,
            };
            ClusterError::of(asked, &error)
        })?;
        Ok(version.git_version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gcloud_s_names_of_clusters_are_read() {
        let named = |cluster: &str| Identity {
            context: None,
            cluster: Some(cluster.to_owned()),
            server: String::new(),
            namespace: String::new(),
        };
        let gke = named("gke_my-project_europe-west4_llm");
        assert_eq!(gke.gke(), Some(["my-project", "europe-west4", "llm"]));
        for other in ["kind-kind", "gke_a_b", "gke_a_b_c_d", "gke__b_c"] {
            assert_eq!(named(other).gke(), None, "{other}");
        }
    }
}
