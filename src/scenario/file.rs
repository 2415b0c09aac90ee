//! Reading a scenario file, with errors that name the file, the line and the way out.

use super::Settings;
use crate::units::nearest;
use std::path::Path;

/// Why a scenario cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// The file cannot be read.
    #[error("cannot read the scenario {path}: {reason}")]
    Read {
        /// Which.
        path: String,
        /// Why.
        reason: String,
    },
    /// The file is not a scenario.
    #[error("{path} is not a valid scenario: {reason}{hint}")]
    Parse {
        /// Which.
        path: String,
        /// What the reader found, with its place.
        reason: String,
        /// "; did you mean ...?" or nothing.
        hint: String,
    },
    /// A field has a value that cannot be used.
    #[error("{field} {problem}; {remedy}")]
    Field {
        /// Which.
        field: &'static str,
        /// What is wrong.
        problem: String,
        /// What to do.
        remedy: String,
    },
}

impl ScenarioError {
    /// An error about one field.
    pub fn field(field: &'static str, problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        ScenarioError::Field { field, problem: problem.into(), remedy: remedy.into() }
    }
}

/// Reads the settings in `text`, which came from `path`.
///
/// # Errors
/// Text that is not YAML, unknown fields (with a "did you mean"), values of the wrong form, and a
/// file that does not say its version.
pub fn read_settings(path: &Path, text: &str) -> Result<Settings, ScenarioError> {
    // The reader shows the lines around an error, which must not be a secret's.
    let may_hold_secret = ["-token", "header", "google-credentials"].iter().any(|field| text.contains(field));
    let parse_error = |reason: String| {
        let reason = if may_hold_secret { first_line(&reason) } else { reason };
        let hint = unknown_field_hint(&reason).map(|hint| format!("\nhint: {hint}")).unwrap_or_default();
        ScenarioError::Parse { path: path.display().to_string(), reason, hint }
    };
    if text.trim().is_empty() {
        return Err(parse_error("the file is empty".to_owned()));
    }
    let settings: Settings = serde_saphyr::from_str(text).map_err(|error| parse_error(error.to_string()))?;
    if settings.version.is_none() {
        return Err(parse_error(
            "the field version is missing\nhint: begin the file with 'version: 1'".to_owned(),
        ));
    }
    Ok(settings)
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

/// "did you mean ...?" for the reader's "unknown field `x`, expected one of a, b".
fn unknown_field_hint(reason: &str) -> Option<String> {
    let (_, rest) = reason.split_once("unknown field `")?;
    let (field, rest) = rest.split_once('`')?;
    let known = rest.lines().next()?.split_once("expected one of ")?.1;
    let found = nearest(&field.replace('_', "-"), known.split(", ").map(|word| word.trim_matches('`')))?;
    Some(format!("did you mean {found}?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Settings, ScenarioError> {
        read_settings(Path::new("x.yaml"), text)
    }

    #[test]
    fn a_scenario_is_read_with_all_kinds_of_fields() {
        let text = "version: 1\nramp: rate:1..6:4x6s\nslo: [ttft:p95:2s, error:rate:1%]\nwarm-up: 2s\ncluster: {namespace: llm}\n";
        let settings = read(text).unwrap();
        assert_eq!(settings.slo.unwrap().len(), 2);
        assert_eq!(settings.warm_up.unwrap().0, 2.0);
        assert_eq!(settings.cluster.namespace.as_deref(), Some("llm"));
    }

    #[test]
    fn an_unknown_field_is_an_error_with_a_suggestion() {
        for (text, hint) in [
            ("version: 1\nrampp: adaptive\n", "did you mean ramp?"),
            ("version: 1\nmax_duration: 1m\n", "did you mean max-duration?"),
        ] {
            let message = read(text).unwrap_err().to_string();
            assert!(message.contains(hint), "{message}");
        }
    }

    #[test]
    fn an_error_near_a_secret_does_not_show_it() {
        for text in [
            "version: 1\nbearer-token: hf_verysecret\n",
            "version: 1\nheader: [\"X-Key: verysecret\"]\n",
            "version: 1\nbearer-token: hf_verysecret\nseed: -3\n",
            "version: 1\nsources: {prometheus-token: verysecret}\n",
        ] {
            let message = read(text).unwrap_err().to_string();
            assert!(!message.contains("verysecret") && message.contains("x.yaml"), "{message}");
        }
    }

    #[test]
    fn wrong_files_name_the_file_and_the_problem() {
        for text in [
            "",
            "   \n",
            "ramp: adaptive\n",
            "version: 1\nslo: [ttft:p95]\n",
            "- a\n- b\n",
            "version: 1\nseed: -3\n",
            "\u{0}",
            "version: [\n",
        ] {
            let message = read(text).unwrap_err().to_string();
            assert!(message.contains("x.yaml"), "{message}");
        }
    }
}
