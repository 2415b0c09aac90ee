//! x
pub mod analyze;
pub mod measurement;
pub mod plan;
pub mod recommend;
pub mod scenario;
pub mod units;
