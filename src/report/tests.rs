//! Every output from made-up analyses: usual ones, odd ones, hostile ones.

use super::*;
use crate::analyze::server_model::{Curves, Drift, ForwardCost, Prediction, Share, Uncertainty, Workload};
use crate::analyze::{
    Bracket, Capacity, GaugeSummary, Known, LatencySummary, Measured, Method, NoCapacity, SloCheck,
    Steadiness, StepAnalysis, Surface, TimelinePoint, Validity, ValidityCheck, Verdict,
};
use crate::measurement::{FailureKind, Load, StepMark};
use crate::recommend::{Advice, Assumptions, Demand, Gate, Recommendation, Target, Term, plan};
use crate::units::{Milli, Rate, Replicas, Seconds, Signal};
use proptest::prelude::*;
use std::collections::BTreeMap;

fn latency(p95: f64) -> Option<LatencySummary> {
    let at = |share: f64| Seconds(p95 * share);
    p95.is_finite().then(|| LatencySummary {
        n: 100,
        mean: at(0.5),
        p50: at(0.4),
        p90: at(0.9),
        p95: at(1.0),
        p95_interval: Some((at(0.9), at(1.1))),
        p99: at(1.2),
        max: at(1.5),
    })
}

fn gauge(mean: f64) -> Option<GaugeSummary> {
    mean.is_finite().then_some(GaugeSummary {
        n: 10,
        mean,
        std: 1.0,
        standard_error: Some(0.4),
        min: 0.0,
        max: mean * 2.0,
    })
}

fn step(index: u32, rate: f64, ttft: f64, batch: f64, queue: f64) -> StepAnalysis {
    let start = f64::from(index) * 10.0;
    let slo = "ttft:p95:2s".parse().unwrap();
    let holds = ttft <= 2.0;
    let failures = if holds { BTreeMap::new() } else { BTreeMap::from([(FailureKind::Overloaded, 7)]) };
    StepAnalysis {
        mark: StepMark {
            index,
            load: Load::Rate(Rate(rate)),
            start: Seconds(start),
            hold_start: Seconds(start + 3.0),
            end: Seconds(start + 10.0),
        },
        attempts: 100,
        lost: 0,
        succeeded: if holds { 100 } else { 93 },
        failures,
        offered: Rate(rate),
        achieved: Rate(rate.min(9.0)),
        output_tokens_per_second: rate * 50.0,
        in_flight: rate * 1.5,
        ttft: latency(ttft),
        tpot: latency(0.03),
        itl: latency(0.031),
        e2e: latency(ttft + 1.0),
        ntpot: latency(0.05),
        schedule_delay: latency(0.0004),
        goodput: Some(if holds { 1.0 } else { 0.4 }),
        queue: gauge(queue),
        batch: gauge(batch),
        gpu: gauge(70.0 + rate),
        checks: vec![SloCheck { slo, value: Some(ttft).filter(|t| t.is_finite()), holds, undecided: false }],
        steady: Steadiness::Steady,
    }
}

pub(super) fn analysis() -> Analysis {
    let slo = "ttft:p95:2s".parse().unwrap();
    let capacity = Capacity {
        per_replica: Rate(7.5),
        low: Rate(6.0),
        high: Rate(10.0),
        method: Method::Interpolation,
        replicas: Replicas(1),
        limited_by: slo,
        bracket: Some(Bracket { holds_at: Rate(6.0), fails_at: Rate(10.0), lower_step: 1, upper_step: 2 }),
    };
    let point = |i: u32| TimelinePoint {
        time: Seconds(f64::from(i) + 0.5),
        offered: Rate(f64::from(i % 7)),
        completed: Rate(f64::from(i % 5)),
        in_flight: f64::from(i),
        queue: (i > 3).then_some(f64::from(i) / 3.0),
        batch: Some(f64::from(i) / 2.0),
        gpu: Some(80.0),
        ttft_p50: None,
    };
    let check =
        |name, verdict| ValidityCheck { name, verdict, detail: format!("{name}: figures | with a bar") };
    Analysis {
        lags: Vec::new(),
        slos: vec![slo],
        replicas: Replicas(1),
        production: Replicas(1),
        steps: vec![step(0, 2.0, 0.2, 4.0, 0.0), step(1, 6.0, 0.9, 14.0, 0.5), step(2, 10.0, 5.0, 30.0, 6.0)],
        validity: Validity {
            verdict: Verdict::Remark,
            checks: vec![
                check("schedule delay", Verdict::Valid),
                check("requests per step", Verdict::Remark),
            ],
        },
        prediction: Ok(prediction()),
        capacity: Ok(capacity),
        surface: Surface::default(),
        timeline: (0..30).map(point).collect(),
    }
}

pub(super) fn recommendation() -> Recommendation {
    let target = |signal, value: Result<i64, &str>| Target {
        signal,
        at_capacity: Some(20.0),
        samples: 14,
        average_value: value.map(Milli).map_err(str::to_owned),
        fires_at: value.ok().map(|milli| Milli(milli * 11 / 10 + 1)),
        fires_at_load: None,
        gates: vec![Gate { name: "comes down", passed: true, detail: "at 2 req/s it is 4".to_owned() }],
        terms: vec![Term { name: "at the capacity".to_owned(), value: "20.000 requests".to_owned() }],
        remarks: vec!["a remark | with a bar".to_owned()],
    };
    Recommendation {
        assumptions: Assumptions {
            tolerance: 0.1,
            lag: Seconds(30.0),
            lag_origin: crate::recommend::LagOrigin::Assumed,
            startup: Seconds(120.0),
            startup_origin: crate::recommend::LagOrigin::Assumed,
            growth: 0.1,
        },
        advice: vec![Advice {
            signal: Signal::Queue,
            value: 3.0,
            load: Some(Rate(8.0)),
            violations: Some(0.2),
            says: "acts at 8.00 req/s, beyond the capacity".to_owned(),
        }],
        targets: vec![
            target(Signal::Queue, Err("no queue at all")),
            target(Signal::Batch, Ok(18_181)),
            target(Signal::DutyCycle, Ok(70_454)),
            target(Signal::Dcgm, Ok(70_454)),
        ],
        recommended: Some(Signal::Batch),
        rationale: vec!["batch size, because it rises with the load".to_owned()],
        warnings: vec!["measured on one replica".to_owned()],
    }
}

fn prediction() -> Prediction {
    let cost = ForwardCost {
        decode_base: Seconds(0.018),
        decode_per_sequence: Seconds(0.000_35),
        prefill_base: Seconds(0.02),
        prefill_per_token: Seconds(0.000_15),
        overhead: Seconds(0.000_2),
        n: 120,
    };
    Prediction {
        capacity: Rate(6.5),
        low: Rate(6.4),
        high: Rate(6.6),
        uncertainty: Uncertainty {
            shares: vec![Share { name: "drift of the server", share: 0.01 }],
            total: 0.01,
            unseen_limit: 0.0,
        },
        production: Replicas(2),
        limited_by: "ttft:p95:2s".parse().unwrap(),
        cost,
        chunking: true,
        token_budget: Some(16_384),
        drift: Drift { steps: vec![0.001, -0.003], ..Drift::default() },
        batch_cap: 54.0,
        asymptote: Rate(8.0),
        half_saturation: 23.0,
        agreement: Vec::new(),
        dispersion: Vec::new(),
        curves: Curves::default(),
        decodes: Vec::new(),
        model: serde_json::from_value(serde_json::json!({
            "prefill-base": 0.02, "prefill-per-token": 0.00015, "decode-base": 0.018,
            "decode-per-sequence": 0.00035, "token-budget": 16384, "max-prefill-tokens": 4096,
            "max-concurrent-requests": 128, "admission": "chunking"
        }))
        .unwrap(),
        workload: Workload { sizes: vec![(128, 48)], ..Workload::default() },
    }
}

pub(super) fn facts() -> RunFacts {
    RunFacts {
        run_id: "20261124T101500Z-demo".to_owned(),
        tool_version: "0.1.0".to_owned(),
        started: "2026-11-24T10:15:00Z".to_owned(),
        state: "complete".to_owned(),
        reason: None,
        target: "http://127.0.0.1:8080".to_owned(),
        server: "TGI 3.3.7, simulated/demo".to_owned(),
        simulated: true,
        scenario_yaml: "version: 1\n".to_owned(),
        command: "calibrate run --ramp".to_owned(),
        remarks: Vec::new(),
        load: load_facts(),
    }
}

fn load_facts() -> LoadFacts {
    let other = |mean| TokenCount { distribution: "other", mean, deviation: Some(mean / 2.0), bounds: None };
    LoadFacts {
        server_kind: "tgi".to_owned(),
        input: other(128.0),
        output: other(48.0),
        sampled: false,
        shared_prefix: 0,
        length: Seconds(146.25),
    }
}

fn files(
    analysis: &Analysis,
    recommendation: Option<&Recommendation>,
    facts: &RunFacts,
) -> BTreeMap<String, String> {
    let manifests = [
        ("hpa-batch.yaml".to_owned(), "kind: HorizontalPodAutoscaler\n".to_owned()),
        ("dashboard.json".to_owned(), "{\"mosaicLayout\": {}}\n".to_owned()),
    ];
    let input =
        ReportInput { analysis, recommendation, facts, manifests: &manifests, simulation: None, plan: None };
    let files = render(&input).expect("every analysis can be rendered");
    let mut files: BTreeMap<String, String> =
        files.into_iter().map(|file| (file.path, file.contents)).collect();
    files.insert("terminal".to_owned(), terminal_summary(&input, false));
    files
}

/// Whether every tag that is opened is closed, in order. Enough to notice text that was not escaped.
fn is_balanced(xml: &str) -> bool {
    let mut open = Vec::new();
    for part in xml.split('<').skip(1) {
        let Some((tag, _)) = part.split_once('>') else { return false };
        let name = |tag: &str| tag.split([' ', '\n', '/']).next().unwrap_or_default().to_owned();
        match tag {
            tag if tag.starts_with(['!', '?']) || tag.ends_with('/') => {}
            tag if tag.starts_with('/') => {
                if open.pop() != Some(name(&tag[1..])) {
                    return false;
                }
            }
            tag => open.push(name(tag)),
        }
    }
    open.is_empty()
}

/// The paths of a document with the types that they have: what a reader may rely on.
pub(super) fn schema(document: &serde_json::Value) -> String {
    fn collect(
        path: &str,
        value: &serde_json::Value,
        found: &mut std::collections::BTreeMap<String, Vec<&str>>,
    ) {
        use serde_json::Value;
        let kind = match value {
            Value::Null => "null",
            Value::Bool(_) => "bool",
            Value::Number(_) => "number",
            Value::String(_) => "string",
            Value::Array(items) => {
                for item in items {
                    collect(&format!("{path}[]"), item, found);
                }
                "array"
            }
            Value::Object(fields) => {
                for (name, value) in fields {
                    collect(&format!("{path}.{name}"), value, found);
                }
                "object"
            }
        };
        let kinds = found.entry(path.to_owned()).or_default();
        if !kinds.contains(&kind) {
            kinds.push(kind);
            kinds.sort_unstable();
        }
    }
    let mut found = BTreeMap::new();
    collect("", document, &mut found);
    found.remove("");
    let line = |(path, kinds): (String, Vec<&str>)| format!("{path}: {}", kinds.join(" | "));
    found.into_iter().map(line).collect::<Vec<_>>().join("\n")
}

/// An element of an XML document.
#[derive(Debug, Default)]
pub(super) struct Element {
    pub name: String,
    pub attributes: Vec<(String, String)>,
    pub children: Vec<Element>,
}

impl Element {
    pub(super) fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// The root element of a document. Panics where it is not well formed.
pub(super) fn elements(xml: &str) -> Element {
    assert!(is_balanced(xml), "{xml}");
    let mut stack = vec![Element::default()];
    for part in xml.split('<').skip(1) {
        let (tag, _) = part.split_once('>').expect("a tag ends");
        if tag.starts_with(['?', '!']) {
            continue;
        }
        if tag.starts_with('/') {
            let element = stack.pop().expect("an element ends");
            stack.last_mut().expect("it has a parent").children.push(element);
            continue;
        }
        let (name, mut rest) =
            tag.trim_end_matches('/').split_once(' ').unwrap_or((tag.trim_end_matches('/'), ""));
        let mut element = Element { name: name.to_owned(), ..Element::default() };
        while let Some((name, after)) = rest.split_once("=\"") {
            let (value, after) = after.split_once('"').expect("a value ends");
            let value = [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&#10;", "\n"), ("&amp;", "&")]
                .iter()
                .fold(value.to_owned(), |value, (from, to)| value.replace(from, to));
            element.attributes.push((name.trim().to_owned(), value));
            rest = after;
        }
        if tag.ends_with('/') {
            stack.last_mut().expect("it has a parent").children.push(element);
        } else {
            stack.push(element);
        }
    }
    stack.pop().expect("the document").children.pop().expect("a root")
}

/// The documents that programs read, field by field. Whoever changes one of these changes its version too, unless it
/// only grows.
#[test]
fn machine_formats_keep_their_fields() {
    let files = files(&analysis(), Some(&recommendation()), &facts());
    let parse = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
    let run =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/reports/sample/run.json")).unwrap();
    insta::assert_snapshot!("run.json schema", schema(&parse(&run)));
    insta::assert_snapshot!("recommendation.json schema", schema(&parse(&files["recommendation.json"])));
    insta::assert_snapshot!("benchmark-report.json schema", schema(&parse(&files["benchmark-report.json"])));
}

/// llm-d's benchmark report v0.2, as far as ours uses it: the fields of each object, `!` where one must be there. An
/// object refuses what is not among its fields, but for those that end in `*`.
const V0_2: &[(&str, &[&str])] = &[
    ("", &["version", "run!", "scenario", "results!"]),
    (".run", &["uid", "eid", "cid", "time", "user"]),
    (".run.time", &["start", "end", "duration"]),
    (".scenario", &["stack", "load"]),
    (".scenario.stack[]", &["metadata!", "standardized!", "native!"]),
    (".scenario.stack[].metadata", &["schema_version", "label!", "cfg_id!", "description"]),
    (".scenario.stack[].standardized", &["kind!", "tool!", "tool_version!", "*"]),
    (".scenario.stack[].native", &["args", "envars", "config"]),
    (".scenario.load", &["metadata!", "standardized!", "native!"]),
    (".scenario.load.metadata", &["schema_version", "cfg_id", "description"]),
    (
        ".scenario.load.standardized",
        &[
            "tool!",
            "tool_version!",
            "parallelism",
            "source!",
            "stage",
            "input_seq_len!",
            "output_seq_len",
            "prefix",
            "multi_turn",
            "rate_qps",
            "concurrency",
        ],
    ),
    (".scenario.load.standardized.input_seq_len", &["distribution!", "value!", "std_dev", "min", "max"]),
    (".scenario.load.standardized.output_seq_len", &["distribution!", "value!", "std_dev", "min", "max"]),
    (
        ".scenario.load.standardized.prefix",
        &["prefix_len!", "num_groups!", "num_users_per_group!", "num_prefixes!"],
    ),
    (".scenario.load.standardized.prefix.prefix_len", &["distribution!", "value!", "std_dev", "min", "max"]),
    (".scenario.load.native", &["args", "envars", "config"]),
    (".results", &["request_performance", "observability", "profiling"]),
    (".results.request_performance", &["aggregate", "time_series"]),
    (".results.request_performance.aggregate", &["requests", "latency", "throughput"]),
    (
        ".results.request_performance.aggregate.requests",
        &["total!", "failures", "incomplete", "input_length", "output_length"],
    ),
    (".results.request_performance.aggregate.latency", &LATENCIES),
    (".results.request_performance.aggregate.throughput", &RATES),
    (".results.request_performance.time_series", &["latency", "throughput"]),
    (".results.request_performance.time_series.latency", &LATENCIES),
    (".results.request_performance.time_series.throughput", &RATES),
    (".results.observability", &["components", "replica_status", "pod_startup_times", "drop_rate", "*"]),
    (
        ".results.observability.components[]",
        &["component_label!", "replica_id", "aggregate", "time_series", "raw_data_path", "graph_path"],
    ),
    (
        ".results.observability.components[].aggregate",
        &["running_requests", "waiting_requests", "gpu_utilization", "kv_cache_usage"],
    ),
    (".results.observability.components[].time_series", &["gpu_utilization", "kv_cache_usage"]),
    (
        ".results.observability.replica_status",
        &["namespace", "timestamp", "controllers", "time_series", "aggregate_ready_replicas", "graph_path"],
    ),
];
const LATENCIES: [&str; 5] = [
    "time_to_first_token",
    "normalized_time_per_output_token",
    "time_per_output_token",
    "inter_token_latency",
    "request_latency",
];
const RATES: [&str; 4] = ["input_token_rate", "output_token_rate", "total_token_rate", "request_rate"];
/// The units that a figure may have, by the end of its path.
const UNITS: &[(&str, &[&str])] = &[
    (".time_to_first_token", &["s", "ms"]),
    (".request_latency", &["s", "ms"]),
    ("_per_output_token", &["s/token", "ms/token"]),
    (".inter_token_latency", &["s/token", "ms/token"]),
    ("_token_rate", &["tokens/s"]),
    (".request_rate", &["queries/s"]),
    ("_requests", &["count"]),
    ("_replicas", &["count"]),
    (".gpu_utilization", &["percent", "fraction"]),
];
const STATISTICS: [&str; 17] = [
    "units", "mean", "mode", "stddev", "min", "p0p1", "p1", "p5", "p10", "p25", "p50", "p75", "p90", "p95",
    "p99", "p99p9", "max",
];

fn hold_v0_2(path: &str, value: &serde_json::Value, wrong: &mut Vec<String>) {
    if let Some(items) = value.as_array() {
        return items.iter().for_each(|item| hold_v0_2(&format!("{path}[]"), item, wrong));
    }
    let Some(fields) = value.as_object() else {
        if value.is_null() {
            wrong.push(format!("{path} is null instead of being left out"));
        }
        return;
    };
    if let Some(units) = fields.get("units") {
        let allowed = UNITS.iter().find(|(end, _)| path.ends_with(end)).map_or(&[][..], |(_, units)| units);
        if !allowed.contains(&units.as_str().unwrap_or_default()) {
            wrong.push(format!("{path} has the units {units}"));
        }
        let series = fields.get("series").is_some();
        let known = |name: &str| {
            if series { name == "units" || name == "series" } else { STATISTICS.contains(&name) }
        };
        wrong.extend(
            fields.keys().filter(|name| !known(name)).map(|name| format!("{path}.{name} is no field")),
        );
        if !series && !fields.contains_key("mean") {
            wrong.push(format!("{path} has no mean"));
        }
        return;
    }
    let Some((_, known)) = V0_2.iter().find(|(known, _)| *known == path) else {
        wrong.push(format!("{path} is no object of the schema"));
        return;
    };
    for (name, value) in fields {
        let allowed = known.iter().any(|field| field.trim_end_matches('!') == name || *field == "*");
        if allowed {
            hold_v0_2(&format!("{path}.{name}"), value, wrong);
        } else {
            wrong.push(format!("{path}.{name} is no field"));
        }
    }
    let needed = known.iter().filter_map(|field| field.strip_suffix('!'));
    wrong.extend(
        needed.filter(|name| !fields.contains_key(*name)).map(|name| format!("{path}.{name} is missing")),
    );
}

#[test]
fn the_benchmark_reports_hold_the_schema_of_v0_2_field_by_field() {
    let closed = |mut analysis: Analysis| {
        for step in &mut analysis.steps {
            step.mark.load = Load::Concurrency(step.mark.index + 1);
        }
        analysis
    };
    let nothing = Analysis { steps: Vec::new(), capacity: Err(NoCapacity::TooFewSteps), ..analysis() };
    let unknown = StepAnalysis { gpu: None, ..step(0, 3.0, f64::NAN, f64::NAN, f64::NAN) };
    let unknown = Analysis { steps: vec![unknown], capacity: Err(NoCapacity::TooFewSteps), ..analysis() };
    let load = LoadFacts {
        input: TokenCount { distribution: "uniform", mean: 75.0, deviation: None, bounds: Some((50, 100)) },
        shared_prefix: 20,
        sampled: true,
        ..load_facts()
    };
    let prefixed = RunFacts { load, ..facts() };
    for (analysis, facts) in
        [(analysis(), facts()), (closed(analysis()), facts()), (nothing, facts()), (unknown, prefixed)]
    {
        let files = files(&analysis, None, &facts);
        let reports: Vec<_> = files.iter().filter(|(name, _)| name.starts_with("benchmark-report")).collect();
        assert_eq!(reports.len(), 1 + analysis.steps.len());
        for (name, text) in reports {
            let document: serde_json::Value = serde_json::from_str(text).unwrap();
            let mut wrong = Vec::new();
            hold_v0_2("", &document, &mut wrong);
            assert!(wrong.is_empty(), "{name}: {wrong:?}");
            assert_eq!(document["version"], "0.2");
        }
    }
    let files = files(&analysis(), None, &facts());
    let stage: serde_json::Value = serde_json::from_str(&files["benchmark-report/stage-2.json"]).unwrap();
    assert_eq!(stage["results"]["request_performance"]["aggregate"]["requests"]["failures"], 7);
    assert_eq!(stage["scenario"]["load"]["standardized"]["rate_qps"], 10.0);
    assert_eq!(stage["run"]["time"]["duration"], "PT10.000S");
}

#[test]
fn the_prometheus_textfile_says_help_and_type_of_all_and_nothing_of_what_is_not_known() {
    let hostile = RunFacts { run_id: "a\"b\\c\nd".to_owned(), ..facts() };
    let text = &files(&analysis(), Some(&recommendation()), &hostile)["calibrate.prom"];
    assert!(text.contains("calibrate_capacity_requests_per_second{run=\"a\\\"b\\\\c\\nd\"} 7.5\n"), "{text}");
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let name = line.split('{').next().unwrap();
        assert!(
            text.contains(&format!("# HELP {name} ")) && text.contains(&format!("# TYPE {name} gauge\n")),
            "{name}"
        );
    }
    let nothing = Analysis { steps: Vec::new(), capacity: Err(NoCapacity::Invalid), ..analysis() };
    let text = &files(&nothing, None, &facts())["calibrate.prom"];
    assert!(!text.contains("capacity") && !text.contains("step"), "{text}");
}

#[test]
fn outputs_for_people_and_machines_stay_as_they_are() {
    let files = files(&analysis(), Some(&recommendation()), &facts());
    for name in ["terminal", "summary.md", "steps.csv", "recommendation.json"] {
        insta::assert_snapshot!(name, files[name]);
    }
}

#[test]
fn the_report_stands_alone_and_holds_the_answer_the_plots_and_the_manifests() {
    let files = files(&analysis(), Some(&recommendation()), &facts());
    let html = &files["report.html"];
    for outside in ["src=", "url(", "@import", "http-equiv=\"refresh", "fetch(", "XMLHttpRequest", "import("]
    {
        assert!(!html.contains(outside), "{outside}");
    }
    let links = html.split("href=\"").skip(1).filter_map(|rest| rest.split('"').next());
    for link in links {
        let inside = link.strip_prefix('#').is_some_and(|name| html.contains(&format!("id=\"{name}\"")));
        assert!(inside || link == "data:,", "{link}");
    }
    assert!(html.contains("default-src 'none'"));
    assert_eq!(html.matches("<script").count(), 1);
    for inside in [
        "averageValue 18181m",
        "7.50 req/s",
        "simulated",
        "HorizontalPodAutoscaler",
        "no queue at all",
        "TTFT",
    ] {
        assert!(html.contains(inside), "{inside}");
    }
    assert!(!html.contains("mosaicLayout"), "a dashboard lies beside the page");
    assert_eq!(html.matches("<svg").count(), 12);
    assert!(html.starts_with("<!DOCTYPE html>"));
    for (name, svg) in files.iter().filter(|(name, _)| name.starts_with("plots/")) {
        assert!(is_balanced(svg), "{name}");
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{name}");
    }
}

#[test]
fn a_plan_stays_as_it_is_also_where_other_limits_tell_nothing() {
    let (analysis, recommendation, facts) = (analysis(), recommendation(), facts());
    let gaps = BTreeMap::new();
    let measured = Measured { requests: &[], samples: &[], events: &[], gaps: &gaps, replicas: Replicas(1) };
    let demand = Demand {
        loads: vec![Rate(5.0), Rate(40.0)],
        gpu_cost: Some(0.7),
        gpus_per_replica: 2,
        max_replicas: Some(5),
    };
    let plan = plan(&analysis, &measured, &Known::default(), Some(&recommendation), &demand).unwrap();
    let input = ReportInput {
        analysis: &analysis,
        recommendation: Some(&recommendation),
        facts: &facts,
        manifests: &[],
        simulation: None,
        plan: Some(&plan),
    };
    insta::assert_snapshot!("plan", plan_summary(&input).unwrap());
    let files = render(&input).unwrap();
    let page = &files.iter().find(|file| file.path == "report.html").unwrap().contents;
    for inside in ["Capacity planning", "none left", "Cost of a million output tokens", "not known"] {
        assert!(page.contains(inside), "{inside}");
    }
    assert!(files.iter().any(|file| file.path == "plan.json"));
    assert!(plan_summary(&ReportInput { plan: None, ..input }).is_none());
}

#[test]
fn every_line_on_the_terminal_fits() {
    let text = &files(&analysis(), Some(&recommendation()), &facts())["terminal"];
    assert!(text.lines().count() <= 25);
    assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
    assert!(!text.contains('\x1b'));
}

#[test]
fn a_run_that_recommends_nothing_says_why_and_what_to_do() {
    for (reason, words) in [
        (NoCapacity::NeverReached, "raise the load"),
        (NoCapacity::NeverMet, "start the ramp lower"),
        (NoCapacity::TooFewSteps, "two steps"),
        (NoCapacity::Invalid, "mend what the validity checks name"),
    ] {
        let analysis = Analysis { capacity: Err(reason), ..analysis() };
        let interrupted =
            RunFacts { state: "interrupted".to_owned(), reason: Some("Ctrl-C".to_owned()), ..facts() };
        let files = files(&analysis, None, &interrupted);
        for name in ["report.html", "summary.md", "terminal", "recommendation.json"] {
            assert!(files[name].contains(words), "{name}: {words}");
        }
        assert!(files["report.html"].contains("The run was cut short: Ctrl-C"));
        assert!(files["recommendation.json"].contains("\"recommended\": false"));
    }
}

#[test]
fn what_others_wrote_can_not_become_markup() {
    let hostile = "<script>alert(1)</script>|\"'&`\n# x";
    let facts = RunFacts {
        run_id: hostile.to_owned(),
        server: hostile.to_owned(),
        command: hostile.to_owned(),
        scenario_yaml: hostile.to_owned(),
        reason: Some(hostile.to_owned()),
        state: "interrupted".to_owned(),
        ..facts()
    };
    let files = files(&analysis(), Some(&recommendation()), &facts);
    assert_eq!(files["report.html"].matches("<script").count(), 1);
    assert!(!files["report.html"].contains("alert(1)</script"));
    assert!(!files["summary.md"].contains("<script"));
    assert!(!files["summary.md"].contains("\n# x"));
}

#[test]
fn unknown_figures_are_shown_as_unknown() {
    let unknown = step(0, 3.0, f64::NAN, f64::NAN, f64::NAN);
    let analysis =
        Analysis { steps: vec![StepAnalysis { gpu: None, goodput: None, ..unknown }], ..analysis() };
    let files = files(&analysis, None, &facts());
    let row = files["steps.csv"].lines().nth(1).unwrap();
    assert!(row.ends_with(",,,,,,,,"), "{row}");
    assert!(files["summary.md"].contains("| – | – |"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_analysis_can_be_rendered(
        rows in proptest::collection::vec((0.0_f64..200.0, proptest::option::of(0.0_f64..1e6), proptest::option::of(0.0_f64..500.0)), 0..40),
        points in 0_u32..50,
        closed in any::<bool>(),
    ) {
        let steps: Vec<StepAnalysis> = (0_u32..)
            .zip(&rows)
            .map(|(index, (rate, ttft, batch))| {
                let step = step(index, *rate, ttft.unwrap_or(f64::NAN), batch.unwrap_or(f64::NAN), 0.0);
                let load = if closed { Load::Concurrency(index) } else { step.mark.load };
                StepAnalysis { mark: StepMark { load, ..step.mark }, ..step }
            })
            .collect();
        let base = analysis();
        let timeline = base.timeline.iter().take(points as usize).copied().collect();
        let analysis = Analysis { steps, timeline, capacity: Err(NoCapacity::TooFewSteps), ..base };
        for (name, svg) in files(&analysis, None, &facts()).iter().filter(|(name, _)| name.starts_with("plots/")) {
            prop_assert!(is_balanced(svg), "{}", name);
            prop_assert!(!svg.contains("NaN"), "{}", name);
        }
    }
}
