//! The text of a dataset or a trace, and what can be wrong with it.
//!
//! Invariants: every error names the file, and its line wherever one is to blame. What a message quotes from
//! the file is short and free of control characters.

use std::fmt;
use std::path::Path;

/// Why a dataset or a trace cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DatasetError {
    /// There is nothing in it.
    #[error("{path} holds no requests; known formats: {known}")]
    Empty {
        /// The file.
        path: String,
        /// The formats that can be read.
        known: &'static str,
    },
    /// There are requests in it, but none that can be sent.
    #[error("{path} holds no usable requests: {remarks}")]
    Unusable {
        /// The file.
        path: String,
        /// Why the requests were left out.
        remarks: String,
    },
    /// It begins like none of the known formats.
    #[error("{path} begins with '{begins}' and is in no known format; known formats: {known}")]
    Unknown {
        /// The file.
        path: String,
        /// Its beginning.
        begins: String,
        /// The formats that can be read.
        known: &'static str,
    },
    /// A column or a field is missing.
    #[error("{path}:{line}: {place} is missing in '{found}'")]
    Missing {
        /// The file.
        path: String,
        /// The line, from 1.
        line: usize,
        /// What is missing.
        place: Place,
        /// The line as it stands.
        found: String,
    },
    /// A value is wrong.
    #[error("{path}:{line}: {place}: '{value}' is not {expected}")]
    Value {
        /// The file.
        path: String,
        /// The line, from 1.
        line: usize,
        /// The column or the field.
        place: Place,
        /// What stands there.
        value: String,
        /// What should.
        expected: String,
    },
    /// The text breaks the rules of its format.
    #[error("{path}:{line}: {reason}")]
    Malformed {
        /// The file.
        path: String,
        /// The line, from 1.
        line: usize,
        /// Which rule.
        reason: String,
    },
}

/// Where a value stands within its line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In a column of a CSV file.
    Column(&'static str),
    /// In a field of a JSON object.
    Field(&'static str),
}

impl Place {
    /// The name of the column or of the field.
    pub fn name(self) -> &'static str {
        match self {
            Place::Column(name) | Place::Field(name) => name,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Column(name) => write!(f, "column {name}"),
            Place::Field(name) => write!(f, "field {name}"),
        }
    }
}

/// The most tokens that a request may have.
const MAX_TOKENS: u32 = 10_000_000;

/// The text of a file with its name. Positions in it are byte offsets; lines are counted only for an error.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    path: &'a Path,
    /// The text, without a byte order mark; not blank.
    pub(super) text: &'a str,
    known: &'static str,
}

impl<'a> Source<'a> {
    /// The text in `bytes`, which came from `path` and should be in one of the `known` formats.
    pub(super) fn new(path: &'a Path, bytes: &'a [u8], known: &'static str) -> Result<Self, DatasetError> {
        let (text, broken) = match std::str::from_utf8(bytes) {
            Ok(text) => (text.strip_prefix('\u{feff}').unwrap_or(text), None),
            Err(error) => ("", Some(error.valid_up_to())),
        };
        let source = Source { path, text, known };
        match broken {
            Some(at) => Err(source.malformed(line_of(&bytes[..at]), "not UTF-8 text".to_owned())),
            None if text.trim().is_empty() => Err(source.empty()),
            None => Ok(source),
        }
    }

    /// The number of tokens in `value`.
    pub(super) fn tokens(
        &self,
        at: usize,
        place: Place,
        value: &str,
        least: u32,
    ) -> Result<u32, DatasetError> {
        let tokens = value.parse().ok().filter(|tokens| (least..=MAX_TOKENS).contains(tokens));
        tokens.ok_or_else(|| {
            let expected = format!("a whole number of tokens from {least} to {MAX_TOKENS}");
            self.value(at, place, value, &expected)
        })
    }

    /// There are no requests.
    pub(super) fn empty(&self) -> DatasetError {
        DatasetError::Empty { path: self.shown(), known: self.known }
    }

    /// All requests were left out, or there were none.
    pub(super) fn unusable(&self, remarks: &[String]) -> DatasetError {
        if remarks.is_empty() {
            return self.empty();
        }
        DatasetError::Unusable { path: self.shown(), remarks: remarks.join("; ") }
    }

    /// The text is in no known format.
    pub(super) fn unknown(&self) -> DatasetError {
        let begins = shortened(self.text.trim_start().lines().next().unwrap_or_default());
        DatasetError::Unknown { path: self.shown(), begins, known: self.known }
    }

    /// The line at `at` has no such column or field.
    pub(super) fn missing(&self, at: usize, place: Place) -> DatasetError {
        let found = self.text.get(at..).unwrap_or_default().trim_start().lines().next().unwrap_or_default();
        DatasetError::Missing { path: self.shown(), line: self.line(at), place, found: shortened(found) }
    }

    /// The line at `at` has a wrong value.
    pub(super) fn value(&self, at: usize, place: Place, value: &str, expected: &str) -> DatasetError {
        DatasetError::Value {
            path: self.shown(),
            line: self.line(at),
            place,
            value: shortened(value),
            expected: expected.to_owned(),
        }
    }

    /// The CSV reader stopped.
    pub(super) fn csv_error(&self, error: &csv::Error) -> DatasetError {
        let at = error.position().map_or(0, |position| position.byte() as usize);
        let reason = match error.kind() {
            csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
                format!("this line has another number of columns ({len}) than the header ({expected_len})")
            }
            _ => error.to_string(),
        };
        self.malformed(self.line(at), reason)
    }

    /// The text from `at` on is not the JSON that it should be; `place` says where or what that is.
    pub(super) fn json_error(&self, at: usize, place: &str, error: &serde_json::Error) -> DatasetError {
        let text = error.to_string();
        // The line within the part that was read would mislead next to that within the file.
        let reason = text.rsplit_once(" at line ").map_or(text.as_str(), |(reason, _)| reason);
        let line = self.line(at) + error.line().saturating_sub(1);
        self.malformed(line, format!("{place}: {} at character {}", shortened(reason), error.column()))
    }

    /// The line at `at` is something else than an object.
    pub(super) fn no_object(&self, at: usize, found: &str) -> DatasetError {
        self.malformed(self.line(at), format!("'{}' is not a JSON object", shortened(found)))
    }

    fn malformed(&self, line: usize, reason: String) -> DatasetError {
        DatasetError::Malformed { path: self.shown(), line, reason }
    }

    fn shown(&self) -> String {
        self.path.display().to_string()
    }

    /// The line at `at`, from 1. Blank lines there belong to what was before: the CSV reader leaves them
    /// over, and the second half of a CRLF.
    fn line(&self, at: usize) -> usize {
        let rest = self.text.get(at..).unwrap_or_default();
        let start = self.text.len() - rest.trim_start_matches(['\r', '\n']).len();
        line_of(&self.text.as_bytes()[..start])
    }
}

fn line_of(before: &[u8]) -> usize {
    1 + memchr::memchr_iter(b'\n', before).count()
}

/// `text` in at most 80 characters: its beginning and its end, which is where an error of serde says what it
/// expected.
fn shortened(text: &str) -> String {
    const HEAD: usize = 40;
    const TAIL: usize = 39;
    let clean = |c: char| if c.is_control() { ' ' } else { c };
    if text.chars().nth(HEAD + 1 + TAIL).is_none() {
        return text.chars().map(clean).collect();
    }
    let tail = text.char_indices().rev().nth(TAIL - 1).map_or("", |(at, _)| &text[at..]);
    text.chars().take(HEAD).chain(['…']).chain(tail.chars()).map(clean).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quoted_value_has_at_most_80_characters_and_none_that_controls_a_terminal() {
        assert_eq!(shortened(&"ä".repeat(80)), "ä".repeat(80));
        let long = shortened(&format!("a{}z", "é".repeat(100_000)));
        assert_eq!(long.chars().count(), 80);
        assert!(long.starts_with("aé") && long.contains('…') && long.ends_with("éz"), "{long}");
        assert_eq!(shortened("\u{1b}[31m\n"), " [31m ");
    }

    #[test]
    fn text_that_is_not_utf8_is_refused_with_its_line() {
        let error = |bytes: &[u8]| Source::new(Path::new("d"), bytes, "none").err().unwrap().to_string();
        assert_eq!(error(b"a\nb\n\xff\n"), "d:3: not UTF-8 text");
        assert_eq!(error(&[0xff, 0xfe, b'a', 0]), "d:1: not UTF-8 text");
        for blank in ["", "\u{feff}", " \r\n\t\n", "\u{feff}\n"] {
            assert_eq!(error(blank.as_bytes()), "d holds no requests; known formats: none");
        }
    }
}
