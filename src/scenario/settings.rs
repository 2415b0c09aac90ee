//! The fields of a scenario, which are the flags of `run`, and the complete scenario they make.

use super::{ClusterSettings, HeaderSpec, RampSpec, ScenarioError, SecretSource, SizeSpec, SourceSettings};
use crate::units::{Seconds, Slo, SloMetric};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::path::PathBuf;

/// Which API of the server is used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Api {
    /// TGI's own `/generate_stream`, or `/generate` without streaming.
    #[default]
    Generate,
    /// OpenAI's `/v1/chat/completions`.
    Chat,
    /// OpenAI's `/v1/completions`.
    Completions,
}

/// How arrivals of an open loop are spread in time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Arrivals {
    /// Exponential gaps: independent users.
    #[default]
    Poisson,
    /// Equal gaps.
    Constant,
}

/// Declares [`Settings`] with its layering, so that no field can be forgotten in it.
macro_rules! settings {
    ($($(#[$meta:meta])* $field:ident: $kind:ty,)+) => {
        /// What a scenario file or the flags of `run` say; a field that is `None` was not given.
        #[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, clap::Args)]
        #[serde(deny_unknown_fields, rename_all = "kebab-case")]
        pub struct Settings {
            $($(#[$meta])* #[serde(skip_serializing_if = "Option::is_none")] pub $field: Option<$kind>,)+
            /// Names for the manifests.
            #[command(flatten)]
            #[serde(default)]
            pub cluster: ClusterSettings,
            /// Metrics by way of others.
            #[command(flatten)]
            #[serde(default, skip_serializing_if = "SourceSettings::is_default")]
            pub sources: SourceSettings,
        }

        impl Settings {
            /// These settings, and `below` where they say nothing.
            pub fn over(self, below: Settings) -> Settings {
                Settings {
                    $($field: self.$field.or(below.$field),)+
                    cluster: self.cluster.over(below.cluster),
                    sources: self.sources.over(below.sources),
                }
            }
        }
    };
}

settings! {
    /// Version of the scenario format
    #[arg(skip)]
    version: u32,
    /// Name of the run, part of its directory's name
    #[arg(long, value_name = "NAME", help_heading = "Run")]
    name: String,
    /// How the load rises: adaptive, rate:FROM..TO:STEPSxHOLD, rate:1,2,4x30s, concurrency:1,2,4x20s, linear:FROM..TO@DURATION, trace:FILE[*SPEED]
    #[arg(long, value_name = "SPEC", num_args = 0..=1, require_equals = true, default_missing_value = "adaptive", help_heading = "Load")]
    ramp: RampSpec,
    /// A limit, METRIC:STAT:LIMIT, like ttft:p95:2s, tpot:mean:80ms or error:rate:1% (repeatable)
    #[arg(long, value_name = "SLO", action = clap::ArgAction::Append, help_heading = "Judgement")]
    slo: Vec<Slo>,
    /// Address of the server; without it, the embedded simulated server
    #[arg(long, value_name = "URL", help_heading = "Target")]
    target: String,
    /// Kind of the server: tgi, vllm, sglang, llamacpp, triton-trtllm, trtllm-serve, jetstream, a profile's YAML file, or auto [default: auto]
    #[arg(long, value_name = "KIND", help_heading = "Target")]
    server: String,
    /// Model that requests to an OpenAI API name [default: the first that the server lists]
    #[arg(long, value_name = "NAME", help_heading = "Target")]
    model: String,
    /// What the embedded simulated server imitates, see `calibrate sim --list` [default: demo]
    #[arg(long, value_name = "PRESET", conflicts_with = "target", help_heading = "Target")]
    preset: String,
    /// API that the requests use [default: by the kind of server, generate for TGI and chat for others]
    #[arg(long, value_enum, help_heading = "Load")]
    api: Api,
    /// Whether answers are streamed; without, only end-to-end latency is known [default: true]
    #[arg(long, value_name = "BOOL", help_heading = "Load")]
    stream: bool,
    /// Prompt tokens: fixed:200, uniform:50-400 or lognormal:mean=256,sd=180 (the default)
    #[arg(long, value_name = "SIZE", help_heading = "Load")]
    input_tokens: SizeSpec,
    /// Output tokens, in the same forms [default: lognormal:mean=128,sd=96]
    #[arg(long, value_name = "SIZE", help_heading = "Load")]
    output_tokens: SizeSpec,
    /// Requests to draw from: ShareGPT JSON, JSONL with prompts or sizes, or a trace's sizes
    #[arg(long, value_name = "FILE", conflicts_with_all = ["input_tokens", "output_tokens"], help_heading = "Load")]
    dataset: PathBuf,
    /// The model's tokenizer.json, to make prompts of exactly the wanted tokens
    #[arg(long, value_name = "FILE", help_heading = "Load")]
    tokenizer: PathBuf,
    /// Tokens at the start of every prompt that are the same in all; else each prompt is a text of its own
    #[arg(long, value_name = "TOKENS", help_heading = "Load")]
    shared_prefix: u32,
    /// max_new_tokens to declare in every request, instead of the wanted output tokens
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(1..), help_heading = "Load")]
    max_new_tokens: u32,
    /// How arrivals of an open loop are spread in time [default: poisson]
    #[arg(long, value_enum, help_heading = "Load")]
    arrivals: Arrivals,
    /// Shape of gamma-distributed gaps: 1 is Poisson, below is burstier, above more even
    #[arg(long, value_name = "SHAPE", conflicts_with = "arrivals", help_heading = "Load")]
    burstiness: f64,
    /// Seed of arrivals and sizes: the same seed gives the same load; prompt texts are new in every run [default: 1]
    #[arg(long, value_name = "N", help_heading = "Load")]
    seed: u64,
    /// Warm-up at the start of each step, not measured [default: 30 % of the step, at most 30s]
    #[arg(long, value_name = "TIME", help_heading = "Load")]
    #[serde(deserialize_with = "duration", serialize_with = "plain", default)]
    warm_up: Seconds,
    /// Most requests in flight at once; workers are added as needed up to this [default: 10000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000), help_heading = "Load")]
    max_concurrency: u32,
    /// Longest wait for the next event of an answer [default: 60s]
    #[arg(long, value_name = "TIME", help_heading = "Load")]
    #[serde(deserialize_with = "duration", serialize_with = "plain", default)]
    timeout: Seconds,
    /// Start no step that would end after this time, whatever is left of the ramp
    #[arg(long, value_name = "TIME", help_heading = "Load")]
    #[serde(deserialize_with = "duration", serialize_with = "plain", default)]
    max_duration: Seconds,
    /// Allow load to a public address: it is mine
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL", help_heading = "Target")]
    i_own_this_target: bool,
    /// Bearer token for the target: env:NAME or file:PATH
    #[arg(long, value_name = "PLACE", help_heading = "Target")]
    bearer_token: SecretSource,
    /// Extra header for the target, its value by its place: NAME=env:VARIABLE or NAME=file:PATH (repeatable)
    #[arg(long, value_name = "HEADER", action = clap::ArgAction::Append, help_heading = "Target")]
    header: Vec<HeaderSpec>,
    /// PEM file of certificate authorities to trust besides the system's
    #[arg(long, value_name = "FILE", help_heading = "Target")]
    ca_cert: PathBuf,
    /// Address of a replica's /metrics (repeatable, one per replica) [default: TARGET/metrics]
    #[arg(long, value_name = "URL", action = clap::ArgAction::Append, help_heading = "Metrics")]
    metrics_url: Vec<String>,
    /// Address of a DCGM exporter's /metrics (repeatable, one per replica)
    #[arg(long, value_name = "URL", action = clap::ArgAction::Append, help_heading = "Metrics")]
    gpu_metrics_url: Vec<String>,
    /// Replicas behind the target [default: one per --metrics-url]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), help_heading = "Metrics")]
    replicas: u32,
    /// GPUs of each replica [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), help_heading = "Metrics")]
    gpus_per_replica: u32,
    /// Tolerance of the HPA controller, as a fraction of 1 [default: 0.1]
    #[arg(long, value_name = "FRACTION", help_heading = "Judgement")]
    tolerance: f64,
    /// Delay of the metric on its way to the HPA: half a scrape, ingestion, adapter [default: as measured by way of the metrics APIs, else 30s]
    #[arg(long, value_name = "TIME", help_heading = "Judgement")]
    #[serde(deserialize_with = "duration", serialize_with = "plain", default)]
    lag: Seconds,
    /// Time from the decision to scale up until the new replica serves [default: 120s]
    #[arg(long, value_name = "TIME", help_heading = "Judgement")]
    #[serde(deserialize_with = "duration", serialize_with = "plain", default)]
    startup: Seconds,
    /// Growth of the load that must be survived, as a fraction per minute [default: 0.1]
    #[arg(long, value_name = "FRACTION", help_heading = "Judgement")]
    growth: f64,
    /// Replicas that share the load in production [default: as many as are measured]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000), help_heading = "Judgement")]
    production_replicas: u32,
    /// Directory of the run [default: reports/<UTC time>-<name>]
    #[arg(long, value_name = "DIR", help_heading = "Run")]
    out: PathBuf,
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Seconds>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    text.map(|text| text.parse().map_err(serde::de::Error::custom)).transpose()
}

#[allow(clippy::ref_option, reason = "serde calls it with a reference to the field")]
fn plain<S: Serializer>(value: &Option<Seconds>, serializer: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(seconds) => serializer.collect_str(&format_args!("{}s", seconds.0)),
        None => serializer.serialize_none(),
    }
}

/// A complete scenario: everything that a run does is said here.
#[derive(Debug, Clone, PartialEq)]
pub struct Scenario {
    /// Name of the run.
    pub name: String,
    /// How the load rises.
    pub ramp: RampSpec,
    /// The limits; at least one.
    pub slos: Vec<Slo>,
    /// The server; `None` is the embedded simulated one.
    pub target: Option<String>,
    /// What the embedded server imitates.
    pub preset: String,
    /// Kind of the server: a built-in profile, a file, or `auto`.
    pub server: String,
    /// Model that requests to an OpenAI API name.
    pub model: Option<String>,
    /// The API used; `None`: the first of the server's profile.
    pub api: Option<Api>,
    /// Whether answers are streamed.
    pub stream: bool,
    /// Prompt sizes, where no dataset is given.
    pub input_tokens: SizeSpec,
    /// Output sizes, where no dataset is given.
    pub output_tokens: SizeSpec,
    /// Requests to draw from.
    pub dataset: Option<PathBuf>,
    /// The model's `tokenizer.json`.
    pub tokenizer: Option<PathBuf>,
    /// Tokens at the start of every prompt that are the same in all.
    pub shared_prefix: u32,
    /// `max_new_tokens` declared in every request; `None`: the wanted output size.
    pub max_new_tokens: Option<u32>,
    /// How arrivals are spread.
    pub arrivals: Arrivals,
    /// Shape of gamma-distributed gaps, instead of `arrivals`.
    pub burstiness: Option<f64>,
    /// Seed of everything random.
    pub seed: u64,
    /// Warm-up of each step; `None`: by the step's length.
    pub warm_up: Option<Seconds>,
    /// Most requests in flight.
    pub max_concurrency: u32,
    /// Longest wait for the next event.
    pub timeout: Seconds,
    /// Longest run.
    pub max_duration: Option<Seconds>,
    /// Whether a public address may be loaded.
    pub i_own_this_target: bool,
    /// Where the bearer token for the target is kept.
    pub bearer_token: Option<SecretSource>,
    /// Extra headers for the target.
    pub headers: Vec<HeaderSpec>,
    /// Certificate authorities to trust besides the system's.
    pub ca_cert: Option<PathBuf>,
    /// `/metrics` of each replica; empty: the target's own.
    pub metrics_urls: Vec<String>,
    /// DCGM exporter of each replica.
    pub gpu_metrics_urls: Vec<String>,
    /// Replicas behind the target.
    pub replicas: u32,
    /// GPUs of each replica.
    pub gpus_per_replica: u32,
    /// HPA tolerance.
    pub tolerance: f64,
    /// Delay of the metric on its way to the HPA; `None`: as measured, else assumed.
    pub lag: Option<Seconds>,
    /// Start-up time of a replica.
    pub startup: Seconds,
    /// Growth of the load to allow for, as a fraction per minute.
    pub growth: f64,
    /// Replicas that share the load in production.
    pub production_replicas: u32,
    /// Directory of the run; `None`: named by time.
    pub out: Option<PathBuf>,
    /// Names for the manifests.
    pub cluster: ClusterSettings,
    /// Metrics by way of others.
    pub sources: SourceSettings,
    /// The settings that made it, complete with defaults: the effective scenario.
    pub settings: Settings,
}

impl Settings {
    /// What is used where neither flags nor file say anything.
    fn defaults() -> Settings {
        Settings {
            version: Some(1),
            name: Some("run".to_owned()),
            ramp: Some(RampSpec::Adaptive),
            preset: Some("demo".to_owned()),
            server: Some("auto".to_owned()),
            input_tokens: Some(SizeSpec::Lognormal { mean: 256.0, sd: 180.0 }),
            output_tokens: Some(SizeSpec::Lognormal { mean: 128.0, sd: 96.0 }),
            stream: Some(true),
            shared_prefix: Some(0),
            arrivals: Some(Arrivals::Poisson),
            seed: Some(1),
            max_concurrency: Some(10_000),
            timeout: Some(Seconds(60.0)),
            i_own_this_target: Some(false),
            gpus_per_replica: Some(1),
            tolerance: Some(0.1),
            startup: Some(Seconds(120.0)),
            growth: Some(0.1),
            ..Settings::default()
        }
    }

    /// Fills in the defaults and checks every field.
    pub fn resolve(self) -> Result<Scenario, ScenarioError> {
        self.check_version()?;
        self.check_sources_of_sizes()?;
        let all = self.over(Settings::defaults());
        all.check_values()?;
        let mut settings = all.clone();
        if all.target.is_some() {
            settings.preset = None;
        }
        if all.burstiness.is_some() {
            settings.arrivals = None;
        }
        if all.dataset.is_some() || matches!(all.ramp, Some(RampSpec::Trace { .. })) {
            (settings.input_tokens, settings.output_tokens) = (None, None);
        }
        let metrics_urls = all.metrics_url.unwrap_or_default();
        let replicas = all.replicas.unwrap_or(metrics_urls.len().max(1) as u32);
        settings.replicas = Some(replicas);
        let missing = |field: &'static str| ScenarioError::field(field, "is missing", "give it a value");
        Ok(Scenario {
            name: all.name.ok_or_else(|| missing("name"))?,
            ramp: all.ramp.ok_or_else(|| missing("ramp"))?,
            slos: all.slo.unwrap_or_default(),
            target: all.target,
            preset: all.preset.ok_or_else(|| missing("preset"))?,
            server: all.server.ok_or_else(|| missing("server"))?,
            model: all.model,
            api: all.api,
            stream: all.stream.ok_or_else(|| missing("stream"))?,
            input_tokens: all.input_tokens.ok_or_else(|| missing("input-tokens"))?,
            output_tokens: all.output_tokens.ok_or_else(|| missing("output-tokens"))?,
            dataset: all.dataset,
            tokenizer: all.tokenizer,
            shared_prefix: all.shared_prefix.ok_or_else(|| missing("shared-prefix"))?,
            max_new_tokens: all.max_new_tokens,
            arrivals: all.arrivals.unwrap_or_default(),
            burstiness: all.burstiness,
            seed: all.seed.ok_or_else(|| missing("seed"))?,
            warm_up: all.warm_up,
            max_concurrency: all.max_concurrency.ok_or_else(|| missing("max-concurrency"))?,
            timeout: all.timeout.ok_or_else(|| missing("timeout"))?,
            max_duration: all.max_duration,
            i_own_this_target: all.i_own_this_target.unwrap_or(false),
            bearer_token: all.bearer_token,
            headers: all.header.unwrap_or_default(),
            ca_cert: all.ca_cert,
            metrics_urls,
            gpu_metrics_urls: all.gpu_metrics_url.unwrap_or_default(),
            replicas,
            gpus_per_replica: all.gpus_per_replica.ok_or_else(|| missing("gpus-per-replica"))?,
            tolerance: all.tolerance.ok_or_else(|| missing("tolerance"))?,
            lag: all.lag,
            startup: all.startup.ok_or_else(|| missing("startup"))?,
            growth: all.growth.ok_or_else(|| missing("growth"))?,
            production_replicas: all.production_replicas.unwrap_or(replicas),
            out: all.out,
            cluster: all.cluster,
            sources: all.sources,
            settings,
        })
    }

    fn check_version(&self) -> Result<(), ScenarioError> {
        match self.version {
            None | Some(1) => Ok(()),
            Some(other) => Err(ScenarioError::field(
                "version",
                format!("{other} is not a version this calibrate knows"),
                "use version: 1",
            )),
        }
    }

    /// A trace and a dataset bring their own sizes. To be checked before defaults are filled in.
    fn check_sources_of_sizes(&self) -> Result<(), ScenarioError> {
        let sizes = self.input_tokens.is_some() || self.output_tokens.is_some();
        let is_trace = matches!(self.ramp, Some(RampSpec::Trace { .. }));
        let (field, problem) = match (is_trace, &self.dataset) {
            (true, Some(_)) => ("dataset", "cannot stand beside ramp: trace:..., which brings its own sizes"),
            (true, None) if sizes => {
                ("input-tokens", "or output-tokens stands beside ramp: trace:..., which brings its own sizes")
            }
            (false, Some(_)) if sizes => {
                ("input-tokens", "or output-tokens stands beside dataset, which brings its own sizes")
            }
            _ => return Ok(()),
        };
        Err(ScenarioError::field(field, problem, "leave one of the two out"))
    }

    fn check_load(&self) -> Result<(), ScenarioError> {
        if self.burstiness.is_some_and(|shape| !(0.01..=1000.0).contains(&shape)) {
            let remedy = "1 is Poisson, 0.25 is bursty, 10 is nearly even";
            return Err(ScenarioError::field("burstiness", "must be from 0.01 to 1000", remedy));
        }
        if let (Some(RampSpec::Concurrency { levels, .. }), Some(most)) = (&self.ramp, self.max_concurrency)
            && let Some(level) = levels.iter().find(|level| **level > most)
        {
            return Err(ScenarioError::field(
                "ramp",
                format!("asks for {level} requests in flight, and max-concurrency allows {most}"),
                "raise max-concurrency",
            ));
        }
        let shortest = match &self.ramp {
            Some(RampSpec::Rate { hold, .. } | RampSpec::Concurrency { hold, .. }) => Some(*hold),
            _ => None,
        };
        if let (Some(shortest), Some(most)) = (shortest, self.max_duration)
            && shortest.0 > most.0
        {
            return Err(ScenarioError::field(
                "max-duration",
                format!("of {most} leaves no time for a step of {shortest}"),
                "raise it or shorten the steps",
            ));
        }
        let needs_stream =
            |slo: &&Slo| matches!(slo.metric, SloMetric::Ttft | SloMetric::Tpot | SloMetric::Itl);
        if self.stream == Some(false)
            && let Some(slo) = self.slo.iter().flatten().find(needs_stream)
        {
            return Err(ScenarioError::field(
                "slo",
                format!("{slo} needs streamed answers, and stream is false"),
                "limit e2e or ntpot, or leave stream out",
            ));
        }
        Ok(())
    }

    fn check_addresses(&self) -> Result<(), ScenarioError> {
        let fail = |field: &'static str, problem: &str, remedy: &str| {
            Err(ScenarioError::field(field, problem.to_owned(), remedy))
        };
        for (field, urls) in [("metrics-url", &self.metrics_url), ("gpu-metrics-url", &self.gpu_metrics_url)]
        {
            if urls.iter().flatten().any(|url| !is_http(url)) {
                return fail(
                    field,
                    "is not an http:// or https:// address",
                    "write it in full, like http://10.0.0.7:8000/metrics",
                );
            }
        }
        if self.target.as_ref().is_some_and(|url| !is_http(url)) {
            return fail(
                "target",
                "is not an http:// or https:// address",
                "write it in full, like http://localhost:8080",
            );
        }
        if let Some((field, _)) = self.sources.addresses().find(|(_, url)| !is_http(url)) {
            let remedy = "write it in full, like http://prometheus:9090";
            return fail(field, "is not an http:// or https:// address", remedy);
        }
        let urls = self.metrics_url.iter().flatten().chain(self.gpu_metrics_url.iter().flatten());
        let urls = urls.chain(self.sources.addresses().map(|(_, url)| url));
        if urls.clone().chain(&self.target).any(|url| has_secret_in_query(url)) {
            return fail(
                "target",
                "or an address of metrics seems to hold a key or token behind its '?', which would be recorded",
                "give it with --header NAME=env:VARIABLE",
            );
        }
        if urls.chain(&self.target).any(|url| has_credentials(url)) {
            return fail(
                "target",
                "or an address of metrics holds a user name or password, which would be recorded",
                "give the address without them",
            );
        }
        Ok(())
    }

    fn check_values(&self) -> Result<(), ScenarioError> {
        self.check_load()?;
        let fail = |field: &'static str, problem: &str, remedy: &str| {
            Err(ScenarioError::field(field, problem.to_owned(), remedy))
        };
        if self.slo.as_ref().is_none_or(Vec::is_empty) {
            return fail(
                "slo",
                "is missing, and without one there is no capacity to find",
                "add --slo ttft:p95:2s or another limit",
            );
        }
        if [self.replicas, self.production_replicas].iter().flatten().any(|n| !(1..=1000).contains(n)) {
            return fail(
                "replicas",
                "must be from 1 to 1000, in production too",
                "say how many share the load",
            );
        }
        if self.tolerance.is_some_and(|t| !(0.0..1.0).contains(&t)) {
            return fail("tolerance", "must be at least 0 and below 1", "10 % is written 0.1");
        }
        if self.growth.is_some_and(|growth| !(0.0..=10.0).contains(&growth)) {
            return fail("growth", "must be from 0 to 10", "10 % a minute is written 0.1");
        }
        if self.lag.into_iter().chain(self.startup).any(|time| time.0 > 3600.0) {
            return fail("lag", "or startup is above an hour", "write seconds as 30s, minutes as 2m");
        }
        let name_ok = |name: &String| {
            !name.is_empty()
                && name.len() <= 60
                && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        };
        if !self.name.as_ref().is_some_and(name_ok) {
            return fail(
                "name",
                "must be 1 to 60 letters, digits, '-', '_' or '.'",
                "use a name like chat-l4",
            );
        }
        self.check_addresses()?;
        self.sources.check()?;
        if self.timeout.is_some_and(|t| t.0 < 0.1) {
            return fail("timeout", "is below 100ms", "the wait for a first token can take seconds: use 60s");
        }
        Ok(())
    }
}

/// Whether an address carries `user:password@`.
fn has_credentials(url: &str) -> bool {
    let authority = url.split("://").nth(1).and_then(|rest| rest.split(['/', '?', '#']).next());
    authority.is_some_and(|authority| authority.contains('@'))
}

/// Whether the query of an address names what is usually secret.
fn has_secret_in_query(url: &str) -> bool {
    const NAMES: [&str; 6] = ["key", "token", "secret", "passw", "auth", "sig"];
    url.split_once('?').is_some_and(|(_, query)| {
        let query = query.to_ascii_lowercase();
        NAMES.iter().any(|name| query.contains(name))
    })
}

fn is_http(url: &str) -> bool {
    let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
    rest.is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slo() -> Settings {
        Settings { slo: Some(vec!["ttft:p95:2s".parse().unwrap()]), ..Settings::default() }
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_over_defaults() {
        let file = Settings { seed: Some(7), name: Some("file".into()), ..slo() };
        let flags = Settings { name: Some("flag".into()), ..Settings::default() };
        let scenario = flags.over(file).resolve().unwrap();
        assert_eq!((scenario.name.as_str(), scenario.seed, scenario.tolerance), ("flag", 7, 0.1));
    }

    #[test]
    fn the_effective_scenario_resolves_to_itself() {
        let scenario = slo().resolve().unwrap();
        assert_eq!(scenario.settings.clone().resolve().unwrap(), scenario);
        let yaml = serde_saphyr::to_string(&scenario.settings).unwrap();
        assert_eq!(serde_saphyr::from_str::<Settings>(&yaml).unwrap(), scenario.settings);
    }

    #[test]
    fn wrong_values_name_their_field() {
        let wrong = [
            (Settings::default(), "slo"),
            (Settings { tolerance: Some(1.0), ..slo() }, "tolerance"),
            (Settings { name: Some("a b".into()), ..slo() }, "name"),
            (Settings { target: Some("localhost:80".into()), ..slo() }, "target"),
            (Settings { version: Some(2), ..slo() }, "version"),
            (Settings { target: Some("http://me:secret@localhost".into()), ..slo() }, "would be recorded"),
            (Settings { target: Some("http://localhost/?api_key=x".into()), ..slo() }, "would be recorded"),
        ];
        for (settings, field) in wrong {
            let message = settings.resolve().unwrap_err().to_string();
            assert!(message.contains(field), "{message}");
        }
    }
}
