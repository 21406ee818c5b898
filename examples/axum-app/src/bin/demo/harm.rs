//! What the page's buttons do, in the demo only: harm to its own servers, and its mending.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use leasehold::CredentialProvider;
use leasehold_testkit::{PostgresShutdown, Stack, TestDb};

/// What a button may wait for: a Vault that was paused answers nothing.
const WITHIN: Duration = Duration::from_secs(15);
/// Failures this long after a harm, or after the mending of one that lasts, are put down to it.
/// As long as a login lives: by then there is another one.
const REACH: Duration = Duration::from_secs(15);

/// One button.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deed {
    RevokeLease,
    KillToken,
    SealVault,
    PauseVault,
    RestartPostgres,
    DropRole,
    Mend,
}

impl Deed {
    pub(crate) const ALL: [Self; 7] = [
        Self::RevokeLease,
        Self::KillToken,
        Self::DropRole,
        Self::RestartPostgres,
        Self::SealVault,
        Self::PauseVault,
        Self::Mend,
    ];

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|deed| deed.name() == name)
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::RevokeLease => "revoke-lease",
            Self::KillToken => "kill-token",
            Self::SealVault => "seal-vault",
            Self::PauseVault => "pause-vault",
            Self::RestartPostgres => "restart-postgres",
            Self::DropRole => "drop-role",
            Self::Mend => "mend",
        }
    }

    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::RevokeLease => "Revoke the lease",
            Self::KillToken => "Kill the token",
            Self::SealVault => "Seal Vault",
            Self::PauseVault => "Pause Vault",
            Self::RestartPostgres => "Restart Postgres",
            Self::DropRole => "Drop the role",
            Self::Mend => "Mend all",
        }
    }

    /// What will happen.
    pub(crate) const fn before(self) -> &'static str {
        match self {
            Self::RevokeLease => "Vault takes the login in use away. The service is not told.",
            Self::KillToken => "Vault takes our pass away, and every login made with it.",
            Self::DropRole => "The login's user goes from Postgres, behind Vault's back.",
            Self::RestartPostgres => "Every connection is cut. What is in flight fails.",
            Self::SealVault => "Vault is locked. Nothing fails until the login's time is up.",
            Self::PauseVault => "Vault takes questions and answers none: harder to tell.",
            Self::Mend => "Vault goes on and is unsealed; Postgres runs.",
        }
    }

    /// What is seen then.
    pub(crate) const fn after(self) -> &'static str {
        match self {
            Self::RevokeLease | Self::DropRole => {
                "What was in flight on it may fail. Watch the lanes: a check on a connection finds \
                 its user gone, and nothing can be asked until a new login takes over, usually \
                 within a second."
            }
            Self::KillToken => {
                "What was in flight may fail. Watch the log: the service gets another pass, and a \
                 new login with it."
            }
            Self::SealVault | Self::PauseVault => {
                "Watch the lease run down: queries go on until it ends, and no new connection can \
                 be opened after that. Then mend."
            }
            Self::RestartPostgres => {
                "Watch the connections: they come back by themselves, on the same login."
            }
            Self::Mend => "Watch the state go back to well, with a new login if one was due.",
        }
    }

    /// As the past of a log line.
    const fn done(self) -> &'static str {
        match self {
            Self::RevokeLease => "you revoked the lease from outside",
            Self::KillToken => "you killed the token",
            Self::SealVault => "you sealed Vault",
            Self::PauseVault => "you paused Vault",
            Self::RestartPostgres => "you restarted Postgres",
            Self::DropRole => "you dropped the role",
            Self::Mend => "you mended all",
        }
    }

    /// Goes on until it is mended.
    const fn lasts(self) -> bool {
        matches!(self, Self::SealVault | Self::PauseVault)
    }
}

/// What was done, and what failed from it. Shared with the load.
#[derive(Clone, Debug, Default)]
pub(crate) struct Record(Arc<Mutex<Vec<Done>>>);

#[derive(Debug)]
struct Done {
    deed: Deed,
    /// When its reach ends; `None`: it lasts.
    until: Option<Instant>,
    failures: u64,
}

impl Done {
    fn reaches(&self, request_begun: Instant) -> bool {
        self.deed != Deed::Mend && self.until.is_none_or(|until| request_begun <= until)
    }
}

impl Record {
    /// Noted before it is done: failures may be quicker than the answer.
    fn begin(&self, deed: Deed) {
        let until = (!deed.lasts()).then(|| Instant::now() + WITHIN + REACH);
        self.done().push(Done { deed, until, failures: 0 });
    }

    /// What was done at once has been done now; a mending ends what lasts; what was refused does
    /// not last.
    fn ended(&self, deed: Deed, refused: bool) {
        let until = Some(Instant::now() + REACH);
        let mut record = self.done();
        if deed == Deed::Mend {
            let lasting = record.iter_mut().filter(|d| d.deed.lasts() && d.until.is_none());
            lasting.for_each(|done| done.until = until);
        } else if (refused || !deed.lasts())
            && let Some(latest) = record.iter_mut().rev().find(|done| done.deed == deed)
        {
            latest.until = until;
        }
    }

    /// Puts a failure down to the latest harm that reaches it. False: to none.
    pub(crate) fn explains(&self, request_begun: Instant) -> bool {
        let mut record = self.done();
        let harm = record.iter_mut().rev().find(|done| done.reaches(request_begun));
        harm.is_some_and(|harm| {
            harm.failures += 1;
            true
        })
    }

    /// Whether a failure would be put down to a harm.
    pub(crate) fn reaches(&self, request_begun: Instant) -> bool {
        self.done().iter().any(|done| done.reaches(request_begun))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.done().is_empty()
    }

    /// `after you revoked the lease from outside: 3 queries failed`, a line each.
    pub(crate) fn lines(&self) -> Vec<String> {
        let record = self.done();
        let harms = record.iter().filter(|done| done.deed != Deed::Mend);
        let queries = |n| if n == 1 { "1 query".to_owned() } else { format!("{n} queries") };
        harms.map(|d| format!("after {}: {} failed", d.deed.done(), queries(d.failures))).collect()
    }

    fn done(&self) -> MutexGuard<'_, Vec<Done>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Does the deeds, one at a time.
#[derive(Clone)]
pub(crate) struct Harm(Arc<Inner>);

struct Inner {
    stack: Stack,
    db: TestDb,
    /// Tokens that are none of the service's.
    tokens: Vec<String>,
    provider: CredentialProvider,
    record: Record,
    one: tokio::sync::Mutex<()>,
}

impl Harm {
    pub(crate) fn new(
        stack: Stack,
        db: TestDb,
        tokens: Vec<String>,
        provider: CredentialProvider,
        record: Record,
    ) -> Self {
        let one = tokio::sync::Mutex::default();
        Self(Arc::new(Inner { stack, db, tokens, provider, record, one }))
    }

    /// Does it to its end, also if whoever asked has gone.
    ///
    /// # Errors
    /// A server does not answer, or there is nothing to do it to.
    pub(crate) async fn do_it(&self, deed: Deed) -> Result<String, String> {
        let harm = self.clone();
        let task = tokio::spawn(async move {
            let _one = harm.0.one.lock().await;
            harm.0.record.begin(deed);
            let outcome = tokio::time::timeout(WITHIN, harm.0.harm(deed)).await;
            // Without an answer it may have been done.
            let refused = matches!(outcome, Ok(Err(_)));
            let outcome = match outcome {
                Ok(Ok(())) => Ok(sentence(deed)),
                Ok(Err(error)) => Err(error),
                Err(_) => Err(format!("no answer within {WITHIN:?}; press \"Mend all\" first")),
            };
            harm.0.record.ended(deed, refused);
            outcome
        });
        task.await.unwrap_or_else(|e| Err(e.to_string()))
    }

    /// Mends what lasts, if anything may: the end can't be judged on servers that are away.
    pub(crate) async fn mend_at_the_end(&self) {
        if !self.0.record.is_empty() {
            // What is away still shows as left behind.
            let _ = self.do_it(Deed::Mend).await;
        }
    }
}

impl Inner {
    async fn harm(&self, deed: Deed) -> Result<(), String> {
        let text = |e: leasehold_testkit::Error| e.to_string();
        match deed {
            Deed::RevokeLease => {
                let lease = self.provider.current().lease().id.clone();
                let lease = lease.ok_or("the login in use has no lease")?;
                self.stack.revoke_lease(&lease).await.map_err(text)
            }
            Deed::KillToken => {
                for accessor in self.stack.token_accessors().await.map_err(text)? {
                    if !self.tokens.contains(&accessor) {
                        self.stack.revoke_accessor(&accessor).await.map_err(text)?;
                    }
                }
                Ok(())
            }
            Deed::SealVault => self.stack.seal_vault().await.map_err(text),
            Deed::PauseVault => self.stack.pause_vault().await.map_err(text),
            Deed::RestartPostgres => {
                self.stack.restart_postgres(PostgresShutdown::Fast).await.map_err(text)
            }
            Deed::DropRole => {
                let username = self.provider.current().credential().username().to_owned();
                self.db.drop_login(&username).await.map_err(text)
            }
            Deed::Mend => {
                self.stack.resume_vault().await.map_err(text)?;
                self.stack.unseal_vault().await.map_err(text)?;
                self.stack.start_postgres().await.map_err(text)
            }
        }
    }
}

/// `You sealed Vault.`
fn sentence(deed: Deed) -> String {
    let done = deed.done();
    format!("{}{}.", done[..1].to_uppercase(), &done[1..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_before_any_harm_is_nobodys_but_ours() {
        let record = Record::default();
        assert!(!record.explains(Instant::now()));
        record.begin(Deed::Mend);
        assert!(!record.explains(Instant::now()), "a mending harms nothing");
    }

    #[test]
    fn a_failure_is_put_down_to_the_latest_harm_that_reaches_it() {
        let record = Record::default();
        record.begin(Deed::RevokeLease);
        record.ended(Deed::RevokeLease, false);
        assert!(record.reaches(Instant::now()));
        assert!(record.explains(Instant::now()));
        assert!(!record.explains(Instant::now() + REACH + Duration::from_secs(1)));
        record.begin(Deed::SealVault);
        record.ended(Deed::SealVault, false);
        let far = Instant::now() + Duration::from_secs(3600);
        assert!(record.explains(far), "it lasts until it is mended");
        record.begin(Deed::Mend);
        record.ended(Deed::Mend, false);
        assert!(!record.explains(far));
        assert!(record.explains(Instant::now()));
        assert_eq!(
            record.lines(),
            [
                "after you revoked the lease from outside: 1 query failed",
                "after you sealed Vault: 2 queries failed"
            ]
        );
    }

    #[test]
    fn a_harm_that_was_refused_does_not_last() {
        let record = Record::default();
        record.begin(Deed::SealVault);
        record.ended(Deed::SealVault, true);
        assert!(record.reaches(Instant::now()));
        assert!(!record.reaches(Instant::now() + REACH + Duration::from_secs(1)));
    }

    #[test]
    fn every_button_is_found_by_its_name() {
        for deed in Deed::ALL {
            assert_eq!(Deed::named(deed.name()), Some(deed));
            assert!(sentence(deed).starts_with("You "), "{deed:?}");
        }
        assert_eq!(Deed::named("format-disk"), None);
    }
}
