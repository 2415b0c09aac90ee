//! Scrapes one exposition.

use super::dcgm::{self, GpusOf};
use super::exposition::{self, Exposition};
use super::http::{self, Problem, ProblemKind};
use super::profile::Profile;
use crate::measurement::{RunClock, Sample, Source};
use std::sync::Arc;

/// How what is scraped is read.
#[derive(Debug, Clone)]
pub enum Reading {
    /// A server's own metrics, by the profile of its kind.
    Server(Arc<Profile>),
    /// A DCGM exporter's, of these GPUs.
    Dcgm(GpusOf),
}

/// One address to scrape, which speaks for one replica.
#[derive(Debug, Clone)]
pub struct Scrape {
    url: String,
    client: reqwest::Client,
    reading: Reading,
    replica: u32,
}

impl Scrape {
    /// `client` asks `url`, which speaks for `replica` and is read as `reading` says.
    pub fn new(url: String, client: reqwest::Client, reading: Reading, replica: u32) -> Scrape {
        Scrape { url, client, reading, replica }
    }

    /// Its address.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The replica that it speaks for.
    pub fn replica(&self) -> u32 {
        self.replica
    }

    /// What its samples are called.
    pub fn source(&self) -> Source {
        match self.reading {
            Reading::Server(_) => Source::Server,
            Reading::Dcgm(_) => Source::Gpu,
        }
    }

    pub(super) async fn poll(&self, clock: RunClock) -> Result<Vec<Sample>, Problem> {
        let time = clock.now();
        let exposition = exposition_at(&self.client, &self.url).await?;
        let took = clock.now() - time;
        let mut sample = Sample::new(time, took, self.source(), self.replica);
        match &self.reading {
            Reading::Server(profile) => profile.read(&exposition, &mut sample),
            Reading::Dcgm(gpus) => dcgm::read(&exposition, gpus, &mut sample)?,
        }
        Ok(vec![sample])
    }
}

/// What is exposed at an address.
///
/// # Errors
/// Nothing there, or something else than an exposition.
pub async fn exposition_at(client: &reqwest::Client, url: &str) -> Result<Exposition, Problem> {
    let body = http::text(client.get(url)).await?;
    exposition::parse(&body).map_err(|error| Problem::new(ProblemKind::Malformed, error.to_string()))
}
