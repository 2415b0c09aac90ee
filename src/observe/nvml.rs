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

/// The GPUs of this machine, as one replica's.
#[derive(Clone)]
pub struct Nvml {
    #[cfg(feature = "nvml")]
    library: Arc<nvml_wrapper::Nvml>,
}

impl std::fmt::Debug for Nvml {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Nvml")
    }
}

#[cfg(feature = "nvml")]
impl Nvml {
    /// Loads the library.
    ///
    /// # Errors
    /// A machine without it, or without a GPU.
    pub fn load() -> Result<Nvml, Problem> {
        let mut refusal = None;
        for name in LIBRARIES {
            match nvml_wrapper::Nvml::builder().lib_path(name.as_ref()).init() {
                Ok(library) => return Nvml::with_gpus(library),
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

    fn with_gpus(library: nvml_wrapper::Nvml) -> Result<Nvml, Problem> {
        match library.device_count() {
            Ok(0) => Err(Problem::new(ProblemKind::Missing, "NVML is here, and knows of no GPU")),
            Ok(_) => Ok(Nvml { library: Arc::new(library) }),
            Err(error) => Err(Problem::new(ProblemKind::Failing, format!("NVML: {error}"))),
        }
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
        for index in 0..self.library.device_count()? {
            let device = self.library.device_by_index(index)?;
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
    pub fn load() -> Result<Nvml, Problem> {
        Err(Problem::new(ProblemKind::Missing, "this calibrate was built without NVML (the feature nvml)"))
    }

    #[allow(clippy::unused_self, reason = "there is none")]
    pub(super) fn poll(&self, _: RunClock) -> Result<Vec<Sample>, Problem> {
        Ok(Vec::new())
    }
}
