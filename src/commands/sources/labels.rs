//! How Google labels the series of a metric, so that only those of one Deployment are asked for.

use crate::manifest::ClusterNames;
use crate::measurement::Series;
use crate::observe::{ApiMetric, Profile, TimeSeries, to_percent};
use anyhow::anyhow;

/// GKE's own metric of its accelerators.
const DUTY_CYCLE: &str = "kubernetes.io/container/accelerator/duty_cycle";
/// What Managed Service for Prometheus calls its metrics by.
const MANAGED: &str = "prometheus.googleapis.com/";

/// A kind of series: its resource, and what its labels are called.
struct Place {
    resource: &'static str,
    cluster: &'static str,
    namespace: Option<&'static str>,
    container: Option<&'static str>,
}

/// How the series of a metric are labelled. `None`: that is known to its maker only.
fn place(metric: &str) -> Option<Place> {
    let lower = metric.to_ascii_lowercase();
    let kubernetes = |resource, namespace, container| Place {
        resource,
        cluster: "resource.labels.cluster_name",
        namespace,
        container,
    };
    let (namespace, container) =
        (Some("resource.labels.namespace_name"), Some("resource.labels.container_name"));
    let managed = |namespace, container| Place {
        resource: "prometheus_target",
        cluster: "resource.labels.cluster",
        namespace: Some(namespace),
        container,
    };
    if lower.starts_with("kubernetes.io/container/") {
        Some(kubernetes("k8s_container", namespace, container))
    } else if lower.starts_with("kubernetes.io/pod/") {
        Some(kubernetes("k8s_pod", namespace, None))
    } else if lower.starts_with("kubernetes.io/node/") {
        Some(kubernetes("k8s_node", None, None))
    } else if lower.starts_with(&format!("{MANAGED}dcgm_")) {
        // The exporter's own namespace and container are in the labels without "exported".
        Some(managed("metric.labels.exported_namespace", Some("metric.labels.exported_container")))
    } else if lower.starts_with(MANAGED) {
        // A container is in the labels only where the port is scraped by its name.
        Some(managed("resource.labels.namespace", None))
    } else {
        None
    }
}

/// A place, and the labels that hold a metric in it to one Deployment.
type Held = (Place, Vec<(String, String)>);

/// The labels that hold a metric to one Deployment, where they are known. `Err`: the name of the metric and
/// what is missing.
fn labels(metric: &str, names: &ClusterNames) -> Result<Option<Held>, String> {
    let Some(place) = place(metric) else { return Ok(None) };
    let Some(cluster) = &names.cluster else {
        return Err(format!("{metric} needs the cluster, since every cluster of the project is in it"));
    };
    let all = [
        (Some(place.cluster), Some(cluster)),
        (Some("resource.labels.location"), names.location.as_ref()),
        (place.namespace, Some(&names.namespace)),
        (place.container, Some(&names.container)),
    ];
    let labels = all.into_iter().filter_map(|(label, value)| Some((label?.to_owned(), value?.clone())));
    let labels = labels.collect();
    Ok(Some((place, labels)))
}

/// A metric of Cloud Monitoring by `TYPE` or `TYPE AND CONDITIONS`, with the conditions that hold it to one
/// Deployment unless it has its own, or `filter` stands for all.
pub(super) fn time_series(
    series: Series,
    spec: Option<&str>,
    filter: Option<&str>,
    names: &ClusterNames,
) -> anyhow::Result<TimeSeries> {
    let spec = spec.unwrap_or(DUTY_CYCLE);
    let (metric, own) = match spec.split_once(" AND ") {
        Some((metric, own)) => (metric.trim(), Some(own.trim())),
        None => (spec, filter),
    };
    let filter = match own {
        Some(own) => own.to_owned(),
        None => conditions(metric, names)?,
    };
    Ok(TimeSeries { series, metric: metric.to_owned(), filter })
}

fn conditions(metric: &str, names: &ClusterNames) -> anyhow::Result<String> {
    let found = labels(metric, names).map_err(|problem| {
        anyhow!("--cloud-monitoring: {problem}; add --cluster-name, or a whole --cloud-monitoring-filter")
    })?;
    let Some((place, labels)) = found else {
        return Err(anyhow!(
            "--cloud-monitoring-metric: which labels {metric} has is not known here; write SERIES={metric} AND its \
             conditions, or a whole --cloud-monitoring-filter"
        ));
    };
    let labels = labels.iter().map(|(label, value)| format!(" AND {label}={value:?}"));
    Ok(format!("resource.type={:?}{}", place.resource, labels.collect::<String>()))
}

/// An External metric as the GPU's HPA asks for it, unless `selector` says otherwise.
pub(super) fn external_metric(
    series: Series,
    name: Option<&str>,
    selector: Option<&str>,
    names: &ClusterNames,
) -> anyhow::Result<ApiMetric> {
    let name = match name {
        Some(name) => name.to_owned(),
        None if series == Series::GpuUtil => DUTY_CYCLE.replace('/', "|"),
        None => return Err(anyhow!("--external-metric: write {}=NAME", series.column())),
    };
    let scale = to_percent(&name);
    if let Some(selector) = selector {
        return Ok(ApiMetric { scale, ..ApiMetric::new(series, name, selector) });
    }
    let found = labels(&name.replace('|', "/"), names).map_err(|problem| {
        anyhow!("--external-metric: {problem}; add --cluster-name, or a whole --external-selector")
    })?;
    // Another adapter's metric is what its rules make of it.
    let labels = found.map(|(_, labels)| labels).unwrap_or_default();
    let labels: Vec<String> = labels.iter().map(|(label, value)| format!("{label}={value}")).collect();
    Ok(ApiMetric { scale, ..ApiMetric::new(series, name, labels.join(",")) })
}

/// A Pods metric: the profile's, or one of the user's, which is read as the profile reads it where it is
/// of the same name.
pub(super) fn custom_metric(
    series: Series,
    name: Option<&str>,
    profile: &Profile,
    names: &ClusterNames,
) -> anyhow::Result<ApiMetric> {
    let parts = |name: &str| name.split('|').map(str::to_owned).collect::<Vec<_>>();
    let reading = match name {
        None => profile.gauges(series).next(),
        Some(name) => profile.gauges(series).find(|gauge| parts(name).iter().any(|p| p == gauge.metric)),
    };
    let name = match (name, &reading) {
        (Some(name), _) => name.to_owned(),
        (None, Some(gauge)) => managed_gauge(gauge.metric),
        (None, None) => {
            let column = series.column();
            return Err(anyhow!(
                "--custom-metric: {} does not show {column}; write {column}=NAME",
                profile.name
            ));
        }
    };
    let (label, value) = names.label();
    let plain = ApiMetric::new(series, name, format!("{label}={value}"));
    let Some(gauge) = reading else { return Ok(plain) };
    let prefix = if plain.name.starts_with("prometheus.googleapis.com|") { "metric.labels." } else { "" };
    let one = |(label, value): (&String, &String)| match value.split('|').collect::<Vec<_>>()[..] {
        [only] => format!("{prefix}{label}={only}"),
        ref several => format!("{prefix}{label} in ({})", several.join(",")),
    };
    let of_series = gauge.labels.iter().map(one).collect::<Vec<_>>().join(",");
    let per = gauge.per.map(|per| plain.name.replace(gauge.metric, per));
    Ok(ApiMetric { of_series, per, scale: gauge.scale, ..plain })
}

/// A gauge's name as the Stackdriver adapter knows it.
fn managed_gauge(metric: &str) -> String {
    format!("prometheus.googleapis.com|{metric}|gauge")
}

/// The matchers of a PromQL query to Managed Service for Prometheus, which holds every cluster of the
/// project: those that are known, and `own`, which win over them.
pub(super) fn managed_matchers(own: &str, known: &[(&str, Option<&String>)]) -> String {
    let known = known.iter().filter(|(label, _)| !has_matcher(own, label));
    let known = known.filter_map(|(label, value)| Some(format!("{label}={:?}", (*value)?)));
    known.chain((!own.is_empty()).then(|| own.to_owned())).collect::<Vec<_>>().join(",")
}

/// Whether a selector of PromQL has a matcher for the label.
pub(super) fn has_matcher(selector: &str, label: &str) -> bool {
    selector.split(',').any(|matcher| {
        let rest = matcher.trim_start().strip_prefix(label).map(str::trim_start);
        rest.is_some_and(|rest| rest.starts_with(['=', '!']))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> ClusterNames {
        let (cluster, location) = (Some("c".to_owned()), Some("l".to_owned()));
        ClusterNames { cluster, location, ..ClusterNames::default() }
    }

    #[test]
    fn each_metric_of_cloud_monitoring_is_held_to_the_deployment_by_its_own_labels() {
        let filter = |spec: &str| time_series(Series::GpuUtil, Some(spec), None, &names()).unwrap().filter;
        let container = "resource.type=\"k8s_container\" AND resource.labels.cluster_name=\"c\" AND \
                         resource.labels.location=\"l\" AND resource.labels.namespace_name=\"default\" AND \
                         resource.labels.container_name=\"inference-server\"";
        assert_eq!(filter(DUTY_CYCLE), container);
        let managed = "resource.type=\"prometheus_target\" AND resource.labels.cluster=\"c\" AND \
                       resource.labels.location=\"l\"";
        assert_eq!(
            filter("prometheus.googleapis.com/tgi_queue_size/gauge"),
            format!("{managed} AND resource.labels.namespace=\"default\"")
        );
        assert_eq!(
            filter("prometheus.googleapis.com/dcgm_fi_dev_gpu_util/unknown"),
            format!(
                "{managed} AND metric.labels.exported_namespace=\"default\" AND \
                 metric.labels.exported_container=\"inference-server\""
            )
        );
        let own = time_series(Series::QueueSize, Some("custom.googleapis.com/q AND a=\"b\""), None, &names());
        let own = own.unwrap();
        assert_eq!((own.metric.as_str(), own.filter.as_str()), ("custom.googleapis.com/q", "a=\"b\""));
        let whole = time_series(Series::QueueSize, Some("custom.googleapis.com/q"), Some("x=1"), &names());
        assert_eq!(whole.unwrap().filter, "x=1");
        let unknown = time_series(Series::QueueSize, Some("custom.googleapis.com/q"), None, &names());
        assert!(unknown.unwrap_err().to_string().contains("AND its conditions"));
        let nowhere = time_series(Series::GpuUtil, None, None, &ClusterNames::default()).unwrap_err();
        assert!(nowhere.to_string().contains("add --cluster-name"), "{nowhere}");
    }

    #[test]
    fn an_external_metric_is_asked_for_as_its_hpa_asks_for_it() {
        use crate::manifest::{Adapter, hpa};
        use crate::units::{Milli, Signal};
        for (signal, name) in [
            (Signal::DutyCycle, None),
            (Signal::Dcgm, Some("prometheus.googleapis.com|dcgm_fi_dev_gpu_util|unknown")),
        ] {
            let asked = external_metric(Series::GpuUtil, name, None, &names()).unwrap();
            let hpa = hpa(&[(signal, Milli(80_000))], Adapter::Stackdriver, 0.1, &names()).unwrap();
            let metric = hpa.spec.metrics.unwrap().remove(0).external.unwrap().metric;
            assert_eq!(asked.name, metric.name);
            let wanted = metric.selector.unwrap().match_labels.unwrap();
            let mut wanted: Vec<String> = wanted.iter().map(|(k, v)| format!("{k}={v}")).collect();
            let mut labels: Vec<&str> = asked.selector.split(',').collect();
            wanted.sort_unstable();
            labels.sort_unstable();
            assert_eq!(labels, wanted);
        }
        let other = external_metric(Series::QueueSize, Some("my_queue"), None, &ClusterNames::default());
        assert_eq!(other.unwrap().selector, "", "another adapter's");
        let nowhere = external_metric(Series::GpuUtil, None, None, &ClusterNames::default()).unwrap_err();
        assert!(nowhere.to_string().contains("--external-metric") && nowhere.to_string().contains("cluster"));
    }

    #[test]
    fn a_pods_metric_is_read_as_the_profile_reads_it() {
        let asked = |profile: &str, series, name| {
            custom_metric(series, name, &Profile::built_in(profile).unwrap(), &names()).unwrap()
        };
        let triton = asked("triton-trtllm", Series::QueueSize, None);
        assert_eq!(triton.name, "prometheus.googleapis.com|nv_trt_llm_request_metrics|gauge");
        assert_eq!(triton.of_series, "metric.labels.request_type=waiting");
        assert_eq!(triton.selector, "app=gemma-server");
        let kv = asked("tgi", Series::KvUsage, None);
        assert_eq!(kv.per.as_deref(), Some("prometheus.googleapis.com|tgi_batch_max_total_tokens|gauge"));
        let successes = asked("vllm", Series::Successes, Some("vllm:request_success_total"));
        assert_eq!(successes.of_series, "finished_reason in (stop,length)");
        let own = asked("tgi", Series::KvUsage, Some("my_kv"));
        assert_eq!((own.per, own.of_series.as_str(), own.scale), (None, "", 1.0));
        let none = custom_metric(Series::GpuUtil, None, &Profile::built_in("tgi").unwrap(), &names());
        assert!(none.unwrap_err().to_string().contains("write gpu_util=NAME"));
    }

    #[test]
    fn a_query_to_managed_prometheus_names_the_place_where_that_is_known() {
        let (c, n) = ("c".to_owned(), "n".to_owned());
        let known = [("cluster", Some(&c)), ("location", None), ("namespace", Some(&n))];
        assert_eq!(managed_matchers("", &known), "cluster=\"c\",namespace=\"n\"");
        assert_eq!(
            managed_matchers("job=\"a\",namespace=~\"x.*\"", &known),
            "cluster=\"c\",job=\"a\",namespace=~\"x.*\""
        );
        assert_eq!(managed_matchers("top_cluster=\"c\"", &known[..1]), "cluster=\"c\",top_cluster=\"c\"");
    }
}
