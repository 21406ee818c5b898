//! How a program of this crate ends.

use std::error::Error;
use std::process::ExitCode;

use crate::AnyError;

/// The exit code of what was `done`: 1 if a figure is not as it has to be, or for an error, which is
/// told on stderr with its causes.
#[must_use]
pub fn exit(program: &str, done: Result<bool, AnyError>) -> ExitCode {
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{program}: {}", chain(&*error));
            ExitCode::FAILURE
        }
    }
}

/// The error and its causes on one line.
#[must_use]
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    for cause in std::iter::successors(error.source(), |e| (*e).source()) {
        text = format!("{text}: {cause}");
    }
    text.replace(['\n', '\t', '\r'], " ")
}
