//! NVIDIA's DCGM exporter.

use super::exposition::{Exposition, Point};
use crate::measurement::{Sample, Series, Source};
use crate::units::Seconds;

/// Share of the last sample period in which a kernel ran, 0 to 100; as exported, and as relabelled
/// to lower case for the HPA.
const GPU_UTIL: [&str; 2] = ["DCGM_FI_DEV_GPU_UTIL", "dcgm_fi_dev_gpu_util"];
/// Nearly the same as a hardware ratio from 0 to 1; used where the former is not exported.
const ENGINE_ACTIVE: [&str; 2] = ["DCGM_FI_PROF_GR_ENGINE_ACTIVE", "dcgm_fi_prof_gr_engine_active"];
const MEMORY_USED: [&str; 2] = ["DCGM_FI_DEV_FB_USED", "dcgm_fi_dev_fb_used"];

/// What a scrape of DCGM says of one replica: utilization as the mean over its GPUs, memory as the
/// sum. All GPUs that the exporter shows are taken for the replica's.
pub fn sample(exposition: &Exposition, time: Seconds, took: Seconds, replica: u32) -> Sample {
    let mut sample = Sample::new(time, took, Source::Gpu, replica);
    let values = |names: [&str; 2]| -> Vec<f64> {
        let points = names.into_iter().flat_map(|name| exposition.all(name).collect::<Vec<&Point>>());
        points.map(|point| point.value).filter(|value| value.is_finite()).collect()
    };
    let mean =
        |values: &[f64]| (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64);
    let engine = mean(&values(ENGINE_ACTIVE)).map(|ratio| ratio * 100.0);
    sample.set(Series::GpuUtil, mean(&values(GPU_UTIL)).or(engine));
    sample.set(Series::GpuEngineActive, engine);
    let memory = values(MEMORY_USED);
    sample.set(Series::GpuMemory, (!memory.is_empty()).then(|| memory.iter().sum()));
    sample
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::exposition::parse;

    fn read(text: &str) -> (Option<f64>, Option<f64>) {
        let sample = sample(&parse(text).unwrap(), Seconds(1.0), Seconds(0.01), 0);
        (sample.get(Series::GpuUtil), sample.get(Series::GpuMemory))
    }

    #[test]
    fn utilization_is_the_mean_over_gpus_and_memory_their_sum() {
        let text = "# HELP DCGM_FI_DEV_GPU_UTIL GPU utilization (in %).\n# TYPE DCGM_FI_DEV_GPU_UTIL gauge\n\
            DCGM_FI_DEV_GPU_UTIL{gpu=\"0\",UUID=\"GPU-a\",modelName=\"NVIDIA L4\",Hostname=\"n,1\"} 90\n\
            DCGM_FI_DEV_GPU_UTIL{gpu=\"1\",UUID=\"GPU-b\",modelName=\"NVIDIA L4\",Hostname=\"n,1\"} 70\n\
            DCGM_FI_DEV_FB_USED{gpu=\"0\"} 1000\nDCGM_FI_DEV_FB_USED{gpu=\"1\"} 500\n";
        assert_eq!(read(text), (Some(80.0), Some(1500.0)));
    }

    #[test]
    fn the_engine_ratio_stands_in_where_utilization_is_not_exported() {
        assert_eq!(read("DCGM_FI_PROF_GR_ENGINE_ACTIVE{gpu=\"0\"} 0.5\n"), (Some(50.0), None));
        let both = "dcgm_fi_dev_gpu_util 40\nDCGM_FI_PROF_GR_ENGINE_ACTIVE 0.5\n";
        assert_eq!(read(both), (Some(40.0), None));
        let engine =
            |text| sample(&parse(text).unwrap(), Seconds(1.0), Seconds(0.01), 0).get(Series::GpuEngineActive);
        assert_eq!(engine("DCGM_FI_PROF_GR_ENGINE_ACTIVE 0.5\n"), Some(50.0));
        assert_eq!(engine(both), Some(50.0));
    }

    #[test]
    fn an_exporter_without_these_metrics_shows_nothing() {
        assert_eq!(read("DCGM_FI_DEV_SM_CLOCK 1\n"), (None, None));
    }
}
