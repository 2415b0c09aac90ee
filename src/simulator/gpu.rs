//! The GPU's gauges as NVIDIA's DCGM exporter shows them.

use crate::units::Seconds;
use std::collections::VecDeque;
use std::fmt::Write;

/// The last sample period: utilization is the share of it in which a forward ran.
const PERIOD: f64 = 1.0;

/// When the GPU was busy of late.
#[derive(Debug, Default)]
pub(super) struct Activity {
    busy: VecDeque<(f64, f64)>,
}

impl Activity {
    /// A forward ran until `ended`.
    pub(super) fn record(&mut self, ended: Seconds, took: Seconds) {
        self.busy.push_back((ended.0 - took.0, ended.0));
        while self.busy.front().is_some_and(|(_, end)| *end < ended.0 - 2.0 * PERIOD) {
            self.busy.pop_front();
        }
    }

    /// Share of the last period, 0 to 1, in which a forward ran; `since`: one runs since then.
    pub(super) fn share(&self, now: Seconds, since: Option<Seconds>) -> f64 {
        let from = now.0 - PERIOD;
        let current = since.map(|start| (start.0, now.0));
        let spans = self.busy.iter().copied().chain(current);
        let overlap: f64 = spans.map(|(start, end)| (end.min(now.0) - start.max(from)).max(0.0)).sum();
        // The sum of nothing is -0.
        (overlap / PERIOD).clamp(0.0, 1.0) + 0.0
    }
}

/// The exposition of one GPU.
pub(super) fn exposition(share: f64, gpu_name: &str, memory_mib: u32) -> String {
    let labels = format!(
        "gpu=\"0\",UUID=\"GPU-00000000-0000-0000-0000-000000000000\",pci_bus_id=\"00000000:00:03.0\",\
         device=\"nvidia0\",modelName=\"{gpu_name}\",Hostname=\"simulated\""
    );
    let metrics = [
        ("DCGM_FI_DEV_GPU_UTIL", "GPU utilization (in %).", format!("{:.0}", share * 100.0)),
        ("DCGM_FI_DEV_FB_USED", "Framebuffer memory used (in MiB).", memory_mib.to_string()),
        (
            "DCGM_FI_PROF_GR_ENGINE_ACTIVE",
            "Ratio of time the graphics engine is active.",
            format!("{share:.6}"),
        ),
    ];
    let mut text = String::new();
    for (name, help, value) in metrics {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge\n{name}{{{labels}}} {value}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn utilization_is_the_share_of_the_last_second() {
        let mut activity = Activity::default();
        activity.record(Seconds(9.3), Seconds(0.5));
        activity.record(Seconds(9.6), Seconds(0.2));
        assert!((activity.share(Seconds(10.0), None) - 0.5).abs() < 1e-9);
        assert!((activity.share(Seconds(10.0), Some(Seconds(9.9))) - 0.6).abs() < 1e-9);
        assert_eq!(activity.share(Seconds(20.0), None).to_bits(), 0.0_f64.to_bits());
        assert_eq!(Activity::default().share(Seconds(20.0), None).to_bits(), 0.0_f64.to_bits());
    }
}
