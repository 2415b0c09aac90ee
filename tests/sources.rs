//! Where metrics come from: servers of other kinds, Prometheus, Google's APIs, the metrics APIs of
//! Kubernetes, all as loopback servers in their documented shapes; and a real Prometheus where there is
//! one.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::print_stderr, reason = "a test that is skipped says so")]

#[path = "sources/doubles.rs"]
mod doubles;

use calibrate::measurement::{RunClock, Sample, Series, Source};
use calibrate::observe::{
    ApiMetric, CloudMonitoring, Expected, Feed, GoogleAccess, GoogleCredentials, MetricsApi, Problem,
    ProblemKind, Profile, Prometheus, Query, ReplicaNames, TimeSeries, client_builder, exposition,
};
use calibrate::record::{RecordedRun, read};
use doubles::{Double, Reply, runtime};
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tempfile::TempDir;

fn calibrate(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_calibrate"));
    command.args(arguments);
    command
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn samples(run: &RecordedRun, source: Source) -> Vec<&Sample> {
    run.samples.iter().filter(|sample| sample.source == source).collect()
}

// ---- Servers of other kinds ----

#[test]
fn a_vllm_server_is_recognized_and_gets_load_in_its_own_way() {
    let server = doubles::vllm();
    let directory = TempDir::new().unwrap();
    let out = directory.path().join("run");
    let output =
        calibrate(&["run", "--ramp=rate:6x3s", "--slo", "ttft:p95:2s", "--output-tokens", "fixed:5"])
            .args(["--target", &server.url, "--out", out.to_str().unwrap()])
            .output()
            .unwrap();
    assert_eq!(output.status.code(), Some(4), "never reached the limit: {}", said(&output));
    let run = read(&out).unwrap();
    assert_eq!(run.info.target.kind.as_deref(), Some("vllm"));
    assert_eq!(run.info.server(), "vllm, org/model");
    assert!(run.requests.len() > 5 && run.requests.iter().all(|request| request.error.is_none()));
    assert!(run.requests.iter().all(|request| request.output_tokens == Some(5)), "by the server's count");
    let scraped = samples(&run, Source::Server);
    assert!(scraped.len() >= 2);
    let last = scraped.last().unwrap();
    let values = [Series::QueueSize, Series::BatchSize, Series::KvUsage].map(|series| last.get(series));
    assert_eq!(values, [Some(3.0), Some(5.0), Some(0.5)], "summed and averaged over two engines");
    let asked = server.asked();
    let bodies: Vec<Value> = asked.iter().filter_map(|(_, body)| serde_json::from_str(body).ok()).collect();
    assert!(bodies.len() > 5);
    for body in bodies {
        assert_eq!((body["model"].as_str(), body["ignore_eos"].as_bool()), (Some("org/model"), Some(true)));
        assert_eq!(body["stream_options"]["include_usage"], true);
    }
}

#[test]
fn a_server_is_recognized_where_its_kind_has_its_metrics_and_a_guess_is_told() {
    let elsewhere = Double::serve(|path, _, _| match path {
        "/prometheus/metrics" => Reply::text(include_str!("fixtures/exposition/trtllm-serve.txt").to_owned()),
        "/v1/models" => Reply::json(&json!({"object": "list", "data": [{"id": "m", "object": "model"}]})),
        _ => Reply::status(404, "no"),
    });
    let output = calibrate(&["doctor", "--target", &elsewhere.url]).output().unwrap();
    assert!(said(&output).contains("is read as trtllm-serve"), "{}", said(&output));
    assert!(said(&output).contains("queue_size 2, batch_size 12, kv_usage 0.5625"), "{}", said(&output));
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    // A TGI that has served nothing shows no metric, and says what it is at /info.
    let tgi = doubles::tgi();
    let output = calibrate(&["doctor", "--target", &tgi.url]).output().unwrap();
    assert!(!said(&output).contains("taken for TGI"), "{}", said(&output));
    let unknown = doubles::vllm_without_metrics();
    let output = calibrate(&["doctor", "--target", &unknown.url]).output().unwrap();
    assert!(said(&output).contains("it is taken for TGI; name its kind with --server"), "{}", said(&output));
}

#[test]
fn the_scenario_of_vllm_asks_for_what_vllm_has() {
    let text = include_str!("../scenarios/vllm.yaml");
    let settings = calibrate::scenario::read_settings(Path::new("vllm.yaml"), text).unwrap();
    let scenario = settings.resolve().unwrap();
    let profile = Profile::built_in(&scenario.server).unwrap();
    assert!(scenario.api.is_some() && profile.apis.contains(&"chat".to_owned()));
}

#[test]
fn a_profile_of_ones_own_is_read_and_a_wrong_one_is_refused_before_any_load() {
    let server = doubles::vllm();
    let directory = TempDir::new().unwrap();
    let profile = directory.path().join("mine.yaml");
    let text = "version: 1\nname: mine\ndescription: my own\napis: [completions]\nrecognized-by: []\nseries:\n  \
                queue_size: [{metric: 'vllm:num_requests_waiting', over: max, scale: 10}]\n";
    fs::write(&profile, text).unwrap();
    let run_into = |out: &str, profile: &str, more: &[&str]| {
        calibrate(&["run", "--ramp=rate:4x2s", "--slo", "ttft:p95:2s", "--target", &server.url])
            .args(["--server", profile, "--out", directory.path().join(out).to_str().unwrap()])
            .args(more)
            .output()
            .unwrap()
    };
    let run_with = |profile: &str, more: &[&str]| run_into("refused", profile, more);
    let output = run_into("run", profile.to_str().unwrap(), &[]);
    assert_eq!(output.status.code(), Some(4), "{}", said(&output));
    let run = read(&directory.path().join("run")).unwrap();
    assert_eq!(samples(&run, Source::Server)[0].get(Series::QueueSize), Some(20.0));
    let before = server.asked().len();
    for (text, more, expected) in [
        (text.replace("over:", "ovr:"), vec![], "ovr"),
        (text.replace("queue_size", "queue_sze"), vec![], "did you mean queue_size?"),
        (text.to_owned(), vec!["--api", "generate"], "mine answers to completions"),
    ] {
        fs::write(&profile, text).unwrap();
        let output = run_with(profile.to_str().unwrap(), &more);
        assert_eq!(output.status.code(), Some(2), "{}", said(&output));
        assert!(said(&output).contains(expected), "{expected}: {}", said(&output));
    }
    for (name, expected) in [("vlm", "did you mean vllm?"), ("/no/such.yaml", "/no/such.yaml")] {
        let output = run_with(name, &[]);
        assert_eq!(output.status.code(), Some(2), "{}", said(&output));
        assert!(said(&output).contains(expected), "{}", said(&output));
    }
    assert_eq!(server.asked().len(), before, "no request was sent");
}

// ---- Prometheus ----

fn query(promql: &str, needed: bool) -> Query {
    let times = (!needed).then(|| "max by (pod) (timestamp(m))".to_owned());
    Query {
        series: Series::QueueSize,
        promql: promql.to_owned(),
        times,
        metric: Some("m".to_owned()),
        needed,
    }
}

fn prometheus(double: &Double, queries: Vec<Query>, replicas: u32) -> Feed {
    let client = client_builder().build().unwrap();
    let names = ReplicaNames::default();
    Feed::Prometheus(Box::new(Prometheus::new(&double.url, client, None, queries, names, replicas)))
}

fn check(feed: &mut Feed) -> Result<Vec<Sample>, Problem> {
    runtime().block_on(feed.check(RunClock::start()))
}

/// A Prometheus whose clock is right unless `offset` says otherwise.
fn prometheus_that(offset: f64, answer: impl Fn(&str) -> Reply + Send + Sync + 'static) -> Double {
    Double::serve(move |path, _, _| {
        if path.contains("query=time%28%29") {
            let now = RunClock::wall() + offset;
            return Reply::json(
                &json!({"status": "success", "data": {"resultType": "scalar", "result": [now, now.to_string()]}}),
            );
        }
        answer(path)
    })
}

fn vector(result: &Value) -> Reply {
    Reply::json(&json!({"status": "success", "data": {"resultType": "vector", "result": result}}))
}

/// The clock's offset, the answer, and what is said of it.
type PrometheusCase = (f64, Box<dyn Fn(&str) -> Reply + Send + Sync>, ProblemKind, &'static str);

#[test]
#[allow(clippy::too_many_lines, reason = "a table of cases")]
fn what_is_wrong_with_a_prometheus_is_said_in_its_own_words() {
    let one = || vector(&json!([{"metric": {"pod": "a"}, "value": [1.0, "4"]}]));
    let cases: Vec<PrometheusCase> = vec![
        (0.0, Box::new(|_| Reply::status(401, "who are you")), ProblemKind::Unauthorized, "who are you"),
        (0.0, Box::new(|_| Reply::status(403, "no")), ProblemKind::Forbidden, "HTTP 403"),
        (0.0, Box::new(|_| Reply::status(503, "down")), ProblemKind::Failing, "down"),
        (
            0.0,
            Box::new(|_| Reply::status(429, "slow down").header("retry-after", "7")),
            ProblemKind::Throttled,
            "slow down",
        ),
        (
            0.0,
            Box::new(|_| Reply {
                status: 400,
                ..Reply::json(
                    &json!({"status": "error", "errorType": "bad_data", "error": "1:9: parse error: unclosed left parenthesis"}),
                )
            }),
            ProblemKind::Refused,
            "parse error: unclosed left parenthesis",
        ),
        (0.0, Box::new(|_| Reply::status(200, "<html>")), ProblemKind::Malformed, "<html>"),
        (
            30.0,
            Box::new(move |_| one()),
            ProblemKind::ClocksApart,
            "from this machine's, so its samples cannot be laid beside others",
        ),
        (
            0.0,
            Box::new(|path| {
                if path.contains("/series") {
                    Reply::json(
                        &json!({"status": "success", "data": [{"__name__": "m", "namespace": "other"}]}),
                    )
                } else {
                    vector(&json!([]))
                }
            }),
            ProblemKind::Missing,
            "of m it has 1 series, like {__name__=\"m\",namespace=\"other\"}",
        ),
        (
            0.0,
            Box::new(|path| {
                if path.contains("/series") {
                    Reply::json(&json!({"status": "success", "data": []}))
                } else {
                    vector(&json!([]))
                }
            }),
            ProblemKind::Missing,
            "it has no series of m at all",
        ),
        (
            0.0,
            Box::new(|_| {
                vector(&json!([
                    {"metric": {"pod": "a", "job": "x"}, "value": [1.0, "4"]},
                    {"metric": {"pod": "a", "job": "y"}, "value": [1.0, "4"]},
                ]))
            }),
            ProblemKind::Ambiguous,
            "several series where one per replica is expected: {job=\"x\",pod=\"a\"}",
        ),
        (
            0.0,
            Box::new(|_| {
                vector(&json!([
                    {"metric": {"pod": "a"}, "value": [1.0, "4"]}, {"metric": {"pod": "b"}, "value": [1.0, "4"]},
                ]))
            }),
            ProblemKind::Ambiguous,
            "it shows 2 replicas where 1 are expected",
        ),
    ];
    for (offset, answer, kind, expected) in cases {
        let double = prometheus_that(offset, answer);
        let problem = check(&mut prometheus(&double, vec![query("sum(m", true)], 1)).unwrap_err();
        assert_eq!(problem.kind, kind, "{problem}");
        assert!(problem.reason.contains(expected), "{expected}: {problem}");
        let waits = (kind == ProblemKind::Throttled).then(|| Duration::from_secs(7));
        assert_eq!(problem.retry_after, waits);
    }
    let gone = prometheus_that(0.0, |_| vector(&json!([])));
    let url = gone.url.clone();
    drop(gone);
    let client = client_builder().build().unwrap();
    let feed = Prometheus::new(&url, client, None, vec![], ReplicaNames::default(), 1);
    let problem = check(&mut Feed::Prometheus(Box::new(feed))).unwrap_err();
    assert_eq!(problem.kind, ProblemKind::Unreachable, "{problem}");
}

/// A Prometheus that scraped at even seconds only, so that every evaluation repeats the last scrape.
fn scraping_every_other_second(shown: fn(f64) -> f64) -> Double {
    prometheus_that(0.0, move |path| {
        let number = |name: &str| -> Option<f64> {
            path.split(&format!("{name}=")).nth(1)?.split('&').next()?.parse().ok()
        };
        let value = |time: f64| {
            let scraped = (time / 2.0).floor() * 2.0;
            json!([time, (if path.contains("timestamp") { scraped } else { shown(scraped) }).to_string()])
        };
        let (Some(start), Some(end)) = (number("start"), number("end")) else {
            return vector(&json!([{"metric": {"pod": "a"}, "value": value(RunClock::wall())}]));
        };
        let times = (0..).map(|i| start + f64::from(i)).take_while(|time| *time <= end + 0.001);
        let result = json!([{"metric": {"pod": "a"}, "values": times.map(value).collect::<Vec<_>>()}]);
        Reply::json(&json!({"status": "success", "data": {"resultType": "matrix", "result": result}}))
    })
}

#[test]
fn where_the_server_shows_no_metrics_those_of_prometheus_stand_for_it() {
    let shy = doubles::vllm_without_metrics();
    let double = scraping_every_other_second(|_| 0.0);
    let directory = TempDir::new().unwrap();
    let out = directory.path().join("run");
    let output =
        calibrate(&["run", "--ramp=rate:6x6s", "--slo", "ttft:p95:2s", "--output-tokens", "fixed:5"])
            .args(["--target", &shy.url, "--server", "vllm", "--prometheus", &double.url])
            .args(["--out", out.to_str().unwrap()])
            .output()
            .unwrap();
    let shown = said(&output);
    assert_eq!(output.status.code(), Some(4), "never reached the limit: {shown}");
    assert!(
        shown.contains("cannot be scraped (HTTP 404") && shown.contains("those of Prometheus"),
        "{shown}"
    );
    let run = read(&out).unwrap();
    assert!(samples(&run, Source::Server).is_empty() && !samples(&run, Source::Prometheus).is_empty());
    let document = fs::read_to_string(out.join("recommendation.json")).unwrap();
    let document: Value = serde_json::from_str(&document).unwrap();
    assert_ne!(document["validity"]["verdict"], "invalid", "the measurement counts: {document:#}");
    // An address that was named must be there.
    let named = calibrate(&[
        "run",
        "--ramp=rate:6x2s",
        "--slo",
        "ttft:p95:2s",
        "--target",
        &shy.url,
        "--server",
        "vllm",
    ])
    .args(["--prometheus", &double.url, "--metrics-url", &format!("{}/metrics", shy.url)])
    .output()
    .unwrap();
    assert_eq!(named.status.code(), Some(1), "{}", said(&named));
}

#[test]
fn a_sample_of_prometheus_counts_once_and_at_its_own_time() {
    let double = scraping_every_other_second(|scraped| scraped % 100.0);
    let mut feed = prometheus(&double, vec![query("m", false)], 1);
    let clock = RunClock::start();
    let mut seen = Vec::new();
    for _ in 0..3 {
        seen.extend(runtime().block_on(feed.poll(clock)).unwrap());
        std::thread::sleep(Duration::from_millis(2100));
    }
    assert!(seen.len() >= 2, "{seen:?}");
    let wall = RunClock::wall() - clock.now().0;
    for sample in &seen {
        let scraped = (wall + sample.time.0).round();
        assert!(scraped % 2.0 == 0.0 && (wall + sample.time.0 - scraped).abs() < 0.2, "{sample:?}");
        assert_eq!(sample.get(Series::QueueSize), Some(scraped % 100.0));
        assert!(sample.arrived.0 > sample.time.0);
    }
    assert!(seen.windows(2).all(|w| w[1].time.0 > w[0].time.0 + 1.0), "{seen:?}");
}

#[test]
fn series_stamped_with_the_time_of_the_question_do_not_hide_those_of_the_profile() {
    let double = scraping_every_other_second(|scraped| scraped % 100.0);
    let own = Query { series: Series::BatchSize, times: None, ..query("own", true) };
    let mut feed = prometheus(&double, vec![own, query("m", false)], 1);
    let clock = RunClock::start();
    let mut seen = Vec::new();
    for _ in 0..3 {
        seen.extend(runtime().block_on(feed.poll(clock)).unwrap());
        std::thread::sleep(Duration::from_millis(2100));
    }
    let of = |series| seen.iter().filter(|sample| sample.get(series).is_some()).count();
    assert!(of(Series::QueueSize) >= 2 && of(Series::BatchSize) >= 3, "{seen:?}");
    assert!(feed.hides_age().is_some_and(|why| why.contains("batch_size")));
}

#[test]
fn managed_prometheus_without_a_cluster_is_remarked_on() {
    let server = doubles::tgi();
    let double = Double::serve(|path, _, _| match path {
        "/token" => Reply::json(&json!({"access_token": "t", "expires_in": 3600, "token_type": "Bearer"})),
        _ => Reply::status(403, "no"),
    });
    let directory = TempDir::new().unwrap();
    let key = directory.path().join("key.json");
    fs::write(&key, user(&double).to_string()).unwrap();
    let output = calibrate(&["doctor", "--target", &server.url, "--prometheus", "gmp:my-project"])
        .args(["--google-endpoint", &double.url])
        .args(["--google-credentials", &format!("file:{}", key.display())])
        .output()
        .unwrap();
    assert!(said(&output).contains("every cluster of the project"), "{}", said(&output));
}

#[test]
fn a_source_that_is_busy_once_does_not_end_a_run_before_it_began() {
    let server = doubles::vllm();
    let asked = AtomicUsize::new(0);
    let double = prometheus_that(0.0, move |_| match asked.fetch_add(1, Ordering::SeqCst) {
        0 => Reply::status(503, "starting"),
        1 => Reply::status(429, "slow down").header("retry-after", "1"),
        _ => Reply::status(400, "1:4: parse error: unexpected end of input"),
    });
    let output = calibrate(&["run", "--ramp=rate:4x2s", "--slo", "ttft:p95:2s", "--target", &server.url])
        .args(["--server", "vllm", "--prometheus", &double.url, "--promql", "queue_size=up{"])
        .args(["--out", TempDir::new().unwrap().path().join("run").to_str().unwrap()])
        .output()
        .unwrap();
    assert!(said(&output).contains("parse error"), "it was asked on: {}", said(&output));
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
}

// ---- Google ----

fn user(double: &Double) -> Value {
    json!({"type": "authorized_user", "client_id": "c", "client_secret": "clientverysecret",
           "refresh_token": "refreshverysecret", "token_uri": format!("{}/token", double.url)})
}

fn monitoring(double: &Double, credentials: Value, replicas: u32) -> Feed {
    monitoring_of(double, credentials, Expected { replicas, gpus: 1 })
}

fn monitoring_of(double: &Double, credentials: Value, expected: Expected) -> Feed {
    let access =
        runtime().block_on(async { GoogleAccess::new(GoogleCredentials::Json(credentials), None) }).unwrap();
    let metric = TimeSeries {
        series: Series::GpuUtil,
        metric: "kubernetes.io/container/accelerator/duty_cycle".to_owned(),
        filter: "resource.type=\"k8s_container\"".to_owned(),
    };
    let client = client_builder().build().unwrap();
    let names = ReplicaNames::default();
    let feed = CloudMonitoring::new(&double.url, "my-project", client, access, vec![metric], names, expected);
    Feed::CloudMonitoring(Box::new(feed))
}

fn point(seconds_ago: f64, value: &str) -> Value {
    let end = jiff::Timestamp::from_microsecond(((RunClock::wall() - seconds_ago) * 1e6) as i64).unwrap();
    json!({"interval": {"startTime": end.to_string(), "endTime": end.to_string()}, "value": {"int64Value": value}})
}

fn gpu_series(pod: &str, gpu: &str, points: &[Value]) -> Value {
    json!({
        "metric": {"type": "kubernetes.io/container/accelerator/duty_cycle", "labels": {"accelerator_id": gpu, "make": "nvidia", "model": "l4"}},
        "resource": {"type": "k8s_container", "labels": {"pod_name": pod, "cluster_name": "c", "container_name": "inference-server"}},
        "metricKind": "GAUGE", "valueType": "INT64", "points": points,
    })
}

#[test]
fn cloud_monitoring_is_read_over_its_pages_with_a_token() {
    install_tls();
    let (first, second) = ([point(70.0, "40"), point(130.0, "10")], [point(70.0, "60"), point(130.0, "30")]);
    let asked_until = std::sync::Mutex::new(None);
    let double = Double::serve(move |path, headers, _| {
        if path == "/token" {
            return Reply::json(
                &json!({"access_token": "tokenverysecret", "expires_in": 3600, "token_type": "Bearer"}),
            );
        }
        if path.contains("pageToken=next") {
            std::thread::sleep(Duration::from_millis(20));
        } else {
            asked_until.lock().unwrap().take();
        }
        assert_eq!(headers["authorization"], "Bearer tokenverysecret");
        assert!(path.starts_with("/v3/projects/my-project/timeSeries?filter=metric.type"), "{path}");
        let end = path.split("interval.endTime=").nth(1).unwrap().split('&').next().unwrap().to_owned();
        let same = asked_until.lock().unwrap().get_or_insert_with(|| end.clone()) == &end;
        assert!(same, "a token belongs to the interval of its question: {path}");
        // The second page repeats the times of the first to the microsecond, as GPUs of one pod do.
        if path.contains("pageToken=next") {
            Reply::json(&json!({"timeSeries": [gpu_series("a", "1", &retimed(&second, &first))]}))
        } else {
            Reply::json(
                &json!({"timeSeries": [gpu_series("a", "0", &first)], "nextPageToken": "next", "unit": "%"}),
            )
        }
    });
    let mut feed = monitoring_of(&double, user(&double), Expected { replicas: 1, gpus: 2 });
    let mut samples = check(&mut feed).unwrap();
    samples.sort_by(|a, b| a.time.0.total_cmp(&b.time.0));
    let values: Vec<_> = samples.iter().map(|sample| sample.get(Series::GpuUtil)).collect();
    assert_eq!(values, [Some(20.0), Some(50.0)], "the mean over the pod's GPUs, oldest first");
    assert!(samples.iter().all(|sample| sample.arrived.0 > sample.time.0 + 60.0));
    let again = runtime().block_on(feed.poll(RunClock::start())).unwrap();
    assert!(again.is_empty(), "a point counts once");
}

/// Keeps what it is given.
#[derive(Default)]
struct Kept(std::sync::Mutex<Vec<Sample>>);

impl calibrate::observe::Sink for Kept {
    fn sample(&self, sample: Sample) {
        self.0.lock().unwrap().push(sample);
    }

    fn event(&self, _: calibrate::measurement::Event) {}
}

#[test]
fn the_last_minute_of_the_load_is_waited_for() {
    install_tls();
    // What was true when the load ended comes with the third question after it.
    let (asked, ended) = (AtomicUsize::new(0), Arc::new(AtomicUsize::new(usize::MAX)));
    let (last, stop) = (point(-3.0, "99"), Arc::clone(&ended));
    let earlier = point(60.0, "50");
    let double = Double::serve(move |path, _, _| {
        if path == "/token" {
            return Reply::json(&json!({"access_token": "t", "expires_in": 3600, "token_type": "Bearer"}));
        }
        let asked = asked.fetch_add(1, Ordering::SeqCst);
        let there = if asked >= stop.load(Ordering::SeqCst) {
            vec![last.clone(), earlier.clone()]
        } else {
            vec![earlier.clone()]
        };
        Reply::json(&json!({"timeSeries": [gpu_series("a", "0", &there)]}))
    });
    let kept = Arc::new(Kept::default());
    let sink: Arc<dyn calibrate::observe::Sink> = kept.clone();
    let feed = monitoring(&double, user(&double), 1);
    runtime().block_on(async {
        let observer = calibrate::observe::Observer::start(vec![feed], RunClock::start(), &sink);
        tokio::time::sleep(Duration::from_millis(500)).await;
        // The first question was before the end, the second is right after it and too early.
        ended.store(2, Ordering::SeqCst);
        assert!(observer.late_by() >= Duration::from_secs(60), "a minute until it is sampled");
        let late_by = observer.late_by();
        observer.finish(late_by).await;
    });
    let values: Vec<_> = kept.0.lock().unwrap().iter().map(|s| s.get(Series::GpuUtil).unwrap()).collect();
    assert_eq!(values, [50.0, 99.0]);
}

#[test]
fn the_gpus_of_a_replica_are_waited_for_and_counted() {
    install_tls();
    let (times, asked) = ([point(10.0, "40"), point(70.0, "20")], AtomicUsize::new(0));
    let token = json!({"access_token": "t", "expires_in": 3600, "token_type": "Bearer"});
    let late = token.clone();
    let double = Double::serve(move |path, _, _| {
        if path == "/token" {
            return Reply::json(&late);
        }
        // The newest point of the second GPU is late by one question.
        let known = usize::from(asked.fetch_add(1, Ordering::SeqCst) == 0);
        let second = [point(10.0, "80"), point(70.0, "60")];
        let second = retimed(&second, &times);
        Reply::json(
            &json!({"timeSeries": [gpu_series("a", "0", &times), gpu_series("a", "1", &second[known..])]}),
        )
    });
    let mut feed = monitoring_of(&double, user(&double), Expected { replicas: 1, gpus: 2 });
    let values = |samples: Vec<Sample>| {
        samples.iter().map(|sample| sample.get(Series::GpuUtil).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(values(check(&mut feed).unwrap()), [40.0], "the period that both have");
    let clock = RunClock::start();
    assert_eq!(
        values(runtime().block_on(feed.poll(clock)).unwrap()),
        [60.0],
        "and the other once both have it"
    );
    let one_of_two = Double::serve(move |path, _, _| match path {
        "/token" => Reply::json(&token),
        _ => Reply::json(&json!({"timeSeries": [gpu_series("a", "0", &[point(9.0, "1")])]})),
    });
    let mut feed = monitoring_of(&one_of_two, user(&one_of_two), Expected { replicas: 1, gpus: 2 });
    let problem = check(&mut feed).unwrap_err();
    assert_eq!(problem.kind, ProblemKind::Missing, "{problem}");
    assert!(
        problem.reason.contains("1 series") && problem.reason.contains("--gpus-per-replica"),
        "{problem}"
    );
}

#[test]
fn a_gpu_that_a_prometheus_collected_is_of_the_pod_that_works_on_it() {
    install_tls();
    let series = |own: &str, value: &str| {
        let labels = json!({"pod": "dcgm-exporter-x", "exported_pod": own, "gpu": "0"});
        json!({"metric": {"type": "prometheus.googleapis.com/dcgm_fi_dev_gpu_util/unknown", "labels": labels},
               "resource": {"type": "prometheus_target", "labels": {"cluster": "c", "instance": "dcgm-exporter-x:metrics"}},
               "metricKind": "GAUGE", "valueType": "DOUBLE", "points": [point(9.0, value)]})
    };
    let found = json!({"timeSeries": [series("b", "90"), series("a", "40"), series("other", "1")]});
    let double = Double::serve(move |path, _, _| match path {
        "/token" => Reply::json(&json!({"access_token": "t", "expires_in": 3600, "token_type": "Bearer"})),
        _ => Reply::json(&found),
    });
    let access = runtime()
        .block_on(async { GoogleAccess::new(GoogleCredentials::Json(user(&double)), None) })
        .unwrap();
    let metric = "prometheus.googleapis.com/dcgm_fi_dev_gpu_util/unknown".to_owned();
    let metric = TimeSeries { series: Series::GpuUtil, metric, filter: String::new() };
    let names = ReplicaNames::new(&["a".to_owned(), "b".to_owned()], Vec::new());
    let (client, expected) = (client_builder().build().unwrap(), Expected { replicas: 2, gpus: 1 });
    let feed = CloudMonitoring::new(&double.url, "p", client, access, vec![metric], names, expected);
    let samples = check(&mut Feed::CloudMonitoring(Box::new(feed))).unwrap();
    let seen: Vec<_> = samples.iter().map(|s| (s.replica, s.get(Series::GpuUtil).unwrap())).collect();
    assert_eq!(seen, [(0, 40.0), (1, 90.0)]);
}

#[test]
fn an_answer_of_endless_pages_is_told_of_and_not_cut_silently() {
    install_tls();
    let double = Double::serve(move |path, _, _| match path {
        "/token" => Reply::json(&json!({"access_token": "t", "expires_in": 3600, "token_type": "Bearer"})),
        _ => Reply::json(&json!({"timeSeries": [], "nextPageToken": "on"})),
    });
    let problem = check(&mut monitoring(&double, user(&double), 1)).unwrap_err();
    assert!(problem.reason.contains("more than 100 pages"), "{problem}");
}

/// The points of one series at the times of another.
fn retimed(points: &[Value], times: &[Value]) -> Vec<Value> {
    points.iter().zip(times).map(|(p, t)| json!({"interval": t["interval"], "value": p["value"]})).collect()
}

/// The answer, and what is said of it.
type GoogleCase = (Box<dyn Fn() -> Reply + Send + Sync>, ProblemKind, &'static str);

#[test]
#[allow(clippy::too_many_lines, reason = "a table of cases")]
fn what_is_wrong_with_cloud_monitoring_is_said_with_the_mend() {
    install_tls();
    let google = |code: u16, message: &str| {
        let body = json!({"error": {"code": code, "message": message, "status": "X"}});
        Reply { status: code, ..Reply::json(&body) }
    };
    let cases: Vec<GoogleCase> = vec![
        (
            Box::new(move || google(401, "Request had invalid authentication credentials.")),
            ProblemKind::Unauthorized,
            "invalid authentication",
        ),
        (
            Box::new(move || google(403, "Permission monitoring.timeSeries.list denied")),
            ProblemKind::Forbidden,
            "roles/monitoring.viewer",
        ),
        (Box::new(move || google(404, "not found")), ProblemKind::NotFound, "is that the project's id?"),
        (
            Box::new(move || google(429, "Quota exceeded").header("retry-after", "30")),
            ProblemKind::Throttled,
            "Quota exceeded",
        ),
        (Box::new(move || google(503, "backend")), ProblemKind::Failing, "backend"),
        (
            Box::new(move || google(400, "Field filter had an invalid value")),
            ProblemKind::Refused,
            "invalid value",
        ),
        (
            Box::new(|| Reply::json(&json!({}))),
            ProblemKind::Missing,
            "no point of the last 300 s is found by metric.type=",
        ),
        (
            Box::new(|| {
                Reply::json(&json!({"executionErrors": [{"code": 14, "message": "shard unavailable"}]}))
            }),
            ProblemKind::Failing,
            "shard unavailable",
        ),
        (
            Box::new(|| Reply::json(&json!({"timeSeries": [gpu_series("a", "0", &[point(-40.0, "1")])]}))),
            ProblemKind::ClocksApart,
            "in the future",
        ),
        (
            Box::new(|| {
                let both =
                    [gpu_series("a", "0", &[point(9.0, "1")]), gpu_series("a", "1", &[point(9.0, "1")])];
                Reply::json(&json!({"timeSeries": both}))
            }),
            ProblemKind::Ambiguous,
            "has 2 series of kubernetes.io/container/accelerator/duty_cycle where 1 GPUs",
        ),
        (
            Box::new(|| {
                Reply::json(
                    &json!({"timeSeries": [gpu_series("a", "0", &[point(9.0, "1")]), gpu_series("b", "0", &[point(9.0, "1")])]}),
                )
            }),
            ProblemKind::Ambiguous,
            "it shows 2 pods where 1 are expected",
        ),
    ];
    for (answer, kind, expected) in cases {
        let double = Double::serve(move |path, _, _| match path {
            "/token" => {
                Reply::json(&json!({"access_token": "t", "expires_in": 3600, "token_type": "Bearer"}))
            }
            _ => answer(),
        });
        let problem = check(&mut monitoring(&double, user(&double), 1)).unwrap_err();
        assert_eq!(problem.kind, kind, "{problem}");
        assert!(problem.reason.contains(expected), "{expected}: {problem}");
        assert_eq!(problem.retry_after.is_some(), kind == ProblemKind::Throttled);
    }
    let partial = json!({"timeSeries": [gpu_series("a", "0", &[point(9.0, "7")])], "executionErrors": [{"code": 14, "message": "x"}]});
    let double = Double::serve(move |path, _, _| match path {
        "/token" => Reply::json(&json!({"access_token": "t", "expires_in": 3600, "token_type": "Bearer"})),
        _ => Reply::json(&partial),
    });
    let kept = check(&mut monitoring(&double, user(&double), 1)).unwrap();
    assert_eq!(kept[0].get(Series::GpuUtil), Some(7.0), "what came in part counts");
}

#[test]
fn managed_prometheus_is_asked_at_its_own_address_with_a_token() {
    let server = doubles::tgi();
    doubles::touch(&server.url);
    let double = Double::serve(|path, headers, _| {
        if path == "/token" {
            return Reply::json(&json!({"access_token": "t", "expires_in": 3600, "token_type": "Bearer"}));
        }
        assert_eq!(headers["authorization"], "Bearer t");
        let base = "/v1/projects/my-project/location/global/prometheus/api/v1/query?query=";
        let query = path.strip_prefix(base).unwrap_or_else(|| panic!("{path}"));
        let now = RunClock::wall();
        if query == "time%28%29" {
            return Reply::json(
                &json!({"status": "success", "data": {"resultType": "scalar", "result": [now, now.to_string()]}}),
            );
        }
        for matcher in ["namespace%3D%22default%22", "cluster%3D%22my-cluster%22", "location%3D%22l%22"] {
            assert!(query.contains(matcher), "the place is in every query: {query}");
        }
        let value = if query.contains("timestamp") { now - 12.0 } else { 0.0 };
        vector(
            &json!([{"metric": {"pod": "tgi-0", "instance": "tgi-0:8000"}, "value": [now, value.to_string()]}]),
        )
    });
    let directory = TempDir::new().unwrap();
    let key = directory.path().join("key.json");
    fs::write(&key, user(&double).to_string()).unwrap();
    let output = calibrate(&["doctor", "--json", "--target", &server.url, "--prometheus", "gmp:my-project"])
        .args(["--prometheus-selector", "namespace=\"default\"", "--google-endpoint", &double.url])
        .args(["--cluster-name", "my-cluster", "--location", "l"])
        .args(["--google-credentials", &format!("file:{}", key.display())])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert!(said(&output).contains("queue_size 0"), "{}", said(&output));
}

#[test]
fn credentials_may_be_handed_on_and_a_refusal_shows_no_secret() {
    install_tls();
    let double = Double::serve(|path, headers, _| match path {
        "/token" => Reply::json(&json!({"access_token": "own", "expires_in": 3600, "token_type": "Bearer"})),
        "/v1/projects/-/serviceAccounts/sa@p.iam.gserviceaccount.com:generateAccessToken" => {
            assert_eq!(headers["authorization"], "Bearer own");
            let end = jiff::Timestamp::from_second(RunClock::wall() as i64 + 3600).unwrap();
            Reply::json(&json!({"accessToken": "handed-on", "expireTime": end.to_string()}))
        }
        _ => {
            assert_eq!(headers["authorization"], "Bearer handed-on");
            Reply::json(&json!({"timeSeries": [gpu_series("a", "0", &[point(9.0, "7")])]}))
        }
    });
    let account = "sa@p.iam.gserviceaccount.com:generateAccessToken";
    let handed_on = json!({
        "type": "impersonated_service_account", "source_credentials": user(&double),
        "service_account_impersonation_url": format!("{}/v1/projects/-/serviceAccounts/{account}", double.url),
    });
    assert_eq!(check(&mut monitoring(&double, handed_on, 1)).unwrap().len(), 1);
    let refusing = Double::serve(|_, _, _| Reply {
        status: 400,
        ..Reply::json(&json!({"error": "invalid_grant", "error_description": "Token has been revoked"}))
    });
    let problem = check(&mut monitoring(&refusing, user(&refusing), 1)).unwrap_err();
    assert_eq!(problem.kind, ProblemKind::Unauthorized);
    assert!(problem.reason.contains("gcloud auth application-default login"), "{problem}");
    assert!(!problem.reason.contains("verysecret"), "{problem}");
}

/// The flag goes to Google's own address over TLS, so a proxy stands at the way there and says who is asked for.
#[test]
fn the_flag_to_impersonate_asks_googles_credentials_service_for_the_account() {
    let server = doubles::tgi();
    let double = Double::serve(|path, _, _| {
        assert_eq!(path, "/token", "without a token nothing is asked");
        Reply::json(&json!({"access_token": "verysecret", "expires_in": 3600, "token_type": "Bearer"}))
    });
    let proxy = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = proxy.local_addr().unwrap();
    let asked = std::thread::spawn(move || {
        let (mut stream, _) = proxy.accept().unwrap();
        let mut line = String::new();
        BufReader::new(stream.try_clone().unwrap()).read_line(&mut line).unwrap();
        stream.write_all(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n").unwrap();
        line
    });
    let directory = TempDir::new().unwrap();
    let key = directory.path().join("key.json");
    fs::write(&key, user(&double).to_string()).unwrap();
    let output = calibrate(&["doctor", "--target", &server.url, "--cloud-monitoring", "my-project"])
        .args(["--google-endpoint", &double.url, "--google-impersonate", "sa@p.iam.gserviceaccount.com"])
        .args(["--cluster-name", "c"])
        .args(["--google-credentials", &format!("file:{}", key.display())])
        .env("HTTPS_PROXY", format!("http://{address}"))
        .output()
        .unwrap();
    // Where nobody asked, this ends the wait for it.
    drop(std::net::TcpStream::connect(address));
    assert_eq!(asked.join().unwrap().trim(), "CONNECT iamcredentials.googleapis.com:443 HTTP/1.1");
    assert_ne!(output.status.code(), Some(0), "{}", said(&output));
    assert!(said(&output).contains("no Google token"), "{}", said(&output));
    assert!(!said(&output).contains("verysecret"), "{}", said(&output));
}

#[test]
fn a_service_account_signs_its_token_itself() {
    install_tls();
    let double = Double::serve(|_, headers, _| {
        let token = headers["authorization"].to_str().unwrap().strip_prefix("Bearer ").unwrap().to_owned();
        let parts: Vec<&str> = token.split('.').collect();
        assert_eq!(parts.len(), 3, "a signed claim, and no question to a token server");
        let claim =
            base64::Engine::decode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, parts[1]).unwrap();
        let claim: Value = serde_json::from_slice(&claim).unwrap();
        assert_eq!(claim["iss"], "a@p.iam.gserviceaccount.com");
        assert_eq!(claim["scope"], "https://www.googleapis.com/auth/monitoring.read");
        Reply::json(&json!({"timeSeries": [gpu_series("a", "0", &[point(9.0, "7")])]}))
    });
    let key = rcgen::KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap();
    let account = |pem: &str| {
        json!({"type": "service_account", "client_email": "a@p.iam.gserviceaccount.com", "private_key_id": "k",
               "private_key": pem, "project_id": "p"})
    };
    let pem = key.serialize_pem();
    assert_eq!(check(&mut monitoring(&double, account(&pem), 1)).unwrap().len(), 1);
    let broken = pem.replace("PRIVATE KEY-----\n", "PRIVATE KEY-----\nverysecret");
    for json in [account(&broken), json!({"type": "service_account"})] {
        // Whether a key is one the library tells when it is read, or when it is first used.
        let made =
            runtime().block_on(async { GoogleAccess::new(GoogleCredentials::Json(json.clone()), None) });
        let reason = match made {
            Err(problem) => problem.reason,
            Ok(_) => check(&mut monitoring(&double, json, 1)).unwrap_err().reason,
        };
        assert!(reason.contains("--google-credentials file:KEY.json"), "{reason}");
        assert!(!reason.contains("verysecret") && !reason.contains("BEGIN"), "{reason}");
    }
}

/// As `main` does, for what a test does in its own process.
fn install_tls() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

#[test]
fn one_tls_provider_is_compiled_in_for_all_clients() {
    // With two, rustls cannot choose, and Google's library would panic where none was installed.
    install_tls();
    assert!(rustls::crypto::CryptoProvider::get_default().is_some());
    let lock = include_str!("../Cargo.lock");
    assert_eq!(lock.matches("\nname = \"rustls\"\n").count(), 1, "one rustls");
    assert!(!lock.contains("\nname = \"openssl\"\n") && !lock.contains("\nname = \"native-tls\"\n"));
}

// ---- Kubernetes ----

fn metrics_api(double: &Double, external: bool, replicas: u32) -> Feed {
    install_tls();
    let mut config = kube::Config::new(double.url.parse().unwrap());
    config.default_retry = false;
    let client = runtime().block_on(async { kube::Client::try_from(config) }).unwrap();
    let expected = Expected { replicas, gpus: 2 };
    let api = if external {
        let metrics = vec![ApiMetric::new(Series::GpuUtil, "a|duty_cycle", "app=x")];
        MetricsApi::external(client, "default", metrics, expected)
    } else {
        let metrics = vec![ApiMetric::new(Series::QueueSize, "prometheus.googleapis.com|q|gauge", "app=x")];
        MetricsApi::custom(client, "default", metrics, ReplicaNames::default(), expected)
    };
    Feed::MetricsApi(Box::new(api))
}

fn status(code: u16, message: &str) -> Reply {
    let body = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": message, "reason": "X"});
    Reply { status: code, ..Reply::json(&body) }
}

fn pods(values: &[(&str, &str)]) -> Reply {
    let item = |(pod, value): &(&str, &str)| {
        json!({"describedObject": {"kind": "Pod", "namespace": "default", "name": pod, "apiVersion": "/__internal"},
               "timestamp": "2026-11-23T21:51:18Z", "value": value, "metric": {"name": "q", "selector": null}})
    };
    let items: Vec<Value> = values.iter().map(item).collect();
    Reply::json(
        &json!({"kind": "MetricValueList", "apiVersion": "custom.metrics.k8s.io/v1beta2", "metadata": {}, "items": items}),
    )
}

#[test]
fn pods_metrics_are_read_per_pod_also_of_an_adapter_of_the_older_version() {
    let double = Double::serve(|path, _, _| {
        assert!(path.ends_with(
            "/namespaces/default/pods/*/prometheus.googleapis.com%7Cq%7Cgauge?labelSelector=app%3Dx"
        ));
        if path.contains("/v1beta1/") {
            pods(&[("a", "4"), ("b", "500m")])
        } else {
            status(404, "no such version")
        }
    });
    let samples = check(&mut metrics_api(&double, false, 2)).unwrap();
    let seen: Vec<_> = samples.iter().map(|s| (s.replica, s.get(Series::QueueSize).unwrap())).collect();
    assert_eq!(seen, [(0, 4.0), (1, 0.5)]);
}

#[test]
fn an_external_metric_is_what_the_hpa_divides() {
    let double = Double::serve(|_, _, _| {
        let item = |value: &str| json!({"metricName": "x", "metricLabels": {"resource.type": "k8s_container"}, "timestamp": "2026-11-23T21:51:18Z", "value": value});
        Reply::json(
            &json!({"kind": "ExternalMetricValueList", "apiVersion": "external.metrics.k8s.io/v1beta1", "metadata": {}, "items": [item("60"), item("61500m"), item("90"), item("90")]}),
        )
    });
    let samples = check(&mut metrics_api(&double, true, 2)).unwrap();
    assert_eq!(
        samples[0].get(Series::GpuUtil),
        Some(75.375),
        "the sum over the series, per GPU of a replica"
    );
}

#[test]
fn what_is_wrong_with_a_metrics_api_is_said_with_the_mend() {
    type Case = (fn() -> Reply, ProblemKind, &'static str);
    let cases: [Case; 5] = [
        (
            || status(404, "the server could not find the metric"),
            ProblemKind::NotFound,
            "is the metrics adapter installed",
        ),
        (
            || status(403, "pods.custom.metrics.k8s.io is forbidden"),
            ProblemKind::Forbidden,
            "verbs get and list",
        ),
        (
            || status(503, "the server is currently unable to handle the request"),
            ProblemKind::Failing,
            "APIService",
        ),
        (|| pods(&[]), ProblemKind::Missing, "the HPA would see a missing metric"),
        (|| pods(&[("a", "many")]), ProblemKind::Malformed, "'many', which is no quantity"),
    ];
    for (answer, kind, expected) in cases {
        let double = Double::serve(move |_, _, _| answer());
        let problem = check(&mut metrics_api(&double, false, 1)).unwrap_err();
        assert_eq!(problem.kind, kind, "{problem}");
        assert!(problem.reason.contains(expected), "{expected}: {problem}");
    }
}

#[test]
fn a_pods_metric_is_asked_for_and_reckoned_as_the_scrape_is() {
    install_tls();
    let double = Double::serve(|path, _, _| {
        let of = |name: &str| path.contains(&format!("prometheus.googleapis.com%7C{name}%7Cgauge?"));
        if of("nv_trt_llm_request_metrics") {
            let selector = "&metricLabelSelector=metric.labels.request_type%3Dwaiting";
            assert!(path.ends_with(&format!("labelSelector=app%3Dgemma-server{selector}")), "{path}");
            pods(&[("a", "5")])
        } else if of("tgi_batch_max_total_tokens") {
            pods(&[("a", "2k"), ("b", "0")])
        } else {
            pods(&[("a", "500"), ("b", "7")])
        }
    });
    let directory = TempDir::new().unwrap();
    let kubeconfig = doubles::kubeconfig(directory.path(), &double.url);
    let server = doubles::tgi();
    doubles::touch(&server.url);
    for (kind, series, expected) in
        [("triton-trtllm", "queue_size", "queue_size 5"), ("tgi", "kv_usage", "replica 0: kv_usage 0.25")]
    {
        let output = calibrate(&["doctor", "--target", &server.url, "--server", kind, "--model", "m"])
            .args(["--metrics-url", &format!("{}/metrics", server.url), "--custom-metric", series])
            .env("KUBECONFIG", &kubeconfig)
            .output()
            .unwrap();
        assert!(said(&output).contains(expected), "{}", said(&output));
        assert!(said(&output).contains("how old its values are is not known"), "{}", said(&output));
    }
}

// ---- The record ----

#[test]
fn a_run_that_was_recorded_before_there_were_arrival_times_is_read() {
    let run = read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/old-run")).unwrap();
    let expected = [(Source::Server, Some(4.0), None), (Source::Gpu, None, Some(88.0))];
    assert_eq!(run.samples.len(), expected.len());
    for (sample, (source, queue, gpu)) in run.samples.iter().zip(expected) {
        assert_eq!(
            (sample.source, sample.get(Series::QueueSize), sample.get(Series::GpuUtil)),
            (source, queue, gpu)
        );
        assert_eq!(sample.arrived, sample.time + sample.took, "it was here when it was read");
    }
    assert_eq!(run.info.target.kind, None);
}

/// The sample run as if a metrics adapter had been asked every two seconds, and had shown the batch of
/// `late` seconds before.
fn sample_run_seen_late(run: &Path, late: f64) {
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("reports/sample");
    fs::create_dir(run).unwrap();
    for file in ["run.json", "requests.csv", "samples.csv", "events.jsonl"] {
        fs::copy(sample.join(file), run.join(file)).unwrap();
    }
    let recorded = read(run).unwrap();
    let direct: Vec<(f64, f64)> = samples(&recorded, Source::Server)
        .iter()
        .filter_map(|sample| Some((sample.time.0, sample.get(Series::BatchSize)?)))
        .collect();
    let header = fs::read_to_string(run.join("samples.csv")).unwrap().lines().next().unwrap().to_owned();
    let columns = header.split(',').count();
    let place = |column: &str| header.split(',').position(|name| name == column).unwrap();
    let mut rows = String::new();
    for second in (0..).map(|i| f64::from(i) * 2.0).take_while(|second| *second < direct.last().unwrap().0) {
        let Some((_, batch)) = direct.iter().rev().find(|(time, _)| *time <= second - late) else { continue };
        let mut row = vec![String::new(); columns];
        let (time, batch) = (format!("{second:.6}"), batch.to_string());
        for (column, value) in [
            ("time", time.as_str()),
            ("took", "0.001000"),
            ("source", "custom-metrics"),
            ("replica", "0"),
            ("batch_size", &batch),
            ("arrived", &time),
        ] {
            value.clone_into(&mut row[place(column)]);
        }
        rows += &(row.join(",") + "\n");
    }
    let mut file = fs::OpenOptions::new().append(true).open(run.join("samples.csv")).unwrap();
    file.write_all(rows.as_bytes()).unwrap();
}

#[test]
fn the_lag_that_a_run_measured_takes_the_place_of_the_assumed_one() {
    let directory = TempDir::new().unwrap();
    let run = directory.path().join("run");
    sample_run_seen_late(&run, 12.0);
    let output = calibrate(&["recommend", run.to_str().unwrap(), "--json"]).output().unwrap();
    let document: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", said(&output)));
    let assumptions = &document["assumptions"];
    assert_eq!(assumptions["lag_origin"], "measured", "{document:#}");
    let lag = assumptions["lag"].as_f64().unwrap();
    assert!((lag - 12.0).abs() <= 2.0, "{lag}");
    let found = &document["lags"][0];
    assert_eq!(
        (found["source"].as_str(), found["series"].as_str()),
        (Some("custom-metrics"), Some("batch_size"))
    );
    assert!(found["low"].as_f64().unwrap() <= lag && lag <= found["high"].as_f64().unwrap(), "{found}");
}

// ---- Names before load ----

#[test]
fn what_cannot_work_is_said_before_any_request() {
    let server = doubles::vllm();
    for (arguments, expected) in [
        (vec!["--cloud-monitoring", "my-project"], "--cluster-name"),
        (vec!["--cloud-monitoring", "my project"], "names no Google project"),
        (vec!["--prometheus", "gmp:"], "names no Google project"),
        (vec!["--prometheus", "localhost:9090"], "http://"),
        (vec!["--prometheus", "http://me:verysecret@localhost:9090"], "would be recorded"),
        (vec!["--promql", "queue_size=up"], "name the server with --prometheus"),
        (vec!["--prometheus", "http://127.0.0.1:1", "--promql", "queue_siz=up"], "did you mean queue_size?"),
        (vec!["--custom-metric", "gpu_util"], "write gpu_util=NAME"),
        (vec!["--external-metric", "queue_size"], "write queue_size=NAME"),
        (
            vec!["--external-metric", "gpu_util"],
            "--external-metric: kubernetes.io/container/accelerator/duty_cycle needs",
        ),
        (
            vec![
                "--cloud-monitoring",
                "p",
                "--cloud-monitoring-metric",
                "queue_size=custom.googleapis.com/q",
            ],
            "AND its conditions",
        ),
        (vec!["--google-credentials", "ya29.verysecret"], "file:KEY.json"),
        (
            vec![
                "--cloud-monitoring",
                "p",
                "--cluster-name",
                "c",
                "--google-credentials",
                "file:/no/key.json",
            ],
            "/no/key.json",
        ),
    ] {
        let output = calibrate(&["run", "--ramp=rate:1x2s", "--slo", "ttft:p95:2s", "--target", &server.url])
            .args(["--server", "vllm", "--out", "/nonexistent/run"])
            .args(&arguments)
            .output()
            .unwrap();
        let said = said(&output);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
        assert!(said.contains(expected) && !said.contains("verysecret"), "{arguments:?}: {said}");
    }
}

#[test]
#[cfg(feature = "nvml")]
fn a_machine_without_nvidias_library_only_lacks_this_source() {
    let Err(problem) = calibrate::observe::Nvml::load(&[]) else {
        eprintln!("SKIPPED: this machine has NVIDIA's library");
        return;
    };
    assert!(problem.reason.contains("comes with the NVIDIA driver"), "{problem}");
}

// ---- Everything at once ----

/// A Prometheus that scrapes `addresses` every second.
struct RealPrometheus {
    process: Child,
    url: String,
    _directory: TempDir,
}

impl RealPrometheus {
    /// `None`, said aloud, where there is none; a failure where the environment asks for it.
    fn start(address: &str) -> Option<RealPrometheus> {
        if Command::new("prometheus").arg("--version").output().is_err() {
            let required = std::env::var_os("CALIBRATE_REQUIRE_PROMETHEUS").is_some();
            assert!(!required, "CALIBRATE_REQUIRE_PROMETHEUS is set, and there is no prometheus on the PATH");
            eprintln!(
                "SKIPPED in part: there is no prometheus on the PATH (Debian: apt-get install prometheus)"
            );
            return None;
        }
        let directory = TempDir::new().unwrap();
        let config = format!(
            "global: {{scrape_interval: 1s, scrape_timeout: 1s}}\nscrape_configs:\n\
             - {{job_name: tgi, static_configs: [{{targets: ['{address}']}}]}}\n"
        );
        fs::write(directory.path().join("p.yml"), config).unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let process = Command::new("prometheus")
            .arg(format!("--config.file={}", directory.path().join("p.yml").display()))
            .arg(format!("--storage.tsdb.path={}", directory.path().join("data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let url = format!("http://127.0.0.1:{port}");
        let ready = format!("{url}/-/ready");
        for _ in 0..300 {
            let answer = runtime().block_on(async { reqwest::get(&ready).await });
            if answer.is_ok_and(|answer| answer.status().is_success()) {
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Some(RealPrometheus { process, url, _directory: directory })
    }
}

impl Drop for RealPrometheus {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The share of samples that lie within what the direct scrape showed around their time. Gauges move
/// between two looks at them, and some sources name whole seconds, so a few lie outside.
fn agreement(run: &RecordedRun, source: Source, direct: Source, series: Series) -> (usize, f64) {
    let around = |time: f64| {
        let near = samples(run, direct).into_iter().filter(move |s| (s.time.0 - time).abs() <= 3.2);
        let values: Vec<f64> = near.filter_map(|s| s.get(series)).collect();
        (
            values.iter().copied().fold(f64::INFINITY, f64::min),
            values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        )
    };
    let all: Vec<bool> = samples(run, source)
        .into_iter()
        .filter_map(|sample| Some((sample.time.0, sample.get(series)?)))
        .filter(|(time, _)| around(*time).0.is_finite())
        .map(|(time, value)| {
            let (least, most) = around(time);
            (least - 1.0..=most + 1.0).contains(&value)
        })
        .collect();
    (all.len(), all.iter().filter(|agrees| **agrees).count() as f64 / all.len().max(1) as f64)
}

#[test]
#[allow(clippy::too_many_lines, reason = "one run, looked at from all sides")]
fn one_run_with_five_sources_at_once_whose_series_agree() {
    install_tls();
    let server = doubles::tgi();
    let google = doubles::google(&server.url);
    let kubernetes = doubles::kubernetes(&server.url);
    let real = RealPrometheus::start(server.url.trim_start_matches("http://"));
    let directory = TempDir::new().unwrap();
    let kubeconfig = doubles::kubeconfig(directory.path(), &kubernetes.url);
    let out = directory.path().join("run");
    let common = |command: &mut Command| {
        command
            .args(["--target", &server.url, "--gpu-metrics-url", &format!("{}/gpu/metrics", server.url)])
            .args([
                "--cloud-monitoring",
                "my-project",
                "--cluster-name",
                "c",
                "--google-endpoint",
                &google.url,
            ])
            .args([
                "--google-credentials",
                "metadata",
                "--custom-metric",
                "queue_size",
                "--custom-metric",
                "batch_size",
            ])
            .args(["--external-metric", "gpu_util"])
            .env("KUBECONFIG", &kubeconfig)
            .env("GCE_METADATA_HOST", google.url.trim_start_matches("http://"));
        if let Some(real) = &real {
            command.args(["--prometheus", &real.url, "--prometheus-selector", "job=\"tgi\""]);
        }
    };
    let mut command = calibrate(&["run", "--ramp=concurrency:3,24x6s", "--slo", "ttft:p95:5s", "-vv"]);
    common(command.args(["--output-tokens", "uniform:20-60", "--out", out.to_str().unwrap()]));
    let output = command.output().unwrap();
    let shown = said(&output);
    assert!(matches!(output.status.code(), Some(0 | 4)), "{shown}");
    let run = read(&out).unwrap();
    assert!(
        run.samples.iter().all(|sample| sample.arrived.0 >= sample.time.0 - 0.001),
        "nothing is here too early"
    );
    let mut expected = vec![
        (Source::CloudMonitoring, Source::Gpu, Series::GpuUtil, 5),
        (Source::ExternalMetrics, Source::Gpu, Series::GpuUtil, 4),
        (Source::CustomMetrics, Source::Server, Series::QueueSize, 4),
        (Source::CustomMetrics, Source::Server, Series::BatchSize, 4),
    ];
    if real.is_some() {
        expected.push((Source::Prometheus, Source::Server, Series::QueueSize, 8));
        expected.push((Source::Prometheus, Source::Server, Series::BatchSize, 8));
    }
    for (source, direct, series, least) in expected {
        let (n, share) = agreement(&run, source, direct, series);
        assert!(n >= least && share >= 0.6, "{source:?} {series:?}: {share} of {n}");
    }
    let document = fs::read_to_string(out.join("report.html")).unwrap();
    assert!(document.contains("samples by way of others"), "the report says how many there are");
    shows_no_token(&out, &shown, &google);
    // The GPU's gauge looks back for a second, and the adapter's collector asks once a second.
    std::thread::sleep(Duration::from_secs(4));
    doctor_finds_all_well(common);
}

fn shows_no_token(out: &Path, shown: &str, google: &Double) {
    assert!(google.tokens.load(Ordering::SeqCst) >= 2, "a token was renewed during the run");
    assert!(!shown.contains("tokenverysecret"), "{shown}");
    let mut folders: Vec<PathBuf> = vec![out.to_owned()];
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
            } else {
                let text = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
                assert!(!text.contains("tokenverysecret"), "{}", path.display());
            }
        }
    }
}

fn doctor_finds_all_well(common: impl Fn(&mut Command)) {
    let mut command = calibrate(&["doctor", "--json"]);
    common(&mut command);
    let output = command.output().unwrap();
    let document: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", said(&output)));
    assert_eq!(output.status.code(), Some(0), "{document:#}");
    let checks = document["checks"].as_array().unwrap();
    assert!(checks.len() >= 8, "{document:#}");
    assert!(
        checks.iter().any(|check| check["what"] == "custom-metrics and the direct scrape"),
        "{document:#}"
    );
}

#[test]
fn doctor_says_what_is_wrong_and_how_to_mend_it() {
    let server = doubles::tgi();
    doubles::touch(&server.url);
    let kubernetes = Double::serve(|path, _, _| {
        if path.contains("external") {
            Reply {
                status: 403,
                ..Reply::json(
                    &json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 403, "reason": "Forbidden",
            "message": "gpu is forbidden: User \"me\" cannot list resource"}),
                )
            }
        } else {
            Reply::json(
                &json!({"kind": "MetricValueList", "apiVersion": "custom.metrics.k8s.io/v1beta2", "metadata": {}, "items": [
            {"describedObject": {"kind": "Pod", "name": "a"}, "timestamp": jiff::Timestamp::now().to_string(), "value": "90", "metric": {"name": "x"}}]}),
            )
        }
    });
    let lost = Arc::new(AtomicUsize::new(0));
    let directory = TempDir::new().unwrap();
    let output = calibrate(&["doctor", "--json", "--target", &server.url, "--replicas", "2"])
        .args(["--gpu-metrics-url", "http://127.0.0.1:1/metrics", "--prometheus", "http://127.0.0.1:1"])
        .args(["--custom-metric", "queue_size", "--external-metric", "gpu_util", "--cluster-name", "c"])
        .env("KUBECONFIG", doubles::kubeconfig(directory.path(), &kubernetes.url))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    let failed: Vec<&Value> =
        document["checks"].as_array().unwrap().iter().filter(|c| c["state"] == "failed").collect();
    let expect = |what: &str, detail: &str, mend: &str| {
        let found = failed.iter().any(|check| {
            let field = |name: &str| check[name].as_str().unwrap_or_default().to_owned();
            field("what").contains(what) && field("detail").contains(detail) && field("mend").contains(mend)
        });
        assert!(found, "{what}: {detail}\n{document:#}");
        lost.fetch_add(1, Ordering::SeqCst);
    };
    expect("--gpu-metrics-url", "refused", "look at the address");
    expect("--prometheus", "refused", "look at the address");
    expect("--external-metric", "forbidden", "grant get and list");
    expect("--custom-metric", "1 of 2 replicas lack queue_size", "selector");
    expect(
        "custom-metrics and the direct scrape",
        "queue_size is 90 there and 0 here",
        "ask again without load",
    );
    assert_eq!(failed.len(), lost.load(Ordering::SeqCst), "{document:#}");
    let nothing = calibrate(&["doctor", "--target", "http://127.0.0.1:1", "--json"]).output().unwrap();
    assert_eq!(nothing.status.code(), Some(1), "{}", said(&nothing));
}

#[test]
fn with_the_server_down_the_sources_are_looked_at_and_what_cannot_be_asked_has_a_mend() {
    let server = doubles::tgi();
    let directory = TempDir::new().unwrap();
    let down = calibrate(&["doctor", "--target", "http://127.0.0.1:1", "--server", "vllm", "--json"])
        .args(["--gpu-metrics-url", &format!("{}/gpu/metrics", server.url), "--custom-metric", "queue_size"])
        .env("KUBECONFIG", directory.path().join("none"))
        .output()
        .unwrap();
    let document: Value = serde_json::from_slice(&down.stdout).unwrap();
    let checks = document["checks"].as_array().unwrap();
    let of =
        |what: &str| checks.iter().find(|check| check["what"].as_str().unwrap().starts_with(what)).unwrap();
    assert_eq!(of("server")["state"], "failed", "{document:#}");
    assert_eq!(of("--gpu-metrics-url")["state"], "ok", "{document:#}");
    assert!(of("--custom-metric")["mend"].as_str().unwrap().contains("KUBECONFIG"), "{document:#}");
}

#[test]
fn a_body_of_ten_megabytes_is_read() {
    let line =
        |i: usize| format!("vllm:num_requests_waiting{{engine=\"{i}\",note=\"a, b \\\"c\\\" }} \\\\\"}} 1\n");
    let mut text: String = (0..1000).map(line).collect();
    while text.len() < 10 * 1024 * 1024 {
        text.push_str("vllm:e2e_request_latency_seconds_bucket{le=\"0.00022500000000000002\"} +Inf # {trace_id=\"x\"} 0.5\n");
    }
    text.push_str("# EOF\n");
    let shown = exposition::parse(&text).unwrap();
    let mut sample =
        Sample::new(calibrate::units::Seconds(0.0), calibrate::units::Seconds(0.0), Source::Server, 0);
    Profile::built_in("vllm").unwrap().read(&shown, &mut sample);
    assert_eq!(sample.get(Series::QueueSize), Some(1000.0));
}
