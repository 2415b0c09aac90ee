//! The worker pool: the only file that knows goose.
//!
//! goose runs N users for the whole run; each executes one function again and again. Its pacing,
//! metrics, gzip, cookies and telnet listener are off. Plain tokio tasks could take its place by
//! rewriting this file alone. Its kill switch is global to the process, so our own stop flag, which
//! the work sees, comes first, and the switch only ends users that are already idle.

use super::DriveError;
use goose::client::GooseClientBuilder;
use goose::config::GooseConfiguration;
use goose::prelude::*;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;

/// What every worker runs again and again: handles one piece of work or waits at most half a
/// second for one. It must await something, since goose repeats it at once.
pub(super) type Work = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// Running workers.
pub(super) struct Pool {
    attack: JoinHandle<Result<(), String>>,
}

/// How long idle workers may take to end.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

impl Pool {
    /// Starts `workers` workers. `host` is only what goose insists on knowing.
    pub(super) fn start(workers: usize, host: &str, work: Work) -> Result<Pool, DriveError> {
        let attack = prepare(workers, host, work).map_err(|error| DriveError::Pool(error.to_string()))?;
        let attack = tokio::spawn(async move {
            Box::pin(attack.execute()).await.map(|_| ()).map_err(|error| error.to_string())
        });
        Ok(Pool { attack })
    }

    /// Whether the workers are gone although nobody stopped them.
    pub(super) fn is_gone(&self) -> bool {
        self.attack.is_finished()
    }

    /// Ends the workers. The work must have been told to stop before.
    pub(super) async fn stop(self) -> Result<(), DriveError> {
        goose::trigger_killswitch("the run is over");
        match tokio::time::timeout(STOP_PATIENCE, self.attack).await {
            Ok(Ok(result)) => result.map_err(DriveError::Pool),
            Ok(Err(panicked)) => Err(DriveError::Pool(panicked.to_string())),
            Err(_) => Err(DriveError::Pool(format!("workers did not end within {STOP_PATIENCE:?}"))),
        }
    }
}

fn prepare(workers: usize, host: &str, work: Work) -> Result<GooseAttack, GooseError> {
    let mut configuration = GooseConfiguration::default();
    configuration.host = Some(host.to_owned());
    configuration.users = Some(workers);
    configuration.increase_rate = Some("100000".to_owned());
    configuration.quiet = 2;
    configuration.no_telnet = true;
    configuration.no_metrics = true;
    configuration.no_print_metrics = true;
    configuration.no_error_summary = true;
    configuration.no_gzip = true;
    let function: TransactionFunction = Arc::new(move |_user: &mut GooseUser| {
        let work = Arc::clone(&work);
        Box::pin(async move {
            work().await;
            Ok(())
        })
    });
    GooseAttack::initialize_with_config(configuration)?
        // Without this goose builds an HTTP client for every user, which none of them uses.
        .set_client_builder_without_cookies(GooseClientBuilder::new().without_cookies())
        .map(|attack| {
            let scenario = Scenario::new("calibrate").register_transaction(Transaction::new(function));
            attack.register_scenario(scenario)
        })
}
