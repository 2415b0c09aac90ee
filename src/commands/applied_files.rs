//! The records of applies in a run directory.

use crate::cluster::{APPLIED, APPLIED_VERSION, Applied};
use crate::record;
use anyhow::{Context, bail};
use std::path::{Path, PathBuf};

const DIRECTORY: &str = "applied";

/// Where the record of an apply at `time` goes. Names sort by time.
pub(super) fn path(run: &Path, time: jiff::Timestamp, name: &str) -> PathBuf {
    let time = time.strftime("%Y%m%dT%H%M%S%.3fZ");
    run.join(DIRECTORY).join(format!("{time}-{name}.json"))
}

pub(super) fn write(path: &Path, applied: &Applied) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(applied).context("the record of the apply cannot be written")?;
    Ok(record::write_file(path, format!("{text}\n").as_bytes())?)
}

/// The newest apply that was not rolled back, and its file.
pub(super) fn newest(run: &Path) -> anyhow::Result<Option<(PathBuf, Applied)>> {
    let directory = run.join(DIRECTORY);
    let entries = match std::fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", directory.display())),
    };
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    paths.sort();
    for path in paths.into_iter().rev() {
        let applied = read(&path)?;
        if applied.rolled_back.is_none() {
            return Ok(Some((path, applied)));
        }
    }
    Ok(None)
}

fn read(path: &Path) -> anyhow::Result<Applied> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {shown}"))?;
    let applied: Applied =
        serde_json::from_str(&text).with_context(|| format!("{shown} is no record of an apply"))?;
    if (applied.format.as_str(), applied.version) != (APPLIED, APPLIED_VERSION) {
        bail!(
            "{shown} has format {} {}, and this calibrate reads {APPLIED} {APPLIED_VERSION}; use the calibrate that wrote it",
            applied.format,
            applied.version
        );
    }
    Ok(applied)
}
