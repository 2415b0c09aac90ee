//! The servers of a study.

use crate::batching::{Admission, Deviations, ServerModel};
use crate::scenario::SizeSpec;
use crate::units::{Replicas, Seconds, Slo};
use serde::{Deserialize, Serialize};

/// What is calibrated.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Deployment {
    /// Each of its replicas; times in seconds.
    pub model: ServerModel,
    /// Their number while it is measured.
    #[serde(default)]
    pub replicas: Replicas,
    /// Prompt tokens.
    pub input_tokens: SizeSpec,
    /// Output tokens.
    pub output_tokens: SizeSpec,
    /// `max_new_tokens` as declared; left out: the output tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub declared_output: Option<u32>,
    /// The limits.
    #[serde(rename = "slo")]
    pub slos: Vec<Slo>,
}

/// A value that no server has.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct NoServer {
    field: &'static str,
    problem: &'static str,
}

impl Deployment {
    /// Checks what the types alone do not say.
    ///
    /// # Errors
    /// The first field that no server has.
    pub fn check(&self) -> Result<(), NoServer> {
        let model = &self.model;
        let fail = |field, problem| Err(NoServer { field, problem });
        let costs = [
            model.prefill_base,
            model.prefill_per_token,
            model.decode_per_sequence,
            model.overhead,
            model.deviations.per_kv_token,
            model.deviations.per_sequence_squared,
        ];
        if !(model.decode_base.0.is_finite() && model.decode_base.0 > 0.0) {
            return fail("model.decode-base", "must be above 0 seconds");
        }
        if costs.iter().any(|cost| !cost.0.is_finite() || cost.0 < 0.0) {
            return fail("model", "no time may be negative; they are in seconds");
        }
        if !(0.0..=0.3).contains(&model.deviations.noise) {
            return fail("model.deviations.noise", "must be from 0 to 0.3");
        }
        if !model.deviations.graph_sizes.is_sorted() {
            return fail("model.deviations.graph-sizes", "must rise");
        }
        if self.replicas.0 == 0 {
            return fail("replicas", "must be at least 1");
        }
        if self.slos.is_empty() {
            return fail("slo", "must name at least one limit, like ttft:p95:2s");
        }
        let typical =
            ServerModel::reservation(self.input_tokens.mean() as u32, self.output_tokens.mean() as u32);
        if model.batch_limit(typical, 1) == 0 {
            return fail("model.token-budget", "is too small for one request of mean size");
        }
        Ok(())
    }

    /// End-to-end latency of one mean request alone.
    pub fn single_latency(&self) -> Seconds {
        let (model, input, output) = (&self.model, self.input_tokens.mean(), self.output_tokens.mean());
        model.prefill_base + model.prefill_per_token * input + model.decode_base * output
    }
}

/// How a server differs from the model that is fitted to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Family {
    /// Not at all.
    Model,
    /// Attention that reads each KV token, a quadratic term, 6 % noise of each forward, batches padded to
    /// the sizes of CUDA graphs.
    Mismatch,
    /// The same, and in the middle of the measurement each forward becomes a millisecond longer.
    Drifting,
}

/// When the drifting server changes.
const DRIFT_AFTER: Seconds = Seconds(150.0);

/// The variants of a deployment, each of another family.
pub fn variants(deployment: &Deployment) -> Vec<(Family, Deployment)> {
    let with = |deviations: Deviations| {
        let model = ServerModel { deviations, ..deployment.model.clone() };
        Deployment { model, ..deployment.clone() }
    };
    let mismatch = Deviations {
        per_kv_token: Seconds(0.3e-6),
        per_sequence_squared: Seconds(2e-6),
        graph_sizes: vec![1, 2, 4, 8, 16, 32],
        noise: 0.06,
        ..Deviations::default()
    };
    let drifting =
        Deviations { drift: Seconds::from_millis(1.0), drift_after: DRIFT_AFTER, ..mismatch.clone() };
    vec![
        (Family::Model, with(Deviations::default())),
        (Family::Mismatch, with(mismatch)),
        (Family::Drifting, with(drifting)),
    ]
}

/// The deployments of the study that is built in, by the limit that breaks first: time per output token,
/// or the wait for a full batch.
pub fn built_in() -> Vec<(&'static str, Deployment)> {
    let deployment = |slos: [&str; 2]| Deployment {
        model: ServerModel {
            prefill_base: Seconds::from_millis(20.0),
            prefill_per_token: Seconds::from_millis(0.15),
            decode_base: Seconds::from_millis(18.0),
            decode_per_sequence: Seconds::from_millis(0.35),
            overhead: Seconds::from_millis(0.15),
            token_budget: 50_000,
            max_prefill_tokens: 4096,
            max_concurrent_requests: 128,
            max_batch_size: None,
            admission: Admission::Chunking,
            prefill_per_sequence: None,
            decode_table: None,
            deviations: Deviations::default(),
        },
        replicas: Replicas(2),
        input_tokens: SizeSpec::Lognormal { mean: 392.0, sd: 300.0 },
        output_tokens: SizeSpec::Lognormal { mean: 186.0, sd: 130.0 },
        declared_output: Some(512),
        slos: slos.iter().filter_map(|slo| slo.parse().ok()).collect(),
    };
    vec![
        ("TPOT-bound", deployment(["ttft:p95:2s", "tpot:p95:45ms"])),
        ("queue-bound", deployment(["ttft:p95:2s", "tpot:p95:80ms"])),
    ]
}
