//! What goes wrong with Transit, told apart by the server's text.

use std::fmt;
use std::time::Duration;

use leasehold::{ErrorKind, SourceError};

/// Why Transit did not do what it was asked, for a whole call or for one item of a batch. Names the
/// key with its mount and says what to do. Cheap to clone; holds neither plaintext nor token.
#[derive(Clone, PartialEq, Eq)]
pub struct TransitError {
    kind: TransitErrorKind,
    message: Box<str>,
    retry_after: Option<Duration>,
}

/// What a [`TransitError`] means for what to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TransitErrorKind {
    /// The engine has no key of that name. The server tells it only to those who may use one of
    /// that name, and encrypting with a name that is unknown makes a key where the policy gives
    /// `create`: else that is [`Denied`](Self::Denied).
    UnknownKey,
    /// No Transit engine is mounted there, or the namespace is not there.
    NoMount,
    /// The policy does not allow it. A person has to mend that.
    Denied,
    /// What was given is no ciphertext of this key, with this context and associated data, or was
    /// changed since; the server does not tell which. It never will be one.
    BadCiphertext,
    /// The version of the key is not there, or not allowed any more (or yet) by the key's settings.
    KeyVersion,
    /// The key can't do it, or not like this: its type, a context that it needs, an option.
    Refused,
    /// More than the server takes in one request, or than the session takes as one answer.
    TooLarge,
    /// What can befall any call: see [`leasehold::ErrorKind`].
    Call(ErrorKind),
}

impl TransitErrorKind {
    /// Heals with no human: the same call can succeed later though nobody mends anything.
    #[must_use]
    pub const fn is_transient(self) -> bool {
        matches!(self, Self::Call(kind) if kind.is_transient())
    }

    /// May be the fault of a single item, though the server said it of the whole batch.
    pub(super) const fn of_an_item(self) -> bool {
        matches!(self, Self::BadCiphertext | Self::KeyVersion | Self::TooLarge)
    }
}

impl TransitError {
    pub(super) fn new(kind: TransitErrorKind, message: impl Into<Box<str>>) -> Self {
        Self { kind, message: message.into(), retry_after: None }
    }

    /// What it means.
    #[must_use]
    pub fn kind(&self) -> TransitErrorKind {
        self.kind
    }

    /// See [`TransitErrorKind::is_transient`].
    #[must_use]
    pub fn is_transient(&self) -> bool {
        self.kind.is_transient()
    }

    /// When the server wants to be asked again, if it said.
    #[must_use]
    pub fn server_retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// The same with a few more words on what to do.
    pub(super) fn advise(mut self, more: &str) -> Self {
        self.message = format!("{}: {more}", self.message).into();
        self
    }
}

impl From<SourceError> for TransitError {
    fn from(e: SourceError) -> Self {
        let kind = match e.kind() {
            ErrorKind::Denied => TransitErrorKind::Denied,
            ErrorKind::NotFound => TransitErrorKind::NoMount,
            kind => TransitErrorKind::Call(kind),
        };
        Self { retry_after: e.server_retry_after(), ..Self::new(kind, e.to_string()) }
    }
}

impl fmt::Display for TransitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl fmt::Debug for TransitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TransitError")
            .field("kind", &self.kind)
            .field("message", &self.message)
            .field("retry_after", &self.retry_after)
            .finish()
    }
}

impl std::error::Error for TransitError {}

use TransitErrorKind::{BadCiphertext, Call, KeyVersion, NoMount, Refused, TooLarge, UnknownKey};

const NO_KEY: &str = "no such key: create it, or correct its name";
const NOT_OF_KEY: &str = "it is no ciphertext of this key with this context and associated data, \
                          or was changed since";
const NO_SIGNATURE: &str = "it is no signature of this key";
const OLD: &str = "this version of the key is retired: lower min_decryption_version, or min_encryption_version, \
     of the key, or use a newer one";
const NO_VERSION: &str = "the key has no such version: check it, and the key";
const CONTEXT: &str = "the key is a derived one: give the context";
const MIXED: &str = "give a context with all items or with none";
const TYPE: &str = "a key of this type can't do that: use one of another type";
const NO_ENGINE: &str =
    "no Transit engine answers there: check mount, namespace and the key's name";
const LARGE: &str = "it is more than the server takes at once: give less";

/// A part of what the server says, and what that means. The first that fits decides.
#[rustfmt::skip]
const TEXTS: &[(&str, TransitErrorKind, &str)] = &[
    ("namespace not found", NoMount, "no such namespace: check VAULT_NAMESPACE"),
    ("no handler for route", NoMount, NO_ENGINE),
    ("unsupported path", NoMount, NO_ENGINE),
    ("unsupported operation", NoMount, NO_ENGINE),
    // "encryption key not found", "signing key not found", "signature verification key not found"
    ("key not found", UnknownKey, NO_KEY),
    ("disallowed by policy", KeyVersion, OLD),
    ("less than the minimum", KeyVersion, OLD),
    ("higher than the latest key version", KeyVersion, NO_VERSION),
    ("key version does not exist", KeyVersion, NO_VERSION),
    ("no such key version", KeyVersion, NO_VERSION),
    ("missing 'context' for key derivation", Refused, CONTEXT),
    ("context should be set either in all", Refused, MIXED),
    ("not supported for key type", Refused, TYPE),
    ("does not support", Refused, TYPE),
    ("provided for non-AEAD cipher", Refused, "a key of this type takes no associated data"),
    ("message authentication failed", BadCiphertext, NOT_OF_KEY),
    ("invalid ciphertext", BadCiphertext, NOT_OF_KEY),
    ("missing ciphertext", BadCiphertext, NOT_OF_KEY),
    ("failed to RSA decrypt", BadCiphertext, NOT_OF_KEY),
    ("unable to decrypt", BadCiphertext, NOT_OF_KEY),
    ("invalid signature", BadCiphertext, NO_SIGNATURE),
    ("supplied signature", BadCiphertext, NO_SIGNATURE),
    ("invalid base64 signature", BadCiphertext, NO_SIGNATURE),
    ("invalid HMAC", BadCiphertext, NO_SIGNATURE),
    ("unable to decode verification HMAC", BadCiphertext, NO_SIGNATURE),
    ("request body too large", TooLarge, LARGE),
    ("due to high complexity", TooLarge, LARGE),
    ("exceeds allowed", TooLarge, LARGE),
    ("too many", TooLarge, LARGE),
];

/// What an answer of the engine's own comes to, and what to do.
pub(super) fn meaning(status: u16, text: &str) -> (TransitErrorKind, &'static str) {
    match TEXTS.iter().find(|(part, ..)| text.contains(part)) {
        Some((_, kind, advice)) => (*kind, *advice),
        None => match status {
            404 | 405 => (NoMount, NO_ENGINE),
            413 => (TooLarge, LARGE),
            500.. => (Call(ErrorKind::ServerFault), "the server failed for now"),
            _ => (Refused, "the engine refuses it as it is"),
        },
    }
}
