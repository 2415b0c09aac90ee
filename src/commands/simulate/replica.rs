//! One replica for a replay, from what a run measured.

use crate::analyze::{Analysis, Method};
use crate::batching::ServerModel;
use crate::commands::derive;
use crate::record::RecordedRun;
use crate::replay::{NoPlant, Plant, Requests, of_model, of_surface};
use crate::scenario::Scenario;
use crate::units::Replicas;

/// A replica, and how well it is known.
pub(in crate::commands) struct Replica {
    pub(in crate::commands) plant: Plant,
    /// The fitted server and its requests, where there is one.
    pub(in crate::commands) model: Option<(ServerModel, Requests)>,
    /// Standard deviation of its capacity, as a share of it.
    pub(in crate::commands) uncertainty: f64,
    pub(in crate::commands) remarks: Vec<String>,
}

/// A 90 % interval is so many standard deviations wide.
const INTERVAL: f64 = 2.0 * 1.645;
/// What a fitted server is off by where nothing else is known.
const MODEL_ERROR: f64 = 0.015;
/// More than this is not believed: the ends of a wide bracket are no distribution.
const MOST: f64 = 0.15;
/// The replay's capacity and the run's may differ by this share before it is said.
const APART: f64 = 0.1;

/// The replica of a run: the fitted server where there is one, else the steps.
pub(in crate::commands) fn of_run(
    run: &RecordedRun,
    scenario: &Scenario,
    analysis: &Analysis,
) -> Result<Replica, NoPlant> {
    let known = derive::known(run.info.target.info.as_ref(), scenario);
    let sizes = run.requests.iter().filter(|request| request.is_ok());
    let requests = Requests {
        sizes: sizes.filter_map(|r| Some((r.input_tokens?, r.output_tokens?.max(1)))).collect(),
        declared_output: known.declared_output,
        slos: scenario.slos.clone(),
    };
    let mut remarks = Vec::new();
    let played = match &analysis.prediction {
        Ok(prediction) => {
            let model = prediction.model.clone();
            of_model(&model, &requests).map(|plant| (plant, model)).map_err(|reason| reason.to_string())
        }
        Err(reason) => Err(reason.to_string()),
    };
    let (plant, model) = match played {
        Ok((plant, model)) => (plant, Some((model, requests))),
        Err(reason) => {
            let plant = of_surface(&analysis.surface, f64::from(known.max_concurrent_requests))?;
            remarks.push(format!(
                "approximate: {reason}, so a replica is known only by the means of the run's steps"
            ));
            (plant, None)
        }
    };
    let uncertainty = uncertainty(analysis, model.is_some());
    remarks.extend(apart(&plant, analysis, scenario));
    Ok(Replica { plant, model, uncertainty, remarks })
}

fn uncertainty(analysis: &Analysis, modelled: bool) -> f64 {
    match &analysis.capacity {
        Ok(capacity) if !modelled || capacity.method == Method::ServerModel => {
            ((capacity.high.0 - capacity.low.0) / capacity.per_replica.0 / INTERVAL).clamp(MODEL_ERROR, MOST)
        }
        _ => MODEL_ERROR,
    }
}

/// Whether the replay's replica carries another load than the one that was measured.
fn apart(plant: &Plant, analysis: &Analysis, scenario: &Scenario) -> Option<String> {
    let measured = analysis.capacity.as_ref().ok()?;
    let n = scenario.replicas.max(1);
    let carried = plant.capacity(Replicas(n), super::goal(&scenario.slos)).0 / f64::from(n);
    let differs = (carried / measured.per_replica.0 - 1.0).abs() > APART;
    let within = (measured.low.0..=measured.high.0).contains(&carried);
    (differs && !within).then(|| {
        format!(
            "the replayed replica carries {carried:.2} req/s within the SLO, the run says {}: measure longer steps around it",
            measured.per_replica
        )
    })
}
