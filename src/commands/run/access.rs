//! How servers are reached: certificates, tokens and headers read from where they are kept.

use crate::cli::{Exit, Failure, OrExit};
use crate::drive;
use crate::observe;
use crate::scenario::{HeaderSpec, Scenario, SecretSource};
use anyhow::{Context, anyhow};
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};

/// The HTTP clients of a run.
pub(in crate::commands) struct Access {
    /// For load.
    pub load: reqwest::Client,
    /// For metrics of the target's own origin: with its token and headers.
    pub own_metrics: reqwest::Client,
    /// For metrics from elsewhere: without, since a secret is for the target alone.
    pub other_metrics: reqwest::Client,
    /// For Google's APIs, which may lie behind a proxy.
    pub google: reqwest::Client,
    certificates: Vec<reqwest::Certificate>,
}

impl Access {
    /// Reads certificates and secrets and makes the clients.
    pub(in crate::commands) fn prepare(scenario: &Scenario) -> Result<Access, Failure> {
        let certificates = certificates(scenario)?;
        let headers = headers(scenario)?;
        let mut load = drive::client_builder();
        if scenario.fresh_connections {
            load = load.pool_max_idle_per_host(0);
        }
        Ok(Access {
            load: client(load, &certificates, headers.clone())?,
            own_metrics: client(observe::client_builder(), &certificates, headers)?,
            other_metrics: client(observe::client_builder(), &certificates, HeaderMap::new())?,
            google: client(observe::api_client_builder(), &certificates, HeaderMap::new())?,
            certificates,
        })
    }

    /// A client for metrics from elsewhere, with a bearer token of their own.
    pub(in crate::commands) fn with_token(
        &self,
        place: &SecretSource,
        flag: &'static str,
    ) -> Result<reqwest::Client, Failure> {
        let token = read(place).context(flag).or_exit(Exit::Usage)?;
        let token = value(&format!("Bearer {token}"), place).or_exit(Exit::Usage)?;
        client(observe::client_builder(), &self.certificates, [(AUTHORIZATION, token)].into_iter().collect())
    }

    /// The client for metrics at `url`, where load goes to `target`.
    pub(in crate::commands) fn metrics(&self, url: &str, target: &reqwest::Url) -> reqwest::Client {
        let own = reqwest::Url::parse(url).is_ok_and(|url| url.origin() == target.origin());
        if own { self.own_metrics.clone() } else { self.other_metrics.clone() }
    }
}

fn client(
    builder: reqwest::ClientBuilder,
    certificates: &[reqwest::Certificate],
    headers: HeaderMap,
) -> Result<reqwest::Client, Failure> {
    let builder = certificates.iter().cloned().fold(builder, reqwest::ClientBuilder::add_root_certificate);
    let client = builder.default_headers(headers).build();
    client.context("cannot make an HTTP client").or_exit(Exit::Failed)
}

fn certificates(scenario: &Scenario) -> Result<Vec<reqwest::Certificate>, Failure> {
    let Some(path) = &scenario.ca_cert else { return Ok(Vec::new()) };
    let shown = path.display();
    let pem = std::fs::read(path)
        .with_context(|| format!("--ca-cert: cannot read {shown}"))
        .or_exit(Exit::Usage)?;
    let found = reqwest::Certificate::from_pem_bundle(&pem)
        .with_context(|| format!("--ca-cert: {shown} is no PEM file of certificates"))
        .or_exit(Exit::Usage)?;
    if found.is_empty() {
        return Err(anyhow!(
            "--ca-cert: {shown} holds no certificate; it must be PEM, with BEGIN CERTIFICATE"
        ))
        .or_exit(Exit::Usage);
    }
    Ok(found)
}

fn headers(scenario: &Scenario) -> Result<HeaderMap, Failure> {
    let mut headers = HeaderMap::new();
    if let Some(place) = &scenario.bearer_token {
        let token = read(place).context("--bearer-token").or_exit(Exit::Usage)?;
        headers.insert(AUTHORIZATION, value(&format!("Bearer {token}"), place).or_exit(Exit::Usage)?);
    }
    for HeaderSpec { name, value: place } in &scenario.headers {
        let in_header = || format!("--header {name}");
        let text = read(place).with_context(in_header).or_exit(Exit::Usage)?;
        let name = HeaderName::from_bytes(name.as_bytes()).with_context(in_header).or_exit(Exit::Usage)?;
        let value = value(&text, place).with_context(in_header).or_exit(Exit::Usage)?;
        headers.insert(name, value);
    }
    Ok(headers)
}

/// A header value that is never shown.
fn value(text: &str, place: &SecretSource) -> anyhow::Result<HeaderValue> {
    let mut value = HeaderValue::from_str(text)
        .map_err(|_| anyhow!("{place} holds letters that no header can carry, like a line break"))?;
    value.set_sensitive(true);
    Ok(value)
}

fn read(place: &SecretSource) -> anyhow::Result<String> {
    let text = match place {
        SecretSource::Env(name) => std::env::var(name).map_err(|_| {
            anyhow!("the environment variable {name} is not set, or not text; export it first")
        })?,
        SecretSource::File(path) => {
            std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?
        }
    };
    let text = text.trim();
    if text.is_empty() {
        return Err(anyhow!("{place} is empty"));
    }
    Ok(text.to_owned())
}
