//! NVIDIA's management library on this machine: for a server that runs beside calibrate. The library is
//! loaded at run time, so a machine without it only lacks this source.

use super::http::{Problem, ProblemKind};
use crate::measurement::{RunClock, Sample};
#[cfg(feature = "nvml")]
use crate::measurement::{Series, Source};
#[cfg(feature = "nvml")]
use nvml_wrapper::error::NvmlError;
#[cfg(feature = "nvml")]
use std::sync::Arc;

/// Where the driver puts the library; containers have only the second name.
#[cfg(feature = "nvml")]
const LIBRARIES: [&str; 2] = ["libnvidia-ml.so", "libnvidia-ml.so.1"];

/// GPUs of this machine, as one replica's.
#[derive(Clone)]
pub struct Nvml {
    #[cfg(feature = "nvml")]
    library: Arc<nvml_wrapper::Nvml>,
    /// Which of them, by index.
    gpus: Vec<u32>,
}

impl Nvml {
    /// How many GPUs it reads.
    pub fn count(&self) -> usize {
        self.gpus.len()
    }
}

/// The indices of the wanted GPUs: all where none is named, else by index or by the beginning of the UUID, as
/// in CUDA_VISIBLE_DEVICES.
#[cfg(any(feature = "nvml", test))]
fn chosen(wanted: &[String], uuids: &[String]) -> Result<Vec<u32>, Problem> {
    if wanted.is_empty() {
        return Ok((0..uuids.len() as u32).collect());
    }
    let find = |name: &String| {
        let index = name.parse::<usize>().ok().filter(|index| *index < uuids.len());
        let by_uuid = || uuids.iter().position(|uuid| !name.is_empty() && uuid.starts_with(name.as_str()));
        index.or_else(by_uuid).map(|index| index as u32).ok_or_else(|| {
            let there_are = uuids.join(", ");
            let reason =
                format!("this machine has no GPU '{name}'; there are {there_are}, from 0, see nvidia-smi -L");
            Problem::new(ProblemKind::Missing, reason)
        })
    };
    let mut gpus = wanted.iter().map(find).collect::<Result<Vec<_>, _>>()?;
    gpus.sort_unstable();
    gpus.dedup();
    Ok(gpus)
}

impl std::fmt::Debug for Nvml {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Nvml")
    }
}

#[cfg(feature = "nvml")]
impl Nvml {
    /// Loads the library, to read the `wanted` GPUs, by index or UUID, or all where none is named.
    ///
    /// # Errors
    /// A machine without it, without a GPU, or without one that is wanted.
    pub fn load(wanted: &[String]) -> Result<Nvml, Problem> {
        let mut refusal = None;
        for name in LIBRARIES {
            match nvml_wrapper::Nvml::builder().lib_path(name.as_ref()).init() {
                Ok(library) => return Nvml::with_gpus(library, wanted),
                Err(error) => refusal = Some(error),
            }
        }
        let said = refusal.map(|error| error.to_string()).unwrap_or_default();
        let reason = format!(
            "NVIDIA's library {} cannot be loaded here ({said}); it comes with the NVIDIA driver, and in a container \
             with the NVIDIA runtime",
            LIBRARIES[1]
        );
        Err(Problem::new(ProblemKind::Missing, reason))
    }

    fn with_gpus(library: nvml_wrapper::Nvml, wanted: &[String]) -> Result<Nvml, Problem> {
        let uuids =
            || (0..library.device_count()?).map(|index| library.device_by_index(index)?.uuid()).collect();
        let uuids: Result<Vec<String>, NvmlError> = uuids();
        let uuids = uuids.map_err(|error| Problem::new(ProblemKind::Failing, format!("NVML: {error}")))?;
        if uuids.is_empty() {
            return Err(Problem::new(ProblemKind::Missing, "NVML is here, and knows of no GPU"));
        }
        let gpus = chosen(wanted, &uuids)?;
        Ok(Nvml { library: Arc::new(library), gpus })
    }

    /// Utilization as the mean over the GPUs, memory as their sum.
    pub(super) fn poll(&self, clock: RunClock) -> Result<Vec<Sample>, Problem> {
        let time = clock.now();
        let (busy, bytes) =
            self.read().map_err(|error| Problem::new(ProblemKind::Failing, format!("NVML: {error}")))?;
        let mut sample = Sample::new(time, clock.now() - time, Source::Nvml, 0);
        sample.set(Series::GpuUtil, (!busy.is_empty()).then(|| busy.iter().sum::<f64>() / busy.len() as f64));
        sample.set(Series::GpuMemory, Some(bytes as f64 / (1024.0 * 1024.0)));
        Ok(vec![sample])
    }

    fn read(&self) -> Result<(Vec<f64>, u64), NvmlError> {
        let (mut busy, mut bytes) = (Vec::new(), 0);
        for index in &self.gpus {
            let device = self.library.device_by_index(*index)?;
            match device.utilization_rates() {
                Ok(rates) => busy.push(f64::from(rates.gpu)),
                // A GPU that is split into instances has none.
                Err(NvmlError::NotSupported) => {}
                Err(error) => return Err(error),
            }
            bytes += device.memory_info()?.used;
        }
        Ok((busy, bytes))
    }
}

#[cfg(not(feature = "nvml"))]
impl Nvml {
    /// Says that this build cannot.
    ///
    /// # Errors
    /// Always.
    pub fn load(_: &[String]) -> Result<Nvml, Problem> {
        Err(Problem::new(ProblemKind::Missing, "this calibrate was built without NVML (the feature nvml)"))
    }

    #[allow(clippy::unused_self, reason = "there is none")]
    pub(super) fn poll(&self, _: RunClock) -> Result<Vec<Sample>, Problem> {
        Ok(Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gpus_of_a_server_are_told_from_others_by_index_or_uuid() {
        let uuids = ["GPU-aa1", "GPU-bb2", "GPU-cc3"].map(str::to_owned);
        let of = |wanted: &[&str]| {
            chosen(&wanted.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>(), &uuids)
        };
        assert_eq!(of(&[]), Ok(vec![0, 1, 2]));
        assert_eq!(of(&["2", "GPU-aa", "2"]), Ok(vec![0, 2]));
        for wrong in ["3", "GPU-dd", "-1", ""] {
            assert!(of(&[wrong]).unwrap_err().reason.contains("GPU-aa1, GPU-bb2"), "{wrong}");
        }
    }
}
