//! The only place that writes to the terminal.

use super::{Cli, Failure, Progress};
use clap::ColorChoice;
use indicatif::ProgressBar;
use std::io::{IsTerminal, Write};
use std::time::Duration;
use tracing_subscriber::filter::{EnvFilter, LevelFilter};

/// Where and how messages go.
#[derive(Debug, Clone, Copy)]
#[allow(clippy::struct_excessive_bools, reason = "switches that the user sets one by one")]
pub struct Console {
    json: bool,
    quiet: bool,
    colour: bool,
    /// Colours are wanted wherever it goes.
    forced: bool,
    terminal: bool,
}

impl Console {
    /// A console as the flags and the environment want it. Sets up logging too.
    pub fn new(cli: &Cli) -> Console {
        let terminal = std::io::stderr().is_terminal();
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let colour = match cli.color {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            ColorChoice::Auto => terminal && !plain,
        };
        let level = match cli.verbose {
            0 => LevelFilter::WARN,
            1 => LevelFilter::INFO,
            _ => LevelFilter::DEBUG,
        };
        // Other crates speak up only for what went wrong; what goes wrong with a cluster is said where it matters.
        let filter = EnvFilter::new(format!("error,kube_client=off,calibrate={level}"));
        let logger =
            tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colour);
        // A second logger in one process (tests) is no reason to fail.
        let _ = logger.with_target(false).try_init();
        let forced = matches!(cli.color, ColorChoice::Always);
        Console { json: cli.json, quiet: cli.quiet, colour, forced, terminal: terminal && !plain }
    }

    /// Whether stdout is for one JSON document.
    pub fn wants_json(self) -> bool {
        self.json
    }

    /// Whether colours are wanted of what is a command's result.
    pub fn colour_on_stdout(self) -> bool {
        self.colour && (self.forced || std::io::stdout().is_terminal())
    }

    /// Whether colours are wanted.
    pub fn colour(self) -> bool {
        self.colour
    }

    /// A remark on stderr, left out with `--quiet`.
    pub fn note(self, text: &str) {
        if !self.quiet {
            error_line(text);
        }
    }

    /// Something that must be seen, on stderr.
    pub fn warn(self, text: &str) {
        error_line(&format!("{} {text}", self.paint("33;1", "warning:")));
    }

    /// The result for people, on stderr.
    pub fn summary(self, text: &str) {
        error_line(text);
    }

    /// The result for machines, on stdout.
    pub fn document(self, document: &serde_json::Value) {
        let text = serde_json::to_string_pretty(document).unwrap_or_else(|_| document.to_string());
        self.line(&text);
    }

    /// A line on stdout. A reader that is gone is no error.
    pub fn line(self, text: &str) {
        let _ = writeln!(std::io::stdout().lock(), "{text}");
    }

    /// A unified diff for people, on stderr.
    pub fn diff(self, text: &str) {
        for line in text.lines() {
            let colour = match line.as_bytes().first() {
                Some(b'+') => "32",
                Some(b'-') => "31",
                Some(b'@') => "36",
                _ => "0",
            };
            error_line(&self.paint(colour, line));
        }
    }

    /// Asks for a yes on the terminal. `None`: nobody is there to be asked.
    pub fn confirm(self, question: &str) -> Option<bool> {
        if !std::io::stdin().is_terminal() {
            return None;
        }
        let _ = write!(std::io::stderr().lock(), "{question} [y/N] ");
        let mut answer = String::new();
        let read = std::io::stdin().read_line(&mut answer).is_ok();
        Some(read && matches!(answer.trim(), "y" | "Y" | "yes"))
    }

    /// What failed, why, and what to do.
    pub fn failure(self, failure: &Failure) {
        if self.json {
            let chain: Vec<String> = failure.error.chain().map(ToString::to_string).collect();
            self.document(&serde_json::json!({ "error": chain.join(": "), "exit_code": failure.exit as u8 }));
        }
        error_line(&format!("{} {:#}", self.paint("31;1", "error:"), failure.error));
    }

    /// A display of how far a long work is: on a terminal, plain lines every few seconds elsewhere.
    pub fn progress(self) -> Progress {
        Progress::new(self, !self.quiet && self.terminal, !self.quiet && !self.terminal)
    }

    /// Does what takes some seconds and cannot say how far it is, and says meanwhile what that is.
    pub fn during<T>(self, what: &str, work: impl FnOnce() -> T) -> T {
        let bar =
            if self.quiet || !self.terminal { ProgressBar::hidden() } else { ProgressBar::new_spinner() };
        bar.set_message(what.to_owned());
        bar.enable_steady_tick(Duration::from_millis(120));
        let done = work();
        bar.finish_and_clear();
        done
    }

    pub(super) fn paint(self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// A line on stderr. A reader that is gone is no error.
pub(super) fn error_line(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}
