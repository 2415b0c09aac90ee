//! The program as a user runs it: files, exit codes, messages.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use calibrate::measurement::Event;
use calibrate::plan::{RequestSource, Schedule, Spacing, Step, StepWork};
use calibrate::record::{RecordedRun, RunState, read};
use calibrate::scenario::Settings;
use calibrate::units::Seconds;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
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

fn document(output: &Output) -> Value {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    serde_json::from_str(&text)
        .unwrap_or_else(|error| panic!("stdout is not one JSON document: {error}\n{text}"))
}

/// Every file that a run directory must hold.
const FILES: [&str; 15] = [
    "run.json",
    "requests.csv",
    "samples.csv",
    "events.jsonl",
    "latency/ttft.hlog",
    "latency/itl.hlog",
    "latency/tpot.hlog",
    "latency/e2e.hlog",
    "steps.csv",
    "recommendation.json",
    "report.html",
    "summary.md",
    "benchmark-report.json",
    "plots/ttft.svg",
    "plots/timeline-requests.svg",
];

/// Two short steps, the second far beyond what the demo server carries.
const QUICK: &str = "--ramp=rate:6,60x4s";

#[test]
fn a_ramp_that_never_reaches_the_limit_recommends_nothing_and_keeps_everything() {
    let directory = TempDir::new().unwrap();
    let out = directory.path().join("run");
    let shown = out.display().to_string();
    let output = run(&["run", "--ramp=rate:1..6:4x6s", "--slo", "ttft:p95:2s", "--out", &shown, "--json"]);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(4), "{said}");
    let document = document(&output);
    assert_eq!((document["recommended"].as_bool(), document["exit_code"].as_i64()), (Some(false), Some(4)));
    assert!(document["reason"].as_str().unwrap().contains("never reached the limit"), "{document}");
    for file in FILES {
        assert!(out.join(file).is_file(), "{file} is missing");
    }
    let recorded = read(&out).unwrap();
    let scheduled = follows_the_schedule(&recorded);
    assert!(recorded.requests.iter().all(|request| request.error.is_none()), "{said}");
    assert_eq!(recorded.info.state, RunState::Complete);
    let rows = fs::read_to_string(out.join("requests.csv")).unwrap().lines().count();
    assert_eq!(rows, scheduled + 1);
}

/// Every arrival that the run's seed schedules in its finished steps is a row, at its time and of its
/// size, and there are no others. Gives their number.
fn follows_the_schedule(run: &RecordedRun) -> usize {
    let settings: Settings = serde_json::from_value(run.info.scenario.clone()).unwrap();
    let scenario = settings.resolve().unwrap();
    let schedule = Schedule {
        seed: scenario.seed,
        spacing: Spacing::new(scenario.arrivals, scenario.burstiness),
        requests: RequestSource::Specs(scenario.input_tokens, scenario.output_tokens),
        trace: None,
    };
    let ended = run.events.iter().filter_map(|event| match event {
        Event::StepEnded { step, .. } => Some(*step),
        _ => None,
    });
    let mut count = 0;
    for (place, mark) in (0..).zip(ended) {
        let (load, length) = (mark.load, Seconds((mark.end - mark.start).0));
        let step = Step {
            index: mark.index,
            place,
            load,
            offset: Seconds::ZERO,
            warm_up: Seconds::ZERO,
            length: Seconds((length.0 * 1e6).round() / 1e6),
        };
        let StepWork::Arrivals(arrivals) = schedule.work(&step) else { panic!("an open loop") };
        let mut rows: Vec<_> = run.requests.iter().filter(|request| request.step == mark.index).collect();
        rows.sort_by(|a, b| a.scheduled.0.total_cmp(&b.scheduled.0));
        let arrivals: Vec<_> = arrivals.collect();
        assert_eq!(rows.len(), arrivals.len(), "step {}", mark.index);
        for (row, (time, request)) in rows.iter().zip(&arrivals) {
            assert!((row.scheduled.0 - mark.start.0 - time.0).abs() < 2e-6, "{row:?} {time}");
            assert_eq!(row.input_tokens, request.input, "the simulated server counts as we do");
            assert!(row.output_tokens.is_none_or(|tokens| tokens == request.output), "{row:?}");
        }
        count += rows.len();
    }
    count
}

#[test]
fn a_ramp_over_the_limit_ends_in_targets_manifests_and_a_report_that_can_be_made_again() {
    let directory = TempDir::new().unwrap();
    let out = directory.path().join("run");
    let shown = out.display().to_string();
    let output = run(&["run", QUICK, "--out", &shown, "--json", "--cluster-name", "c1", "--location", "l1"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let document = document(&output);
    assert_eq!(document["metric"], "batch");
    let targets = document["targets"].as_array().unwrap();
    assert_eq!(targets.len(), 4);
    for target in targets.iter().filter(|target| target["average_value"].is_string()) {
        let yaml =
            fs::read_to_string(out.join(format!("hpa-{}.yaml", target["metric"].as_str().unwrap()))).unwrap();
        let hpa: HorizontalPodAutoscaler = serde_saphyr::from_str(&yaml).unwrap();
        let metric = &hpa.spec.metrics.as_ref().unwrap()[0];
        let spec =
            metric.pods.as_ref().map(|m| &m.target).or(metric.external.as_ref().map(|m| &m.target)).unwrap();
        assert_eq!(spec.average_value.as_ref().unwrap().0, target["average_value"].as_str().unwrap());
        assert_eq!(
            metric.external.is_some(),
            yaml.contains("cluster_name: c1") || yaml.contains("cluster: c1")
        );
    }
    let before = fs::read(out.join("recommendation.json")).unwrap();
    let html = fs::read(out.join("report.html")).unwrap();
    fs::remove_file(out.join("report.html")).unwrap();
    fs::remove_file(out.join("recommendation.json")).unwrap();
    let stale = out.join("hpa-queue.yaml");
    let had_queue = stale.is_file();
    fs::write(&stale, "an older one").unwrap();
    let again = run(&["report", &shown]);
    assert_eq!(again.status.code(), Some(0), "{}", stderr(&again));
    assert!(if had_queue {
        fs::read_to_string(&stale).unwrap().contains("averageValue")
    } else {
        !stale.exists()
    });
    assert_eq!(fs::read(out.join("recommendation.json")).unwrap(), before);
    assert_eq!(fs::read(out.join("report.html")).unwrap(), html);
}

#[test]
fn a_closed_loop_over_the_chat_api_keeps_its_concurrency() {
    let directory = TempDir::new().unwrap();
    let out = directory.path().join("run");
    let output = run(&[
        "run",
        "--ramp=concurrency:2,6x4s",
        "--api",
        "chat",
        "--slo",
        "e2e:p95:100s",
        "--out",
        out.to_str().unwrap(),
    ]);
    assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
    let recorded = read(&out).unwrap();
    let most = |from: f64, to: f64| {
        let mut times: Vec<f64> =
            recorded.requests.iter().map(|r| r.sent.unwrap().0).filter(|t| (from..to).contains(t)).collect();
        times.sort_by(f64::total_cmp);
        let in_flight = |at: f64| {
            recorded
                .requests
                .iter()
                .filter(|r| r.sent.unwrap().0 <= at && at < r.last_token.unwrap().0)
                .count()
        };
        times.into_iter().map(in_flight).max().unwrap()
    };
    assert_eq!((most(0.5, 4.0), most(4.5, 8.0)), (2, 6));
    assert!(recorded.requests.iter().all(|r| r.is_ok() && r.output_tokens.is_some() && r.chunks > 0));
}

#[test]
fn request_sizes_come_from_a_trace() {
    let directory = TempDir::new().unwrap();
    let trace = directory.path().join("trace.csv");
    fs::write(&trace, "TIMESTAMP,ContextTokens,GeneratedTokens\na,40,7\nb,90,3\n").unwrap();
    let out = directory.path().join("run");
    let output = run(&[
        "run",
        "--ramp=rate:10x3s",
        "--dataset",
        trace.to_str().unwrap(),
        "--out",
        out.to_str().unwrap(),
    ]);
    assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
    let sizes: Vec<_> = read(&out)
        .unwrap()
        .requests
        .iter()
        .map(|r| (r.input_tokens.unwrap(), r.output_tokens.unwrap()))
        .collect();
    assert!(sizes.len() > 10 && sizes.iter().all(|size| [(40, 7), (90, 3)].contains(size)), "{sizes:?}");
}

#[test]
fn bad_input_is_refused_with_the_way_out() {
    let directory = TempDir::new().unwrap();
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let empty = file("empty.csv", "");
    let wrong = file("wrong.csv", "TIMESTAMP,ContextTokens,GeneratedTokens\na,1,2\nb,x,2\n");
    let typo = file("typo.yaml", "version: 1\nrampp: adaptive\n");
    let old = file("old.yaml", "ramp: adaptive\n");
    let busy = directory.path().display().to_string();
    let target = ["--target", "http://127.0.0.1:9", "--ramp=rate:1,2x2s"];
    let cases: Vec<(Vec<&str>, &str)> = vec![
        (vec!["run", "--rmap"], "--ramp"),
        (vec!["rum"], "'run'"),
        (vec!["run", "--ramp=raet:1..2:2x5s"], "did you mean rate:?"),
        (vec!["run", "--ramp=rate:1..2x5s"], "number of steps"),
        (vec!["run", "--ramp", "--slo", "tftt:p95:2s"], "did you mean ttft?"),
        (vec!["run", "--ramp", "--slo", "ttft:p95:2"], "a number with a unit"),
        (vec!["run", "--ramp", "--input-tokens", "unifrom:1-2"], "did you mean uniform:?"),
        (vec!["run", "--ramp", "--preset", "dmeo"], "did you mean demo?"),
        (vec!["run", "--ramp", "--tolerance", "10"], "10 % is written 0.1"),
        (vec!["run", "--ramp", "--scenario", &typo], "did you mean ramp?"),
        (vec!["run", "--ramp", "--scenario", &old], "version: 1"),
        (vec!["run", "--ramp", "--scenario", "/nowhere.yaml"], "/nowhere.yaml"),
        (vec!["run", "--ramp", "--dataset", &empty], "holds no requests"),
        (vec!["run", "--ramp", "--dataset", &wrong], "wrong.csv:3: column ContextTokens: 'x'"),
        ([&["run"][..], &target[..]].concat(), "slo is missing"),
        (vec!["run", "--ramp", "--target", "http://8.8.8.8", "--slo", "ttft:p95:2s"], "--i-own-this-target"),
        (
            vec!["run", "--ramp", "--namespace", "A_b", "--out", "/tmp/never"],
            "namespace 'A_b' is not a DNS label",
        ),
        (vec!["report", &busy], "is no run directory: it holds no run.json; name the --out of a run"),
        (vec!["report", &empty], "is no run directory"),
        (vec!["recommend", &busy, "--metric", "bacth"], "did you mean batch?"),
        (vec!["recommend", &busy, "--slo", "tftt:p95:1s"], "did you mean ttft?"),
        (vec!["manifests", "--target", "bacth=5"], "did you mean batch?"),
        (vec!["simulate", &busy, "--traffic", "trace:/nowhere.csv"], "/nowhere.csv; look at its path"),
        (vec!["lint", "/nowhere.yaml"], "cannot read /nowhere.yaml; look at its path"),
        (vec!["study", "--server-model", "/nowhere.yaml"], "/nowhere.yaml; look at its path"),
        (vec!["gate", &busy, "--slo", "ttft:p95"], "like ttft:p95:2s"),
        (vec!["man", "--out", &empty], "give --out another"),
    ];
    for (arguments, expected) in cases {
        let output = run(&arguments);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
        assert!(said.contains(expected), "{arguments:?} should say '{expected}': {said}");
        assert!(output.stdout.is_empty(), "{arguments:?} printed to stdout");
    }
}

#[test]
fn a_target_that_is_not_there_ends_in_exit_1_with_what_was_tried() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("http://127.0.0.1:{port}");
    let output = run(&["run", "--ramp", "--target", &url, "--slo", "ttft:p95:2s", "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    assert!(said.contains(&format!("cannot reach {url}/info")), "{said}");
    assert_eq!(document(&output)["exit_code"], 1);
}

/// Answers every request with these bytes.
fn answering(answer: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming().take(20) {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    url
}

#[test]
fn a_target_that_is_not_tgi_is_refused() {
    let answers = [
        "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 6\r\nconnection: close\r\n\r\n<html>",
        "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}",
    ];
    for answer in answers {
        let url = answering(answer);
        let output = run(&["run", "--ramp", "--target", &url, "--slo", "ttft:p95:2s"]);
        assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
        assert!(stderr(&output).contains("does not answer as a TGI server does"), "{}", stderr(&output));
    }
}

/// A server with `/info` that answers generation requests with this.
fn answering_generation(status: &'static str, kind: &'static str, body: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming().take(20) {
            let mut stream = stream.unwrap();
            let mut request = [0; 4096];
            let length = stream.read(&mut request).unwrap();
            let info = request[..length].starts_with(b"GET /info");
            let (status, kind, body) = if info {
                ("200 OK", "application/json", "{\"model_id\":\"x\"}")
            } else {
                (status, kind, body)
            };
            let length = body.len();
            let _ = write!(
                stream,
                "HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
            );
        }
    });
    url
}

#[test]
fn a_server_that_refuses_even_one_request_is_not_loaded() {
    let stream = "text/event-stream";
    let cases = [
        (
            "429 Too Many Requests",
            "application/json",
            "{\"error\":\"Model is overloaded\",\"error_type\":\"overloaded\"}",
            1,
            "HTTP 429, Model is overloaded",
        ),
        ("500 Internal Server Error", "text/plain", "boom", 1, "HTTP 500, boom"),
        ("401 Unauthorized", "text/plain", "", 2, "HTTP 401"),
        (
            "200 OK",
            stream,
            "data: {\"error\":\"CUDA error\",\"error_type\":\"generation\"}\n\n",
            1,
            "CUDA error",
        ),
        ("200 OK", stream, "data: {\"error\":\"bad\",\"error_type\":\"validation\"}\n\n", 2, "bad"),
        ("200 OK", "text/html", "<html>", 2, "not an event stream"),
    ];
    for (status, kind, body, exit, expected) in cases {
        let url = answering_generation(status, kind, body);
        let output = run(&["run", "--ramp", "--target", &url, "--slo", "ttft:p95:2s"]);
        assert_eq!(output.status.code(), Some(exit), "{status} {body}: {}", stderr(&output));
        assert!(stderr(&output).contains(expected), "{}", stderr(&output));
    }
}

#[test]
fn an_output_that_cannot_be_written_is_bad_input() {
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join("file"), "x").unwrap();
    for (out, expected) in
        [(directory.path().to_owned(), "not empty"), (directory.path().join("file/below"), "cannot")]
    {
        let output = run(&["run", QUICK, "--out", out.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
        assert!(stderr(&output).contains(expected), "{}", stderr(&output));
    }
    assert_eq!(fs::read_to_string(directory.path().join("file")).unwrap(), "x");
}

struct Simulator {
    child: Child,
    url: String,
}

impl Simulator {
    fn start() -> Simulator {
        let mut child = calibrate()
            .args(["sim", "--port", "0"])
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stderr.take().unwrap()).read_line(&mut line).unwrap();
        let url = line.split_whitespace().find(|word| word.starts_with("http://")).unwrap();
        Simulator { child, url: url.trim_end_matches(';').to_owned() }
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A run in the background, its first step already going on.
#[allow(clippy::zombie_processes, reason = "whoever gets the child waits for it")]
fn begin(out: &Path, more: &[&str]) -> Child {
    let child = calibrate()
        .args(["run", "--ramp=rate:8,20x5s", "--slo", "ttft:p95:2s", "--out", out.to_str().unwrap()])
        .args(more)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let rows = || fs::read_to_string(out.join("requests.csv")).map_or(0, |text| text.lines().count());
    for _ in 0..600 {
        if rows() > 10 {
            return child;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("no requests were recorded");
}

#[test]
fn a_server_that_dies_in_mid_ramp_leaves_an_interrupted_run_that_is_analyzed() {
    let directory = TempDir::new().unwrap();
    let out = directory.path().join("run");
    let mut simulator = Simulator::start();
    let child = begin(&out, &["--target", &simulator.url]);
    simulator.child.kill().unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(stderr(&output).contains("the server is gone"), "{}", stderr(&output));
    let recorded = read(&out).unwrap();
    assert_eq!(recorded.info.state, RunState::Interrupted);
    assert!(recorded.requests.iter().any(calibrate::measurement::RequestOutcome::is_ok));
    assert!(fs::read_to_string(out.join("report.html")).unwrap().contains("The run was cut short"));
}

#[cfg(unix)]
fn signal(child: &Child, signal: rustix::process::Signal) {
    let process = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(process, signal).unwrap();
}

#[cfg(unix)]
#[test]
fn ctrl_c_keeps_and_analyzes_what_was_measured() {
    let directory = TempDir::new().unwrap();
    let out = directory.path().join("run");
    let child = begin(&out, &[]);
    signal(&child, rustix::process::Signal::INT);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
    let recorded = read(&out).unwrap();
    assert_eq!(recorded.info.state, RunState::Interrupted);
    // Streams in flight were let end.
    assert!(recorded.requests.iter().all(calibrate::measurement::RequestOutcome::is_ok));
    assert!(out.join("report.html").is_file());
}

#[cfg(unix)]
#[test]
fn ctrl_c_before_the_load_ends_at_once() {
    let directory = TempDir::new().unwrap();
    let out = directory.path().join("run");
    let child = calibrate()
        .args(["run", "--ramp=rate:1x60s", "--preset", "mistral-7b-l4-like", "--output-tokens", "fixed:4000"])
        .args(["--slo", "ttft:p95:2s", "--out", out.to_str().unwrap()])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The single request of 4000 tokens alone would take over four minutes.
    std::thread::sleep(Duration::from_secs(2));
    signal(&child, rustix::process::Signal::INT);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
    assert!(stderr(&output).contains("nothing was measured"));
    assert!(!out.exists());
}

#[cfg(unix)]
#[test]
fn a_run_that_was_killed_can_still_be_reported() {
    let directory = TempDir::new().unwrap();
    let out = directory.path().join("run");
    let mut child = begin(&out, &[]);
    child.kill().unwrap();
    child.wait().unwrap();
    let recorded = read(&out).unwrap();
    assert_eq!(recorded.info.state, RunState::Running);
    assert!(recorded.requests.len() >= 9);
    let output = run(&["report", out.to_str().unwrap(), "--json"]);
    assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
    assert_eq!(document(&output)["state"], "running");
    assert!(fs::read_to_string(out.join("report.html")).unwrap().contains("The run was cut short"));
}

#[test]
fn every_shipped_scenario_is_valid() {
    let scenarios = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let mut count = 0;
    for entry in fs::read_dir(scenarios).unwrap() {
        let path = entry.unwrap().path();
        let settings =
            calibrate::scenario::read_settings(&path, &fs::read_to_string(&path).unwrap()).unwrap();
        settings.resolve().unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        count += 1;
    }
    assert!(count >= 2);
}

#[test]
fn decisions_of_the_controller_are_explained_in_the_order_of_the_cases() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance");
    let file = |name: &str| data.join(name).display().to_string();
    let cases: Value =
        serde_json::from_str(&fs::read_to_string(data.join("hpa_cases.json")).unwrap()).unwrap();
    let output = run(&["hpa", "explain", "--from", &file("hpa_cases.json"), "--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let answers = document(&output);
    let names =
        |list: &Value| list.as_array().unwrap().iter().map(|case| case["name"].clone()).collect::<Vec<_>>();
    assert_eq!(names(&answers), names(&cases["cases"]));
    assert!(answers[0].get("usageMilli").is_some() && answers[0].get("error").is_some());
    let people = run(&["hpa", "explain", "--from", &file("hpa_cases.json")]);
    assert!(String::from_utf8_lossy(&people.stdout).contains("ratio"));
    let replay = run(&["hpa", "replay", "--from", &file("controller_runs/series-pods-step.json"), "--json"]);
    assert!(document(&replay)["specReplicasAfter"].as_array().unwrap().len() > 3, "{}", stderr(&replay));
    let wrong = run(&["hpa", "replay", "--from", &file("hpa_cases.json")]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(stderr(&wrong).contains("holds cases, not a recorded run"));
}

#[test]
fn help_and_presets_are_printed() {
    for arguments in
        [&["--help"][..], &["run", "--help"], &["report", "--help"], &["sim", "--help"], &["sim", "--list"]]
    {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(0));
        assert!(output.stdout.len() > 200, "{arguments:?}");
    }
    let list = run(&["sim", "--list", "--json"]);
    assert!(document(&list).as_array().unwrap().iter().any(|preset| preset["name"] == "gemma-2b-l4-like"));
}

#[test]
fn the_processes_of_the_bench_measure_the_same_work() {
    let mut server = calibrate()
        .args(["bench-client", "--role", "server"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let port: u16 = line.trim().parse().unwrap();
    let task = serde_json::json!({
        "port": port, "streams": 16, "tokens": 10, "ttft_us": 20_000, "gap_us": 5_000, "length": 0.5,
        "rate": null, "exactness": true,
    });
    let measure = |role: &str| -> Value {
        let output = run(&["bench-client", "--role", role, "--task", &task.to_string()]);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    for role in ["floor", "client"] {
        let cost = measure(role);
        let (events, requests) = (cost["events"].as_u64().unwrap(), cost["requests"].as_u64().unwrap());
        assert!(requests >= 32 && events == requests * 10, "{role}: {cost}");
        assert_eq!(cost["failed"], 0, "{role}: {cost}");
        assert!(cost["cpu_seconds"].as_f64().unwrap() > 0.0, "{role}: {cost}");
    }
    let exact = measure("client");
    for error in ["ttft_error_ms", "itl_error_ms"] {
        // A token is never seen before it was sent, and the machine may be busy.
        let median = exact[error][0].as_f64().unwrap();
        assert!((0.0..200.0).contains(&median), "{error}: {exact}");
    }
    drop(server.stdin.take());
    assert!(server.wait().unwrap().success());
}

#[test]
fn the_simulated_server_listens_where_it_is_told_to_and_ends_as_a_pod_is_ended() {
    let mut sim = Command::new(env!("CARGO_BIN_EXE_calibrate"));
    sim.args(["sim", "--host", "127.0.0.2", "--port", "0", "--json"]);
    let mut child = sim.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut line = String::new();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    while !line.contains("\"url\"") {
        assert_ne!(stdout.read_line(&mut line).unwrap(), 0, "{line}");
    }
    assert!(line.contains("http://127.0.0.2:"), "{line}");
    let id = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}
