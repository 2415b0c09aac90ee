//! The worker pool: the only file that knows goose.
//!
//! goose runs N users until it is stopped; each executes one function again and again. Its pacing,
//! metrics, gzip, cookies and telnet listener are off. Users cannot be added to a running attack, so
//! the pool grows by starting another one. Plain tokio tasks could take goose's place by rewriting
//! this file alone. Its kill switch is global to the process, so our own stop flag, which the work
//! sees, comes first, and the switch only ends users that are already idle.

use super::DriveError;
use goose::client::GooseClientBuilder;
use goose::config::GooseConfiguration;
use goose::prelude::*;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::task::JoinHandle;

/// What every worker runs again and again: handles one piece of work or waits at most half a
/// second for one. It must await something, since goose repeats it at once.
pub(super) type Work = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// Running workers.
pub(super) struct Pool {
    host: String,
    work: Work,
    up: Arc<AtomicUsize>,
    attacks: Vec<JoinHandle<Result<(), String>>>,
}

/// How long idle workers may take to end.
const STOP_PATIENCE: Duration = Duration::from_secs(5);
/// How often it is looked whether new workers are up.
const POLL: Duration = Duration::from_millis(2);

impl Pool {
    /// A pool without workers yet. `host` is only what goose insists on knowing; `up` counts the
    /// workers that can take work.
    pub(super) fn new(host: &str, work: Work, up: Arc<AtomicUsize>) -> Pool {
        Pool { host: host.to_owned(), work, up, attacks: Vec::new() }
    }

    /// Adds workers and waits until they are up.
    ///
    /// # Errors
    /// Workers that cannot be started.
    pub(super) async fn grow(&mut self, by: usize) -> Result<(), DriveError> {
        let wanted = self.up.load(Ordering::Acquire) + by;
        let attack = self.prepare(by).map_err(|error| DriveError::Pool(error.to_string()))?;
        self.attacks.push(tokio::spawn(async move {
            Box::pin(attack.execute()).await.map(|_| ()).map_err(|error| error.to_string())
        }));
        while self.up.load(Ordering::Acquire) < wanted {
            if self.attacks.last().is_none_or(JoinHandle::is_finished) {
                return Err(DriveError::Pool("they ended at once".to_owned()));
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// Ends the workers. The work must have been told to stop before.
    pub(super) async fn stop(self) -> Result<(), DriveError> {
        goose::trigger_killswitch("the run is over");
        let all = futures::future::try_join_all(self.attacks);
        match tokio::time::timeout(STOP_PATIENCE, all).await {
            Ok(Ok(results)) => results.into_iter().collect::<Result<(), String>>().map_err(DriveError::Pool),
            Ok(Err(panicked)) => Err(DriveError::Pool(panicked.to_string())),
            Err(_) => Err(DriveError::Pool(format!("workers did not end within {STOP_PATIENCE:?}"))),
        }
    }

    fn prepare(&self, workers: usize) -> Result<GooseAttack, Box<GooseError>> {
        let mut configuration = GooseConfiguration::default();
        configuration.host = Some(self.host.clone());
        configuration.users = Some(workers);
        configuration.increase_rate = Some("100000".to_owned());
        configuration.quiet = 2;
        configuration.no_telnet = true;
        configuration.no_metrics = true;
        configuration.no_print_metrics = true;
        configuration.no_error_summary = true;
        configuration.no_gzip = true;
        let up = Arc::clone(&self.up);
        let begin: TransactionFunction = Arc::new(move |_user: &mut GooseUser| {
            up.fetch_add(1, Ordering::Release);
            Box::pin(async { Ok(()) })
        });
        let work = Arc::clone(&self.work);
        let turn: TransactionFunction = Arc::new(move |_user: &mut GooseUser| {
            let work = Arc::clone(&work);
            Box::pin(async move {
                work().await;
                Ok(())
            })
        });
        let scenario = Scenario::new("calibrate")
            .register_transaction(Transaction::new(begin).set_on_start())
            .register_transaction(Transaction::new(turn));
        Ok(GooseAttack::initialize_with_config(configuration)
            .map_err(Box::new)?
            // Without this goose builds an HTTP client for every user, which none of them uses.
            .set_client_builder_without_cookies(GooseClientBuilder::new().without_cookies())
            .map_err(Box::new)?
            .register_scenario(scenario))
    }
}
