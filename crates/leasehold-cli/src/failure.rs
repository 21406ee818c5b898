//! Why a command ended without doing what it was asked to.

use std::error::Error;
use std::fmt;
use std::process::ExitCode;

/// A message for people, and an exit code. Nothing secret is ever put in.
#[derive(Debug)]
pub(crate) struct Failure {
    message: String,
    code: u8,
}

impl Failure {
    /// It was tried and failed: exit code 1.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), code: 1 }
    }

    /// What was asked for makes no sense: exit code 2, as clap has it.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self { message: message.into(), code: 2 }
    }

    /// The same with an exit code that means something else.
    pub(crate) fn with_code(self, code: u8) -> Self {
        Self { code, ..self }
    }

    /// An error and what caused it, on one line, behind what was being done.
    pub(crate) fn of(doing: &str, error: &dyn Error) -> Self {
        Self::new(format!("{doing}: {}", with_causes(error)))
    }

    /// Says it on stderr.
    pub(crate) fn report(&self) -> ExitCode {
        crate::terminal::tell(&self.to_string());
        ExitCode::from(self.code)
    }
}

/// An error and what caused it, on one line.
pub(crate) fn with_causes(error: &dyn Error) -> String {
    let causes = std::iter::successors(error.source(), |e| (*e).source());
    causes.fold(error.to_string(), |line, cause| format!("{line}: {cause}"))
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<leasehold_vault::ConfigError> for Failure {
    fn from(error: leasehold_vault::ConfigError) -> Self {
        Self::usage(error.to_string())
    }
}
