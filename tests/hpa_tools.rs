//! `hpa explain`, `hpa replay` and `lint` as a user runs them: files, stdin, exit codes, messages.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use assert_cmd::Command;
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;
use tempfile::TempDir;

/// What a command printed, and how it ended.
struct Ran {
    code: i32,
    out: String,
    err: String,
}

impl Ran {
    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {}\n{}", self.out, self.err))
    }
}

fn calibrate(arguments: &[&str], stdin: &str) -> Ran {
    let mut command = Command::new(env!("CARGO_BIN_EXE_calibrate"));
    let output = command.args(arguments).write_stdin(stdin).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    Ran { code: output.status.code().unwrap(), out: text(&output.stdout), err: text(&output.stderr) }
}

/// A folder of files.
struct Files(TempDir);

impl Files {
    fn of(files: &[(&str, &str)]) -> Files {
        let directory = TempDir::new().unwrap();
        for (name, text) in files {
            fs::write(directory.path().join(name), text).unwrap();
        }
        Files(directory)
    }

    fn path(&self, name: &str) -> String {
        let path: PathBuf = self.0.path().join(name);
        path.display().to_string()
    }
}

/// The replicas after each sync of a series, and the whole document.
fn replayed(series: &str, hpa: &str, more: &[&str]) -> (Vec<i64>, Value) {
    let files = Files::of(&[("s.csv", series), ("h.yaml", hpa)]);
    let (series, hpa) = (files.path("s.csv"), files.path("h.yaml"));
    let arguments = [&["hpa", "replay", "--series", &series, "--hpa", &hpa, "--json"], more].concat();
    let ran = calibrate(&arguments, "");
    assert_eq!(ran.code, 0, "{}", ran.err);
    let document = ran.json();
    let replicas = document["specReplicasAfter"].as_array().unwrap();
    (replicas.iter().map(|replicas| replicas.as_i64().unwrap()).collect(), document)
}

/// Why a series or an HPA is refused.
fn refused(series: &str, hpa: &str) -> String {
    let files = Files::of(&[("s.csv", series), ("h.yaml", hpa)]);
    let (series, hpa) = (files.path("s.csv"), files.path("h.yaml"));
    let ran = calibrate(&["hpa", "replay", "--series", &series, "--hpa", &hpa], "");
    assert_eq!(ran.code, 2, "{}", ran.out);
    ran.err
}

const EXTERNAL: &str = "\
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  name: tgi
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: tgi}
  maxReplicas: 10
  metrics:
  - type: External
    external:
      metric: {name: prometheus.googleapis.com|tgi_batch_current_size|gauge}
      target: {type: AverageValue, averageValue: 20}
";

fn pods() -> String {
    EXTERNAL.replace("External", "Pods").replace("external", "pods")
}

fn two_metrics() -> String {
    pods()
        + "  - type: Pods\n    pods:\n      metric: {name: prometheus.googleapis.com|tgi_queue_size|gauge}\n      target: {type: AverageValue, averageValue: 4}\n"
}

#[test]
fn a_decision_is_explained_step_by_step_in_words() {
    let ran = calibrate(&["hpa", "explain", "--values", "27,26,28", "--target", "25", "--replicas", "3"], "");
    assert_eq!(ran.code, 0, "{}", ran.err);
    insta::assert_snapshot!(ran.out, @r"
    decision: 3
      pods: 3 listed, 3 with a sample, 0 without, 0 pending
      average 27 (truncated to milli, samples: 3) over target 25 is ratio 1.08
      ratio 1.08 is inside 1 +/- 0.1: no change, 3
      3 is within the limits (DesiredWithinRange)
    ");
}

#[test]
fn an_explanation_is_a_list_of_one_in_json() {
    let arguments = [
        "hpa",
        "explain",
        "--metric-type",
        "external",
        "--sum",
        "90",
        "--target",
        "20",
        "--replicas",
        "3",
        "--max",
        "4",
        "--json",
    ];
    let document = calibrate(&arguments, "").json();
    let one = &document.as_array().unwrap()[0];
    assert_eq!(
        (&one["name"], &one["replicas"], &one["error"]),
        (&json!("decision"), &json!(4), &Value::Null)
    );
    assert_eq!(one["usageMilli"], 30_000);
    assert!(one["reason"].as_str().unwrap().contains("TooManyReplicas: 4 instead of 5"), "{one}");
}

/// The replicas of an explanation.
fn explained(arguments: &str) -> i64 {
    let words: Vec<&str> = ["hpa", "explain", "--json"].into_iter().chain(arguments.split(' ')).collect();
    let ran = calibrate(&words, "");
    assert_eq!(ran.code, 0, "{arguments}: {}", ran.err);
    ran.json()[0]["replicas"].as_i64().unwrap()
}

#[test]
fn flags_say_all_that_the_controller_looks_at() {
    for (arguments, replicas) in [
        ("--metric-type external --sum 66 --target 20 --replicas 3", 3),
        ("--metric-type external --sum 66 --target 20 --replicas 3 --generation absolute", 4),
        ("--metric-type external --sum 66 --target 20 --replicas 3 --tolerance 0.05", 4),
        ("--metric-type external --sum 66 --target 20 --replicas 3 --tolerance-up 0.05", 4),
        ("--metric-type external --sum 100 --target 20 --replicas 4 --status-replicas 5", 5),
        ("--metric-type external --sum=-5 --target 20 --replicas 3", i64::from(i32::MAX)),
        ("--metric-type external --target-type value --sum 40 --target 20 --replicas 4 --unready 2", 4),
        ("--metric-type external --target-type value --sum 40 --target 20 --replicas 4 --unready 3", 2),
        ("--values 27,24 --pending 2 --target 20 --replicas 4", 4),
        ("--values 60,60 --pending 2 --target 20 --replicas 4", 6),
        ("--values 60,60,none,none --target 20 --replicas 4", 6),
        ("--values 60,60 --missing 2 --target 20 --replicas 4", 6),
        ("--values 5,5,5 --target 20 --replicas 3", 1),
        ("--values 5,5,5 --target 20 --replicas 3 --new", 3),
        ("--values 5,5,5 --target 20 --replicas 3 --recommended 2@299s", 2),
        ("--values 5,5,5 --target 20 --replicas 3 --recommended 2@301s", 1),
        ("--values 90,90,90 --target 20 --replicas 3 --max 5", 5),
        ("--values 90,90,90,90,90 --target 20 --replicas 5", 10),
        ("--values 90,90,90,90,90 --target 20 --replicas 5 --tolerance-down 0.1 --scaled +3@10s", 6),
        ("--values 90 --target 20 --replicas 0", 0),
    ] {
        // The limits without behavior (twice the replicas) are part of the decision.
        let expected = if replicas == i64::from(i32::MAX) { 6 } else { replicas };
        assert_eq!(explained(arguments), expected, "{arguments}");
    }
}

#[test]
fn a_manifest_gives_target_limits_and_behavior() {
    let hpa =
        two_metrics() + "  behavior: {scaleUp: {policies: [{type: Pods, value: 1, periodSeconds: 60}]}}\n";
    let files = Files::of(&[("h.yaml", &hpa)]);
    let path = files.path("h.yaml");
    let explain = |values: [&str; 2]| {
        let ran = calibrate(
            &[
                "hpa",
                "explain",
                "--hpa",
                &path,
                "--values",
                values[0],
                "--values",
                values[1],
                "--replicas",
                "2",
                "--json",
            ],
            "",
        );
        assert_eq!(ran.code, 0, "{}", ran.err);
        ran.json()[0].clone()
    };
    let up = explain(["60,60", "1,1"]);
    assert_eq!((&up["name"], &up["replicas"]), (&json!("tgi"), &json!(3)));
    assert!(up["reason"].as_str().unwrap().contains("ScaleUpLimit: 3 instead of 6"), "{up}");
    let blocked = explain(["1,1", "failed"]);
    assert_eq!(blocked["replicas"], 2);
    assert!(blocked["error"].as_str().unwrap().contains("could not be read"), "{blocked}");
}

/// What is asked, with `@` before a file's name, and a part of the answer.
const WRONG_QUESTIONS: [(&str, &str); 23] = [
    ("--values 1 --replicas 1", "--target"),
    ("--values 1 --target 0 --replicas 1", "only targets above 0"),
    ("--values 1 --target x --replicas 1", "'x' is not a quantity"),
    ("--values NaN --target 1 --replicas 1", "'NaN' is not a quantity"),
    ("--values 1 --target 1", "--replicas"),
    ("--sum 1 --target 1 --replicas 1", "--sum is for External and Object"),
    ("--values 1 --values 2 --target 1 --replicas 1", "1 metrics, and values are given for 2"),
    ("--values 1 --target 1 --replicas 1 --min 3 --max 2", "--max 2 is below the 3"),
    ("--values 1 --target 1 --replicas 1 --recommended 5", "like 5@120s"),
    ("--values 1 --target 1 --replicas 1 --tolerance=-1", "a fraction of at least 0"),
    (
        "--hpa @placeholder.yaml --values 1 --replicas 1",
        "placeholder.yaml:12: '$TARGET' is still to be replaced",
    ),
    ("--hpa @zero.yaml --values 1 --replicas 1", "zero.yaml:12: the target 0 is not above 0"),
    (
        "--hpa @old.yaml --values 1 --replicas 1",
        "old.yaml:1: autoscaling/v2beta2 is gone since Kubernetes 1.26",
    ),
    ("--hpa @deployment.yaml --values 1 --replicas 1", "holds no HorizontalPodAutoscaler, but Deployment"),
    ("--hpa @keda.yaml --values 1 --replicas 1", "keda-hpa-NAME"),
    ("--hpa @cpu.yaml --values 1 --replicas 1", "metrics of type 'Resource' are not modelled"),
    ("--hpa @several.yaml --values 1 --replicas 1", "several HPAs (tgi, other); choose one with --hpa-name"),
    ("--hpa @several.yaml --hpa-name x --values 1 --replicas 1", "no HorizontalPodAutoscaler 'x'"),
    ("--hpa @two.yaml --values 1 --replicas 1", "2 metrics, and values are given for 1"),
    ("--hpa @torn.yaml --values 1 --replicas 1", "not YAML"),
    ("--hpa @absent.yaml --values 1 --replicas 1", "cannot read"),
    ("--from @cases.json", "neither a case"),
    ("--from @cases.json --replicas 1", "cannot be used with"),
];

#[test]
fn a_wrong_question_ends_in_exit_2_and_says_what_is_wrong() {
    let deployment = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}\n";
    let keda = "apiVersion: keda.sh/v1alpha1\nkind: ScaledObject\nmetadata: {name: x}\n";
    let cpu = EXTERNAL.replace("type: External", "type: Resource").replace("external:", "resource:");
    let files = Files::of(&[
        ("placeholder.yaml", &EXTERNAL.replace(": 20}", ": $TARGET}")),
        ("old.yaml", &EXTERNAL.replace("autoscaling/v2", "autoscaling/v2beta2")),
        ("deployment.yaml", deployment),
        ("keda.yaml", keda),
        ("cpu.yaml", &cpu),
        (
            "several.yaml",
            &format!("{EXTERNAL}---\n{}", EXTERNAL.replace("name: tgi\nspec", "name: other\nspec")),
        ),
        ("two.yaml", &two_metrics()),
        ("zero.yaml", &EXTERNAL.replace(": 20}", ": 0}")),
        ("torn.yaml", "kind: [\n"),
        ("cases.json", "{}"),
    ]);
    for (arguments, message) in WRONG_QUESTIONS {
        let words: Vec<String> = arguments
            .split(' ')
            .map(|word| match word.strip_prefix('@') {
                Some(name) => files.path(name),
                None => word.to_owned(),
            })
            .collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let ran = calibrate(&[&["hpa", "explain"], words.as_slice()].concat(), "");
        assert_eq!(ran.code, 2, "{arguments}: {}{}", ran.out, ran.err);
        assert!(ran.err.contains(message), "{arguments}: {}", ran.err);
    }
}

#[test]
fn files_of_cases_and_recorded_runs_are_answered_in_json() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/conformance");
    let path = |name: &str| root.join(name).display().to_string();
    let cases = calibrate(&["hpa", "explain", "--from", &path("hpa_cases.json"), "--json"], "").json();
    assert!(cases.as_array().unwrap().len() > 40);
    let one = cases[0].as_object().unwrap();
    assert!(
        ["name", "replicas", "usageMilli", "reason", "error"].iter().all(|field| one.contains_key(*field))
    );
    let text = fs::read_to_string(root.join("controller_runs/series-pods-step.json")).unwrap();
    for command in ["explain", "replay"] {
        let run = calibrate(&["hpa", command, "--from", "-", "--json"], &text).json();
        assert_eq!(run["name"], "series-pods-step");
        assert!(run["specReplicasAfter"].is_array());
    }
    let cases = calibrate(&["hpa", "replay", "--from", &path("hpa_cases.json")], "");
    assert!(
        cases.code == 2 && cases.err.contains("explain them with 'calibrate hpa explain'"),
        "{}",
        cases.err
    );
}

#[test]
fn a_series_gives_a_timeline_with_reasons() {
    let series = "time,value\n0,20\n30,150\n60,150\n90,20\n150,20\n";
    let (replicas, document) = replayed(series, EXTERNAL, &["--replicas", "2"]);
    assert_eq!(replicas, [2, 4, 8, 8, 8, 8, 8, 8, 8, 8], "twice per sync, then the window of 300 s");
    let sync = &document["syncs"][1];
    assert_eq!(
        (&sync["time"], &sync["replicasBefore"], &sync["usageMilli"]),
        (&json!(30.0), &json!(2), &json!([75000]))
    );
    assert!(sync["reason"].as_str().unwrap().contains("ScaleUpLimit: 4 instead of 8"), "{sync}");

    let files = Files::of(&[("h.yaml", EXTERNAL)]);
    let ran = calibrate(
        &["hpa", "replay", "--series", "-", "--hpa", &files.path("h.yaml"), "--replicas", "2"],
        series,
    );
    assert_eq!(ran.code, 0, "{}", ran.err);
    let out = ran.out;
    assert!(out.contains("30 s: 2 to 4\n  sum 150 over target 20 x 2 replicas is ratio 3.75"), "{out}");
    assert!(out.contains("90 s to 150 s: 8 stay, in 5 syncs; the first:"), "{out}");
    assert!(out.ends_with("10 syncs, 2 changes, from 2 to 8 replicas\n"), "{out}");
}

#[test]
fn sync_period_and_phase_decide_what_is_seen() {
    let spike = "time,value\n0,20\n21,200\n28,20\n60,20\n";
    assert_eq!(replayed(spike, EXTERNAL, &[]).0, [1, 1, 1, 1], "it falls between two syncs");
    assert_eq!(
        replayed(spike, EXTERNAL, &["--first-sync", "10s"]).0,
        [1, 4, 8, 10],
        "10 were recommended, and count for 300 s"
    );
    assert_eq!(replayed(spike, EXTERNAL, &["--sync-period", "5s"]).0[4], 4);
}

#[test]
fn columns_are_pods_series_or_metrics() {
    let three = "time,a,b,c\n0,60,60,60\n60,60,60,60\n";
    assert_eq!(replayed(three, &pods(), &["--replicas", "3"]).0[0], 6, "9 are asked for, twice is allowed");
    assert_eq!(replayed(three, EXTERNAL, &["--replicas", "8"]).0[0], 9, "a sum of 180");
    let both = "time,tgi_queue_size,tgi_batch_current_size@a,tgi_batch_current_size@b\n0,2,60,\n15,2,60,60\n";
    let (_, document) = replayed(both, &two_metrics(), &["--replicas", "2"]);
    assert_eq!(document["syncs"][0]["usageMilli"], json!([60_000, 1000]));
    let dates = "time,value\n2026-11-25T10:00:00Z,100\n2026-11-25T10:01:00Z,100\n";
    let (replicas, document) = replayed(dates, EXTERNAL, &[]);
    assert_eq!(replicas, [4, 5, 5, 5]);
    assert_eq!(document["syncs"][0]["time"], "2026-11-25T10:00:15Z");
}

#[test]
fn odd_values_are_what_the_controller_would_see() {
    let remark = |document: &Value| document["remarks"].to_string();
    let (replicas, document) = replayed("time,value\n0,100\n30,NaN\n", EXTERNAL, &["--replicas", "5"]);
    assert_eq!(replicas, [5, 5], "NaN is 0, and the window holds");
    assert!(remark(&document).contains("NaN counts as 0"), "{document}");
    assert_eq!(document["syncs"][1]["usageMilli"], json!([0]));
    assert_eq!(
        replayed("time,value\n0,-1\n15,-1\n", EXTERNAL, &[]).0,
        [4],
        "a negative first series overflows"
    );
    assert_eq!(replayed("time,value\n0,1e30\n15,1e30\n", EXTERNAL, &[]).0, [4], "capped at 64 bits");
    assert_eq!(replayed("time,value\n0,\n15,\n", EXTERNAL, &[]).1["syncs"][0]["usageMilli"], json!([null]));
    let (replicas, document) = replayed("time,value\n30,100\n0,20\n", EXTERNAL, &[]);
    assert_eq!(replicas, [1, 4]);
    assert!(
        remark(&document).contains("1 rows are earlier than the one before them: all are sorted"),
        "{document}"
    );
    let service = format!("apiVersion: v1\nkind: Service\nmetadata: {{name: x}}\n---\n{EXTERNAL}");
    assert!(remark(&replayed("time,value\n0,1\n", &service, &[]).1).contains("h.yaml:1: Service skipped"));
}

#[test]
fn a_series_that_makes_no_sense_is_refused_with_line_and_way_out() {
    for (series, message) in [
        ("", "the first line must name the columns"),
        ("time,value\n", "s.csv holds no rows"),
        ("0,20\n15,20\n", "s.csv:1: the first line must name the columns"),
        ("time,value\n0,1\n15,2\n15,3\n", "s.csv:4: its time stands in line 3 already"),
        ("time,value\n0,1\nx,2\n", "s.csv:3: 'x' is no time"),
        ("time,value\nNaN,2\n", "s.csv:2: 'NaN' is no time"),
        ("time,value\n0,1\n2026-11-25T10:00:00Z,2\n", "s.csv:3: '2026-11-25T10:00:00Z' is no time"),
        ("time,value\n2026-11-25T10:00:00Z,2\n5,2\n", "s.csv:3: '5' is no time; expected a date"),
        ("time,value\n0,inf\n", "s.csv:2: column value: 'inf' is not a quantity"),
        ("time,value\n0,1\n1,2,3\n", "s.csv cannot be read"),
        ("time,a,a\n0,1,2\n", "s.csv:1: two columns are called 'a'"),
        ("time,value,a\n0,1,2\n", "has a total and other columns"),
        ("time,value\n0,1\n1e15,2\n", "take a longer --sync-period"),
    ] {
        let said = refused(series, EXTERNAL);
        assert!(said.contains(message), "{series:?}: {said}");
    }
    let said = refused("time,x\n0,1\n", &two_metrics());
    assert!(
        said.contains(
            "call it METRIC for the total or METRIC@POD, of tgi_batch_current_size, tgi_queue_size"
        ),
        "{said}"
    );
    let said = refused("time,tgi_queue_size\n0,1\n", &two_metrics());
    assert!(
        said.contains(
            "no column holds the HPA's metric prometheus.googleapis.com|tgi_batch_current_size|gauge"
        ),
        "{said}"
    );
    let ran = calibrate(&["hpa", "replay", "--series", "-", "--hpa", "-"], "");
    assert!(ran.code == 2 && ran.err.contains("are both stdin"), "{}", ran.err);
    let ran = calibrate(&["hpa", "replay", "--series", "x.csv"], "");
    assert!(ran.code == 2 && ran.err.contains("--hpa"), "{}", ran.err);
    let ran = calibrate(&["hpa", "replay"], "");
    assert_eq!(ran.code, 2, "{}", ran.err);
}

#[test]
fn lint_ends_in_exit_3_on_errors_only() {
    let warned = pods().replace("tgi_batch_current_size", "tgi_queue_size");
    let files = Files::of(&[
        ("good.yaml", &pods()),
        ("warned.yaml", &warned),
        ("bad.yaml", &EXTERNAL.replace(": 20}", ": $TARGET}")),
        ("torn.yaml", "a: 1\nb: [\n"),
    ]);
    let lint = |names: &[&str]| {
        let paths: Vec<String> = names.iter().map(|name| files.path(name)).collect();
        let words: Vec<&str> = ["lint"].into_iter().chain(paths.iter().map(String::as_str)).collect();
        calibrate(&words, "")
    };
    assert_eq!(lint(&["good.yaml"]).code, 0);
    assert_eq!(lint(&["good.yaml"]).out, "0 errors, 0 warnings, 0 notes in 1 autoscaler\n");
    let warned = lint(&["warned.yaml"]);
    assert!(warned.code == 0 && warned.out.contains("warning[queue-only]"), "{}", warned.out);
    let bad = lint(&["bad.yaml", "torn.yaml", "good.yaml"]);
    assert_eq!(bad.code, 3);
    assert!(
        bad.out.contains("error[placeholder]") && bad.out.contains("bad.yaml:12:50: '$TARGET'"),
        "{}",
        bad.out
    );
    assert!(bad.out.contains("error[unreadable-yaml]") && bad.out.contains("torn.yaml:"), "{}", bad.out);
    assert!(bad.out.contains("error[two-hpas]"), "across files: {}", bad.out);
    let absent = lint(&["absent.yaml"]);
    assert!(absent.code == 2 && absent.err.contains("cannot read"), "{}", absent.err);
    let folder = calibrate(&["lint", &files.0.path().display().to_string()], "");
    assert!(folder.code == 2 && folder.err.contains("is a directory; name files"), "{}", folder.err);
    assert_eq!(calibrate(&["lint"], "").code, 2);
    let nothing = calibrate(&["lint", "-"], "kind: Service\n");
    assert!(
        nothing.code == 0 && nothing.err.contains("no HorizontalPodAutoscaler and no ScaledObject"),
        "{}",
        nothing.err
    );
    assert_eq!(calibrate(&["lint", "-", "--cluster-version", "new"], "").code, 2);
}

#[test]
fn lint_reads_stdin_and_answers_in_each_format() {
    let documents = format!("apiVersion: v1\nkind: Service\nmetadata: {{name: x}}\n---\n{EXTERNAL}");
    let dead = documents
        .replace("tgi_batch_current_size|gauge", "dcgm_fi_dev_gpu_util|unknown")
        .replace(": 20}", ": 95}");
    let json = calibrate(&["lint", "-", "--json"], &dead);
    assert_eq!(json.code, 3);
    let document = json.json();
    let finding =
        document["findings"].as_array().unwrap().iter().find(|f| f["rule"] == "dead-target").unwrap().clone();
    assert_eq!(
        (&finding["file"], &finding["line"], &finding["severity"]),
        (&json!("stdin"), &json!(16), &json!("error"))
    );
    assert_eq!(finding["object"], "HorizontalPodAutoscaler default/tgi");
    assert_eq!(finding["field"], "spec.metrics[0].external.target.averageValue");
    assert_eq!(document["skipped"], json!(["stdin:1: Service x"]));
    assert!(json.err.contains("stdin:1: Service x is neither"), "{}", json.err);
    let sarif = calibrate(&["lint", "-", "--format", "sarif"], &dead);
    assert_eq!((sarif.code, &sarif.json()["version"]), (3, &json!("2.1.0")));
    let text = calibrate(&["lint", "-", "--format", "text"], &dead);
    assert!(text.out.contains("fix: write 90909m or less"), "{}", text.out);
}

#[test]
fn lint_holds_targets_against_a_run() {
    let step = |load: f64, batch: f64, queue: f64| json!({ "load": "rate", "offered_rps": load, "achieved_rps": load, "batch_mean": batch, "queue_mean": queue });
    let recommendation = json!({
        "format": "calibrate/recommendation", "version": 1, "run_id": "measured", "replicas": 2,
        "targets": [{ "metric": "batch", "at_capacity": 20.0 }],
        "steps": [step(2.0, 4.0, 0.0), step(8.0, 20.0, 0.5), step(12.0, 30.0, 8.0)],
    });
    let run = json!({ "scenario": { "gpus-per-replica": 4 } });
    let files = Files::of(&[
        ("recommendation.json", &recommendation.to_string()),
        ("run.json", &run.to_string()),
        ("other.json", "{\"format\": \"x\", \"run_id\": \"y\"}"),
    ]);
    let folder = files.0.path().display().to_string();
    let ran = calibrate(&["lint", "-", "--run", &folder], &pods());
    assert_eq!(ran.code, 3, "{}", ran.out);
    assert!(
        ran.out.contains(
            "in run measured the SLO breaks at batch size 20.000, and this scales up only from 22.001"
        ),
        "{}",
        ran.out
    );
    assert!(ran.out.contains("fix: write 18181m or less"), "{}", ran.out);
    let fits = pods().replace(": 20}", ": 18}");
    assert_eq!(calibrate(&["lint", "-", "--run", &folder], &fits).code, 0);
    let gpu = EXTERNAL.replace("tgi_batch_current_size|gauge", "dcgm_fi_dev_gpu_util|unknown");
    let ran = calibrate(&["lint", "-", "--run", &folder], &gpu);
    assert!(
        ran.out.contains("the 4 series of a replica are summed, so 20 is 5.0 % of each GPU"),
        "{}",
        ran.out
    );
    for (run, message) in
        [(files.path("absent"), "calibrate report RUN"), (files.path("other.json"), "has the format 'x'")]
    {
        let ran = calibrate(&["lint", "-", "--run", &run], &fits);
        assert!(ran.code == 2 && ran.err.contains(message), "{}", ran.err);
    }
}

#[test]
fn the_help_of_each_part_has_examples() {
    for words in [["hpa", "explain", "--help"], ["hpa", "replay", "--help"], ["lint", "--help", "-q"]] {
        let ran = calibrate(&words, "");
        assert!(ran.code == 0 && ran.out.contains("Examples:"), "{words:?}: {}", ran.err);
    }
}

/// Blocks of README that begin with `$ calibrate hpa` or `$ calibrate lint`; a line `...` leaves lines out.
#[test]
fn the_readme_shows_what_the_program_prints() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let readme = fs::read_to_string(root.join("README.md")).unwrap();
    let mut blocks = 0;
    for block in readme.split("```console\n$ calibrate ").skip(1) {
        let (command, shown) = block.split_once('\n').unwrap();
        let words: Vec<&str> = command.split(' ').collect();
        if !["hpa", "lint"].contains(&words[0]) {
            continue;
        }
        let mut program = Command::new(env!("CARGO_BIN_EXE_calibrate"));
        let output = program.args(&words).current_dir(&root).output().unwrap();
        let printed = String::from_utf8(output.stdout).unwrap();
        let mut lines = printed.lines();
        for line in shown.lines().take_while(|line| *line != "```").filter(|line| *line != "...") {
            assert!(lines.any(|printed| printed == line), "{command}: {line}\n{printed}");
        }
        blocks += 1;
    }
    assert!(blocks >= 3, "only {blocks} blocks");
}

#[test]
fn the_readme_names_every_rule() {
    let readme = fs::read_to_string(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    for rule in calibrate::recommend::lint::Rule::ALL {
        assert!(readme.contains(&format!("`{}`", rule.id())), "{}", rule.id());
    }
}
