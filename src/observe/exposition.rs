//! The Prometheus text exposition format, as servers really send it.
//!
//! Our own reader and not a crate's, because those that were tried cut labels at commas or leave
//! escapes as they are, and because a TGI body is 100 KB of which nearly all are histogram buckets
//! that nobody asks for: they are passed over before anything is allocated for them.

use std::fmt;

/// One series of an exposition.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    /// The metric's name.
    pub name: String,
    /// Its labels in the order given, with escapes decoded.
    pub labels: Vec<(String, String)>,
    /// Its value; may be NaN or infinite.
    pub value: f64,
}

impl Point {
    /// The value of a label.
    pub fn label(&self, name: &str) -> Option<&str> {
        self.labels.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// All series of one scrape but histogram buckets.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Exposition {
    points: Vec<Point>,
}

impl Exposition {
    /// All series of a metric.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Point> {
        self.points.iter().filter(move |point| point.name == name)
    }

    /// The names of all metrics, each as often as it has series.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.points.iter().map(|point| point.name.as_str())
    }

    /// The first series of a metric, whatever its labels.
    pub fn value(&self, name: &str) -> Option<f64> {
        self.all(name).next().map(|point| point.value)
    }

    /// The series of a metric with a label.
    pub fn labelled(&self, name: &str, label: &str, value: &str) -> Option<f64> {
        self.all(name).find(|point| point.label(label) == Some(value)).map(|point| point.value)
    }

    /// The sum over all series of a metric. `None` where there is none.
    pub fn sum(&self, name: &str) -> Option<f64> {
        self.all(name).map(|point| point.value).reduce(|sum, value| sum + value)
    }

    /// Whether nothing was exposed, as by a TGI before its first request.
    pub fn is_empty(&self) -> bool {
        self.points.is_empty()
    }
}

/// Why a text is no exposition.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line} is not in the Prometheus text format: {problem}: {excerpt}")]
pub struct ParseError {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub problem: &'static str,
    /// Its beginning.
    pub excerpt: String,
}

/// Reads an exposition. An empty text is an empty exposition.
pub fn parse(text: &str) -> Result<Exposition, ParseError> {
    let mut points = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim_matches([' ', '\t', '\r']);
        if line.is_empty() || line.starts_with('#') || is_bucket(line) {
            continue;
        }
        let point = point(line).map_err(|problem| ParseError {
            line: index + 1,
            problem,
            excerpt: line.chars().take(60).collect(),
        })?;
        points.push(point);
    }
    Ok(Exposition { points })
}

fn is_bucket(line: &str) -> bool {
    let name_end = line.find(['{', ' ', '\t']).unwrap_or(line.len());
    line[..name_end].ends_with("_bucket")
}

fn point(line: &str) -> Result<Point, &'static str> {
    let name_end =
        line.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':')).unwrap_or(line.len());
    let (name, rest) = line.split_at(name_end);
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
        return Err("it does not begin with a metric name");
    }
    let (labels, rest) = match rest.trim_start().strip_prefix('{') {
        Some(inside) => labels(inside)?,
        None => (Vec::new(), rest),
    };
    if !rest.starts_with([' ', '\t']) && !labels_closed(line, rest) {
        return Err("there is no space before the value");
    }
    // A timestamp or an exemplar may follow; neither is needed.
    let value = rest.split_ascii_whitespace().next().ok_or("it has no value")?;
    let value = number(value).ok_or("its value is not a number")?;
    Ok(Point { name: name.to_owned(), labels, value })
}

/// Whether the value follows a closing brace, after which a space may be missing.
fn labels_closed(line: &str, rest: &str) -> bool {
    line[..line.len() - rest.len()].ends_with('}')
}

/// Servers write `NaN` and `Inf` in any case (prometheus-cpp writes `Nan`), and Prometheus takes them so.
fn number(text: &str) -> Option<f64> {
    text.parse().ok()
}

type Labels = Vec<(String, String)>;

/// Reads labels up to and with the closing brace; gives what follows it.
fn labels(mut rest: &str) -> Result<(Labels, &str), &'static str> {
    let mut labels = Vec::new();
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        if let Some(after) = rest.strip_prefix('}') {
            return Ok((labels, after));
        }
        let (name, after) = rest.split_once('=').ok_or("a label has no value")?;
        let quoted = after.trim_start().strip_prefix('"').ok_or("a label value is not quoted")?;
        let (value, after) = quoted_value(quoted)?;
        labels.push((name.trim().to_owned(), value));
        rest = after;
    }
}

/// Reads to the closing quote and decodes `\\`, `\"` and `\n`.
fn quoted_value(text: &str) -> Result<(String, &str), &'static str> {
    let mut value = String::new();
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return Ok((value, &text[at + 1..])),
            '\\' => match letters.next() {
                Some((_, 'n')) => value.push('\n'),
                Some((_, escaped @ ('\\' | '"'))) => value.push(escaped),
                Some((_, other)) => value.extend(['\\', other]),
                None => break,
            },
            other => value.push(other),
        }
    }
    Err("a label value has no closing quote")
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let labels: Vec<String> = self.labels.iter().map(|(key, value)| format!("{key}={value:?}")).collect();
        write!(f, "{}{{{}}} {}", self.name, labels.join(","), self.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn labels_may_hold_commas_braces_quotes_and_escapes() {
        let exposition = parse("a{x=\"1,2\",y=\"}{\",z=\"q\\\"\\\\\\n\\t\" , } 3\n").unwrap();
        let point = exposition.all("a").next().unwrap();
        let labels = ["x", "y", "z"].map(|name| point.label(name).unwrap());
        assert_eq!(labels, ["1,2", "}{", "q\"\\\n\\t"]);
        assert_eq!(exposition.labelled("a", "x", "1,2"), Some(3.0));
    }

    #[test]
    fn values_timestamps_exemplars_and_comments_are_read_as_the_format_says() {
        let text = "# HELP a b\n# TYPE a gauge\na 1\r\nb{} +Inf 1700000000\nc_total 2 # {trace=\"x\"} 1\nd{x=\"1\"}7\n# EOF";
        let exposition = parse(text).unwrap();
        let values = ["a", "b", "c_total", "d"].map(|name| exposition.value(name).unwrap());
        assert_eq!(values, [1.0, f64::INFINITY, 2.0, 7.0]);
        for nan in ["NaN", "Nan", "nan"] {
            assert!(parse(&format!("a {nan}\nb 1")).unwrap().value("a").unwrap().is_nan(), "{nan}");
        }
        for infinite in ["+Inf", "Inf", "inf", "+inf", "Infinity"] {
            assert_eq!(parse(&format!("a {infinite}")).unwrap().value("a"), Some(f64::INFINITY));
        }
        assert_eq!(parse("a -inf").unwrap().value("a"), Some(f64::NEG_INFINITY));
    }

    #[test]
    fn buckets_are_passed_over_and_sums_kept() {
        let exposition = parse("h_bucket{le=\"1\"} 1\nh_sum 2\nh_count 3\n").unwrap();
        assert_eq!(
            (exposition.value("h_bucket"), exposition.value("h_sum"), exposition.sum("h_count")),
            (None, Some(2.0), Some(3.0))
        );
    }

    #[test]
    fn an_empty_text_is_an_empty_exposition() {
        assert!(parse("").unwrap().is_empty());
        assert!(parse("\n\n# only a comment\n").unwrap().is_empty());
    }

    #[test]
    fn what_is_no_exposition_names_the_line() {
        for text in [
            "<!DOCTYPE html>",
            "{\"a\": 1}",
            "a",
            "a b",
            "a{x=1} 2",
            "a{x=\"1\" 2",
            "a{x=\"1",
            "a infinitely",
            "1a 2",
        ] {
            let error = parse(&format!("ok 1\n{text}\n")).unwrap_err();
            assert_eq!(error.line, 2, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,200}") {
            let _ = parse(&text);
        }

        #[test]
        fn every_label_value_survives(value in "\\PC{0,20}") {
            let escaped = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let exposition = parse(&format!("m{{l=\"{escaped}\"}} 1")).unwrap();
            prop_assert_eq!(exposition.all("m").next().unwrap().label("l"), Some(value.as_str()));
        }
    }
}
