//! The run directory: what was measured, on disk within a second, readable after anything.
//!
//! Invariants: nothing that was measured waits longer than a second for the disk; `run.json` is
//! replaced in one piece; a reader copes with a torn last line and with a run that was killed; a
//! directory of another format version is refused with the reason.

mod csv_format;
mod info;
mod reader;
mod recorder;
mod together;

pub use info::{FORMAT, HostFacts, RunInfo, RunState, TargetFacts, VERSION};
pub use reader::{RecordedRun, read, read_gap_intervals};
pub use recorder::{RecordHandle, Recorder, must_be_free};
pub use together::together;

use std::io::Write;
use std::path::{Path, PathBuf};

/// The file that says what a run changed in a cluster, and whether it was put back. It is there before the
/// run is.
pub const CLUSTER_CHANGES: &str = "cluster.json";
/// The file that makes a directory a run.
pub const RUN: &str = "run.json";

/// Why a run directory cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The disk refused.
    #[error("cannot {what} {path}: {reason}; {}", way_out(what))]
    Disk {
        /// What was attempted: "write", "read", "create".
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        reason: std::io::Error,
    },
    /// There is something in the directory already.
    #[error("{0} is not empty, and a run is never written over another; choose another --out")]
    NotEmpty(PathBuf),
    /// Another process writes to the run.
    #[error("another calibrate is still writing to {0}; wait until it ends, or end it")]
    InUse(PathBuf),
    /// It is no run directory.
    #[error(
        "{0} is no run directory: it holds no run.json; name the --out of a run, or what it left under reports/"
    )]
    NoRun(PathBuf),
    /// The run was written by another version.
    #[error(
        "{path} has format {found}, and this calibrate reads {expected}; use the calibrate that wrote it"
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// What it says.
        found: String,
        /// What would be read.
        expected: String,
    },
    /// A file does not hold what it should.
    #[error("{path}{place}: {problem}")]
    Content {
        /// The file.
        path: PathBuf,
        /// ":LINE" where a line is to blame.
        place: String,
        /// What is wrong.
        problem: String,
    },
}

fn way_out(what: &str) -> &'static str {
    match what {
        "read" => "see to its permissions",
        _ => "make room or see to its permissions, or choose another --out",
    }
}

impl RecordError {
    fn disk(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> RecordError {
        let path = path.to_owned();
        move |reason| RecordError::Disk { what, path, reason }
    }
}

/// Writes a file in one piece: whoever reads it sees the old contents or the new ones. Directories
/// on the way are made.
pub fn write_file(path: &Path, contents: &[u8]) -> Result<(), RecordError> {
    let error = |reason| RecordError::disk("write", path)(reason);
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(error)?;
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".tmp");
    let draft = path.with_file_name(name);
    let write = || {
        let mut file = std::fs::File::create(&draft)?;
        file.write_all(contents)?;
        file.sync_data()?;
        std::fs::rename(&draft, path)?;
        // The new name is on disk only once its directory is.
        match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => std::fs::File::open(parent)?.sync_all(),
            _ => Ok(()),
        }
    };
    write().map_err(|reason| {
        // A draft that could not be completed is of no use to anyone.
        let _ = std::fs::remove_file(&draft);
        error(reason)
    })
}
