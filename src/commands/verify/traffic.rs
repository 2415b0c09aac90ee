//! The traffic as it is sent: arrivals with sizes, and its rates for the prediction.

use super::VerifyArgs;
use crate::commands::simulate::traffic_file;
use crate::plan::stream;
use crate::record::RecordedRun;
use crate::replay::Traffic;
use crate::units::Seconds;
use anyhow::bail;
use rand::RngExt;
use std::fmt::Write;

/// What is sent.
pub(super) struct Load {
    /// The rates of the arrivals that are sent, to draw others from.
    pub(super) traffic: Traffic,
    /// How long.
    pub(super) length: Seconds,
    /// The arrivals as a trace: JSONL with times in milliseconds and sizes in tokens.
    pub(super) trace: String,
    /// What was left out of a file.
    pub(super) remarks: Vec<String>,
}

/// Draws the arrivals once. Sizes are those of the run's own requests, of which its replica is known.
pub(super) fn load(arguments: &VerifyArgs, run: &RecordedRun) -> anyhow::Result<Load> {
    super::check(arguments)?;
    let (traffic, remarks) = traffic_file::read(&arguments.traffic)?;
    let traffic = traffic.scaled(arguments.scale)?;
    let length = arguments.max_duration.map_or(traffic.length(), |most| most.min(traffic.length()));
    let path = traffic.draw(arguments.seed);
    let answered = run.requests.iter().filter(|request| request.is_ok());
    let sizes: Vec<(u32, u32)> =
        answered.filter_map(|request| Some((request.input_tokens?, request.output_tokens?.max(1)))).collect();
    if sizes.is_empty() {
        bail!("the run has no answered request whose size is known, so there is none to send");
    }
    let mut rng = stream(arguments.seed, "verify");
    let mut trace = String::new();
    let mut requests = 0;
    for (second, arrivals) in path.arrivals.iter().take(length.0.ceil() as usize).enumerate() {
        let mut times: Vec<f64> =
            (0..*arrivals as usize).map(|_| second as f64 + rng.random::<f64>()).collect();
        times.sort_by(f64::total_cmp);
        for time in times {
            let (input, output) = sizes[rng.random_range(0..sizes.len())];
            requests += 1;
            // Writing to a string cannot fail.
            let _ = writeln!(
                trace,
                r#"{{"timestamp": {:.3}, "input_length": {input}, "output_length": {output}}}"#,
                time * 1000.0
            );
        }
    }
    if requests == 0 {
        bail!("the traffic has no arrivals in its first {length}; send more of it, or raise --scale");
    }
    Ok(Load { traffic: traffic.of_path(&path, length), length, trace, remarks })
}
