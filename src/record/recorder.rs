//! Writes records as they come, on a thread of its own, so that the load never waits for the disk.
//!
//! Records go through an unbounded channel: were the disk to fall behind, they would wait in memory
//! rather than slow down the load and falsify it. Once a second everything is flushed and synced.

use super::csv_format::{push_request, push_sample, request_header, sample_header};
use super::{RecordError, RunInfo, RunState, write_file};
use crate::measurement::{Event, Phase, RequestOutcome, Sample, StepIndex};
use crate::units::Seconds;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a record may wait for the disk.
const FLUSH: Duration = Duration::from_millis(900);

const ENDED_EARLY: &str = "the recorder ended early";

/// The latencies that have a log of their own, each in `latency/NAME.hlog`.
pub(super) const LATENCIES: [&str; 4] = ["ttft", "itl", "tpot", "e2e"];

enum Message {
    Request(Box<RequestOutcome>, Vec<u32>),
    Sample(Box<Sample>),
    Event(Event),
    Finish,
}

/// Takes records from anywhere. Never blocks.
#[derive(Debug, Clone)]
pub struct RecordHandle {
    sender: Sender<Message>,
}

impl RecordHandle {
    /// A request ended; `gaps_us` are its inter-token gaps in microseconds.
    pub fn request(&self, outcome: RequestOutcome, gaps_us: Vec<u32>) {
        self.send(Message::Request(Box::new(outcome), gaps_us));
    }

    /// A scrape.
    pub fn sample(&self, sample: Sample) {
        self.send(Message::Sample(Box::new(sample)));
    }

    /// An event.
    pub fn event(&self, event: Event) {
        self.send(Message::Event(event));
    }

    fn send(&self, message: Message) {
        // The recorder ends only after all load has; what comes later belongs to no run.
        let _ = self.sender.send(message);
    }
}

/// Owns a run directory that is being written.
#[derive(Debug)]
pub struct Recorder {
    directory: PathBuf,
    info: RunInfo,
    sender: Sender<Message>,
    thread: JoinHandle<()>,
    failure: Arc<Mutex<Failure>>,
}

/// What the disk refused first, and how many records came after it.
#[derive(Debug, Default)]
struct Failure {
    reason: Option<String>,
    lost: u64,
}

/// Looks whether a run may be recorded into a directory, before anything is done for it.
///
/// # Errors
/// There is something in it already, or it cannot be read.
pub fn must_be_free(directory: &Path) -> Result<(), RecordError> {
    let entries = std::fs::read_dir(directory);
    match entries.map(|mut entries| entries.next().is_none()) {
        Ok(true) => Ok(()),
        Ok(false) => Err(RecordError::NotEmpty(directory.to_owned())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(RecordError::disk("create", directory)(error)),
    }
}

impl Recorder {
    /// Makes the directory, writes `run.json` and the headers, and starts to record.
    ///
    /// # Errors
    /// A directory that holds something already or cannot be written.
    pub fn create(directory: &Path, info: RunInfo) -> Result<Recorder, RecordError> {
        std::fs::create_dir_all(directory).map_err(RecordError::disk("create", directory))?;
        let mut entries = std::fs::read_dir(directory).map_err(RecordError::disk("read", directory))?;
        // What is changed in a cluster is written down before anything else.
        let other = |entry: std::io::Result<std::fs::DirEntry>| {
            entry.is_ok_and(|entry| entry.file_name() != super::CLUSTER_CHANGES)
        };
        if entries.any(other) {
            return Err(RecordError::NotEmpty(directory.to_owned()));
        }
        std::fs::create_dir(directory.join("latency")).map_err(RecordError::disk("create", directory))?;
        write_info(directory, &info)?;
        Recorder::start(directory, info)
    }

    /// Opens a run that ended early and goes on recording to it. Torn last lines are cut off, since
    /// what is appended would merge with them.
    ///
    /// # Errors
    /// A run that another process is writing, files that cannot be written, or columns of another
    /// calibrate.
    pub fn resume(directory: &Path, info: RunInfo) -> Result<Recorder, RecordError> {
        let latency = directory.join("latency");
        std::fs::create_dir_all(&latency).map_err(RecordError::disk("create", &latency))?;
        let recorder = Recorder::start(
            directory,
            RunInfo { state: RunState::Running, reason: None, rows: BTreeMap::new(), ..info },
        )?;
        write_info(directory, &recorder.info)?;
        Ok(recorder)
    }

    fn start(directory: &Path, info: RunInfo) -> Result<Recorder, RecordError> {
        let files = Files::open(directory)?;
        let (sender, receiver) = channel();
        let failure = Arc::<Mutex<Failure>>::default();
        let shared = Arc::clone(&failure);
        let thread = std::thread::Builder::new()
            .name("recorder".to_owned())
            .spawn(move || record(files, &receiver, &shared))
            .map_err(RecordError::disk("write", directory))?;
        Ok(Recorder { directory: directory.to_owned(), info, sender, thread, failure })
    }

    /// A way to send records.
    pub fn handle(&self) -> RecordHandle {
        RecordHandle { sender: self.sender.clone() }
    }

    /// The first error of the disk, after which nothing more is written and records count as lost.
    pub fn failed(&self) -> Option<String> {
        let reason = self.failure.lock().unwrap_or_else(PoisonError::into_inner).reason.clone();
        reason.or_else(|| self.thread.is_finished().then(|| ENDED_EARLY.to_owned()))
    }

    /// Writes what is still on the way and says how the run ended. A run that lost records is
    /// interrupted, whatever `state` says.
    ///
    /// # Errors
    /// What the disk refused, now or before.
    pub fn finish(self, state: RunState, reason: Option<String>) -> Result<(), RecordError> {
        let _ = self.sender.send(Message::Finish);
        let panicked = self.thread.join().is_err();
        let failure = std::mem::take(&mut *self.failure.lock().unwrap_or_else(PoisonError::into_inner));
        let Some(problem) = failure.reason.or_else(|| panicked.then(|| ENDED_EARLY.to_owned())) else {
            let rows = rows(&self.directory);
            return write_info(&self.directory, &RunInfo { state, reason, rows, ..self.info });
        };
        let reason = format!("{problem}; up to {} records were lost", failure.lost);
        let info = RunInfo { state: RunState::Interrupted, reason: Some(reason.clone()), ..self.info };
        // The first refusal tells more than one that may follow from it.
        let _ = write_info(&self.directory, &info);
        Err(RecordError::Disk { what: "write", path: self.directory, reason: std::io::Error::other(reason) })
    }
}

fn write_info(directory: &Path, info: &RunInfo) -> Result<(), RecordError> {
    let path = directory.join(super::RUN);
    let text = serde_json::to_string_pretty(info)
        .map_err(|error| RecordError::disk("write", &path)(error.into()))?;
    write_file(&path, text.as_bytes())
}

/// The lines of each file, as far as it can be read.
fn rows(directory: &Path) -> BTreeMap<String, usize> {
    let lines = |name: &&str| {
        let bytes = std::fs::read(directory.join(name)).ok()?;
        Some(((*name).to_owned(), memchr::memchr_iter(b'\n', &bytes).count()))
    };
    ["requests.csv", "samples.csv", "events.jsonl", "latency/itl.hlog"].iter().filter_map(lines).collect()
}

/// The thread's work: takes records until it is told to finish, and keeps the disk up to date.
#[allow(clippy::disallowed_methods, reason = "when to flush is the recorder's own matter, no measurement")]
fn record(mut files: Files, messages: &Receiver<Message>, failure: &Mutex<Failure>) {
    let mut flushed = Instant::now();
    let (mut broken, mut waiting) = (false, 0);
    loop {
        let message = messages.recv_timeout(FLUSH.saturating_sub(flushed.elapsed()));
        let over = matches!(message, Ok(Message::Finish) | Err(RecvTimeoutError::Disconnected));
        match message {
            Ok(Message::Finish) | Err(_) => {}
            Ok(_) if broken => failure.lock().unwrap_or_else(PoisonError::into_inner).lost += 1,
            Ok(message) => {
                files.take(message);
                waiting += 1;
            }
        }
        if (over || flushed.elapsed() >= FLUSH) && !broken {
            if let Err(error) = files.flush() {
                // What is on disk stays readable; the run stops once it sees this.
                broken = true;
                *failure.lock().unwrap_or_else(PoisonError::into_inner) =
                    Failure { reason: Some(error), lost: waiting };
            }
            waiting = 0;
            flushed = Instant::now();
        }
        if over {
            return;
        }
    }
}

/// The open files, and what waits to be written to them.
struct Files {
    requests: Appended,
    samples: Appended,
    events: Appended,
    latencies: Vec<LatencyLog>,
    /// Held as long as the run is written.
    _lock: File,
}

struct Appended {
    name: &'static str,
    file: File,
    waiting: String,
}

impl Appended {
    /// Opens a file of lines that begins with `header`, which an empty one is given.
    fn open(directory: &Path, name: &'static str, header: &str) -> Result<Appended, RecordError> {
        let path = directory.join(name);
        let file = open_lines(&path)?;
        let mut appended = Appended { name, file, waiting: String::new() };
        let text = std::fs::read(&path).map_err(RecordError::disk("read", &path))?;
        if text.is_empty() {
            header.clone_into(&mut appended.waiting);
            appended.write().map_err(RecordError::disk("write", &path))?;
        } else if !text.starts_with(header.as_bytes()) {
            let problem =
                "its columns are those of another calibrate, so nothing can be added to it".to_owned();
            return Err(RecordError::Content { path, place: ":1".to_owned(), problem });
        }
        Ok(appended)
    }

    fn write(&mut self) -> std::io::Result<()> {
        self.file.write_all(self.waiting.as_bytes())?;
        self.waiting.clear();
        Ok(())
    }
}

/// Opens a file to append whole lines to it, without the torn line at its end.
fn open_lines(path: &Path) -> Result<File, RecordError> {
    let disk = RecordError::disk;
    let file = OpenOptions::new().create(true).append(true).open(path).map_err(disk("write", path))?;
    let bytes = std::fs::read(path).map_err(disk("read", path))?;
    let whole = memchr::memrchr(b'\n', &bytes).map_or(0, |at| at + 1);
    if whole < bytes.len() {
        file.set_len(whole as u64).map_err(disk("write", path))?;
    }
    Ok(file)
}

impl Files {
    fn open(directory: &Path) -> Result<Files, RecordError> {
        let path = directory.join("events.jsonl");
        let lock = OpenOptions::new().create(true).append(true).open(&path);
        let lock = lock.map_err(RecordError::disk("write", &path))?;
        if let Err(TryLockError::WouldBlock) = lock.try_lock() {
            return Err(RecordError::InUse(directory.to_owned()));
        }
        let latencies = LATENCIES.iter().map(|name| LatencyLog::open(directory, name));
        Ok(Files {
            requests: Appended::open(directory, "requests.csv", &request_header())?,
            samples: Appended::open(directory, "samples.csv", &sample_header())?,
            events: Appended::open(directory, "events.jsonl", "")?,
            _lock: lock,
            latencies: latencies.collect::<Result<_, _>>()?,
        })
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Request(outcome, gaps_us) => {
                push_request(&mut self.requests.waiting, &outcome);
                self.take_latencies(&outcome, &gaps_us);
            }
            Message::Sample(sample) => push_sample(&mut self.samples.waiting, &sample),
            Message::Event(event) => {
                if let Ok(line) = serde_json::to_string(&event) {
                    self.events.waiting.push_str(&line);
                    self.events.waiting.push('\n');
                }
            }
            Message::Finish => {}
        }
    }

    /// Latencies of the measured part only, of successful requests; gaps of all that had tokens.
    fn take_latencies(&mut self, outcome: &RequestOutcome, gaps_us: &[u32]) {
        if outcome.phase != Phase::Hold {
            return;
        }
        let of = |latency: Option<Seconds>| {
            latency.filter(|_| outcome.is_ok()).map(|s| (s.0 * 1e6).round() as u64)
        };
        let (ttft, tpot, e2e) = (of(outcome.ttft()), of(outcome.tpot()), of(outcome.e2e()));
        let end = outcome.last_token.or(outcome.sent).unwrap_or(outcome.scheduled);
        for log in &mut self.latencies {
            match log.name {
                "ttft" => log.record(outcome.step, end, ttft),
                "tpot" => log.record(outcome.step, end, tpot),
                "e2e" => log.record(outcome.step, end, e2e),
                _ => log.record(outcome.step, end, gaps_us.iter().map(|gap| u64::from(*gap))),
            }
        }
    }

    /// Everything is handed to the system before anything is synced, since a killed process loses
    /// only the former, and a slow disk makes the latter long. An error says which file.
    fn flush(&mut self) -> Result<(), String> {
        let named =
            |name: &str, result: std::io::Result<()>| result.map_err(|error| format!("{name}: {error}"));
        let mut texts = [&mut self.requests, &mut self.samples, &mut self.events];
        for text in &mut texts {
            named(text.name, text.write())?;
        }
        for log in &mut self.latencies {
            named(log.name, log.write())?;
        }
        for text in texts {
            named(text.name, text.file.sync_data())?;
        }
        self.latencies.iter().try_for_each(|log| named(log.name, log.file.sync_data()))
    }
}

/// An interval log of histograms in microseconds, each tagged with its step. All histograms of one
/// tag together are the step's.
struct LatencyLog {
    name: &'static str,
    file: File,
    begun: bool,
    waiting: BTreeMap<StepIndex, Interval>,
}

struct Interval {
    from: f64,
    to: f64,
    histogram: Histogram<u64>,
}

impl LatencyLog {
    fn open(directory: &Path, name: &'static str) -> Result<LatencyLog, RecordError> {
        let path = directory.join("latency").join(format!("{name}.hlog"));
        let file = open_lines(&path)?;
        let begun = file.metadata().map_err(RecordError::disk("read", &path))?.len() > 0;
        Ok(LatencyLog { name, file, begun, waiting: BTreeMap::new() })
    }

    fn record(&mut self, step: StepIndex, end: Seconds, values_us: impl IntoIterator<Item = u64>) {
        for value in values_us {
            if let std::collections::btree_map::Entry::Vacant(slot) = self.waiting.entry(step)
                && let Ok(histogram) = Histogram::new_with_bounds(1, u64::from(u32::MAX), 3)
            {
                slot.insert(Interval { from: end.0, to: end.0, histogram });
            }
            if let Some(interval) = self.waiting.get_mut(&step) {
                interval.histogram.saturating_record(value);
                interval.from = interval.from.min(end.0);
                interval.to = interval.to.max(end.0);
            }
        }
    }

    fn write(&mut self) -> std::io::Result<()> {
        if self.waiting.is_empty() && self.begun {
            return Ok(());
        }
        let mut text = Vec::new();
        self.render(&mut text).map_err(|error| std::io::Error::other(format!("{error:?}")))?;
        self.begun = true;
        self.waiting.clear();
        self.file.write_all(&text)
    }

    fn render(&self, text: &mut Vec<u8>) -> Result<(), Box<dyn std::fmt::Debug>> {
        let mut serializer = V2DeflateSerializer::new();
        let mut builder = IntervalLogWriterBuilder::new();
        if !self.begun {
            builder.add_comment(
                "calibrate latency log: microseconds; one histogram per flush and step, tag step-N",
            );
        }
        let boxed = |error: std::io::Error| -> Box<dyn std::fmt::Debug> { Box::new(error) };
        let mut writer = builder.begin_log_with(text, &mut serializer).map_err(boxed)?;
        for (step, interval) in &self.waiting {
            let tag = format!("step-{step}");
            let from = Duration::try_from_secs_f64(interval.from).unwrap_or_default();
            let length = Duration::try_from_secs_f64(interval.to - interval.from).unwrap_or_default();
            writer
                .write_histogram(&interval.histogram, from, length, Tag::new(&tag))
                .map_err(|error| -> Box<dyn std::fmt::Debug> { Box::new(format!("{error:?}")) })?;
        }
        Ok(())
    }
}
