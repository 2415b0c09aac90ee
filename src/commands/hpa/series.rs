//! A recorded metric out of a CSV file.

use crate::commands::input::{read_text, shown};
use crate::hpa::{Column, HpaSpec, Quantity, Series};
use crate::units::{Milli, Seconds};
use anyhow::{Context, anyhow, bail};
use csv::StringRecord;
use jiff::Timestamp;
use std::path::Path;

/// A series, and what the times in it count from.
pub(super) struct SeriesFile {
    pub(super) series: Series,
    /// The first time, where the file holds dates. Else its times are its own seconds.
    pub(super) start: Option<Timestamp>,
    /// What was sorted or replaced.
    pub(super) remarks: Vec<String>,
}

/// The sum over all pods or series of an HPA's only metric.
const TOTAL: &str = "value";

/// Reads `time,value`, or a column per pod. Columns of several metrics are called `METRIC` or `METRIC@POD`.
pub(super) fn read_series(path: &Path, spec: &HpaSpec) -> anyhow::Result<SeriesFile> {
    let text = read_text(path)?;
    Rows { file: shown(path), start: None, nan: 0, read: Vec::new() }.read(&text, spec)
}

/// One row: its line, its time, its cells.
type Row = (u64, Seconds, Vec<Option<Milli>>);

struct Rows {
    file: String,
    start: Option<Timestamp>,
    nan: usize,
    read: Vec<Row>,
}

impl Rows {
    fn read(mut self, text: &str, spec: &HpaSpec) -> anyhow::Result<SeriesFile> {
        let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(text.as_bytes());
        let header = reader.headers().with_context(|| format!("{} cannot be read", self.file))?.clone();
        let columns = self.columns(&header, spec)?;
        let mut record = StringRecord::new();
        while reader.read_record(&mut record).with_context(|| format!("{} cannot be read", self.file))? {
            let line = record.position().map_or(0, csv::Position::line);
            let time = self.time(record.get(0).unwrap_or_default(), line)?;
            let cells = (1..header.len()).map(|index| {
                self.cell(record.get(index).unwrap_or_default(), line, header.get(index).unwrap_or_default())
            });
            let cells = cells.collect::<anyhow::Result<Vec<_>>>()?;
            self.read.push((line, time, cells));
        }
        if self.read.is_empty() {
            bail!("{} holds no rows; expected lines like 0,12 below time,value", self.file);
        }
        let remarks = self.sort()?;
        let cells = |index: usize| self.read.iter().map(|row| row.2[index]).collect();
        let columns = columns.into_iter().enumerate();
        let columns = columns.map(|(index, (metric, total))| Column { metric, total, cells: cells(index) });
        let series =
            Series { columns: columns.collect(), times: self.read.iter().map(|row| row.1).collect() };
        Ok(SeriesFile { series, start: self.start, remarks })
    }

    /// To which metric each column belongs, and whether it is a total.
    fn columns(&self, header: &StringRecord, spec: &HpaSpec) -> anyhow::Result<Vec<(usize, bool)>> {
        let file = &self.file;
        let names: Vec<&str> =
            spec.metrics.iter().filter_map(|metric| metric.resolve().ok()).map(|(_, name, _)| name).collect();
        let first = header.get(0).unwrap_or_default().to_lowercase();
        if !["time", "timestamp", "t"].contains(&first.as_str()) || header.len() < 2 {
            bail!("{file}:1: the first line must name the columns: time, then value, or one column per pod");
        }
        let place = |name: &str| names.iter().position(|known| *known == name || short(known) == name);
        let mut columns = Vec::new();
        for (index, column) in header.iter().enumerate().skip(1) {
            if header.iter().take(index).any(|earlier| earlier == column) {
                bail!("{file}:1: two columns are called '{column}'; give each pod a name of its own");
            }
            let of_pod = column.split_once('@').and_then(|(name, _)| place(name));
            let belongs = match (place(column), of_pod, names.len()) {
                (Some(metric), _, _) => (metric, true),
                (None, Some(metric), _) => (metric, false),
                (None, None, 1) => (0, column.eq_ignore_ascii_case(TOTAL)),
                _ => bail!(
                    "{file}:1: the HPA has several metrics, and column '{column}' names none; call it METRIC for \
                     the total or METRIC@POD, of {}",
                    names.iter().map(|name| short(name)).collect::<Vec<_>>().join(", ")
                ),
            };
            columns.push(belongs);
        }
        for (metric, name) in names.iter().enumerate() {
            let of = columns.iter().filter(|column| column.0 == metric);
            let (all, totals) = (of.clone().count(), of.filter(|column| column.1).count());
            if all == 0 {
                bail!("{file}:1: no column holds the HPA's metric {name}; call it {}", short(name));
            }
            if totals > 0 && all > 1 {
                bail!("{file}:1: metric {name} has a total and other columns; keep the total or the others");
            }
        }
        Ok(columns)
    }

    fn time(&mut self, text: &str, line: u64) -> anyhow::Result<Seconds> {
        let first = self.read.is_empty();
        if let Some(seconds) = text.parse::<f64>().ok().filter(|seconds| seconds.is_finite()) {
            if self.start.is_none() {
                return Ok(Seconds(seconds));
            }
        } else if let Ok(date) = text.parse::<Timestamp>()
            && (first || self.start.is_some())
        {
            let start = *self.start.get_or_insert(date);
            return Ok(Seconds(date.duration_since(start).as_secs_f64()));
        }
        let seconds_or = if first || self.start.is_none() { "seconds like 15, or " } else { "" };
        bail!(
            "{}:{line}: '{text}' is no time; expected {seconds_or}a date like 2026-11-25T10:00:00Z",
            self.file
        )
    }

    /// A value as the metrics API would give it. Nothing is no value. prometheus-adapter hands NaN on as 0.
    fn cell(&mut self, text: &str, line: u64, column: &str) -> anyhow::Result<Option<Milli>> {
        if text.is_empty() {
            return Ok(None);
        }
        if text.eq_ignore_ascii_case("nan") {
            self.nan += 1;
            return Ok(Some(Milli(0)));
        }
        let quantity: Quantity = text.parse().map_err(|error| {
            anyhow!("{}:{line}: column {column}: {error}; leave it empty where there was none", self.file)
        })?;
        Ok(Some(quantity.milli()))
    }

    /// Sorts by time. Two rows of one time contradict each other.
    fn sort(&mut self) -> anyhow::Result<Vec<String>> {
        let mut remarks = Vec::new();
        let file = &self.file;
        let early = self.read.windows(2).filter(|pair| pair[1].1 < pair[0].1).count();
        if early > 0 {
            remarks
                .push(format!("{file}: {early} rows are earlier than the one before them: all are sorted"));
            self.read.sort_by(|a, b| a.1.0.total_cmp(&b.1.0));
        }
        if let Some(pair) = self.read.windows(2).find(|pair| pair[0].1 == pair[1].1) {
            let (first, second) = (pair[0].0.min(pair[1].0), pair[0].0.max(pair[1].0));
            bail!("{file}:{second}: its time stands in line {first} already; keep one of the two rows");
        }
        if self.nan > 0 {
            let nan = self.nan;
            remarks.push(format!("{file}: NaN counts as 0, as prometheus-adapter hands it on: {nan} values"));
        }
        Ok(remarks)
    }
}

/// A metric's own name in that of an adapter: `tgi_queue_size` of
/// `prometheus.googleapis.com|tgi_queue_size|gauge`.
fn short(name: &str) -> &str {
    let mut parts = name.split('|');
    match parts.next() {
        Some("prometheus.googleapis.com") => parts.next().unwrap_or(name),
        _ => name.rsplit('|').next().unwrap_or(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn read(text: &str) -> anyhow::Result<SeriesFile> {
        let target = json!({ "type": "AverageValue", "averageValue": 20 });
        let metric =
            json!({ "type": "External", "external": { "metric": { "name": "m" }, "target": target } });
        let spec = serde_json::from_value(json!({ "maxReplicas": 5, "metrics": [metric] })).unwrap();
        Rows { file: "s.csv".to_owned(), start: None, nan: 0, read: Vec::new() }.read(text, &spec)
    }

    #[test]
    fn the_short_name_of_a_metric_is_its_own() {
        for (name, expected) in [
            ("prometheus.googleapis.com|tgi_queue_size|gauge", "tgi_queue_size"),
            ("kubernetes.io|container|accelerator|duty_cycle", "duty_cycle"),
            ("vllm:num_requests_waiting", "vllm:num_requests_waiting"),
            ("prometheus.googleapis.com", "prometheus.googleapis.com"),
        ] {
            assert_eq!(short(name), expected);
        }
    }

    proptest! {
        /// Whatever stands in the file, it is refused with its name, or its times rise.
        #[test]
        fn any_text_is_read_or_refused(rows in prop::collection::vec("[-0-9eNnaif.,TZ: ]{0,16}", 0..6), headed in prop::bool::ANY) {
            let text = format!("{}{}\n", if headed { "time,value\n" } else { "" }, rows.join("\n"));
            match read(&text) {
                Err(error) => prop_assert!(format!("{error:#}").contains("s.csv"), "{error:#}"),
                Ok(file) => {
                    prop_assert!(file.series.times.windows(2).all(|pair| pair[0] < pair[1]));
                    let length = file.series.times.len();
                    prop_assert!(file.series.columns.iter().all(|column| column.cells.len() == length));
                }
            }
        }
    }
}
