//! Ctrl-C and SIGTERM: once, no more requests are sent and those in flight may end; twice, they are
//! cut off. Either way what was measured is kept and analyzed.

use crate::cli::{Exit, Failure, OrExit};
use crate::drive::StopLevel;
use std::sync::Arc;
use tokio::sync::watch;

/// Turns signals into stop levels. To be called before the load engine starts, since goose would
/// otherwise take the signals for itself.
pub(in crate::commands) fn listen(stop: Arc<watch::Sender<StopLevel>>) -> Result<(), Failure> {
    let on_signal = move || {
        stop.send_modify(|level| {
            *level = match level {
                StopLevel::Run => StopLevel::NoNewRequests,
                _ => StopLevel::Abort,
            }
        });
    };
    ctrlc::set_handler(on_signal).or_exit(Exit::Failed)
}
