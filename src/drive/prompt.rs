//! Prompt text of a wanted number of tokens, without a tokenizer.
//!
//! Common short words are one token each in the vocabularies of today's models, give or take; the
//! exact ratio of this server is learned from its own counts by the probe. Every prompt is other
//! text from its first word on, so that a prefix cache does not flatter the server.

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

/// Makes prompts for one server.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PromptMaker {
    /// Tokens that the server counts for each word.
    tokens_per_word: f64,
    /// Tokens that it adds to any prompt: special tokens, chat template.
    overhead: f64,
    seed: u64,
}

const WORDS: [&str; 64] = [
    "time", "year", "people", "way", "day", "man", "thing", "woman", "life", "child", "world", "school",
    "state", "family", "student", "group", "country", "problem", "hand", "part", "place", "case", "week",
    "company", "system", "program", "question", "work", "number", "night", "point", "home", "water", "room",
    "mother", "area", "money", "story", "fact", "month", "lot", "right", "study", "book", "eye", "job",
    "word", "business", "issue", "side", "kind", "head", "house", "service", "friend", "father", "power",
    "hour", "game", "line", "end", "member", "law", "car",
];

impl PromptMaker {
    /// One token a word and no overhead, until something better is known.
    pub fn uncalibrated(seed: u64) -> PromptMaker {
        PromptMaker { tokens_per_word: 1.0, overhead: 0.0, seed }
    }

    /// Learns from the server's counts for two prompts of different lengths, as (words, tokens).
    /// `None` where the counts make no sense (fewer tokens for more words).
    pub fn calibrated(seed: u64, short: (u32, u32), long: (u32, u32)) -> Option<PromptMaker> {
        let words = f64::from(long.0.checked_sub(short.0).filter(|words| *words > 0)?);
        let tokens_per_word = (f64::from(long.1) - f64::from(short.1)) / words;
        let overhead = f64::from(short.1) - tokens_per_word * f64::from(short.0);
        let sane = (0.2..=8.0).contains(&tokens_per_word) && overhead.abs() < 4096.0;
        sane.then_some(PromptMaker { tokens_per_word, overhead, seed })
    }

    /// How many words make `tokens` tokens, at least one.
    pub fn words_for(&self, tokens: u32) -> u32 {
        ((f64::from(tokens) - self.overhead) / self.tokens_per_word).round().max(1.0) as u32
    }

    /// A prompt of `tokens` tokens for the request `id`.
    pub fn prompt(&self, id: u64, tokens: u32) -> String {
        self.text(id, self.words_for(tokens))
    }

    /// A prompt of `words` words for the request `id`.
    pub fn text(&self, id: u64, words: u32) -> String {
        let mut rng = SmallRng::seed_from_u64(self.seed ^ id.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut text = String::with_capacity(words as usize * 7);
        for index in 0..words {
            if index > 0 {
                text.push(' ');
            }
            text.push_str(WORDS[rng.random_range(0..WORDS.len())]);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_calibrated_prompt_has_the_wanted_tokens_on_a_server_that_counts_otherwise() {
        let count = |text: &str| (text.split(' ').count() as f64 * 1.25 + 6.0).round() as u32;
        let raw = PromptMaker::uncalibrated(1);
        let probe = |words| (words, count(&raw.text(0, words)));
        let maker = PromptMaker::calibrated(1, probe(8), probe(64)).unwrap();
        for tokens in [20, 100, 1000] {
            assert!(count(&maker.prompt(3, tokens)).abs_diff(tokens) <= 1, "{tokens}");
        }
    }

    #[test]
    fn counts_that_make_no_sense_are_not_learned_from() {
        assert_eq!(PromptMaker::calibrated(1, (8, 70), (64, 9)), None);
        assert_eq!(PromptMaker::calibrated(1, (8, 8), (8, 9)), None);
    }

    #[test]
    fn prompts_differ_by_request_and_repeat_by_seed() {
        let maker = PromptMaker::uncalibrated(1);
        assert_ne!(maker.prompt(1, 20), maker.prompt(2, 20));
        assert_eq!(maker.prompt(1, 20), maker.prompt(1, 20));
        assert_eq!(maker.prompt(1, 20).split(' ').count(), 20);
        assert_eq!(maker.prompt(1, 0).split(' ').count(), 1);
    }
}
