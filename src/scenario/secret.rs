//! Secrets by the place they are kept in, never by their value: a scenario, a command line and a
//! record may be shown to anyone.

use crate::units::ParseUnitError;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Where a secret is kept: `env:NAME` or `file:PATH`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// An environment variable.
    Env(String),
    /// A file; white space around its contents does not count.
    File(PathBuf),
}

/// An extra header whose value is kept somewhere: `X-Api-Key=env:KEY`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderSpec {
    /// The header's name.
    pub name: String,
    /// Where its value is kept.
    pub value: SecretSource,
}

impl FromStr for SecretSource {
    type Err = ParseUnitError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.trim().split_once(':') {
            Some(("env", name)) if !name.is_empty() && !name.contains(['=', '\0']) => {
                Ok(SecretSource::Env(name.to_owned()))
            }
            Some(("file", path)) if !path.is_empty() => Ok(SecretSource::File(PathBuf::from(path))),
            // What was given may be the secret itself, so it is not repeated.
            _ => Err(ParseUnitError::new(
                "what was given",
                "a place where a secret is kept",
                "env:NAME or file:PATH, so that the secret itself is in no command line and no record",
            )),
        }
    }
}

impl FromStr for HeaderSpec {
    type Err = ParseUnitError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_name = |name: &str| {
            !name.is_empty()
                && name.chars().all(|c| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c))
        };
        let (name, value) =
            text.split_once('=').filter(|(name, _)| is_name(name.trim())).ok_or_else(|| {
                let expected = "NAME=env:VARIABLE or NAME=file:PATH, like X-Api-Key=env:KEY";
                ParseUnitError::new("what was given", "a header", expected)
            })?;
        Ok(HeaderSpec { name: name.trim().to_owned(), value: value.parse()? })
    }
}

impl fmt::Display for SecretSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SecretSource::Env(name) => write!(f, "env:{name}"),
            SecretSource::File(path) => write!(f, "file:{}", path.display()),
        }
    }
}

impl fmt::Display for HeaderSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.name, self.value)
    }
}

macro_rules! as_text {
    ($($kind:ty),+) => {$(
        impl Serialize for $kind {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $kind {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    )+};
}
as_text!(SecretSource, HeaderSpec);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_and_print_the_same() {
        for text in ["env:HF_TOKEN", "file:/run/secrets/token"] {
            assert_eq!(text.parse::<SecretSource>().unwrap().to_string(), text);
        }
        for text in ["X-Api-Key=env:KEY", "x-team=file:a=b"] {
            assert_eq!(text.parse::<HeaderSpec>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_secret_itself_is_refused_and_not_repeated() {
        for text in ["hf_verysecret", "env:", "file:", "", "env:A=B"] {
            let message = text.parse::<SecretSource>().unwrap_err().to_string();
            assert!(!message.contains("verysecret") && message.contains("env:NAME"), "{message}");
        }
        for text in ["Authorization: Bearer verysecret", "X-Key=verysecret", "=env:A", "a b=env:A"] {
            let message = text.parse::<HeaderSpec>().unwrap_err().to_string();
            assert!(!message.contains("verysecret"), "{message}");
        }
    }
}
