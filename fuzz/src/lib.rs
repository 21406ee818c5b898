//! What the targets share.

/// In every secret that a target plants, and in nothing else: where this shows, a secret shows.
pub const NEEDLE: &str = "must-not-leak";

/// A secret that a target plants.
pub const SECRET: &str = "s.Secret-that-must-not-leak";

/// I10: no secret is in what is shown.
///
/// # Panics
/// One is.
pub fn no_secret_in(shown: &str) {
    assert!(!shown.contains(NEEDLE), "a secret is shown: {shown}");
}

/// Fit for a line of a log.
///
/// # Panics
/// It would make more lines than one, or move a terminal's cursor.
pub fn one_line(shown: &str) {
    assert!(!shown.chars().any(char::is_control), "no line: {shown:?}");
}
