//! Datasets: the prompts or the sizes of recorded requests, without their times.
//!
//! Invariants: the format is told by the content, never by the file's name. A row has a prompt that is not
//! blank or a known input, and never 0 tokens. Whatever is left out is said in a remark.

use super::json_lines::{JsonLine, json_lines};
use super::source::{DatasetError, Place, Source};
use super::trace::Traced;
use serde::Deserialize;
use serde::de::{Deserializer as _, SeqAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// One request of a dataset.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DatasetRow {
    /// The prompt's text, where the dataset has texts.
    pub prompt: Option<Arc<str>>,
    /// The prompt's tokens, where the dataset says how many.
    pub input: Option<u32>,
    /// The answer's tokens, where the dataset says how many.
    pub output: Option<u32>,
    /// The recorded answer, where its tokens are still to be counted.
    pub answer: Option<Arc<str>>,
}

/// The requests of a dataset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dataset {
    /// In the order in which they stand there; at least one.
    pub rows: Vec<DatasetRow>,
    /// What was left out.
    pub remarks: Vec<String>,
}

const KNOWN: &str = "JSON [{conversations: [{from, value}]}] (ShareGPT), JSONL with prompt or messages and \
    maybe output_tokens, JSONL with input_tokens and output_tokens, and traces: CSV with the columns \
    ContextTokens and GeneratedTokens (Azure) or Request tokens and Response tokens (BurstGPT), JSONL with \
    timestamp, input_length and output_length (Mooncake)";

/// Reads the requests in `bytes`, which came from `path`.
pub fn read_dataset(path: &Path, bytes: &[u8]) -> Result<Dataset, DatasetError> {
    let source = Source::new(path, bytes, KNOWN)?;
    match source.text.trim_start().chars().next() {
        Some('[') => read_share_gpt(source),
        Some('{') if !begins_a_trace(source) => {
            let rows = json_lines(source).map(|line| row(source, &line?)).collect::<Result<_, _>>()?;
            Ok(Dataset { rows, remarks: Vec::new() })
        }
        _ => {
            let traced = Traced::read(source, false)?;
            let rows = traced.requests.into_iter().map(|(_, size)| DatasetRow {
                input: Some(size.input),
                output: Some(size.output),
                ..DatasetRow::default()
            });
            Ok(Dataset { rows: rows.collect(), remarks: traced.remarks })
        }
    }
}

fn begins_a_trace(source: Source<'_>) -> bool {
    matches!(json_lines(source).next(), Some(Ok(line)) if line.is_traced())
}

fn row(source: Source<'_>, line: &JsonLine) -> Result<DatasetRow, DatasetError> {
    let tokens = |field: Option<(Place, &str)>| {
        field.map(|(place, value)| source.tokens(line.at, place, value, 1)).transpose()
    };
    let (prompt, input, output) = (prompt(source, line)?, tokens(line.input())?, tokens(line.output())?);
    if prompt.is_none() && input.is_none() {
        return Err(source.missing(line.at, Place::Field("prompt, messages or input_tokens")));
    }
    if prompt.is_none() && output.is_none() {
        return Err(source.missing(line.at, Place::Field("output_tokens")));
    }
    Ok(DatasetRow { prompt, input, output, answer: None })
}

/// One message of a chat.
#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow, rename = "role")]
    _role: Cow<'a, str>,
    #[serde(borrow)]
    content: Cow<'a, str>,
}

fn prompt(source: Source<'_>, line: &JsonLine) -> Result<Option<Arc<str>>, DatasetError> {
    let text = |raw: &RawValue| serde_json::from_str::<String>(raw.get()).ok();
    let joined = |raw: &RawValue| {
        let messages: Vec<Message> = serde_json::from_str(raw.get()).ok()?;
        Some(messages.iter().map(|message| &*message.content).collect::<Vec<_>>().join("\n"))
    };
    let (place, raw, prompt, expected) = match (line.prompt, line.messages) {
        (Some(raw), _) => (Place::Field("prompt"), raw, text(raw), "a text that is not blank"),
        (None, Some(raw)) => {
            (Place::Field("messages"), raw, joined(raw), "an array of {role, content} with texts")
        }
        (None, None) => return Ok(None),
    };
    match prompt.filter(|prompt| !prompt.trim().is_empty()) {
        Some(prompt) => Ok(Some(prompt.into())),
        None => Err(source.value(line.at, place, raw.get(), expected)),
    }
}

/// One conversation of ShareGPT.
#[derive(Deserialize)]
#[serde(expecting = "an object with conversations")]
struct Conversation<'a> {
    #[serde(borrow)]
    conversations: Vec<Turn<'a>>,
}

#[derive(Deserialize)]
#[serde(expecting = "a turn like {from, value}")]
struct Turn<'a> {
    #[serde(borrow)]
    from: Cow<'a, str>,
    #[serde(borrow)]
    value: Cow<'a, str>,
}

impl Conversation<'_> {
    /// The first question with its answer.
    fn row(&self) -> Option<DatasetRow> {
        let asked = self.conversations.iter().position(|turn| matches!(&*turn.from, "human" | "user"))?;
        let (question, answer) = (&self.conversations[asked], self.conversations.get(asked + 1)?);
        let answers = ["gpt", "chatgpt", "assistant", "model", "bing", "bard"].contains(&&*answer.from);
        let blank = question.value.trim().is_empty() || answer.value.trim().is_empty();
        (answers && !blank).then(|| DatasetRow {
            prompt: Some(Arc::from(&*question.value)),
            answer: Some(Arc::from(&*answer.value)),
            ..DatasetRow::default()
        })
    }
}

/// The conversations read so far. They are read one by one, since such a file may be large.
#[derive(Default)]
struct ShareGpt {
    rows: Vec<DatasetRow>,
    read: usize,
}

impl<'de> Visitor<'de> for &mut ShareGpt {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of conversations")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<(), A::Error> {
        while let Some(conversation) = array.next_element::<Conversation>()? {
            self.rows.extend(conversation.row());
            self.read += 1;
        }
        Ok(())
    }
}

fn read_share_gpt(source: Source<'_>) -> Result<Dataset, DatasetError> {
    let mut found = ShareGpt::default();
    let mut json = serde_json::Deserializer::from_str(source.text);
    let read = json.deserialize_seq(&mut found).and_then(|()| json.end());
    read.map_err(|error| source.json_error(0, &format!("field conversations[{}]", found.read), &error))?;
    let left_out = found.read - found.rows.len();
    let remarks: Vec<String> = (left_out > 0)
        .then(|| {
            format!(
                "{left_out} of {} conversations without a question and its answer are left out",
                found.read
            )
        })
        .into_iter()
        .collect();
    if found.rows.is_empty() {
        return Err(source.unusable(&remarks));
    }
    Ok(Dataset { rows: found.rows, remarks })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Result<Dataset, DatasetError> {
        read_dataset(Path::new("d.jsonl"), text.as_bytes())
    }

    fn message(text: &str) -> String {
        read(text).unwrap_err().to_string()
    }

    fn sizes(text: &str) -> Vec<(u32, u32)> {
        let rows = read(text).unwrap().rows;
        assert!(rows.iter().all(|row| row.prompt.is_none() && row.answer.is_none()));
        rows.iter().map(|row| (row.input.unwrap(), row.output.unwrap())).collect()
    }

    #[test]
    fn every_trace_is_a_dataset_of_sizes_whatever_its_times() {
        assert_eq!(
            sizes("TIMESTAMP,ContextTokens,GeneratedTokens\na,374,44\n,396,109\n"),
            [(374, 44), (396, 109)]
        );
        assert_eq!(sizes("GeneratedTokens,ContextTokens\r\n44,374\r\n0,5\r\n"), [(374, 44)]);
        assert_eq!(
            sizes("Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n5,m,472,18,490,l\n"),
            [(472, 18)]
        );
        let mooncake = "{\"timestamp\": 9, \"input_length\": 6955, \"output_length\": 52, \"hash_ids\": [46]}\n\
            {\"timestamp\": 0, \"input_length\": 6472, \"output_length\": 0, \"hash_ids\": [46]}\n";
        assert_eq!(sizes(mooncake), [(6955, 52)]);
        assert_eq!(read(mooncake).unwrap().remarks, ["1 of 2 requests without output are left out"]);
    }

    #[test]
    fn prompts_come_from_lines_with_prompt_or_messages() {
        let text = "\u{feff}\r\n{\"prompt\": \"a\\\"\u{e9}\", \"output_tokens\": 100, \"more\": {\"x\": [1]}}\r\n\n\
            {\"prompt\": \"b\", \"max_tokens\": 7, \"messages\": null}\n\
            {\"messages\": [{\"role\": \"system\", \"content\": \"c\"}, {\"role\": \"user\", \"content\": \"d\"}]}\n\
            {\"prompt\": \"e\", \"output_length\": 3, \"input_tokens\": 2}";
        let row = |prompt: &str, input, output| DatasetRow {
            prompt: Some(prompt.into()),
            input,
            output,
            answer: None,
        };
        let expected = vec![
            row("a\"\u{e9}", None, Some(100)),
            row("b", None, Some(7)),
            row("c\nd", None, None),
            row("e", Some(2), Some(3)),
        ];
        assert_eq!(read(text).unwrap(), Dataset { rows: expected, remarks: Vec::new() });
    }

    #[test]
    fn lines_with_both_numbers_of_tokens_need_no_text() {
        let text = "{\"input_tokens\": 5, \"output_tokens\": 6}\n{\"input_length\": 7, \"output_length\": 8}\n\
            {\"input_tokens\": 9, \"output_tokens\": 1, \"timestamp\": 4}";
        assert_eq!(sizes(text), [(5, 6), (7, 8), (9, 1)]);
    }

    #[test]
    fn a_share_gpt_row_is_the_first_question_with_its_answer() {
        let text = r#"[
            {"id": "1", "conversations": [{"from": "system", "value": "s"}, {"from": "human", "value": "q\n1"},
                {"from": "gpt", "value": "a1", "markdown": null}, {"from": "human", "value": "q2"}]},
            {"id": "2", "conversations": []},
            {"id": "3", "conversations": [{"from": "gpt", "value": "a"}, {"from": "human", "value": "q"}]},
            {"id": "4", "conversations": [{"from": "user", "value": " "}, {"from": "gpt", "value": "a"}]},
            {"id": "5", "conversations": [{"value": "q", "from": "user"}, {"from": "assistant", "value": "a5"}]}
        ]"#;
        let row = |prompt: &str, answer: &str| DatasetRow {
            prompt: Some(prompt.into()),
            answer: Some(answer.into()),
            ..DatasetRow::default()
        };
        let expected = Dataset {
            rows: vec![row("q\n1", "a1"), row("q", "a5")],
            remarks: vec!["3 of 5 conversations without a question and its answer are left out".to_owned()],
        };
        assert_eq!(read(text).unwrap(), expected);
        let none = message("[{\"conversations\": []}]");
        assert!(none.starts_with("d.jsonl holds no usable requests: 1 of 1 conversations"), "{none}");
    }

    #[test]
    fn a_wrong_value_names_file_line_and_field() {
        let good = "{\"prompt\": \"a\", \"output_tokens\": 1}\n\n";
        for wrong in ["\"x\"", "0", "-1", "1.5", "10000001", "true", "[7]", "99999999999999999999"] {
            assert_eq!(
                message(&format!("{good}{{\"prompt\": \"a\", \"output_tokens\": {wrong}}}\n")),
                format!(
                    "d.jsonl:3: field output_tokens: '{wrong}' is not a whole number of tokens from 1 to 10000000"
                )
            );
        }
        for wrong in ["5", "\"\"", "\" \\n\"", "[\"a\"]", "\"\\ud800\""] {
            let expected = format!("d.jsonl:3: field prompt: '{wrong}' is not a text that is not blank");
            assert_eq!(message(&format!("{good}{{\"prompt\": {wrong}}}\n")), expected);
        }
        for wrong in ["[]", "\"a\"", "[\"a\"]", "[{\"role\": \"user\"}]", "[{\"content\": \"a\"}]"] {
            let expected = "is not an array of {role, content} with texts";
            assert_eq!(
                message(&format!("{good}{{\"messages\": {wrong}}}\n")),
                format!("d.jsonl:3: field messages: '{wrong}' {expected}")
            );
        }
    }

    #[test]
    fn a_missing_field_is_named_with_the_line_as_it_stands() {
        assert_eq!(
            message("{\"question\": \"a\"}"),
            "d.jsonl:1: field prompt, messages or input_tokens is missing in '{\"question\": \"a\"}'"
        );
        assert_eq!(
            message("{\"input_tokens\": 1}"),
            "d.jsonl:1: field output_tokens is missing in '{\"input_tokens\": 1}'"
        );
        assert_eq!(
            message("TIMESTAMP,ContextTokens\na,1\n"),
            "d.jsonl:1: column GeneratedTokens is missing in 'TIMESTAMP,ContextTokens'"
        );
    }

    #[test]
    fn long_values_are_shortened() {
        let text = format!("{{\"prompt\": \"a\", \"output_tokens\": \"{}\"}}", "x".repeat(100_000));
        assert!(message(&text).len() < 180, "{}", message(&text));
        let turn = format!("[{{\"conversations\": \"{}\"}}]", "x".repeat(100_000));
        let text = message(&turn);
        assert!(text.len() < 180 && text.contains("expected a sequence"), "{text}");
    }

    #[test]
    fn malformed_lines_name_their_line() {
        let good = "{\"prompt\": \"a\"}\n";
        assert_eq!(
            message(&format!("{good}{{\"prompt\": \"b\",}}\n")),
            "d.jsonl:2: not a JSON object: trailing comma at character 16"
        );
        assert_eq!(message(&format!("{good}\"b\"\n")), "d.jsonl:2: '\"b\"' is not a JSON object");
        assert_eq!(
            message("{\"prompt\": \"a\", \"prompt\": \"b\"}"),
            "d.jsonl:1: not a JSON object: duplicate field `prompt` at character 24"
        );
    }

    #[test]
    fn a_wrong_conversation_names_its_line_and_number() {
        let good = "{\"conversations\": [{\"from\": \"human\", \"value\": \"q\"}]}";
        for (wrong, line, reason) in [
            ("{}", 3, "missing field `conversations` at character 2"),
            ("{\"conversations\":\n5}", 4, "invalid type: integer `5`, expected a sequence at character 1"),
            ("{\"conversations\": [{\"from\": \"gpt\"}]}", 3, "missing field `value` at character 34"),
            (
                "{\"conversations\": [\n\n5]}",
                5,
                "invalid type: integer `5`, expected a turn like {from, value}",
            ),
            ("{\"conversations\": [{\"from\": 1}]}", 3, "invalid type: integer `1`, expected a string"),
            ("5", 3, "invalid type: integer `5`, expected an object with conversations"),
            ("{\"conversations\": [{\"from\": \"gpt\"", 4, "EOF while parsing an object"),
        ] {
            let message = message(&format!("[\n{good},\n{wrong}\n"));
            let expected = format!("d.jsonl:{line}: field conversations[1]: {reason}");
            assert!(message.starts_with(&expected), "{message}");
        }
        assert!(message("[] []").starts_with("d.jsonl:1: field conversations[0]: trailing characters"));
    }

    #[test]
    fn files_in_no_known_format_or_without_requests_are_refused() {
        for text in ["a,b\n1,2\n", "hello", "1", "\0", "prompt\nhello\n"] {
            let message = message(text);
            assert!(message.contains("is in no known format") && message.contains("ShareGPT"), "{message}");
        }
        for text in ["", " \r\n", "\u{feff}", "[]", "TIMESTAMP,ContextTokens,GeneratedTokens\n"] {
            assert!(message(text).starts_with("d.jsonl holds no requests; known formats: JSON"), "{text}");
        }
        assert!(read_dataset(Path::new("d"), &[0xff, 0xfe, b'\n', 1]).is_err());
    }

    #[test]
    fn deep_nesting_is_no_danger_for_the_stack() {
        let deep = "[".repeat(1_000_000);
        for text in [
            deep.clone(),
            format!("[{{\"conversations\": {deep}"),
            format!("[{{\"x\": {deep}{}}}]", "]".repeat(1_000_000)),
            format!("{{\"prompt\": {deep}"),
            format!("{{\"messages\": {deep}{}}}", "]".repeat(1_000_000)),
            format!("{{\"x\": {}", "{\"x\":".repeat(1_000_000)),
        ] {
            assert!(read(&text).is_err());
        }
    }

    /// What holds for every dataset, whatever it was read from.
    fn check(bytes: &[u8]) {
        if let Ok(dataset) = read_dataset(Path::new("d"), bytes) {
            assert!(!dataset.rows.is_empty());
            for row in &dataset.rows {
                assert!(row.prompt.as_ref().map_or(row.input.is_some(), |text| !text.trim().is_empty()));
                assert!(row.prompt.is_some() || row.output.is_some());
                assert!(row.input != Some(0) && row.output != Some(0));
            }
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            check(&bytes);
            check(&[b"[{\"conversations\":", &bytes[..]].concat());
            check(&[b"{\"prompt\": \"a\"}\n{", &bytes[..]].concat());
        }

        #[test]
        fn a_damaged_dataset_is_refused_or_still_whole(
            damage in proptest::collection::vec((0_usize..220, any::<u8>()), 0..4),
            which in 0_usize..4,
        ) {
            let texts = [
                "[{\"conversations\": [{\"from\": \"human\", \"value\": \"q\"}, {\"from\": \"gpt\", \"value\": \"a\"}]}]",
                "{\"prompt\": \"a\", \"output_tokens\": 1}\n{\"messages\": [{\"role\": \"r\", \"content\": \"c\"}]}\n",
                "{\"input_tokens\": 5, \"output_tokens\": 6}\r\n{\"input_length\": 7, \"output_length\": 8}\r\n",
                "ContextTokens,GeneratedTokens\n1,2\n3,0\n",
            ];
            let mut bytes = texts[which].as_bytes().to_vec();
            for (at, byte) in damage {
                let length = bytes.len();
                bytes[at % length] = byte;
            }
            check(&bytes);
        }
    }
}
