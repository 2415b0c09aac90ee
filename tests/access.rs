//! How servers are reached and what is sent to them: tokens, headers, own certificate authorities,
//! answers in one piece, datasets, traces, shared prefixes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use calibrate::measurement::{Load, RequestOutcome};
use calibrate::record::read;
use serde_json::json;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use tempfile::TempDir;
use tokio::io::copy_bidirectional;

fn calibrate(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_calibrate"));
    command.args(arguments);
    command
}

fn run(arguments: &[&str]) -> Output {
    calibrate(arguments).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A server that notes what it is sent and knows nothing.
fn noting() -> (String, Arc<Mutex<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let noted = Arc::<Mutex<String>>::default();
    let inside = Arc::clone(&noted);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream: TcpStream = stream.unwrap();
            let mut buffer = vec![0; 65536];
            let read = stream.read(&mut buffer).unwrap();
            inside.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..read]));
            let _ =
                stream.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        }
    });
    (url, noted)
}

#[test]
fn tokens_and_headers_reach_the_server_and_nobody_else() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("key");
    fs::write(&file, "fileverysecret\n").unwrap();
    let header = format!("X-Api-Key=file:{}", file.display());
    let secrets = ["--bearer-token", "env:TOKEN_OF_TEST", "--header", &header];

    let (url, noted) = noting();
    let output = calibrate(&["run", "--ramp=rate:1x2s", "--slo", "ttft:p95:2s", "--target", &url, "-vv"])
        .args(secrets)
        .env("TOKEN_OF_TEST", "envverysecret")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    let noted = noted.lock().unwrap().to_lowercase();
    assert!(noted.contains("authorization: bearer envverysecret"), "{noted}");
    assert!(noted.contains("x-api-key: fileverysecret"), "{noted}");
    assert!(!stderr(&output).contains("verysecret"), "{}", stderr(&output));

    let out = directory.path().join("run");
    let output = calibrate(&["run", "--ramp=rate:3x2s", "--slo", "ttft:p95:2s", "-vv"])
        .args(["--out", out.to_str().unwrap()])
        .args(secrets)
        .env("TOKEN_OF_TEST", "envverysecret")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
    let mut files = 0;
    let mut folders = vec![out.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            files += 1;
            let text = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
            assert!(!text.contains("verysecret"), "{}", path.display());
        }
    }
    assert!(files > 10);
    let said = [output.stdout, output.stderr].concat();
    assert!(!String::from_utf8_lossy(&said).contains("verysecret"));
    let info = fs::read_to_string(out.join("run.json")).unwrap();
    assert!(info.contains("env:TOKEN_OF_TEST"), "the place is recorded: {info}");
}

#[test]
fn a_secret_that_is_not_where_it_should_be_stops_the_run() {
    let cases: [(&[&str], &str); 5] = [
        (&["--bearer-token", "env:NOT_SET_ANYWHERE"], "NOT_SET_ANYWHERE is not set"),
        (&["--bearer-token", "file:/nowhere/token"], "cannot read /nowhere/token"),
        (&["--bearer-token", "hf_verysecret"], "env:NAME or file:PATH"),
        (&["--header", "X-Key: verysecret"], "NAME=env:VARIABLE"),
        (&["--ca-cert", "Cargo.toml"], "holds no certificate"),
    ];
    for (arguments, said) in cases {
        let output = calibrate(&["run", "--ramp", "--slo", "ttft:p95:2s"]).args(arguments).output().unwrap();
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {text}");
        assert!(text.contains(said), "{arguments:?}: {text}");
        assert!(!text.contains("verysecret"), "{arguments:?}: {text}");
    }
}

/// A simulated server behind TLS, and the authority that vouches for it.
async fn behind_tls(directory: &Path) -> SocketAddr {
    let preset = calibrate::simulator::Preset::by_name("demo").unwrap();
    let simulator =
        calibrate::simulator::serve(preset.config(), "127.0.0.1:0".parse().unwrap()).await.unwrap();
    let plain = simulator.addr();
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let mut authority = rcgen::CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let issued = authority.self_signed(&authority_key).unwrap();
    fs::write(directory.join("ca.pem"), issued.pem()).unwrap();
    let signer = rcgen::Issuer::new(authority, authority_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = certificate.signed_by(&key, &signer).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key.serialize_der().try_into().unwrap())
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let _simulator = simulator;
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut outer) = acceptor.accept(stream).await else { return };
                let mut inner = tokio::net::TcpStream::connect(plain).await.unwrap();
                let _ = copy_bidirectional(&mut outer, &mut inner).await;
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_behind_tls_is_trusted_only_through_its_authority() {
    let directory = TempDir::new().unwrap();
    let address = behind_tls(directory.path()).await;
    let url = format!("https://localhost:{}", address.port());
    let ca = directory.path().join("ca.pem");
    let out = directory.path().join("run");
    let arguments: Vec<String> =
        ["run", "--ramp=rate:4x2s", "--slo", "ttft:p95:2s", "--target", &url, "--out"]
            .map(str::to_owned)
            .into_iter()
            .chain([out.display().to_string()])
            .collect();
    let (without, with) = tokio::task::spawn_blocking(move || {
        let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let without = run(&words);
        let with = calibrate(&words).arg("--ca-cert").arg(ca).output().unwrap();
        (without, with)
    })
    .await
    .unwrap();
    assert_eq!(without.status.code(), Some(1), "{}", stderr(&without));
    assert!(stderr(&without).contains("cannot reach"), "{}", stderr(&without));
    assert_eq!(with.status.code(), Some(4), "{}", stderr(&with));
    let run = read(&out).unwrap();
    assert!(run.requests.len() > 3 && run.requests.iter().all(RequestOutcome::is_ok));
    assert!(run.samples.len() >= 2, "metrics come through the same door");
}

/// Drives the embedded server and gives the requests of the run.
fn requests(more: &[&str]) -> Vec<RequestOutcome> {
    let directory = TempDir::new().unwrap();
    let out = directory.path().join("run");
    let output = calibrate(&["run", "--out", out.to_str().unwrap()]).args(more).output().unwrap();
    assert_eq!(output.status.code(), Some(4), "{more:?}: {}", stderr(&output));
    let requests = read(&out).unwrap().requests;
    assert!(requests.iter().all(RequestOutcome::is_ok), "{more:?}");
    requests
}

#[test]
fn answers_in_one_piece_have_an_end_and_no_first_token() {
    for api in ["generate", "chat", "completions"] {
        let arguments = [
            "--ramp=rate:8x2s",
            "--stream",
            "false",
            "--slo",
            "e2e:p95:9s",
            "--output-tokens",
            "fixed:7",
            "--api",
        ];
        let requests = requests(&[&arguments[..], &[api]].concat());
        assert!(requests.len() > 5);
        for request in requests {
            assert_eq!(
                (request.first_token, request.output_tokens, request.chunks),
                (None, Some(7), 0),
                "{api}"
            );
            assert!(request.e2e().unwrap().0 > 0.0 && request.input_tokens.is_some(), "{api}: {request:?}");
        }
    }
    let output = run(&["run", "--ramp=rate:8x2s", "--stream", "false", "--slo", "ttft:p95:2s"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("needs streamed answers"), "{}", stderr(&output));
}

#[test]
fn prompts_of_a_dataset_are_sent_as_they_are() {
    let directory = TempDir::new().unwrap();
    let lines = directory.path().join("d.jsonl");
    let row = |words: usize, output: u32| json!({ "prompt": vec!["word"; words].join(" "), "output_tokens": output });
    fs::write(&lines, format!("{}\n{}\n", row(11, 3), row(40, 9))).unwrap();
    let requests_of = |path: &Path| {
        requests(&["--ramp=rate:12x2s", "--slo", "ttft:p95:2s", "--dataset", path.to_str().unwrap()])
    };
    for request in requests_of(&lines) {
        // The simulated server counts words and one special token.
        assert!(
            [(12, 3), (41, 9)].contains(&(request.input_tokens.unwrap(), request.output_tokens.unwrap()))
        );
    }
    let share = directory.path().join("share.json");
    let turn = |from: &str, words: usize| json!({ "from": from, "value": vec!["word"; words].join(" ") });
    let chats = json!([{ "id": "a", "conversations": [turn("human", 20), turn("gpt", 8)] }]);
    fs::write(&share, chats.to_string()).unwrap();
    for request in requests_of(&share) {
        // Eight words are 39 letters: ten tokens at four letters each.
        assert_eq!((request.input_tokens, request.output_tokens), (Some(21), Some(10)));
    }
}

#[test]
fn a_wrong_line_stops_the_run_before_any_load() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("d.jsonl");
    fs::write(&path, "{\"prompt\":\"a\",\"output_tokens\":3}\n{\"prompt\":\"b\",\"output_tokens\":\"x\"}\n")
        .unwrap();
    let trace = directory.path().join("t.csv");
    fs::write(&trace, "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.68,3,4\nnoon,3,4\n")
        .unwrap();
    let tokenizer = directory.path().join("tokenizer.json");
    fs::write(&tokenizer, "{}").unwrap();
    let out = directory.path().join("run");
    let ramp = format!("--ramp=trace:{}", trace.display());
    let cases: [(&[&str], &str); 4] = [
        (&["--ramp", "--dataset", path.to_str().unwrap()], "d.jsonl:2: field output_tokens"),
        (&[&ramp], "t.csv:3: column TIMESTAMP"),
        (&["--ramp", "--tokenizer", tokenizer.to_str().unwrap()], "is no tokenizer.json"),
        (&["--ramp=trace:nowhere.csv"], "cannot read the trace nowhere.csv"),
    ];
    for (arguments, said) in cases {
        let output = calibrate(&["run", "--slo", "ttft:p95:2s", "--out", out.to_str().unwrap()])
            .args(arguments)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(said), "{arguments:?}: {}", stderr(&output));
        assert!(!out.exists());
    }
}

#[test]
fn a_trace_is_replayed_with_its_times_and_sizes() {
    let directory = TempDir::new().unwrap();
    let trace = directory.path().join("t.csv");
    let seconds = [0.0, 0.5, 0.9, 2.0, 2.1, 3.0, 4.0, 4.4];
    let row = |(time, tokens): (&f64, u32)| format!("{time},m,{tokens},{},0,x\n", tokens / 2);
    let rows = seconds.iter().zip(10..).map(row).collect::<Vec<_>>().concat();
    let header = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n";
    fs::write(&trace, format!("{header}{rows}")).unwrap();
    let out = directory.path().join("run");
    let ramp = format!("--ramp=trace:{}*2", trace.display());
    let output = run(&["run", &ramp, "--slo", "ttft:p95:2s", "--out", out.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
    let run = read(&out).unwrap();
    let mut requests = run.requests;
    requests.sort_by(|a, b| a.scheduled.0.total_cmp(&b.scheduled.0));
    let start = requests[0].scheduled.0;
    for (request, (time, tokens)) in requests.iter().zip(seconds.iter().zip(10..)) {
        assert!((request.scheduled.0 - start - time / 2.0).abs() < 1e-3, "twice as fast: {request:?}");
        assert_eq!((request.input_tokens, request.output_tokens), (Some(tokens), Some(tokens / 2)));
    }
    assert_eq!(requests.len(), seconds.len());
    let text = fs::read_to_string(out.join("steps.csv")).unwrap();
    assert!(text.contains(",trace,"), "{text}");
    assert!(matches!(run.events.iter().find_map(load_of), Some(Load::Trace(_))));
}

fn load_of(event: &calibrate::measurement::Event) -> Option<Load> {
    match event {
        calibrate::measurement::Event::StepStarted { load, .. } => Some(*load),
        _ => None,
    }
}

#[test]
fn sizes_from_two_sides_and_levels_beyond_the_limit_are_refused() {
    let cases: [(&[&str], &str); 4] = [
        (&["--ramp=trace:x.csv", "--input-tokens", "fixed:5"], "brings its own sizes"),
        (&["--ramp=concurrency:5000x2s", "--max-concurrency", "100"], "max-concurrency allows 100"),
        (&["--ramp", "--burstiness", "0"], "burstiness"),
        (&["--ramp", "--burstiness", "2", "--arrivals", "constant"], "cannot be used with"),
    ];
    for (arguments, said) in cases {
        let output = calibrate(&["run", "--slo", "ttft:p95:2s"]).args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(said), "{arguments:?}: {}", stderr(&output));
    }
}
