//! How a command can end.

use std::process::ExitCode;

/// The exit codes of every command. They are part of the contract with CI.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// Failed: target unreachable, disk full, server died.
    Failed = 1,
    /// Bad usage or input.
    Usage = 2,
    /// A gate failed: manifests have errors, a run fails its checks, a target does not hold under traffic.
    Gate = 3,
    /// The measurement is invalid, or gives no answer: nothing is recommended.
    Invalid = 4,
    /// Interrupted by the user; what was measured is analyzed and kept.
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

/// A command that could not do its work: what failed, and the code to exit with.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// What failed, on what, and what to do.
    pub error: anyhow::Error,
}

/// Gives an error its exit code.
pub trait OrExit<T> {
    /// The value, or the error with this exit code.
    fn or_exit(self, exit: Exit) -> Result<T, Failure>;
}

impl<T, E: Into<anyhow::Error>> OrExit<T> for Result<T, E> {
    fn or_exit(self, exit: Exit) -> Result<T, Failure> {
        self.map_err(|error| Failure { exit, error: error.into() })
    }
}
