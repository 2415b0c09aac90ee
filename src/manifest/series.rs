//! What a signal is called in each monitoring system, and what holds it to one Deployment.

use super::ClusterNames;
use super::server::Gauge;
use crate::units::Signal;

/// Labels and their values.
pub(super) type Labels = Vec<(String, String)>;

/// The server's gauge of a signal. `Err`: why there is none.
pub(super) fn gauge(signal: Signal, names: &ClusterNames) -> Result<Gauge, String> {
    match signal {
        Signal::Queue => names.server.queue.clone(),
        Signal::Batch => names.server.batch.clone(),
        Signal::DutyCycle | Signal::Dcgm => Err(format!("{signal} is no metric of the server")),
    }
}

/// The name that External metrics need: in lower case, since the HPA asks for no other.
pub(super) fn lower_case_dcgm(names: &ClusterNames) -> String {
    names.gpu_metric.exported().to_ascii_lowercase()
}

/// DCGM's metric as the Prometheus at hand holds it: only our PodMonitoring writes it in lower case.
pub(super) fn dcgm(names: &ClusterNames) -> String {
    if names.is_managed() { lower_case_dcgm(names) } else { names.gpu_metric.exported().to_owned() }
}

/// The series of a signal for one Deployment, in PromQL. `Err`: why there are none.
pub(super) fn promql(signal: Signal, names: &ClusterNames) -> Result<String, String> {
    let (name, own) = match signal {
        Signal::Queue | Signal::Batch => {
            let gauge = gauge(signal, names)?;
            let labels = gauge.labels.into_iter().map(|(key, value)| (key, equals(&value)));
            let matchers: Labels = labels.chain(pods(names)).collect();
            return Ok(selected(&gauge.name, &cluster_labels("cluster", names), &matchers));
        }
        Signal::DutyCycle if !names.is_managed() => {
            return Err("the duty cycle is in Cloud Monitoring only".to_owned());
        }
        Signal::DutyCycle => (
            "kubernetes_io:container_accelerator_duty_cycle".to_owned(),
            [("namespace_name", &names.namespace), ("container_name", &names.container)],
        ),
        Signal::Dcgm => {
            let labels = [("exported_namespace", &names.namespace), ("exported_container", &names.container)];
            (dcgm(names), labels)
        }
    };
    let cluster = if signal == Signal::DutyCycle { "cluster_name" } else { "cluster" };
    let kind = (signal == Signal::DutyCycle).then_some(("monitored_resource", "k8s_container"));
    let own = own.map(|(key, value)| (key, value.as_str()));
    let matchers: Labels = kind.into_iter().chain(own).map(|(k, v)| (k.to_owned(), equals(v))).collect();
    Ok(selected(&name, &cluster_labels(cluster, names), &matchers))
}

/// Any series of the Deployment's pods, in PromQL.
pub(super) fn of_pods(name: &str, names: &ClusterNames) -> String {
    selected(name, &cluster_labels("cluster", names), &pods(names))
}

fn equals(value: &str) -> String {
    format!("=\"{value}\"")
}

fn selected(name: &str, cluster: &Labels, matchers: &Labels) -> String {
    let matchers: Vec<String> =
        cluster.iter().chain(matchers).map(|(key, matcher)| format!("{key}{matcher}")).collect();
    format!("{name}{{{}}}", matchers.join(","))
}

/// The pods of a Deployment are called after it, its ReplicaSet and themselves; those of a StatefulSet, and the
/// leaders of a LeaderWorkerSet, by their number.
fn pods(names: &ClusterNames) -> Labels {
    let own = match names.scaled.1.as_str() {
        "StatefulSet" | "LeaderWorkerSet" => "[0-9]+",
        _ => "[0-9a-z]+-[0-9a-z]+",
    };
    let deployment = names.deployment.replace('.', "\\\\.");
    vec![
        ("namespace".to_owned(), equals(&names.namespace)),
        ("pod".to_owned(), format!("=~\"{deployment}-{own}\"")),
    ]
}

/// The cluster's place as Managed Service for Prometheus labels it; a Prometheus of one's own does not.
fn cluster_labels(cluster: &str, names: &ClusterNames) -> Labels {
    let place = [(cluster, &names.cluster), ("location", &names.location)];
    let known = place.into_iter().filter_map(|(key, value)| Some((key.to_owned(), equals(value.as_ref()?))));
    if names.is_managed() { known.collect() } else { Vec::new() }
}
