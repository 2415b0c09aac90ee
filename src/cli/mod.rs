//! Arguments, console and exit codes: the edge between a person and the library.
//!
//! Invariants: results go to stdout, everything else to stderr; with `--json` stdout carries one
//! document and nothing else; only this room and `commands` print.

mod args;
pub mod console;
mod exit_code;
mod progress;

pub(crate) use args::signal;
pub use args::{
    BenchArgs, BenchRole, Cli, Command, Loads, LoopArgs, RecommendArgs, ReportArgs, RunArgs, SimArgs,
    StudyArgs,
};
pub use exit_code::{Exit, Failure, OrExit};
pub use progress::{Moving, Progress, View};
