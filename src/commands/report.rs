//! `calibrate report`: everything that a run derives from its record, once more.

use super::derive;
use crate::cli::console::Console;
use crate::cli::{Exit, Failure, OrExit, ReportArgs};

/// Reads the record, analyzes it, and writes the derived files again.
pub(super) fn report(arguments: &ReportArgs, console: Console) -> Result<Exit, Failure> {
    let derived = derive::derive(&arguments.run).or_exit(Exit::Usage)?;
    derived.show(&arguments.run, console);
    Ok(derived.exit())
}
