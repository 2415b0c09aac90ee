//! What a server costs and what bounds it.

use crate::units::Seconds;
use serde::{Deserialize, Serialize};

/// Cost and limits of one server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ServerModel {
    /// Fixed part of a prefill forward.
    pub prefill_base: Seconds,
    /// What each prompt token adds to it.
    pub prefill_per_token: Seconds,
    /// Fixed part of a decode forward.
    pub decode_base: Seconds,
    /// What each sequence in the batch adds to it.
    pub decode_per_sequence: Seconds,
    /// What lies between two forwards: the router's own work. Real routers: 0.1 to 0.25 ms.
    #[serde(default)]
    pub overhead: Seconds,
    /// KV tokens that may be reserved (`max_batch_total_tokens`); one of them serves health checks.
    pub token_budget: u32,
    /// Prompt tokens in one prefill (`max_batch_prefill_tokens`).
    pub max_prefill_tokens: u32,
    /// Requests in queue and batch together (`max_concurrent_requests`); more are refused.
    pub max_concurrent_requests: u32,
    /// Sequences in the batch (`max_batch_size`), where it is limited. Ignored with chunking.
    #[serde(default)]
    pub max_batch_size: Option<u32>,
    /// When waiting requests may join a running batch.
    pub admission: Admission,
    /// What each sequence carried along adds to a prefill, where that differs from what it adds to a decode.
    #[serde(default)]
    pub prefill_per_sequence: Option<Seconds>,
    /// The length of a decode by its number of sequences, from 0, instead of the straight line; beyond the
    /// last it rises by `decode_per_sequence`.
    #[serde(default)]
    pub decode_table: Option<Vec<Seconds>>,
    /// How its forwards differ from all this.
    #[serde(default)]
    pub deviations: Deviations,
}

/// What real servers do besides: by default nothing.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Deviations {
    /// What each KV token in the batch adds to a decode: attention reads it.
    pub per_kv_token: Seconds,
    /// What the square of the number of sequences adds to a decode.
    pub per_sequence_squared: Seconds,
    /// Sizes that a decode is padded to, rising, as with CUDA graphs; above the last there is no padding.
    pub graph_sizes: Vec<u32>,
    /// Standard deviation of a forward's length, as a share of it: 0 to 0.3.
    pub noise: f64,
    /// What is added to each forward from `drift_after` on.
    pub drift: Seconds,
    /// When the drift sets in.
    pub drift_after: Seconds,
}

/// The two ways of TGI to let requests join a running batch.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub enum Admission {
    /// At every step. The prefill of joiners carries the running sequences along, each of which gets
    /// a token from it. What TGI 3 does on GPUs.
    Chunking,
    /// Once enough of them wait, or long enough. The batch stands still during their prefill.
    WaitingServed {
        /// Joiners needed, as a share of the running batch (`waiting_served_ratio`), rounded down.
        ratio: f64,
        /// Steps since the last join after which any number may (`max_waiting_tokens`).
        max_waiting_tokens: u32,
    },
}

impl ServerModel {
    /// KV tokens that a request reserves from its admission to its end.
    pub fn reservation(input_tokens: u32, declared_output: u32) -> u32 {
        input_tokens.saturating_add(declared_output.saturating_sub(1))
    }

    /// KV tokens that requests can reserve in all.
    pub fn usable_budget(&self) -> u32 {
        self.token_budget.saturating_sub(1)
    }

    /// The most requests of one size that can be in the batch at once.
    pub fn batch_limit(&self, input_tokens: u32, declared_output: u32) -> u32 {
        let by_budget = self.usable_budget() / Self::reservation(input_tokens, declared_output).max(1);
        let by_size = match self.admission {
            Admission::Chunking => u32::MAX,
            Admission::WaitingServed { .. } => self.max_batch_size.unwrap_or(u32::MAX),
        };
        by_budget.min(by_size).min(self.max_concurrent_requests)
    }

    /// The length of a prefill of `tokens` prompt tokens, with `running` sequences carried along.
    pub(super) fn prefill(&self, tokens: u32, running: usize) -> Seconds {
        let carried = match self.admission {
            Admission::Chunking => {
                self.prefill_per_sequence.unwrap_or(self.decode_per_sequence) * running as f64
            }
            Admission::WaitingServed { .. } => Seconds::ZERO,
        };
        self.prefill_base + self.prefill_per_token * f64::from(tokens) + carried
    }

    /// The length of a decode step of `sequences` sequences that have `kv_tokens` tokens in all.
    pub(super) fn decode(&self, sequences: usize, kv_tokens: u64) -> Seconds {
        let deviations = &self.deviations;
        let padded = deviations.graph_sizes.iter().find(|size| **size as usize >= sequences);
        let sequences = padded.map_or(sequences, |size| *size as usize);
        let plain = match &self.decode_table {
            Some(table) if !table.is_empty() => {
                let last = table.len() - 1;
                table[sequences.min(last)] + self.decode_per_sequence * sequences.saturating_sub(last) as f64
            }
            _ => self.decode_base + self.decode_per_sequence * sequences as f64,
        };
        plain
            + deviations.per_kv_token * kv_tokens as f64
            + deviations.per_sequence_squared * (sequences as f64).powi(2)
    }
}
