//! A login that never changes.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::credential::{Credential, Issued, Lease};
use crate::source::{CredentialSource, ErrorKind, SourceError};

/// A login that was given, or is in the environment: for development, and as the last resort of a
/// [`Chain`](crate::Chain). It never rotates, and says so in one warning.
///
/// ```
/// use leasehold::StaticSource;
///
/// let fixed = StaticSource::new("app", "only-for-development");
/// # let _ = fixed;
/// // Read now, and never again: a process's environment does not change from outside.
/// match StaticSource::from_env("PGUSER", "PGPASSWORD") {
///     Ok(source) => drop(source),
///     Err(e) => eprintln!("{e}"), // names the variable
/// }
/// ```
pub struct StaticSource {
    credential: Credential,
    place: String,
    told: AtomicBool,
}

impl StaticSource {
    /// This user name and password.
    #[must_use]
    pub fn new(username: impl Into<String>, password: impl Into<String>) -> Self {
        Self::of(Credential::new(username, password), "a fixed login")
    }

    /// This credential, which may have an [`Address`](crate::Address).
    #[must_use]
    pub fn of(credential: Credential, place: impl Into<String>) -> Self {
        Self { credential, place: place.into(), told: AtomicBool::new(false) }
    }

    /// The login in two environment variables, usually `PGUSER` and `PGPASSWORD`.
    ///
    /// # Errors
    /// One of them is not set, empty, or not Unicode: which.
    pub fn from_env(username: &str, password: &str) -> Result<Self, SourceError> {
        Self::from_variables(&|name| std::env::var(name), username, password)
    }

    /// The login in a URL in an environment variable, usually `DATABASE_URL`.
    ///
    /// # Errors
    /// It is not set, or no URL with user name and password. The message never shows it.
    pub fn from_env_url(variable: &str) -> Result<Self, SourceError> {
        let url = value(&|name| std::env::var(name), variable)?;
        let credential = Credential::from_url(&url)
            .map_err(|e| SourceError::malformed(format!("environment variable {variable}: {e}")))?;
        Ok(Self::of(credential, format!("environment variable {variable}")))
    }

    fn from_variables(read: Read<'_>, username: &str, password: &str) -> Result<Self, SourceError> {
        let credential = Credential::wiping(&value(read, username)?, value(read, password)?);
        Ok(Self::of(credential, format!("environment variables {username} and {password}")))
    }
}

type Read<'a> = &'a dyn Fn(&str) -> Result<String, std::env::VarError>;

fn value(read: Read<'_>, name: &str) -> Result<zeroize::Zeroizing<String>, SourceError> {
    match read(name) {
        Ok(value) if !value.is_empty() => Ok(value.into()),
        // The error itself would repeat what is not Unicode.
        _ => Err(SourceError::new(
            ErrorKind::NotFound,
            format!("environment variable {name} is not set to anything: set it"),
        )),
    }
}

impl CredentialSource for StaticSource {
    async fn issue(&self) -> Result<Issued, SourceError> {
        if !self.told.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                target: "leasehold",
                "{} is used: this login is never rotated, renewed or revoked", self.place
            );
        }
        Ok(Issued::new(self.credential.clone(), Lease::endless()))
    }

    fn describe(&self) -> String {
        self.place.clone()
    }
}

impl fmt::Debug for StaticSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StaticSource").field("place", &self.place).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::env::VarError;

    use super::*;

    #[tokio::test]
    async fn an_environment_is_read_once_and_what_is_missing_is_named() {
        let read = |name: &str| match name {
            "U" => Ok("app".to_owned()),
            "P" => Ok("hunter2".to_owned()),
            "EMPTY" => Ok(String::new()),
            _ => Err(VarError::NotPresent),
        };
        let source = StaticSource::from_variables(&read, "U", "P").unwrap();
        assert!(!format!("{source:?} {}", source.describe()).contains("hunter2"));
        let issued = source.issue().await.unwrap();
        assert_eq!(issued.credential.expose_password(), "hunter2");
        assert_eq!(issued.lease, Lease::endless());
        for missing in ["EMPTY", "NONE"] {
            let e = StaticSource::from_variables(&read, "U", missing).unwrap_err();
            assert!(e.to_string().contains(missing), "{e}");
        }
    }
}
