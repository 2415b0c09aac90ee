//! Simulated servers behind the pods of a Deployment.

#![allow(dead_code, reason = "each test uses what it needs of it")]

use super::api_server::ApiServer;
use calibrate::simulator::{Preset, Running, serve};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Mutex;

pub(crate) const DEPLOYMENT: &str = "tgi-gemma-deployment";
pub(crate) const PORT: u16 = 8000;

/// Simulated servers, one for each pod of the Deployment.
pub(crate) struct Servers {
    runtime: tokio::runtime::Runtime,
    by_pod: Mutex<BTreeMap<String, Running>>,
}

impl Servers {
    pub(crate) fn new() -> Servers {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        Servers { runtime, by_pod: Mutex::default() }
    }

    /// Every pod has a server of its own behind its port.
    pub(crate) fn stand_behind(&self, api: &ApiServer) {
        for pod in api.pod_names("deployments", DEPLOYMENT) {
            let mut servers = self.by_pod.lock().unwrap();
            servers.entry(pod.clone()).or_insert_with(|| {
                let config = Preset::by_name("demo").unwrap().config();
                let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
                let running = self.runtime.block_on(serve(config, address)).unwrap();
                api.serve_pod(&pod, &[(PORT, running.addr())]);
                running
            });
        }
    }

    /// The number behind a line of the metrics of each pod's server that shows it.
    pub(crate) fn gauges(&self, name: &str) -> BTreeMap<String, f64> {
        let servers = self.by_pod.lock().unwrap();
        let addresses: Vec<_> = servers.iter().map(|(pod, running)| (pod.clone(), running.addr())).collect();
        drop(servers);
        let read = |address| {
            let text = self.runtime.block_on(async {
                reqwest::get(format!("http://{address}/metrics")).await.ok()?.text().await.ok()
            })?;
            text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
        };
        addresses.into_iter().filter_map(|(pod, address)| Some((pod, read(address)?))).collect()
    }
}
