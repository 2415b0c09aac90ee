//! The run directory: what was recorded is read back, whatever happened on the way.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::needless_for_each,
    clippy::naive_bytecount,
    clippy::format_collect,
    missing_docs,
    reason = "a test says by panicking what it found, and times a process of its own"
)]

use calibrate::measurement::{
    Event, FailureKind, Load, Phase, RequestOutcome, Sample, Series, Source, StepMark,
};
use calibrate::record::{HostFacts, RecordError, Recorder, RunInfo, RunState, TargetFacts, read, write_file};
use calibrate::units::{Rate, Seconds};
use hdrhistogram::Histogram;
use proptest::prelude::*;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

fn info() -> RunInfo {
    RunInfo::new(
        "20260101T000000Z-test".to_owned(),
        "test".to_owned(),
        "2026-01-01T00:00:00Z".to_owned(),
        serde_json::json!({"version": 1, "seed": 7}),
        vec!["calibrate".to_owned(), "run".to_owned()],
        TargetFacts {
            single_latency: None,
            url: "http://127.0.0.1:1".to_owned(),
            simulated: true,
            kind: None,
            profile: None,
            info: None,
            replicas: 1,
            metrics_urls: vec![],
            gpu_metrics_urls: vec![],
            sources: vec![],
        },
        HostFacts { os: "linux".to_owned(), arch: "x86_64".to_owned(), cpus: 2 },
    )
}

fn outcome(id: u64, step: u32, scheduled: f64) -> RequestOutcome {
    RequestOutcome {
        id,
        step,
        phase: Phase::Hold,
        scheduled: Seconds(scheduled),
        sent: Some(Seconds(scheduled)),
        first_token: Some(Seconds(scheduled + 0.25)),
        last_token: Some(Seconds(scheduled + 1.25)),
        ended: None,
        input_tokens: Some(100),
        output_tokens: Some(11),
        chunks: 11,
        status: Some(200),
        error: None,
        replica: Some(0),
    }
}

fn recorded(directory: &Path, send: impl FnOnce(&calibrate::record::RecordHandle)) {
    let recorder = Recorder::create(directory, info()).unwrap();
    send(&recorder.handle());
    recorder.finish(RunState::Complete, None).unwrap();
}

fn fresh() -> (tempfile::TempDir, PathBuf) {
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("run");
    (parent, directory)
}

/// Times that six decimals hold exactly, as the file keeps them.
fn time() -> impl Strategy<Value = Seconds> {
    (0_u64..10_000_000_000)
        .prop_map(|us| format!("{}.{:06}", us / 1_000_000, us % 1_000_000).parse().map(Seconds).unwrap())
}

fn outcomes() -> impl Strategy<Value = RequestOutcome> {
    let times = (time(), prop::option::of(time()), prop::option::of(time()), prop::option::of(time()));
    let counts = (prop::option::of(any::<u32>()), prop::option::of(any::<u32>()), any::<u32>());
    let ends = (
        prop::option::of(any::<u16>()),
        prop::option::of(0..FailureKind::ALL.len()),
        prop::option::of(any::<u32>()),
    );
    (any::<u64>(), any::<u32>(), any::<bool>(), times, counts, ends).prop_map(
        |(
            id,
            step,
            hold,
            (scheduled, sent, first_token, last_token),
            (input_tokens, output_tokens, chunks),
            ends,
        )| {
            RequestOutcome {
                id,
                step,
                phase: if hold { Phase::Hold } else { Phase::WarmUp },
                scheduled,
                sent,
                first_token,
                last_token,
                // Any time will do.
                ended: first_token,
                input_tokens,
                output_tokens,
                chunks,
                status: ends.0,
                error: ends.1.map(|kind| FailureKind::ALL[kind]),
                replica: ends.2,
            }
        },
    )
}

fn samples() -> impl Strategy<Value = Sample> {
    let values = prop::collection::vec(
        prop::option::of(prop::num::f64::NORMAL | prop::num::f64::ZERO),
        Series::ALL.len(),
    );
    let times = (time(), time(), time());
    (times, 0..Source::ALL.len(), any::<u32>(), values).prop_map(|(times, source, replica, values)| {
        let (time, took, arrived) = times;
        let mut sample = Sample::new(time, took, Source::ALL[source], replica).received(took, arrived);
        for (series, value) in Series::ALL.iter().zip(values) {
            sample.set(*series, value);
        }
        sample
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn what_was_recorded_is_read_back(
        requests in prop::collection::vec(outcomes(), 0..40),
        samples in prop::collection::vec(samples(), 0..20),
    ) {
        let (_parent, directory) = fresh();
        let message = "a line\nbreak, a \"quote\" and é".to_owned();
        let events = vec![Event::Remark { time: Seconds(0.5), message }];
        recorded(&directory, |handle| {
            requests.iter().for_each(|request| handle.request(request.clone(), vec![]));
            samples.iter().for_each(|sample| handle.sample(sample.clone()));
            events.iter().for_each(|event| handle.event(event.clone()));
        });
        let run = read(&directory).unwrap();
        prop_assert_eq!(&run.requests, &requests);
        prop_assert_eq!(run.samples, samples);
        prop_assert_eq!(run.events, events);
        prop_assert_eq!(run.info.rows.get("requests.csv"), Some(&(run.requests.len() + 1)));
        prop_assert_eq!(&run.info, &RunInfo { state: RunState::Complete, rows: run.info.rows.clone(), ..info() });
        prop_assert_eq!(run.remarks, Vec::<String>::new());
    }
}

/// Lets a flush pass, so that the logs hold several intervals.
fn past_a_flush() {
    std::thread::sleep(Duration::from_millis(1100));
}

#[test]
fn merged_intervals_equal_one_histogram_of_all_values() {
    let (_parent, directory) = fresh();
    // Each interval reaches higher than those before it.
    let batches: [Vec<u32>; 3] =
        [(1..2000).collect(), (1000..90_000).step_by(7).collect(), vec![5_000_000; 10]];
    recorded(&directory, |handle| {
        for (gaps, id) in batches.iter().zip(0..) {
            handle.request(outcome(id, 3, id as f64), gaps.clone());
            past_a_flush();
        }
    });
    let mut direct = Histogram::<u64>::new(3).unwrap();
    batches.iter().flatten().for_each(|gap| direct.record(u64::from(*gap)).unwrap());
    let run = read(&directory).unwrap();
    assert_eq!(run.gaps.keys().copied().collect::<Vec<_>>(), [3]);
    // The file holds the counts of the buckets; the exact largest value is not among them.
    let counts = |histogram: &Histogram<u64>| -> Vec<(u64, u64)> {
        histogram.iter_recorded().map(|at| (at.value_iterated_to(), at.count_at_value())).collect()
    };
    assert_eq!(counts(&run.gaps[&3]), counts(&direct));
}

#[test]
fn only_the_measured_part_of_a_step_is_in_the_latency_logs() {
    let (_parent, directory) = fresh();
    recorded(&directory, |handle| {
        handle.request(RequestOutcome { phase: Phase::WarmUp, ..outcome(0, 0, 0.0) }, vec![1, 2, 3]);
        handle.request(outcome(1, 0, 1.0), vec![4, 5]);
    });
    assert_eq!(read(&directory).unwrap().gaps[&0].len(), 2);
}

fn small_run(directory: &Path) {
    recorded(directory, |handle| {
        for id in 0..3 {
            handle.request(outcome(id, 0, id as f64), vec![100, 200]);
            let mut sample = Sample::new(Seconds(id as f64), Seconds(0.01), Source::Server, 0);
            sample.set(Series::QueueSize, Some(1.5));
            handle.sample(sample);
            handle.event(Event::Remark { time: Seconds(id as f64), message: "é".to_owned() });
        }
    });
}

#[test]
fn a_file_torn_at_any_byte_gives_the_lines_before() {
    let (_parent, directory) = fresh();
    small_run(&directory);
    let whole = read(&directory).unwrap();
    for name in ["requests.csv", "samples.csv", "events.jsonl", "latency/itl.hlog"] {
        let path = directory.join(name);
        let bytes = std::fs::read(&path).unwrap();
        for end in 0..bytes.len() {
            std::fs::write(&path, &bytes[..end]).unwrap();
            let run = read(&directory).unwrap_or_else(|error| panic!("{name} cut at {end}: {error}"));
            assert!(whole.requests.starts_with(&run.requests) && whole.samples.starts_with(&run.samples));
            assert!(whole.events.starts_with(&run.events));
            let lines = bytes[..end].iter().filter(|byte| **byte == b'\n').count();
            match name {
                "requests.csv" => assert_eq!(run.requests.len(), lines.saturating_sub(1)),
                "samples.csv" => assert_eq!(run.samples.len(), lines.saturating_sub(1)),
                "events.jsonl" => assert_eq!(run.events.len(), lines),
                _ => assert!(run.gaps.is_empty()),
            }
            let torn = end > 0 && bytes[end - 1] != b'\n';
            let says = |word: &str| run.remarks.iter().any(|r| r.contains(name) && r.contains(word));
            assert_eq!(says("is torn"), torn, "{name} cut at {end}");
            assert!(says("when the run ended"), "{name} cut at {end}");
        }
        std::fs::write(&path, &bytes).unwrap();
    }
}

#[test]
fn another_format_version_is_refused_with_both_versions_and_the_way_out() {
    let (_parent, directory) = fresh();
    small_run(&directory);
    let path = directory.join("run.json");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replacen("\"version\": 1", "\"version\": 2", 1)).unwrap();
    let error = read(&directory).unwrap_err();
    assert!(matches!(error, RecordError::Version { .. }));
    let said = error.to_string();
    assert!(
        said.contains("calibrate/run 2") && said.contains("calibrate/run 1") && said.contains("use the"),
        "{said}"
    );
}

#[test]
fn a_directory_that_is_no_run_is_named() {
    let (_parent, directory) = fresh();
    assert!(matches!(read(&directory), Err(RecordError::NoRun(path)) if path == directory));
}

#[test]
fn a_wrong_value_is_an_error_with_file_line_and_column() {
    let (_parent, directory) = fresh();
    small_run(&directory);
    let path = directory.join("requests.csv");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replacen("\n1,0,hold", "\n1,0,holt", 1)).unwrap();
    let said = read(&directory).unwrap_err().to_string();
    assert!(said.contains("requests.csv:3") && said.contains("phase") && said.contains("holt"), "{said}");
}

#[test]
fn a_missing_column_is_an_error_and_an_unknown_one_a_remark() {
    let (_parent, directory) = fresh();
    small_run(&directory);
    let path = directory.join("requests.csv");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replacen("chunks", "pieces", 1)).unwrap();
    let said = read(&directory).unwrap_err().to_string();
    assert!(said.contains("requests.csv") && said.contains("chunks"), "{said}");

    let wider: String = text
        .lines()
        .zip(0..)
        .map(|(line, n)| format!("{line},{}\n", if n == 0 { "extra" } else { "9" }))
        .collect();
    std::fs::write(&path, wider).unwrap();
    let run = read(&directory).unwrap();
    assert_eq!(run.requests.len(), 3);
    assert!(run.remarks.iter().any(|remark| remark.contains("extra")), "{:?}", run.remarks);
}

#[test]
fn a_directory_that_holds_something_is_refused_and_left_as_it_was() {
    let parent = tempfile::tempdir().unwrap();
    std::fs::write(parent.path().join("notes.txt"), "mine").unwrap();
    assert!(matches!(Recorder::create(parent.path(), info()), Err(RecordError::NotEmpty(_))));
    let names: Vec<_> =
        std::fs::read_dir(parent.path()).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(names, ["notes.txt"]);
}

#[test]
fn latencies_of_an_earlier_run_are_not_added_to() {
    let (_parent, directory) = fresh();
    std::fs::create_dir_all(directory.join("latency")).unwrap();
    std::fs::write(directory.join("latency/itl.hlog"), "old").unwrap();
    assert!(matches!(Recorder::create(&directory, info()), Err(RecordError::NotEmpty(_))));
}

#[test]
fn a_directory_that_cannot_be_made_is_an_error_that_names_it_and_what_to_do() {
    let parent = tempfile::tempdir().unwrap();
    let file = parent.path().join("file");
    std::fs::write(&file, "").unwrap();
    let said = Recorder::create(&file.join("run"), info()).unwrap_err().to_string();
    assert!(said.contains("file/run") && said.contains("--out"), "{said}");
}

#[test]
fn a_file_is_replaced_in_one_piece_and_leaves_no_draft() {
    let (_parent, directory) = fresh();
    let path = directory.join("plots/a.svg");
    write_file(&path, b"old").unwrap();
    write_file(&path, b"new").unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"new");
    assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
}

const CHILD_DIRECTORY: &str = "CALIBRATE_TEST_RECORD_INTO";
const CHILD_LIMIT: &str = "CALIBRATE_TEST_RECORD_LIMIT";

/// No test by itself: what the tests below run as a process of its own.
#[test]
#[ignore = "run by other tests, in a process of its own"]
fn child_that_records() {
    let Some(directory) = std::env::var_os(CHILD_DIRECTORY) else { return };
    let limited = std::env::var_os(CHILD_LIMIT).is_some();
    let recorder = Recorder::create(Path::new(&directory), info()).unwrap();
    let handle = recorder.handle();
    let begun = Instant::now();
    for id in 0.. {
        handle.request(outcome(id, 0, begun.elapsed().as_secs_f64()), vec![1000; 20]);
        if let Some(problem) = recorder.failed() {
            println!("FAILED: {problem}");
            for id in 0..1000 {
                handle.request(outcome(id, 0, 0.0), vec![]);
            }
            let finished = recorder.finish(RunState::Complete, None);
            println!("FINISH: {}", finished.unwrap_err());
            return;
        }
        std::thread::sleep(Duration::from_micros(if limited { 100 } else { 1000 }));
    }
}

fn child(directory: &Path, limit: bool) -> Child {
    let exe = std::env::current_exe().unwrap();
    let run = format!("exec '{}' --exact child_that_records --ignored --nocapture", exe.display());
    // SIGXFSZ ignored, a write past the limit fails like one on a full disk.
    let shell = if limit { format!("trap '' XFSZ; ulimit -f 64; {run}") } else { run };
    let mut command = Command::new("bash");
    command.args(["-c", &shell]).env(CHILD_DIRECTORY, directory).stdout(Stdio::piped()).stderr(Stdio::null());
    if limit {
        command.env(CHILD_LIMIT, "1");
    }
    command.spawn().unwrap()
}

#[test]
fn a_killed_run_loses_at_most_the_last_second() {
    let (_parent, directory) = fresh();
    let mut child = child(&directory, false);
    let lines =
        || std::fs::read_to_string(directory.join("requests.csv")).map_or(0, |text| text.lines().count());
    // From the first flush on, a while that is no multiple of the flush interval.
    while lines() < 2 {
        std::thread::sleep(Duration::from_millis(5));
    }
    std::thread::sleep(Duration::from_millis(1600));
    child.kill().unwrap();
    child.wait().unwrap();
    let run = read(&directory).unwrap();
    assert_eq!(run.info.state, RunState::Running);
    assert!(run.remarks.iter().any(|remark| remark.contains("killed")), "{:?}", run.remarks);
    let last = run.requests.last().unwrap();
    assert_eq!(last.id + 1, run.requests.len() as u64);
    assert!(last.scheduled.0 > 0.9 + 0.6, "{last:?}");
}

#[test]
fn a_disk_that_refuses_is_reported_and_what_was_written_stays_readable() {
    let (_parent, directory) = fresh();
    let output = child(&directory, true).wait_with_output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    println!("{said}");
    assert!(output.status.success(), "{said}");
    let failed = said.lines().find(|line| line.contains("FAILED: ")).unwrap();
    assert!(failed.contains("requests.csv"), "{failed}");
    let run = read(&directory).unwrap();
    assert!(!run.requests.is_empty());
    assert_eq!(run.info.state, RunState::Interrupted, "a run with lost records is not complete");
    assert!(run.info.reason.unwrap().contains("lost"));
}

#[test]
fn step_boundaries_survive_exactly() {
    let (_parent, directory) = fresh();
    let step = StepMark {
        index: 1,
        load: Load::Rate(Rate(1.1)),
        start: Seconds(0.1 + 0.2),
        hold_start: Seconds(2.0 / 3.0),
        end: Seconds(122.416_516_515_165_16),
    };
    recorded(&directory, |handle| handle.event(Event::StepEnded { step, ids: Some((2, 5)) }));
    assert_eq!(read(&directory).unwrap().events, [Event::StepEnded { step, ids: Some((2, 5)) }]);
}

#[test]
#[ignore = "a measurement, to be run in release"]
fn cost_per_request() {
    let (_parent, directory) = fresh();
    let recorder = Recorder::create(&directory, info()).unwrap();
    let handle = recorder.handle();
    let n = 100_000_u64;
    let cpu = || rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let total = |t: rustix::time::Timespec| t.tv_sec as f64 + t.tv_nsec as f64 / 1e9;
    let before = cpu();
    let begun = Instant::now();
    for id in 0..n {
        handle.request(
            outcome(id, (id / 20_000) as u32, id as f64 / 1e3),
            (0..100).map(|i| 20_000 + i * 37).collect(),
        );
    }
    let sent = begun.elapsed();
    recorder.finish(RunState::Complete, None).unwrap();
    let all = begun.elapsed();
    let cpu = total(cpu()) - total(before);
    println!(
        "send {:.2} us, through to disk {:.2} us, cpu {:.2} us per request of 100 gaps",
        sent.as_secs_f64() * 1e6 / n as f64,
        all.as_secs_f64() * 1e6 / n as f64,
        cpu * 1e6 / n as f64
    );
}

#[test]
fn a_resumed_run_goes_on_after_its_last_whole_lines() {
    let (_parent, directory) = fresh();
    recorded(&directory, |handle| {
        handle.request(outcome(0, 0, 1.0), vec![20_000, 30_000]);
        handle.event(Event::Remark { time: Seconds(1.0), message: "before".to_owned() });
    });
    for file in ["requests.csv", "samples.csv", "events.jsonl", "latency/itl.hlog"] {
        let path = directory.join(file);
        let mut text = std::fs::read(&path).unwrap();
        text.extend_from_slice(b"7,0,hold,1.0,torn");
        std::fs::write(&path, text).unwrap();
    }
    let recorder = Recorder::resume(&directory, read(&directory).unwrap().info).unwrap();
    assert_eq!(read(&directory).unwrap().info.state, RunState::Running);
    recorder.handle().request(outcome(1, 1, 5.0), vec![40_000]);
    recorder.finish(RunState::Complete, None).unwrap();
    let run = read(&directory).unwrap();
    assert_eq!(run.requests, [outcome(0, 0, 1.0), outcome(1, 1, 5.0)]);
    assert_eq!(run.remarks, Vec::<String>::new());
    assert_eq!(run.gaps.values().map(Histogram::len).collect::<Vec<_>>(), [2, 1]);
}

#[test]
fn two_processes_cannot_write_to_one_run() {
    let (_parent, directory) = fresh();
    let first = Recorder::create(&directory, info()).unwrap();
    let second = Recorder::resume(&directory, info());
    assert!(matches!(second, Err(RecordError::InUse(_))), "{second:?}");
    first.finish(RunState::Complete, None).unwrap();
    Recorder::resume(&directory, info()).unwrap().finish(RunState::Complete, None).unwrap();
}

#[test]
fn a_run_with_other_columns_cannot_be_added_to() {
    let (_parent, directory) = fresh();
    recorded(&directory, |handle| handle.request(outcome(0, 0, 1.0), Vec::new()));
    let path = directory.join("requests.csv");
    let text = std::fs::read_to_string(&path).unwrap().replace(",ended", "");
    std::fs::write(&path, text).unwrap();
    let error = Recorder::resume(&directory, info()).unwrap_err().to_string();
    assert!(error.contains("requests.csv:1"), "{error}");
}

#[test]
fn rows_that_were_lost_after_the_end_are_missed() {
    let (_parent, directory) = fresh();
    recorded(&directory, |handle| {
        handle.request(outcome(0, 0, 1.0), Vec::new());
        handle.request(outcome(1, 0, 2.0), Vec::new());
    });
    assert_eq!(read(&directory).unwrap().remarks, Vec::<String>::new());
    let path = directory.join("requests.csv");
    let text = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    std::fs::write(&path, lines[..2].concat()).unwrap();
    let remarks = read(&directory).unwrap().remarks;
    assert_eq!(remarks, ["requests.csv has 2 lines, and had 3 when the run ended"]);
}
