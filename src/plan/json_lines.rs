//! JSONL: one JSON object a line, each with the fields of any known format.
//!
//! Values are kept as they stand in the text, so that an error can quote them and a long unknown one costs
//! nothing.

use super::source::{DatasetError, Place, Source};
use serde::Deserialize;
use serde_json::value::RawValue;

/// The known fields of one line.
#[derive(Deserialize)]
pub(super) struct JsonLine<'a> {
    /// Where the line begins in the text.
    #[serde(skip)]
    pub(super) at: usize,
    #[serde(borrow)]
    pub(super) timestamp: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) prompt: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) messages: Option<&'a RawValue>,
    #[serde(borrow)]
    input_tokens: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) input_length: Option<&'a RawValue>,
    #[serde(borrow)]
    output_tokens: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) output_length: Option<&'a RawValue>,
    #[serde(borrow)]
    max_tokens: Option<&'a RawValue>,
}

impl<'a> JsonLine<'a> {
    /// The prompt's tokens as they stand there, with the name they have.
    pub(super) fn input(&self) -> Option<(Place, &'a str)> {
        first([("input_tokens", self.input_tokens), ("input_length", self.input_length)])
    }

    /// The answer's tokens as they stand there, with the name they have.
    pub(super) fn output(&self) -> Option<(Place, &'a str)> {
        first([
            ("output_tokens", self.output_tokens),
            ("output_length", self.output_length),
            ("max_tokens", self.max_tokens),
        ])
    }

    /// Whether it stands for a request of a trace, and not for one of a dataset.
    pub(super) fn is_traced(&self) -> bool {
        let traced = self.timestamp.is_some() && self.input_length.is_some();
        traced && self.prompt.is_none() && self.messages.is_none()
    }
}

fn first<'a, const N: usize>(fields: [(&'static str, Option<&'a RawValue>); N]) -> Option<(Place, &'a str)> {
    fields.into_iter().find_map(|(name, value)| Some((Place::Field(name), value?.get())))
}

/// The lines of `source` that are not blank.
pub(super) fn json_lines(source: Source<'_>) -> impl Iterator<Item = Result<JsonLine<'_>, DatasetError>> {
    let mut next = 0;
    source.text.split_inclusive('\n').filter_map(move |line| {
        let at = next;
        next += line.len();
        let text = line.trim_end();
        Some(match text.trim_start().chars().next()? {
            '{' => serde_json::from_str::<JsonLine>(text)
                .map(|line| JsonLine { at, ..line })
                .map_err(|error| source.json_error(at, "not a JSON object", &error)),
            // serde would also take the fields in their order out of an array.
            _ => Err(source.no_object(at, text)),
        })
    })
}
