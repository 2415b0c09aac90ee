use super::*;
use crate::recommend::{Assumptions, Recommendation, Target, Term};
use crate::units::{Milli, Seconds, Signal};
use accepted::{reads_back, would_be_accepted};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use proptest::prelude::*;
use serde_json::Value;

mod accepted;

fn target(signal: Signal, milli: i64) -> Target {
    Target {
        signal,
        at_capacity: Some(24.25),
        samples: 20,
        average_value: Ok(Milli(milli)),
        fires_at: Some(Milli(milli * 11 / 10 + 1)),
        fires_at_load: None,
        terms: vec![Term { name: "at the capacity".to_owned(), value: "24.25 requests".to_owned() }],
        gates: Vec::new(),
        remarks: Vec::new(),
    }
}

fn assumptions(tolerance: f64) -> Assumptions {
    Assumptions {
        tolerance,
        lag: Seconds(30.0),
        lag_origin: crate::recommend::LagOrigin::Assumed,
        startup: Seconds(120.0),
        startup_origin: crate::recommend::LagOrigin::Assumed,
        growth: 0.1,
    }
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

/// A cluster of which everything is known.
fn known() -> ClusterNames {
    ClusterNames {
        project: Some("my-project".to_owned()),
        cluster_version: Some("1.35".to_owned()),
        metrics_port: "metrics:8000".to_owned(),
        ..names()
    }
}

/// Targets for all four metrics, with nothing said against any.
fn all_targets() -> Recommendation {
    let mut recommendation = recommendation();
    recommendation.targets[0].average_value = Ok(Milli(3000));
    recommendation
}

/// A server whose gauges carry labels, or none.
fn server(
    slug: &str,
    title: &str,
    queue: &str,
    batch: Result<&str, &str>,
    label: Option<[&str; 2]>,
) -> Server {
    let gauge = |name: &str, value: &str| {
        let labels = label.map(|[key, _]| (key.to_owned(), value.to_owned())).into_iter().collect();
        Gauge { name: name.to_owned(), labels }
    };
    Server {
        slug: slug.to_owned(),
        title: title.to_owned(),
        queue: Ok(gauge(queue, label.map_or("", |[_, value]| value))),
        batch: batch.map(|name| gauge(name, "scheduled")).map_err(str::to_owned),
        latencies: Vec::new(),
        ..Server::default()
    }
}

fn vllm() -> Server {
    let latency = |title: &str, name: &str| Latency { title: title.to_owned(), name: name.to_owned() };
    let latencies = vec![
        latency("time to first token", "vllm:time_to_first_token_seconds"),
        latency("end to end", "vllm:e2e_request_latency_seconds"),
    ];
    let plain = server("vllm", "vLLM", "vllm:num_requests_waiting", Ok("vllm:num_requests_running"), None);
    Server { latencies, ..plain }
}

fn triton() -> Server {
    let (name, label) = ("nv_trt_llm_request_metrics", ["request_type", "waiting"]);
    Server {
        port: 8002,
        path: "/own/metrics".to_owned(),
        ..server("triton-trtllm", "Triton", name, Ok(name), Some(label))
    }
}

fn jetstream() -> Server {
    let batch = Err("JetStream shows no batch size");
    server("jetstream", "JetStream", "jetstream_prefill_backlog_size", batch, None)
}

fn provenance() -> Provenance {
    Provenance { lines: vec!["run x".to_owned()], simulated: false }
}

fn render(recommendation: &Recommendation, names: &ClusterNames) -> Manifests {
    render_all(recommendation, names, &provenance()).unwrap()
}

fn text<'a>(all: &'a Manifests, name: &str) -> &'a str {
    &all.files.iter().find(|file| file.name == name).unwrap_or_else(|| panic!("no {name}")).text
}

fn reason<'a>(all: &'a Manifests, name: &str) -> &'a str {
    &all.left_out.iter().find(|left| left.name == name).unwrap_or_else(|| panic!("{name} is there")).reason
}

fn parse(yaml: &str) -> HorizontalPodAutoscaler {
    serde_saphyr::from_str(yaml).expect("an HPA")
}

fn average_values(hpa: &HorizontalPodAutoscaler) -> Vec<String> {
    let target = |metric: &k8s_openapi::api::autoscaling::v2::MetricSpec| {
        let pods = metric.pods.as_ref().map(|m| &m.target);
        pods.or(metric.external.as_ref().map(|m| &m.target)).unwrap().average_value.clone().unwrap().0
    };
    hpa.spec.metrics.iter().flatten().map(target).collect()
}

fn average_value(hpa: &HorizontalPodAutoscaler) -> String {
    average_values(hpa).concat()
}

#[test]
fn the_manifests_are_those_of_the_how_to_page_with_a_number_in_them() {
    let all = render(&recommendation(), &names());
    insta::assert_snapshot!(shown(&all, &["hpa-", "podmonitoring-"]));
}

#[test]
fn the_other_ways_to_the_hpa_say_the_same() {
    let all = render(&all_targets(), &known());
    assert!(all.left_out.is_empty(), "{:?}", all.left_out);
    insta::assert_snapshot!(shown(
        &all,
        &["hpa-combined", "autoscaling-", "hpa-autoscaling", "prometheus-", "hpa-prometheus", "keda-"]
    ));
    insta::assert_snapshot!("setup", text(&all, "setup.sh"));
}

#[test]
fn the_dashboards_show_each_signal_with_its_target_and_band() {
    let all = render(&all_targets(), &known());
    insta::assert_snapshot!("cloud-monitoring", text(&all, "dashboard.json"));
    insta::assert_snapshot!("grafana", text(&all, "grafana-dashboard.json"));
}

#[test]
fn a_vllm_server_is_known_by_its_own_names_everywhere() {
    let names = ClusterNames { server: vllm(), ..known() };
    let all = render(&all_targets(), &names);
    assert!(all.left_out.is_empty(), "{:?}", all.left_out);
    for file in &all.files {
        assert!(!file.text.contains("tgi_"), "{}:\n{}", file.name, file.text);
    }
    insta::assert_snapshot!(shown(&all, &["hpa-batch", "podmonitoring-vllm", "prometheus-", "keda-"]));
}

fn shown(all: &Manifests, prefixes: &[&str]) -> String {
    let wanted = all.files.iter().filter(|file| prefixes.iter().any(|prefix| file.name.starts_with(prefix)));
    wanted.map(|file| format!("--- {}\n{}", file.name, file.text)).collect::<Vec<_>>().concat()
}

#[test]
fn every_manifest_of_every_server_reads_back_typed_and_would_be_accepted() {
    let own = Some("http://prometheus.monitoring.svc:9090".to_owned());
    let servers = [Server::default(), vllm(), triton(), jetstream()];
    for (server, prometheus) in servers.into_iter().flat_map(|s| [(s.clone(), None), (s, own.clone())]) {
        let names = ClusterNames { server, prometheus, gpus_per_replica: 2, ..known() };
        let all = render(&all_targets(), &names);
        assert_eq!(all.files.len() + all.left_out.len(), 15, "every file is written or left out");
        for file in &all.files {
            reads_back(file);
        }
    }
}

#[test]
fn several_gpus_of_a_replica_multiply_the_target_of_gpu_metrics_alone() {
    let names = ClusterNames { gpus_per_replica: 4, ..known() };
    let mut recommendation = all_targets();
    let all = render(&recommendation, &names);
    let value = |file| average_value(&parse(text(&all, file)));
    let files = ["hpa-batch.yaml", "hpa-duty-cycle.yaml", "hpa-dcgm.yaml"];
    assert_eq!(files.map(value), ["22", "352", "352492m"]);
    assert!(text(&all, "hpa-duty-cycle.yaml").contains("for the 4 GPUs of a replica"));
    let combined = parse(text(&all, "hpa-combined.yaml"));
    assert_eq!(average_values(&combined), ["3", "22", "352", "352492m"]);
    assert!(text(&all, "dashboard.json").contains("HPA target 88123m"), "charts are per GPU");
    recommendation.recommended = Some(Signal::Dcgm);
    assert!(text(&render(&recommendation, &names), "keda-scaledobject.yaml").contains("\"352.492\""));
}

#[test]
fn another_workload_is_scaled_by_its_own_kind_and_found_by_its_own_label() {
    let scaled = ("apps/v1".to_owned(), "StatefulSet".to_owned());
    let names = ClusterNames { scaled, app: "app.kubernetes.io/name=vllm".to_owned(), ..known() };
    names.validate().unwrap();
    let made = render(&all_targets(), &names);
    for file in ["hpa-batch.yaml", "keda-scaledobject.yaml"] {
        assert!(text(&made, file).contains("kind: StatefulSet"), "{file}: {}", text(&made, file));
    }
    let labelled = made.files.iter().filter(|file| file.text.contains("app.kubernetes.io/name: vllm"));
    let labelled: Vec<&str> = labelled.map(|file| file.name.as_ref()).collect();
    assert!(labelled.iter().any(|name| name.starts_with("podmonitoring")), "{labelled:?}");
}

#[test]
fn a_target_measured_as_engine_activity_scales_on_that_metric_in_its_unit() {
    let names = ClusterNames { gpu_metric: GpuMetric::EngineActive, gpus_per_replica: 2, ..known() };
    let all = render(&all_targets(), &names);
    let yaml = text(&all, "hpa-dcgm.yaml");
    let hpa = parse(yaml);
    assert_eq!(average_value(&hpa), "1762m", "88.123 % of each of two GPUs, from 0 to 1");
    let metric = &hpa.spec.metrics.as_ref().unwrap()[0].external.as_ref().unwrap().metric;
    assert_eq!(metric.name, "prometheus.googleapis.com|dcgm_fi_prof_gr_engine_active|unknown");
    let monitoring: PodMonitoring = serde_saphyr::from_str(text(&all, "podmonitoring-dcgm.yaml")).unwrap();
    let rules = &monitoring.spec.endpoints[0].metric_relabeling;
    assert!(rules.iter().all(|rule| rule.regex == "DCGM_FI_PROF_GR_ENGINE_ACTIVE"));
    assert_eq!(rules[1].replacement.as_deref(), Some("dcgm_fi_prof_gr_engine_active"));
    for file in &all.files {
        assert!(!file.text.to_lowercase().contains("dcgm_fi_dev_gpu_util"), "{}", file.name);
    }
    assert!(text(&all, "hpa-duty-cycle.yaml").contains("of another counter"));
}

#[test]
fn the_written_behavior_is_what_a_real_api_server_fills_in() {
    let recorded = include_str!("../../tests/fixtures/kubernetes/behavior-default-empty.json");
    let recorded: Value = serde_json::from_str(recorded).unwrap();
    let mut filled = recorded["response"]["body"]["spec"]["behavior"].clone();
    assert!(filled["scaleDown"]["stabilizationWindowSeconds"].is_null());
    // Which the controller fills in, by --horizontal-pod-autoscaler-downscale-stabilization.
    filled["scaleDown"]["stabilizationWindowSeconds"] = 300.into();
    let hpa = parse(text(&render(&recommendation(), &names()), "hpa-batch.yaml"));
    let filled: k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscalerBehavior =
        serde_json::from_value(filled).unwrap();
    assert_eq!(hpa.spec.behavior.unwrap(), filled);
}

#[test]
fn an_external_metric_always_names_its_cluster_location_and_namespace() {
    for (names, said) in [
        (ClusterNames::default(), "give --cluster-name and --location"),
        (ClusterNames { location: None, ..known() }, "give --location"),
        (ClusterNames { cluster: None, ..known() }, "give --cluster-name"),
    ] {
        let all = render(&all_targets(), &names);
        for file in ["hpa-duty-cycle.yaml", "hpa-dcgm.yaml"] {
            assert!(reason(&all, file).ends_with(said), "{}", reason(&all, file));
        }
        assert!(warnings(&all_targets(), &names)[0].ends_with(said));
        let combined = parse(text(&all, "hpa-combined.yaml"));
        assert_eq!(average_values(&combined), ["3", "22"], "the server's metrics alone");
    }
    assert!(warnings(&all_targets(), &known()).is_empty());
}

#[test]
fn what_lacks_a_number_or_a_name_is_left_out_with_the_reason() {
    let mut recommendation = recommendation();
    for target in &mut recommendation.targets {
        target.average_value = Err("not measured".to_owned());
    }
    recommendation.recommended = None;
    let all = render(&recommendation, &ClusterNames::default());
    let written: Vec<&str> = all.files.iter().map(|file| file.name.as_str()).collect();
    let expected = [
        "podmonitoring-tgi.yaml",
        "podmonitoring-dcgm.yaml",
        "autoscaling-metric.yaml",
        "prometheus-adapter.yaml",
        "dashboard.json",
        "grafana-dashboard.json",
    ];
    assert_eq!(written, expected);
    assert!(OF_TARGETS[..8].iter().all(|name| !reason(&all, name).is_empty()));
    assert_eq!(reason(&all, "hpa-batch.yaml"), "batch size has no target: not measured");
    assert!(reason(&all, "setup.sh").contains("--project, --cluster-name, --location"));
    let known = render(&recommendation, &known());
    assert!(text(&known, "setup.sh").contains("No HPA yet"));
}

#[test]
fn the_setup_steps_do_not_apply_what_was_measured_on_a_simulated_server() {
    let simulated = Provenance { simulated: true, ..provenance() };
    let all = render_all(&all_targets(), &known(), &simulated).unwrap();
    let applied = |all: &Manifests| text(all, "setup.sh").contains("\nkubectl apply -f hpa-");
    assert!(!applied(&all) && applied(&render(&all_targets(), &known())));
}

#[test]
fn a_metric_that_speaks_against_itself_does_not_hold_the_combined_hpa_up() {
    let mut recommendation = all_targets();
    recommendation.targets[0].average_value = Ok(Milli(900));
    recommendation.targets[2].remarks = vec!["it saturates".to_owned()];
    recommendation.targets[3].average_value = Err("never seen".to_owned());
    let all = render(&recommendation, &known());
    let said = reason(&all, "hpa-combined.yaml");
    for part in ["has 1", "below one request", "it saturates", "never seen"] {
        assert!(said.contains(part), "{said}");
    }
}

#[test]
fn what_a_server_does_not_show_is_left_out() {
    let jetstream = render(&all_targets(), &ClusterNames { server: jetstream(), ..known() });
    assert_eq!(reason(&jetstream, "hpa-batch.yaml"), "JetStream shows no batch size");
    assert!(text(&jetstream, "hpa-autoscaling-metric.yaml").contains("|queue"), "the next best");
    let triton = render(&all_targets(), &ClusterNames { server: triton(), ..known() });
    assert!(reason(&triton, "autoscaling-metric.yaml").contains("by a label"));
    let hpa = text(&triton, "hpa-queue.yaml");
    assert!(hpa.contains("metric.labels.request_type: waiting"), "{hpa}");
    assert!(text(&triton, "prometheus-adapter.yaml").contains("as: nv_trt_llm_request_metrics_waiting"));
    let own = ClusterNames { prometheus: Some("http://p:9090".to_owned()), ..known() };
    let own = render(&all_targets(), &own);
    assert!(text(&own, "keda-scaledobject.yaml").contains("serverAddress: http://p:9090"));
    assert!(!text(&own, "keda-scaledobject.yaml").contains("my-cluster"), "it knows no such label");
    assert!(!text(&own, "grafana-dashboard.json").contains("duty_cycle"));
    let unknown = ClusterNames { project: None, ..known() };
    assert!(
        reason(&render(&all_targets(), &unknown), "keda-scaledobject.yaml").contains("--prometheus-address")
    );
    for (version, has) in [
        ("1.34", false),
        ("1.35.0-gke.9", false),
        ("1.35", true),
        ("1.35.1-gke.1396000", true),
        ("1.36.0", true),
    ] {
        let names = ClusterNames { cluster_version: Some(version.to_owned()), ..known() };
        let all = render(&all_targets(), &names);
        for file in ["autoscaling-metric.yaml", "hpa-autoscaling-metric.yaml"] {
            let left = all.left_out.iter().find(|left| left.name == file);
            assert_eq!(left.is_none(), has, "{version}: {file}");
            assert!(left.is_none_or(|left| left.reason.contains(&format!("--cluster-version is {version}"))));
        }
    }
    let elsewhere = ClusterNames { dcgm_namespace: "gke-managed-system".to_owned(), ..known() };
    let monitoring = render(&all_targets(), &elsewhere);
    let monitoring: PodMonitoring =
        serde_saphyr::from_str(text(&monitoring, "podmonitoring-dcgm.yaml")).unwrap();
    assert_eq!(monitoring.metadata.namespace.as_deref(), Some("gke-managed-system"));
    let server: PodMonitoring =
        serde_saphyr::from_str(text(&render(&all_targets(), &names()), "podmonitoring-tgi.yaml")).unwrap();
    let port = &server.spec.endpoints[0].port;
    assert_eq!(*port, IntOrString::String("metrics".to_owned()), "by name, or there is no container label");
    let nameless = ClusterNames { metrics_port: "metrics".to_owned(), ..known() };
    assert!(reason(&render(&all_targets(), &nameless), "autoscaling-metric.yaml").contains("metrics:NUMBER"));
}

#[test]
fn an_hpa_has_its_own_tolerance_where_the_cluster_knows_it() {
    let tolerance = |version: &str, tolerance: f64| {
        let names = ClusterNames { cluster_version: Some(version.to_owned()), ..known() };
        let recommendation = Recommendation { assumptions: assumptions(tolerance), ..all_targets() };
        let behavior = parse(text(&render(&recommendation, &names), "hpa-batch.yaml")).spec.behavior.unwrap();
        let (up, down) = (behavior.scale_up.unwrap().tolerance, behavior.scale_down.unwrap().tolerance);
        assert_eq!(up, down);
        up.map(|quantity| quantity.0)
    };
    for (version, value, written) in [
        ("1.34", 0.1, None),
        ("1.35", 0.1, Some("100m")),
        ("v1.35.2-gke.100", 0.05, Some("50m")),
        ("1.40", 0.0375, Some("37500u")),
        ("1.40", 0.0, Some("0")),
    ] {
        assert_eq!(tolerance(version, value).as_deref(), written, "{version}");
    }
}

#[test]
fn a_tolerance_that_controllers_do_not_have_by_default_is_warned_of() {
    let other = Recommendation { assumptions: assumptions(0.05), ..recommendation() };
    let said = "behavior.scaleUp.tolerance";
    assert!(warnings(&other, &names())[0].contains(said));
    let header =
        |recommendation| text(&render(recommendation, &names()), "hpa-batch.yaml").replace("\n#  ", "");
    assert!(header(&other).contains(said), "{}", header(&other));
    assert!(!header(&recommendation()).contains("tolerance"));
    assert!(warnings(&other, &known()).is_empty(), "the HPA says it itself");
}

#[test]
fn an_average_value_without_a_unit_is_quoted() {
    let all = render(&recommendation(), &names());
    assert!(text(&all, "hpa-batch.yaml").contains("averageValue: \"22\""));
}

#[test]
fn names_that_kubernetes_would_refuse_are_refused_with_their_field() {
    let some = |text: &str| Some(text.to_owned());
    let wrong = [
        (ClusterNames { deployment: "A_b".into(), ..names() }, "hpa-deployment"),
        (ClusterNames { hpa_name: Some("a_b".into()), ..names() }, "hpa-name"),
        (ClusterNames { namespace: "a.b".into(), ..names() }, "namespace"),
        (ClusterNames { container: String::new(), ..names() }, "container"),
        (ClusterNames { app: "-x".into(), ..names() }, "app"),
        (ClusterNames { metrics_port: "70000".into(), ..names() }, "metrics-port"),
        (ClusterNames { metrics_port: "Http!".into(), ..names() }, "metrics-port"),
        (ClusterNames { metrics_port: "1-2".into(), ..names() }, "metrics-port"),
        (ClusterNames { metrics_port: "80:http".into(), ..names() }, "metrics-port"),
        (ClusterNames { metrics_port: "http:".into(), ..names() }, "metrics-port"),
        (ClusterNames { cluster: Some("a\nb".into()), ..names() }, "cluster-name"),
        (ClusterNames { dcgm_namespace: "A".into(), ..names() }, "dcgm-namespace"),
        (ClusterNames { project: some("Proj"), ..names() }, "project"),
        (ClusterNames { project: some("$(rm -rf)"), ..names() }, "project"),
        (ClusterNames { project: some("1project"), ..names() }, "project"),
        (ClusterNames { cluster_version: some("latest"), ..names() }, "cluster-version"),
        (ClusterNames { cluster_version: some("1."), ..names() }, "cluster-version"),
        (ClusterNames { cluster_version: some("1.35x"), ..names() }, "cluster-version"),
        (ClusterNames { prometheus: some("prometheus:9090"), ..names() }, "prometheus-address"),
        (ClusterNames { prometheus: some("http://me:secret@p"), ..names() }, "prometheus-address"),
        (ClusterNames { prometheus: some("http://p/?token=secret"), ..names() }, "prometheus-address"),
        (ClusterNames { min_replicas: 0, ..names() }, "min-replicas"),
        (ClusterNames { max_replicas: 0, ..names() }, "max-replicas"),
        (ClusterNames { gpus_per_replica: 0, ..names() }, "gpus-per-replica"),
    ];
    for (names, field) in wrong {
        let error = render_all(&recommendation(), &names, &provenance()).unwrap_err().to_string();
        assert!(error.starts_with(field), "{error}");
    }
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
        let monitoring = pod_monitoring_server(&names);
        let yaml = to_yaml(&monitoring, std::slice::from_ref(&header)).unwrap();
        prop_assert_eq!(serde_saphyr::from_str::<PodMonitoring>(&yaml).unwrap(), monitoring);
        for signal in Signal::ALL {
            let object = hpa(&[(signal, Milli(milli))], Adapter::Stackdriver, 0.1, &names).unwrap();
            let yaml = to_yaml(&object, std::slice::from_ref(&header)).unwrap();
            prop_assert_eq!(&parse(&yaml), &object);
            prop_assert!(would_be_accepted(&object));
        }
    }
}

#[test]
fn an_optimum_carries_the_tolerance_that_it_was_played_with_or_says_so() {
    let spec: crate::hpa::BehaviorSpec =
        serde_json::from_str(r#"{"scaleDown": {"stabilizationWindowSeconds": 120}}"#).unwrap();
    let text = |behavior, tolerance, names: &ClusterNames| {
        let found = Optimized {
            signal: Signal::Batch,
            average_value: Milli(20_240),
            behavior,
            tolerance,
            reasons: &[],
        };
        optimized(&found, names, &Provenance::default()).unwrap().text
    };
    let own = text(Some(&spec), 0.05, &known());
    assert_eq!(own.matches("tolerance: 50m").count(), 2, "{own}");
    assert!(!own.contains("unless told otherwise"), "{own}");
    for (behavior, names) in [(Some(&spec), names()), (None, known())] {
        let told = text(behavior, 0.05, &names);
        assert!(told.contains("with a tolerance of 0.05") && !told.contains("tolerance: 50m"), "{told}");
    }
    let plain = text(None, 0.1, &names());
    assert!(!plain.contains("olerance") && !plain.contains("behavior"), "{plain}");
}

#[test]
fn pods_of_other_workloads_are_known_by_their_names() {
    for (kind, pods) in [
        ("Deployment", "pod=~\\\"tgi-gemma-deployment-[0-9a-z]+-[0-9a-z]+\\\""),
        ("StatefulSet", "pod=~\\\"tgi-gemma-deployment-[0-9]+\\\""),
        ("LeaderWorkerSet", "pod=~\\\"tgi-gemma-deployment-[0-9]+\\\""),
    ] {
        let names = ClusterNames { scaled: ("v1".to_owned(), kind.to_owned()), ..known() };
        let all = render_all(&recommendation(), &names, &Provenance::default()).unwrap();
        let file = |name: &str| &all.files.iter().find(|file| file.name == name).unwrap().text;
        assert!(file("dashboard.json").contains(pods), "{kind}");
        let setup = file("setup.sh");
        let patches = setup.contains(&format!("patch {} \"$deployment\"", kind.to_lowercase()));
        assert_eq!(patches, kind != "LeaderWorkerSet", "{setup}");
    }
}
