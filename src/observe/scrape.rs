//! Scrapes expositions at a fixed interval.

use super::{Sink, dcgm, exposition, tgi};
use crate::measurement::{Event, RunClock, Sample, Source};
use crate::units::Seconds;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

/// Time between two scrapes of a source.
const INTERVAL: Duration = Duration::from_secs(1);
/// Longest wait for one scrape.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Largest body that is read.
const BODY_MOST: usize = 64 * 1024 * 1024;

/// What an HTTP client for scrapes is made from; the caller adds certificates and headers.
pub fn client_builder() -> reqwest::ClientBuilder {
    reqwest::Client::builder().no_gzip().no_proxy().timeout(TIMEOUT)
}

/// One address to scrape.
#[derive(Debug, Clone)]
pub struct Target {
    /// Its address.
    pub url: String,
    /// The client that asks.
    pub client: reqwest::Client,
    /// What it is.
    pub source: Source,
    /// The replica that it speaks for, from 0.
    pub replica: u32,
}

/// What one scrape gave.
#[derive(Debug, Clone, PartialEq)]
pub enum Scraped {
    /// A sample; empty where the source shows no known series, as a TGI before its first request.
    Sample(Box<Sample>),
    /// Nothing, and why.
    Failed(String),
}

/// The running scrapers; they end when this is dropped.
pub struct Observer {
    tasks: Vec<JoinHandle<()>>,
}

impl Observer {
    /// Starts one scraper for each target.
    pub fn start(targets: &[Target], clock: RunClock, sink: &Arc<dyn Sink>) -> Observer {
        let task = |target: &Target| tokio::spawn(scrape_forever(target.clone(), clock, Arc::clone(sink)));
        Observer { tasks: targets.iter().map(task).collect() }
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

async fn scrape_forever(target: Target, clock: RunClock, sink: Arc<dyn Sink>) {
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        ticks.tick().await;
        let time = clock.now();
        match scrape(&target, clock).await {
            Scraped::Sample(sample) => sink.sample(*sample),
            Scraped::Failed(reason) => {
                sink.event(Event::ScrapeFailed {
                    time,
                    source: target.source,
                    replica: target.replica,
                    reason,
                });
            }
        }
    }
}

/// Scrapes a target once.
pub async fn scrape(target: &Target, clock: RunClock) -> Scraped {
    let time = clock.now();
    let body = match fetch(&target.client, &target.url).await {
        Ok(body) => body,
        Err(reason) => return Scraped::Failed(reason),
    };
    let took = clock.now() - time;
    match interpret(&body, target, time, took) {
        Ok(sample) => Scraped::Sample(Box::new(sample)),
        Err(error) => Scraped::Failed(error.to_string()),
    }
}

fn interpret(
    body: &str,
    target: &Target,
    time: Seconds,
    took: Seconds,
) -> Result<Sample, exposition::ParseError> {
    let exposition = exposition::parse(body)?;
    Ok(match target.source {
        Source::Server => tgi::sample(&exposition, time, took, target.replica),
        Source::Gpu => dcgm::sample(&exposition, time, took, target.replica),
    })
}

async fn fetch(client: &reqwest::Client, url: &str) -> Result<String, String> {
    let mut response = client.get(url).send().await.map_err(|error| root_cause(&error))?;
    if !response.status().is_success() {
        return Err(format!("HTTP {}", response.status()));
    }
    let mut body = Vec::new();
    while let Some(bytes) = response.chunk().await.map_err(|error| root_cause(&error))? {
        body.extend_from_slice(&bytes);
        if body.len() > BODY_MOST {
            return Err(format!("the answer is larger than {} MiB", BODY_MOST / (1024 * 1024)));
        }
    }
    String::from_utf8(body).map_err(|_| "the answer is not UTF-8 text".to_owned())
}

/// The innermost reason of an error: "connection refused" rather than "error sending request".
fn root_cause(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source()).last().unwrap_or(error).to_string()
}
