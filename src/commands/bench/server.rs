//! The server of the bench: streams tokens at a stated pace, or as fast as the client takes them, and
//! remembers when it sent each. It does as little else as it can, since it shares the machine.
//!
//! `POST /TTFT/GAP/...` (microseconds) answers with `max_new_tokens` events as TGI frames them;
//! `GET /stamps` gives the time of each event of each stream, and forgets them.

use anyhow::Context;
use memchr::memmem;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

/// Prompts and the times of their events, nanoseconds of the system's monotonic clock.
type Stamps = Arc<Mutex<HashMap<String, Vec<u64>>>>;

/// A burst is written in pieces of about this size.
const PIECE: usize = 16 * 1024;

const HEAD: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";

/// Serves until its parent closes its standard input.
pub(super) async fn serve() -> anyhow::Result<()> {
    let listener =
        TcpListener::bind(("127.0.0.1", 0)).await.context("cannot listen on the loopback address")?;
    // The parent reads where it is from the first line.
    writeln!(std::io::stdout(), "{}", listener.local_addr()?.port())?;
    let stamps = Stamps::default();
    let accepting = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let _ = stream.set_nodelay(true);
            tokio::spawn(answer_all(stream, Arc::clone(&stamps)));
        }
    });
    tokio::task::spawn_blocking(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink())).await??;
    accepting.abort();
    Ok(())
}

/// The system's monotonic clock, which every process reads the same.
pub(super) fn monotonic_nanos() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

async fn answer_all(mut stream: TcpStream, stamps: Stamps) {
    let mut buffer = Vec::new();
    while let Some(request) = read_request(&mut stream, &mut buffer).await {
        let done = match request {
            Asked::Stamps => send_stamps(&mut stream, &stamps).await,
            Asked::Stream(wanted) => send_stream(&mut stream, wanted, &stamps).await,
        };
        if done.is_err() {
            return;
        }
    }
}

enum Asked {
    Stamps,
    Stream(Wanted),
}

struct Wanted {
    ttft: Duration,
    gap: Duration,
    tokens: u32,
    prompt: String,
}

/// The next request on a connection; `None` once it is over or makes no sense.
async fn read_request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<Asked> {
    let head = loop {
        if let Some(end) = memmem::find(buffer, b"\r\n\r\n") {
            break end + 4;
        }
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    };
    let text = String::from_utf8_lossy(&buffer[..head]).to_ascii_lowercase();
    let length =
        text.split_once("content-length:").map_or("0", |(_, rest)| rest.lines().next().unwrap_or("0"));
    let length: usize = length.trim().parse().ok()?;
    while buffer.len() < head + length {
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
    let body: Vec<u8> = buffer.drain(..head + length).skip(head).collect();
    let path = text.split_whitespace().nth(1)?.to_owned();
    if path == "/stamps" {
        return Some(Asked::Stamps);
    }
    let mut parts = path.split('/').skip(1);
    let mut micros = || parts.next()?.parse().ok().map(Duration::from_micros);
    let (ttft, gap) = (micros()?, micros()?);
    let after = |mark: &[u8], end: &[u8]| {
        let from = memmem::find(&body, mark)? + mark.len();
        let to = body[from..].iter().position(|byte| end.contains(byte))? + from;
        std::str::from_utf8(&body[from..to]).ok()
    };
    let tokens = after(b"\"max_new_tokens\":", b",}")?.parse().ok()?;
    let prompt = after(b"\"inputs\":\"", b"\"")?.to_owned();
    Some(Asked::Stream(Wanted { ttft, gap, tokens, prompt }))
}

async fn send_stream(stream: &mut TcpStream, wanted: Wanted, stamps: &Stamps) -> std::io::Result<()> {
    let begun = Instant::now();
    stream.write_all(HEAD).await?;
    let paced = !wanted.gap.is_zero();
    let mut sent = Vec::with_capacity(if paced { wanted.tokens as usize } else { 0 });
    let (mut piece, mut event) = (Vec::with_capacity(PIECE * 2), String::new());
    for index in 0..wanted.tokens {
        if paced || index == 0 {
            let due = begun + wanted.ttft + wanted.gap * index;
            tokio::time::sleep_until(due).await;
        }
        event.clear();
        let _ = write!(
            event,
            "data: {{\"index\":{},\"token\":{{\"id\":{},\"text\":\" tok{index}\",\"logprob\":-0.5,\"special\":false}},",
            index + 1,
            index + 4
        );
        let last = index + 1 == wanted.tokens;
        if last {
            let _ = write!(
                event,
                "\"generated_text\":\"text\",\"details\":{{\"finish_reason\":\"length\",\"generated_tokens\":{},\
                 \"seed\":null,\"input_length\":32}}}}\n\n",
                wanted.tokens
            );
        } else {
            event.push_str("\"generated_text\":null,\"details\":null}\n\n");
        }
        piece.extend_from_slice(format!("{:x}\r\n", event.len()).as_bytes());
        piece.extend_from_slice(event.as_bytes());
        piece.extend_from_slice(if last { b"\r\n0\r\n\r\n" } else { b"\r\n" });
        if paced {
            sent.push(monotonic_nanos());
        }
        if paced || last || piece.len() >= PIECE {
            stream.write_all(&piece).await?;
            piece.clear();
        }
    }
    if paced {
        stamps.lock().unwrap_or_else(PoisonError::into_inner).insert(wanted.prompt, sent);
    }
    Ok(())
}

async fn send_stamps(stream: &mut TcpStream, stamps: &Stamps) -> std::io::Result<()> {
    let all = std::mem::take(&mut *stamps.lock().unwrap_or_else(PoisonError::into_inner));
    let body = serde_json::to_vec(&all).unwrap_or_default();
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(&body).await
}
