//! Every stream that a real router was recorded to send, in every split position.

use super::super::classify_status;
use super::*;
use proptest::prelude::*;
use std::path::{Path, PathBuf};

/// Tokens seen and how the stream ended.
#[derive(Debug, Clone, PartialEq)]
struct Result_ {
    tokens: usize,
    end: Result<Finished, Failure>,
}

fn decode(format: StreamFormat, pieces: &[&[u8]]) -> Result_ {
    let mut decoder = StreamDecoder::new(format);
    let mut tokens = 0;
    for piece in pieces {
        decoder.feed(piece, |_| tokens += 1);
    }
    Result_ { tokens, end: decoder.finish() }
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/decode")
}

/// Status and body of a recorded answer, with the chunked framing taken off.
fn recorded(file: &str) -> (u16, Vec<u8>) {
    let bytes = std::fs::read(fixtures().join(file)).expect("a recording");
    let find = |mark: &[u8], from: usize| memchr::memmem::find(&bytes[from..], mark).map(|at| from + at);
    let response = find(b">>> RESPONSE", 0).expect("a response");
    let head = find(b"HTTP/1.1 ", response).expect("a status line");
    let status = std::str::from_utf8(&bytes[head + 9..head + 12]).unwrap().parse().unwrap();
    let lines = if find(b"\r\n\r\n", head).is_some() { "\r\n\r\n" } else { "\n\n" };
    let blank = find(lines.as_bytes(), head).expect("an end of the header");
    let header = String::from_utf8_lossy(&bytes[head..blank]).to_lowercase();
    let body = &bytes[blank + lines.len()..];
    if !header.contains("transfer-encoding: chunked") {
        return (status, body.to_vec());
    }
    let (mut rest, mut joined) = (body, Vec::new());
    while let Some(end) = memchr::memchr(b'\n', rest) {
        let size = std::str::from_utf8(&rest[..end]).unwrap().trim();
        let size = usize::from_str_radix(size, 16).unwrap();
        if size == 0 {
            break;
        }
        joined.extend_from_slice(&rest[end + 1..end + 1 + size]);
        rest = &rest[end + 1 + size..];
        rest = rest.strip_prefix(b"\r\n").or_else(|| rest.strip_prefix(b"\n")).unwrap_or(rest);
    }
    (status, joined)
}

enum End {
    /// Output tokens, input tokens, finish reason.
    Ok(Option<u32>, Option<u32>, &'static str),
    Fails(FailureKind),
}

/// Recording, format, token events, end.
fn table() -> Vec<(&'static str, StreamFormat, usize, End)> {
    use FailureKind::{ClientError, Overloaded, StreamError};
    use StreamFormat::{Chat, Completions, Generate};
    vec![
        ("3.3.7/generate_stream_details.txt", Generate, 6, End::Ok(Some(6), Some(21), "length")),
        ("3.3.7/generate_stream_eos.txt", Generate, 4, End::Ok(Some(4), Some(22), "eos_token")),
        ("3.3.7/generate_stream_nodetails.txt", Generate, 4, End::Ok(None, None, "")),
        ("3.3.7/compat_root_stream.txt", Generate, 3, End::Ok(None, None, "")),
        ("3.3.7/err_shard_midstream.txt", Generate, 3, End::Fails(StreamError)),
        ("3.3.7/err_shard_prefill_stream.txt", Generate, 0, End::Fails(StreamError)),
        ("3.3.7/err_validation_stream.txt", Generate, 0, End::Fails(ClientError)),
        ("3.3.7/429_generate_stream.txt", Generate, 0, End::Fails(Overloaded)),
        ("3.3.7/stream_shard_killed_midway.txt", Generate, 19, End::Fails(StreamError)),
        ("3.3.7/chat_stream_usage.txt", Chat, 5, End::Ok(Some(5), Some(26), "length")),
        ("3.3.7/chat_stream_nousage.txt", Chat, 5, End::Ok(None, None, "length")),
        ("3.3.7/chat_stream_eos.txt", Chat, 3, End::Ok(Some(4), Some(27), "stop")),
        ("3.3.7/err_shard_midstream_chat.txt", Chat, 3, End::Fails(StreamError)),
        ("3.3.7/err_validation_chat_stream.txt", Chat, 0, End::Fails(ClientError)),
        ("3.3.7/429_chat_stream.txt", Chat, 0, End::Fails(Overloaded)),
        ("3.3.7/completions_stream.txt", Completions, 5, End::Ok(Some(5), Some(21), "length")),
        ("3.3.7/err_shard_midstream_completions.txt", Completions, 3, End::Fails(StreamError)),
        ("3.3.7/429_completions_stream.txt", Completions, 0, End::Fails(Overloaded)),
        ("2.0.4/generate_stream_details.txt", Generate, 6, End::Ok(Some(6), None, "length")),
        ("2.0.4/generate_stream_eos.txt", Generate, 4, End::Ok(Some(4), None, "eos_token")),
        ("2.0.4/generate_stream_nodetails.txt", Generate, 4, End::Ok(None, None, "")),
        ("2.0.4/err_shard_midstream.txt", Generate, 3, End::Fails(StreamError)),
        ("2.0.4/err_validation_stream.txt", Generate, 0, End::Fails(ClientError)),
        ("2.0.4/429_generate_stream.txt", Generate, 0, End::Fails(Overloaded)),
        ("2.0.4/chat_stream_usage.txt", Chat, 5, End::Ok(None, None, "length")),
        ("2.0.4/chat_stream_eos.txt", Chat, 3, End::Ok(None, None, "eos_token")),
        ("2.0.4/err_shard_midstream_chat.txt", Chat, 3, End::Fails(StreamError)),
        ("2.0.4/err_validation_chat_stream.txt", Chat, 0, End::Fails(ClientError)),
        ("2.0.4/completions_stream.txt", Completions, 5, End::Ok(None, None, "")),
        ("2.0.4/err_shard_midstream_completions.txt", Completions, 3, End::Fails(StreamError)),
    ]
}

#[test]
fn every_recorded_stream_is_understood() {
    for (file, format, tokens, end) in table() {
        let (status, body) = recorded(file);
        assert_eq!(status, 200, "{file}");
        let result = decode(format, &[&body]);
        assert_eq!(result.tokens, tokens, "{file}: {result:?}");
        match (end, result.end) {
            (End::Ok(output, input, reason), Ok(finished)) => {
                assert_eq!((finished.output_tokens, finished.input_tokens), (output, input), "{file}");
                assert_eq!(finished.finish_reason.unwrap_or_default(), reason, "{file}");
            }
            (End::Fails(kind), Err(failure)) => assert_eq!(failure.kind, kind, "{file}: {}", failure.message),
            (_, other) => panic!("{file}: {other:?}"),
        }
    }
}

#[test]
fn every_recorded_stream_is_the_same_in_every_split_position() {
    for (file, format, ..) in table() {
        let (_, body) = recorded(file);
        let whole = decode(format, &[&body]);
        for cut in 0..=body.len() {
            assert_eq!(decode(format, &[&body[..cut], &body[cut..]]), whole, "{file} cut at {cut}");
        }
        let bytes: Vec<&[u8]> = body.chunks(1).collect();
        assert_eq!(decode(format, &bytes), whole, "{file} byte by byte");
    }
}

#[test]
fn a_stream_that_stops_anywhere_before_its_end_is_truncated() {
    let (_, body) = recorded("3.3.7/generate_stream_details.txt");
    for end in 0..body.len() - 1 {
        let result = decode(StreamFormat::Generate, &[&body[..end]]);
        assert_eq!(result.end.unwrap_err().kind, FailureKind::Truncated, "cut at {end}");
    }
    assert!(decode(StreamFormat::Generate, &[&body]).end.is_ok());
}

#[test]
fn an_openai_stream_that_breaks_off_before_its_finish_reason_is_truncated() {
    for (file, format) in [
        ("3.3.7/chat_stream_usage.txt", StreamFormat::Chat),
        ("3.3.7/completions_stream.txt", StreamFormat::Completions),
    ] {
        let (_, body) = recorded(file);
        let reason = memchr::memmem::find(&body, b"\"length\"").expect("a finish reason");
        for end in 0..reason {
            let kind = decode(format, &[&body[..end]]).end.unwrap_err().kind;
            assert_eq!(kind, FailureKind::Truncated, "{file} cut at {end}");
        }
    }
    let done = decode(StreamFormat::Completions, &[b"data: [DONE]\n\n"]);
    assert_eq!(done.end.unwrap_err().kind, FailureKind::Truncated, "no token came");
}

#[test]
fn a_chunk_with_several_tokens_counts_them_where_the_server_says_how_many() {
    let chunk = |tokens: u32| {
        format!(
            "data: {{\"choices\":[{{\"delta\":{{\"content\":\"a\"}},\"finish_reason\":null}}],\
             \"usage\":{{\"prompt_tokens\":4,\"completion_tokens\":{tokens}}}}}\n\n"
        )
    };
    let mut decoder = StreamDecoder::new(StreamFormat::Chat);
    let mut seen = Vec::new();
    decoder.feed([chunk(1), chunk(4), chunk(5)].concat().as_bytes(), |event| seen.push(event.tokens));
    assert_eq!(seen, [1, 3, 1]);
}

#[test]
fn empty_role_chunks_comments_and_empty_texts_are_no_tokens() {
    let chunk = |content: &str, reason: &str| {
        format!(
            "data: {{\"choices\":[{{\"delta\":{{\"role\":\"assistant\",\"content\":{content}}},\"finish_reason\":{reason}}}]}}\n\n"
        )
    };
    let stream = [
        ":\n\n",
        &chunk("\"\"", "null"),
        &chunk("null", "null"),
        &chunk("\"a\"", "null"),
        &chunk("\"\"", "\"stop\""),
        "data: [DONE]\n\n",
    ];
    let result = decode(StreamFormat::Chat, &[stream.concat().as_bytes()]);
    assert_eq!((result.tokens, result.end.map(|end| end.finish_reason)), (1, Ok(Some("stop".to_owned()))));
}

#[test]
fn errors_with_another_status_are_classified_by_it() {
    let (status, body) = recorded("3.3.7/429_generate.txt");
    let failure = classify_status(status, &body);
    assert_eq!((failure.kind, failure.message.as_str()), (FailureKind::Overloaded, "Model is overloaded"));
    let (status, body) = recorded("3.3.7/err_missing_field.txt");
    let failure = classify_status(status, &body);
    assert_eq!(failure.kind, FailureKind::ClientError);
    assert!(failure.message.contains("missing field"), "{}", failure.message);
    assert_eq!(classify_status(424, b"{}").kind, FailureKind::ServerError);
    assert_eq!(classify_status(503, b"").message, "no explanation");
}

#[test]
fn what_is_not_json_is_malformed() {
    for body in ["data: hello\n\n", "data: {\n\n", "data: []\n\n", "data: {\"x\":1}\n\n"] {
        for format in [StreamFormat::Generate, StreamFormat::Chat] {
            assert_eq!(
                decode(format, &[body.as_bytes()]).end.unwrap_err().kind,
                FailureKind::Malformed,
                "{body}"
            );
        }
    }
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        for format in [StreamFormat::Generate, StreamFormat::Chat, StreamFormat::Completions] {
            decode(format, &[&bytes]);
        }
    }

    #[test]
    fn a_damaged_recording_gives_the_same_however_it_is_cut(
        which in 0_usize..30,
        damage in proptest::collection::vec((0_usize..1500, any::<u8>()), 0..4),
        cut in 0_usize..1500,
    ) {
        let (file, format, ..) = table().swap_remove(which);
        let (_, mut body) = recorded(file);
        for (at, byte) in damage {
            if let Some(slot) = body.get_mut(at) {
                *slot = byte;
            }
        }
        let cut = cut.min(body.len());
        prop_assert_eq!(decode(format, &[&body[..cut], &body[cut..]]), decode(format, &[&body]));
    }
}
