//! The simulated server against the bytes that a real TGI router 3.3.7 sent.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::assigning_clones, reason = "no matter in a test")]

use calibrate::batching::ServerModel;
use calibrate::simulator::{Preset, Running, SimulatorConfig, serve};
use calibrate::units::Seconds;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The recorded shard, a hundred times as fast, so that the tests are quick.
fn quick() -> SimulatorConfig {
    let config = Preset::by_name("tgi-recorded").expect("a preset").config();
    let hundredth = |seconds: Seconds| seconds / 100.0;
    let model = ServerModel {
        prefill_base: hundredth(config.model.prefill_base),
        prefill_per_token: hundredth(config.model.prefill_per_token),
        decode_base: hundredth(config.model.decode_base),
        decode_per_sequence: hundredth(config.model.decode_per_sequence),
        ..config.model
    };
    SimulatorConfig { model, model_id: "/data/tgi-tiny".to_owned(), ..config }
}

struct Server {
    running: Running,
    _runtime: tokio::runtime::Runtime,
}

impl Server {
    fn start(config: SimulatorConfig) -> Server {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let running = runtime.block_on(serve(config, SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))).unwrap();
        Server { running, _runtime: runtime }
    }

    fn send(&self, request: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(self.running.addr()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream.write_all(request).unwrap();
        stream
    }

    fn ask(&self, request: &[u8]) -> Answer {
        let mut bytes = Vec::new();
        self.send(request).read_to_end(&mut bytes).unwrap();
        Answer::parse(&bytes)
    }

    fn get(&self, path: &str) -> Answer {
        self.ask(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes())
    }

    fn post(&self, path: &str, body: &str) -> Answer {
        self.ask(post(path, body).as_bytes())
    }

    /// The series of `/metrics` without labels of buckets.
    fn metrics(&self) -> BTreeMap<String, f64> {
        let body = String::from_utf8(self.get("/metrics").pieces.concat()).unwrap();
        let lines = body.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
        lines
            .map(|line| line.rsplit_once(' ').unwrap())
            .map(|(name, value)| (name.to_owned(), value.parse().unwrap()))
            .collect()
    }
}

fn post(path: &str, body: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// An answer, with its body in the pieces that chunked framing gave it.
#[derive(Debug)]
struct Answer {
    status: String,
    headers: Vec<(String, String)>,
    pieces: Vec<Vec<u8>>,
}

impl Answer {
    /// Reads an answer; line ends may have become bare in a recording.
    fn parse(bytes: &[u8]) -> Answer {
        let text = String::from_utf8(bytes.to_vec()).expect("text");
        let ends = if text.contains("\r\n") { "\r\n" } else { "\n" };
        let (head, body) = text.split_once(&format!("{ends}{ends}")).expect("a header");
        let mut lines = head.split(ends);
        let status = lines.next().unwrap().to_owned();
        let headers: Vec<(String, String)> = lines
            .map(|line| line.split_once(": ").unwrap())
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let chunked = headers.iter().any(|(name, _)| name == "transfer-encoding");
        let pieces = if chunked { dechunk(body, ends) } else { vec![body.as_bytes().to_vec()] };
        Answer { status, headers, pieces }
    }

    /// Header names with those values that do not depend on time or length.
    fn comparable_headers(&self) -> BTreeSet<(String, String)> {
        let varies = [
            "date",
            "content-length",
            "x-compute-time",
            "x-total-time",
            "x-validation-time",
            "x-queue-time",
            "x-inference-time",
            "x-time-per-token",
        ];
        let shown = |(name, value): &(String, String)| {
            let value = if varies.contains(&name.as_str()) { String::new() } else { value.clone() };
            (name.clone(), value)
        };
        self.headers.iter().map(shown).collect()
    }

    fn comparable_pieces(&self) -> Vec<String> {
        self.pieces.iter().map(|piece| normal(&String::from_utf8_lossy(piece))).collect()
    }
}

fn dechunk(mut body: &str, ends: &str) -> Vec<Vec<u8>> {
    let mut pieces = Vec::new();
    loop {
        let (size, rest) = body.split_once(ends).expect("a chunk size");
        let size = usize::from_str_radix(size, 16).expect("a hexadecimal size");
        if size == 0 {
            return pieces;
        }
        pieces.push(rest.as_bytes()[..size].to_vec());
        body = rest[size..].trim_start_matches(ends);
    }
}

/// Replaces what differs between two servers: token numbers, times, the version, the shard's name
/// for itself and for the request.
fn normal(text: &str) -> String {
    let mut out = text.trim_end().to_owned();
    for (mark, end) in [(" tok", ""), ("\"id\":", ""), ("\"created\":", ""), ("request ", "")] {
        out = replace_digits(&out, mark, end);
    }
    for (recorded, ours) in [
        ("3.3.6-dev0-native", "V"),
        ("3.3.7-simulated", "V"),
        ("(fake", "(simulated"),
        ("\"3.3.6-dev0\"", "V"),
        ("\"3.3.7\"", "V"),
    ] {
        out = out.replace(recorded, ours);
    }
    out
}

fn replace_digits(text: &str, mark: &str, end: &str) -> String {
    let mut parts = text.split(mark);
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let rest = part.trim_start_matches(|c: char| c.is_ascii_digit());
        out.push_str(mark);
        out.push_str(if rest.len() < part.len() { "N" } else { "" });
        out.push_str(end);
        out.push_str(rest);
    }
    out
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tgi")
}

/// The request and the answer of a recording.
fn recording(name: &str) -> (Vec<u8>, Answer) {
    let bytes = fs::read(fixtures().join(format!("{name}.txt"))).expect("a recording");
    let text = String::from_utf8(bytes).unwrap();
    let (request, response) = text.split_once(">>> RESPONSE").unwrap();
    let request = request.split_once('\n').unwrap().1.trim_end_matches(['\r', '\n']);
    let response = response.split_once('\n').unwrap().1;
    let (head, body) =
        request.split_once("\r\n\r\n").or_else(|| request.split_once("\n\n")).unwrap_or((request, ""));
    let head = head.replace("\r\n", "\n").replace('\n', "\r\n");
    (format!("{head}\r\n\r\n{body}").into_bytes(), Answer::parse(response.as_bytes()))
}

fn compare(server: &Server, name: &str) {
    let (request, recorded) = recording(name);
    let ours = server.ask(&request);
    assert_eq!(ours.status, recorded.status, "{name}");
    assert_eq!(ours.comparable_headers(), recorded.comparable_headers(), "{name}");
    if name == "info" {
        let keys = |answer: &Answer| {
            let body: serde_json::Value = serde_json::from_slice(&answer.pieces[0]).unwrap();
            body.as_object().unwrap().keys().cloned().collect::<Vec<_>>()
        };
        assert_eq!(keys(&ours), keys(&recorded));
    } else {
        assert_eq!(ours.comparable_pieces(), recorded.comparable_pieces(), "{name}");
    }
}

#[test]
fn every_recorded_request_is_answered_as_the_real_router_did() {
    let server = Server::start(quick());
    let mut names: Vec<String> = fs::read_dir(fixtures())
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
        .filter(|name| !name.starts_with("429"))
        .collect();
    names.sort();
    assert!(names.len() >= 30);
    for name in names {
        compare(&server, &name);
    }
}

#[test]
fn an_overloaded_server_refuses_as_the_real_router_did() {
    let mut config = quick();
    config.model.max_concurrent_requests = 1;
    config.model.decode_base = Seconds(0.05);
    let server = Server::start(config);
    let held = server.send(
        post("/generate_stream", "{\"inputs\":\"a\",\"parameters\":{\"max_new_tokens\":900}}").as_bytes(),
    );
    while server.metrics().get("tgi_batch_current_size").copied() != Some(1.0) {
        std::thread::sleep(Duration::from_millis(5));
    }
    for name in [
        "429_generate",
        "429_generate_stream",
        "429_chat",
        "429_chat_stream",
        "429_completions",
        "429_completions_stream",
    ] {
        compare(&server, name);
    }
    assert_eq!(server.metrics()["tgi_request_failure{err=\"overloaded\"}"], 6.0);
    drop(held);
}

#[test]
fn a_client_that_hangs_up_makes_room() {
    let mut config = quick();
    config.model.max_concurrent_requests = 1;
    config.model.decode_base = Seconds(0.01);
    let server = Server::start(config);
    let long = "{\"inputs\":\"a\",\"parameters\":{\"max_new_tokens\":4000}}";
    drop(server.send(post("/generate_stream", long).as_bytes()));
    let short = "{\"inputs\":\"a\",\"parameters\":{\"max_new_tokens\":2}}";
    let freed = (0..500).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        server.post("/generate", short).status.contains("200")
    });
    assert!(freed, "the room of a client that hung up never came back");
}

#[test]
fn a_cold_server_shows_no_metrics_at_all() {
    let server = Server::start(quick());
    let answer = server.get("/metrics");
    assert!(answer.status.contains("200"));
    assert_eq!(answer.pieces.concat(), b"");
    assert!(answer.headers.contains(&("content-type".to_owned(), "text/plain; charset=utf-8".to_owned())));
}

/// Counters before and after each request, as recorded on the real router.
#[test]
fn every_kind_of_request_moves_the_counters_that_it_moved_on_the_real_router() {
    let server = Server::start(quick());
    let generate = |path: &'static str, tokens: u32| {
        (path, format!("{{\"inputs\":\"tok1 tok2\",\"parameters\":{{\"max_new_tokens\":{tokens}}}}}"))
    };
    let chat = "{\"model\":\"x\",\"messages\":[{\"role\":\"user\",\"content\":\"tok1\"}],\"max_tokens\":3"
        .to_owned();
    let completions = "{\"model\":\"x\",\"prompt\":\"tok1\",\"max_tokens\":3".to_owned();
    // Path and body; then by how much count, success, joiners, token events, input and output tokens rise.
    let cases = [
        (generate("/generate", 3), [1.0, 1.0, 1.0, 3.0, 3.0, 3.0]),
        (generate("/generate", 1), [1.0, 1.0, 1.0, 1.0, 3.0, 1.0]),
        (generate("/generate_stream", 3), [1.0, 1.0, 1.0, 3.0, 3.0, 3.0]),
        (generate("/", 3), [1.0, 1.0, 1.0, 3.0, 3.0, 3.0]),
        (("/v1/chat/completions", format!("{chat}}}")), [2.0, 1.0, 1.0, 3.0, 7.0, 3.0]),
        (("/v1/chat/completions", format!("{chat},\"stream\":true}}")), [2.0, 1.0, 1.0, 3.0, 7.0, 3.0]),
        (("/v1/completions", format!("{completions}}}")), [2.0, 1.0, 1.0, 3.0, 2.0, 3.0]),
        (("/v1/completions", format!("{completions},\"stream\":true}}")), [2.0, 1.0, 1.0, 3.0, 2.0, 3.0]),
    ];
    let names = [
        "tgi_request_count",
        "tgi_request_success",
        "tgi_batch_next_size_sum",
        "tgi_request_skipped_tokens_count",
        "tgi_request_input_length_sum",
        "tgi_request_generated_tokens_sum",
    ];
    for ((path, body), deltas) in cases {
        let before = server.metrics();
        server.post(path, &body);
        let after = server.metrics();
        let of = |metrics: &BTreeMap<String, f64>, name: &str| metrics.get(name).copied().unwrap_or(0.0);
        assert_eq!(names.map(|name| of(&after, name) - of(&before, name)), deltas, "{path} {body}");
    }
    let before = server.metrics()["tgi_request_count"];
    assert!(server.post("/generate", "{\"inputs\":\"\"}").status.contains("422"));
    let after = server.metrics();
    assert_eq!(
        (after["tgi_request_count"] - before, after["tgi_request_failure{err=\"validation\"}"]),
        (1.0, 1.0)
    );
}

/// Families with their types, help texts, label sets and bucket bounds.
fn structure(body: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut families: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut current = String::new();
    for line in body.lines().filter(|line| !line.is_empty()) {
        if let Some(comment) = line.strip_prefix("# ") {
            current = comment.split(' ').nth(1).unwrap().to_owned();
            families.entry(current.clone()).or_default().insert(comment.to_owned());
        } else {
            let series = line.rsplit_once(' ').unwrap().0;
            families.entry(current.clone()).or_default().insert(series.to_owned());
        }
    }
    families
}

#[test]
fn after_load_the_metrics_have_the_names_types_labels_and_buckets_of_the_real_router() {
    let server = Server::start(quick());
    let body = "{\"inputs\":\"tok1 tok2\",\"parameters\":{\"max_new_tokens\":400}}";
    std::thread::scope(|scope| {
        for _ in 0..12 {
            scope.spawn(|| (0..3).for_each(|_| drop(server.post("/generate", body))));
        }
    });
    let mut recorded = structure(include_str!("fixtures/exposition/tgi-3.3.7.txt"));
    let mut ours = structure(&String::from_utf8(server.get("/metrics").pieces.concat()).unwrap());
    // Most buckets of this one were cut from the recording; how they join depends on the moment.
    let next_size = ours.get_mut("tgi_batch_next_size").expect("it was touched");
    assert_eq!(next_size.iter().filter(|series| series.contains("_bucket")).count(), 1025);
    next_size.retain(|series| recorded["tgi_batch_next_size"].contains(series));
    for families in [&mut recorded, &mut ours] {
        families.remove("tgi_batch_concat").expect("requests joined a running batch");
    }
    for (family, recorded) in &recorded {
        let ours = ours.get(family).unwrap_or_else(|| panic!("{family} is missing"));
        assert_eq!(ours, recorded, "{family}");
    }
    assert_eq!(ours.keys().collect::<Vec<_>>(), recorded.keys().collect::<Vec<_>>());
}

#[test]
fn a_waiting_stream_has_its_headers_at_once() {
    let mut config = quick();
    config.model.prefill_base = Seconds(3.0);
    let server = Server::start(config);
    let mut stream = server.send(
        post("/generate_stream", "{\"inputs\":\"a\",\"parameters\":{\"max_new_tokens\":2}}").as_bytes(),
    );
    let mut first = [0; 15];
    stream.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"HTTP/1.1 200 OK");
    assert!(!server.metrics().contains_key("tgi_request_skipped_tokens_count"), "no token has come yet");
}

/// The recording shows one `:` every 15 seconds; this test takes as long.
#[test]
fn a_stream_that_waits_is_kept_alive_by_comments() {
    let mut config = quick();
    config.model.prefill_base = Seconds(15.5);
    let server = Server::start(config);
    let answer = server.post("/generate_stream", "{\"inputs\":\"a\",\"parameters\":{\"max_new_tokens\":2}}");
    assert_eq!(String::from_utf8_lossy(&answer.pieces[0]), ":\n\n");
    assert_eq!(answer.pieces.len(), 3, "one comment, two tokens");
}

#[test]
fn gpu_gauges_are_shown_as_dcgm_shows_them() {
    let server = Server::start(quick());
    server.post("/generate", "{\"inputs\":\"a\",\"parameters\":{\"max_new_tokens\":2000}}");
    let body = String::from_utf8(server.get("/gpu/metrics").pieces.concat()).unwrap();
    let value = |name: &str| {
        let line = body.lines().find(|line| line.starts_with(&format!("{name}{{gpu=\"0\",UUID=")));
        line.and_then(|line| line.rsplit_once(' ')).map(|(_, value)| value.parse::<f64>().unwrap())
    };
    let utilization = value("DCGM_FI_DEV_GPU_UTIL").expect("utilization");
    assert!((1.0..=100.0).contains(&utilization), "{utilization}");
    assert!(value("DCGM_FI_DEV_FB_USED").is_some() && value("DCGM_FI_PROF_GR_ENGINE_ACTIVE").is_some());
}
