//! A token in a file that somebody else keeps fresh: an agent's sink.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use leasehold::{ErrorKind, SourceError};
use zeroize::Zeroizing;

use super::input::SecretFile;
use super::token::look_up;
use super::{AuthMethod, BoxFuture};
use crate::api::Api;
use crate::config::ConfigError;
use crate::token::{Token, TokenGrant};

/// How often the file is looked at. By reading it: it is a hundred bytes, works on every mount
/// where notifications do not, and misses nothing that a time stamp's grain would hide.
const LOOK_EVERY: Duration = Duration::from_secs(1);

pub(super) struct TokenFile {
    file: SecretFile,
    /// What was in it when it was read last, whoever read it.
    seen: Mutex<Zeroizing<String>>,
}

impl TokenFile {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { file: SecretFile::new("token", path), seen: Mutex::default() }
    }

    fn seen(&self) -> MutexGuard<'_, Zeroizing<String>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn log_in(&self, api: &Api) -> Result<TokenGrant, SourceError> {
        let text = self.file.read().await?;
        self.seen().clone_from(&text);
        let file = &self.file;
        let Some(token) = Token::parse(&text) else {
            let message = format!("the token in {file} is none: check what writes the file");
            return Err(SourceError::new(ErrorKind::Malformed, message));
        };
        let grant = look_up(api, token, &format!("the token in {file}")).await?;
        // Whoever writes the file renews it.
        Ok(TokenGrant { renewable: false, watched: true, ..grant })
    }

    /// Resolves once for each content that no login has seen.
    async fn changed(&self) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            // Not there, or half written: the next look, or the next login, says more.
            let Ok(text) = self.file.read().await else { continue };
            let mut seen = self.seen();
            if *seen != text {
                *seen = text;
                return;
            }
        }
    }
}

impl AuthMethod for TokenFile {
    fn check(&self) -> Result<(), ConfigError> {
        self.file.check("auth.path")
    }

    fn login<'a>(&'a self, api: &'a Api) -> BoxFuture<'a, Result<TokenGrant, SourceError>> {
        Box::pin(self.log_in(api))
    }

    fn changed(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.changed())
    }

    fn describe(&self) -> String {
        format!("the token in {}", self.file)
    }
}
