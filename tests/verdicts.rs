//! Recorded runs that must not be believed: copies of the sample run with one thing wrong each, and the verdict
//! that names it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

type Row = BTreeMap<String, String>;

/// A copy of the sample run.
struct Copy(TempDir);

impl Copy {
    fn new() -> Copy {
        let directory = TempDir::new().unwrap();
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("reports/sample");
        for name in ["run.json", "requests.csv", "samples.csv", "events.jsonl"] {
            fs::copy(from.join(name), directory.path().join(name)).unwrap();
        }
        Copy(directory)
    }

    /// Changes the rows of a CSV.
    fn rows(self, name: &str, mut change: impl FnMut(&mut Row)) -> Copy {
        let path = self.0.path().join(name);
        let mut reader = csv::Reader::from_path(&path).unwrap();
        let header = reader.headers().unwrap().clone();
        let mut rows: Vec<Row> = reader.deserialize().map(Result::unwrap).collect();
        rows.iter_mut().for_each(&mut change);
        let mut writer = csv::Writer::from_path(&path).unwrap();
        writer.write_record(&header).unwrap();
        for row in rows {
            writer.write_record(header.iter().map(|column| &row[column])).unwrap();
        }
        writer.flush().unwrap();
        self
    }

    fn text(self, name: &str, change: impl Fn(&str) -> String) -> Copy {
        let path = self.0.path().join(name);
        let text = fs::read_to_string(&path).unwrap();
        let changed = change(&text);
        assert_ne!(text, changed, "{name} was to change");
        fs::write(&path, changed).unwrap();
        self
    }

    fn calibrate(&self, command: &str, arguments: &[&str]) -> (Option<i32>, String, Value) {
        let output = Command::new(env!("CARGO_BIN_EXE_calibrate"))
            .args([command, self.0.path().to_str().unwrap(), "--json"])
            .args(arguments)
            .output()
            .unwrap();
        let document = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned(), document)
    }

    fn refused(&self, arguments: &[&str], reason: &str) {
        let (code, said, _) = self.calibrate("recommend", arguments);
        assert_eq!(code, Some(4), "{said}");
        assert!(said.contains(reason), "{reason}: {said}");
    }
}

fn number(row: &Row, column: &str) -> f64 {
    row[column].parse().unwrap()
}

fn multiply(row: &mut Row, column: &str, factor: f64) {
    if let Ok(value) = row[column].parse::<f64>() {
        row.insert(column.to_owned(), (value * factor).round().to_string());
    }
}

#[test]
fn the_sample_itself_is_valid_and_simulations_of_it_are_played() {
    let (code, said, document) = Copy::new().calibrate("recommend", &[]);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(document["capacity"]["method"], "server-model", "{document}");
    assert_ne!(document["validity"]["verdict"], "invalid");
}

#[test]
fn prompts_or_answers_that_grow_in_mid_run_are_named() {
    for (column, factor) in [("input_tokens", 2.0), ("output_tokens", 1.25)] {
        let run = Copy::new().rows("requests.csv", |row| {
            if number(row, "step") >= 4.0 {
                multiply(row, column, factor);
            }
        });
        run.refused(&[], "lengths of requests");
    }
}

#[test]
fn a_replica_that_restarted_is_named_whatever_its_server_counts() {
    // As servers of other kinds show: no count of successes.
    let mut fallen: BTreeMap<&str, f64> = BTreeMap::new();
    let run = Copy::new().rows("samples.csv", |row| {
        row.insert("successes".to_owned(), String::new());
        let restarted = number(row, "time") > 80.0;
        for column in ["decode_count", "token_events", "output_requests", "input_requests", "prefill_count"] {
            if let Ok(value) = row[column].parse::<f64>()
                && restarted
            {
                let base = *fallen.entry(column).or_insert(value);
                row.insert(column.to_owned(), (value - base).to_string());
            }
        }
    });
    run.refused(&[], "restarted during the run");
    let (code, said, _) = run.calibrate("simulate", &["--traffic", "constant:10@10m"]);
    assert!(code == Some(4) && said.contains("restarted during the run"), "not played either: {said}");
    assert!(!run.0.path().join("simulation.json").exists());
}

#[test]
fn clients_that_fail_where_the_fitted_server_would_not_have_the_say() {
    // One in seven is refused from 14.5 requests per second on.
    let loaded = |row: &Row| ["3", "4", "6", "7"].contains(&row["step"].as_str());
    let run = Copy::new().rows("requests.csv", |row| {
        if loaded(row) && number(row, "id") % 7.0 == 0.0 {
            for (column, value) in [("status", "429"), ("error", "overloaded"), ("first_token", "")] {
                row.insert(column.to_owned(), value.to_owned());
            }
            row.insert("last_token".to_owned(), String::new());
        }
    });
    let (_, said, document) = run.calibrate("recommend", &[]);
    assert_ne!(document["capacity"]["method"], "server-model", "{said}");
}

#[test]
fn a_limit_that_no_load_meets_ends_without_a_target() {
    for limit in ["tpot:p95:8ms", "tpot:p95:1ms"] {
        let (code, said, document) = Copy::new().calibrate("recommend", &["--slo", limit]);
        assert_eq!(code, Some(4), "{limit}: {said}");
        assert!(document["recommended"].is_null() || document["recommended"] == false, "{document}");
    }
    let (code, said, _) =
        Copy::new().calibrate("simulate", &["--slo", "tpot:p95:5ms", "--traffic", "constant:5@10m"]);
    assert_eq!(code, Some(4), "{said}");
}

#[test]
fn a_counter_that_no_server_has_is_left_out_and_a_step_without_end_does_not_stop_the_reader() {
    let (_, _, sound) = Copy::new().calibrate("recommend", &[]);
    let sound = sound["capacity"]["requests_per_second_per_replica"].as_f64().unwrap();
    let mut changed = 0;
    let run = Copy::new().rows("samples.csv", |row| {
        if !row["decode_seconds"].is_empty() && number(row, "time") > 60.0 && changed == 0 {
            row.insert("decode_seconds".to_owned(), "-5".to_owned());
            changed += 1;
        }
    });
    let (code, said, document) = run.calibrate("recommend", &[]);
    let capacity = document["capacity"]["requests_per_second_per_replica"].as_f64().unwrap();
    assert!((capacity / sound - 1.0).abs() < 0.02, "{capacity} for {sound}, {code:?}: {said}");
    let run = Copy::new().text("events.jsonl", |text| {
        let (before, after) = text.split_once("\"event\":\"step-ended\"").unwrap();
        let (within, rest) = after.split_once("\"end\":").unwrap();
        let end = rest.find(['}', ',']).unwrap();
        format!("{before}\"event\":\"step-ended\"{within}\"end\":1e300{}", &rest[end..])
    });
    let (code, said, _) = run.calibrate("recommend", &[]);
    assert!(code.is_some_and(|code| code != 101), "{said}");
}

#[test]
fn the_same_run_twice_is_not_two_runs() {
    let run = Copy::new();
    let (code, said, _) = run.calibrate("recommend", &[run.0.path().to_str().unwrap()]);
    assert!(code == Some(2) && said.contains("named twice"), "{said}");
}
