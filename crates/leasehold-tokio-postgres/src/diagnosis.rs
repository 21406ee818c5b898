//! What an error of the driver says.

use std::error::Error as _;

use leasehold::hook::Refusal;

/// The SQLSTATE, if Postgres answered.
#[must_use]
pub fn sqlstate(error: &tokio_postgres::Error) -> Option<&str> {
    error.code().map(|code| code.code())
}

/// What a failed connect says about the login.
#[must_use]
pub fn refusal(error: &tokio_postgres::Error) -> Refusal {
    Refusal::of(sqlstate(error))
}

/// The login itself was refused.
#[must_use]
pub fn is_authentication(error: &tokio_postgres::Error) -> bool {
    sqlstate(error).is_some_and(Refusal::is_authentication)
}

/// With what lies beneath: the driver's own `Display` says no more than "db error". For a proof or
/// a drain's warning and nowhere else: they are shown as one line without the password, which a
/// hostile server can have put here (I10).
#[must_use]
pub fn explain(error: &tokio_postgres::Error) -> String {
    let mut line = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        line = format!("{line}: {cause}");
        next = cause.source();
    }
    if let Some(code) = sqlstate(error) {
        line = format!("{line} ({code})");
    }
    line
}

/// What kind of error it is, with nothing of the server's but a well-formed SQLSTATE: for logs.
#[must_use]
pub fn kind(error: &tokio_postgres::Error) -> String {
    let is_code = |code: &&str| code.len() == 5 && code.bytes().all(|b| b.is_ascii_alphanumeric());
    match sqlstate(error).filter(is_code) {
        Some(code) => format!("{error} ({code})"),
        None => error.to_string(),
    }
}
