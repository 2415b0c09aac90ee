//! A pulse that tells how well the client itself is: how late its runtime wakes, how much processor
//! time it takes, whether the wall clock was set, how many requests are in flight.

use super::Sink;
use crate::measurement::{Event, RunClock};
use crate::units::Seconds;
use rustix::time::{ClockId, clock_gettime};
use std::sync::Arc;
use std::time::Duration;

/// Time between two beats.
const BEAT: Duration = Duration::from_millis(10);
/// Beats that make one record.
const BEATS: u32 = 100;

/// Beats until it is dropped.
pub(super) async fn heartbeat(clock: RunClock, sink: Arc<dyn Sink>, in_flight: impl Fn() -> usize) {
    let mut due = clock.now();
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as f64;
    let (mut started, mut cpu_before) = (due, cpu_seconds());
    loop {
        let (mut lags, mut flying) = (Vec::with_capacity(BEATS as usize), 0.0);
        for _ in 0..BEATS {
            due = due + Seconds::from(BEAT);
            tokio::time::sleep_until(clock.instant(due).into()).await;
            let now = clock.now();
            lags.push((now - due).0.max(0.0));
            flying += in_flight() as f64;
            // After a long pause the beats that were missed are not made up for.
            due = due.max(now - Seconds::from(BEAT));
        }
        lags.sort_by(f64::total_cmp);
        let (now, cpu) = (clock.now(), cpu_seconds());
        sink.event(Event::Heartbeat {
            time: now,
            in_flight: flying / f64::from(BEATS),
            lag_p99: Seconds(lags[(lags.len() * 99).div_ceil(100) - 1]),
            lag_max: Seconds(lags[lags.len() - 1]),
            cpu: (cpu - cpu_before) / (now - started).0 / processors,
            wall_offset: Seconds(wall_seconds() - now.0),
        });
        (started, cpu_before) = (now, cpu);
    }
}

/// Processor time of this process, all threads.
fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// The wall clock, seconds since 1970.
fn wall_seconds() -> f64 {
    let time = clock_gettime(ClockId::Realtime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
