//! Typed objects to YAML with a header comment.

use super::NamesError;
use serde::Serialize;

/// Why a manifest cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// A name that Kubernetes would refuse.
    #[error(transparent)]
    Names(#[from] NamesError),
    /// Something that it cannot do without is not known.
    #[error("{0}")]
    LeftOut(String),
    /// The object cannot be rendered.
    #[error("cannot write the object as YAML: {0}")]
    Yaml(String),
}

/// The longest line of a header comment.
const WIDTH: usize = 100;

/// An object as YAML below `header`, each line of which becomes a comment.
pub fn to_yaml<T: Serialize>(object: &T, header: &[String]) -> Result<String, ManifestError> {
    let body = serde_saphyr::to_string(object).map_err(|error| ManifestError::Yaml(error.to_string()))?;
    let mut yaml = String::new();
    for line in header.iter().flat_map(|text| text.split(['\n', '\r'])) {
        push_comment(&mut yaml, line);
    }
    yaml.push_str(&body);
    if !yaml.ends_with('\n') {
        yaml.push('\n');
    }
    Ok(yaml)
}

/// Appends a comment, broken at spaces. Control characters would end it and are left out.
fn push_comment(yaml: &mut String, text: &str) {
    let mut line = "#".to_owned();
    for word in text.split_whitespace() {
        let word: String =
            word.chars().filter(|c| !c.is_control() && !matches!(c, '\u{fffe}' | '\u{ffff}')).collect();
        if line.len() + word.len() >= WIDTH && line.len() > 3 {
            yaml.push_str(&line);
            yaml.push('\n');
            "#  ".clone_into(&mut line);
        }
        line.push(' ');
        line.push_str(&word);
    }
    yaml.push_str(&line);
    yaml.push('\n');
}
