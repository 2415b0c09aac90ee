//! Servers to imitate. All figures are assumptions from arithmetic, none was measured on a GPU.

use super::SimulatorConfig;
use crate::batching::{Admission, Deviations, ServerModel};
use crate::units::Seconds;

/// A named server.
#[derive(Debug, Clone, Copy)]
pub struct Preset {
    /// Its name for flags.
    pub name: &'static str,
    /// What it imitates.
    pub description: &'static str,
    prefill_ms: (f64, f64),
    decode_ms: (f64, f64),
    token_budget: u32,
    max_prefill_tokens: u32,
    max_total_tokens: u32,
    chunking: bool,
    model_id: &'static str,
    gpu: (&'static str, u32),
}

/// TGI's admission on shards that do not support chunking, with the launcher's defaults.
const WAITING: Admission = Admission::WaitingServed { ratio: 0.3, max_waiting_tokens: 20 };

/// How the `-like` presets come about: a decode step reads all weights once, so its base is their
/// bytes over three quarters of the memory bandwidth; each sequence adds the reading of its KV cache
/// (about 500 tokens) and sampling; a prefill is computed at about half the peak rate, 2 FLOP per
/// weight and token; the KV budget is what is left of the memory over the KV bytes per token.
const PRESETS: [Preset; 6] = [
    Preset {
        name: "demo",
        description: "small and quick, for a demonstration: imitates no real server",
        prefill_ms: (6.0, 0.03),
        decode_ms: (6.0, 0.9),
        token_budget: 5600,
        max_prefill_tokens: 2048,
        max_total_tokens: 2048,
        chunking: false,
        model_id: "simulated/demo",
        gpu: ("Simulated GPU", 12_000),
    },
    Preset {
        name: "tgi-recorded",
        description: "the shard that a real TGI 3.3.7 router was recorded with, without chunking",
        prefill_ms: (20.0, 0.15),
        decode_ms: (18.0, 0.35),
        token_budget: 16_384,
        max_prefill_tokens: 4096,
        max_total_tokens: 4096,
        chunking: false,
        model_id: "simulated/tgi-recorded",
        gpu: ("Simulated GPU", 20_000),
    },
    Preset {
        name: "tgi-recorded-chunking",
        description: "the same with chunking",
        prefill_ms: (20.0, 0.15),
        decode_ms: (18.0, 0.35),
        token_budget: 16_384,
        max_prefill_tokens: 4096,
        max_total_tokens: 4096,
        chunking: true,
        model_id: "simulated/tgi-recorded",
        gpu: ("Simulated GPU", 20_000),
    },
    // 2.5e9 weights x 2 B = 5 GB over 0.75 x 300 GB/s = 22 ms; 2 x 2.5e9 FLOP over 60 TFLOP/s =
    // 0.083 ms a token; 18 KB of KV a token and 15 GB left.
    Preset {
        name: "gemma-2b-l4-like",
        description: "like Gemma 2B in 16 bits on an NVIDIA L4 (24 GB), by arithmetic",
        prefill_ms: (24.0, 0.083),
        decode_ms: (22.0, 0.12),
        token_budget: 200_000,
        max_prefill_tokens: 4096,
        max_total_tokens: 8192,
        chunking: true,
        model_id: "simulated/gemma-2b",
        gpu: ("NVIDIA L4", 21_500),
    },
    // 8e9 x 2 B = 16 GB over 0.75 x 2000 GB/s = 10.7 ms; 16e9 FLOP over 156 TFLOP/s = 0.103 ms a
    // token; 131 KB of KV a token and 55 GB left.
    Preset {
        name: "llama-8b-a100-like",
        description: "like Llama 3 8B in 16 bits on an NVIDIA A100 (80 GB), by arithmetic",
        prefill_ms: (13.0, 0.103),
        decode_ms: (10.7, 0.10),
        token_budget: 420_000,
        max_prefill_tokens: 8192,
        max_total_tokens: 8192,
        chunking: true,
        model_id: "simulated/llama-3-8b",
        gpu: ("NVIDIA A100-SXM4-80GB", 73_000),
    },
    // 7.2e9 x 2 B = 14.5 GB over 0.75 x 300 GB/s = 64 ms; 14.5e9 FLOP over 60 TFLOP/s = 0.24 ms a
    // token; 131 KB of KV a token and 6 GB left.
    Preset {
        name: "mistral-7b-l4-like",
        description: "like Mistral 7B in 16 bits on an NVIDIA L4 (24 GB), by arithmetic",
        prefill_ms: (68.0, 0.24),
        decode_ms: (64.0, 0.35),
        token_budget: 45_000,
        max_prefill_tokens: 4096,
        max_total_tokens: 8192,
        chunking: true,
        model_id: "simulated/mistral-7b",
        gpu: ("NVIDIA L4", 22_000),
    },
];

impl Preset {
    /// All presets.
    pub fn all() -> impl Iterator<Item = Preset> + Clone {
        PRESETS.into_iter()
    }

    /// The preset of that name.
    pub fn by_name(name: &str) -> Option<Preset> {
        Preset::all().find(|preset| preset.name == name)
    }

    /// The server that it names.
    pub fn config(&self) -> SimulatorConfig {
        let model = ServerModel {
            prefill_base: Seconds::from_millis(self.prefill_ms.0),
            prefill_per_token: Seconds::from_millis(self.prefill_ms.1),
            decode_base: Seconds::from_millis(self.decode_ms.0),
            decode_per_sequence: Seconds::from_millis(self.decode_ms.1),
            overhead: Seconds::from_millis(0.15),
            token_budget: self.token_budget,
            max_prefill_tokens: self.max_prefill_tokens,
            max_concurrent_requests: 128,
            max_batch_size: None,
            admission: if self.chunking { Admission::Chunking } else { WAITING },
            prefill_per_sequence: None,
            decode_table: None,
            deviations: Deviations::default(),
        };
        SimulatorConfig {
            model,
            model_id: self.model_id.to_owned(),
            max_total_tokens: self.max_total_tokens,
            gpu_name: self.gpu.0.to_owned(),
            gpu_memory_mib: self.gpu.1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_preset_is_found_by_its_name_and_admits_its_longest_request() {
        for preset in Preset::all() {
            let config = Preset::by_name(preset.name).unwrap().config();
            assert!(config.model.usable_budget() >= config.max_total_tokens, "{}", preset.name);
            assert!(config.model.batch_limit(128, 48) >= 8, "{}", preset.name);
        }
        assert!(Preset::by_name("nothing").is_none());
    }
}
