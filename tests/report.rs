//! `calibrate report` on the command line: plans, comparisons, and what is wrong with what was asked.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use tempfile::TempDir;

const SAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/reports/sample");

fn calibrate(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_calibrate")).args(arguments).output().unwrap()
}

fn copy_record(to: &Path) {
    fs::create_dir_all(to.join("latency")).unwrap();
    let names = ["run.json", "requests.csv", "samples.csv", "events.jsonl", "latency/itl.hlog"];
    for name in names {
        fs::copy(Path::new(SAMPLE).join(name), to.join(name)).unwrap();
    }
}

#[test]
fn a_plan_says_what_loads_need_and_cost_for_people_and_machines() {
    let run = TempDir::new().unwrap();
    copy_record(run.path());
    let path = run.path().to_str().unwrap();
    let output = calibrate(&["report", path, "--plan", "10,50,200 rps", "--gpu-cost", "0.70", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("capacity plan at ttft:p95:1s, tpot:p95:50ms"), "{said}");
    let document: Value = serde_json::from_slice(&output.stdout).expect("one document and nothing else");
    let plan = &document["plan"];
    assert_eq!((&plan["format"], &plan["version"]), (&"calibrate/plan".into(), &1.into()));
    let file: Value = serde_json::from_slice(&fs::read(run.path().join("plan.json")).unwrap()).unwrap();
    assert_eq!(file, *plan);
    let capacity = |end: &str| plan["capacity"][end].as_f64().unwrap();
    let loads = [10.0, 50.0, 200.0];
    for (row, load) in plan["rows"].as_array().unwrap().iter().zip(loads) {
        let needed = |end: &str| (load / capacity(end)).ceil();
        assert_eq!(row["load"], load);
        assert_eq!(row["replicas"]["value"].as_f64(), Some(needed("value")));
        assert_eq!(row["replicas"]["high"].as_f64(), Some(needed("low")), "a weaker server needs more");
        let cost = row["cost"]["value"].as_f64().unwrap();
        assert!((cost - 0.7 * needed("value")).abs() < 1e-9, "{row}");
        let output_tokens = load * 3600.0 * plan["tokens"]["output"].as_f64().unwrap() / 1e6;
        let each = row["per_million"]["output"]["value"].as_f64().unwrap();
        assert!((each * output_tokens - cost).abs() < 1e-6, "{row}");
    }
    let alternatives = plan["alternatives"].as_array().unwrap();
    let carried: Vec<f64> =
        alternatives.iter().map(|other| other["capacity"]["value"].as_f64().unwrap()).collect();
    assert!(carried.len() == 5 && carried.is_sorted(), "looser limits carry more: {carried:?}");
    assert_eq!(carried[2], capacity("value"), "the run's own limits");
}

#[test]
fn what_cannot_be_reported_is_said_with_what_to_do() {
    let fails = |arguments: &[&str], words: &str| {
        let output = calibrate(arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
        assert!(said.contains(words), "{arguments:?}: {said}");
    };
    fails(&["report", SAMPLE, SAMPLE], "2 runs are named; --compare puts them beside each other");
    fails(&["report", SAMPLE, "--compare"], "--compare takes 2 to 5 runs, not 1");
    fails(&["report", SAMPLE, "--gpu-cost", "0"], "'0' is not a cost; expected a number above 0, like 0.70");
    fails(&["report", SAMPLE, "--plan", "ten"], "'ten' is not a list of loads");
    fails(&["report", SAMPLE, SAMPLE, "--compare", "--plan", "10"], "cannot be used with");
    fails(&["report", SAMPLE, "--slo", "ttft:p95:1s"], "--compare");
    fails(&["report", SAMPLE, "no-such-run", "--compare", "--out", "/nonexistent"], "no-such-run");
}
