//! One interface over all sources: each is asked at its own pace, on the run's clock.

use super::Sink;
use super::cloud_monitoring::CloudMonitoring;
use super::http::Problem;
use super::metrics_api::MetricsApi;
use super::nvml::Nvml;
use super::prometheus::Prometheus;
use super::scrape::Scrape;
use crate::measurement::{Event, RunClock, Sample, Source};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

/// One source that is asked again and again.
#[derive(Debug)]
pub enum Feed {
    /// An exposition, of a server or of a DCGM exporter.
    Scrape(Scrape),
    /// A Prometheus server.
    Prometheus(Box<Prometheus>),
    /// Google's Cloud Monitoring.
    CloudMonitoring(Box<CloudMonitoring>),
    /// The metrics APIs of a Kubernetes cluster.
    MetricsApi(Box<MetricsApi>),
    /// NVIDIA's library on this machine.
    Nvml(Nvml),
}

impl Feed {
    /// What its samples are called.
    pub fn source(&self) -> Source {
        match self {
            Feed::Scrape(scrape) => scrape.source(),
            Feed::Prometheus(_) => Source::Prometheus,
            Feed::CloudMonitoring(_) => Source::CloudMonitoring,
            Feed::MetricsApi(api) => api.source(),
            Feed::Nvml(_) => Source::Nvml,
        }
    }

    /// The replica that it speaks for, where that is one; else the first.
    fn replica(&self) -> u32 {
        match self {
            Feed::Scrape(scrape) => scrape.replica(),
            _ => 0,
        }
    }

    /// What it is, for messages: its kind and its address.
    pub fn what(&self) -> String {
        match self {
            Feed::Scrape(scrape) => scrape.url().to_owned(),
            Feed::Prometheus(prometheus) => format!("Prometheus at {}", prometheus.url()),
            Feed::CloudMonitoring(monitoring) => format!("Cloud Monitoring of {}", monitoring.project()),
            Feed::MetricsApi(api) => api.what(),
            Feed::Nvml(_) => "NVML on this machine".to_owned(),
        }
    }

    /// Time between two questions.
    fn every(&self) -> Duration {
        match self {
            Feed::Scrape(_) | Feed::Nvml(_) => Duration::from_secs(1),
            Feed::Prometheus(_) => super::prometheus::EVERY,
            Feed::CloudMonitoring(_) => super::cloud_monitoring::EVERY,
            Feed::MetricsApi(_) => super::metrics_api::EVERY,
        }
    }

    /// How long a value may be on its way to this source. `None`: it is here at once.
    fn delay(&self) -> Option<Duration> {
        match self {
            Feed::Scrape(_) | Feed::Nvml(_) => None,
            _ => Some(LAST_WAIT),
        }
    }

    /// Asks once. Gives what is new since the last time.
    ///
    /// # Errors
    /// A source that gives nothing, with the reason.
    pub async fn poll(&mut self, clock: RunClock) -> Result<Vec<Sample>, Problem> {
        match self {
            Feed::Scrape(scrape) => scrape.poll(clock).await,
            Feed::Prometheus(prometheus) => prometheus.poll(clock).await,
            Feed::CloudMonitoring(monitoring) => monitoring.poll(clock).await,
            Feed::MetricsApi(api) => api.poll(clock).await,
            Feed::Nvml(nvml) => nvml.poll(clock),
        }
    }

    /// Asks for everything that a run will ask for, and finds out what is wrong before there is load:
    /// clocks that differ, series that are not there, several where one is expected. Gives what is to
    /// be seen now.
    ///
    /// # Errors
    /// What is wrong, with the way out.
    pub async fn check(&mut self, clock: RunClock) -> Result<Vec<Sample>, Problem> {
        match self {
            Feed::Scrape(scrape) => scrape.poll(clock).await,
            Feed::Prometheus(prometheus) => prometheus.check(clock).await,
            Feed::CloudMonitoring(monitoring) => monitoring.check(clock).await,
            Feed::MetricsApi(api) => api.poll(clock).await,
            Feed::Nvml(nvml) => nvml.poll(clock),
        }
    }
}

/// How long after the load the sources that come late are asked for the last time, and how long they
/// all have for it.
const LAST_WAIT: Duration = Duration::from_millis(2500);
const LAST_WORD: Duration = Duration::from_secs(10);

/// The sources that are being asked; they end when this is dropped.
pub struct Observer {
    tasks: Vec<JoinHandle<()>>,
    stop: watch::Sender<bool>,
}

impl Observer {
    /// Starts to ask every source at its pace, so that a slow one never delays another.
    pub fn start(feeds: Vec<Feed>, clock: RunClock, sink: &Arc<dyn Sink>) -> Observer {
        let (stop, stopped) = watch::channel(false);
        let task = |feed: Feed| tokio::spawn(ask_on(feed, clock, Arc::clone(sink), stopped.clone()));
        Observer { tasks: feeds.into_iter().map(task).collect(), stop }
    }

    /// Ends, after those that come late were asked for what was still on its way.
    pub async fn finish(mut self) {
        self.stop.send_replace(true);
        let all = async {
            for task in &mut self.tasks {
                // A task that failed has nothing more to say.
                let _ = task.await;
            }
        };
        // What does not answer by then is not waited for.
        let _ = tokio::time::timeout(LAST_WORD, all).await;
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

async fn ask_on(mut feed: Feed, clock: RunClock, sink: Arc<dyn Sink>, mut stopped: watch::Receiver<bool>) {
    let mut ticks = tokio::time::interval(feed.every());
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        let asked = async {
            ticks.tick().await;
            if let Some(wait) = ask(&mut feed, clock, &sink).await {
                tokio::time::sleep(wait).await;
            }
        };
        tokio::select! {
            () = asked => {}
            _ = stopped.wait_for(|stopped| *stopped) => break,
        }
    }
    if let Some(delay) = feed.delay() {
        tokio::time::sleep(delay).await;
        ask(&mut feed, clock, &sink).await;
    }
}

/// Asks once. Gives how long the source wants to be left alone.
async fn ask(feed: &mut Feed, clock: RunClock, sink: &Arc<dyn Sink>) -> Option<Duration> {
    let time = clock.now();
    match feed.poll(clock).await {
        Ok(samples) => {
            for sample in samples {
                sink.sample(sample);
            }
            None
        }
        Err(problem) => {
            let (source, replica, reason) = (feed.source(), feed.replica(), problem.reason);
            sink.event(Event::ScrapeFailed { time, source, replica, reason });
            problem.retry_after
        }
    }
}
