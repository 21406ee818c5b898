//! What a person gave, checked before anything is sent: an error here names the field.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use leasehold::{ErrorKind, SourceError};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use zeroize::Zeroizing;

use crate::config::ConfigError;

/// Tokens are some dozen bytes, JWTs some thousand.
const MAX_FILE: u64 = 64 * 1024;

/// How long anything but the server may keep a login waiting: a login that never ends keeps the
/// session from ending too.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// A mount path, part of a URL: `..` in it would lead out of `auth/`.
pub(super) fn mount(path: &str) -> Result<(), ConfigError> {
    if path.is_empty() {
        return Err(ConfigError::new(
            "auth.mount",
            "is empty: give the path that the auth method is enabled at, such as approle",
        ));
    }
    segments("auth.mount", path)
}

/// A path below `/v1/` made of plain segments.
pub(super) fn segments(field: &'static str, path: &str) -> Result<(), ConfigError> {
    if path.split('/').all(is_segment) {
        return Ok(());
    }
    Err(ConfigError::new(
        field,
        "is no path on the server: plain characters with single slashes between them, and no part \
         that is `.` or `..`",
    ))
}

/// One segment of a path.
pub(super) fn segment(field: &'static str, name: &str) -> Result<(), ConfigError> {
    filled(field, name)?;
    if is_segment(name) && !name.contains('/') {
        return Ok(());
    }
    Err(ConfigError::new(field, "can't be part of a path: use plain characters without slashes"))
}

fn is_segment(part: &str) -> bool {
    let plain = |b: u8| b.is_ascii_graphic() && !br#"?#%\"<>`{}|^"#.contains(&b);
    !matches!(part, "" | "." | "..") && part.bytes().all(plain)
}

/// A name that goes into a request's body.
pub(super) fn name(field: &'static str, name: &str) -> Result<(), ConfigError> {
    filled(field, name)?;
    if name.chars().any(char::is_control) {
        let problem = "holds control characters: is it a name?";
        return Err(ConfigError::new(field, problem));
    }
    Ok(())
}

/// Anything at all; it may be a secret and is not shown.
pub(super) fn filled(field: &'static str, value: &str) -> Result<(), ConfigError> {
    if value.trim().is_empty() {
        return Err(ConfigError::new(field, "is empty: it has to be given"));
    }
    Ok(())
}

/// A file with one secret in it, read anew each time. Whoever writes it should put a new file in
/// its place; one that is written in place may be met half written, and is read again then.
#[derive(Clone)]
pub(crate) struct SecretFile {
    /// What is in it, for messages.
    what: &'static str,
    path: PathBuf,
    /// One that hangs. It takes a thread, and is waited for in place of beginning another.
    hanging: Arc<Mutex<Option<Reading>>>,
}

type Reading = JoinHandle<std::io::Result<Zeroizing<Vec<u8>>>>;

impl SecretFile {
    pub(super) fn new(what: &'static str, path: impl Into<PathBuf>) -> Self {
        Self { what, path: path.into(), hanging: Arc::default() }
    }

    pub(super) fn check(&self, field: &'static str) -> Result<(), ConfigError> {
        let path = self.path.as_os_str();
        if path.is_empty() {
            return Err(ConfigError::new(field, "is empty: name the file to read"));
        }
        if path.as_encoded_bytes().contains(&0) {
            let problem = "has a NUL in it, which no file name has";
            return Err(ConfigError::new(field, problem));
        }
        Ok(())
    }

    /// Its text, trimmed. What is missing or empty counts as a fault that may pass: files are
    /// mounted late, and replaced.
    pub(super) async fn read(&self) -> Result<Zeroizing<String>, SourceError> {
        let mut hanging = self.hanging.lock().await;
        // What was read then may not be what is in it now.
        let began = hanging.take().filter(|reading| !reading.is_finished());
        let path = self.path.clone();
        let mut reading =
            began.unwrap_or_else(|| tokio::task::spawn_blocking(move || read_bounded(&path)));
        let read = timeout(PATIENCE, &mut reading).await;
        let failed = |why: String| {
            SourceError::unreachable(format!("reading the {} from {self}: {why}", self.what))
        };
        let text = match read {
            Err(_) => {
                *hanging = Some(reading);
                let why = "no answer: is it a pipe, or on a mount that hangs?";
                return Err(failed(why.to_owned()));
            }
            Ok(Ok(Ok(text))) => text,
            Ok(Ok(Err(e))) => {
                return Err(failed(format!("{e}: check path, mount and permissions")));
            }
            Ok(Err(_)) => return Err(failed("the runtime is shutting down".to_owned())),
        };
        self.secret_in(&text)
    }

    /// What was read, if it can be a secret.
    pub(crate) fn secret_in(&self, text: &[u8]) -> Result<Zeroizing<String>, SourceError> {
        let wrong = |why: &str| {
            SourceError::new(ErrorKind::Malformed, format!("the {} in {self} {why}", self.what))
        };
        let Ok(text) = std::str::from_utf8(text) else {
            return Err(wrong("is not text: is it the right file?"));
        };
        match text.trim() {
            "" => Err(SourceError::unreachable(format!(
                "reading the {} from {self}: the file is empty: whoever writes it has not done so \
                 yet",
                self.what
            ))),
            text if text.len() as u64 > MAX_FILE => {
                Err(wrong("is longer than 64 KiB: is it the right file?"))
            }
            text if !text.bytes().all(|b| b.is_ascii_graphic()) => Err(wrong(
                "has white space or other characters in it that it can't have: give a file \
                 with nothing else in it",
            )),
            text => Ok(Zeroizing::new(text.to_owned())),
        }
    }
}

/// Its path, where it can't be the secret itself, given in the place of a file's name.
impl fmt::Display for SecretFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = &self.path;
        let place = path.is_absolute() || path.starts_with(".") || path.starts_with("..");
        if place && !path.to_string_lossy().contains(char::is_control) {
            write!(f, "{path:?}")
        } else {
            f.write_str("a file whose name is not shown (give the whole path, from / on)")
        }
    }
}

fn read_bounded(path: &Path) -> std::io::Result<Zeroizing<Vec<u8>>> {
    // Never grows, so that no copy is left behind unwiped.
    let mut text = Zeroizing::new(vec![0; MAX_FILE as usize + 2]);
    let mut file = File::open(path)?;
    let mut filled = 0;
    while filled < text.len() {
        match file.read(&mut text[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    text.truncate(filled);
    Ok(text)
}
