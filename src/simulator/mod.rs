//! The embedded simulated TGI server: the room `batching` in real time behind TGI's HTTP.
//!
//! It answers as a real router 3.3.7 was recorded to: bodies, headers, framing, errors inside
//! HTTP 200 streams, and a `/metrics` on which nothing exists before it is first touched. Its
//! GPU gauges on `/gpu/metrics` look like DCGM's.
//!
//! Three words in a prompt steer it, as they did the shard of the recordings: `__EOS_AT_n__` ends
//! the answer with the n-th token, `__FAIL_PREFILL__` and `__FAIL_DECODE_AT_n__` make the shard
//! fail, which loses the whole batch.
//!
//! Invariants: time is read in [`shard`] alone; the scheduler's clock, not the wall's, says when
//! tokens are due, so delays of the machine do not add up. Not imitated: `best_of`, several prompts
//! in one completions request, grammars and tools, the re-queueing after 1024 tokens.

mod gpu;
mod http;
mod metrics;
mod presets;
mod request;
mod shard;
mod stream;

pub use presets::Preset;

use crate::batching::ServerModel;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// What is simulated.
#[derive(Debug, Clone)]
pub struct SimulatorConfig {
    /// Cost and limits of the scheduler.
    pub model: ServerModel,
    /// `model_id` of `/info`.
    pub model_id: String,
    /// Longest prompt plus answer, tokens.
    pub max_total_tokens: u32,
    /// GPU as DCGM names it.
    pub gpu_name: String,
    /// GPU memory in use, MiB: weights and KV cache are allocated once and stay.
    pub gpu_memory_mib: u32,
}

/// A running server; it ends when this is dropped.
#[derive(Debug)]
pub struct Running {
    addr: SocketAddr,
    task: JoinHandle<()>,
    shard: Arc<shard::Shard>,
}

impl Running {
    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
        self.shard.stop();
    }
}

/// Starts a server on `address`; port 0 picks a free one.
///
/// # Errors
/// An address that cannot be listened on, or a thread that cannot be started.
pub async fn serve(config: SimulatorConfig, address: SocketAddr) -> io::Result<Running> {
    let listener = TcpListener::bind(address).await?;
    let addr = listener.local_addr()?;
    let shard = shard::Shard::start(&config)?;
    let router = http::router(config, Arc::clone(&shard));
    let task = tokio::spawn(async move {
        if let Err(error) = axum::serve(TcpNoDelay(listener), router).await {
            tracing::error!("the simulated server stopped: {error}");
        }
    });
    Ok(Running { addr, task, shard })
}

/// Sends each token at once instead of waiting for more.
struct TcpNoDelay(TcpListener);

impl axum::serve::Listener for TcpNoDelay {
    type Io = tokio::net::TcpStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        let (stream, addr) = axum::serve::Listener::accept(&mut self.0).await;
        let _ = stream.set_nodelay(true);
        (stream, addr)
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.0.local_addr()
    }
}
