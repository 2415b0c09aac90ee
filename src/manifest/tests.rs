use super::*;
use crate::recommend::{Assumptions, Term};
use crate::units::Seconds;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use proptest::prelude::*;

fn target(signal: Signal, milli: i64) -> Target {
    Target {
        signal,
        at_capacity: Some(24.25),
        samples: 20,
        average_value: Ok(Milli(milli)),
        fires_at: Some(Milli(milli * 11 / 10 + 1)),
        fires_at_load: None,
        gates: Vec::new(),
        terms: vec![Term { name: "at the capacity".to_owned(), value: "24.25 requests".to_owned() }],
        remarks: Vec::new(),
    }
}

fn assumptions(tolerance: f64) -> Assumptions {
    Assumptions { tolerance, lag: Seconds(30.0), startup: Seconds(120.0), growth: 0.1 }
}

fn recommendation() -> Recommendation {
    let mut targets = vec![
        target(Signal::Queue, 4545),
        target(Signal::Batch, 22_000),
        target(Signal::DutyCycle, 88_000),
        target(Signal::Dcgm, 88_123),
    ];
    targets[0].average_value = Err("no queue".to_owned());
    let recommended = Some(Signal::Batch);
    Recommendation {
        assumptions: assumptions(0.1),
        targets,
        recommended,
        rationale: Vec::new(),
        advice: Vec::new(),
        warnings: Vec::new(),
    }
}

fn names() -> ClusterNames {
    let (cluster, location) = (Some("c1".to_owned()), Some("europe-west4".to_owned()));
    ClusterNames { cluster, location, ..ClusterNames::default() }
}

fn parse(yaml: &str) -> HorizontalPodAutoscaler {
    serde_saphyr::from_str(yaml).expect("an HPA")
}

fn average_value(hpa: &HorizontalPodAutoscaler) -> String {
    let metric = &hpa.spec.metrics.as_ref().unwrap()[0];
    let target =
        metric.pods.as_ref().map(|m| &m.target).or(metric.external.as_ref().map(|m| &m.target)).unwrap();
    target.average_value.as_ref().unwrap().0.clone()
}

#[test]
fn every_manifest_reads_back_as_the_object_it_was_made_from() {
    let files = render_all(&recommendation(), &names(), &["run x".to_owned()]).unwrap();
    let file_names: Vec<&str> = files.iter().map(|file| file.name.as_str()).collect();
    let expected = [
        "hpa-batch.yaml",
        "hpa-duty-cycle.yaml",
        "hpa-dcgm.yaml",
        "podmonitoring-tgi.yaml",
        "podmonitoring-dcgm.yaml",
    ];
    assert_eq!(file_names, expected, "the queue has no target and so no HPA");
    let signals = [Signal::Batch, Signal::DutyCycle, Signal::Dcgm];
    for (file, (signal, value)) in files.iter().zip(signals.into_iter().zip(["22", "88", "88123m"])) {
        let object = parse(&file.yaml);
        assert_eq!(average_value(&object), value);
        assert_eq!(
            object,
            hpa(
                signal,
                Milli(
                    value.trim_end_matches('m').parse::<i64>().unwrap()
                        * if value.ends_with('m') { 1 } else { 1000 }
                ),
                &names()
            )
        );
    }
    let tgi: PodMonitoring = serde_saphyr::from_str(&files[3].yaml).unwrap();
    assert_eq!(tgi, pod_monitoring_tgi(&names()));
    let dcgm: PodMonitoring = serde_saphyr::from_str(&files[4].yaml).unwrap();
    assert_eq!(dcgm, pod_monitoring_dcgm());
}

#[test]
fn the_manifests_are_those_of_the_how_to_page_with_a_number_in_them() {
    let files = render_all(&recommendation(), &names(), &["run x".to_owned()]).unwrap();
    insta::assert_snapshot!(
        files.iter().map(|file| format!("--- {}\n{}", file.name, file.yaml)).collect::<Vec<_>>().concat()
    );
}

#[test]
fn several_gpus_of_a_replica_multiply_the_target_of_gpu_metrics_alone() {
    let names = ClusterNames { gpus_per_replica: 4, ..names() };
    let files = render_all(&recommendation(), &names, &[]).unwrap();
    let values: Vec<String> = files[..3].iter().map(|file| average_value(&parse(&file.yaml))).collect();
    assert_eq!(values, ["22", "352", "352492m"]);
    assert!(files[1].yaml.contains("for the 4 GPUs of a replica"));
}

#[test]
fn without_a_cluster_the_warning_is_given_and_no_placeholder_written() {
    let names = ClusterNames::default();
    let files = render_all(&recommendation(), &names, &[]).unwrap();
    assert!(files[1].yaml.contains("WARNING"));
    assert!(!files[1].yaml.contains("cluster_name:"));
    assert_eq!(warnings(&recommendation(), &names).len(), 1);
    assert!(warnings(&recommendation(), &super::tests::names()).is_empty());
    let no_location = ClusterNames { location: None, ..super::tests::names() };
    assert!(warnings(&recommendation(), &no_location)[0].starts_with("without --location"));
}

#[test]
fn a_tolerance_that_controllers_do_not_have_by_default_is_warned_of() {
    let other = Recommendation { assumptions: assumptions(0.05), ..recommendation() };
    let said = "behavior.scaleUp.tolerance";
    assert!(warnings(&other, &names())[0].contains(said));
    let yaml = render_all(&other, &names(), &[]).unwrap()[0].yaml.replace("\n#  ", "");
    assert!(yaml.contains(said), "{yaml}");
    assert!(!render_all(&recommendation(), &names(), &[]).unwrap()[0].yaml.contains("tolerance"));
}

#[test]
fn an_average_value_without_a_unit_is_quoted() {
    let files = render_all(&recommendation(), &names(), &[]).unwrap();
    assert!(files[0].yaml.contains("averageValue: \"22\""), "{}", files[0].yaml);
}

#[test]
fn names_that_kubernetes_would_refuse_are_refused_with_their_field() {
    let wrong = [
        (ClusterNames { deployment: "A_b".into(), ..names() }, "hpa-deployment"),
        (ClusterNames { hpa_name: Some("a_b".into()), ..names() }, "hpa-name"),
        (ClusterNames { namespace: "a.b".into(), ..names() }, "namespace"),
        (ClusterNames { container: String::new(), ..names() }, "container"),
        (ClusterNames { app: "-x".into(), ..names() }, "app"),
        (ClusterNames { metrics_port: "70000".into(), ..names() }, "metrics-port"),
        (ClusterNames { metrics_port: "Http!".into(), ..names() }, "metrics-port"),
        (ClusterNames { metrics_port: "1-2".into(), ..names() }, "metrics-port"),
        (ClusterNames { cluster: Some("a\nb".into()), ..names() }, "cluster-name"),
        (ClusterNames { min_replicas: 0, ..names() }, "min-replicas"),
        (ClusterNames { max_replicas: 0, ..names() }, "max-replicas"),
        (ClusterNames { gpus_per_replica: 0, ..names() }, "gpus-per-replica"),
    ];
    for (names, field) in wrong {
        let error = render_all(&recommendation(), &names, &[]).unwrap_err().to_string();
        assert!(error.starts_with(field), "{error}");
    }
}

/// What the API server checks of an HPA.
fn would_be_accepted(hpa: &HorizontalPodAutoscaler) -> bool {
    let spec = &hpa.spec;
    let metric = &spec.metrics.as_ref().unwrap()[0];
    let one_source = u8::from(metric.pods.is_some()) + u8::from(metric.external.is_some()) == 1;
    let source = metric
        .pods
        .as_ref()
        .map(|m| (&m.metric, &m.target))
        .or(metric.external.as_ref().map(|m| (&m.metric, &m.target)));
    let (identifier, target) = source.unwrap();
    let quantity: i64 =
        target.average_value.as_ref().unwrap().0.trim_end_matches(['m', 'k', 'M']).parse().unwrap();
    let type_fits = (metric.type_ == "Pods") == metric.pods.is_some();
    let lower_case = metric.external.is_none() || identifier.name == identifier.name.to_lowercase();
    let scaled = &spec.scale_target_ref;
    spec.min_replicas.unwrap() >= 1
        && (scaled.kind.as_str(), scaled.api_version.as_deref()) == ("Deployment", Some("apps/v1"))
        && !scaled.name.is_empty()
        && spec.max_replicas >= spec.min_replicas.unwrap()
        && one_source
        && type_fits
        && lower_case
        && target.type_ == "AverageValue"
        && target.value.is_none()
        && quantity > 0
        && !identifier.name.contains(['/', '%'])
}

proptest! {
    #[test]
    fn names_and_values_that_look_like_other_yaml_survive(
        milli in 1_i64..100_000_000,
        namespace in "(no|on|null|true|1e3|0x1f|007|12|y|[a-z]([a-z0-9-]{0,8}[a-z0-9])?)",
        header in "\\PC{0,40}(\n|\r|:|#|---)?\\PC{0,40}",
    ) {
        let app = namespace.clone();
        let names = ClusterNames { namespace: namespace.clone(), container: namespace, app, ..names() };
        let monitoring = pod_monitoring_tgi(&names);
        let yaml = to_yaml(&monitoring, std::slice::from_ref(&header)).unwrap();
        prop_assert_eq!(serde_saphyr::from_str::<PodMonitoring>(&yaml).unwrap(), monitoring);
        for signal in Signal::ALL {
            let object = hpa(signal, Milli(milli), &names);
            let yaml = to_yaml(&object, std::slice::from_ref(&header)).unwrap();
            prop_assert_eq!(&parse(&yaml), &object);
            prop_assert!(would_be_accepted(&object));
        }
    }
}
