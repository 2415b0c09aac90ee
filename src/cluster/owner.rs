//! Whose an object is: what a tool keeps in step with its own source is changed there, since the tool
//! puts back whatever is changed in the cluster.

use serde_json::Value;

/// A tool that keeps an object as its own source says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// The tool: `Argo CD`.
    pub tool: &'static str,
    /// What it calls what the object belongs to: a release, an application. May be empty.
    pub name: String,
    /// By what it was recognized.
    pub sign: String,
    /// Where the change belongs.
    pub place: &'static str,
}

/// Where a tool leaves its name.
enum Sign {
    Label(&'static str),
    Annotation(&'static str),
    /// A label with a value that is the tool's own.
    Named(&'static str, &'static str),
    /// The start of a field manager's name.
    Manager(&'static str),
}

const ARGO: (&str, &str) = ("Argo CD", "the repository that the application is synced from");
const HELM: (&str, &str) = ("Helm", "the chart's values or templates");
const FLUX: (&str, &str) = ("Flux", "the repository that Flux reconciles");
const CONFIG_SYNC: (&str, &str) = ("Config Sync", "the repository that Config Sync reads");
const KEDA: (&str, &str) = ("KEDA", "the ScaledObject");

/// In this order, since a chart that Argo CD or Flux installs carries Helm's labels too.
const SIGNS: [((&str, &str), Sign); 15] = [
    (ARGO, Sign::Annotation("argocd.argoproj.io/tracking-id")),
    (ARGO, Sign::Label("argocd.argoproj.io/instance")),
    (ARGO, Sign::Manager("argocd-")),
    (FLUX, Sign::Label("kustomize.toolkit.fluxcd.io/name")),
    (FLUX, Sign::Label("helm.toolkit.fluxcd.io/name")),
    (FLUX, Sign::Manager("kustomize-controller")),
    (FLUX, Sign::Manager("helm-controller")),
    (CONFIG_SYNC, Sign::Annotation("configmanagement.gke.io/managed")),
    (CONFIG_SYNC, Sign::Annotation("configsync.gke.io/resource-id")),
    (KEDA, Sign::Label("scaledobject.keda.sh/name")),
    (KEDA, Sign::Named("app.kubernetes.io/managed-by", "keda-operator")),
    (HELM, Sign::Annotation("meta.helm.sh/release-name")),
    (HELM, Sign::Named("app.kubernetes.io/managed-by", "Helm")),
    (HELM, Sign::Named("heritage", "Helm")),
    (HELM, Sign::Manager("helm")),
];

/// The tool that keeps `object`, if one shows.
pub fn owner(object: &Value) -> Option<Owner> {
    let metadata = object.get("metadata")?;
    SIGNS.iter().find_map(|((tool, place), sign)| {
        let (name, sign) = sign.found(metadata)?;
        Some(Owner { tool, name, sign, place })
    })
}

impl Owner {
    /// Whether the tool puts back by itself what is changed in the cluster. Helm does so only when it is called.
    pub fn reconciles(&self) -> bool {
        self.tool != HELM.0
    }
}

impl Sign {
    /// What the sign says, and how it looks.
    fn found(&self, metadata: &Value) -> Option<(String, String)> {
        let text = |kind: &str, key: &str| metadata.get(kind)?.get(key)?.as_str();
        match self {
            Sign::Label(key) => text("labels", key).map(|name| (name.to_owned(), format!("label {key}"))),
            Sign::Annotation(key) => {
                text("annotations", key).map(|name| (name.to_owned(), format!("annotation {key}")))
            }
            Sign::Named(key, value) => {
                (text("labels", key) == Some(value)).then(|| (String::new(), format!("label {key}: {value}")))
            }
            Sign::Manager(start) => {
                let managers = metadata.get("managedFields")?.as_array()?.iter();
                let mut names = managers.filter_map(|entry| entry.get("manager")?.as_str());
                let name = names.find(|name| name.starts_with(start))?;
                Some((String::new(), format!("field manager {name}")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn tools_are_recognized_by_what_they_leave_on_an_object() {
        for (metadata, tool, name) in [
            (
                json!({ "labels": { "app.kubernetes.io/managed-by": "Helm" }, "annotations": { "meta.helm.sh/release-name": "llm" } }),
                "Helm",
                "llm",
            ),
            (
                json!({ "annotations": { "argocd.argoproj.io/tracking-id": "gemma:autoscaling/HorizontalPodAutoscaler:default/x" } }),
                "Argo CD",
                "gemma:autoscaling/HorizontalPodAutoscaler:default/x",
            ),
            (
                json!({ "managedFields": [{ "manager": "argocd-controller" }], "labels": { "app.kubernetes.io/managed-by": "Helm" } }),
                "Argo CD",
                "",
            ),
            (json!({ "labels": { "kustomize.toolkit.fluxcd.io/name": "apps" } }), "Flux", "apps"),
            (json!({ "labels": { "app.kubernetes.io/managed-by": "keda-operator" } }), "KEDA", ""),
            (
                json!({ "annotations": { "configmanagement.gke.io/managed": "enabled" } }),
                "Config Sync",
                "enabled",
            ),
        ] {
            let found = owner(&json!({ "metadata": metadata })).unwrap();
            assert_eq!((found.tool, found.name.as_str()), (tool, name));
        }
    }

    #[test]
    fn what_people_apply_is_nobodys() {
        let metadata = json!({
            "labels": { "app.kubernetes.io/managed-by": "somebody", "app.kubernetes.io/instance": "gemma" },
            "managedFields": [{ "manager": "kubectl-client-side-apply" }, { "manager": "kube-controller-manager" }],
        });
        assert_eq!(owner(&json!({ "metadata": metadata })), None);
    }
}
