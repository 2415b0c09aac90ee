//! A local address whose connections go to the ports of pods: through the API server, or straight to
//! their addresses from within the cluster.
//!
//! Each connection goes to the pod that has the fewest, so that replicas share the load evenly.

use super::client::Cluster;
use super::error::root_cause;
use super::pods::Pod;
use k8s_openapi::api::core::v1 as core;
use kube::api::Api;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// How pods are reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Port-forward through the API server.
    PortForward,
    /// Their own addresses, from within the cluster.
    Direct,
}

/// A pod that connections may go to.
#[derive(Debug)]
struct Backend {
    name: String,
    ip: Option<String>,
    open: usize,
    /// Connections so far, so that equals take turns.
    turns: u64,
}

struct Shared {
    pods: Api<core::Pod>,
    way: Way,
    port: u16,
    backends: Mutex<Vec<Backend>>,
}

/// The local address; it ends when this is dropped.
pub struct Forwarder {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Forwarder {
    /// Listens on the loopback address for what goes to `port` of `pods`.
    ///
    /// # Errors
    /// No local port is free.
    pub async fn start(
        cluster: &Cluster,
        namespace: &str,
        way: Way,
        pods: &[Pod],
        port: u16,
    ) -> io::Result<Forwarder> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let backend = |pod: &Pod| Backend { name: pod.name.clone(), ip: pod.ip.clone(), open: 0, turns: 0 };
        let shared = Arc::new(Shared {
            pods: Api::namespaced(cluster.client(), namespace),
            way,
            port,
            backends: Mutex::new(pods.iter().map(backend).collect()),
        });
        let task = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Ok(Forwarder { address, shared, task })
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Connections go to these pods from now on; those that are open stay.
    pub fn serve(&self, pods: &[Pod]) {
        let mut backends = self.shared.backends();
        backends.retain(|backend| pods.iter().any(|pod| pod.name == backend.name));
        for pod in pods {
            if !backends.iter().any(|backend| backend.name == pod.name) {
                // Counted from 0, a newcomer would get all turns.
                let turns = backends.iter().map(|backend| backend.turns).max().unwrap_or(0);
                backends.push(Backend { name: pod.name.clone(), ip: pod.ip.clone(), open: 0, turns });
            }
        }
    }

    /// No more connections go to this pod.
    pub fn leave_out(&self, pod: &str) {
        self.shared.backends().retain(|backend| backend.name != pod);
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let shared = Arc::clone(&shared);
                tokio::spawn(async move {
                    let Some((pod, ip)) = shared.choose() else { return };
                    if let Err(error) = shared.connect(stream, &pod, ip.as_deref()).await {
                        tracing::info!(
                            "the connection to port {} of the pod {pod} ended: {error}",
                            shared.port
                        );
                    }
                    shared.give_back(&pod);
                });
            }
            // Out of file descriptors: those in use have to end first.
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(50)).await,
        }
    }
}

impl Shared {
    fn backends(&self) -> MutexGuard<'_, Vec<Backend>> {
        self.backends.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn choose(&self) -> Option<(String, Option<String>)> {
        let mut backends = self.backends();
        let next = backends.iter_mut().min_by_key(|backend| (backend.open, backend.turns))?;
        next.open += 1;
        next.turns += 1;
        Some((next.name.clone(), next.ip.clone()))
    }

    fn give_back(&self, pod: &str) {
        if let Some(backend) = self.backends().iter_mut().find(|backend| backend.name == pod) {
            // One that was left out and came back has forgotten its old connections.
            backend.open = backend.open.saturating_sub(1);
        }
    }

    async fn connect(&self, mut client: TcpStream, pod: &str, ip: Option<&str>) -> io::Result<()> {
        client.set_nodelay(true)?;
        if self.way == Way::Direct {
            let ip = ip.ok_or_else(|| io::Error::other("the pod has no address"))?;
            let mut server = TcpStream::connect((ip, self.port)).await?;
            server.set_nodelay(true)?;
            copy_bidirectional(&mut client, &mut server).await?;
            return Ok(());
        }
        let other = |error: kube::Error| match error {
            kube::Error::Api(status) => io::Error::other(status.message),
            error => io::Error::other(root_cause(&error)),
        };
        let mut forward = self.pods.portforward(pod, &[self.port]).await.map_err(other)?;
        let (Some(mut server), Some(failed)) =
            (forward.take_stream(self.port), forward.take_error(self.port))
        else {
            return Err(io::Error::other("the port-forward has no stream"));
        };
        let failed = async {
            match failed.await {
                Some(error) => error,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            copied = copy_bidirectional(&mut client, &mut server) => copied.map(|_| ()),
            error = failed => Err(io::Error::other(error)),
        }
    }
}
