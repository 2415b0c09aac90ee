//! `calibrate sim`: the simulated TGI server on a port.

use crate::cli::console::Console;
use crate::cli::{Exit, Failure, OrExit, SimArgs};
use crate::simulator::{self, Preset, Running};
use crate::units::nearest;
use anyhow::{Context, anyhow};
use std::net::{Ipv4Addr, SocketAddr};

/// Serves until Ctrl-C.
pub(super) fn sim(arguments: &SimArgs, console: Console) -> Result<Exit, Failure> {
    if arguments.list {
        return Ok(list(console));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().or_exit(Exit::Failed)?;
    runtime.block_on(async {
        let running = start(&arguments.preset, arguments.port).await?;
        let url = format!("http://{}", running.addr());
        if console.wants_json() {
            console.document(&serde_json::json!({ "url": url, "preset": arguments.preset }));
        }
        console.note(&format!("simulated TGI server '{}' at {url}; Ctrl-C ends it", arguments.preset));
        console.note(&format!("metrics: {url}/metrics  GPU: {url}/gpu/metrics"));
        tokio::signal::ctrl_c().await.or_exit(Exit::Failed)?;
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

/// Starts the server that a preset describes on a port of the loopback address.
pub(super) async fn start(preset: &str, port: u16) -> Result<Running, Failure> {
    let found = Preset::by_name(preset).ok_or_else(|| {
        let names = Preset::all().map(|preset| preset.name);
        let hint = nearest(preset, names.clone()).map(|name| format!(" (did you mean {name}?)"));
        let names = names.collect::<Vec<_>>().join(", ");
        anyhow!("there is no preset '{preset}'{}; there are: {names}", hint.unwrap_or_default())
    });
    let config = found.or_exit(Exit::Usage)?.config();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    simulator::serve(config, address)
        .await
        .with_context(|| format!("cannot listen on {address}"))
        .or_exit(Exit::Failed)
}
