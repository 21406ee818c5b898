//! Where an AppRole's secret_id comes from.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use leasehold::{ErrorKind, SourceError};
use tracing::{error, info, warn};
use zeroize::Zeroizing;

use super::input::{self, SecretFile};
use crate::api::Api;
use crate::classify::{Failure, Op, malformed};
use crate::config::ConfigError;
use crate::endpoints::{Unwrap, UnwrapReply, WrapLookup, WrapLookupReply};
use crate::token::Token;

const LOOKUP: &str = "sys/wrapping/lookup";
const UNWRAP: &str = "sys/wrapping/unwrap";

/// Where an AppRole's secret_id comes from. White space around it is dropped.
///
/// ```
/// use leasehold_vault::{Auth, SecretId};
///
/// let by_file = Auth::approle("role-id", SecretId::file("/run/secrets/secret_id"));
/// let wrapped = Auth::approle("role-id", SecretId::wrapped_file("/run/secrets/wrapped"));
/// ```
pub struct SecretId(Origin);

enum Origin {
    Nothing,
    Value(Zeroizing<String>),
    Variable(String),
    File(SecretFile),
    Wrapped(Wrapped),
}

impl SecretId {
    /// The secret_id itself. A `String` or `&str` is taken for one.
    #[must_use]
    pub fn value(secret_id: impl Into<String>) -> Self {
        Self(Origin::Value(Zeroizing::new(secret_id.into())))
    }

    /// An environment variable, read at each login.
    #[must_use]
    pub fn env(variable: impl Into<String>) -> Self {
        Self(Origin::Variable(variable.into()))
    }

    /// A file, read anew at each login.
    #[must_use]
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self(Origin::File(SecretFile::new("secret_id", path)))
    }

    /// A response-wrapping token that holds the secret_id. It is unwrapped once, at the first
    /// login, after a look at what it was made for; the secret_id is kept in memory for later
    /// logins.
    ///
    /// A wrapping token that proves used, expired or made for something else is an alarm: one
    /// line at ERROR that names the likely causes, and an error of a kind that is not retried.
    #[must_use]
    pub fn wrapped(token: impl Into<String>) -> Self {
        let token = Zeroizing::new(token.into());
        Self(Origin::Wrapped(Wrapped { by: Wrapper::Value(token), state: Mutex::default() }))
    }

    /// The same from a file. It may go away once it has been read. A login looks whether
    /// another wrapping token is in it by then, and unwraps that one if so.
    #[must_use]
    pub fn wrapped_file(path: impl Into<PathBuf>) -> Self {
        let file = SecretFile::new("wrapping token", path);
        Self(Origin::Wrapped(Wrapped { by: Wrapper::File(file), state: Mutex::default() }))
    }

    /// For roles that bind none (`bind_secret_id=false`).
    #[must_use]
    pub fn none() -> Self {
        Self(Origin::Nothing)
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        const FIELD: &str = "auth.secret_id";
        match &self.0 {
            Origin::Nothing => Ok(()),
            Origin::Value(value) => input::filled(FIELD, value),
            Origin::File(file) => file.check(FIELD),
            Origin::Variable(name) => {
                input::filled(FIELD, name)?;
                // These make the standard library panic or find nothing.
                if name.contains(['=', '\0']) {
                    let problem = "names a variable with a `=` or NUL in it, which none can have";
                    return Err(ConfigError::new(FIELD, problem));
                }
                Ok(())
            }
            Origin::Wrapped(Wrapped { by: Wrapper::File(file), .. }) => file.check(FIELD),
            Origin::Wrapped(Wrapped { by: Wrapper::Value(token), .. }) => {
                input::filled(FIELD, token)?;
                if Token::parse(token).is_none() {
                    let problem = "(the wrapping token) holds characters that no token has";
                    return Err(ConfigError::new(FIELD, problem));
                }
                Ok(())
            }
        }
    }

    /// What to log in with on an AppRole mounted at `mount`.
    pub(super) async fn get(
        &self,
        api: &Api,
        mount: &str,
    ) -> Result<Option<Zeroizing<String>>, SourceError> {
        match &self.0 {
            Origin::Nothing => Ok(None),
            Origin::Value(value) => Ok(Some(trimmed(value))),
            Origin::File(file) => file.read().await.map(Some),
            Origin::Wrapped(wrapped) => wrapped.get(api, mount).await.map(Some),
            Origin::Variable(name) => {
                let value = Zeroizing::new(std::env::var(name).unwrap_or_default());
                if value.trim().is_empty() {
                    let message = format!("the secret_id: the variable {name} is not set");
                    return Err(SourceError::new(ErrorKind::Other, message));
                }
                Ok(Some(trimmed(&value)))
            }
        }
    }
}

fn trimmed(text: &str) -> Zeroizing<String> {
    Zeroizing::new(text.trim().to_owned())
}

impl From<String> for SecretId {
    fn from(secret_id: String) -> Self {
        Self::value(secret_id)
    }
}

impl From<&String> for SecretId {
    fn from(secret_id: &String) -> Self {
        Self::value(secret_id)
    }
}

impl From<&str> for SecretId {
    fn from(secret_id: &str) -> Self {
        Self::value(secret_id)
    }
}

impl fmt::Debug for SecretId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Origin::Nothing => f.write_str("SecretId(none)"),
            Origin::Value(_) => f.write_str("SecretId(a value)"),
            Origin::Variable(name) => write!(f, "SecretId(variable {name})"),
            Origin::File(file) => write!(f, "SecretId(in {file})"),
            Origin::Wrapped(Wrapped { by: Wrapper::Value(_), .. }) => {
                f.write_str("SecretId(wrapped)")
            }
            Origin::Wrapped(Wrapped { by: Wrapper::File(file), .. }) => {
                write!(f, "SecretId(wrapped, in {file})")
            }
        }
    }
}

struct Wrapped {
    by: Wrapper,
    state: Mutex<State>,
}

enum Wrapper {
    Value(Zeroizing<String>),
    File(SecretFile),
}

/// Not held across a request: a session makes one login at a time.
#[derive(Default)]
struct State {
    /// The wrapping token that was tried last: it is not tried again once it is known to be bad.
    tried: Option<Token>,
    /// It was sent to be unwrapped, and the answer was lost.
    unanswered: bool,
    bad: Option<SourceError>,
    secret_id: Option<Zeroizing<String>>,
}

impl Wrapped {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn get(&self, api: &Api, mount: &str) -> Result<Zeroizing<String>, SourceError> {
        let kept = self.state().secret_id.clone();
        let wrapper = match (&self.by, &kept) {
            (Wrapper::Value(_), Some(kept)) => return Ok(kept.clone()),
            (Wrapper::Value(token), None) => token.clone(),
            (Wrapper::File(file), kept) => match (file.read().await, kept) {
                (Ok(token), _) => token,
                // Taken away once it was used, as it should be.
                (Err(_), Some(kept)) => return Ok(kept.clone()),
                (Err(e), None) => return Err(e),
            },
        };
        let Some(wrapper) = Token::parse(&wrapper) else {
            let message = "the wrapping token of the secret_id holds characters that no token has";
            return Err(SourceError::new(ErrorKind::Malformed, message));
        };
        let unanswered = {
            let state = self.state();
            let same = state.tried.as_ref() == Some(&wrapper);
            match (&kept, &state.bad) {
                (Some(kept), _) if same => return Ok(kept.clone()),
                (None, Some(e)) if same => return Err(e.clone()),
                _ => same && state.unanswered,
            }
        };
        let result = unwrap(api, mount, &wrapper, unanswered).await;
        let mut state = self.state();
        state.tried = Some(wrapper);
        match result {
            Ok(secret_id) => {
                info!(mount, "secret_id unwrapped");
                state.secret_id = Some(secret_id.clone());
                (state.bad, state.unanswered) = (None, false);
                Ok(secret_id)
            }
            Err(Problem::Alarm(e)) => {
                // Once, and loud: nobody is asked again about this wrapping token.
                error!(mount, error = %e, "the wrapped secret_id is not to be trusted");
                state.bad = Some(e.clone());
                kept.ok_or(e)
            }
            Err(Problem::Failed { error, unanswered }) => {
                state.unanswered = unanswered;
                state.bad = None;
                let Some(kept) = kept else { return Err(error) };
                // Looked at again by the next login.
                state.tried = None;
                warn!(mount, %error, "a new wrapped secret_id could not be unwrapped for now");
                Ok(kept)
            }
        }
    }
}

enum Problem {
    /// Somebody may have had a hand in it.
    Alarm(SourceError),
    Failed {
        error: SourceError,
        /// The wrapping token may have been used up all the same.
        unanswered: bool,
    },
}

async fn unwrap(
    api: &Api,
    mount: &str,
    wrapper: &Token,
    unanswered: bool,
) -> Result<Zeroizing<String>, Problem> {
    // Looking does not use it up, and shows what whoever gave it to us wrapped.
    let request = WrapLookup { token: wrapper.text() };
    let reply = api.json(Op::WrapLookup, LOOKUP, request, None, api.request_timeout).await;
    let WrapLookupReply { data } = reply.map_err(|e| problem(e, mount, unanswered, false))?;
    if !is_secret_id_path(&data.creation_path, mount) {
        let message = format!(
            "the wrapping token for the secret_id was made by {:?} and not by {}: somebody may \
             have put another in its place. It was not unwrapped, and is not tried again. Find \
             out where it came from, then give a fresh one",
            data.creation_path,
            secret_id_path(mount),
        );
        return Err(Problem::Alarm(SourceError::new(ErrorKind::Denied, message)));
    }
    let reply = api.json(Op::Unwrap, UNWRAP, Unwrap {}, Some(wrapper), api.request_timeout).await;
    let UnwrapReply { data } = reply.map_err(|e| problem(e, mount, unanswered, true))?;
    match data.secret_id {
        Some(id) if !id.trim().is_empty() => Ok(trimmed(&id)),
        _ => Err(Problem::Failed {
            error: malformed(Op::Unwrap, UNWRAP, "has no secret_id in it"),
            unanswered: true,
        }),
    }
}

fn problem(failure: Failure, mount: &str, unanswered: bool, unwrapping: bool) -> Problem {
    let error = failure.into_error();
    if error.kind() != ErrorKind::Denied {
        // A fault may be that of a balancer, after the server has answered it.
        let lost = matches!(
            error.kind(),
            ErrorKind::Timeout | ErrorKind::Malformed | ErrorKind::ServerFault
        );
        return Problem::Failed { error, unanswered: unanswered || (unwrapping && lost) };
    }
    let path = secret_id_path(mount);
    let cause = if unanswered {
        "an earlier request of ours to unwrap it got no answer and may have used it up. If not, "
    } else {
        ""
    };
    let message = format!(
        "the wrapping token for the secret_id is used or over: {cause}somebody else may have \
         unwrapped it first, and then holds the secret_id; or its TTL ended before we came; or it \
         is of another server or namespace. The server does not say which. Treat it as \
         intercepted until you know: destroy the secret_id ({path}-accessor/destroy) and find who \
         else could read the wrapping token, then give a fresh one. It is not tried again",
    );
    Problem::Alarm(SourceError::new(ErrorKind::Denied, message).caused_by(error))
}

fn secret_id_path(mount: &str) -> String {
    format!("auth/{mount}/role/ROLE/secret-id")
}

/// `auth/MOUNT/role/ROLE/secret-id`, or the same with an id of one's own.
pub(super) fn is_secret_id_path(path: &str, mount: &str) -> bool {
    let role = path
        .strip_prefix("auth/")
        .and_then(|p| p.strip_prefix(mount))
        .and_then(|p| p.strip_prefix("/role/"))
        .and_then(|p| p.strip_suffix("/secret-id").or_else(|| p.strip_suffix("/custom-secret-id")));
    role.is_some_and(|role| !role.is_empty() && !role.contains('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_secret_id_of_that_mount_may_be_in_the_wrapping() {
        let ours = |path| is_secret_id_path(path, "team/approle");
        assert!(ours("auth/team/approle/role/app/secret-id"));
        assert!(ours("auth/team/approle/role/app/custom-secret-id"));
        for other in [
            "auth/approle/role/app/secret-id",
            "auth/team/approle/role//secret-id",
            "auth/team/approle/role/app/x/secret-id",
            "auth/team/approle/role/app/secret-id/lookup",
            "secret/data/app",
            "sys/wrapping/wrap",
        ] {
            assert!(!ours(other), "{other}");
        }
    }

    #[test]
    fn an_unwrapping_that_may_have_been_carried_out_is_remembered() {
        let after = |kind, unwrapping| {
            let failure = Failure::from(SourceError::new(kind, "a fault"));
            match problem(failure, "approle", false, unwrapping) {
                Problem::Failed { unanswered, .. } => unanswered,
                Problem::Alarm(e) => panic!("{e}"),
            }
        };
        // A balancer's 502 and 504 are of the kind `ServerFault`.
        for kind in [ErrorKind::Timeout, ErrorKind::Malformed, ErrorKind::ServerFault] {
            assert!(after(kind, true), "{kind:?}");
            assert!(!after(kind, false), "{kind:?}: to look does not use it up");
        }
        for kind in [ErrorKind::Unreachable, ErrorKind::Sealed, ErrorKind::Throttled] {
            assert!(!after(kind, true), "{kind:?}");
        }
    }

    #[test]
    fn what_can_not_be_a_secret_id_is_an_error_that_names_the_field() {
        let bad = [
            SecretId::value(" \n"),
            SecretId::env(""),
            SecretId::env("topsecret="),
            SecretId::file(""),
            SecretId::file("/run/a\0b"),
            SecretId::wrapped(""),
            SecretId::wrapped("s.abc def"),
            SecretId::wrapped_file("a\0b"),
        ];
        for secret_id in bad {
            let e = secret_id.check().unwrap_err();
            assert_eq!(e.setting(), "auth.secret_id", "{secret_id:?}: {e}");
            assert!(!e.to_string().contains("topsecret"), "{e}");
        }
        for good in [SecretId::value("x"), SecretId::none(), SecretId::env("X_1")] {
            good.check().unwrap();
        }
    }

    #[test]
    fn i10_debug_of_a_secret_id_shows_where_it_is_from_and_not_what_it_is() {
        for (secret_id, shown) in [
            (SecretId::value("topsecret"), "SecretId(a value)"),
            (SecretId::wrapped("s.topsecret"), "SecretId(wrapped)"),
            (SecretId::file("/run/s"), "SecretId(in \"/run/s\")"),
            (
                SecretId::wrapped_file("s.topsecret"),
                "SecretId(wrapped, in a file whose name is not shown (give the whole path, \
                 from / on))",
            ),
            (SecretId::env("NAME"), "SecretId(variable NAME)"),
        ] {
            assert_eq!(format!("{secret_id:?}"), shown);
        }
    }
}
