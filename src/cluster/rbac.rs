//! The table of permissions as Roles: the least that each command needs.

use super::client::Kind;
use super::metric::HpaMetric;
use super::permissions::{Rule, Task, rules};
use crate::manifest::{ManifestError, ManifestFile, to_yaml};
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::rbac::v1::{PolicyRule, Role, RoleBinding, RoleRef, Subject};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// The service account that the Roles are bound to, and that a Job runs as.
pub const SERVICE_ACCOUNT: &str = "calibrate";
const GROUP: &str = "rbac.authorization.k8s.io";

/// A file for each task, `rbac-apply.yaml`: the service account, its Role, and what binds the two.
pub fn rbac_files(
    namespace: &str,
    workload: Kind,
    metrics: &[HpaMetric],
) -> Result<Vec<ManifestFile>, ManifestError> {
    let file = |task: Task| {
        let name = format!("rbac-{}.yaml", task.slug());
        Ok(ManifestFile { name, text: text(task, namespace, workload, metrics)? })
    };
    Task::ALL.into_iter().map(file).collect()
}

fn text(task: Task, namespace: &str, workload: Kind, metrics: &[HpaMetric]) -> Result<String, ManifestError> {
    let rules = rules(task, workload, metrics);
    let mut header = vec![
        format!("The least that '{}' needs in the namespace {namespace}.", task.command()),
        "Nothing is needed outside of it, so there is no ClusterRole.".to_owned(),
    ];
    header.extend(rules.iter().map(|rule| format!("{rule}: {}", rule.why)));
    let meta = |name: &str| ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some(namespace.to_owned()),
        ..ObjectMeta::default()
    };
    let name = format!("{SERVICE_ACCOUNT}-{}", task.slug());
    let account = ServiceAccount { metadata: meta(SERVICE_ACCOUNT), ..ServiceAccount::default() };
    let role = Role { metadata: meta(&name), rules: Some(rules.iter().map(policy).collect()) };
    let binding = RoleBinding {
        metadata: meta(&name),
        role_ref: RoleRef { api_group: Some(GROUP.to_owned()), kind: "Role".to_owned(), name },
        subjects: Some(vec![Subject {
            kind: "ServiceAccount".to_owned(),
            name: SERVICE_ACCOUNT.to_owned(),
            namespace: Some(namespace.to_owned()),
            api_group: None,
        }]),
    };
    let documents = [to_yaml(&account, &header)?, to_yaml(&role, &[])?, to_yaml(&binding, &[])?];
    Ok(documents.join("---\n"))
}

fn policy(rule: &Rule) -> PolicyRule {
    PolicyRule {
        api_groups: Some(vec![rule.group.clone()]),
        resources: Some(vec![rule.resource.clone()]),
        verbs: rule.verbs.iter().map(|verb| (*verb).to_owned()).collect(),
        ..PolicyRule::default()
    }
}
