//! A login in a file.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use tracing::warn;

use super::form::LoginForm;
use super::watch::{Contents, FileWatch};
use crate::credential::{Credential, Issued, Lease};
use crate::source::{CredentialSource, SourceError};

/// The files of a mounted secret.
const KEYS: [&str; 6] = ["username", "password", "host", "port", "database", "url"];

/// A login in a file, or a folder of files, that somebody else keeps fresh: an agent that renders
/// it, an operator, a mounted Kubernetes secret.
///
/// What there is decides how it is read:
/// - a folder: one file for each of `username`, `password` and, if they are there, `host`, `port`,
///   `database`, or one `url`; as a Kubernetes secret is mounted;
/// - `{"username": …, "password": …}` and the same further keys, as JSON;
/// - `KEY=VALUE` lines with these keys, or `PGUSER`, `PGPASSWORD`, `PGHOST`, `PGPORT`,
///   `PGDATABASE`, `DATABASE_URL`;
/// - a `postgres://` URL alone.
///
/// Looked at each second, by content. A file that is missing, half written or of no sense changes
/// nothing: the login stays as it is, with one warning, until the file is whole. A start waits for
/// a file that is missing, empty or ends within its JSON, and fails at what is wrong in a whole
/// one. A new login is proven before it is used, so that a folder that is caught between two files
/// does no harm either.
///
/// The lease has no end: when the login changes is the writer's business, who keeps the old one
/// valid for some seconds (a drain's grace, if sessions end with it).
pub struct FileSource {
    path: PathBuf,
    seen: Mutex<Option<Seen>>,
}

struct Seen {
    contents: Contents,
    credential: Option<Credential>,
}

impl FileSource {
    /// The login at `path`, which need not be there yet.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), seen: Mutex::new(None) }
    }

    fn watch(&self) -> FileWatch {
        // The path itself first: it is read where it is a file.
        let keys = KEYS.iter().map(|key| self.path.join(key));
        FileWatch::new(std::iter::once(self.path.clone()).chain(keys))
    }

    async fn read(&self, files: &FileWatch) -> Result<Contents, SourceError> {
        files.read().await.map_err(|e| {
            SourceError::unreachable(format!("{} can't be read: check its rights", self.place()))
                .caused_by(e)
        })
    }

    fn place(&self) -> String {
        self.path.display().to_string()
    }

    fn parse(&self, contents: &Contents) -> Result<Credential, SourceError> {
        let place = self.place();
        let text = |content| {
            std::str::from_utf8(content)
                .map_err(|_| SourceError::malformed(format!("{place} is not UTF-8")))
        };
        if let Some(content) = contents.get(0) {
            return LoginForm::parse(&place, text(content)?)?.into_credential(&place);
        }
        let mut form = LoginForm::default();
        let mut found = false;
        for (key, content) in KEYS.iter().zip(1..).filter_map(|(k, n)| Some((k, contents.get(n)?)))
        {
            found = true;
            // Editors end a file in a newline, which no password of a file means to have.
            form.set(key, text(content)?.trim_end_matches(['\r', '\n']));
        }
        if !found {
            // May come: an agent that has not started, a volume that is not mounted yet.
            let message = format!("{place} is not there, or an empty folder: is it rendered yet?");
            return Err(SourceError::unreachable(message));
        }
        form.into_credential(&place)
    }

    fn note(&self, contents: Contents, credential: Option<Credential>) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        *seen = Some(Seen { contents, credential });
    }

    fn seen(&self) -> Option<(Contents, Option<Credential>)> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.as_ref().map(|seen| (seen.contents.clone(), seen.credential.clone()))
    }
}

impl CredentialSource for FileSource {
    async fn issue(&self) -> Result<Issued, SourceError> {
        let contents = self.read(&self.watch()).await?;
        let credential = self.parse(&contents);
        self.note(contents, credential.as_ref().ok().cloned());
        Ok(Issued::new(credential?, Lease::endless()))
    }

    async fn changed(&self) {
        let Some((mut contents, issued)) = self.seen() else {
            return std::future::pending().await;
        };
        loop {
            contents = self.watch().differs(&contents).await;
            match self.parse(&contents) {
                // Written anew, with the same in it.
                Ok(new) if issued.as_ref().is_some_and(|old| old.is_same(&new)) => {}
                Ok(_) => return,
                Err(error) => warn!(
                    target: "leasehold",
                    "{error}: the login that was read before stays in use"
                ),
            }
        }
    }

    fn describe(&self) -> String {
        self.place()
    }
}

impl fmt::Debug for FileSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("FileSource").field(&self.path).finish()
    }
}
