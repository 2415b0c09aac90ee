//! The only place that writes to the terminal.

use super::{Cli, Failure};
use clap::ColorChoice;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{IsTerminal, Write};
use std::time::Duration;
use tracing_subscriber::filter::{EnvFilter, LevelFilter};

/// Where and how messages go.
#[derive(Debug, Clone, Copy)]
#[allow(clippy::struct_excessive_bools, reason = "four switches that the user sets one by one")]
pub struct Console {
    json: bool,
    quiet: bool,
    colour: bool,
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
        // Other crates speak up only for what went wrong.
        let filter = EnvFilter::new(format!("error,calibrate={level}"));
        let logger =
            tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colour);
        // A second logger in one process (tests) is no reason to fail.
        let _ = logger.with_target(false).try_init();
        Console { json: cli.json, quiet: cli.quiet, colour, terminal: terminal && !plain }
    }

    /// Whether stdout is for one JSON document.
    pub fn wants_json(self) -> bool {
        self.json
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

    /// A progress display: a bar on a terminal, a plain line every few seconds elsewhere.
    pub fn progress(self) -> Progress {
        let bar = if self.quiet || !self.terminal {
            ProgressBar::hidden()
        } else {
            let bar = ProgressBar::with_draw_target(Some(1000), ProgressDrawTarget::stderr_with_hz(8));
            let style = ProgressStyle::with_template("{prefix:.bold} {bar:24.cyan/dim} {msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("━╸─"));
            bar.enable_steady_tick(Duration::from_millis(250));
            bar
        };
        Progress { console: self, bar, lines: !self.quiet && !self.terminal, ticks: 0 }
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// A line on stderr. A reader that is gone is no error.
fn error_line(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// The live view of a long work.
pub struct Progress {
    console: Console,
    bar: ProgressBar,
    lines: bool,
    ticks: u32,
}

/// Updates between two plain lines: five seconds at four updates a second.
const TICKS_PER_LINE: u32 = 20;

impl Progress {
    /// Shows how far the work is, 0 to 1, and what is going on. To be called four times a second.
    pub fn update(&mut self, prefix: &str, done: f64, message: &str) {
        self.bar.set_prefix(prefix.to_owned());
        self.bar.set_position((done.clamp(0.0, 1.0) * 1000.0) as u64);
        self.bar.set_message(message.to_owned());
        if self.lines && self.ticks.is_multiple_of(TICKS_PER_LINE) {
            error_line(&format!("{prefix} {:3.0} % {message}", done.clamp(0.0, 1.0) * 100.0));
        }
        self.ticks = self.ticks.wrapping_add(1);
    }

    /// A line above the display.
    pub fn note(&mut self, text: &str) {
        if self.bar.is_hidden() {
            self.console.note(text);
        } else {
            self.bar.println(text);
        }
        self.ticks = 0;
    }

    /// Takes the display away.
    pub fn finish(self) {
        self.bar.finish_and_clear();
    }
}
