//! `calibrate recommend`: what recorded runs say under other limits. Nothing is written.

use super::{derive, simulate};
use crate::cli::console::Console;
use crate::cli::{Exit, Failure, OrExit, RecommendArgs};
use crate::scenario::Settings;
use anyhow::anyhow;

/// Reads the records and derives from them anew.
pub(super) fn recommend(arguments: RecommendArgs, console: Console) -> Result<Exit, Failure> {
    let RecommendArgs { run, slo, metric, traffic, other } = arguments;
    if let Some(traffic) = traffic {
        let [run] = run.as_slice() else {
            return Err(anyhow!("--traffic plays one run; name the one to play")).or_exit(Exit::Usage);
        };
        return simulate::recommend(run.clone(), traffic, slo, metric, other, console);
    }
    let other = Settings {
        slo: (!slo.is_empty()).then_some(slo),
        tolerance: other.tolerance,
        lag: other.lag,
        startup: other.startup,
        growth: other.growth,
        production_replicas: other.production_replicas,
        ..Settings::default()
    };
    let derive = || derive::read(&run, other, metric);
    let derived = console.during("deriving what the record tells", derive).or_exit(Exit::Usage)?;
    derived.show_result(&run[0], console);
    Ok(derived.exit())
}
