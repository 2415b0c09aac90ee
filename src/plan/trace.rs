//! Traces: when requests came to a real service, and how large they were.
//!
//! Invariants: the format is told by the content, never by the file's name. Arrivals are sorted, the first
//! one is at 0 and all are finite. Whatever is left out or moved is said in a remark.

use super::RequestSize;
use super::json_lines::json_lines;
use super::source::{DatasetError, Place, Source};
use crate::units::Seconds;
use jiff::{Timestamp, civil, tz::TimeZone};
use serde_json::value::RawValue;
use std::path::Path;

/// One request of a trace.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TraceArrival {
    /// When it came, counted from the first request of the trace.
    pub offset: Seconds,
    /// How large it was.
    pub size: RequestSize,
}

/// The requests of a trace.
#[derive(Debug, Clone, PartialEq)]
pub struct Trace {
    /// In the order in which they came; at least one.
    pub arrivals: Vec<TraceArrival>,
    /// What was left out or sorted.
    pub remarks: Vec<String>,
}

/// One format: the names of its columns or fields, and how it counts time.
struct Format {
    time: Place,
    input: Place,
    output: Place,
    nanoseconds: fn(&str) -> Option<i128>,
    a_time: &'static str,
}

const AZURE: Format = Format {
    time: Place::Column("TIMESTAMP"),
    input: Place::Column("ContextTokens"),
    output: Place::Column("GeneratedTokens"),
    nanoseconds: of_date,
    a_time: "a time like 2023-11-16 18:15:46.6805900",
};

const BURST_GPT: Format = Format {
    time: Place::Column("Timestamp"),
    input: Place::Column("Request tokens"),
    output: Place::Column("Response tokens"),
    nanoseconds: |text| of_number(text, 1e9),
    a_time: "a number of seconds",
};

const MOONCAKE: Format = Format {
    time: Place::Field("timestamp"),
    input: Place::Field("input_length"),
    output: Place::Field("output_length"),
    nanoseconds: |text| of_number(text, 1e6),
    a_time: "a number of milliseconds",
};

const KNOWN: &str = "CSV with the columns TIMESTAMP, ContextTokens and GeneratedTokens (Azure) or Timestamp, \
    Request tokens and Response tokens (BurstGPT), JSONL with timestamp, input_length and output_length \
    (Mooncake)";

/// Reads the arrivals in `bytes`, which came from `path`.
pub fn read_trace(path: &Path, bytes: &[u8]) -> Result<Trace, DatasetError> {
    let source = Source::new(path, bytes, KNOWN)?;
    let mut traced = Traced::read(source, true)?;
    let mut latest = i128::MIN;
    let mut early = 0;
    for (time, _) in &traced.requests {
        early += usize::from(*time < latest);
        latest = latest.max(*time);
    }
    if early > 0 {
        let total = traced.requests.len();
        traced.remarks.push(format!("{early} of {total} requests stood after later ones: all are sorted"));
    }
    traced.requests.sort_by_key(|(time, _)| *time);
    let first = traced.requests.first().map_or(0, |(time, _)| *time);
    let arrivals = traced.requests.into_iter().map(|(time, size)| {
        // Whole nanoseconds until here: a float of the seconds since 1970 would lose the last digits.
        TraceArrival { offset: Seconds((time - first) as f64 / 1e9), size }
    });
    Ok(Trace { arrivals: arrivals.collect(), remarks: traced.remarks })
}

/// The requests of a trace as they stand there, with their times in nanoseconds.
pub(super) struct Traced {
    /// At least one.
    pub(super) requests: Vec<(i128, RequestSize)>,
    /// What was left out.
    pub(super) remarks: Vec<String>,
}

impl Traced {
    /// Reads a trace. Where it is not `timed`, nobody looks at the times, and they are 0.
    pub(super) fn read(source: Source<'_>, timed: bool) -> Result<Self, DatasetError> {
        let mut rows = Rows { source, timed, left_out: 0, requests: Vec::new() };
        match source.text.trim_start().chars().next() {
            Some('{') => rows.read_mooncake()?,
            Some('[') => return Err(source.unknown()),
            _ => rows.read_csv()?,
        }
        let mut remarks = Vec::new();
        if rows.left_out > 0 {
            let total = rows.requests.len() + rows.left_out;
            remarks.push(format!("{} of {total} requests without output are left out", rows.left_out));
        }
        if rows.requests.is_empty() {
            return Err(source.unusable(&remarks));
        }
        Ok(Traced { requests: rows.requests, remarks })
    }
}

/// The requests read so far.
struct Rows<'a> {
    source: Source<'a>,
    timed: bool,
    left_out: usize,
    requests: Vec<(i128, RequestSize)>,
}

/// What stands in the row at a position: time, input, output.
type Cells<'a> = (&'a str, &'a str, &'a str);

impl<'a> Rows<'a> {
    fn read_csv(&mut self) -> Result<(), DatasetError> {
        let source = self.source;
        let csv_error = |error| source.csv_error(&error);
        let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(source.text.as_bytes());
        let header = reader.headers().map_err(csv_error)?.clone();
        let index = |place: Place| header.iter().position(|name| name == place.name());
        let format = [&AZURE, &BURST_GPT]
            .into_iter()
            .find(|format| index(format.input).is_some() || index(format.output).is_some())
            .ok_or_else(|| source.unknown())?;
        let column = |place| index(place).ok_or_else(|| source.missing(0, place));
        let (input, output) = (column(format.input)?, column(format.output)?);
        let time = if self.timed { Some(column(format.time)?) } else { None };
        let mut record = csv::StringRecord::new();
        while reader.read_record(&mut record).map_err(csv_error)? {
            let at = record.position().map_or(0, |position| position.byte() as usize);
            let cell = |index: usize| record.get(index).unwrap_or_default();
            self.push(format, at, (time.map_or("", cell), cell(input), cell(output)))?;
        }
        Ok(())
    }

    fn read_mooncake(&mut self) -> Result<(), DatasetError> {
        let source = self.source;
        for line in json_lines(source) {
            let line = line?;
            let needed = |value: Option<&'a RawValue>, place| {
                value.map(RawValue::get).ok_or_else(|| source.missing(line.at, place))
            };
            let time = if self.timed { needed(line.timestamp, MOONCAKE.time)? } else { "" };
            let input = needed(line.input_length, MOONCAKE.input)?;
            let output = needed(line.output_length, MOONCAKE.output)?;
            self.push(&MOONCAKE, line.at, (time, input, output))?;
        }
        Ok(())
    }

    fn push(&mut self, format: &Format, at: usize, (time, input, output): Cells) -> Result<(), DatasetError> {
        let time = match (format.nanoseconds)(time) {
            Some(time) => time,
            None if !self.timed => 0,
            None => return Err(self.source.value(at, format.time, time, format.a_time)),
        };
        let output = self.source.tokens(at, format.output, output, 0)?;
        // Where the service failed there may be no tokens at all.
        let input = self.source.tokens(at, format.input, input, output.min(1))?;
        if output == 0 {
            self.left_out += 1;
        } else {
            self.requests.push((time, RequestSize { input, output }));
        }
        Ok(())
    }
}

/// The nanoseconds since 1970 of a date with time; without an offset it is in UTC.
fn of_date(text: &str) -> Option<i128> {
    let in_utc = || text.parse::<civil::DateTime>().ok()?.to_zoned(TimeZone::UTC).ok();
    let time = text.parse().ok().or_else(|| in_utc().map(|zoned| zoned.timestamp()));
    time.map(Timestamp::as_nanosecond)
}

/// The nanoseconds in a number of a unit that has `nanoseconds` of them.
fn of_number(text: &str, nanoseconds: f64) -> Option<i128> {
    /// 31 000 years.
    const MOST: f64 = 1e21;
    let time = text.parse::<f64>().ok()? * nanoseconds;
    (0.0..=MOST).contains(&time).then(|| time.round() as i128)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BURST_HEADER: &str = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n";

    fn read(text: &str) -> Result<Trace, DatasetError> {
        read_trace(Path::new("t"), text.as_bytes())
    }

    fn message(text: &str) -> String {
        read(text).unwrap_err().to_string()
    }

    fn arrivals(text: &str) -> Vec<(f64, u32, u32)> {
        let trace = read(text).unwrap();
        trace.arrivals.iter().map(|a| (a.offset.0, a.size.input, a.size.output)).collect()
    }

    fn azure(rows: &str) -> String {
        format!("TIMESTAMP,ContextTokens,GeneratedTokens\n{rows}")
    }

    #[test]
    fn azure_times_have_seven_digits_and_may_have_an_offset() {
        let expected = [(0.0, 374, 44), (4.314_579, 396, 109)];
        for (first, second) in [
            ("2023-11-16 18:15:46.6805900", "2023-11-16 18:15:50.9951690"),
            ("2023-11-16 18:15:46.680590+00:00", "2023-11-16 18:15:50.995169+00:00"),
            ("2023-11-16T18:15:46.68059Z", "2023-11-16T18:15:50.995169Z"),
            ("2023-11-16 18:15:46.68059Z", "2023-11-16 19:15:50.995169+01:00"),
        ] {
            assert_eq!(arrivals(&azure(&format!("{first},374,44\n{second},396,109\n"))), expected, "{first}");
        }
    }

    #[test]
    fn columns_may_stand_in_any_order_after_a_byte_order_mark_with_crlf_and_quotes() {
        let text = "\u{feff}\"GeneratedTokens\", TIMESTAMP ,ContextTokens,more\r\n\
            44,2023-11-16 18:15:46,374,x\r\n\r\n109,2023-11-16 18:15:47.5,\"396\",y";
        assert_eq!(arrivals(text), [(0.0, 374, 44), (1.5, 396, 109)]);
    }

    #[test]
    fn failures_of_a_burst_gpt_trace_are_left_out_and_counted() {
        let rows = "5,ChatGPT,472,18,490,Conversation log\n\
            45.25,GPT-4,0,0,0,API log\n118.5,GPT-4,1087,230,1317,API log\n";
        let trace = read(&format!("{BURST_HEADER}{rows}")).unwrap();
        assert_eq!(trace.arrivals.len(), 2);
        assert_eq!(trace.arrivals[1].offset, Seconds(113.5));
        assert_eq!(trace.arrivals[1].size, RequestSize { input: 1087, output: 230 });
        assert_eq!(trace.remarks, ["1 of 3 requests without output are left out"]);
    }

    #[test]
    fn mooncake_lines_count_milliseconds() {
        let text = "{\"timestamp\": 27, \"input_length\": 6955, \"output_length\": 52, \"hash_ids\": [46, 47]}\n\
            \n  {\"output_length\": 26, \"input_length\": 6472, \"timestamp\": 3052.5}\r\n";
        assert_eq!(arrivals(text), [(0.0, 6955, 52), (3.0255, 6472, 26)]);
    }

    #[test]
    fn requests_out_of_order_are_sorted_and_counted() {
        let trace = read(&format!("{BURST_HEADER}5,m,1,1,2,l\n9,m,2,1,2,l\n7,m,3,1,2,l\n4,m,4,1,2,l\n"));
        let trace = trace.unwrap();
        let sorted: Vec<_> = trace.arrivals.iter().map(|a| (a.offset.0, a.size.input)).collect();
        assert_eq!(sorted, [(0.0, 4), (1.0, 1), (3.0, 3), (5.0, 2)]);
        assert_eq!(trace.remarks, ["2 of 4 requests stood after later ones: all are sorted"]);
    }

    #[test]
    fn a_wrong_value_names_line_and_column() {
        let time = "is not a time like 2023-11-16 18:15:46.6805900";
        for wrong in ["", "x", "5", "2023-13-01 00:00:00", "99999-01-01 00:00:00"] {
            let text = azure(&format!("2023-11-16 18:15:46,1,1\n\n{wrong},1,1\n"));
            assert_eq!(message(&text), format!("t:4: column TIMESTAMP: '{wrong}' {time}"));
        }
        for wrong in ["-1", "1.5", "99999999999", "", "NaN", "0", "10000001"] {
            let text = azure(&format!("2023-11-16 18:15:46,1,1\n2023-11-16 18:15:46,{wrong},1\n"))
                .replace('\n', "\r\n");
            let expected = "is not a whole number of tokens from 1 to 10000000";
            assert_eq!(message(&text), format!("t:3: column ContextTokens: '{wrong}' {expected}"));
        }
        for wrong in ["-1", "NaN", "inf", "1e13", "2023-11-16 18:15:46"] {
            let text = format!("{BURST_HEADER}{wrong},m,1,1,2,l\n");
            assert_eq!(
                message(&text),
                format!("t:2: column Timestamp: '{wrong}' is not a number of seconds")
            );
        }
        assert_eq!(
            message("{\"timestamp\": \"0\", \"input_length\": 1, \"output_length\": 1}"),
            "t:1: field timestamp: '\"0\"' is not a number of milliseconds"
        );
        assert_eq!(
            message("{\"timestamp\": 0, \"input_length\": [1], \"output_length\": 1}"),
            "t:1: field input_length: '[1]' is not a whole number of tokens from 1 to 10000000"
        );
    }

    #[test]
    fn a_missing_column_or_field_is_named_with_what_stands_there() {
        assert_eq!(
            message("\nContextTokens,GeneratedTokens\n1,1\n"),
            "t:2: column TIMESTAMP is missing in 'ContextTokens,GeneratedTokens'"
        );
        assert_eq!(
            message("Timestamp,Request tokens\n1,1\n"),
            "t:1: column Response tokens is missing in 'Timestamp,Request tokens'"
        );
        assert_eq!(
            message("{\"timestamp\": 0, \"input_length\": 1}\n"),
            "t:1: field output_length is missing in '{\"timestamp\": 0, \"input_length\": 1}'"
        );
        assert_eq!(
            message("\n{\"prompt\": null}"),
            "t:2: field timestamp is missing in '{\"prompt\": null}'"
        );
    }

    #[test]
    fn a_row_with_other_columns_than_the_header_is_malformed() {
        let expected = "t:3: this line has another number of columns (2) than the header (3)";
        assert_eq!(message(&azure("2023-11-16 18:15:46,1,1\n2023-11-16 18:15:47,1\n")), expected);
        assert!(message(&azure("\"2023-11-16 18:15:46,1,1\n")).starts_with("t:2: this line has another"));
    }

    #[test]
    fn malformed_json_names_its_line() {
        let good = "{\"timestamp\": 0, \"input_length\": 1, \"output_length\": 1}\n";
        assert_eq!(
            message(&format!("{good}{{\"timestamp\": }}\n")),
            "t:2: not a JSON object: expected value at character 15"
        );
        assert_eq!(message(&format!("{good}\n[0, 1, 1]\n")), "t:3: '[0, 1, 1]' is not a JSON object");
        assert!(message("{\n\"timestamp\": 0\n}").starts_with("t:1: not a JSON object: EOF"));
    }

    #[test]
    fn files_in_no_known_format_or_without_requests_are_refused() {
        for text in ["a,b\n1,2\n", "[]", "[{\"conversations\": []}]", "hello", "1", "\"\"\"\"", "\0"] {
            let message = message(text);
            assert!(message.contains("is in no known format") && message.contains("BurstGPT"), "{message}");
        }
        assert!(matches!(read(""), Err(DatasetError::Empty { .. })));
        assert!(matches!(read(&azure("")), Err(DatasetError::Empty { .. })));
        assert_eq!(
            message(&azure("2023-11-16 18:15:46,1,0\n")),
            "t holds no usable requests: 1 of 1 requests without output are left out"
        );
    }

    /// What holds for every trace, whatever it was read from.
    fn check(bytes: &[u8]) {
        if let Ok(trace) = read_trace(Path::new("t"), bytes) {
            assert!(trace.arrivals.is_sorted_by_key(|arrival| arrival.offset.0));
            assert!(trace.arrivals.iter().all(|a| a.offset.0.is_finite() && a.size.output > 0));
            assert_eq!(trace.arrivals[0].offset, Seconds::ZERO);
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            check(&bytes);
            check(&[b"TIMESTAMP,ContextTokens,GeneratedTokens\n", &bytes[..]].concat());
            check(&[BURST_HEADER.as_bytes(), &bytes[..]].concat());
            check(&[b"{\"timestamp\": 0, \"input_length\": 1, \"output_length\": 1}\n{", &bytes[..]].concat());
        }

        #[test]
        fn a_damaged_trace_is_refused_or_still_sorted(
            damage in proptest::collection::vec((0_usize..220, any::<u8>()), 0..4),
            which in 0_usize..3,
        ) {
            let texts = [
                azure("2023-11-16 18:15:46.68,374,44\n2023-11-16 18:15:50.99+01:00,396,109\n9999-12-31,1,1\n"),
                format!("{BURST_HEADER}5,m,1,1,2,l\n9e11,m,2,1,2,l\n7.25,m,3,0,2,l\n"),
                "{\"timestamp\": 5, \"input_length\": 1, \"output_length\": 1}\n".repeat(3),
            ];
            let mut bytes = texts[which].clone().into_bytes();
            for (at, byte) in damage {
                let length = bytes.len();
                bytes[at % length] = byte;
            }
            check(&bytes);
        }
    }
}
