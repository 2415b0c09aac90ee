//! Reads a run directory back, whatever happened to the run.

use super::csv_format::{
    LATER_REQUEST_COLUMNS, LATER_SAMPLE_COLUMNS, REQUEST_COLUMNS, Row, SAMPLE_COLUMNS, read_request,
    read_sample,
};
use super::{FORMAT, RecordError, RunInfo, RunState, VERSION};
use crate::measurement::{Event, GapInterval, RequestOutcome, Sample, Series, StepIndex};
use crate::units::Seconds;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::Deserializer;
use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};
use std::collections::{BTreeMap, HashMap};
use std::io::ErrorKind;
use std::path::Path;

/// A run as it was recorded.
#[derive(Debug, Clone)]
pub struct RecordedRun {
    /// `run.json`.
    pub info: RunInfo,
    /// `requests.csv`.
    pub requests: Vec<RequestOutcome>,
    /// `samples.csv`.
    pub samples: Vec<Sample>,
    /// `events.jsonl`.
    pub events: Vec<Event>,
    /// Inter-token gaps of the measured part of each step, microseconds: `latency/itl.hlog`.
    pub gaps: BTreeMap<StepIndex, Histogram<u64>>,
    /// What the reader had to pass over.
    pub remarks: Vec<String>,
}

/// Reads the run in `directory`.
///
/// # Errors
/// A directory that is no run, another format version, a file that holds something else than it
/// should. A torn last line is no error: it is left out, with a remark.
pub fn read(directory: &Path) -> Result<RecordedRun, RecordError> {
    let info = read_info(directory)?;
    let mut remarks = Vec::new();
    if info.state == RunState::Running {
        remarks.push("the run did not end by itself: it is still going on, or was killed".to_owned());
    }
    for (name, rows) in &info.rows {
        let now =
            std::fs::read(directory.join(name)).map_or(0, |bytes| memchr::memchr_iter(b'\n', &bytes).count());
        if now != *rows {
            remarks.push(format!("{name} has {now} lines, and had {rows} when the run ended"));
        }
    }
    let requests = read_csv(
        directory,
        "requests.csv",
        &REQUEST_COLUMNS,
        &LATER_REQUEST_COLUMNS,
        read_request,
        &mut remarks,
    )?;
    let series = Series::ALL.iter().map(|series| series.column());
    let series: Vec<&str> = series.chain(LATER_SAMPLE_COLUMNS).collect();
    let samples = read_csv(directory, "samples.csv", &SAMPLE_COLUMNS, &series, read_sample, &mut remarks)?;
    let events = read_events(directory, &mut remarks)?;
    let gaps = read_gaps(directory, &mut remarks)?;
    Ok(RecordedRun { info, requests, samples, events, gaps, remarks })
}

fn read_info(directory: &Path) -> Result<RunInfo, RecordError> {
    let path = directory.join(super::RUN);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Err(RecordError::NoRun(directory.to_owned()));
        }
        Err(error) => return Err(RecordError::disk("read", &path)(error)),
    };
    let content = |error: &serde_json::Error| RecordError::Content {
        path: path.clone(),
        place: String::new(),
        problem: error.to_string(),
    };
    let value: serde_json::Value = serde_json::from_str(&text).map_err(|error| content(&error))?;
    let said = |name: &str| {
        value.get(name).map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned))
    };
    let found = format!("{} {}", said("format").unwrap_or_default(), said("version").unwrap_or_default());
    let expected = format!("{FORMAT} {VERSION}");
    if found != expected {
        return Err(RecordError::Version { path, found, expected });
    }
    serde_json::from_str(&text).map_err(|error| content(&error))
}

/// The text of a file up to its last complete line; nothing where it is missing.
fn complete_lines(directory: &Path, name: &str, remarks: &mut Vec<String>) -> Result<String, RecordError> {
    let path = directory.join(name);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            remarks.push(format!("{name} is missing"));
            Vec::new()
        }
        Err(error) => return Err(RecordError::disk("read", &path)(error)),
    };
    let end = memchr::memrchr(b'\n', &bytes).map_or(0, |at| at + 1);
    if end < bytes.len() {
        remarks.push(format!("the last line of {name} is torn and left out"));
    }
    String::from_utf8(bytes[..end].to_vec()).map_err(|error| RecordError::Content {
        path,
        place: String::new(),
        problem: error.to_string(),
    })
}

fn read_csv<T>(
    directory: &Path,
    name: &str,
    needed: &[&str],
    optional: &[&str],
    read_row: fn(&Row) -> Result<T, String>,
    remarks: &mut Vec<String>,
) -> Result<Vec<T>, RecordError> {
    let text = complete_lines(directory, name, remarks)?;
    let content = |line: u64, problem: String| RecordError::Content {
        path: directory.join(name),
        place: format!(":{line}"),
        problem,
    };
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let header = reader.headers().map_err(|error| content(1, error.to_string()))?.clone();
    let columns: HashMap<String, usize> = header.iter().map(str::to_owned).zip(0..).collect();
    if columns.is_empty() || text.is_empty() {
        return Ok(Vec::new());
    }
    if let Some(missing) = needed.iter().find(|column| !columns.contains_key(**column)) {
        return Err(content(1, format!("the column {missing} is missing")));
    }
    for unknown in header.iter().filter(|column| !needed.contains(column) && !optional.contains(column)) {
        remarks.push(format!("{name} has a column {unknown} that is not known, and is passed over"));
    }
    let mut rows = Vec::new();
    for record in reader.records() {
        let line = |record: &csv::StringRecord| record.position().map_or(0, csv::Position::line);
        let record = record
            .map_err(|error| content(error.position().map_or(0, csv::Position::line), error.to_string()))?;
        rows.push(
            read_row(&Row { columns: &columns, record: &record })
                .map_err(|problem| content(line(&record), problem))?,
        );
    }
    Ok(rows)
}

fn read_events(directory: &Path, remarks: &mut Vec<String>) -> Result<Vec<Event>, RecordError> {
    let text = complete_lines(directory, "events.jsonl", remarks)?;
    let mut events = Vec::new();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.is_empty()) {
        events.push(serde_json::from_str(line).map_err(|error| RecordError::Content {
            path: directory.join("events.jsonl"),
            place: format!(":{}", index + 1),
            problem: error.to_string(),
        })?);
    }
    Ok(events)
}

const GAPS: &str = "latency/itl.hlog";

fn read_gaps(
    directory: &Path,
    remarks: &mut Vec<String>,
) -> Result<BTreeMap<StepIndex, Histogram<u64>>, RecordError> {
    let content = |problem: String| gaps_content(directory, problem);
    let mut gaps: BTreeMap<StepIndex, Histogram<u64>> = BTreeMap::new();
    for (step, _, histogram) in gap_histograms(directory, remarks)? {
        match gaps.entry(step) {
            std::collections::btree_map::Entry::Vacant(slot) => {
                // Intervals may differ in their range.
                slot.insert(histogram).auto(true);
            }
            std::collections::btree_map::Entry::Occupied(mut slot) => {
                slot.get_mut().add(&histogram).map_err(|error| content(format!("{error:?}")))?;
            }
        }
    }
    Ok(gaps)
}

/// Reads the inter-token gaps of the run in `directory` interval by interval.
///
/// # Errors
/// As [`read`].
pub fn read_gap_intervals(directory: &Path) -> Result<Vec<GapInterval>, RecordError> {
    let all = gap_histograms(directory, &mut Vec::new())?;
    let interval = |(step, (from, to), histogram): (StepIndex, (Seconds, Seconds), Histogram<u64>)| {
        let gaps = histogram.iter_recorded();
        let gaps = gaps.map(|gap| (Seconds(gap.value_iterated_to() as f64 / 1e6), gap.count_at_value()));
        GapInterval { step, from, to, gaps: gaps.collect() }
    };
    Ok(all.into_iter().map(interval).collect())
}

fn gaps_content(directory: &Path, problem: String) -> RecordError {
    RecordError::Content { path: directory.join(GAPS), place: String::new(), problem }
}

type GapHistogram = (StepIndex, (Seconds, Seconds), Histogram<u64>);

fn gap_histograms(directory: &Path, remarks: &mut Vec<String>) -> Result<Vec<GapHistogram>, RecordError> {
    let text = complete_lines(directory, GAPS, remarks)?;
    let content = |problem: String| gaps_content(directory, problem);
    let mut gaps = Vec::new();
    let mut deserializer = Deserializer::new();
    for entry in IntervalLogIterator::new(text.as_bytes()) {
        let LogEntry::Interval(interval) = entry.map_err(|error| content(format!("{error:?}")))? else {
            continue;
        };
        let step = interval.tag().and_then(|tag| tag.as_str().strip_prefix("step-")?.parse().ok());
        let step = step.ok_or_else(|| content("an interval has no tag step-N".to_owned()))?;
        let encoded =
            base64_decode(interval.encoded_histogram()).ok_or_else(|| content("no base64".to_owned()))?;
        let histogram: Histogram<u64> = deserializer
            .deserialize(&mut encoded.as_slice())
            .map_err(|error| content(format!("{error:?}")))?;
        let from = Seconds::from(interval.start_timestamp());
        gaps.push((step, (from, from + Seconds::from(interval.duration())), histogram));
    }
    Ok(gaps)
}

fn base64_decode(text: &str) -> Option<Vec<u8>> {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.decode(text).ok()
}
