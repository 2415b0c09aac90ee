//! The load engine against servers that do everything wrong: each request has exactly one outcome, of
//! the right kind, and nothing hangs.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use calibrate::drive::{
    Engine, EngineConfig, PromptMaker, Sink, StepDriven, StopLevel, Target, Wire, client_builder, probe,
};
use calibrate::measurement::{Event, FailureKind, Load, RequestOutcome, RunClock};
use calibrate::plan::{Api, RequestSize, RequestSource, Schedule, Spacing, Step};
use calibrate::scenario::SizeSpec;
use calibrate::units::{Rate, Seconds};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{MutexGuard, watch};

/// What the server does with a generation.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    None,
    Slow,
    SlowHeaders,
    ResetAtOnce,
    ResetInMidStream,
    ResetAfterTheEnd,
    HalfAnEvent,
    NoHttp,
    NoEvents,
    Garbage,
    NoChunking,
    HugeEvent,
    EndlessLine,
    EndlessTokens,
    EndlessComments,
    StallBeforeHeaders,
    StallAfterToken,
    /// As TGI does after 1024 tokens, when it queues the request anew.
    PausesInMidStream,
    Overloaded,
    OverloadedStatus,
    FailsInMidStream,
    Redirect,
    Empty,
}

const HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
const TOKEN: &str = "data: {\"index\":1,\"token\":{\"id\":5,\"text\":\" a\",\"logprob\":-0.5,\"special\":false},\"generated_text\":null,\"details\":null}\n\n";
const LAST: &str = "data: {\"index\":2,\"token\":{\"id\":7,\"text\":\" b\",\"logprob\":-0.5,\"special\":false},\"generated_text\":\" a b\",\"details\":{\"finish_reason\":\"length\",\"generated_tokens\":2,\"seed\":null,\"input_length\":3}}\n\n";
const END: &str = "0\r\n\r\n";

fn chunk(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}

async fn server(fault: Fault) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                while let Some(request) = read_request(&mut stream).await {
                    let done = if request.starts_with("GET /info") {
                        let info = "{\"model_id\":\"x\"}";
                        let length = info.len();
                        let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json";
                        say(&mut stream, &format!("{head}\r\ncontent-length: {length}\r\n\r\n{info}")).await
                    } else {
                        answer(&mut stream, fault).await
                    };
                    if done.is_none() {
                        return;
                    }
                }
            });
        }
    });
    format!("http://{address}")
}

async fn read_request(stream: &mut TcpStream) -> Option<String> {
    let mut read = Vec::new();
    loop {
        if stream.read_buf(&mut read).await.ok()? == 0 {
            return None;
        }
        let text = String::from_utf8_lossy(&read).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head
            .to_lowercase()
            .split_once("content-length: ")
            .map_or(0, |(_, rest)| rest.lines().next().unwrap().trim().parse().unwrap());
        if body.len() >= length {
            return Some(text);
        }
    }
}

/// `None`: the connection is to be closed, or was.
async fn say(stream: &mut TcpStream, text: &str) -> Option<()> {
    stream.write_all(text.as_bytes()).await.ok()
}

async fn say_for_ever(stream: &mut TcpStream, text: &str, pause: Duration) -> Option<()> {
    loop {
        say(stream, text).await?;
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
    }
}

#[allow(clippy::too_many_lines, reason = "one arm for each fault")]
async fn answer(stream: &mut TcpStream, fault: Fault) -> Option<()> {
    let whole = [HEAD, &chunk(TOKEN), &chunk(LAST), END].concat();
    let error = |text: &str| [HEAD, &chunk(TOKEN), &chunk(&format!("data: {text}\n\n")), END].concat();
    match fault {
        Fault::None => say(stream, &whole).await,
        Fault::Slow => {
            say(stream, HEAD).await?;
            tokio::time::sleep(Duration::from_millis(300)).await;
            say(stream, &[&chunk(TOKEN), &chunk(LAST), END].concat()).await
        }
        Fault::SlowHeaders => {
            for byte in whole.as_bytes().iter().take(60) {
                stream.write_all(&[*byte]).await.ok()?;
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            say(stream, &whole[60..]).await
        }
        Fault::ResetAtOnce => None,
        Fault::ResetInMidStream => {
            say(stream, &[HEAD, &chunk(TOKEN)].concat()).await?;
            None
        }
        Fault::ResetAfterTheEnd => {
            say(stream, &[HEAD, &chunk(TOKEN), &chunk(LAST)].concat()).await?;
            tokio::time::sleep(Duration::from_millis(20)).await;
            None
        }
        Fault::HalfAnEvent => say(stream, &[HEAD, &chunk(TOKEN), &chunk(&LAST[..60]), END].concat()).await,
        Fault::NoHttp => {
            say(stream, "SSH-2.0-OpenSSH_9.2\r\n").await?;
            None
        }
        Fault::NoEvents => {
            say(stream, "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 5\r\n\r\nhello").await
        }
        Fault::Garbage => say(stream, &error("{\"no\": [\"thing\", {\"known\": \u{1F980}}]}")).await,
        Fault::NoChunking => say(stream, &[HEAD, "zzzz\r\nhello"].concat()).await,
        Fault::HugeEvent => {
            let huge = TOKEN.replace(" a", &"a".repeat(10_000_000));
            say(stream, &[HEAD, &chunk(&huge), &chunk(LAST), END].concat()).await
        }
        Fault::EndlessLine => {
            say(stream, HEAD).await?;
            say_for_ever(stream, &chunk(&"x".repeat(1 << 20)), Duration::ZERO).await
        }
        Fault::EndlessTokens => {
            say(stream, HEAD).await?;
            say_for_ever(stream, &chunk(&TOKEN.repeat(100)), Duration::ZERO).await
        }
        Fault::EndlessComments => {
            say(stream, &[HEAD, &chunk(TOKEN)].concat()).await?;
            say_for_ever(stream, &chunk(":\n\n"), Duration::from_millis(50)).await
        }
        Fault::StallBeforeHeaders => std::future::pending().await,
        Fault::StallAfterToken => {
            say(stream, &[HEAD, &chunk(TOKEN)].concat()).await?;
            std::future::pending().await
        }
        Fault::PausesInMidStream => {
            say(stream, &[HEAD, &chunk(TOKEN)].concat()).await?;
            tokio::time::sleep(Duration::from_millis(300)).await;
            say(stream, &[&chunk(TOKEN), &chunk(LAST), END].concat()).await
        }
        Fault::Overloaded => {
            let event = "data: {\"error\":\"Model is overloaded\",\"error_type\":\"overloaded\"}\n\n";
            say(stream, &[HEAD, &chunk(event), END].concat()).await
        }
        Fault::OverloadedStatus => {
            say(stream, "HTTP/1.1 429 Too Many Requests\r\ncontent-length: 4\r\n\r\nbusy").await
        }
        Fault::FailsInMidStream => {
            say(
                stream,
                &error("{\"error\":\"Request failed during generation: x\",\"error_type\":\"generation\"}"),
            )
            .await
        }
        Fault::Redirect => say(
            stream,
            "HTTP/1.1 307 Temporary Redirect\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n",
        )
        .await,
        Fault::Empty => say(stream, &[HEAD, END].concat()).await,
    }
}

#[derive(Default)]
struct Log {
    outcomes: Mutex<Vec<RequestOutcome>>,
    events: Mutex<Vec<Event>>,
    gaps_us: Mutex<Vec<u32>>,
    /// Whether the first outcome makes the sink panic.
    panics: bool,
}

impl Sink for Log {
    fn request(&self, outcome: RequestOutcome, gaps_us: Vec<u32>) {
        self.gaps_us.lock().unwrap().extend(gaps_us);
        let first = {
            let mut outcomes = self.outcomes.lock().unwrap();
            outcomes.push(outcome);
            outcomes.len() == 1
        };
        assert!(!(self.panics && first), "the sink was told to");
    }

    fn event(&self, event: Event) {
        self.events.lock().unwrap().push(event);
    }
}

/// An engine under test. goose ends all its users of a process at once, so there is one at a time.
struct Bed {
    engine: Engine,
    log: Arc<Log>,
    stop: watch::Sender<StopLevel>,
    clock: RunClock,
    schedule: Schedule,
    _alone: MutexGuard<'static, ()>,
}

static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

fn target(url: &str, timeout: f64) -> Target {
    let wire = Wire { api: Api::Generate, stream: true, declared_output: None, timeout: Seconds(timeout) };
    Target::new(url, wire, client_builder().build().unwrap()).unwrap()
}

impl Bed {
    async fn new(url: &str, workers: u32) -> Bed {
        Bed::with(url, workers, Arc::default()).await
    }

    async fn with(url: &str, workers: u32, log: Arc<Log>) -> Bed {
        let alone = ALONE.lock().await;
        let clock = RunClock::start();
        let (stop, changes) = watch::channel(StopLevel::Run);
        let config = EngineConfig {
            target: target(url, 0.5),
            prompts: PromptMaker::uncalibrated(1, 0),
            max_in_flight: workers,
            first_id: 0,
            clock,
            stop: changes,
        };
        let schedule = Schedule {
            seed: 1,
            spacing: Spacing::Constant,
            requests: RequestSource::Specs(SizeSpec::Fixed(5), SizeSpec::Fixed(2)),
            trace: None,
        };
        let engine = Engine::start(config, Arc::clone(&log) as Arc<dyn Sink>).await.unwrap();
        Bed { engine, log, stop, clock, schedule, _alone: alone }
    }

    async fn drive(&self, load: Load, seconds: f64) -> StepDriven {
        let step = Step {
            index: 0,
            place: 0,
            load,
            offset: Seconds::ZERO,
            warm_up: Seconds::ZERO,
            length: Seconds(seconds),
        };
        self.engine.drive(step, self.schedule.work(&step)).await
    }

    async fn drain(&self, seconds: f64) -> bool {
        self.engine.drain(self.clock.now() + Seconds(seconds)).await
    }

    /// Ends everything; every request that was dispatched must have exactly one outcome.
    async fn end(self) -> (Vec<RequestOutcome>, Vec<Event>) {
        self.engine.close_loop();
        self.stop.send_replace(StopLevel::Abort);
        self.engine.shutdown().await.unwrap();
        let mut outcomes = self.log.outcomes.lock().unwrap().clone();
        outcomes.sort_by_key(|outcome| outcome.id);
        let ids: Vec<u64> = outcomes.iter().map(|outcome| outcome.id).collect();
        assert_eq!(ids, (0..ids.len() as u64).collect::<Vec<_>>(), "none is lost and none doubled");
        let events = self.log.events.lock().unwrap().clone();
        let dispatched: u64 = events
            .iter()
            .filter_map(|event| match event {
                Event::StepEnded { ids, .. } => ids.map(|(from, to)| to - from),
                _ => None,
            })
            .sum();
        assert_eq!(ids.len() as u64, dispatched);
        (outcomes, events)
    }
}

fn rate(rate: f64) -> Load {
    Load::Rate(Rate(rate))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_fault_is_an_outcome_of_its_kind() {
    let expected = [
        (Fault::None, None),
        (Fault::SlowHeaders, None),
        (Fault::ResetAfterTheEnd, None),
        (Fault::HugeEvent, None),
        (Fault::ResetAtOnce, Some(FailureKind::Truncated)),
        (Fault::ResetInMidStream, Some(FailureKind::Truncated)),
        (Fault::HalfAnEvent, Some(FailureKind::Truncated)),
        (Fault::NoHttp, Some(FailureKind::Truncated)),
        (Fault::NoChunking, Some(FailureKind::Truncated)),
        (Fault::Empty, Some(FailureKind::Truncated)),
        (Fault::NoEvents, Some(FailureKind::Malformed)),
        (Fault::Garbage, Some(FailureKind::Malformed)),
        (Fault::EndlessLine, Some(FailureKind::Malformed)),
        (Fault::EndlessTokens, Some(FailureKind::Malformed)),
        (Fault::EndlessComments, Some(FailureKind::Timeout)),
        (Fault::StallBeforeHeaders, Some(FailureKind::Timeout)),
        (Fault::StallAfterToken, Some(FailureKind::Timeout)),
        (Fault::Overloaded, Some(FailureKind::Overloaded)),
        (Fault::OverloadedStatus, Some(FailureKind::Overloaded)),
        (Fault::FailsInMidStream, Some(FailureKind::StreamError)),
        (Fault::Redirect, Some(FailureKind::ClientError)),
    ];
    for (fault, kind) in expected {
        let bed = Bed::new(&server(fault).await, 16).await;
        bed.drive(rate(10.0), 0.4).await;
        assert!(bed.drain(20.0).await, "{fault:?} hangs");
        let (outcomes, _) = bed.end().await;
        assert_eq!(outcomes.len(), 4, "{fault:?}");
        for outcome in &outcomes {
            assert_eq!(outcome.error, kind, "{fault:?}: {outcome:?}");
            assert!(outcome.sent.is_some() && outcome.ended >= outcome.sent, "{outcome:?}");
            let tokens = match fault {
                Fault::None | Fault::SlowHeaders | Fault::HugeEvent | Fault::ResetAfterTheEnd => Some(2),
                _ => None,
            };
            assert_eq!(outcome.output_tokens, tokens, "{fault:?}");
        }
    }
}

#[tokio::test]
async fn no_server_is_a_failure_to_connect() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let bed = Bed::new(&format!("http://127.0.0.1:{port}"), 4).await;
    bed.drive(rate(20.0), 0.3).await;
    assert!(bed.drain(5.0).await);
    assert!(bed.end().await.0.iter().all(|outcome| outcome.error == Some(FailureKind::Connect)));
}

#[tokio::test]
async fn the_probe_ends_on_a_server_that_only_sends_comments() {
    let target = target(&server(Fault::EndlessComments).await, 0.3);
    let raw = PromptMaker::uncalibrated(1, 0);
    let size = RequestSize { input: 5, output: 2 };
    let probing = probe(&target, RunClock::start(), raw, false, size);
    let probed = tokio::time::timeout(Duration::from_secs(20), probing).await.expect("it ends");
    assert!(probed.unwrap_err().to_string().contains("no event for"));
}

#[tokio::test]
async fn a_pause_in_mid_stream_is_a_gap_between_tokens_and_no_failure() {
    let bed = Bed::new(&server(Fault::PausesInMidStream).await, 4).await;
    bed.drive(rate(10.0), 0.1).await;
    assert!(bed.drain(5.0).await);
    let log = Arc::clone(&bed.log);
    let (outcomes, _) = bed.end().await;
    assert_eq!((outcomes.len(), outcomes[0].error, outcomes[0].chunks), (1, None, 3));
    let gaps = log.gaps_us.lock().unwrap().clone();
    assert_eq!(gaps.len(), 2);
    assert!((290_000..3_000_000).contains(&gaps[0]) && gaps[1] < 290_000, "{gaps:?}");
}

#[tokio::test]
async fn comments_do_not_move_the_end_of_an_answer() {
    let bed = Bed::new(&server(Fault::EndlessComments).await, 4).await;
    bed.drive(rate(10.0), 0.2).await;
    assert!(bed.drain(10.0).await);
    for outcome in bed.end().await.0 {
        let (first, last) = (outcome.first_token.unwrap(), outcome.last_token.unwrap());
        assert_eq!(first, last, "only one event came");
        assert!((outcome.ended.unwrap() - last).0 > 0.3, "and the attempt went on");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_loop_against_a_server_that_refuses_does_not_spin() {
    let bed = Bed::new(&server(Fault::Overloaded).await, 32).await;
    bed.drive(Load::Concurrency(32), 2.0).await;
    let attempts = bed.end().await.0.len();
    // 32 clients that wait 100, 200, 400, 800 ms: at most five attempts each in two seconds.
    assert!((64..=32 * 6).contains(&attempts), "{attempts}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_are_added_as_needed_and_beyond_the_limit_late_starts_are_counted() {
    let slow = server(Fault::Slow).await;
    let bed = Bed::new(&slow, 2000).await;
    bed.drive(Load::Concurrency(600), 1.0).await;
    bed.engine.close_loop();
    assert!(bed.drain(10.0).await);
    let (outcomes, events) = bed.end().await;
    assert!(outcomes.len() >= 1200, "{}", outcomes.len());
    assert!(!events.iter().any(|event| matches!(event, Event::PoolExhausted { .. })), "there was room");

    let bed = Bed::new(&slow, 4).await;
    bed.drive(rate(100.0), 1.0).await;
    assert!(bed.drain(30.0).await);
    let (outcomes, events) = bed.end().await;
    let late: u64 = events
        .iter()
        .map(|event| if let Event::PoolExhausted { late_starts, .. } = event { *late_starts } else { 0 })
        .sum();
    assert!(late > 80, "4 workers of 0.3 s carry 13 of 100 arrivals a second: {late}");
    let worst = outcomes.iter().filter_map(RequestOutcome::schedule_delay).map(|d| d.0).fold(0.0, f64::max);
    assert!(worst > 3.0, "the delay is not hidden: {worst}");
    assert!(outcomes.iter().all(|outcome| outcome.ttft().unwrap() >= outcome.schedule_delay().unwrap()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_a_worker_at_an_abort_was_never_sent() {
    let bed = Bed::new(&server(Fault::StallBeforeHeaders).await, 4).await;
    bed.drive(rate(100.0), 0.3).await;
    let (outcomes, _) = bed.end().await;
    assert_eq!(outcomes.len(), 30);
    assert!(outcomes.iter().all(|outcome| outcome.error == Some(FailureKind::Stopped)));
    assert_eq!(outcomes.iter().filter(|outcome| outcome.sent.is_some()).count(), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_were_cut_off_leave_room_for_the_next_step() {
    let bed = Bed::new(&server(Fault::StallBeforeHeaders).await, 8).await;
    bed.drive(rate(40.0), 0.2).await;
    assert!(!bed.drain(0.1).await);
    bed.engine.cut_off().await;
    assert_eq!(bed.engine.in_flight(), 0);
    bed.drive(rate(20.0), 0.2).await;
    let (outcomes, _) = bed.end().await;
    assert_eq!(outcomes.len(), 12);
    assert!(outcomes[8..].iter().all(|outcome| outcome.schedule_delay().unwrap().0 < 0.1), "{outcomes:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_costs_neither_a_worker_nor_the_count() {
    let log = Arc::new(Log { panics: true, ..Log::default() });
    let bed = Bed::with(&server(Fault::None).await, 2, log).await;
    bed.drive(rate(20.0), 0.5).await;
    assert!(bed.drain(5.0).await);
    let (outcomes, _) = bed.end().await;
    assert_eq!(outcomes.len(), 10);
    assert!(outcomes.iter().all(RequestOutcome::is_ok));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stops_at_any_moment_neither_lose_nor_double_a_request() {
    let slow = server(Fault::Slow).await;
    for round in 0..12_u64 {
        let bed = Bed::new(&slow, 16).await;
        let stop = bed.stop.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(20 + 37 * round % 400)).await;
            stop.send_replace(StopLevel::NoNewRequests);
            tokio::time::sleep(Duration::from_millis(53 * round % 200)).await;
            stop.send_replace(StopLevel::Abort);
        });
        let load = if round % 2 == 0 { rate(200.0) } else { Load::Concurrency(12) };
        bed.drive(load, 0.5).await;
        let kinds: BTreeSet<Option<FailureKind>> = bed.end().await.0.iter().map(|o| o.error).collect();
        assert!(kinds.iter().all(|kind| matches!(kind, None | Some(FailureKind::Stopped))), "{kinds:?}");
    }
}
