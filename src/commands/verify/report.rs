//! What a verification came to, for people and for machines.

use super::Outcome;
use super::traffic::Load;
use crate::analyze::{ValidityCheck, Verdict};
use crate::cli::Exit;
use crate::cli::console::Console;
use crate::record;
use crate::replay::Band;
use serde_json::{Value, json};
use std::fmt::Write;

impl Outcome<'_> {
    /// `verify.json` and `timeline.csv` in the run directory.
    pub(super) fn write(&self, load: &Load) -> anyhow::Result<()> {
        let document = serde_json::to_string_pretty(&self.document())?;
        record::write_file(&self.directory.join("verify.json"), format!("{document}\n").as_bytes())?;
        Ok(record::write_file(&self.directory.join("timeline.csv"), self.timeline(load).as_bytes())?)
    }

    fn document(&self) -> Value {
        json!({
            "format": "calibrate/verify",
            "version": 1,
            "tool_version": env!("CARGO_PKG_VERSION"),
            "run": self.arguments.run.display().to_string(),
            "directory": self.directory.display().to_string(),
            "traffic": self.arguments.traffic.to_string(),
            "holds": self.verified.holds,
            "goal": self.verified.goal,
            "requests": self.seen.requests,
            "violations": self.verified.violations,
            "violations_predicted": self.predicted.violations,
            "as_predicted": self.verified.as_predicted,
            "max_replicas": self.most,
            "replicas_off": self.verified.replicas_off,
            "reaction": self.seen.reaction,
            "reaction_predicted": { "decided": self.predicted.decided, "served": self.predicted.served },
            "seconds_without_scaling": self.seen.blind.0,
            "reasons": self.verified.reasons,
            "client": self.validity,
            "remarks": self.remarks,
        })
    }

    /// Second by second: what was sent, what broke, and replicas beside those predicted.
    fn timeline(&self, load: &Load) -> String {
        let mut text =
            "second,arrivals,broken,wanted,ready,predicted_ready_low,predicted_ready,predicted_ready_high,predicted_wanted\n"
                .to_owned();
        let cell = |value: Option<f64>| value.map(|value| format!("{value}")).unwrap_or_default();
        for second in 0..load.length.0.ceil() as usize {
            let count = |of: &[u32]| of.get(second).map(|count| f64::from(*count));
            let ready = self.predicted.ready.get(second);
            let cells = [
                Some(second as f64),
                count(&self.seen.arrivals),
                count(&self.seen.broken_in),
                count(&self.seen.wanted),
                count(&self.seen.ready),
                ready.map(|band| band.low),
                ready.map(|band| band.mean),
                ready.map(|band| band.high),
                self.predicted.wanted.get(second).map(|band| band.mean),
            ];
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{}", cells.map(cell).join(","));
        }
        text
    }

    /// The verdict and what it rests on.
    pub(super) fn show(&self, exit: Exit, console: Console) {
        let percent = |share: f64| format!("{:.1} %", share * 100.0);
        let band = self.predicted.violations;
        let expected = format!("{} ({} to {})", percent(band.mean), percent(band.low), percent(band.high));
        let verdict = match exit {
            Exit::Done => "the target holds",
            Exit::Gate => "the target does not hold",
            _ => "nothing can be said",
        };
        console.summary(verdict);
        let line = |what: &str, seen: &str, predicted: &str| {
            console.summary(&format!("{what:<16}{seen:<30}predicted {predicted}"));
        };
        let broken = format!(
            "{} of {}, goal {}",
            percent(self.verified.violations),
            self.seen.requests,
            percent(self.verified.goal)
        );
        line("violations", &broken, &expected);
        line(
            "replicas",
            &range(self.seen.ready.iter().map(|n| f64::from(*n))),
            &range(self.predicted.ready.iter().map(|band| band.mean)),
        );
        let after = |time: Option<f64>| time.map_or("never".to_owned(), |time| format!("after {time:.0} s"));
        line("first decision", &after(self.seen.reaction.decided), &around(self.predicted.decided));
        line("first served", &after(self.seen.reaction.served), &around(self.predicted.served));
        for ValidityCheck { name, detail, .. } in
            self.validity.checks.iter().filter(|c| c.verdict == Verdict::Invalid)
        {
            console.summary(&format!("client          {name}: {detail}"));
        }
        for reason in &self.verified.reasons {
            console.summary(&format!("because         {reason}"));
        }
        for remark in &self.remarks {
            console.note(&format!("remark          {remark}"));
        }
        console.summary(&format!("record          {}", self.directory.join("verify.json").display()));
        if console.wants_json() {
            let mut document = self.document();
            document["exit_code"] = (exit as u8).into();
            console.document(&document);
        }
    }
}

/// From the least to the most, and the mean.
fn range(values: impl Iterator<Item = f64>) -> String {
    let values: Vec<f64> = values.collect();
    let Some(least) = values.iter().copied().reduce(f64::min) else { return "unknown".to_owned() };
    let most = values.iter().copied().fold(least, f64::max);
    format!("{least:.0} to {most:.0}, mean {:.2}", values.iter().sum::<f64>() / values.len() as f64)
}

fn around(band: Option<Band>) -> String {
    band.map_or("never".to_owned(), |band| {
        format!("after {:.0} s ({:.0} s to {:.0} s)", band.mean, band.low, band.high)
    })
}
