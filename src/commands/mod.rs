//! One file per subcommand: they decide what happens in which order, and leave the doing to the rooms.

mod applied_files;
pub mod apply;
mod bench;
mod cluster_target;
mod derive;
pub mod doctor;
pub mod gate;
pub mod help;
pub mod hpa;
mod input;
pub mod lint;
pub mod manifests;
mod recommend;
mod report;
pub mod rollback;
mod run;
mod server;
mod sim;
pub mod simulate;
mod sources;
mod study;
pub mod verify;

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
        Command::Simulate(arguments) => simulate::simulate(&arguments, console),
        Command::Gate(arguments) => gate::gate(&arguments, console),
        Command::Doctor(arguments) => doctor::doctor(*arguments, console),
        Command::Hpa(arguments) => hpa::hpa(&arguments, console),
        Command::Lint(arguments) => lint::lint(&arguments, console),
        Command::Manifests(arguments) => manifests::manifests(*arguments, console),
        Command::Apply(arguments) => apply::apply(&arguments, console),
        Command::Rollback(arguments) => rollback::rollback(&arguments, console),
        Command::Verify(arguments) => verify::verify(&arguments, console),
        Command::BenchClient(arguments) => bench::bench(&arguments, console),
        Command::Sim(arguments) => sim::sim(&arguments, console),
        Command::Study(arguments) => study::study(&arguments, console),
        Command::Completions(arguments) => Ok(help::completions(&arguments, console)),
        Command::Man(arguments) => help::man(&arguments, console),
    }
}
