//! Whatever is read from outside is read without a panic: streams, expositions, scenarios, traces,
//! datasets, run directories. Good examples are damaged in many ways.
//!
//! `PROPTEST_CASES=1000000 cargo test --release --test fuzz` does it a million times each; here each
//! is done a few hundred times.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use calibrate::analyze::{Known, Measured, analyze};
use calibrate::drive::decode::{StreamDecoder, StreamFormat, classify_status, read_whole};
use calibrate::measurement::{Sample, Source};
use calibrate::observe::{Profile, exposition};
use calibrate::plan::{read_dataset, read_trace};
use calibrate::record::{RecordedRun, read};
use calibrate::scenario::{HeaderSpec, RampSpec, SecretSource, SizeSpec, read_settings};
use calibrate::units::{Replicas, Seconds, Slo};
use proptest::prelude::*;
use std::fs;
use std::path::Path;
use std::sync::LazyLock;

/// One way to damage bytes. Places are parts of the length, so that they fit any example.
#[derive(Debug, Clone)]
enum Damage {
    Replace(f64, u8),
    Insert(f64, Vec<u8>),
    Remove(f64, f64),
    Repeat(f64, f64),
    Cut(f64),
}

/// Bytes that mean something in the formats.
const TELLING: &[u8] = b"\"\n\r,:{}[]\\ \0.-+eE#'9=*xNaN\xff\xef\xbb\xbf";

fn damage() -> impl Strategy<Value = Damage> {
    let place = || 0.0..1.0_f64;
    let byte = prop_oneof![any::<u8>(), proptest::sample::select(TELLING)];
    prop_oneof![
        (place(), byte.clone()).prop_map(|(at, byte)| Damage::Replace(at, byte)),
        (place(), proptest::collection::vec(byte, 1..12)).prop_map(|(at, bytes)| Damage::Insert(at, bytes)),
        (place(), 0.0..0.2_f64).prop_map(|(at, share)| Damage::Remove(at, share)),
        (place(), 0.0..0.2_f64).prop_map(|(at, share)| Damage::Repeat(at, share)),
        place().prop_map(Damage::Cut),
    ]
}

fn damages() -> impl Strategy<Value = Vec<Damage>> {
    proptest::collection::vec(damage(), 0..6)
}

fn damaged(example: &[u8], damages: &[Damage]) -> Vec<u8> {
    let mut bytes = example.to_vec();
    for damage in damages {
        let length = bytes.len() as f64;
        let at = |place: f64| (place * length) as usize;
        let part =
            |place: f64, share: f64| at(place)..(at(place) + (share * length) as usize).min(length as usize);
        match damage {
            Damage::Replace(place, byte) => {
                if let Some(slot) = bytes.get_mut(at(*place)) {
                    *slot = *byte;
                }
            }
            Damage::Insert(place, more) => {
                bytes.splice(at(*place)..at(*place), more.iter().copied());
            }
            Damage::Remove(place, share) => {
                bytes.drain(part(*place, *share));
            }
            Damage::Repeat(place, share) => {
                let again = bytes[part(*place, *share)].to_vec();
                bytes.splice(at(*place)..at(*place), again);
            }
            Damage::Cut(place) => bytes.truncate(at(*place)),
        }
    }
    bytes
}

/// All files below a folder of the tests, in a fixed order.
fn examples(folder: &str) -> Vec<Vec<u8>> {
    let mut files = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    files.sort();
    files.iter().map(|path| fs::read(path).unwrap()).collect()
}

static STREAMS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| examples("tests/fixtures/decode"));
static EXPOSITIONS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| examples("tests/fixtures/exposition"));
static SCENARIOS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| examples("scenarios"));

/// The body of a recorded answer, its framing left in: damage enough.
fn body(recording: &[u8]) -> &[u8] {
    let text = b"data:";
    let at = recording.windows(text.len()).position(|window| window == text).unwrap_or(0);
    &recording[at..]
}

const TRACES: [&str; 6] = [
    "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.9951690,396,109\n",
    "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n5,ChatGPT,472,18,490,Conversation log\n45.5,GPT-4,1087,0,1087,API log\n",
    "{\"timestamp\": 0, \"input_length\": 6755, \"output_length\": 500, \"hash_ids\": [0, 1]}\n{\"timestamp\": 3000, \"input_length\": 7, \"output_length\": 4}\n",
    "[{\"id\":\"a\",\"conversations\":[{\"from\":\"human\",\"value\":\"Hello there\"},{\"from\":\"gpt\",\"value\":\"General Kenobi\"}]}]",
    "{\"prompt\": \"Tell me\", \"output_tokens\": 100}\n{\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}], \"max_tokens\": 5}\n",
    "{\"input_tokens\": 12, \"output_tokens\": 100}\n",
];

proptest! {
    #[test]
    fn streams_are_decoded_or_refused(
        which in any::<prop::sample::Index>(),
        damages in damages(),
        cuts in proptest::collection::vec(1..200_usize, 0..20),
        format in proptest::sample::select(&[StreamFormat::Generate, StreamFormat::Chat, StreamFormat::Completions][..]),
    ) {
        let bytes = damaged(body(&STREAMS[which.index(STREAMS.len())]), &damages);
        let whole = |pieces: &mut dyn Iterator<Item = &[u8]>| {
            let mut decoder = StreamDecoder::new(format);
            let mut tokens = 0_u64;
            for piece in pieces {
                decoder.feed(piece, |event| tokens += u64::from(event.tokens));
            }
            (tokens, decoder.finish())
        };
        let at_once = whole(&mut std::iter::once(&bytes[..]));
        let mut rest = &bytes[..];
        let mut pieces = Vec::new();
        for cut in cuts {
            let (piece, more) = rest.split_at(cut.min(rest.len()));
            pieces.push(piece);
            rest = more;
        }
        pieces.push(rest);
        prop_assert_eq!(at_once, whole(&mut pieces.into_iter()));
        let _ = read_whole(format, &bytes);
        let _ = classify_status(500, &bytes);
    }

    #[test]
    fn expositions_are_read_or_refused(which in any::<prop::sample::Index>(), damages in damages()) {
        // A part of the hundred kilobytes, so that damage meets every kind of line.
        let example = &EXPOSITIONS[which.index(EXPOSITIONS.len())];
        let from = example.len() / 7 * (which.index(7));
        let bytes = damaged(&example[from..(from + 4000).min(example.len())], &damages);
        let _ = exposition::parse(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn scenarios_are_read_or_refused(which in any::<prop::sample::Index>(), damages in damages()) {
        let bytes = damaged(&SCENARIOS[which.index(SCENARIOS.len())], &damages);
        if let Ok(settings) = read_settings(Path::new("x.yaml"), &String::from_utf8_lossy(&bytes)) {
            let _ = settings.resolve();
        }
    }

    #[test]
    fn flags_are_read_or_refused(text in "[a-zμ0-9.:x@*,=%-]{0,24}") {
        if let Ok(ramp) = text.parse::<RampSpec>() {
            prop_assert_eq!(ramp.to_string().parse::<RampSpec>(), Ok(ramp));
        }
        let _ = text.parse::<SizeSpec>();
        let _ = text.parse::<Seconds>();
        let _ = text.parse::<Slo>();
        let _ = text.parse::<SecretSource>();
        let _ = text.parse::<HeaderSpec>();
    }

    #[test]
    fn traces_and_datasets_are_read_or_refused(
        which in proptest::sample::select(&TRACES[..]),
        damages in damages(),
    ) {
        let bytes = damaged(which.as_bytes(), &damages);
        if let Ok(trace) = read_trace(Path::new("t"), &bytes) {
            prop_assert!(!trace.arrivals.is_empty());
            prop_assert!(trace.arrivals.iter().all(|arrival| arrival.offset.0.is_finite()));
        }
        let _ = read_dataset(Path::new("d"), &bytes);
    }
}

proptest! {
    #[test]
    fn damaged_server_profiles_are_read_or_refused(damages in damages()) {
        let bytes = damaged(include_bytes!("../src/observe/profiles/vllm.yaml"), &damages);
        if let Ok(profile) = Profile::parse("p.yaml", &String::from_utf8_lossy(&bytes)) {
            let shown = exposition::parse("vllm:num_requests_waiting{engine=\"0\"} 1\n").unwrap();
            let mut sample = Sample::new(Seconds(0.0), Seconds(0.0), Source::Server, 0);
            profile.read(&shown, &mut sample);
            for series in profile.series() {
                prop_assert!(profile.promql(series, "a=\"b\"", "pod").is_some());
            }
        }
    }
}

const RUN_FILES: [&str; 5] = ["run.json", "requests.csv", "samples.csv", "events.jsonl", "latency/itl.hlog"];

fn analyzed(run: &RecordedRun) {
    let slos: Vec<Slo> = ["ttft:p95:2s", "tpot:p95:80ms", "itl:p99:1s", "goodput:rate:90%"]
        .map(|slo| slo.parse().unwrap())
        .into();
    let measured = Measured {
        requests: &run.requests,
        samples: &run.samples,
        events: &run.events,
        gaps: &run.gaps,
        replicas: Replicas(run.info.target.replicas),
    };
    serde_json::to_string(&analyze(&measured, &slos, &Known::default())).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: (ProptestConfig::default().cases / 4).max(1), ..ProptestConfig::default() })]

    #[test]
    fn damaged_runs_are_analyzed_or_refused(
        which in 0..RUN_FILES.len(),
        damages in proptest::collection::vec(damage(), 1..4),
    ) {
        let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("reports/sample");
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("latency")).unwrap();
        for (index, name) in RUN_FILES.iter().enumerate() {
            let whole = fs::read(sample.join(name)).unwrap();
            // The beginning of long files, so that a case is quick.
            let lines = whole.split_inclusive(|byte| *byte == b'\n').take(if index == 0 { usize::MAX } else { 60 });
            let mut bytes: Vec<u8> = lines.flatten().copied().collect();
            if index == which {
                bytes = damaged(&bytes, &damages);
            }
            fs::write(directory.path().join(name), bytes).unwrap();
        }
        if let Ok(run) = read(directory.path()) {
            analyzed(&run);
        }
    }
}
