//! The scheduler in real time: a thread that waits for the end of each forward and hands out tokens.

use super::SimulatorConfig;
use super::gpu::Activity;
use super::metrics::Metrics;
use crate::batching::{Emission, Gauges, Job, Observation, Output, Refused, Server};
use crate::units::Seconds;
use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// How often the metrics are tidied up and an idle thread looks around.
const UPKEEP: Duration = Duration::from_secs(1);

/// What a request gets from the shard.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Delivery {
    /// A token, with its number in the answer and its number overall, which makes its text.
    Token { index: u32, serial: u64, last: bool },
    /// The shard failed.
    Failed(String),
}

/// A failure that a prompt asked for: before the token of this number.
pub(super) type FailAt = Option<u32>;

struct Client {
    deliveries: mpsc::UnboundedSender<Delivery>,
    fail_at: FailAt,
    served: Option<Times>,
}

/// How long a request waited and was served.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Times {
    pub queued: Seconds,
    pub served: Seconds,
}

struct Core {
    server: Server,
    out: Output,
    clients: HashMap<u64, Client>,
    finished: HashMap<u64, Times>,
    activity: Activity,
    next_id: u64,
    serial: u64,
    stopped: bool,
}

/// The running scheduler.
pub(super) struct Shard {
    core: Mutex<Core>,
    changed: Condvar,
    origin: Instant,
    pub(super) metrics: Metrics,
}

impl std::fmt::Debug for Shard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shard").finish_non_exhaustive()
    }
}

/// A request at the shard. Dropping it before its end tells the shard that its client is gone.
pub(super) struct Ticket {
    shard: Arc<Shard>,
    id: u64,
    pub(super) deliveries: mpsc::UnboundedReceiver<Delivery>,
}

impl Ticket {
    /// How long the request waited and was served, once it is over.
    pub(super) fn times(&self) -> Times {
        self.shard.core().finished.remove(&self.id).unwrap_or_default()
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut core = self.shard.core();
        core.finished.remove(&self.id);
        if core.clients.remove(&self.id).is_some() {
            core.server.cancel(self.id);
        }
    }
}

impl Shard {
    #[allow(clippy::disallowed_methods, reason = "the simulator plays its model in real time, from here")]
    pub(super) fn start(config: &SimulatorConfig) -> io::Result<Arc<Shard>> {
        let metrics =
            Metrics::new(config.max_total_tokens - 1, config.max_total_tokens).map_err(io::Error::other)?;
        let core = Core {
            server: Server::new(config.model.clone()),
            out: Output::default(),
            clients: HashMap::new(),
            finished: HashMap::new(),
            activity: Activity::default(),
            next_id: 0,
            serial: 0,
            stopped: false,
        };
        let shard = Arc::new(Shard {
            core: Mutex::new(core),
            changed: Condvar::new(),
            origin: Instant::now(),
            metrics,
        });
        let thread = Arc::clone(&shard);
        std::thread::Builder::new().name("simulated-shard".to_owned()).spawn(move || thread.run())?;
        Ok(shard)
    }

    pub(super) fn stop(&self) {
        self.core().stopped = true;
        self.changed.notify_one();
    }

    fn core(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Seconds since the server started.
    pub(super) fn now(&self) -> Seconds {
        Seconds::from(self.origin.elapsed())
    }

    /// Sends a request to the scheduler.
    pub(super) fn submit(
        self: &Arc<Self>,
        input_tokens: u32,
        declared_output: u32,
        output_tokens: u32,
        fail_at: FailAt,
    ) -> Result<Ticket, Refused> {
        let mut guard = self.core();
        let core = &mut *guard;
        // Taken under the lock, so that the scheduler never sees time run backwards.
        let now = self.now();
        self.advance(core, now);
        let id = core.next_id;
        core.next_id += 1;
        let (sender, deliveries) = mpsc::unbounded_channel();
        core.server.submit(now, Job { id, input_tokens, declared_output, output_tokens }, &mut core.out)?;
        core.clients.insert(id, Client { deliveries: sender, fail_at, served: None });
        self.observe(core);
        drop(guard);
        self.changed.notify_one();
        Ok(Ticket { shard: Arc::clone(self), id, deliveries })
    }

    /// The router's gauges now.
    pub(super) fn gauges(&self) -> Gauges {
        let mut core = self.core();
        let now = self.now();
        self.advance(&mut core, now);
        core.server.gauges()
    }

    /// Share of the last second in which the GPU was busy.
    pub(super) fn gpu_share(&self) -> f64 {
        let mut core = self.core();
        let now = self.now();
        self.advance(&mut core, now);
        core.activity.share(now, core.server.computing_since())
    }

    fn run(&self) {
        let mut tidied = self.now();
        let mut core = self.core();
        while !core.stopped {
            let now = self.now();
            self.advance(&mut core, now);
            if (now - tidied).to_duration() >= UPKEEP {
                tidied = now;
                self.metrics.upkeep();
            }
            let wait =
                core.server.next_event().map_or(UPKEEP, |time| (time - self.now()).to_duration().min(UPKEEP));
            if !wait.is_zero() {
                core = self.changed.wait_timeout(core, wait).unwrap_or_else(PoisonError::into_inner).0;
            }
        }
    }

    fn advance(&self, core: &mut Core, now: Seconds) {
        // One event at a time, so that a failure of the shard stops what would have followed.
        while let Some(time) = core.server.next_event().filter(|time| *time <= now) {
            core.server.advance(time, &mut core.out);
            self.observe(core);
            self.deliver(core);
        }
    }

    fn observe(&self, core: &mut Core) {
        for observation in core.out.observations.drain(..) {
            match observation {
                Observation::Forward { ended, took, .. } => core.activity.record(ended, took),
                Observation::Finished { id, queued, served } => {
                    if let Some(client) = core.clients.get_mut(&id) {
                        client.served = Some(Times { queued, served });
                    }
                }
                _ => {}
            }
            self.metrics.observe(&observation);
        }
    }

    fn deliver(&self, core: &mut Core) {
        let emissions = std::mem::take(&mut core.out.emissions);
        for emission in &emissions {
            self.deliver_one(core, emission);
        }
        core.out.emissions = emissions;
        core.out.emissions.clear();
    }

    fn deliver_one(&self, core: &mut Core, emission: &Emission) {
        let Some(client) = core.clients.get(&emission.id) else { return };
        if client.fail_at == Some(emission.index) {
            self.fail(core, emission);
            return;
        }
        core.serial += 1;
        self.metrics.emitted();
        let token = Delivery::Token { index: emission.index, serial: core.serial, last: emission.last };
        // A client that is gone is noticed when its ticket is dropped.
        let _ = client.deliveries.send(token);
        if emission.last
            && let Some(client) = core.clients.remove(&emission.id)
        {
            core.finished.insert(emission.id, client.served.unwrap_or_default());
        }
    }

    /// The shard fails: everyone in the batch hears of it.
    fn fail(&self, core: &mut Core, emission: &Emission) {
        let message = match emission.index {
            1 => "CUDA out of memory. Tried to allocate 2.00 GiB (simulated)".to_owned(),
            _ => format!(
                "CUDA error: an illegal memory access was encountered (simulated, request {})",
                emission.id
            ),
        };
        let mut lost = core.server.fail_batch(&mut core.out);
        lost.push(emission.id);
        for id in lost {
            if let Some(client) = core.clients.remove(&id) {
                self.metrics.failed("generation");
                let _ = client.deliveries.send(Delivery::Failed(format!("Server error: {message}")));
            }
        }
        self.observe(core);
    }
}
