//! `calibrate sim`: the simulated TGI server on a port.

use crate::cli::console::Console;
use crate::cli::{Exit, Failure, OrExit, SimArgs};
use crate::simulator::{self, Preset, Running};
use crate::units::nearest;
use anyhow::{Context, anyhow};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use tokio::sync::Notify;

/// Serves until Ctrl-C or SIGTERM, which is how a pod is ended.
pub(super) fn sim(arguments: &SimArgs, console: Console) -> Result<Exit, Failure> {
    if arguments.list {
        return Ok(list(console));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().or_exit(Exit::Failed)?;
    runtime.block_on(async {
        let end = Arc::new(Notify::new());
        let ended = Arc::clone(&end);
        ctrlc::set_handler(move || ended.notify_one()).or_exit(Exit::Failed)?;
        let running = start(&arguments.preset, (arguments.host, arguments.port).into()).await?;
        let url = format!("http://{}", running.addr());
        if console.wants_json() {
            console.document(&serde_json::json!({ "url": url, "preset": arguments.preset }));
        }
        console.note(&format!("simulated TGI server '{}' at {url}; Ctrl-C ends it", arguments.preset));
        console.note(&format!("metrics: {url}/metrics  GPU: {url}/gpu/metrics"));
        end.notified().await;
        drop(running);
        Ok(Exit::Done)
    })
}

fn list(console: Console) -> Exit {
    if console.wants_json() {
        let presets: Vec<serde_json::Value> = Preset::all()
            .map(|preset| serde_json::json!({ "name": preset.name, "description": preset.description }))
            .collect();
        console.document(&presets.into());
    } else {
        for preset in Preset::all() {
            console.line(&format!("{:<24} {}", preset.name, preset.description));
        }
    }
    Exit::Done
}

/// Starts the server that a preset describes, for this process alone: on a free port of the loopback address.
pub(super) async fn embedded(preset: &str) -> Result<Running, Failure> {
    start(preset, (Ipv4Addr::LOCALHOST, 0).into()).await
}

async fn start(preset: &str, address: SocketAddr) -> Result<Running, Failure> {
    let found = Preset::by_name(preset).ok_or_else(|| {
        let names = Preset::all().map(|preset| preset.name);
        let hint = nearest(preset, names.clone()).map(|name| format!(" (did you mean {name}?)"));
        let names = names.collect::<Vec<_>>().join(", ");
        anyhow!("there is no preset '{preset}'{}; there are: {names}", hint.unwrap_or_default())
    });
    let config = found.or_exit(Exit::Usage)?.config();
    simulator::serve(config, address)
        .await
        .with_context(|| format!("cannot listen on {address}"))
        .or_exit(Exit::Failed)
}
