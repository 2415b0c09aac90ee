//! Waiting until an HPA scales, or says why it does not.

use super::Target;
use crate::cli::Exit;
use crate::cli::console::Console;
use crate::cluster::{Standing, standing};
use crate::units::Seconds;
use anyhow::anyhow;
use std::time::Duration;
use tokio::time::Instant;

/// The controller looks every 15 s.
const BETWEEN: Duration = Duration::from_secs(1);

/// What the HPA says once it scales or cannot, at most after `wait`, and the exit code that it deserves.
pub(super) async fn watch(
    target: &Target,
    wait: Seconds,
    console: Console,
) -> anyhow::Result<(String, Exit)> {
    let deadline = Instant::now() + Duration::from_secs_f64(wait.0);
    let mut said = String::new();
    loop {
        let Some(hpa) = target.live().await? else {
            return Err(anyhow!("the HPA '{}' is gone: somebody has deleted it", target.name));
        };
        match standing(&hpa) {
            Standing::Active(text) => {
                console.summary(&format!("scaling   {text}"));
                return Ok((text, Exit::Done));
            }
            Standing::Stuck(text) => {
                console.warn(&format!("the HPA does not scale, and will not by itself: {text}"));
                return Ok((text, Exit::Failed));
            }
            Standing::Waiting(text) if Instant::now() >= deadline => {
                console.warn(&format!("the HPA does not scale after {wait}: {text}"));
                return Ok((text, Exit::Failed));
            }
            Standing::Waiting(text) => {
                if text != said {
                    console.note(&format!("waiting   {text}"));
                    said = text;
                }
            }
        }
        tokio::time::sleep(BETWEEN).await;
    }
}
