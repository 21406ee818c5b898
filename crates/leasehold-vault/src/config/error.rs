//! What is wrong with a setting.

use std::borrow::Cow;
use std::fmt;

use leasehold::{ErrorKind, SourceError};

/// A setting that can't be worked with. Names the field, variable or key and says what to do;
/// never shows a secret, nor any other value that was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    setting: Cow<'static, str>,
    problem: String,
}

impl ConfigError {
    pub(crate) fn new(setting: impl Into<Cow<'static, str>>, problem: impl Into<String>) -> Self {
        Self { setting: setting.into(), problem: problem.into() }
    }

    /// The field, environment variable or key of a file at fault. Of two that contradict each
    /// other it is one; the message names both.
    #[must_use]
    pub fn setting(&self) -> &str {
        &self.setting
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.setting, self.problem)
    }
}

impl std::error::Error for ConfigError {}

impl From<ConfigError> for SourceError {
    fn from(e: ConfigError) -> Self {
        Self::new(ErrorKind::Other, e.to_string())
    }
}
