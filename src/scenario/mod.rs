//! What the user asked for: the scenario file, the flags of `run`, and their validation.
//!
//! Invariants: every flag of `run` is a field of the file and the other way round, since both are
//! the one struct [`Settings`]; flags win over the file; an unknown field is an error; nothing is
//! defaulted that is not printed back in the effective scenario.

mod cluster;
mod file;
mod ramp;
mod secret;
mod settings;
mod sizes;
mod sources;
mod workload;

pub use cluster::ClusterSettings;
pub use file::{ScenarioError, read_settings};
pub use ramp::RampSpec;
pub use secret::{HeaderSpec, SecretSource};
pub use settings::{Api, Arrivals, Scenario, Settings};
pub use sizes::SizeSpec;
pub use sources::SourceSettings;
pub use workload::{Via, WorkloadSettings};
