//! NVIDIA's DCGM exporter. One exporter speaks for all GPUs of a node, so the labels say whose they are.

use super::exposition::{Exposition, Point};
use super::http::{Problem, ProblemKind};
use crate::measurement::{Sample, Series};
use std::collections::BTreeSet;

/// Share of the last sample period in which a kernel ran, 0 to 100; as exported, and as relabelled
/// to lower case for the HPA.
const GPU_UTIL: [&str; 2] = ["DCGM_FI_DEV_GPU_UTIL", "dcgm_fi_dev_gpu_util"];
/// Nearly the same as a hardware ratio from 0 to 1; the only one of the two that MIG instances have.
const ENGINE_ACTIVE: [&str; 2] = ["DCGM_FI_PROF_GR_ENGINE_ACTIVE", "dcgm_fi_prof_gr_engine_active"];
/// Share of cycles with a warp on an SM, 0 to 1; commented out in the exporter's default counters.
const SM_ACTIVE: [&str; 2] = ["DCGM_FI_PROF_SM_ACTIVE", "dcgm_fi_prof_sm_active"];
const MEMORY_USED: [&str; 2] = ["DCGM_FI_DEV_FB_USED", "dcgm_fi_dev_fb_used"];

/// What makes percent of a GPU metric by its name, however it is brought: the profiling ones count from 0 to 1.
pub fn to_percent(metric: &str) -> f64 {
    if metric.to_lowercase().contains("dcgm_fi_prof_") { 100.0 } else { 1.0 }
}

/// Whose GPUs of an exporter are meant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GpusOf {
    /// The pod; `None`: all GPUs, which must then be of one pod or of none.
    pub pod: Option<String>,
    /// Its namespace, where that is known: a pod of the same name in another one is another pod.
    pub namespace: Option<String>,
}

/// The pod that a GPU works for. Where the scraper has put its own labels on the series, the exporter's
/// are the `exported_` ones.
fn pod<'a>(point: &'a Point, gpus: &GpusOf) -> Option<&'a str> {
    let (own, namespace) = match point.label("exported_pod") {
        Some(pod) => (Some(pod), point.label("exported_namespace")),
        None => (point.label("pod"), point.label("namespace")),
    };
    let foreign = namespace.zip(gpus.namespace.as_deref()).is_some_and(|(named, wanted)| named != wanted);
    own.filter(|pod| !pod.is_empty() && !foreign)
}

/// The pod whose GPUs are meant, where the series name pods; or why they cannot be told from others.
fn whose<'a>(points: &[&'a Point], gpus: &'a GpusOf) -> Result<Option<&'a str>, Problem> {
    let pods: BTreeSet<&str> = points.iter().copied().filter_map(|point| pod(point, gpus)).collect();
    let nodes: BTreeSet<&str> = points.iter().filter_map(|point| point.label("Hostname")).collect();
    let names = |names: &BTreeSet<&str>| names.iter().copied().collect::<Vec<_>>().join(", ");
    let (kind, reason) = match &gpus.pod {
        Some(wanted) if pods.is_empty() => (
            ProblemKind::Missing,
            format!("its series name no pod, so those of {wanted} cannot be told from others"),
        ),
        Some(wanted) if !pods.contains(wanted.as_str()) => (
            ProblemKind::Missing,
            format!("no GPU in it works for the pod {wanted}; it shows those of {}", names(&pods)),
        ),
        None if pods.len() > 1 => (
            ProblemKind::Ambiguous,
            format!("it shows GPUs of several pods ({}); name the replica's with --pod", names(&pods)),
        ),
        None if pods.is_empty() && nodes.len() > 1 => (
            ProblemKind::Ambiguous,
            format!(
                "it shows GPUs of several nodes ({}); name the exporter of the replica's node",
                names(&nodes)
            ),
        ),
        None if pods.is_empty() && points.iter().any(|point| pod(point, &GpusOf::default()).is_some()) => (
            ProblemKind::Missing,
            "its GPUs work for pods of other namespaces only; name the exporter of the replica's node, or mend \
             --namespace"
                .to_owned(),
        ),
        // GPUs without a pod are idle beside the only one that works.
        wanted => return Ok(wanted.as_deref().or(pods.first().copied())),
    };
    Err(Problem::new(kind, reason))
}

/// Fills a sample of one replica: utilizations as means over its GPUs, memory as their sum.
///
/// # Errors
/// An exporter that shows none of its metrics, or GPUs of several pods where one is expected.
pub(super) fn read(exposition: &Exposition, gpus: &GpusOf, sample: &mut Sample) -> Result<(), Problem> {
    let known = [GPU_UTIL, ENGINE_ACTIVE, SM_ACTIVE, MEMORY_USED].concat();
    let points: Vec<&Point> = known.iter().flat_map(|name| exposition.all(name)).collect();
    if points.is_empty() {
        return Err(Problem::new(ProblemKind::Missing, "there is no DCGM metric in it"));
    }
    let wanted = whose(&points, gpus)?;
    // Where GPUs are split, the instances are the replica's and not the GPU they are parts of.
    let mine = |point: &&&Point| wanted.is_none_or(|wanted| pod(point, gpus) == Some(wanted));
    let split: BTreeSet<Option<&str>> = points
        .iter()
        .filter(mine)
        .filter(|point| point.label("GPU_I_ID").is_some_and(|id| !id.is_empty()))
        .map(|point| point.label("UUID").or_else(|| point.label("gpu")))
        .collect();
    let values = |names: [&str; 2]| -> Vec<f64> {
        let points = points.iter().filter(|point| names.contains(&point.name.as_str()));
        let points = points.filter(mine).filter(|point| {
            let whole = point.label("GPU_I_ID").is_none_or(str::is_empty);
            !(whole && split.contains(&point.label("UUID").or_else(|| point.label("gpu"))))
        });
        points.map(|point| point.value).filter(|value| value.is_finite()).collect()
    };
    let mean =
        |values: Vec<f64>| (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64);
    let percent = |ratio: f64| ratio * 100.0;
    let engine = mean(values(ENGINE_ACTIVE)).map(percent);
    sample.set(Series::GpuUtil, mean(values(GPU_UTIL)).or(engine));
    sample.set(Series::GpuEngineActive, engine);
    sample.set(Series::GpuSmActive, mean(values(SM_ACTIVE)).map(percent));
    let memory = values(MEMORY_USED);
    sample.set(Series::GpuMemory, (!memory.is_empty()).then(|| memory.iter().sum()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measurement::Source;
    use crate::observe::exposition::parse;
    use crate::units::Seconds;

    fn read_of(text: &str, pod: Option<&str>) -> Result<[Option<f64>; 4], String> {
        read_in(text, pod, None)
    }

    fn read_in(text: &str, pod: Option<&str>, namespace: Option<&str>) -> Result<[Option<f64>; 4], String> {
        let gpus = GpusOf { pod: pod.map(str::to_owned), namespace: namespace.map(str::to_owned) };
        let mut sample = Sample::new(Seconds(1.0), Seconds(0.01), Source::Gpu, 0);
        read(&parse(text).unwrap(), &gpus, &mut sample).map_err(|problem| problem.reason)?;
        let series = [Series::GpuUtil, Series::GpuEngineActive, Series::GpuSmActive, Series::GpuMemory];
        Ok(series.map(|series| sample.get(series)))
    }

    fn fields(text: &str) -> [Option<f64>; 4] {
        read_of(text, None).unwrap()
    }

    #[test]
    fn utilization_is_the_mean_over_gpus_and_memory_their_sum() {
        let text = "# HELP DCGM_FI_DEV_GPU_UTIL GPU utilization (in %).\n# TYPE DCGM_FI_DEV_GPU_UTIL gauge\n\
            DCGM_FI_DEV_GPU_UTIL{gpu=\"0\",UUID=\"GPU-a\",modelName=\"NVIDIA L4\",Hostname=\"n,1\"} 90\n\
            DCGM_FI_DEV_GPU_UTIL{gpu=\"1\",UUID=\"GPU-b\",modelName=\"NVIDIA L4\",Hostname=\"n,1\"} 70\n\
            DCGM_FI_DEV_FB_USED{gpu=\"0\"} 1000\nDCGM_FI_DEV_FB_USED{gpu=\"1\"} 500\n\
            DCGM_FI_PROF_SM_ACTIVE{gpu=\"0\"} 0.5\nDCGM_FI_PROF_SM_ACTIVE{gpu=\"1\"} 0.25\n";
        assert_eq!(fields(text), [Some(80.0), None, Some(37.5), Some(1500.0)]);
    }

    #[test]
    fn the_engine_ratio_stands_in_where_utilization_is_not_exported() {
        let ratio = "DCGM_FI_PROF_GR_ENGINE_ACTIVE{gpu=\"0\"} 0.5\n";
        assert_eq!(fields(ratio), [Some(50.0), Some(50.0), None, None]);
        assert_eq!(
            fields(&format!("dcgm_fi_dev_gpu_util 40\n{ratio}")),
            [Some(40.0), Some(50.0), None, None]
        );
    }

    #[test]
    fn one_exporter_speaks_for_the_pods_of_its_node() {
        let text = "DCGM_FI_DEV_GPU_UTIL{gpu=\"0\",pod=\"a\",namespace=\"x\"} 10\n\
            DCGM_FI_DEV_GPU_UTIL{gpu=\"1\",pod=\"b\"} 30\nDCGM_FI_DEV_GPU_UTIL{gpu=\"2\",pod=\"b\"} 50\n\
            DCGM_FI_DEV_GPU_UTIL{gpu=\"3\",pod=\"\"} 90\n";
        assert_eq!(read_of(text, Some("a")).unwrap()[0], Some(10.0));
        assert_eq!(read_of(text, Some("b")).unwrap()[0], Some(40.0));
        assert!(read_of(text, Some("c")).unwrap_err().contains("it shows those of a, b"));
        assert!(read_of(text, None).unwrap_err().contains("--pod"));
        let idle = "DCGM_FI_DEV_GPU_UTIL{gpu=\"0\",pod=\"a\"} 80\nDCGM_FI_DEV_GPU_UTIL{gpu=\"1\"} 0\n";
        assert_eq!(read_of(idle, None).unwrap()[0], Some(80.0), "an idle GPU beside it is not the pod's");
        let nodes = "DCGM_FI_DEV_GPU_UTIL{gpu=\"0\",Hostname=\"a\"} 1\nDCGM_FI_DEV_GPU_UTIL{gpu=\"0\",Hostname=\"b\"} 2\n";
        assert!(read_of(nodes, None).unwrap_err().contains("several nodes (a, b)"));
        let twins = "DCGM_FI_DEV_GPU_UTIL{gpu=\"0\",pod=\"a\",namespace=\"x\"} 10\n\
            DCGM_FI_DEV_GPU_UTIL{gpu=\"1\",pod=\"a\",namespace=\"y\"} 90\n";
        assert_eq!(read_in(twins, Some("a"), Some("x")).unwrap()[0], Some(10.0));
        assert!(read_in(twins, None, Some("z")).unwrap_err().contains("of other namespaces only"));
        // Scraped by a Prometheus that puts its own labels first.
        let exported = "DCGM_FI_DEV_GPU_UTIL{pod=\"dcgm-exporter-x\",exported_pod=\"a\"} 10\n";
        assert_eq!(read_of(exported, Some("a")).unwrap()[0], Some(10.0));
        assert!(
            read_of("DCGM_FI_DEV_GPU_UTIL{gpu=\"0\"} 1\n", Some("a")).unwrap_err().contains("name no pod")
        );
    }

    #[test]
    fn instances_of_a_split_gpu_count_and_not_the_gpu() {
        let text = "DCGM_FI_DEV_FB_USED{gpu=\"0\",UUID=\"GPU-a\"} 40000\n\
            DCGM_FI_DEV_FB_USED{gpu=\"0\",UUID=\"GPU-a\",GPU_I_PROFILE=\"1g.5gb\",GPU_I_ID=\"7\",pod=\"a\"} 4000\n\
            DCGM_FI_PROF_GR_ENGINE_ACTIVE{gpu=\"0\",UUID=\"GPU-a\"} 0.2\n\
            DCGM_FI_PROF_GR_ENGINE_ACTIVE{gpu=\"0\",UUID=\"GPU-a\",GPU_I_PROFILE=\"1g.5gb\",GPU_I_ID=\"7\",pod=\"a\"} 0.9\n";
        assert_eq!(fields(text), [Some(90.0), Some(90.0), None, Some(4000.0)]);
        assert_eq!(read_of(text, Some("a")).unwrap(), fields(text));
    }

    #[test]
    fn an_exporter_without_these_metrics_shows_nothing() {
        assert_eq!(
            read_of("DCGM_FI_DEV_SM_CLOCK 1\n", None),
            Err("there is no DCGM metric in it".to_owned())
        );
    }
}
