//! What a person sees while a run goes on.

use crate::cli::{Moving, View};
use crate::plan::Step;
use crate::units::Seconds;
use std::fmt::Write;

/// Moments that are kept: one a second.
const KEPT: usize = 60;

/// The figures of a moment. What nobody knows is `None`.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Moment {
    /// Answers per second, over the last ten.
    pub answered: f64,
    /// Of the requests of this step that were answered in the last ten seconds, in seconds.
    pub ttft_p95: Option<f64>,
    /// Requests that failed in them.
    pub failed: usize,
    /// At the client.
    pub in_flight: f64,
    /// Per replica, as last scraped.
    pub queue: Option<f64>,
    /// Per replica, as last scraped.
    pub batch: Option<f64>,
    /// Percent, as last scraped.
    pub gpu: Option<f64>,
}

/// The last minute.
#[derive(Debug, Default)]
pub(super) struct History {
    moments: Vec<Moment>,
    second: Option<i64>,
}

impl History {
    /// Keeps a moment, unless there is one of this second.
    pub(super) fn keep(&mut self, moment: Moment, now: Seconds) {
        let second = now.0.floor() as i64;
        if self.second.replace(second) == Some(second) {
            self.moments.pop();
        }
        self.moments.push(moment);
        if self.moments.len() > KEPT {
            self.moments.remove(0);
        }
    }

    /// The view of a step: what is asked of the server, why, and what it answers.
    pub(super) fn view(&self, step: &Step, prefix: String, done: f64, why: Option<&str>) -> View {
        let now = self.moments.last().copied().unwrap_or_default();
        let of = |figure: fn(&Moment) -> Option<f64>| self.moments.iter().map(figure).collect::<Vec<_>>();
        let whole = |value: Option<f64>| value.map_or_else(|| "?".to_owned(), |value| format!("{value:.0}"));
        let moving = |name, now, history, top| Moving { name, now, history, top };
        let ttft = now.ttft_p95.map_or_else(|| "-".to_owned(), |p95| Seconds(p95).to_string());
        let gpu = now.gpu.map_or_else(|| "?".to_owned(), |gpu| format!("{gpu:.0} %"));
        let mut message = step.load.to_string();
        if now.failed > 0 {
            let _ = write!(message, "  failed {}", now.failed);
        }
        View {
            prefix,
            done,
            message,
            why: why.map(str::to_owned),
            figures: vec![
                moving("answered", format!("{:.1}/s", now.answered), of(|m| Some(m.answered)), None),
                moving("in flight", whole(Some(now.in_flight)), of(|m| Some(m.in_flight)), None),
                moving("TTFT p95", ttft, of(|m| m.ttft_p95), None),
                moving("queue", whole(now.queue), of(|m| m.queue), None),
                moving("batch", whole(now.batch), of(|m| m.batch), None),
                moving("GPU", gpu, of(|m| m.gpu), Some(100.0)),
            ],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::{Load, Rate};

    fn step() -> Step {
        Step {
            index: 0,
            place: 0,
            load: Load::Rate(Rate(4.0)),
            offset: Seconds(0.0),
            warm_up: Seconds(3.0),
            length: Seconds(10.0),
        }
    }

    #[test]
    fn history_holds_one_moment_a_second_and_only_the_last_minute() {
        let mut history = History::default();
        for tick in 0..400 {
            let moment = Moment { in_flight: f64::from(tick), ..Moment::default() };
            history.keep(moment, Seconds(f64::from(tick) * 0.25));
        }
        assert_eq!(history.moments.len(), KEPT);
        assert_eq!(history.moments.last().map(|moment| moment.in_flight), Some(399.0));
        assert_eq!(history.moments[KEPT - 2].in_flight, 395.0);
    }

    #[test]
    fn what_nobody_knows_is_a_question_mark_and_failures_are_said() {
        let mut history = History::default();
        history.keep(Moment { failed: 3, ..Moment::default() }, Seconds(1.0));
        let view = history.view(&step(), "step 1".to_owned(), 0.1, Some("because"));
        assert!(view.message.contains("failed 3"), "{}", view.message);
        let now = |name: &str| view.figures.iter().find(|figure| figure.name == name).unwrap().now.clone();
        assert_eq!(
            (now("queue"), now("GPU"), now("TTFT p95")),
            ("?".to_owned(), "?".to_owned(), "-".to_owned())
        );
    }
}
