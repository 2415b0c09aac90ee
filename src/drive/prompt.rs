//! Prompt text of a wanted number of tokens.
//!
//! Common short words are one token each in the vocabularies of today's models, give or take. The
//! ratio of this server is learned from its own counts by the probe; with the model's tokenizer
//! only words are used that are exactly one token, so that prompts are exact. Every prompt is other
//! text from its first word on, so that a prefix cache does not flatter the server, unless a shared
//! prefix is asked for.

use super::Tokenizer;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

/// Makes prompts for one server.
#[derive(Debug, Clone, PartialEq)]
pub struct PromptMaker {
    words: Vec<&'static str>,
    /// Tokens that the server counts for each word.
    tokens_per_word: f64,
    /// Tokens that it adds to any prompt: special tokens, chat template.
    overhead: f64,
    /// Tokens at the start that all prompts share.
    shared_prefix: u32,
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

/// With fewer words than this, prompts would begin alike too often.
const LEAST_WORDS: usize = 8;

impl PromptMaker {
    /// One token a word and no overhead, until something better is known. `shared_prefix` is the
    /// number of tokens at the start that all prompts share.
    pub fn uncalibrated(seed: u64, shared_prefix: u32) -> PromptMaker {
        PromptMaker { words: WORDS.to_vec(), tokens_per_word: 1.0, overhead: 0.0, shared_prefix, seed }
    }

    /// Of words that are exactly one token each by `tokenizer`. `None` where too few are, or where
    /// tokens of neighbouring words merge.
    pub fn exact(seed: u64, shared_prefix: u32, tokenizer: &Tokenizer) -> Option<PromptMaker> {
        let none = tokenizer.count("");
        let is_one = |word: &&str| {
            tokenizer.count(word) == none + 1 && tokenizer.count(&format!("{word} {word}")) == none + 2
        };
        let words: Vec<&str> = WORDS.into_iter().filter(is_one).collect();
        let enough = words.len() >= LEAST_WORDS;
        let maker =
            PromptMaker { words, overhead: f64::from(none), ..Self::uncalibrated(seed, shared_prefix) };
        let exact = |tokens: u32| tokenizer.count(&maker.prompt(u64::from(tokens), tokens)) == tokens;
        (enough && [1, 2, 3, 10, 100, 1000].iter().all(|words| exact(words + none))).then_some(maker)
    }

    /// The same, with what the server's counts for two prompts of different lengths, as (words,
    /// tokens), teach. `None` where the counts make no sense (fewer tokens for more words).
    pub fn calibrated(&self, short: (u32, u32), long: (u32, u32)) -> Option<PromptMaker> {
        let words = f64::from(long.0.checked_sub(short.0).filter(|words| *words > 0)?);
        let tokens_per_word = (f64::from(long.1) - f64::from(short.1)) / words;
        let overhead = f64::from(short.1) - tokens_per_word * f64::from(short.0);
        let sane = (0.2..=8.0).contains(&tokens_per_word) && overhead.abs() < 4096.0;
        sane.then(|| PromptMaker { tokens_per_word, overhead, ..self.clone() })
    }

    /// Whether every word is one token.
    pub fn is_exact(&self) -> bool {
        self.tokens_per_word == 1.0
    }

    fn words_for(&self, tokens: f64) -> u32 {
        (tokens / self.tokens_per_word).round().max(0.0) as u32
    }

    /// A prompt of `tokens` tokens for the request `id`, at least one word.
    pub fn prompt(&self, id: u64, tokens: u32) -> String {
        self.text(id, self.words_for(f64::from(tokens) - self.overhead))
    }

    /// A prompt of `words` words for the request `id`, at least one.
    pub fn text(&self, id: u64, words: u32) -> String {
        let words = words.max(1);
        let shared = self.words_for(f64::from(self.shared_prefix)).min(words);
        let mut text = String::with_capacity(words as usize * 7);
        self.append(&mut text, SmallRng::seed_from_u64(!self.seed), shared);
        let own = SmallRng::seed_from_u64(self.seed ^ id.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        self.append(&mut text, own, words - shared);
        text
    }

    fn append(&self, text: &mut String, mut rng: SmallRng, words: u32) {
        for _ in 0..words {
            if !text.is_empty() {
                text.push(' ');
            }
            text.push_str(self.words[rng.random_range(0..self.words.len())]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_calibrated_prompt_has_the_wanted_tokens_on_a_server_that_counts_otherwise() {
        let count = |text: &str| (text.split(' ').count() as f64 * 1.25 + 6.0).round() as u32;
        let raw = PromptMaker::uncalibrated(1, 0);
        let probe = |words| (words, count(&raw.text(0, words)));
        let maker = raw.calibrated(probe(8), probe(64)).unwrap();
        for tokens in [20, 100, 1000] {
            assert!(count(&maker.prompt(3, tokens)).abs_diff(tokens) <= 1, "{tokens}");
        }
        assert!(!maker.is_exact());
    }

    #[test]
    fn counts_that_make_no_sense_are_not_learned_from() {
        let raw = PromptMaker::uncalibrated(1, 0);
        assert_eq!(raw.calibrated((8, 70), (64, 9)), None);
        assert_eq!(raw.calibrated((8, 8), (8, 9)), None);
    }

    #[test]
    fn prompts_differ_by_request_and_repeat_by_seed() {
        let maker = PromptMaker::uncalibrated(1, 0);
        assert_ne!(maker.prompt(1, 20), maker.prompt(2, 20));
        assert_eq!(maker.prompt(1, 20), maker.prompt(1, 20));
        assert_eq!(maker.prompt(1, 20).split(' ').count(), 20);
        assert_eq!(maker.prompt(1, 0).split(' ').count(), 1);
    }

    #[test]
    fn a_shared_prefix_is_the_same_in_all_prompts_and_the_rest_is_not() {
        let maker = PromptMaker::uncalibrated(1, 30);
        let words = |id| maker.prompt(id, 50).split(' ').map(str::to_owned).collect::<Vec<_>>();
        let (one, two) = (words(1), words(2));
        assert_eq!((one.len(), two.len()), (50, 50));
        assert_eq!(one[..30], two[..30]);
        assert_ne!(one[30..], two[30..]);
        assert_eq!(maker.prompt(1, 10), maker.prompt(2, 10), "shorter than the prefix");
    }
}
