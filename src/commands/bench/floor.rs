//! The floor that the client is held against: bare hyper, one connection a stream, that does nothing
//! but count the events that come.

use super::{Cost, Task, cpu_seconds, memory};
use anyhow::Context;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use memchr::memmem;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::net::TcpStream;
use tokio::time::Instant;

/// Streams until the time is over, and says what it cost.
pub(super) async fn measure(task: &Task) -> anyhow::Result<Cost> {
    let (before, memory_before) = (cpu_seconds(), memory());
    let (events, requests) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let until = Instant::now() + task.length.to_duration();
    let streams: Vec<_> = (0..task.streams)
        .map(|_| tokio::spawn(stream_until(until, task.clone(), Arc::clone(&events), Arc::clone(&requests))))
        .collect();
    for stream in streams {
        stream.await.context("a stream of the floor failed")??;
    }
    Ok(Cost {
        cpu_seconds: cpu_seconds() - before,
        memory_bytes: memory().saturating_sub(memory_before),
        events: events.load(Ordering::Relaxed),
        requests: requests.load(Ordering::Relaxed),
        ..Cost::default()
    })
}

async fn stream_until(
    until: Instant,
    task: Task,
    events: Arc<AtomicU64>,
    requests: Arc<AtomicU64>,
) -> anyhow::Result<()> {
    let stream = TcpStream::connect(("127.0.0.1", task.port)).await?;
    stream.set_nodelay(true)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let body = Bytes::from(format!(
        "{{\"inputs\":\"floor\",\"parameters\":{{\"max_new_tokens\":{}}}}}",
        task.tokens
    ));
    while Instant::now() < until {
        let request = hyper::Request::post(format!("/{}/{}/generate_stream", task.ttft_us, task.gap_us))
            .header("host", "localhost")
            .header("content-type", "application/json")
            .body(Full::new(body.clone()))?;
        sender.ready().await?;
        let mut answer = sender.send_request(request).await?.into_body();
        while let Some(frame) = answer.frame().await {
            if let Some(data) = frame?.data_ref() {
                events.fetch_add(memmem::find_iter(data, b"\n\n").count() as u64, Ordering::Relaxed);
            }
        }
        requests.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}
