//! `calibrate recommend`: what a recorded run says under other limits. Nothing is written.

use super::{derive, simulate};
use crate::cli::console::Console;
use crate::cli::{Exit, Failure, OrExit, RecommendArgs};
use crate::scenario::Settings;

/// Reads the record and derives from it anew.
pub(super) fn recommend(arguments: RecommendArgs, console: Console) -> Result<Exit, Failure> {
    let RecommendArgs { run, slo, tolerance, traffic } = arguments;
    if let Some(traffic) = traffic {
        return simulate::recommend(run, traffic, slo, tolerance, console);
    }
    let other = Settings { slo: (!slo.is_empty()).then_some(slo), tolerance, ..Settings::default() };
    let derived = derive::read(&run, other).or_exit(Exit::Usage)?;
    derived.show_result(&run, console);
    Ok(derived.exit())
}
