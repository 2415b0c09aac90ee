//! One interface over all sources: each is asked at its own pace, on the run's clock.

use super::Sink;
use super::cloud_monitoring::CloudMonitoring;
use super::http::Problem;
use super::metrics_api::MetricsApi;
use super::nvml::Nvml;
use super::prometheus::Prometheus;
use super::scrape::Scrape;
use crate::measurement::{Event, RunClock, Sample, Series, Source};
use crate::units::Seconds;
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

    /// Why the age of its values cannot be told, where it cannot: they are stamped with the time of the
    /// question.
    pub fn hides_age(&self) -> Option<String> {
        match self {
            Feed::MetricsApi(api) => api.hides_age().map(str::to_owned),
            Feed::Prometheus(prometheus) => {
                let series: Vec<&str> = prometheus.without_times().map(Series::column).collect();
                let whose = format!("PromQL of your own for {} has no times of samples", series.join(", "));
                (!series.is_empty()).then_some(whose)
            }
            _ => None,
        }
    }

    /// How long after the load what it showed may still be on its way to this source. `None`: nothing is.
    fn late_by(&self) -> Option<Duration> {
        match self {
            Feed::Scrape(_) | Feed::Nvml(_) => None,
            Feed::CloudMonitoring(_) => Some(super::cloud_monitoring::LATE_BY),
            Feed::Prometheus(_) | Feed::MetricsApi(_) => Some(LAST_WAIT),
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
            Feed::MetricsApi(api) => api.check(clock).await,
            Feed::Nvml(nvml) => nvml.poll(clock),
        }
    }
}

/// How long after the load the sources that come late are asked again, and how long they have to answer.
const LAST_WAIT: Duration = Duration::from_millis(2500);
const LAST_WORD: Duration = Duration::from_secs(10);

/// The sources that are being asked; they end when this is dropped.
pub struct Observer {
    tasks: Vec<JoinHandle<()>>,
    /// To be set to how long what comes late may be waited for.
    stop: watch::Sender<Option<Duration>>,
    late_by: Duration,
}

impl Observer {
    /// Starts to ask every source at its pace, so that a slow one never delays another.
    pub fn start(feeds: Vec<Feed>, clock: RunClock, sink: &Arc<dyn Sink>) -> Observer {
        let (stop, stopped) = watch::channel(None);
        let task = |feed: Feed| tokio::spawn(ask_on(feed, clock, Arc::clone(sink), stopped.clone()));
        let late_by = feeds.iter().filter_map(Feed::late_by).max().unwrap_or_default();
        Observer { tasks: feeds.into_iter().map(task).collect(), stop, late_by }
    }

    /// How long it may take to end: until what the load did has reached the source that shows it last.
    pub fn late_by(&self) -> Duration {
        self.late_by
    }

    /// Ends, after those that come late were asked for what was still on its way, for `most` at most.
    pub async fn finish(mut self, most: Duration) {
        self.stop.send_replace(Some(most));
        let all = async {
            for task in &mut self.tasks {
                // A task that failed has nothing more to say.
                let _ = task.await;
            }
        };
        // What does not answer by then is not waited for.
        let _ = tokio::time::timeout(most.min(self.late_by) + LAST_WORD, all).await;
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

async fn ask_on(
    mut feed: Feed,
    clock: RunClock,
    sink: Arc<dyn Sink>,
    mut stopped: watch::Receiver<Option<Duration>>,
) {
    let mut ticks = tokio::time::interval(feed.every());
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        let asked = async {
            ticks.tick().await;
            if let Asked::LeaveAlone(wait) = ask(&mut feed, clock, &sink).await {
                tokio::time::sleep(wait).await;
            }
        };
        tokio::select! {
            () = asked => {}
            _ = stopped.wait_for(Option::is_some) => break,
        }
    }
    if let Some(late_by) = feed.late_by() {
        let most = stopped.borrow().unwrap_or_default();
        last_words(&mut feed, clock, &sink, late_by.min(most)).await;
    }
}

/// Asks on until the source shows what was true when the load ended, or has had time enough for it.
async fn last_words(feed: &mut Feed, clock: RunClock, sink: &Arc<dyn Sink>, late_by: Duration) {
    let ended = clock.now();
    let mut wait = LAST_WAIT;
    loop {
        tokio::time::sleep(wait).await;
        let asked = ask(feed, clock, sink).await;
        let whole = matches!(asked, Asked::Newest(newest) if newest >= ended);
        if whole || clock.now() >= ended + late_by.into() {
            return;
        }
        wait = match asked {
            Asked::LeaveAlone(wait) => wait,
            Asked::Newest(_) | Asked::Nothing => feed.every(),
        };
    }
}

/// What came of a question.
enum Asked {
    /// Samples, of which the newest is of this time.
    Newest(Seconds),
    Nothing,
    /// A wish to be left alone for so long.
    LeaveAlone(Duration),
}

async fn ask(feed: &mut Feed, clock: RunClock, sink: &Arc<dyn Sink>) -> Asked {
    let time = clock.now();
    match feed.poll(clock).await {
        Ok(samples) => {
            let newest = samples.iter().map(|sample| sample.time).max_by(|a, b| a.0.total_cmp(&b.0));
            for sample in samples {
                sink.sample(sample);
            }
            newest.map_or(Asked::Nothing, Asked::Newest)
        }
        Err(problem) => {
            let (source, replica, reason) = (feed.source(), feed.replica(), problem.reason);
            sink.event(Event::ScrapeFailed { time, source, replica, reason });
            problem.retry_after.map_or(Asked::Nothing, Asked::LeaveAlone)
        }
    }
}
