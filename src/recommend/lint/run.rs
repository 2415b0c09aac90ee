//! What a recorded run knows about the metrics: how they rise with the load of one replica.

use super::signal::Measures;

/// Loads closer together than this factor do not tell how a metric rises.
const APART: f64 = 1.02;
/// A batch counts as full in steps in which so many requests wait on average, as a share of it: servers
/// that let requests join in groups have a third of a batch waiting at any load.
const WAITING: f64 = 0.5;

/// What a run measured.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RunFacts {
    /// What the run is called.
    pub id: String,
    /// Each step, in any order.
    pub steps: Vec<RunStep>,
    /// Each metric at the SLO capacity, where it is known.
    pub queue_at_capacity: Option<f64>,
    /// Batch size at the capacity.
    pub batch_at_capacity: Option<f64>,
    /// GPU utilization at the capacity, in percent.
    pub gpu_at_capacity: Option<f64>,
    /// GPUs of a replica, where the run was told.
    pub gpus_per_replica: Option<u32>,
}

/// One step of it. A metric that was not observed is `None`.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct RunStep {
    /// Requests per second that one replica completed.
    pub load: f64,
    /// Mean queue size of a replica.
    pub queue: Option<f64>,
    /// Mean batch size of a replica.
    pub batch: Option<f64>,
    /// Mean GPU utilization, in percent.
    pub gpu: Option<f64>,
}

/// A value and the load that it was measured at.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct At {
    pub(super) load: f64,
    pub(super) value: f64,
}

impl RunFacts {
    /// The metric at the SLO capacity.
    pub(super) fn at_capacity(&self, measures: Measures) -> Option<f64> {
        match measures {
            Measures::Queue => self.queue_at_capacity,
            Measures::Batch => self.batch_at_capacity,
            Measures::GpuPercent => self.gpu_at_capacity,
            Measures::Ratio | Measures::GpuMemory | Measures::Unknown => None,
        }
    }

    /// The batch once it is full: the largest mean of a step in which requests waited.
    pub(super) fn full_batch(&self) -> Option<f64> {
        let full =
            |step: &RunStep| step.batch.filter(|batch| step.queue.is_some_and(|q| q >= WAITING * batch));
        self.steps.iter().filter_map(full).max_by(f64::total_cmp)
    }

    /// The metric against the load, from the lowest load on. Steps without either are left out.
    pub(super) fn curve(&self, measures: Measures) -> Vec<At> {
        let value = |step: &RunStep| match measures {
            Measures::Queue => step.queue,
            Measures::Batch => step.batch,
            Measures::GpuPercent => step.gpu,
            Measures::Ratio | Measures::GpuMemory | Measures::Unknown => None,
        };
        let points = self.steps.iter().filter_map(|step| Some(At { load: step.load, value: value(step)? }));
        let mut points: Vec<At> = points.filter(|at| at.load > 0.0 && at.value > 0.0).collect();
        points.sort_by(|a, b| a.load.total_cmp(&b.load));
        points
    }

    /// Elasticity where the metric is `value`: by how many percent it changes for one percent of load. That
    /// of the two neighbouring steps; beyond all steps, of the nearest two.
    pub(super) fn elasticity(&self, measures: Measures, value: f64) -> Option<f64> {
        let mut rising: Vec<At> = Vec::new();
        for at in self.curve(measures) {
            if rising.last().is_none_or(|last| at.load > last.load * APART && at.value > last.value) {
                rising.push(at);
            }
        }
        let above = rising.iter().position(|at| at.value >= value).unwrap_or(rising.len());
        let above = above.clamp(1, rising.len().checked_sub(1).filter(|last| *last >= 1)?);
        let (low, high) = (rising[above - 1], rising[above]);
        Some((high.value / low.value).ln() / (high.load / low.load).ln())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn power_law(exponent: f64) -> RunFacts {
        let step = |load: f64| RunStep { load, batch: Some(load.powf(exponent)), ..RunStep::default() };
        RunFacts { steps: [4.0, 1.0, 2.0].map(step).to_vec(), ..RunFacts::default() }
    }

    #[test]
    fn the_elasticity_of_a_power_law_is_its_exponent_everywhere() {
        for exponent in [0.3, 1.0, 2.5] {
            for value in [0.5, 1.5, 3.0, 100.0] {
                let elasticity = power_law(exponent).elasticity(Measures::Batch, value).unwrap();
                assert!((elasticity - exponent).abs() < 1e-9, "{exponent} at {value}: {elasticity}");
            }
        }
        assert_eq!(power_law(1.0).elasticity(Measures::Queue, 1.0), None, "not measured");
        assert_eq!(RunFacts::default().elasticity(Measures::Batch, 1.0), None);
    }

    #[test]
    fn a_batch_is_full_where_requests_wait() {
        let step = |batch, queue| RunStep { batch: Some(batch), queue, ..RunStep::default() };
        let mut facts =
            RunFacts { steps: vec![step(30.0, Some(0.2)), step(20.0, None)], ..RunFacts::default() };
        assert_eq!(facts.full_batch(), None);
        facts.steps.push(step(25.0, Some(8.0)));
        assert_eq!(facts.full_batch(), None, "a third of a batch waits for others to join with");
        facts.steps.push(step(29.0, Some(50.0)));
        assert_eq!(facts.full_batch(), Some(29.0));
    }
}
