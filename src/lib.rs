//! x
pub mod analyze;
pub mod measurement;
pub mod recommend;
pub mod units;
