//! What is wrong with a key of a secret. Never says what is in it.

use std::fmt;

use serde::de::{Error, Expected, Unexpected};

/// A key that a settings struct wants and does not get. `Display` is one line, with no value in it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KvKeyProblem {
    /// The key in the secret; of what is nested, with dots between: `tls.cert`, `hosts.2`. Of the
    /// environment, the variable.
    pub key: String,
    /// It is not there at all. Else it is there and not what the struct takes.
    pub missing: bool,
    pub(super) what: String,
}

impl fmt::Display for KvKeyProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.key {
            "" => write!(f, "the whole {}", self.what),
            key => write!(f, "`{key}` {}", self.what),
        }
    }
}

/// The same on its way out of a value.
#[derive(Debug)]
pub(super) struct Wrong {
    /// Where, the innermost first.
    pub(super) keys: Vec<String>,
    pub(super) how: How,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum How {
    Missing,
    /// The struct takes no such key.
    Unknown,
    Other(String),
}

impl Wrong {
    pub(super) fn inside(mut self, key: &str) -> Self {
        self.keys.push(key.to_owned());
        self
    }

    pub(super) fn other(what: impl Into<String>) -> Self {
        Self { keys: Vec::new(), how: How::Other(what.into()) }
    }

    /// Where, the outermost first.
    pub(super) fn trail(&self) -> Vec<String> {
        self.keys.iter().rev().cloned().collect()
    }

    pub(super) fn problem(self) -> KvKeyProblem {
        let (key, missing) = (self.trail().join("."), self.how == How::Missing);
        let what = match self.how {
            How::Missing => "is missing".to_owned(),
            How::Unknown => "is none of the settings".to_owned(),
            How::Other(what) => what,
        };
        KvKeyProblem { key, missing, what }
    }
}

/// Values are left out: they may be secrets.
impl Error for Wrong {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self::other("is not what the settings take")
    }

    fn invalid_type(found: Unexpected<'_>, wanted: &dyn Expected) -> Self {
        Self::other(format!("is {}, and {wanted} is wanted", kind(found)))
    }

    fn invalid_value(found: Unexpected<'_>, wanted: &dyn Expected) -> Self {
        Self::other(format!("is {} other than {wanted}", kind(found)))
    }

    fn invalid_length(length: usize, wanted: &dyn Expected) -> Self {
        Self::other(format!("has {length} entries, and {wanted} is wanted"))
    }

    fn unknown_variant(_: &str, known: &'static [&'static str]) -> Self {
        Self::other(format!("is none of: {}", known.join(", ")))
    }

    fn unknown_field(field: &str, _: &'static [&'static str]) -> Self {
        Self { keys: vec![field.to_owned()], how: How::Unknown }
    }

    fn missing_field(field: &'static str) -> Self {
        Self { keys: vec![field.to_owned()], how: How::Missing }
    }

    fn duplicate_field(field: &'static str) -> Self {
        Self::other("is there twice, under two of its names").inside(field)
    }
}

fn kind(found: Unexpected<'_>) -> &'static str {
    match found {
        Unexpected::Bool(_) => "true or false",
        Unexpected::Unsigned(_) | Unexpected::Signed(_) => "a number",
        Unexpected::Float(_) => "a number with a fraction",
        Unexpected::Char(_) | Unexpected::Str(_) => "text",
        Unexpected::Unit | Unexpected::Option => "null",
        Unexpected::Seq => "a list",
        Unexpected::Map => "an object",
        _ => "a value",
    }
}

impl std::error::Error for Wrong {}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value that the settings do not take")
    }
}
