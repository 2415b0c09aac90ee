//! `requests.csv` and `samples.csv`: one row per value, an empty cell where it is absent.

use crate::measurement::{FailureKind, Phase, RequestOutcome, Sample, Series, Source};
use crate::units::Seconds;
use std::collections::HashMap;
use std::fmt::Write;

/// The columns of `requests.csv` that a reader needs. Times are seconds from the origin.
pub(super) const REQUEST_COLUMNS: [&str; 13] = [
    "id",
    "step",
    "phase",
    "scheduled",
    "sent",
    "first_token",
    "last_token",
    "input_tokens",
    "output_tokens",
    "chunks",
    "status",
    "error",
    "replica",
];

/// Columns that older runs lack.
pub(super) const LATER_REQUEST_COLUMNS: [&str; 1] = ["ended"];

/// The first columns of `samples.csv`; one for each series follows.
pub(super) const SAMPLE_COLUMNS: [&str; 4] = ["time", "took", "source", "replica"];

/// Columns that older runs lack, last in the file.
pub(super) const LATER_SAMPLE_COLUMNS: [&str; 1] = ["arrived"];

/// The header line of `requests.csv`.
pub(super) fn request_header() -> String {
    REQUEST_COLUMNS.into_iter().chain(LATER_REQUEST_COLUMNS).collect::<Vec<_>>().join(",") + "\n"
}

/// The header line of `samples.csv`.
pub(super) fn sample_header() -> String {
    let series = Series::ALL.iter().map(|series| series.column());
    SAMPLE_COLUMNS.into_iter().chain(series).chain(LATER_SAMPLE_COLUMNS).collect::<Vec<_>>().join(",") + "\n"
}

/// A cell: nothing where there is nothing.
struct Cell<T>(Option<T>);

impl<T: std::fmt::Display> std::fmt::Display for Cell<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.as_ref().map_or(Ok(()), |value| value.fmt(f))
    }
}

fn time(value: Option<Seconds>) -> Cell<String> {
    Cell(value.map(|seconds| format!("{:.6}", seconds.0)))
}

/// Appends the row of a request.
pub(super) fn push_request(line: &mut String, request: &RequestOutcome) {
    let phase = match request.phase {
        Phase::WarmUp => "warm-up",
        Phase::Hold => "hold",
    };
    // Writing to a string cannot fail.
    let _ = writeln!(
        line,
        "{},{},{phase},{},{},{},{},{},{},{},{},{},{},{}",
        request.id,
        request.step,
        time(Some(request.scheduled)),
        time(request.sent),
        time(request.first_token),
        time(request.last_token),
        Cell(request.input_tokens),
        Cell(request.output_tokens),
        request.chunks,
        Cell(request.status),
        Cell(request.error.map(FailureKind::word)),
        Cell(request.replica),
        time(request.ended),
    );
}

/// Appends the row of a sample.
pub(super) fn push_sample(line: &mut String, sample: &Sample) {
    let _ = write!(
        line,
        "{},{},{},{}",
        time(Some(sample.time)),
        time(Some(sample.took)),
        sample.source.word(),
        sample.replica
    );
    for series in Series::ALL {
        let _ = write!(line, ",{}", Cell(sample.get(*series)));
    }
    let _ = writeln!(line, ",{}", time(Some(sample.arrived)));
}

/// A row by the names of its columns.
pub(super) struct Row<'a> {
    pub columns: &'a HashMap<String, usize>,
    pub record: &'a csv::StringRecord,
}

impl Row<'_> {
    fn cell(&self, column: &str) -> &str {
        self.columns.get(column).and_then(|index| self.record.get(*index)).unwrap_or_default()
    }

    /// A cell that may be empty.
    fn optional<T: std::str::FromStr>(&self, column: &str) -> Result<Option<T>, String> {
        match self.cell(column) {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|_| format!("column {column}: '{text}' is no such value")),
        }
    }

    fn needed<T: std::str::FromStr>(&self, column: &str) -> Result<T, String> {
        self.optional(column)?.ok_or_else(|| format!("column {column} is empty"))
    }

    fn seconds(&self, column: &str) -> Result<Option<Seconds>, String> {
        match self.optional::<f64>(column)? {
            Some(value) if !value.is_finite() => Err(format!("column {column}: {value} is no time")),
            value => Ok(value.map(Seconds)),
        }
    }

    fn word<T: Copy>(&self, column: &str, known: &[(&str, T)]) -> Result<T, String> {
        let word = self.cell(column);
        let found = known.iter().find(|(name, _)| *name == word).map(|(_, value)| *value);
        found.ok_or_else(|| format!("column {column}: '{word}' is none of the known words"))
    }
}

/// Reads a request.
pub(super) fn read_request(row: &Row) -> Result<RequestOutcome, String> {
    let kinds = FailureKind::ALL.map(|kind| (kind.word(), kind));
    Ok(RequestOutcome {
        id: row.needed("id")?,
        step: row.needed("step")?,
        phase: row.word("phase", &[("warm-up", Phase::WarmUp), ("hold", Phase::Hold)])?,
        scheduled: row.seconds("scheduled")?.ok_or("column scheduled is empty")?,
        sent: row.seconds("sent")?,
        first_token: row.seconds("first_token")?,
        last_token: row.seconds("last_token")?,
        ended: row.seconds("ended")?,
        input_tokens: row.optional("input_tokens")?,
        output_tokens: row.optional("output_tokens")?,
        chunks: row.needed("chunks")?,
        status: row.optional("status")?,
        error: if row.cell("error").is_empty() { None } else { Some(row.word("error", &kinds)?) },
        replica: row.optional("replica")?,
    })
}

/// Reads a sample. Series whose column is missing are absent.
pub(super) fn read_sample(row: &Row) -> Result<Sample, String> {
    let sources = Source::ALL.map(|source| (source.word(), source));
    let mut sample = Sample::new(
        row.seconds("time")?.ok_or("column time is empty")?,
        row.seconds("took")?.ok_or("column took is empty")?,
        row.word("source", &sources)?,
        row.needed("replica")?,
    );
    if let Some(arrived) = row.seconds("arrived")? {
        sample.arrived = arrived;
    }
    for series in Series::ALL {
        sample.set(*series, row.optional(series.column())?);
    }
    Ok(sample)
}
