//! A secret's paths in the API.

use super::error::KvError;

/// Where a secret of a KV engine is.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Place {
    mount: String,
    path: String,
    pub(crate) versioned: bool,
}

impl Place {
    pub(crate) fn new(mount: &str, path: &str, versioned: bool) -> Self {
        let trimmed = |text: &str| text.trim_matches('/').to_owned();
        Self { mount: trimmed(mount), path: trimmed(path), versioned }
    }

    /// One that an application named. What can't be part of a URL's path is refused, as it would be
    /// left out there, and another secret be meant.
    pub(super) fn checked(self) -> Result<Self, KvError> {
        let bad = |part: &str| matches!(part, "" | "." | "..");
        if self.path.split('/').chain(self.mount.split('/')).any(bad) {
            return Err(KvError::BadPath { path: format!("{}/{}", self.mount, self.path) });
        }
        Ok(self)
    }

    /// Where it is read and written.
    pub(crate) fn data(&self) -> String {
        self.below("data")
    }

    /// Where its versions are told: the same for an engine without versions. Secrets are listed
    /// there too.
    pub(crate) fn metadata(&self) -> String {
        self.below("metadata")
    }

    pub(super) fn below(&self, part: &str) -> String {
        let Self { mount, path, versioned } = self;
        let whole =
            if *versioned { format!("{mount}/{part}/{path}") } else { format!("{mount}/{path}") };
        whole.trim_end_matches('/').to_owned()
    }
}
