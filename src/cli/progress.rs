//! The live view of a long work: bars and sparklines on a terminal, plain lines elsewhere. All on stderr.

use super::console::{Console, error_line};
use console::Term;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::fmt::Write;
use std::time::{Duration, Instant};

/// Time between two plain lines.
const BETWEEN_LINES: Duration = Duration::from_secs(5);
/// A terminal smaller than this shows one line.
const LEAST_SIZE: (u16, u16) = (14, 60);
/// Letters of a sparkline, and how many.
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
const SPARK: usize = 40;

/// What is going on.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct View {
    /// What the work is, and where in it: `step 2/7`.
    pub prefix: String,
    /// How far it is, 0 to 1.
    pub done: f64,
    /// What is being done.
    pub message: String,
    /// Why, where that needs saying.
    pub why: Option<String>,
    /// Figures that move.
    pub figures: Vec<Moving>,
}

/// A figure that moves.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Moving {
    /// What it is.
    pub name: &'static str,
    /// What it is now, with its unit.
    pub now: String,
    /// What it was, the latest last; `None` where nobody knew.
    pub history: Vec<Option<f64>>,
    /// What the top of the sparkline stands for; `None`: the largest value in it.
    pub top: Option<f64>,
}

/// The live view of a long work.
pub struct Progress {
    console: Console,
    bar: ProgressBar,
    lines: bool,
    said: Option<Instant>,
}

impl Progress {
    pub(super) fn new(console: Console, on_terminal: bool, lines: bool) -> Progress {
        let bar = if on_terminal {
            let bar = ProgressBar::with_draw_target(Some(1000), ProgressDrawTarget::stderr_with_hz(8));
            let style = ProgressStyle::with_template("{prefix:.bold} {bar:24.cyan/dim} {msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("━╸─"));
            bar.enable_steady_tick(Duration::from_millis(250));
            bar
        } else {
            ProgressBar::hidden()
        };
        Progress { console, bar, lines, said: None }
    }

    /// Shows how far the work is, 0 to 1, and what is going on.
    pub fn update(&mut self, prefix: &str, done: f64, message: &str) {
        let (prefix, message) = (prefix.to_owned(), message.to_owned());
        self.show(&View { prefix, done, message, ..View::default() });
    }

    /// Shows what is going on. May be called as often as one likes.
    #[allow(clippy::disallowed_methods, reason = "how often a line is shown is no measurement")]
    pub fn show(&mut self, view: &View) {
        let done = view.done.clamp(0.0, 1.0);
        if !self.bar.is_hidden() {
            self.bar.set_prefix(view.prefix.clone());
            self.bar.set_position((done * 1000.0) as u64);
            let (rows, columns) = Term::stderr().size();
            let room = rows >= LEAST_SIZE.0 && columns >= LEAST_SIZE.1;
            self.bar.set_message(if room { block(view, usize::from(columns)) } else { line(view) });
        }
        if self.lines && self.said.is_none_or(|said| said.elapsed() >= BETWEEN_LINES) {
            self.said = Some(Instant::now());
            error_line(&format!("{} {:3.0} % {}", view.prefix, done * 100.0, line(view)));
        }
    }

    /// A line above the display.
    pub fn note(&mut self, text: &str) {
        if self.bar.is_hidden() {
            self.console.note(text);
        } else {
            self.bar.println(text);
        }
        self.said = None;
    }

    /// Takes the display away.
    pub fn finish(self) {
        self.bar.finish_and_clear();
    }
}

/// The view in one line.
fn line(view: &View) -> String {
    let mut text = view.message.clone();
    for figure in &view.figures {
        let _ = write!(text, "  {} {}", figure.name, figure.now);
    }
    text
}

/// The view as a block: why, and each figure with the way it came.
fn block(view: &View, columns: usize) -> String {
    // The bar and its prefix stand before the message.
    let first = columns.saturating_sub(view.prefix.chars().count() + 28);
    let mut text = cut(&view.message, first);
    if let Some(why) = &view.why {
        let _ = write!(text, "\n  {}", cut(why, columns.saturating_sub(3)));
    }
    for figure in &view.figures {
        let line =
            format!("  {:<10} {}  {}", figure.name, sparkline(&figure.history, figure.top), figure.now);
        let _ = write!(text, "\n{}", cut(&line, columns.saturating_sub(1)));
    }
    text
}

fn cut(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    let kept: String = text.chars().take(most.saturating_sub(1)).collect();
    format!("{kept}…")
}

/// The last values as a line of bars, the latest at the right end; a blank where nobody knew.
fn sparkline(history: &[Option<f64>], top: Option<f64>) -> String {
    let shown = &history[history.len().saturating_sub(SPARK)..];
    let largest = shown.iter().flatten().copied().filter(|value| value.is_finite()).fold(0.0, f64::max);
    let top = top.unwrap_or(largest);
    let bar = |value: f64| {
        let share = if top > 0.0 { (value / top).clamp(0.0, 1.0) } else { 0.0 };
        BARS[(share * (BARS.len() - 1) as f64).round() as usize]
    };
    let blank = std::iter::repeat_n(' ', SPARK - shown.len());
    blank.chain(shown.iter().map(|value| value.filter(|v| v.is_finite()).map_or(' ', bar))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sparkline_ends_with_the_latest_and_leaves_blanks_where_nobody_knew() {
        let line = sparkline(&[Some(0.0), None, Some(5.0), Some(10.0)], None);
        assert_eq!(line.chars().count(), SPARK);
        assert_eq!(line.trim_start(), "▁ ▅█");
        assert!(sparkline(&[Some(50.0)], Some(100.0)).ends_with('▅'));
        assert_eq!(sparkline(&[Some(0.0), Some(f64::NAN)], None).trim(), "▁");
        assert_eq!(sparkline(&vec![Some(1.0); 90], None).chars().count(), SPARK);
    }

    #[test]
    fn no_line_of_a_block_is_wider_than_the_terminal() {
        let figure =
            Moving { name: "in flight", now: "12".to_owned(), history: vec![Some(1.0); 40], top: None };
        let view = View {
            prefix: "step 3".to_owned(),
            done: 0.5,
            message: "a rate ".repeat(20),
            why: Some("because ".repeat(30)),
            figures: vec![figure; 6],
        };
        for columns in [60, 80, 200] {
            let block = block(&view, columns);
            let lines: Vec<usize> = block.lines().map(|line| line.chars().count()).collect();
            assert_eq!(lines.len(), 8);
            assert!(lines[0] + "step 3".len() + 26 <= columns, "{block}");
            assert!(lines[1..].iter().all(|width| *width < columns), "{columns}: {lines:?}");
        }
        assert!(line(&view).contains("in flight 12"));
    }
}
