//! One file per subcommand: they decide what happens in which order, and leave the doing to the rooms.

mod bench;
mod derive;
pub mod hpa;
mod recommend;
mod report;
mod run;
mod sim;
pub mod simulate;

use crate::cli::console::Console;
use crate::cli::{Cli, Command, Exit, Failure};

/// Carries out the command.
///
/// # Errors
/// What failed, and the exit code that says so.
pub fn execute(cli: Cli, console: Console) -> Result<Exit, Failure> {
    match cli.command {
        Command::Run(arguments) => run::run(*arguments, console),
        Command::Recommend(arguments) => recommend::recommend(arguments, console),
        Command::Report(arguments) => report::report(&arguments, console),
        Command::Hpa(arguments) => hpa::hpa(&arguments, console),
        Command::BenchClient(arguments) => bench::bench(&arguments, console),
        Command::Sim(arguments) => sim::sim(&arguments, console),
        Command::Simulate(arguments) => simulate::simulate(&arguments, console),
    }
}
