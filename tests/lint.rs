//! Every rule of lint finds what it is there for, at its line, and leaves alone what is right.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use calibrate::manifest::read_objects;
use calibrate::recommend::lint::{Context, Linted, Object, Rule, RunFacts, RunStep, Severity, lint};
use proptest::prelude::*;
use serde::Deserialize;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

fn objects(yaml: &str) -> Vec<Object> {
    let nodes = read_objects(yaml).unwrap();
    nodes.into_iter().map(|node| Object { file: "f.yaml".to_owned(), node }).collect()
}

fn linted(yaml: &str, context: &Context) -> Linted {
    lint(&objects(yaml), context)
}

/// What is found: rule, severity and line.
fn found(yaml: &str, context: &Context) -> Vec<(Rule, Severity, u64)> {
    let linted = linted(yaml, context);
    linted.findings.iter().map(|finding| (finding.rule, finding.severity, finding.place.line)).collect()
}

/// The findings of one rule.
fn of(rule: Rule, yaml: &str, context: &Context) -> Vec<(Severity, u64)> {
    let all = found(yaml, context).into_iter().filter(|finding| finding.0 == rule);
    all.map(|(_, severity, line)| (severity, line)).collect()
}

/// An HPA on one metric; the target stands in line 17.
fn hpa(kind: &str, metric: &str, target: &str) -> String {
    let field = kind.to_lowercase();
    format!(
        "\
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  name: gemma-hpa
spec:
  scaleTargetRef: {{apiVersion: apps/v1, kind: Deployment, name: tgi}}
  minReplicas: 1
  maxReplicas: 5
  metrics:
  - type: {kind}
    {field}:
      metric:
        name: {metric}
        selector: {{matchLabels: {{resource.labels.cluster: c, resource.labels.cluster_name: c, resource.labels.location: l, resource.labels.namespace: n, resource.labels.namespace_name: n}}}}
      target:
        type: AverageValue
        averageValue: {target}
"
    )
}

const BATCH: &str = "prometheus.googleapis.com|tgi_batch_current_size|gauge";
const QUEUE: &str = "prometheus.googleapis.com|tgi_queue_size|gauge";
const DUTY_CYCLE: &str = "kubernetes.io|container|accelerator|duty_cycle";

fn scaled_object(query: &str, more: &str) -> String {
    format!(
        "\
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata:
  name: tgi
spec:
  scaleTargetRef:
    name: tgi
  minReplicaCount: 1
  triggers:
  - type: prometheus
    metadata:
      serverAddress: http://prometheus:9090
      threshold: '20'
      query: {query}
{more}"
    )
}

/// A run whose batch rises with the load to the power of `exponent`; once it is full, it is 60.
fn run(exponent: f64) -> RunFacts {
    let step = |load: f64, queue: f64, batch: f64| RunStep {
        load,
        queue: Some(queue),
        batch: Some(batch),
        gpu: Some(70.0 + load),
    };
    let held = [1.0, 2.0, 4.0].map(|load: f64| step(load, 0.1, 10.0 * load.powf(exponent)));
    RunFacts {
        id: "r".to_owned(),
        steps: held.into_iter().chain([step(30.0, 90.0, 60.0)]).collect(),
        batch_at_capacity: Some(40.0),
        gpu_at_capacity: Some(99.0),
        ..RunFacts::default()
    }
}

fn with_run(exponent: f64) -> Context {
    Context { run: Some(run(exponent)), gpus_per_replica: Some(1), ..Context::default() }
}

fn version(minor: u32) -> Context {
    Context { version: Some((1, minor)), ..Context::default() }
}

use Severity::{Error, Note, Warning};

#[test]
fn a_sound_hpa_gives_no_finding() {
    assert_eq!(found(&hpa("Pods", BATCH, "30"), &Context::default()), []);
    assert_eq!(found(&hpa("Pods", BATCH, "30"), &with_run(1.0)), []);
    let one = Context { gpus_per_replica: Some(1), ..Context::default() };
    assert_eq!(found(&hpa("External", DUTY_CYCLE, "60"), &one), []);
}

#[test]
fn what_calibrate_itself_writes_has_no_errors() {
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("reports/sample");
    let files = fs::read_dir(sample).unwrap().map(|entry| entry.unwrap().path());
    let files = files.filter(|path| path.extension().is_some_and(|end| end == "yaml"));
    let mut checked = 0;
    for path in files {
        let linted = linted(&fs::read_to_string(&path).unwrap(), &Context::default());
        let errors: Vec<_> = linted.findings.iter().filter(|finding| finding.severity == Error).collect();
        assert!(errors.is_empty(), "{}: {errors:?}", path.display());
        checked += linted.checked;
    }
    assert!(checked > 0);
}

#[test]
fn a_placeholder_is_told_once_and_with_its_line() {
    for placeholder in ["$HPA_AVERAGEVALUE_TARGET", "<target>", "'{{ .Values.target }}'", "TODO", "${T}"] {
        let findings = found(&hpa("Pods", BATCH, placeholder), &Context::default());
        assert_eq!(findings, [(Rule::Placeholder, Error, 17)], "{placeholder}");
    }
    for query in ["sum(x{pod=~\"^tgi-.*$\"})", "sum(x < bool 5) > 3", "sum(x<5>3)"] {
        assert_eq!(of(Rule::Placeholder, &scaled_object(query, ""), &Context::default()), [], "{query}");
    }
}

/// One answer of a real API server, 1.36.
#[derive(Deserialize)]
struct Answer {
    name: String,
    strict: bool,
    accepted: bool,
    message: Option<String>,
    object: Value,
}

#[test]
fn what_a_real_api_server_refused_is_an_error_and_what_it_took_is_not() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/lint/api_answers.json");
    let answers: Vec<Answer> = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let mut wrong = Vec::new();
    for Answer { name, strict, accepted, message, object } in &answers {
        let mut refusals = vec![Rule::ApiRejects, Rule::ApiVersion, Rule::Placeholder, Rule::ScaleToZero];
        refusals.extend(strict.then_some(Rule::UnknownField));
        let findings = found(&object.to_string(), &Context::default());
        let refused = findings.iter().any(|finding| refusals.contains(&finding.0));
        if refused == *accepted {
            wrong.push(format!("{name}: {message:?}, but {findings:?}"));
        }
    }
    assert!(answers.len() >= 80);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn old_api_versions_are_named_with_the_way_out() {
    let yaml = hpa("Pods", BATCH, "30");
    for (version, reason) in
        [("v2beta2", "gone since Kubernetes 1.26"), ("v2beta1", "1.25"), ("v1", "CPU only")]
    {
        let linted =
            linted(&yaml.replace("autoscaling/v2", &format!("autoscaling/{version}")), &Context::default());
        let finding = &linted.findings[0];
        let severity = if version == "v1" { Warning } else { Error };
        assert_eq!((finding.rule, finding.severity, finding.place.line), (Rule::ApiVersion, severity, 1));
        assert!(finding.reason.contains(reason) && finding.fix.contains("autoscaling/v2"), "{finding:?}");
    }
}

#[test]
fn a_field_in_the_wrong_place_is_named_with_the_right_one() {
    let yaml = hpa("Pods", BATCH, "30")
        + "  behavior: {scaleUp: {policies: [{type: Pods, value: 1, periodSeconds: 15, tolerance: 0.05}]}}\n";
    let linted = linted(&yaml, &Context::default());
    let finding = linted.findings.iter().find(|finding| finding.rule == Rule::UnknownField).unwrap();
    assert_eq!(finding.field, "spec.behavior.scaleUp.policies[0].tolerance");
    assert!(finding.fix.contains("beside policies"), "{}", finding.fix);
    let typo = hpa("Pods", BATCH, "30").replace("maxReplicas", "maxReplica");
    let linted = self::linted(&typo, &Context::default());
    assert!(linted.findings.iter().any(|finding| finding.fix == "did you mean maxReplicas?"), "{linted:?}");
}

#[test]
fn a_bounded_signal_cannot_reach_a_target_beyond_its_bound_less_the_tolerance() {
    let one = Context { gpus_per_replica: Some(1), ..Context::default() };
    for (metric, alive, dead) in [
        (DUTY_CYCLE, "90909m", "90910m"),
        ("prometheus.googleapis.com|dcgm_fi_dev_gpu_util|unknown", "90", "91"),
        ("vllm:kv_cache_usage_perc", "0.9", "85"),
        (QUEUE, "116", "117"),
    ] {
        assert_eq!(of(Rule::DeadTarget, &hpa("External", metric, alive), &one), [], "{metric}");
        assert_eq!(of(Rule::DeadTarget, &hpa("External", metric, dead), &one), [(Error, 17)], "{metric}");
    }
    let two = Context { gpus_per_replica: Some(2), ..Context::default() };
    assert_eq!(of(Rule::DeadTarget, &hpa("External", DUTY_CYCLE, "180"), &two), []);
    assert_eq!(of(Rule::DeadTarget, &hpa("External", DUTY_CYCLE, "182"), &two), [(Error, 17)]);
    let own = hpa("External", DUTY_CYCLE, "95") + "  behavior: {scaleUp: {tolerance: 0.05}}\n";
    assert_eq!(of(Rule::DeadTarget, &own, &one), [], "its own tolerance counts");
    let old = Context { version: Some((1, 34)), ..one };
    assert_eq!(of(Rule::DeadTarget, &own, &old), [(Error, 17)], "unless the cluster drops it");
}

#[test]
fn the_fix_of_a_dead_target_is_the_largest_that_lives() {
    let context = Context { gpus_per_replica: Some(1), ..Context::default() };
    let linted = linted(&hpa("External", DUTY_CYCLE, "95"), &context);
    let finding = linted.findings.iter().find(|finding| finding.rule == Rule::DeadTarget).unwrap();
    assert_eq!(finding.fix, "write 90909m or less");
    assert!(finding.reason.contains("scales up only from 104.501"), "{}", finding.reason);
}

#[test]
fn a_run_tells_dead_and_late_targets() {
    let context = with_run(1.0);
    assert_eq!(of(Rule::TooLate, &hpa("Pods", BATCH, "36363m"), &context), []);
    assert_eq!(of(Rule::TooLate, &hpa("Pods", BATCH, "36364m"), &context), [(Error, 17)]);
    assert_eq!(of(Rule::DeadTarget, &hpa("Pods", BATCH, "49"), &context), [], "90 % of the full batch");
    assert_eq!(of(Rule::DeadTarget, &hpa("Pods", BATCH, "50"), &context), [(Warning, 17)]);
    let dead = hpa("Pods", BATCH, "55");
    assert_eq!(of(Rule::DeadTarget, &dead, &context), [(Error, 17)]);
    assert_eq!(of(Rule::TooLate, &dead, &context), [], "said already");
}

#[test]
fn replicas_that_cannot_come_down_are_found() {
    let context = Context::default();
    let disabled = hpa("Pods", BATCH, "30") + "  behavior:\n    scaleDown: {selectPolicy: Disabled}\n";
    assert_eq!(of(Rule::CannotComeDown, &disabled, &context), [(Warning, 19)]);
    let fixed = hpa("Pods", BATCH, "30").replace("maxReplicas: 5", "maxReplicas: 1");
    assert_eq!(of(Rule::CannotComeDown, &fixed, &context), [(Warning, 4)]);
    let memory = hpa("Pods", "dcgm_fi_dev_fb_used", "30k");
    assert_eq!(of(Rule::CannotComeDown, &memory, &context), [(Error, 13)]);
    // At the lowest load the batch is 10, and two replicas become one only at half the target.
    assert_eq!(of(Rule::CannotComeDown, &hpa("Pods", BATCH, "20"), &with_run(1.0)), []);
    assert_eq!(of(Rule::CannotComeDown, &hpa("Pods", BATCH, "19999m"), &with_run(1.0)), [(Warning, 17)]);
}

/// The table of the theory: for which replicas a metric of elasticity e flaps at a tolerance of 0.1.
#[test]
fn flapping_follows_the_inequality() {
    for (elasticity, last) in [(1.0, None), (1.5, Some(5)), (2.0, Some(10)), (3.0, Some(15)), (5.0, Some(25))]
    {
        let yaml = hpa("Pods", BATCH, "30").replace("maxReplicas: 5", "maxReplicas: 99");
        let linted = linted(&yaml, &with_run(elasticity));
        let flap = linted.findings.iter().find(|finding| finding.rule == Rule::FlapProne);
        match last {
            None => assert_eq!(flap, None),
            Some(last) => {
                let reason = &flap.unwrap().reason;
                assert!(reason.contains(&format!("from 2 to {last} replicas")), "{elasticity}: {reason}");
            }
        }
    }
}

#[test]
fn the_queue_alone_is_warned_of_and_beside_another_metric_not() {
    let queue = hpa("Pods", QUEUE, "4");
    assert_eq!(of(Rule::QueueOnly, &queue, &Context::default()), [(Warning, 13)]);
    let both = queue.clone()
        + "  - type: Pods\n    pods:\n      metric: {name: tgi_batch_current_size}\n      target: {type: AverageValue, averageValue: 30}\n";
    assert_eq!(of(Rule::QueueOnly, &both, &Context::default()), []);
    let cpu = queue
        + "  - type: Resource\n    resource: {name: cpu, target: {type: Utilization, averageUtilization: 80}}\n";
    assert_eq!(of(Rule::QueueOnly, &cpu, &Context::default()), []);
}

#[test]
fn two_autoscalers_on_one_workload_are_found_across_kinds_but_not_across_namespaces() {
    let context = Context::default();
    let first = hpa("Pods", BATCH, "30");
    let second = first.replace("gemma-hpa", "other");
    let both = |second: &str| format!("{first}---\n{second}");
    assert_eq!(of(Rule::TwoHpas, &both(&second), &context), [(Error, 22)]);
    let elsewhere = second.replace("  name: other\n", "  name: other\n  namespace: prod\n");
    assert_eq!(of(Rule::TwoHpas, &both(&elsewhere), &context), []);
    let keda = scaled_object("sum(tgi_batch_current_size)", "");
    assert_eq!(of(Rule::TwoHpas, &both(&keda), &context), [(Error, 22)]);
    let linted = linted(&both(&first), &context);
    let reason = &linted.findings[0].reason;
    assert!(reason.contains("f.yaml:4 has the same name"), "{reason}");
}

#[test]
fn an_external_metric_must_be_held_to_its_cluster() {
    let yaml = hpa("External", DUTY_CYCLE, "60");
    let rule = Rule::ExternalWithoutCluster;
    let without = |label: &str| {
        of(
            rule,
            &yaml.replace(&format!("{label}: c, "), "").replace(&format!("{label}: l, "), ""),
            &Context::default(),
        )
    };
    assert_eq!(without("resource.labels.cluster_name"), [(Warning, 13)]);
    assert_eq!(without("resource.labels.location"), [(Note, 13)]);
    assert_eq!(without("resource.labels.cluster"), [], "that is the label of other metrics");
    assert_eq!(
        of(rule, &hpa("Pods", QUEUE, "4").replace("resource.labels.cluster: c, ", ""), &Context::default()),
        []
    );
}

#[test]
fn upper_case_in_an_external_name_never_matches() {
    let name = "prometheus.googleapis.com|DCGM_FI_DEV_GPU_UTIL|unknown";
    assert_eq!(of(Rule::ExternalUpperCase, &hpa("External", name, "60"), &Context::default()), [(Error, 13)]);
    assert_eq!(of(Rule::ExternalUpperCase, &hpa("Pods", name, "60"), &Context::default()), []);
}

#[test]
fn an_average_is_not_divided_again() {
    let rule = Rule::AverageOfAverages;
    let context = Context::default();
    assert_eq!(of(rule, &scaled_object("avg(tgi_batch_current_size)", ""), &context), [(Error, 14)]);
    assert_eq!(of(rule, &scaled_object("sum(tgi_batch_current_size)", ""), &context), []);
    let value = scaled_object("avg(tgi_batch_current_size)", "    metricType: Value\n");
    assert_eq!(of(rule, &value, &context), []);
    let mean =
        hpa("External", DUTY_CYCLE, "60").replace("matchLabels: {", "matchLabels: {reducer: REDUCE_MEAN, ");
    assert_eq!(of(rule, &mean, &context), [(Error, 13)]);
    assert_eq!(
        of(rule, &hpa("External", "inference_pool_average_queue_size", "5"), &context),
        [(Warning, 13)]
    );
}

#[test]
fn the_series_of_several_gpus_are_summed() {
    let rule = Rule::MultiGpuSum;
    let yaml = hpa("External", DUTY_CYCLE, "60");
    assert_eq!(of(rule, &yaml, &Context::default()), [(Note, 17)], "nobody said how many");
    let deployment = "---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {name: tgi}\nspec: {template: {spec: {containers: [{name: s, resources: {limits: {nvidia.com/gpu: '4'}}}]}}}\n";
    assert_eq!(of(rule, &format!("{yaml}{deployment}"), &Context::default()), [(Warning, 17)]);
    let four = hpa("External", DUTY_CYCLE, "240");
    assert_eq!(of(rule, &format!("{four}{deployment}"), &Context::default()), []);
    assert_eq!(
        linted(&format!("{four}{deployment}"), &Context::default()).skipped,
        ["f.yaml:19: Deployment tgi"]
    );
}

#[test]
fn a_tolerance_is_judged_by_the_version_and_by_its_size() {
    let with = |rules: &str| hpa("Pods", BATCH, "30") + "  behavior:\n" + rules;
    let yaml = with("    scaleUp: {stabilizationWindowSeconds: 0, tolerance: 0.05}\n");
    let rule = Rule::ToleranceUnsupported;
    assert_eq!(of(rule, &yaml, &version(32)), [(Error, 19)]);
    assert_eq!(of(rule, &yaml, &version(34)), [(Error, 19)]);
    assert_eq!(of(rule, &yaml, &version(35)), []);
    assert_eq!(of(rule, &yaml, &Context::default()), [(Note, 19)]);
    let large = |rules: &str| of(Rule::ToleranceTooLarge, &with(rules), &version(36));
    assert_eq!(large("    scaleUp: {tolerance: 5}\n"), [(Warning, 19)]);
    assert_eq!(large("    scaleDown: {tolerance: 1}\n"), [(Error, 19)]);
    assert_eq!(large("    scaleDown: {tolerance: 0.9}\n"), []);
}

#[test]
fn a_behavior_only_for_a_tolerance_brings_other_limits() {
    let rule = Rule::BehaviorForTolerance;
    let with = |rules: &str| of(rule, &(hpa("Pods", BATCH, "30") + rules), &version(36));
    assert_eq!(with("  behavior: {scaleUp: {tolerance: 0.05}, scaleDown: {}}\n"), [(Warning, 18)]);
    assert_eq!(with("  behavior: {scaleUp: {tolerance: 0.05, selectPolicy: Max}}\n"), []);
    assert_eq!(with("  behavior: {}\n"), []);
}

#[test]
fn keda_objects_have_rules_of_their_own() {
    let context = Context::default();
    let good = scaled_object("sum(tgi_batch_current_size)", "      ignoreNullValues: 'false'\n");
    assert_eq!(found(&good, &context), []);
    let silent = good.replace("'false'", "'true'");
    assert_eq!(of(Rule::MissingAsZero, &silent, &context), [(Warning, 15)]);
    assert_eq!(
        of(
            Rule::MissingAsZero,
            &scaled_object("sum(x) or vector(0)", "      ignoreNullValues: 'false'\n"),
            &context
        ),
        [(Warning, 14)]
    );
    let torn = good.replace("      serverAddress: http://prometheus:9090\n", "");
    assert_eq!(of(Rule::ApiRejects, &torn, &context), [(Error, 12)]);
    let old = good.replace("type: prometheus", "type: gcp-stackdriver");
    assert_eq!(of(Rule::KedaDeprecatedTrigger, &old, &context), [(Warning, 10)]);
    let to_zero = good.replace("  minReplicaCount: 1\n", "");
    assert_eq!(of(Rule::ScaleToZero, &to_zero, &context), [(Warning, 1)]);
    let dead = good.replace("tgi_batch_current_size", "dcgm_fi_dev_gpu_util").replace("'20'", "'95'");
    assert_eq!(of(Rule::DeadTarget, &dead, &context), [(Error, 13)]);
    let behavior = good.replace(
        "  triggers:\n",
        "  advanced: {horizontalPodAutoscalerConfig: {behavior: {scaleDown: {selectPolicy: Disabled}}}}\n  triggers:\n",
    );
    assert_eq!(of(Rule::CannotComeDown, &behavior, &context), [(Warning, 9)]);
}

#[test]
fn without_replicas_only_what_needs_no_pods_can_wake() {
    let zero = |kind| hpa(kind, DUTY_CYCLE, "60").replace("minReplicas: 1", "minReplicas: 0");
    assert_eq!(of(Rule::ScaleToZero, &zero("Pods"), &Context::default()), [(Error, 7)]);
    assert_eq!(of(Rule::ScaleToZero, &zero("External"), &Context::default()), [(Warning, 7)]);
}

#[test]
fn without_metrics_cpu_is_filled_in() {
    let yaml = hpa("Pods", BATCH, "30");
    let (head, _) = yaml.split_once("  metrics:").unwrap();
    assert_eq!(of(Rule::NoMetrics, head, &Context::default()), [(Warning, 6)]);
}

#[test]
fn lists_as_kubectl_prints_them_are_looked_into() {
    let items: Vec<Value> = ["a", "b"]
        .map(|name| {
            json!({
                "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": { "name": name },
                "spec": { "scaleTargetRef": { "apiVersion": "apps/v1", "kind": "Deployment", "name": "x" }, "maxReplicas": 3 },
            })
        })
        .to_vec();
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": items });
    let linted = linted(&list.to_string(), &Context::default());
    assert_eq!(linted.checked, 2);
    assert!(linted.findings.iter().any(|finding| finding.rule == Rule::TwoHpas));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Documents damaged anywhere are linted, or no YAML, but never a panic.
    #[test]
    fn damaged_documents_are_linted_without_a_panic(
        at in 0_usize..900, removed in 0_usize..40, inserted in "[ -~\n]{0,12}", keda in any::<bool>(),
    ) {
        let text = if keda {
            scaled_object("avg(tgi_batch_current_size)", "      ignoreNullValues: 'false'\n")
        } else {
            hpa("External", DUTY_CYCLE, "60") + "  behavior: {scaleUp: {tolerance: 0.05, policies: [{type: Pods, value: 1, periodSeconds: 15}]}}\n"
        };
        let start = at.min(text.len());
        let end = (start + removed).min(text.len());
        let damaged = format!("{}{inserted}{}", &text[..start], &text[end..]);
        if let Ok(nodes) = read_objects(&damaged) {
            let objects: Vec<Object> = nodes.into_iter().map(|node| Object { file: "f".to_owned(), node }).collect();
            for finding in lint(&objects, &with_run(2.0)).findings {
                prop_assert!(finding.place.line >= 1, "{finding:?}");
                prop_assert!(!finding.reason.is_empty() && !finding.fix.is_empty());
            }
        }
    }

    /// Lint says dead exactly where ten times the bound does not pass eleven times the target.
    #[test]
    fn dead_is_what_integers_say(target in 1_i64..200_000, gpus in 1_u32..5) {
        let context = Context { gpus_per_replica: Some(gpus), ..Context::default() };
        let dead = !of(Rule::DeadTarget, &hpa("External", DUTY_CYCLE, &format!("{target}m")), &context).is_empty();
        prop_assert_eq!(dead, 10 * 100_000 * i64::from(gpus) <= 11 * target);
    }
}
