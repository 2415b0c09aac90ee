//! The steps outside of the manifests, as a shell file: credentials, adapter, IAM, dashboard.
//!
//! Every name in it has passed `ClusterNames::validate`, which lets no letter through that a shell
//! would take for more than itself; a server's own are held to that where its profile is read.

use super::hpa::stackdriver_name;
use super::{ClusterNames, Set, series};
use crate::units::Signal;
use std::fmt::Write;

/// The adapter of Google's how-to page.
const ADAPTER: &str = "https://raw.githubusercontent.com/GoogleCloudPlatform/k8s-stackdriver/master/\
                       custom-metrics-stackdriver-adapter/deploy/production/adapter_new_resource_model.yaml";

/// The shell file. `hpa` is the file of the HPA to apply at the end, if there is one.
///
/// # Errors
/// What is missing for it.
pub(super) fn shell_file(set: &Set, hpa: Option<&str>) -> Result<String, String> {
    let names = set.names;
    let given =
        [("--project", &names.project), ("--cluster-name", &names.cluster), ("--location", &names.location)];
    let missing: Vec<&str> =
        given.iter().filter(|(_, value)| value.is_none()).map(|(flag, _)| *flag).collect();
    let [(_, Some(project)), (_, Some(cluster)), (_, Some(location))] = given else {
        return Err(format!("its commands name them: give {}", missing.join(", ")));
    };
    let mut text = format!(
        "#!/usr/bin/env bash\n\
         # What {deployment} needs besides the manifests to be scaled on its own metrics.\n\
         # Run it with bash, from anywhere, as often as you like; only the dashboard is made anew each time.\n\
         # gcloud and kubectl are needed.\n\
         set -euo pipefail\n\
         cd \"$(dirname \"$0\")\"\n\n\
         project='{project}'\n\
         cluster='{cluster}'\n\
         location='{location}'\n\
         namespace='{namespace}'\n\
         deployment='{deployment}'\n\n\
         # 1. kubectl speaks to this cluster.\n\
         gcloud container clusters get-credentials \"$cluster\" --location \"$location\" --project \"$project\"\n\n",
        deployment = names.deployment,
        namespace = names.namespace,
    );
    text.push_str(&scraping(names));
    text.push_str(ADAPTER_AND_IAM_HEAD);
    // Writing to a string cannot fail.
    let _ = writeln!(text, "kubectl apply -f '{ADAPTER}'\n");
    text.push_str(IAM);
    text.push_str(&check(names));
    text.push_str(&apply(hpa, set.provenance.simulated));
    Ok(text)
}

fn scraping(names: &ClusterNames) -> String {
    let mut text = "# 2. Managed Service for Prometheus, on by default in newer clusters, scrapes the server and the\n\
         #    GPUs. The exporter's PodMonitoring must be in the exporter's namespace.\n\
         gcloud container clusters update \"$cluster\" --location \"$location\" --project \"$project\" --enable-managed-prometheus\n"
        .to_owned();
    let kind = names.scaled.1.as_str();
    if let (Some(name), "LeaderWorkerSet") = (names.port_name(), kind) {
        let _ = writeln!(
            text,
            "#    The port is scraped by its name, so that series get a container label: its leaders' template must call it\n\
             #    '{name}'.",
        );
    } else if let (Some(name), Some(number)) = (names.port_name(), names.port_number()) {
        let _ = writeln!(
            text,
            "#    The port is scraped by its name, so that series get a container label. This gives it the name, and\n\
             #    starts the pods anew if it had another.\n\
             kubectl -n \"$namespace\" patch {kind} \"$deployment\" --type strategic -p \\\n  \
             '{{\"spec\":{{\"template\":{{\"spec\":{{\"containers\":[{{\"name\":\"{container}\",\"ports\":[{{\"name\":\"{name}\",\"containerPort\":{number}}}]}}]}}}}}}}}'",
            kind = kind.to_lowercase(),
            container = names.container,
        );
    }
    let _ = writeln!(
        text,
        "kubectl apply -f podmonitoring-{}.yaml\n\
         kubectl apply -f podmonitoring-dcgm.yaml\n",
        names.server.slug
    );
    text
}

const ADAPTER_AND_IAM_HEAD: &str = "\
# 3. The Stackdriver adapter shows Cloud Monitoring's metrics to the HPA. prometheus-adapter and KEDA answer for
#    the same API, so a cluster can have only one of them; this stops rather than take it from another.
for api in v1beta1.custom.metrics.k8s.io v1beta1.external.metrics.k8s.io; do
  owner=\"$(kubectl get apiservice \"$api\" --ignore-not-found -o jsonpath='{.spec.service.namespace}')\"
  if [[ -n \"$owner\" && \"$owner\" != custom-metrics ]]; then
    echo \"$api is already answered for from the namespace $owner: remove that one first\" >&2
    exit 1
  fi
done
";

const IAM: &str = "\
# 4. The adapter may read the project's metrics. The cluster needs Workload Identity Federation for GKE.
project_number=\"$(gcloud projects describe \"$project\" --format 'value(projectNumber)')\"
gcloud projects add-iam-policy-binding \"projects/$project\" --role roles/monitoring.viewer --condition None \\
  --member \"principal://iam.googleapis.com/projects/$project_number/locations/global/workloadIdentityPools/$project.svc.id.goog/subject/ns/custom-metrics/sa/custom-metrics-stackdriver-adapter\"
#    KEDA in place of the adapter reads them by this name:
# gcloud projects add-iam-policy-binding \"projects/$project\" --role roles/monitoring.viewer --condition None \\
#   --member \"principal://iam.googleapis.com/projects/$project_number/locations/global/workloadIdentityPools/$project.svc.id.goog/subject/ns/keda/sa/keda-operator\"

# 5. The dashboard.
gcloud monitoring dashboards create --project \"$project\" --config-from-file dashboard.json

";

/// A look at what the HPA will see, of one metric of each kind.
fn check(names: &ClusterNames) -> String {
    let metric = |signal| stackdriver_name(signal, names).unwrap_or_default().replace('|', "%7C");
    let shown = [Signal::Queue, Signal::Batch]
        .into_iter()
        .find_map(|signal| Some((signal, series::gauge(signal, names).ok()?)));
    let Some((signal, gauge)) = shown else {
        return format!("# 6. The HPA can see no gauge of {}.\n\n", names.server.title);
    };
    let labels = gauge.labels.iter().map(|(key, value)| format!("metric.labels.{key}%3D{value}"));
    let labels = labels.collect::<Vec<_>>().join("%2C");
    let selector = if labels.is_empty() { labels } else { format!("?metricLabelSelector={labels}") };
    let cold = if names.server.slug == "tgi" { "; TGI shows no gauge before its first request" } else { "" };
    format!(
        "# 6. What the HPA sees. A first value takes a few minutes{cold}.\n\
         for try in $(seq 30); do\n  \
           if kubectl get --raw \"/apis/custom.metrics.k8s.io/v1beta1/namespaces/$namespace/pods/*/{queue}{selector}\"; then\n    \
             break\n  \
           elif [[ \"$try\" == 30 ]]; then\n    \
             echo \"no value after 30 tries: look at 'kubectl -n $namespace describe podmonitoring'{cold}\" >&2\n    \
             exit 1\n  \
           fi\n  \
           sleep 10\n\
         done\n\
         #    The GPU's, over all clusters of the project; the HPA's selectors pick this one's:\n\
         # kubectl get --raw \"/apis/external.metrics.k8s.io/v1beta1/namespaces/$namespace/{duty}\"\n\n",
        queue = metric(signal),
        duty = metric(Signal::DutyCycle),
    )
}

fn apply(hpa: Option<&str>, simulated: bool) -> String {
    match hpa {
        Some(file) if simulated => format!(
            "# 7. The HPA is not applied: its target was measured on the simulated server, not on yours.\n\
             # kubectl apply --dry-run=server -f {file}\n\
             # kubectl apply -f {file}\n"
        ),
        Some(file) => format!(
            "# 7. The HPA, after the API server has looked at it. Apply no second one to this Deployment.\n\
             kubectl apply --dry-run=server -f {file}\n\
             kubectl apply -f {file}\n"
        ),
        None => "# 7. No HPA yet: none has a target. 'calibrate run' finds one.\n".to_owned(),
    }
}
