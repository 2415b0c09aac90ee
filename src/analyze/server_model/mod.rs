//! The server as its own counters show it: what its forwards cost, and from that, played through the
//! room `batching`, the load at which the SLO breaks.

mod fit;
mod intervals;
mod predict;

pub use fit::{ForwardCost, Interval, fit};
pub use intervals::{admission, intervals, token_budget};
pub use predict::{Workload, capacity, judge_load};
