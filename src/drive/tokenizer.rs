//! The model's own tokenizer, as `tokenizer.json` describes it.

use super::DriveError;
use std::path::Path;

/// Counts tokens as the model does.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
}

impl Tokenizer {
    /// Reads a `tokenizer.json`; `path` is only named in errors.
    ///
    /// # Errors
    /// Bytes that are no tokenizer.
    pub fn read(path: &Path, bytes: &[u8]) -> Result<Tokenizer, DriveError> {
        let error = |reason: String| DriveError::Tokenizer { path: path.display().to_string(), reason };
        let mut inner =
            tokenizers::Tokenizer::from_bytes(bytes).map_err(|reason| error(reason.to_string()))?;
        // Prompts are counted whole, whatever the file says about batches.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|reason| error(reason.to_string()))?;
        Ok(Tokenizer { inner })
    }

    /// The tokens of `text`, special tokens included, as a server counts a prompt.
    pub fn count(&self, text: &str) -> u32 {
        self.inner.encode_fast(text, true).map_or(0, |encoding| encoding.len() as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::super::PromptMaker;
    use super::*;

    /// A tokenizer of whole words, split at white space, that puts one special token before each text.
    fn words(known: &[&str]) -> Tokenizer {
        let mut vocabulary = serde_json::json!({ "<s>": 0, "<unk>": 1 });
        for (id, word) in (2..).zip(known) {
            vocabulary[*word] = id.into();
        }
        let special = serde_json::json!({ "SpecialToken": { "id": "<s>", "type_id": 0 } });
        let sequence = |id: &str| serde_json::json!({ "Sequence": { "id": id, "type_id": 0 } });
        let text = serde_json::json!({
            "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "decoder": null,
            "added_tokens": [],
            "pre_tokenizer": { "type": "WhitespaceSplit" },
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [special, sequence("A")],
                "pair": [special, sequence("A"), sequence("B")],
                "special_tokens": { "<s>": { "id": "<s>", "ids": [0], "tokens": ["<s>"] } },
            },
            "model": { "type": "WordPiece", "unk_token": "<unk>", "continuing_subword_prefix": "##",
                       "max_input_chars_per_word": 100, "vocab": vocabulary },
        });
        Tokenizer::read(Path::new("tokenizer.json"), text.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn prompts_of_a_known_tokenizer_have_exactly_the_wanted_tokens() {
        let known = ["time", "year", "people", "way", "day", "man", "life", "child", "wo", "##rk"];
        let tokenizer = words(&known);
        assert_eq!((tokenizer.count(""), tokenizer.count("time work")), (1, 4));
        let maker = PromptMaker::exact(1, 0, &tokenizer).unwrap();
        for tokens in [2, 3, 17, 500, 4000] {
            let prompt = maker.prompt(9, tokens);
            assert_eq!(tokenizer.count(&prompt), tokens);
            assert!(!prompt.contains("work"), "work is two tokens here");
        }
    }

    #[test]
    fn a_tokenizer_without_whole_words_cannot_make_exact_prompts() {
        let letters: Vec<String> = ('a'..='z').flat_map(|c| [c.to_string(), format!("##{c}")]).collect();
        let mut known: Vec<&str> = letters.iter().map(String::as_str).collect();
        known.extend(["time", "year"]);
        assert_eq!(PromptMaker::exact(1, 0, &words(&known)), None);
    }

    #[test]
    fn another_file_is_no_tokenizer() {
        for text in ["", "{}", "[1]", "{\"version\":\"1.0\"}", "\u{0}"] {
            let error = Tokenizer::read(Path::new("t.json"), text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains("t.json"), "{error}");
        }
    }
}
