//! The login of a static role: one user name, whose password the server changes on a schedule.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use leasehold::clock::Time;
use leasehold::{Credential, CredentialSource, ErrorKind, Issued, Lease, SourceError};
use tracing::{debug, warn};
use zeroize::Zeroizing;

use crate::classify::{Op, malformed};
use crate::endpoints::{StaticCreds, StaticData, StaticReply};
use crate::privileges::{self, Missing, Need, Teller};
use crate::schedule;
use crate::seat::Seat;
use crate::session::Session;

/// Somebody may rotate the role by hand at any time, and from then on nobody can log in until that
/// is seen.
const CHECK_EVERY: Duration = Duration::from_secs(30);

/// Looks after a planned rotation. The server comes to it within 5 s; where it takes longer its
/// database is away, and there is no hurry any more.
const QUICK_LOOKS: u32 = 12;

/// A [`CredentialSource`] on a static role of the database secrets engine: a user of Postgres that
/// was there before, whose password the server changes.
///
/// Made by [`Session::static_role`]. There is no lease: nothing is renewed, and nothing revoked.
/// A change of password ends no session, so the old connections drain gently.
///
/// The old password is refused from the instant of the change. The source therefore reads again
/// when the server says that a rotation is due, then each 0.5 to 1 s until the password is another
/// (usually within 5 s; a server whose database is away is asked each 2.5 to 5 s), and beside that
/// each 30 s, since a role can be rotated by hand at any time. For the second in between,
/// connects fail with 28P01: `leasehold-deadpool` waits them out inside `get()`; with sqlx keep
/// `min_connections` at `max_connections`, so that nobody dials in it, or use
/// `leasehold_sqlx::acquire`.
pub struct StaticRole {
    seat: Seat,
    mount: String,
    role: String,
    path: String,
    check_every: Duration,
    teller: Teller,
    seen: Mutex<Option<Seen>>,
}

/// What the last issue read.
#[derive(Clone)]
struct Seen {
    username: String,
    password: Zeroizing<String>,
    rotated: Option<String>,
    ttl: Duration,
    asked_at: Time,
}

impl Seen {
    /// `None` without a password.
    fn new(asked_at: Time, data: StaticData) -> Option<Self> {
        let StaticData { username, password, last_vault_rotation: rotated, ttl } = data;
        Some(Self { username, password: password?, rotated, ttl, asked_at })
    }

    fn is_same(&self, other: &Self) -> bool {
        (&self.username, &self.password, &self.rotated)
            == (&other.username, &other.password, &other.rotated)
    }
}

impl StaticRole {
    pub(crate) fn new(session: Session, mount: &str, role: &str) -> Self {
        let (mount, role) = (mount.trim_matches('/'), role.trim_matches('/'));
        Self {
            seat: Seat::take(session),
            path: format!("{mount}/static-creds/{role}"),
            mount: mount.to_owned(),
            role: role.to_owned(),
            check_every: CHECK_EVERY,
            teller: Teller::default(),
            seen: Mutex::new(None),
        }
    }

    /// How often to look for a rotation that was not planned. Default: 30 s, and up to a fifth
    /// less by chance, so that replicas do not ask together. No less than a second.
    #[must_use]
    pub fn check_every(mut self, period: Duration) -> Self {
        self.check_every = period.max(Duration::from_secs(1));
        self
    }

    /// The session it works through.
    #[must_use]
    pub fn session(&self) -> &Session {
        self.seat.session()
    }

    /// Which of the rights that are needed the policy does not give now, by one request: to read
    /// `MOUNT/static-creds/ROLE`, and what concerns the session's own token. The same is told in
    /// the log, a line each, when the source is first used.
    ///
    /// # Errors
    /// The question could not be put, or its answer not be understood. Not to be allowed to ask is
    /// no error: the right to ask is then what is missing.
    pub async fn privileges(&self) -> Result<Vec<Missing>, SourceError> {
        privileges::missing(self.session(), self.needs()).await
    }

    fn needs(&self) -> Vec<Need> {
        vec![Need::read(&self.path, "the login can't be read")]
    }

    async fn read(&self) -> Result<Seen, SourceError> {
        if self.mount.is_empty() || self.role.is_empty() {
            let message = "a static role needs a mount and a role, and one of them is empty";
            return Err(SourceError::new(ErrorKind::NotFound, message));
        }
        let session = self.session();
        let (api, asked_at) = (session.api(), session.clock().now());
        let call = async |token| {
            let request = StaticCreds { mount: self.mount.clone(), role: self.role.clone() };
            api.json(Op::Read, &self.path, request, Some(&token), api.request_timeout).await
        };
        let StaticReply { data } = session.manage_with(call).await?;
        Seen::new(asked_at, data).ok_or_else(|| {
            let message = format!(
                "{} issues no password: use a role whose credential_type is \"password\"",
                self.path
            );
            SourceError::malformed(message)
        })
    }

    fn next_look(&self, seen: &Seen, looks: u32) -> Time {
        seen.asked_at + pause(seen.ttl, looks, self.check_every)
    }
}

/// How long after a look the next one comes, when the server says that a rotation is due in `ttl`
/// and said "now" `looks` times already.
fn pause(ttl: Duration, looks: u32, check_every: Duration) -> Duration {
    let jittered = |most: Duration, share: f64| most.mul_f64(1.0 - share * fastrand::f64());
    match ttl {
        Duration::ZERO if looks <= QUICK_LOOKS => jittered(Duration::from_secs(1), 0.5),
        Duration::ZERO => jittered(Duration::from_secs(5), 0.5),
        ttl => ttl.min(jittered(check_every, 0.2)),
    }
}

impl CredentialSource for StaticRole {
    async fn issue(&self) -> Result<Issued, SourceError> {
        self.teller.tell_once(self.session(), &self.path, self.needs());
        let read = self.read().await?;
        debug!(role = %self.path, username = read.username, ttl = ?read.ttl, "static role read");
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(read.clone());
        let credential = Credential::wiping(&read.username, read.password);
        if let Some(fault) = credential.fault() {
            return Err(malformed(Op::Read, &self.path, fault));
        }
        Ok(Issued::new(credential, Lease::endless()))
    }

    async fn changed(&self) {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(issued) = seen else {
            return std::future::pending().await;
        };
        let clock = self.session().clock();
        let (mut looks, mut failures) = (0, 0);
        let mut next = self.next_look(&issued, 0);
        loop {
            clock.sleep_until(next).await;
            next = match self.read().await {
                Ok(read) if !read.is_same(&issued) => return,
                Ok(read) => {
                    failures = 0;
                    looks = if read.ttl.is_zero() { looks + 1 } else { 0 };
                    self.next_look(&read, looks)
                }
                Err(e) => {
                    failures += 1;
                    if failures == 1 {
                        warn!(role = %self.path, error = %e, "can't look for a rotation");
                    }
                    let wait = schedule::backoff(failures + 2, None, e.server_retry_after());
                    clock.now() + wait.max(Duration::from_millis(500))
                }
            };
        }
    }

    async fn close(&self) -> Vec<String> {
        self.seat.close().await
    }

    fn describe(&self) -> String {
        self.path.clone()
    }
}

impl fmt::Debug for StaticRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("StaticRole").field(&self.path).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_comes_when_it_is_due_and_never_in_a_loop() {
        const MS: Duration = Duration::from_millis(1);
        for _ in 0..1000 {
            let due = pause(Duration::ZERO, 1, CHECK_EVERY);
            assert!((500 * MS..=1000 * MS).contains(&due), "{due:?}");
            let late = pause(Duration::ZERO, QUICK_LOOKS + 1, CHECK_EVERY);
            assert!((2500 * MS..=5000 * MS).contains(&late), "{late:?}");
            let far = pause(3600 * 1000 * MS, 0, CHECK_EVERY);
            assert!((24_000 * MS..=30_000 * MS).contains(&far), "{far:?}");
            assert_eq!(pause(3000 * MS, 0, CHECK_EVERY), 3000 * MS);
        }
    }
}
