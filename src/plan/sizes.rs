//! How many tokens each request asks for.

use super::stream;
use crate::scenario::SizeSpec;
use rand::{Rng, RngExt};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, LogNormal};

/// Prompt and answer of one request, in tokens, each at least 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestSize {
    /// Prompt tokens wanted.
    pub input: u32,
    /// Output tokens wanted.
    pub output: u32,
}

/// An endless sequence of request sizes; the same seed gives the same sequence.
#[derive(Debug, Clone)]
pub struct SizeSampler {
    source: SizeSource,
    rng: ChaCha8Rng,
}

#[derive(Debug, Clone)]
enum SizeSource {
    Specs(SizeSpec, SizeSpec),
    /// Drawn with replacement, input and output together, since they are correlated.
    Dataset(Vec<RequestSize>),
}

impl SizeSampler {
    /// Sizes by two independent distributions.
    pub fn from_specs(input: SizeSpec, output: SizeSpec, seed: u64) -> Self {
        SizeSampler { source: SizeSource::Specs(input, output), rng: stream(seed, "sizes") }
    }

    /// Sizes drawn from the requests of a trace. `None` where there are none.
    pub fn from_dataset(sizes: Vec<RequestSize>, seed: u64) -> Option<Self> {
        (!sizes.is_empty())
            .then(|| SizeSampler { source: SizeSource::Dataset(sizes), rng: stream(seed, "sizes") })
    }

    /// The next size.
    pub fn sample(&mut self) -> RequestSize {
        match &self.source {
            SizeSource::Specs(input, output) => {
                RequestSize { input: draw(*input, &mut self.rng), output: draw(*output, &mut self.rng) }
            }
            SizeSource::Dataset(sizes) => sizes[self.rng.random_range(0..sizes.len())],
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
        let mut sampler = SizeSampler::from_specs(spec, SizeSpec::Uniform(10, 20), 5);
        let draws: Vec<RequestSize> = (0..100_000).map(|_| sampler.sample()).collect();
        let mean = draws.iter().map(|s| f64::from(s.input)).sum::<f64>() / draws.len() as f64;
        let variance =
            draws.iter().map(|s| (f64::from(s.input) - mean).powi(2)).sum::<f64>() / draws.len() as f64;
        assert!((mean / 256.0 - 1.0).abs() < 0.02, "{mean}");
        assert!((variance.sqrt() / 180.0 - 1.0).abs() < 0.05, "{}", variance.sqrt());
        let outputs: std::collections::BTreeSet<u32> = draws.iter().map(|s| s.output).collect();
        assert_eq!(outputs, (10..=20).collect());
    }

    #[test]
    fn sizes_of_a_dataset_keep_input_and_output_together() {
        let rows = vec![RequestSize { input: 1, output: 2 }, RequestSize { input: 30, output: 40 }];
        let mut sampler = SizeSampler::from_dataset(rows.clone(), 1).unwrap();
        let drawn: Vec<RequestSize> = (0..200).map(|_| sampler.sample()).collect();
        assert!(drawn.iter().all(|size| rows.contains(size)));
        assert!(rows.iter().all(|row| drawn.contains(row)));
        assert!(SizeSampler::from_dataset(Vec::new(), 1).is_none());
    }
}
