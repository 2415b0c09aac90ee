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
    /// Port of its metrics, where that is not the port of its API.
    pub metrics_port: Option<u16>,
    /// Path of its metrics.
    pub metrics_path: String,
    recognized_by: Vec<String>,
    series: Vec<(Series, Vec<Reading>)>,
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
    metrics_port: Option<u16>,
    #[serde(default = "metrics")]
    metrics_path: String,
    recognized_by: Vec<String>,
    series: BTreeMap<String, Vec<Reading>>,
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
        Ok(Profile {
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
        let readings = self.series.iter().find(|(known, _)| *known == series).map(|(_, readings)| readings);
        readings.into_iter().flatten().map(|reading| reading.metric.as_str())
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
        if names.into_iter().any(|name| name.is_empty() || name.contains(['{', '}', '"', ' '])) {
            return Err(format!("series.{column}: a metric is named without braces, quotes and spaces"));
        }
    }
    Ok(readings)
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
mod tests {
    use super::*;
    use crate::measurement::Source;
    use crate::observe::exposition::parse;
    use crate::units::Seconds;

    fn read(profile: &str, text: &str) -> Sample {
        let mut sample = Sample::new(Seconds(1.0), Seconds(0.01), Source::Server, 0);
        Profile::built_in(profile).unwrap().read(&parse(text).unwrap(), &mut sample);
        sample
    }

    fn values(profile: &str, text: &str) -> [Option<f64>; 3] {
        let sample = read(profile, text);
        [Series::QueueSize, Series::BatchSize, Series::KvUsage].map(|series| sample.get(series))
    }

    const TGI_3: &str = include_str!("../../tests/fixtures/exposition/tgi-3.3.7.txt");
    const TGI_2: &str = include_str!("../../tests/fixtures/exposition/tgi-2.0.4.txt");

    #[test]
    fn the_recorded_body_of_a_real_tgi_router_is_read() {
        let sample = read("tgi", TGI_3);
        let expected = [
            (Series::QueueSize, 0.0),
            (Series::BatchSize, 0.0),
            (Series::DecodeCount, 6240.0),
            (Series::DecodeSeconds, 154.596_141_376_000_1),
            (Series::PrefillCount, 130.0),
            (Series::JoinedRequests, 931.0),
            (Series::TokenEvents, 93_100.0),
            (Series::InputTokens, 186_200.0),
            (Series::Successes, 931.0),
            (Series::ConcatBackpressure, 64.0),
            (Series::ConcatWaitExceeded, 12.0),
        ];
        for (series, value) in expected {
            assert_eq!(sample.get(series), Some(value), "{series:?}");
        }
        for series in [Series::ConcatChunking, Series::KvUsage, Series::FailedOverloaded, Series::GpuUtil] {
            assert_eq!(sample.get(series), None, "{series:?}");
        }
    }

    #[test]
    fn version_2_of_tgi_without_help_lines_is_read_too() {
        let sample = read("tgi", TGI_2);
        assert!(sample.get(Series::QueueSize).is_some() && sample.get(Series::TokenEvents).is_some());
    }

    #[test]
    fn a_cold_server_shows_nothing_and_not_zeros() {
        assert!(Profile::names().all(|name| read(name, "").is_empty()));
    }

    #[test]
    fn every_tgi_since_0_9_shows_what_the_profile_reads_of_it() {
        let profile = Profile::built_in("tgi").unwrap();
        let names = include_str!("../../tests/fixtures/exposition/tgi-metric-names.txt");
        let mut versions = 0;
        for line in names.lines().filter(|line| !line.starts_with('#')) {
            let (version, names) = line.split_once(' ').unwrap();
            let names: Vec<&str> = names.split(' ').collect();
            for series in profile.series() {
                // Skipped tokens came with 1.4, chunking and the KV budget with 2.3.
                let later = matches!(series, Series::TokenEvents | Series::KvUsage);
                let metric = profile.metrics_of(series).next().unwrap();
                let metric = metric.trim_end_matches("_sum").trim_end_matches("_count");
                let shown =
                    names.contains(&metric) || names.contains(&profile.metrics_of(series).next().unwrap());
                assert!(shown || later && version < "1.4", "{version}: {metric}");
            }
            versions += 1;
        }
        assert_eq!(versions, 11);
    }

    #[test]
    fn the_engines_of_vllm_add_up_and_the_old_name_of_the_kv_gauge_is_known() {
        let text = |kv: &str| {
            let series = |name: &str, values: [f64; 2]| {
                let line = |(i, v): (usize, f64)| {
                    format!("{name}{{engine=\"{i}\",model_name=\"m,\\\"x\\\"\"}} {v}\n")
                };
                values.into_iter().enumerate().map(line).collect::<String>()
            };
            series("vllm:num_requests_waiting", [3.0, 4.0])
                + &series("vllm:num_requests_running", [10.0, 20.0])
                + &series(kv, [0.5, 0.75])
        };
        let expected = [Some(7.0), Some(30.0), Some(0.625)];
        assert_eq!(values("vllm", &text("vllm:kv_cache_usage_perc")), expected);
        assert_eq!(values("vllm", &text("vllm:gpu_cache_usage_perc")), expected);
        let both = text("vllm:kv_cache_usage_perc") + "vllm:gpu_cache_usage_perc{engine=\"0\"} 0.1\n";
        assert_eq!(values("vllm", &both), expected, "the new name wins");
        let aborted = "vllm:request_success_total{finished_reason=\"abort\"} 5\n\
            vllm:request_success_total{finished_reason=\"stop\"} 7\nvllm:request_success_total{finished_reason=\"length\"} 1\n";
        assert_eq!(read("vllm", aborted).get(Series::Successes), Some(8.0));
    }

    #[test]
    fn the_other_servers_are_read_by_their_documented_names() {
        let sglang = "sglang:num_queue_reqs{model_name=\"m\"} 2\nsglang:num_running_reqs{model_name=\"m\"} 9\n\
            sglang:token_usage{model_name=\"m\"} 0.4\n";
        let llama = "# TYPE llamacpp:requests_deferred gauge\nllamacpp:requests_deferred 46\nllamacpp:requests_processing 4\n";
        let triton = "nv_trt_llm_request_metrics{model=\"t\",request_type=\"waiting\",version=\"1\"} 5\n\
            nv_trt_llm_request_metrics{model=\"t\",request_type=\"active\",version=\"1\"} 12\n\
            nv_trt_llm_request_metrics{model=\"t\",request_type=\"scheduled\",version=\"1\"} 7\n\
            nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type=\"fraction\",model=\"t\"} 0.25\n";
        let jetstream = "jetstream_prefill_backlog_size{id=\"h\"} 3.0\n\
            jetstream_slots_used_percentage{id=\"h\",idx=\"0\"} 0.5\njetstream_slots_used_percentage{id=\"h\",idx=\"1\"} 0.25\n";
        let trtllm =
            "trtllm_num_requests_waiting 1\ntrtllm_num_requests_running 2\ntrtllm_kv_cache_utilization 0.5\n";
        for (name, text, expected) in [
            ("sglang", sglang, [Some(2.0), Some(9.0), Some(0.4)]),
            ("llamacpp", llama, [Some(46.0), Some(4.0), None]),
            ("triton-trtllm", triton, [Some(5.0), Some(7.0), Some(0.25)]),
            ("jetstream", jetstream, [Some(3.0), None, Some(0.375)]),
            ("trtllm-serve", trtllm, [Some(1.0), Some(2.0), Some(0.5)]),
            ("tgi", "tgi_queue_size 1\ntgi_batch_current_size 2\n", [Some(1.0), Some(2.0), None]),
        ] {
            assert_eq!(values(name, text), expected, "{name}");
            let recognized = Profile::recognize(&parse(text).unwrap()).map(|profile| profile.name);
            assert_eq!(recognized.as_deref(), Some(name));
        }
        assert_eq!(Profile::recognize(&parse("go_goroutines 7\n").unwrap()), None);
    }

    #[test]
    fn promql_follows_from_the_profile() {
        let vllm = Profile::built_in("vllm").unwrap();
        assert_eq!(
            vllm.promql(Series::KvUsage, "namespace=\"a\"", "pod").unwrap(),
            "avg by (pod) (vllm:kv_cache_usage_perc{namespace=\"a\"}) or \
             avg by (pod) (vllm:gpu_cache_usage_perc{namespace=\"a\"})"
        );
        assert_eq!(
            vllm.promql(Series::Successes, "", "pod").unwrap(),
            "sum by (pod) (vllm:request_success_total{finished_reason=~\"stop|length\"})"
        );
        let tgi = Profile::built_in("tgi").unwrap();
        assert_eq!(
            tgi.promql(Series::KvUsage, "", "pod").unwrap(),
            "sum by (pod) (tgi_batch_current_max_tokens) / sum by (pod) (tgi_batch_max_total_tokens)"
        );
        assert_eq!(tgi.promql(Series::GpuUtil, "", "pod"), None);
        assert_eq!(
            tgi.promql_time(Series::QueueSize, "a=\"b\"", "pod").unwrap(),
            "max by (pod) (timestamp(tgi_queue_size{a=\"b\"}))"
        );
    }

    #[test]
    fn a_wrong_profile_says_what_is_wrong_with_it() {
        let head = "version: 1\nname: x\ndescription: x\nrecognized-by: []\n";
        let fine = "apis: [chat]\nseries: {queue_size: [{metric: a}]}\n";
        assert!(Profile::parse("x.yaml", &format!("{head}{fine}")).is_ok());
        for (text, said) in [
            (format!("{head}{fine}colour: red\n"), "colour"),
            (format!("{head}apis: [chat]\nseries: {{queue_size: [{{metric: a, labls: {{}}}}]}}\n"), "labls"),
            (
                format!("{head}apis: [chat]\nseries: {{queue_sise: [{{metric: a}}]}}\n"),
                "did you mean queue_size",
            ),
            (format!("{head}apis: [chat]\nseries: {{kv_usage: [{{metric: a}}]}}\n"), "neither queue_size"),
            (format!("{head}apis: [chat]\nseries: {{queue_size: []}}\n"), "no readings"),
            (
                format!("{head}apis: [chat]\nseries: {{queue_size: [{{metric: 'a{{b=1}}'}}]}}\n"),
                "without braces",
            ),
            (format!("{head}apis: [chat]\nseries: {{queue_size: [{{metric: a, scale: 0}}]}}\n"), "scale"),
            (format!("{head}apis: [grpc]\nseries: {{queue_size: [{{metric: a}}]}}\n"), "'grpc'"),
            (format!("{head}apis: []\nseries: {{queue_size: [{{metric: a}}]}}\n"), "apis is empty"),
            (head.replace("version: 1", "version: 9") + fine, "its version is 9"),
            (String::new(), "x.yaml"),
        ] {
            let message = Profile::parse("x.yaml", &text).unwrap_err().to_string();
            assert!(message.contains(said) && message.contains("x.yaml"), "{said}: {message}");
        }
        let message = Profile::built_in("vlm").unwrap_err().to_string();
        assert!(message.contains("did you mean vllm?") && message.contains("sglang"), "{message}");
    }
}
