//! `calibrate gate` as CI runs it: exit codes, outputs, refusals; and the files that CI systems read.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn gate(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_calibrate")).arg("gate").args(arguments).output().unwrap()
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Copies of the sample run, changed as wanted.
struct Runs(TempDir);

impl Runs {
    fn new() -> Runs {
        Runs(TempDir::new().unwrap())
    }

    /// A copy with a name of its own. `info` changes its `run.json`, `slower` its latencies.
    fn copy(&self, name: &str, slower: f64, info: impl FnOnce(&mut Value)) -> String {
        let (from, to) = (root().join("reports/sample"), self.0.path().join(name));
        fs::create_dir_all(to.join("latency")).unwrap();
        for file in ["samples.csv", "events.jsonl", "latency/itl.hlog"] {
            fs::copy(from.join(file), to.join(file)).unwrap();
        }
        let mut run: Value = serde_json::from_slice(&fs::read(from.join("run.json")).unwrap()).unwrap();
        run["run_id"] = name.into();
        info(&mut run);
        fs::write(to.join("run.json"), run.to_string()).unwrap();
        let rows = fs::read_to_string(from.join("requests.csv")).unwrap();
        fs::write(to.join("requests.csv"), slow_down(&rows, slower)).unwrap();
        to.display().to_string()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

/// `requests.csv` with every time to first token so many times as long.
fn slow_down(rows: &str, times: f64) -> String {
    let mut lines = rows.lines();
    let header = lines.next().unwrap();
    let column = |name| header.split(',').position(|column| column == name).unwrap();
    let (first_token, scheduled) = (column("first_token"), column("scheduled"));
    let row = |line: &str| {
        let mut cells: Vec<String> = line.split(',').map(str::to_owned).collect();
        let start: f64 = cells[scheduled].parse().unwrap();
        if let Ok(time) = cells[first_token].parse::<f64>() {
            cells[first_token] = format!("{:.6}", start + (time - start) * times);
        }
        cells.join(",")
    };
    let rows: Vec<String> = lines.map(row).collect();
    format!("{header}\n{}\n", rows.join("\n"))
}

#[test]
fn an_equal_run_passes_and_a_slower_one_fails_in_every_output() {
    let runs = Runs::new();
    let (base, equal) = (runs.copy("base", 1.0, |_| {}), runs.copy("equal", 1.0, |_| {}));
    let passed = gate(&[&equal, "--baseline", &base]);
    assert_eq!(passed.status.code(), Some(0), "{}", text(&passed));
    assert!(text(&passed).contains("gate passed"), "{}", text(&passed));
    let slower = runs.copy("slower", 1.25, |_| {});
    let (junit, summary) = (runs.path("gate.xml"), runs.path("gate.md"));
    fs::write(&summary, "before\n").unwrap();
    let output = gate(&[
        &slower,
        "--baseline",
        &base,
        "--max-regression",
        "ttft:p50:10%",
        "--max-regression",
        "itl:mean:10%",
        "--junit",
        junit.to_str().unwrap(),
        "--summary",
        summary.to_str().unwrap(),
        "--json",
    ]);
    assert_eq!(output.status.code(), Some(3), "{}", text(&output));
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&document["format"], &document["version"]), (&"calibrate/gate".into(), &1.into()));
    assert_eq!((&document["verdict"], &document["exit_code"]), (&"failed".into(), &3.into()));
    let find = |limit: &str| {
        let checks = document["checks"].as_array().unwrap();
        checks.iter().find(|check| check["limit"] == limit).unwrap().clone()
    };
    let ttft = find("ttft:p50:10%");
    assert_eq!((&ttft["outcome"], &ttft["paired"]), (&"fail".into(), &true.into()));
    assert!((ttft["change"]["by"].as_f64().unwrap() - 0.25).abs() < 0.01, "{ttft}");
    assert_eq!(find("itl:mean:10%")["outcome"], "pass", "the gaps were not changed");
    assert!(fs::read_to_string(&junit).unwrap().contains("<failure type=\"failed\""));
    let summary = fs::read_to_string(&summary).unwrap();
    assert!(summary.starts_with("before\n### calibrate gate failed"), "it is appended: {summary}");
}

#[test]
fn a_run_is_held_against_its_own_slo_and_a_least_capacity() {
    let runs = Runs::new();
    let run = runs.copy("run", 1.0, |_| {});
    let slo = |slo: &str| gate(&[&run, "--slo", slo]).status.code();
    assert_eq!((slo("ttft:p95:1s"), slo("ttft:p95:1ms")), (Some(0), Some(3)));
    let least = gate(&[&run, "--min-capacity", "8rps"]);
    assert_eq!(least.status.code(), Some(0), "{}", text(&least));
    assert!(text(&least).contains("✓ capacity of at least 8.00 req/s per replica"), "{}", text(&least));
}

#[test]
fn a_run_that_is_missing_interrupted_or_of_another_load_ends_in_exit_4_with_the_reason() {
    let runs = Runs::new();
    let (run, base) = (runs.copy("run", 1.0, |_| {}), runs.copy("base", 1.0, |_| {}));
    let interrupted = runs.copy("interrupted", 1.0, |run| {
        run["state"] = "interrupted".into();
        run["reason"] = "Ctrl-C".into();
    });
    let killed = runs.copy("killed", 1.0, |run| run["state"] = "running".into());
    let newer = runs.copy("newer", 1.0, |run| run["version"] = 99.into());
    let other = runs.copy("other", 1.0, |run| run["scenario"]["input-tokens"] = "fixed:99".into());
    let real = runs.copy("real", 1.0, |run| run["target"]["simulated"] = false.into());
    for (one, baseline, says) in [
        (runs.path("nowhere").display().to_string(), None, "is no run directory"),
        (run.clone(), Some(runs.path("nowhere").display().to_string()), "is no run directory"),
        (interrupted, None, "it was interrupted (Ctrl-C); finish it with 'calibrate run --resume'"),
        (killed, None, "it is still going on, or was killed"),
        (run.clone(), Some(newer), "has format calibrate/run 99"),
        (run.clone(), Some(other), "it cannot be compared: it has prompts of fixed:99"),
        (run.clone(), Some(real), "it has a real server, and the run has a simulated server"),
        (run.clone(), Some(run.clone()), "it is the run itself"),
    ] {
        let junit = runs.path("gate.xml");
        let mut arguments = vec![one.as_str(), "--junit", junit.to_str().unwrap()];
        arguments.extend(baseline.iter().flat_map(|baseline| ["--baseline", baseline]));
        let output = gate(&arguments);
        assert_eq!(output.status.code(), Some(4), "{arguments:?}: {}", text(&output));
        assert!(text(&output).contains(says), "{says}: {}", text(&output));
        assert!(fs::read_to_string(&junit).unwrap().contains("<error "), "CI sees it too");
        fs::remove_file(&junit).unwrap();
    }
    let seeded = runs.copy("seeded", 1.0, |run| run["scenario"]["seed"] = 2.into());
    let output = gate(&[&run, "--baseline", &base, &seeded]);
    assert!(text(&output).contains("baseline seeded: its seed is 2, and the run's 1"), "{}", text(&output));
}

#[test]
fn what_cannot_be_told_ends_as_it_is_wanted_to() {
    let runs = Runs::new();
    let (run, base) = (runs.copy("run", 1.0, |_| {}), runs.copy("base", 1.0, |_| {}));
    // Runs of one server are assumed to differ by more than that.
    let open = |policy: &[&str]| {
        gate(&[&[run.as_str(), "--baseline", &base, "--max-regression", "ttft:p95:1%"], policy].concat())
    };
    let output = open(&[]);
    assert_eq!(output.status.code(), Some(4), "{}", text(&output));
    assert!(text(&output).contains("gate cannot tell"), "{}", text(&output));
    assert_eq!(open(&["--on-inconclusive", "pass"]).status.code(), Some(0));
    assert_eq!(open(&["--on-inconclusive", "fail"]).status.code(), Some(3));
}

#[test]
fn wrong_flags_are_refused_with_what_would_be_right() {
    for (arguments, says) in [
        (vec!["run", "--baseline", "b", "--max-regression", "tftt:p95:10%"], "did you mean ttft?"),
        (vec!["run", "--min-capacity", "fast"], "requests per second above 0"),
        (vec!["run", "--on-inconclusive", "retry"], "rerun"),
        (vec!["run", "--bsaeline", "b"], "--baseline"),
        (
            vec!["reports/sample", "--junit", "/nowhere/gate.xml"],
            "give --junit a file in a directory that is there",
        ),
        (vec![], "<RUN>"),
    ] {
        let output = gate(&arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", text(&output));
        assert!(text(&output).contains(says), "{says}: {}", text(&output));
    }
}

fn yaml(path: &str) -> Value {
    let text = fs::read_to_string(root().join(path)).unwrap();
    serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The shell scripts in a document, wherever they are.
fn scripts(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    Value::String(text) if name == "run" => found.push(text.clone()),
                    Value::Array(lines) if name == "script" => {
                        found.extend(lines.iter().filter_map(Value::as_str).map(str::to_owned));
                    }
                    other => scripts(other, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| scripts(item, found)),
        _ => {}
    }
}

#[test]
fn the_action_and_the_examples_are_yaml_with_shell_that_bash_reads() {
    let action = yaml(".github/actions/calibrate/action.yml");
    assert_eq!(action["runs"]["using"], "composite");
    for step in action["runs"]["steps"].as_array().unwrap() {
        assert_eq!(step["shell"], "bash", "a composite step names its shell");
        assert!(
            !step["run"].as_str().unwrap().contains("${{"),
            "inputs reach a shell by its environment alone"
        );
    }
    let uses = yaml(".github/workflows/gate.yml")["jobs"]["gate"]["steps"].clone();
    assert!(uses.as_array().unwrap().iter().any(|step| step["uses"] == "./.github/actions/calibrate"));
    for path in [".github/actions/calibrate/action.yml", ".github/workflows/gate.yml", ".gitlab/gate.yml"] {
        let mut found = Vec::new();
        scripts(&yaml(path), &mut found);
        assert!(!found.is_empty(), "{path}");
        for script in found {
            let output = Command::new("bash").args(["-n", "-c", &script]).output().unwrap();
            assert!(output.status.success(), "{path}: {script}: {}", text(&output));
        }
    }
}

/// The steps of the action, run by bash as a runner would, with a stand-in for calibrate that writes down how it was
/// called.
#[test]
fn the_action_measures_and_gates_with_the_baselines_that_are_there() {
    let directory = TempDir::new().unwrap();
    let at = |name: &str| directory.path().join(name).display().to_string();
    fs::create_dir(at("old")).unwrap();
    fs::write(at("old/run.json"), "{}").unwrap();
    let stand_in =
        "#!/bin/sh\nprintf '%s|' \"$@\" >> \"$CALLS\"; echo >> \"$CALLS\"; [ \"$1\" = gate ] || exit 4\n";
    fs::write(at("calibrate"), stand_in).unwrap();
    Command::new("chmod").args(["+x", &at("calibrate")]).status().unwrap();
    let path = format!("{}:{}", directory.path().display(), std::env::var("PATH").unwrap());
    let action = yaml(".github/actions/calibrate/action.yml");
    for step in action["runs"]["steps"].as_array().unwrap() {
        let mut bash = Command::new("bash");
        bash.args(["-eo", "pipefail", "-c", step["run"].as_str().unwrap()]);
        bash.env("PATH", &path).env("CALLS", at("calls")).env("GITHUB_STEP_SUMMARY", "summary.md");
        bash.env("SCENARIO", "ci.yaml").env("TARGET", "").env("OUT", "out").env("RUN_ARGS", "--seed 7");
        bash.env("BASELINE", format!("{} {}", at("old"), at("missing"))).env("GATE_ARGS", "");
        let output = bash.output().unwrap();
        assert!(output.status.success(), "exit 4 of run is left to the gate: {}", text(&output));
    }
    let calls = fs::read_to_string(at("calls")).unwrap();
    let expected = format!(
        "run|--scenario|ci.yaml|--out|out|--seed|7|\n\
         gate|out|--baseline|{}|--junit|out/gate.xml|--summary|summary.md|\n",
        at("old")
    );
    assert_eq!(calls, expected);
}

#[test]
fn the_first_gate_has_no_baseline_and_says_that_regressions_are_not_looked_for() {
    let runs = Runs::new();
    let run = runs.copy("first", 1.0, |_| {});
    let output = gate(&[&run, "--max-regression", "ttft:p95:10%"]);
    assert!(output.status.success(), "{}", text(&output));
    assert!(text(&output).contains("regressions are not looked for"), "{}", text(&output));
    assert!(!text(&output).contains('\u{1b}'), "no colours in what is no terminal");
}

#[test]
fn one_run_named_twice_is_not_two_baselines() {
    let runs = Runs::new();
    let (run, base) = (runs.copy("run", 1.0, |_| {}), runs.copy("base", 1.0, |_| {}));
    let output = gate(&[&run, "--baseline", &base, &base]);
    assert_eq!(output.status.code(), Some(4), "{}", text(&output));
    assert!(text(&output).contains("it is named twice"), "{}", text(&output));
}
