//! How what is told looks in JSON: durations in seconds, text of somebody else's on one line.

use std::time::Duration;

use serde::ser::{SerializeSeq, Serializer};

use crate::hook::Holder;
use crate::line::line;

/// Seconds to the millisecond: what is finer is noise to whoever reads it.
#[allow(clippy::trivially_copy_pass_by_ref)]
pub(crate) fn seconds<S: Serializer>(duration: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_f64(in_seconds(*duration))
}

/// As [`seconds`]; null for `None`.
#[allow(clippy::ref_option)]
pub(crate) fn seconds_if_any<S: Serializer>(
    duration: &Option<Duration>,
    to: S,
) -> Result<S::Ok, S::Error> {
    match duration {
        Some(duration) => seconds(duration, to),
        None => to.serialize_none(),
    }
}

pub(crate) fn in_seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1000.0).round() / 1000.0
}

pub(crate) fn one_line<S: Serializer>(text: &str, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&line(text))
}

/// Who was cut off at a drain's deadline, each with its pool.
pub(crate) fn holders<S: Serializer>(all: &[(String, Holder)], to: S) -> Result<S::Ok, S::Error> {
    #[derive(serde::Serialize)]
    struct Cut<'a> {
        pool: &'a str,
        #[serde(flatten)]
        holder: &'a Holder,
    }
    let mut seq = to.serialize_seq(Some(all.len()))?;
    for (pool, holder) in all {
        seq.serialize_element(&Cut { pool, holder })?;
    }
    seq.end()
}
