//! What each request asks for.

use super::{DatasetRow, stream};
use crate::scenario::SizeSpec;
use rand::{Rng, RngExt};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, LogNormal};
use std::sync::Arc;

/// Prompt and answer of one request, in tokens, each at least 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestSize {
    /// Prompt tokens wanted.
    pub input: u32,
    /// Output tokens wanted.
    pub output: u32,
}

/// One request as it is to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedRequest {
    /// Its prompt. `None`: one is to be made of `input` tokens.
    pub prompt: Option<Arc<str>>,
    /// Tokens of the prompt; `None` where only the server can count them.
    pub input: Option<u32>,
    /// Output tokens wanted, at least 1.
    pub output: u32,
}

impl From<RequestSize> for PlannedRequest {
    fn from(size: RequestSize) -> Self {
        PlannedRequest { prompt: None, input: Some(size.input), output: size.output }
    }
}

/// Letters that make a token, where nothing better is known.
const LETTERS_PER_TOKEN: f64 = 4.0;
/// Output tokens of a row that says nothing about its answer.
const UNKNOWN_OUTPUT: u32 = 256;

/// Requests out of the rows of a dataset, with remarks on what had to be assumed. `count` counts the
/// tokens of a text, where there is a tokenizer.
pub fn requests_of(
    rows: &[DatasetRow],
    count: Option<&dyn Fn(&str) -> u32>,
) -> (Vec<PlannedRequest>, Vec<String>) {
    let (mut estimated, mut unknown) = (0, 0);
    let mut request = |row: &DatasetRow| {
        let output = match (row.output, &row.answer) {
            (Some(tokens), _) => tokens,
            (None, Some(answer)) => count.map_or_else(
                || {
                    estimated += 1;
                    (answer.chars().count() as f64 / LETTERS_PER_TOKEN).ceil() as u32
                },
                |count| count(answer),
            ),
            (None, None) => {
                unknown += 1;
                UNKNOWN_OUTPUT
            }
        };
        let counted = || Some(count?(row.prompt.as_deref()?));
        PlannedRequest {
            prompt: row.prompt.clone(),
            input: row.input.or_else(counted),
            output: output.max(1),
        }
    };
    let requests = rows.iter().map(&mut request).collect();
    let mut remarks = Vec::new();
    if estimated > 0 {
        remarks.push(format!(
            "{estimated} of the dataset's answers come as text only: their output tokens are taken as one in \
             {LETTERS_PER_TOKEN} letters; give --tokenizer to count them"
        ));
    }
    if unknown > 0 {
        remarks.push(format!(
            "{unknown} of the dataset's requests do not say how long their answer is: {UNKNOWN_OUTPUT} tokens are asked for"
        ));
    }
    (requests, remarks)
}

/// Where requests come from.
#[derive(Debug, Clone)]
pub enum RequestSource {
    /// Sizes by two independent distributions: prompt and answer.
    Specs(SizeSpec, SizeSpec),
    /// Drawn with replacement from these, at least one. Prompt and answer stay together, since
    /// their lengths are correlated.
    Rows(Arc<[PlannedRequest]>),
}

impl RequestSource {
    /// The requests of the step at `place`; the same seed gives the same sequence.
    pub fn sampler(&self, seed: u64, place: u32) -> RequestSampler {
        RequestSampler { source: self.clone(), rng: stream(seed, &format!("requests of step {place}")) }
    }
}

/// An endless sequence of requests.
#[derive(Debug, Clone)]
pub struct RequestSampler {
    source: RequestSource,
    rng: ChaCha8Rng,
}

impl RequestSampler {
    /// The next request.
    pub fn sample(&mut self) -> PlannedRequest {
        match &self.source {
            RequestSource::Specs(input, output) => {
                RequestSize { input: draw(*input, &mut self.rng), output: draw(*output, &mut self.rng) }
                    .into()
            }
            RequestSource::Rows(rows) => rows[self.rng.random_range(0..rows.len())].clone(),
        }
    }
}

fn draw(spec: SizeSpec, rng: &mut impl Rng) -> u32 {
    match spec {
        SizeSpec::Fixed(tokens) => tokens,
        SizeSpec::Uniform(low, high) => rng.random_range(low..=high),
        SizeSpec::Lognormal { mean, sd } => {
            // Moments of the lognormal: sigma^2 = ln(1 + (sd/mean)^2), mu = ln(mean) - sigma^2/2.
            let variance = (sd / mean).powi(2).ln_1p();
            let drawn = LogNormal::new(mean.ln() - variance / 2.0, variance.sqrt()).map(|d| d.sample(rng));
            drawn.unwrap_or(mean).round().clamp(1.0, 1e7) as u32
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lognormal_sizes_have_the_stated_mean_and_deviation() {
        let spec = SizeSpec::Lognormal { mean: 256.0, sd: 180.0 };
        let mut sampler = RequestSource::Specs(spec, SizeSpec::Uniform(10, 20)).sampler(5, 0);
        let draws: Vec<PlannedRequest> = (0..100_000).map(|_| sampler.sample()).collect();
        let inputs = || draws.iter().filter_map(|request| request.input).map(f64::from);
        let mean = inputs().sum::<f64>() / draws.len() as f64;
        let variance = inputs().map(|input| (input - mean).powi(2)).sum::<f64>() / draws.len() as f64;
        assert!((mean / 256.0 - 1.0).abs() < 0.02, "{mean}");
        assert!((variance.sqrt() / 180.0 - 1.0).abs() < 0.05, "{}", variance.sqrt());
        let outputs: std::collections::BTreeSet<u32> = draws.iter().map(|request| request.output).collect();
        assert_eq!(outputs, (10..=20).collect());
    }

    #[test]
    fn requests_of_a_dataset_keep_prompt_and_answer_together() {
        let rows: Arc<[PlannedRequest]> =
            [(1, 2), (30, 40)].map(|(input, output)| RequestSize { input, output }.into()).into();
        let mut sampler = RequestSource::Rows(Arc::clone(&rows)).sampler(1, 0);
        let drawn: Vec<PlannedRequest> = (0..200).map(|_| sampler.sample()).collect();
        assert!(drawn.iter().all(|request| rows.contains(request)));
        assert!(rows.iter().all(|row| drawn.contains(row)));
    }

    #[test]
    fn each_step_has_requests_of_its_own_that_repeat_with_the_seed() {
        let source = RequestSource::Specs(SizeSpec::Uniform(1, 1000), SizeSpec::Uniform(1, 1000));
        let draw = |seed, place| {
            let mut sampler = source.sampler(seed, place);
            [(); 5].map(|()| sampler.sample())
        };
        assert_eq!(draw(1, 2), draw(1, 2));
        assert_ne!(draw(1, 2), draw(1, 3));
        assert_ne!(draw(1, 2), draw(2, 2));
    }

    #[test]
    fn what_a_row_does_not_say_is_counted_or_assumed_aloud() {
        let row = |prompt: Option<&str>, output, answer: Option<&str>| DatasetRow {
            prompt: prompt.map(Arc::from),
            input: None,
            output,
            answer: answer.map(Arc::from),
        };
        let rows = [
            row(Some("a b"), Some(7), None),
            row(Some("c"), None, Some("eight letters")),
            row(Some("d"), None, None),
        ];
        let (requests, remarks) = requests_of(&rows, None);
        assert_eq!(
            requests.iter().map(|r| (r.input, r.output)).collect::<Vec<_>>(),
            [(None, 7), (None, 4), (None, 256)]
        );
        assert_eq!(remarks.len(), 2);
        let words = |text: &str| text.split(' ').count() as u32;
        let (requests, remarks) = requests_of(&rows[..2], Some(&words));
        assert_eq!(
            requests.iter().map(|r| (r.input, r.output)).collect::<Vec<_>>(),
            [(Some(2), 7), (Some(1), 2)]
        );
        assert!(remarks.is_empty());
    }
}
