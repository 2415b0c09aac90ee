//! `calibrate`: parses the command line, calls the library, returns the exit code.

use calibrate::cli::console::Console;
use calibrate::cli::{Cli, Exit};
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = Cli::from_command_line();
    let console = Console::new(&cli);
    // The TLS stack has more than one provider compiled in, so one is chosen before any client is built.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    match calibrate::commands::execute(cli, console) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            console.failure(&failure);
            Exit::into(failure.exit)
        }
    }
}
