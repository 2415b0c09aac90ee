//! What a kind of server calls its metrics: small YAML files, the built-in ones compiled in.
//!
//! A series lists its readings by preference; the first whose metric is shown is taken. Several series
//! of one metric, one per engine, are added up or averaged as the reading says.

use super::exposition::Exposition;
use crate::measurement::{Sample, Series};
use crate::units::nearest;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt::Write;

/// The built-in profiles.
const BUILT_IN: [(&str, &str); 7] = [
    ("tgi", include_str!("profiles/tgi.yaml")),
    ("vllm", include_str!("profiles/vllm.yaml")),
    ("sglang", include_str!("profiles/sglang.yaml")),
    ("llamacpp", include_str!("profiles/llamacpp.yaml")),
    ("triton-trtllm", include_str!("profiles/triton-trtllm.yaml")),
    ("trtllm-serve", include_str!("profiles/trtllm-serve.yaml")),
    ("jetstream", include_str!("profiles/jetstream.yaml")),
];

/// The version of the profile format.
const VERSION: u32 = 1;
/// The APIs that calibrate can send load to.
const APIS: [&str; 3] = ["generate", "chat", "completions"];

/// Why a profile cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place} is no server profile that can be used: {problem}")]
pub struct ProfileError {
    /// The file, or the name of a built-in profile.
    pub place: String,
    /// What is wrong, and what to do.
    pub problem: String,
}

/// How a kind of server is spoken to and read.
#[derive(Debug, Clone, PartialEq)]
pub struct Profile {
    /// Its name.
    pub name: String,
    /// What it is.
    pub description: String,
    /// The APIs it answers to, the preferred one first: `generate`, `chat`, `completions`.
    pub apis: Vec<String>,
    /// Fields that every request gets beside the usual ones.
    pub request: serde_json::Map<String, serde_json::Value>,
    /// What it is called among people.
    pub title: String,
    /// The port that it listens on where nothing else is said.
    pub port: u16,
    /// Its latency histograms in seconds: what each is the time of, and its metric.
    pub latencies: Vec<(String, String)>,
    /// Port of its metrics, where that is not the port of its API.
    pub metrics_port: Option<u16>,
    /// Path of its metrics.
    pub metrics_path: String,
    recognized_by: Vec<String>,
    series: Vec<(Series, Vec<Reading>)>,
    text: String,
}

/// Where the value of a series is found.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Reading {
    /// The metric.
    metric: String,
    /// Labels that its series must carry; `a|b` takes either value.
    #[serde(default)]
    labels: BTreeMap<String, String>,
    /// What becomes of several series.
    #[serde(default)]
    over: Over,
    /// What the value is multiplied with.
    #[serde(default = "one")]
    scale: f64,
    /// A metric that the value is divided by.
    per: Option<String>,
    /// PromQL in place of the one that follows from the above, with `$selector` where further
    /// conditions go.
    promql: Option<String>,
}

/// What a series is read from, for those who read it by way of others.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gauge<'a> {
    /// The metric.
    pub metric: &'a str,
    /// Labels that its series must carry; `a|b` takes either value.
    pub labels: &'a BTreeMap<String, String>,
    /// The metric that the value is divided by.
    pub per: Option<&'a str>,
    /// What the value is multiplied with.
    pub scale: f64,
    /// Whether the sum of its series is the value, with nothing to reckon.
    pub as_it_is: bool,
}

/// How the series of one metric make one value.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Over {
    #[default]
    Sum,
    Mean,
    Max,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct File {
    version: u32,
    name: String,
    description: String,
    apis: Vec<String>,
    #[serde(default)]
    request: serde_json::Map<String, serde_json::Value>,
    title: Option<String>,
    #[serde(default = "port")]
    port: u16,
    #[serde(default)]
    latencies: Vec<Histogram>,
    metrics_port: Option<u16>,
    #[serde(default = "metrics")]
    metrics_path: String,
    recognized_by: Vec<String>,
    series: BTreeMap<String, Vec<Reading>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Histogram {
    title: String,
    metric: String,
}

/// The port of Google's how-to page.
fn port() -> u16 {
    8000
}

fn one() -> f64 {
    1.0
}

fn metrics() -> String {
    "metrics".to_owned()
}

impl Profile {
    /// The names of the built-in profiles.
    pub fn names() -> impl Iterator<Item = &'static str> + Clone {
        BUILT_IN.iter().map(|(name, _)| *name)
    }

    /// A built-in profile.
    ///
    /// # Errors
    /// A name that none has.
    pub fn built_in(name: &str) -> Result<Profile, ProfileError> {
        if let Some((name, text)) = BUILT_IN.iter().find(|(known, _)| *known == name) {
            return Profile::parse(name, text);
        }
        let hint = nearest(name, Profile::names()).map(|near| format!(" (did you mean {near}?)"));
        let names = Profile::names().collect::<Vec<_>>().join(", ");
        let problem = format!(
            "there is no built-in one of that name{}; there are {names}, or name a YAML file, or auto",
            hint.unwrap_or_default()
        );
        Err(ProfileError { place: format!("'{name}'"), problem })
    }

    /// Reads a profile; `place` is what errors call it.
    ///
    /// # Errors
    /// Text that is not YAML, unknown fields, series or APIs that calibrate does not have, and a
    /// profile that could show nothing.
    pub fn parse(place: &str, text: &str) -> Result<Profile, ProfileError> {
        let fail = |problem: String| ProfileError { place: place.to_owned(), problem };
        let file: File = serde_saphyr::from_str(text).map_err(|error| fail(error.to_string()))?;
        if file.version != VERSION {
            return Err(fail(format!("its version is {}, and this calibrate knows {VERSION}", file.version)));
        }
        if let Some(api) = file.apis.iter().find(|api| !APIS.contains(&api.as_str())) {
            return Err(fail(format!("apis names '{api}'; calibrate speaks {}", APIS.join(", "))));
        }
        if file.apis.is_empty() {
            return Err(fail(format!("apis is empty; name one of {}", APIS.join(", "))));
        }
        let mut series = Vec::new();
        for (column, readings) in file.series {
            series.push((series_named(&column).map_err(&fail)?, check(&column, readings).map_err(&fail)?));
        }
        if !series.iter().any(|(series, _)| matches!(series, Series::QueueSize | Series::BatchSize)) {
            return Err(fail(
                "series has neither queue_size nor batch_size, so no target could follow".into(),
            ));
        }
        let odd = file.latencies.iter().find(|histogram| !is_metric(&histogram.metric));
        if let Some(odd) = odd {
            return Err(fail(format!("latencies: '{}' is no name of a metric", odd.metric)));
        }
        Ok(Profile {
            title: file.title.unwrap_or_else(|| file.name.clone()),
            port: file.port,
            latencies: file.latencies.into_iter().map(|one| (one.title, one.metric)).collect(),
            text: text.to_owned(),
            name: file.name,
            description: file.description,
            apis: file.apis,
            request: file.request,
            metrics_port: file.metrics_port,
            metrics_path: file.metrics_path.trim_start_matches('/').to_owned(),
            recognized_by: file.recognized_by,
            series,
        })
    }

    /// Its text, unless it is a built-in one's.
    pub fn own_text(&self) -> Option<String> {
        (!BUILT_IN.iter().any(|(_, text)| *text == self.text)).then(|| self.text.clone())
    }

    /// The built-in profile of the server that shows such metrics, if it is one of the known ones.
    pub fn recognize(exposition: &Exposition) -> Option<Profile> {
        let mut profiles = BUILT_IN.iter().filter_map(|(name, text)| Profile::parse(name, text).ok());
        profiles.find(|profile| {
            profile.recognized_by.iter().any(|prefix| exposition.names().any(|name| name.starts_with(prefix)))
        })
    }

    /// Fills a sample with what an exposition shows. What it does not show stays absent.
    pub fn read(&self, exposition: &Exposition, sample: &mut Sample) {
        for (series, readings) in &self.series {
            sample.set(*series, readings.iter().find_map(|reading| reading.value(exposition)));
        }
    }

    /// The series that this kind of server can show.
    pub fn series(&self) -> impl Iterator<Item = Series> {
        self.series.iter().map(|(series, _)| *series)
    }

    /// The metrics that a series may be read from, the preferred one first.
    pub fn metrics_of(&self, series: Series) -> impl Iterator<Item = &str> {
        self.gauges(series).map(|gauge| gauge.metric)
    }

    /// What a series may be read from, the preferred one first.
    pub fn gauges(&self, series: Series) -> impl Iterator<Item = Gauge<'_>> {
        let readings = self.series.iter().find(|(known, _)| *known == series).map(|(_, readings)| readings);
        readings.into_iter().flatten().map(|reading| Gauge {
            metric: &reading.metric,
            labels: &reading.labels,
            per: reading.per.as_deref(),
            scale: reading.scale,
            as_it_is: reading.promql.is_none()
                && reading.per.is_none()
                && reading.scale == 1.0
                && reading.over == Over::Sum,
        })
    }

    /// PromQL for a series, one value per group of `by`, over the series that `selector` takes
    /// (matchers like `namespace="default"`, or nothing). `None`: this kind of server does not show it.
    pub fn promql(&self, series: Series, selector: &str, by: &str) -> Option<String> {
        let readings = &self.series.iter().find(|(known, _)| *known == series)?.1;
        let expressions: Vec<String> = readings.iter().map(|reading| reading.promql(selector, by)).collect();
        Some(expressions.join(" or "))
    }

    /// PromQL for the time of the newest sample of a series, one value per group of `by`.
    pub fn promql_time(&self, series: Series, selector: &str, by: &str) -> Option<String> {
        let readings = &self.series.iter().find(|(known, _)| *known == series)?.1;
        let times = readings.iter().filter(|reading| reading.promql.is_none()).map(|reading| {
            format!("max by ({by}) (timestamp({}))", reading.selector(&reading.metric, selector))
        });
        let times: Vec<String> = times.collect();
        (!times.is_empty()).then(|| times.join(" or "))
    }
}

/// The series of a column of `samples.csv`, by the name that a user gave.
///
/// # Errors
/// A name that no column has, with the nearest one.
pub fn series_named(column: &str) -> Result<Series, String> {
    Series::named(column).ok_or_else(|| {
        let hint = nearest(column, Series::ALL.iter().map(|series| series.column()));
        let hint = hint.map(|near| format!("; did you mean {near}?")).unwrap_or_default();
        format!(
            "'{column}' is no series of calibrate, like queue_size, batch_size, kv_usage or gpu_util{hint}"
        )
    })
}

fn check(column: &str, readings: Vec<Reading>) -> Result<Vec<Reading>, String> {
    if readings.is_empty() {
        return Err(format!("series.{column} has no readings; leave it out"));
    }
    for reading in &readings {
        if !reading.scale.is_finite() || reading.scale == 0.0 {
            return Err(format!("series.{column}: scale must be a number other than 0"));
        }
        let names = reading.per.iter().chain([&reading.metric]);
        if !names.into_iter().all(|name| is_metric(name)) {
            return Err(format!(
                "series.{column}: a metric is named without braces, quotes and spaces: by letters, digits, '_' and ':'"
            ));
        }
        let fine = |value: &str| {
            !value.is_empty() && value.chars().all(|c| c.is_alphanumeric() || "_-.:/|".contains(c))
        };
        if let Some((label, value)) =
            reading.labels.iter().find(|(label, value)| !is_label(label) || !fine(value))
        {
            return Err(format!(
                "series.{column}: the label {label}: '{value}' must be letters, digits, '_', '-', '.', ':' and '/'"
            ));
        }
    }
    Ok(readings)
}

/// What goes into PromQL, manifests and a shell file as it is.
fn is_metric(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':')
}

fn is_label(name: &str) -> bool {
    is_metric(name) && !name.contains(':')
}

impl Reading {
    fn value(&self, exposition: &Exposition) -> Option<f64> {
        let matches = |wanted: &str, found: Option<&str>| {
            found.is_some_and(|found| wanted.split('|').any(|wanted| wanted == found))
        };
        let points = exposition
            .all(&self.metric)
            .filter(|point| self.labels.iter().all(|(label, wanted)| matches(wanted, point.label(label))));
        let value = self.over.of(points.map(|point| point.value))?;
        let value = match &self.per {
            Some(per) => value / self.over.of(exposition.all(per).map(|point| point.value))?,
            None => value,
        };
        Some(value * self.scale)
    }

    /// The metric with all conditions on its labels.
    fn selector(&self, metric: &str, further: &str) -> String {
        let mut matchers: Vec<String> = Vec::new();
        for (label, wanted) in self.labels.iter().filter(|_| metric == self.metric) {
            let operator = if wanted.contains('|') { "=~" } else { "=" };
            matchers.push(format!("{label}{operator}{wanted:?}"));
        }
        if !further.is_empty() {
            matchers.push(further.to_owned());
        }
        if matchers.is_empty() { metric.to_owned() } else { format!("{metric}{{{}}}", matchers.join(",")) }
    }

    fn promql(&self, selector: &str, by: &str) -> String {
        if let Some(own) = &self.promql {
            return own.replace("$selector", selector);
        }
        let over = match self.over {
            Over::Sum => "sum",
            Over::Mean => "avg",
            Over::Max => "max",
        };
        let mut text = format!("{over} by ({by}) ({})", self.selector(&self.metric, selector));
        // Writing to a string cannot fail.
        if let Some(per) = &self.per {
            let _ = write!(text, " / {over} by ({by}) ({})", self.selector(per, selector));
        }
        if self.scale != 1.0 {
            let _ = write!(text, " * {}", self.scale);
        }
        text
    }
}

impl Over {
    fn of(self, values: impl Iterator<Item = f64>) -> Option<f64> {
        let values: Vec<f64> = values.filter(|value| value.is_finite()).collect();
        let sum = || values.iter().sum::<f64>();
        (!values.is_empty()).then(|| match self {
            Over::Sum => sum(),
            Over::Mean => sum() / values.len() as f64,
            Over::Max => values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        })
    }
}

#[cfg(test)]
mod tests;
