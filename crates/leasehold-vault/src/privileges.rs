//! Which rights the policy does not give, and what will then not work: told at the start, before
//! it is missed.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use leasehold::{ErrorKind, SourceError};
use tracing::{Instrument, debug, warn};

use crate::classify::{Op, malformed};
use crate::endpoints::{CapabilitiesReply, CapabilitiesSelf};
use crate::epoch::Epoch;
use crate::session::Session;

const PATH: &str = "sys/capabilities-self";
const LEASE_RENEW: &str = "sys/leases/renew";
const LEASE_REVOKE: &str = "sys/leases/revoke";
const TOKEN_RENEW: &str = "auth/token/renew-self";
const TOKEN_LOOKUP: &str = "auth/token/lookup-self";
const TOKEN_REVOKE: &str = "auth/token/revoke-self";

/// A right that the policy does not give, and what comes of that. `Display` is one line.
///
/// From a source's `privileges`, such as [`DynamicRole::privileges`](crate::DynamicRole::privileges).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Missing {
    /// The path, without the namespace.
    pub path: String,
    /// The capability that a policy would have to give on it.
    pub capability: &'static str,
    /// What will not work, and what happens instead.
    pub consequence: &'static str,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, capability, consequence } = self;
        write!(f, "the policy does not give `{capability}` on {path}: {consequence}")
    }
}

/// A right that a source makes use of.
pub(crate) struct Need {
    path: String,
    capability: &'static str,
    without: &'static str,
}

impl Need {
    /// To read what credentials come from.
    pub(crate) fn read(path: &str, without: &'static str) -> Self {
        Self { path: path.to_owned(), capability: "read", without }
    }

    fn update(path: &str, without: &'static str) -> Self {
        Self { path: path.to_owned(), capability: "update", without }
    }

    /// To renew leases and to revoke them.
    pub(crate) fn leases() -> [Self; 2] {
        [
            Self::update(
                LEASE_RENEW,
                "logins are not renewed, and each is rotated before its TTL ends",
            ),
            Self::update(
                LEASE_REVOKE,
                "a drained lease is ended by a renewal for one second instead of being revoked",
            ),
        ]
    }

    /// What concerns the session's own token, whatever it is used for.
    fn token(epoch: &Epoch, repeatable: bool) -> Vec<Self> {
        let mut needs = Vec::new();
        if epoch.rights.renew {
            let without = if repeatable {
                "the token is not renewed, and before each of its ends the session logs in anew \
                 and rotates"
            } else {
                "the token that was given is not renewed, and all its logins end with it"
            };
            needs.push(Self::update(TOKEN_RENEW, without));
        }
        if epoch.rights.look {
            needs.push(Self::read(
                TOKEN_LOOKUP,
                "it is not seen when the token in the file is renewed, and the next one is not \
                 taken",
            ));
        }
        if epoch.rights.revoke {
            needs.push(Self::update(
                TOKEN_REVOKE,
                "tokens are not given back, neither at a shutdown nor after a new login: each \
                 ends by its TTL",
            ));
        }
        needs
    }
}

/// Asks for everything at once.
pub(crate) async fn missing(
    session: &Session,
    needs: Vec<Need>,
) -> Result<Vec<Missing>, SourceError> {
    let api = session.api();
    let own = [TOKEN_RENEW, TOKEN_LOOKUP, TOKEN_REVOKE].map(str::to_owned);
    let paths: Vec<String> = needs.iter().map(|need| need.path.clone()).chain(own).collect();
    let call = async |token| {
        let request = CapabilitiesSelf { paths: paths.clone() };
        api.json(Op::Privileges, PATH, request, Some(&token), api.request_timeout).await
    };
    let (reply, hold): (CapabilitiesReply, _) = match session.issue_with(None, call).await {
        Ok(answered) => answered,
        // Not to be allowed to ask is an answer too.
        Err(e) if e.kind() == ErrorKind::Denied => {
            return Ok(vec![Missing {
                path: PATH.to_owned(),
                capability: "update",
                consequence: "what else is missing shows only when it is missed",
            }]);
        }
        Err(e) => return Err(e),
    };
    let token = Need::token(hold.epoch(), session.can_log_in_anew());
    judge(needs.into_iter().chain(token).collect(), &reply.data)
}

fn judge(
    needs: Vec<Need>,
    granted: &HashMap<String, Vec<String>>,
) -> Result<Vec<Missing>, SourceError> {
    let mut missing = Vec::new();
    for need in needs {
        let Some(has) = granted.get(&need.path) else {
            return Err(malformed(Op::Privileges, PATH, "leaves out a path that was asked for"));
        };
        if !has.iter().any(|right| right == need.capability || right == "root") {
            let Need { path, capability, without } = need;
            missing.push(Missing { path, capability, consequence: without });
        }
    }
    let lacks = |path| missing.iter().any(|m: &Missing| m.path == path);
    if lacks(LEASE_RENEW) && lacks(LEASE_REVOKE) {
        for m in missing.iter_mut().filter(|m| m.path == LEASE_REVOKE) {
            m.consequence = "a drained lease can't be ended early at all, and is left to its TTL";
        }
    }
    Ok(missing)
}

/// What of the rights to leases an answer leaves out.
#[cfg(feature = "fuzzing")]
pub(crate) fn judge_leases(
    granted: &HashMap<String, Vec<String>>,
) -> Result<Vec<Missing>, SourceError> {
    judge(Need::leases().into(), granted)
}

/// Tells a source's missing rights in the log, once.
#[derive(Default)]
pub(crate) struct Teller {
    told: Arc<AtomicBool>,
}

impl Teller {
    /// To be called when the source is about to be used. Waits for nothing: the question is asked
    /// in a task of its own, and a failure of it hinders nobody. Asked once; only where there was
    /// no answer is it asked again at the next call.
    pub(crate) fn tell_once(&self, session: &Session, source: &str, needs: Vec<Need>) {
        if self.told.swap(true, Ordering::AcqRel) {
            return;
        }
        let (told, session, source) = (self.told.clone(), session.clone(), source.to_owned());
        let ask = async move {
            match missing(&session, needs).await {
                Ok(missing) => {
                    for missing in missing {
                        warn!(source, "{missing}");
                    }
                }
                Err(e) => {
                    debug!(source, error = %e, "could not ask what the policy gives");
                    told.store(!e.is_transient(), Ordering::Release);
                }
            }
        };
        tokio::spawn(ask.in_current_span());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_leaves_out_a_path_is_no_clean_bill() {
        let e = judge(Need::leases().into(), &HashMap::new()).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Malformed);
    }

    #[test]
    fn one_line_names_the_right_and_what_comes_of_its_lack() {
        let granted = [(LEASE_RENEW, vec!["deny"]), (LEASE_REVOKE, vec!["read", "update"])];
        let granted = granted.map(|(path, rights)| {
            (path.to_owned(), rights.into_iter().map(str::to_owned).collect())
        });
        let missing = judge(Need::leases().into(), &HashMap::from(granted)).unwrap();
        let [missing] = &missing[..] else { panic!("{missing:?}") };
        let line = missing.to_string();
        assert!(line.contains("`update` on sys/leases/renew"), "{line}");
        assert!(line.contains("rotated") && !line.contains('\n'), "{line}");
    }
}
