//! Traffic from files: traces and series of rates.

use crate::plan::read_trace;
use crate::replay::{Traffic, TrafficSpec};
use crate::units::{Rate, Seconds};
use anyhow::{Context, anyhow};
use std::fs;
use std::path::Path;

/// The traffic, and what was left out of its file.
pub(in crate::commands) fn read(spec: &TrafficSpec) -> anyhow::Result<(Traffic, Vec<String>)> {
    match spec {
        TrafficSpec::Trace { path, speed } => {
            let bytes = fs::read(path).with_context(|| {
                format!("cannot read the trace {}; look at its path and permissions", path.display())
            })?;
            let trace = read_trace(path, &bytes)?;
            let offsets: Vec<Seconds> = trace.arrivals.iter().map(|arrival| arrival.offset).collect();
            let traffic = Traffic::of_arrivals(&offsets, *speed);
            Ok((traffic.with_context(|| path.display().to_string())?, trace.remarks))
        }
        TrafficSpec::Rates { path } => {
            let text = fs::read_to_string(path)
                .with_context(|| format!("cannot read the rates {}", path.display()))?;
            let series = rates(path, &text)?;
            Ok((Traffic::of_rates(&series).with_context(|| path.display().to_string())?, Vec::new()))
        }
        shape => Traffic::of_shape(shape).map(|traffic| (traffic, Vec::new())).context("no traffic"),
    }
}

/// The rows of a CSV with the columns `time` and `rate`.
fn rates(path: &Path, text: &str) -> anyhow::Result<Vec<(Seconds, Rate)>> {
    let file = path.display();
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(text.as_bytes());
    let header = reader.headers().with_context(|| format!("{file}: no CSV"))?.clone();
    let column = |name: &str| {
        header.iter().position(|column| column == name).ok_or_else(|| {
            let found: Vec<&str> = header.iter().collect();
            anyhow!("{file}:1: column {name} is missing in '{}'; the columns time (seconds) and rate (requests/s) are needed", found.join(","))
        })
    };
    let (time, rate) = (column("time")?, column("rate")?);
    let mut series = Vec::new();
    for record in reader.records() {
        let record = record.with_context(|| file.to_string())?;
        let line = record.position().map_or(0, csv::Position::line);
        let number = |name: &str, index: usize| {
            let text = record.get(index).unwrap_or_default();
            text.parse::<f64>().map_err(|_| anyhow!("{file}:{line}: column {name}: '{text}' is not a number"))
        };
        series.push((Seconds(number("time", time)?), Rate(number("rate", rate)?)));
    }
    Ok(series)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &str) -> String {
        rates(Path::new("r.csv"), text).unwrap_err().to_string()
    }

    #[test]
    fn rates_are_read_by_the_names_of_their_columns() {
        let series = rates(Path::new("r.csv"), "rate, what ,time\n5,x,0\n7.5,y,60\n").unwrap();
        assert_eq!(series, [(Seconds(0.0), Rate(5.0)), (Seconds(60.0), Rate(7.5))]);
    }

    #[test]
    fn what_is_wrong_with_a_file_of_rates_is_said_with_its_line() {
        assert!(message("t,rate\n0,1\n").starts_with("r.csv:1: column time is missing in 't,rate'"));
        assert_eq!(message("time,rate\n0,1\nx,1\n"), "r.csv:3: column time: 'x' is not a number");
        assert_eq!(message("time,rate\n0,\n"), "r.csv:2: column rate: '' is not a number");
        assert!(rates(Path::new("r.csv"), "").is_err());
    }
}
