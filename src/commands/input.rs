//! Files that the user names, and `-`, which is stdin.

use anyhow::{Context, bail};
use std::io::Read;
use std::path::Path;

/// How a file is called in messages.
pub(super) fn shown(path: &Path) -> String {
    if path == Path::new("-") { "stdin".to_owned() } else { path.display().to_string() }
}

/// The text of a file.
pub(super) fn read_text(path: &Path) -> anyhow::Result<String> {
    let name = shown(path);
    if path.is_dir() {
        bail!("{name} is a directory; name files, like {name}/*.yaml");
    }
    let mut bytes = Vec::new();
    if path == Path::new("-") {
        std::io::stdin().lock().read_to_end(&mut bytes).context("cannot read stdin")?;
    } else {
        bytes = std::fs::read(path)
            .with_context(|| format!("cannot read {name}; look at its path and permissions"))?;
    }
    let text = String::from_utf8(bytes).map_err(|_| anyhow::anyhow!("{name} is not UTF-8 text"))?;
    Ok(text.trim_start_matches('\u{feff}').to_owned())
}
