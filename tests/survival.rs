//! Nothing that was measured is lost: kill -9 at any moment, a full disk, Ctrl-C, and going on after it.

#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use calibrate::measurement::{Event, RequestOutcome, Source};
use calibrate::record::{RecordedRun, RunState, read};
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;
use tempfile::TempDir;

fn calibrate() -> Command {
    Command::new(env!("CARGO_BIN_EXE_calibrate"))
}

fn run(arguments: &[&str]) -> Output {
    calibrate().args(arguments).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A run against the embedded server in the background.
#[allow(clippy::zombie_processes, reason = "whoever gets the child waits for it")]
fn begin(out: &Path, ramp: &str) -> Child {
    calibrate()
        .args(["run", ramp, "--slo", "ttft:p95:2s", "--out", out.to_str().unwrap()])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Waits until the events of a run hold so many of a kind.
fn wait_for(out: &Path, event: &str, count: usize) {
    let mark = format!("\"event\":\"{event}\"");
    for _ in 0..1200 {
        let text = fs::read_to_string(out.join("events.jsonl")).unwrap_or_default();
        if text.matches(&mark).count() >= count {
            return;
        }
        std::thread::sleep(Duration::from_millis(25));
    }
    panic!("{count} of {event} did not come");
}

fn steps_ended(run: &RecordedRun) -> Vec<String> {
    run.events
        .iter()
        .filter_map(|event| match event {
            Event::StepEnded { step, .. } => Some(step.load.to_string()),
            _ => None,
        })
        .collect()
}

#[test]
fn whatever_a_kill_leaves_can_be_analyzed_and_resumed() {
    let directory = TempDir::new().unwrap();
    // Moments from before the record exists to the middle of the second step.
    for (number, moment) in [60, 300, 700, 1200, 1800, 2500].into_iter().enumerate() {
        let out = directory.path().join(format!("run-{number}"));
        let shown = out.to_str().unwrap();
        let mut child = begin(&out, "--ramp=rate:4,6,8x1s");
        std::thread::sleep(Duration::from_millis(moment));
        child.kill().unwrap();
        child.wait().unwrap();
        if !out.join("run.json").exists() {
            continue;
        }
        let left = read(&out).unwrap();
        assert_eq!(left.info.state, RunState::Running);
        for command in ["report", "recommend"] {
            let output = run(&[command, shown, "--json"]);
            assert_eq!(output.status.code(), Some(4), "{command} after {moment} ms: {}", stderr(&output));
        }
        let output = run(&["run", "--resume", shown]);
        assert_eq!(output.status.code(), Some(4), "after {moment} ms: {}", stderr(&output));
        let whole = read(&out).unwrap();
        assert_eq!(whole.info.state, RunState::Complete);
        assert_eq!(steps_ended(&whole), ["4.00 req/s", "6.00 req/s", "8.00 req/s"], "after {moment} ms");
        let mut ids: Vec<u64> = whole.requests.iter().map(|request| request.id).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), whole.requests.len(), "no number is used twice");
    }
}

#[test]
fn a_resumed_run_sends_what_it_would_have_sent() {
    let directory = TempDir::new().unwrap();
    let (whole, cut) = (directory.path().join("whole"), directory.path().join("cut"));
    let ramp = "--ramp=linear:3..9@9s";
    let whole_run = begin(&whole, ramp);
    let mut cut_run = begin(&cut, ramp);
    wait_for(&cut, "step-started", 2);
    std::thread::sleep(Duration::from_millis(1200));
    cut_run.kill().unwrap();
    cut_run.wait().unwrap();
    let output = run(&["run", "--resume", cut.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
    assert_eq!(whole_run.wait_with_output().unwrap().status.code(), Some(4));

    let sent = |out: &Path| {
        let run = read(out).unwrap();
        let ended: Vec<_> = run
            .events
            .iter()
            .filter_map(|event| if let Event::StepEnded { step, .. } = event { Some(*step) } else { None })
            .collect();
        let of_step = |step: &calibrate::measurement::StepMark| {
            let mut rows: Vec<&RequestOutcome> =
                run.requests.iter().filter(|r| r.step == step.index).collect();
            rows.sort_by(|a, b| a.scheduled.0.total_cmp(&b.scheduled.0));
            let row =
                |r: &&RequestOutcome| (((r.scheduled - step.start).0 * 1e3).round() as i64, r.input_tokens);
            rows.iter().map(row).collect::<Vec<_>>()
        };
        ended.iter().map(of_step).collect::<Vec<_>>()
    };
    assert_eq!(sent(&whole), sent(&cut));
    let run = read(&cut).unwrap();
    assert!(run.events.iter().any(|event| matches!(event, Event::Resumed { .. })));
    let output = calibrate().args(["recommend", cut.to_str().unwrap(), "--json"]).output().unwrap();
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_ne!(document["validity"]["verdict"], "invalid", "another server after the pause: {document}");
    let of_server = run.samples.iter().filter(|sample| sample.source == Source::Server);
    let times: Vec<f64> = of_server.map(|sample| sample.time.0).collect();
    assert!(times.windows(2).all(|w| w[0] < w[1]), "one axis of time");
}

#[test]
fn only_a_run_that_ended_early_is_resumed_and_by_itself() {
    let directory = TempDir::new().unwrap();
    let out = directory.path().join("run");
    let shown = out.to_str().unwrap();
    assert_eq!(begin(&out, "--ramp=rate:5x2s").wait_with_output().unwrap().status.code(), Some(4));
    let output = run(&["run", "--resume", shown]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("is complete"), "{}", stderr(&output));
    let output = run(&["run", "--resume", shown, "--seed", "4"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("takes everything from the run"), "{}", stderr(&output));
    assert_eq!(run(&["run", "--resume", "nowhere"]).status.code(), Some(2));

    let going = directory.path().join("going");
    let child = begin(&going, "--ramp=rate:5x4s");
    wait_for(&going, "step-started", 1);
    let output = run(&["run", "--resume", going.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("still writing"), "{}", stderr(&output));
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(4), "the run was not disturbed");
}

#[test]
fn a_full_disk_ends_the_run_with_what_was_written_intact() {
    let directory = TempDir::new().unwrap();
    let out = directory.path().join("run");
    // A file may grow to 8 KiB and no further, as on a disk that fills up or behind a quota.
    let script = "trap '' XFSZ; ulimit -f 16; exec \"$0\" \"$@\"";
    let output = Command::new("sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_calibrate"), "run", "--ramp=rate:40x30s"])
        .args(["--slo", "ttft:p95:2s", "--output-tokens", "fixed:4", "--out", out.to_str().unwrap()])
        .output()
        .unwrap();
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("requests.csv") && said.contains("make room"), "{said}");
    let left = read(&out).unwrap();
    assert_eq!(left.info.state, RunState::Interrupted);
    assert!(left.info.reason.unwrap().contains("records were lost"));
    assert!(left.requests.len() > 20, "{}", left.requests.len());
    assert!(left.requests.iter().all(RequestOutcome::is_ok));
    let report = run(&["report", out.to_str().unwrap()]);
    assert_eq!(report.status.code(), Some(4), "{}", stderr(&report));
}

#[test]
fn a_second_ctrl_c_stops_at_once_and_still_keeps_the_records() {
    let directory = TempDir::new().unwrap();
    let out = directory.path().join("run");
    let child = calibrate()
        .args(["run", "--ramp=rate:2x60s", "--slo", "ttft:p95:2s", "--out", out.to_str().unwrap()])
        // Answers of several seconds, so that the first Ctrl-C has something to wait for.
        .args(["--preset", "mistral-7b-l4-like", "--output-tokens", "fixed:60"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_for(&out, "step-started", 1);
    std::thread::sleep(Duration::from_secs(5));
    for _ in 0..2 {
        rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::INT)
            .unwrap();
        std::thread::sleep(Duration::from_millis(300));
    }
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
    let run = read(&out).unwrap();
    assert_eq!(run.info.state, RunState::Interrupted);
    let stopped = run.requests.iter().filter(|request| !request.is_ok()).count();
    assert!(stopped > 0, "those in flight were cut off and are recorded");
    assert!(run.requests.iter().any(RequestOutcome::is_ok) || run.requests.len() == stopped);
    assert!(out.join("report.html").is_file());
}
