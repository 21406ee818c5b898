//! Where the demo runs: on servers of its own, or on others'.

use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;

use axum_app::Config;
use leasehold::CredentialProvider;
use leasehold_testkit::{DatabaseSpec, RoleSpec, Stack, TestDb};
use leasehold_vault::{Auth, VaultConfig};
use tokio::time::Instant;

use crate::console::{Console, Tint};
use crate::harm::{Harm, Record};
use crate::load::Results;
use crate::tally::Tally;

const ROLE: &str = "demo";
/// Postgres takes a moment to end the process of a connection that was closed.
const SETTLE: Duration = Duration::from_secs(5);
const SCHEMA: &str = include_str!("../../../schema.sql");

/// The servers.
pub(crate) enum Place {
    /// Of our own, where the administrator's eyes can look for leftovers.
    Embedded(Box<Embedded>),
    /// Others'.
    External,
}

pub(crate) struct Embedded {
    stack: Stack,
    db: TestDb,
    /// The longest life of a login.
    lives: Duration,
    /// Tokens that are none of the service's.
    tokens: Vec<String>,
}

/// What was found after the end.
pub(crate) struct Leftovers {
    /// A line on what was looked at.
    pub(crate) looked_at: String,
    /// What should not be there.
    pub(crate) found: Vec<String>,
}

impl Place {
    pub(crate) async fn embedded(
        console: &Console,
        lives: Duration,
    ) -> Result<Self, Box<dyn Error>> {
        console.line(
            Tint::Plain,
            "starting OpenBao and Postgres (where they are not installed, the first run fetches \
             them: about 90 MB)",
        );
        let stack = Stack::start().await?;
        let role = RoleSpec::new(ROLE).default_ttl(lives / 2).max_ttl(lives);
        let db = stack.database(DatabaseSpec::new("demo").role(role).schema(SCHEMA)).await?;
        console.line(
            Tint::Plain,
            format!(
                "OpenBao on {}, Postgres on {}:{}; logins live {:?}, with renewals {lives:?}",
                stack.vault_addr(),
                stack.pg_host(),
                stack.pg_port(),
                lives / 2,
            ),
        );
        let tokens = stack.token_accessors().await?;
        Ok(Self::Embedded(Box::new(Embedded { stack, db, lives, tokens })))
    }

    /// The service's settings.
    pub(crate) async fn config(&self, listen: SocketAddr) -> Result<Config, Box<dyn Error>> {
        let Self::Embedded(own) = self else {
            return Ok(Config { listen, ..Config::from_env()? });
        };
        let db = &own.db;
        Ok(Config {
            vault: VaultConfig::new(db.vault_addr()),
            auth: Auth::approle(db.role_id(), db.secret_id().await?),
            mount: db.mount().to_owned(),
            role: ROLE.to_owned(),
            pg_host: db.pg_host().to_owned(),
            pg_port: db.pg_port(),
            pg_db: db.name().to_owned(),
            listen,
            pool_size: 8,
        })
    }

    /// What may be done to it by the page's buttons: servers of others are not ours to harm.
    pub(crate) fn harm(&self, provider: CredentialProvider, record: Record) -> Option<Harm> {
        let Self::Embedded(own) = self else { return None };
        let (stack, db, tokens) = (own.stack.clone(), own.db.clone(), own.tokens.clone());
        Some(Harm::new(stack, db, tokens, provider, record))
    }

    /// A run of this length has seen a rotation. Others' TTLs are not known.
    pub(crate) fn rotates_within(&self) -> Option<Duration> {
        match self {
            Self::Embedded(own) => Some(own.lives),
            Self::External => None,
        }
    }

    /// Looks for what should be gone. What was `harmed` may be gone only with its lease: the answer
    /// to a mint that was lost leaves a login that nobody knows.
    pub(crate) async fn leftovers(
        &self,
        tally: &Tally,
        harmed: bool,
    ) -> Result<Leftovers, Box<dyn Error>> {
        match self {
            Self::Embedded(own) => {
                Ok(own.leftovers(if harmed { own.lives + SETTLE } else { SETTLE }).await)
            }
            Self::External => Ok(Leftovers {
                looked_at: format!(
                    "each of {} logins was revoked or outlived its lease; a list of leases, roles \
                     and sessions is for an administrator to see",
                    tally.issued()
                ),
                found: tally.unconfirmed().into_iter().map(|n| format!("login {n}")).collect(),
            }),
        }
    }

    /// Confirmed deposits are in the table, once each. Only where no request failed: of a failed
    /// one it is not known whether it was done.
    pub(crate) async fn wrong_sum(
        &self,
        results: &Results,
    ) -> Result<Option<String>, Box<dyn Error>> {
        let Self::Embedded(own) = self else { return Ok(None) };
        if results.failures() + results.harmed() > 0 {
            return Ok(None);
        }
        let row = own.db.admin().await?.query_one("SELECT sum(v)::int8 FROM accounts", &[]).await?;
        let (there, confirmed) = (row.get::<_, i64>(0), results.deposited());
        let wrong = there != confirmed;
        Ok(wrong.then(|| format!("deposits of {confirmed} were confirmed, the table has {there}")))
    }

    /// Ends servers of our own.
    pub(crate) async fn end(self) -> Result<(), Box<dyn Error>> {
        if let Self::Embedded(own) = self {
            own.stack.shutdown().await?;
        }
        Ok(())
    }
}

impl Embedded {
    async fn leftovers(&self, within: Duration) -> Leftovers {
        let deadline = Instant::now() + within;
        loop {
            // Servers that are still away after all are something to report, not the end of it.
            let found =
                self.look().await.unwrap_or_else(|e| vec![format!("what can't be seen ({e})")]);
            if found.is_empty() || Instant::now() >= deadline {
                let looked_at = "0 leases, 0 Postgres roles, 0 sessions, 0 tokens".to_owned();
                return Leftovers { looked_at, found };
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn look(&self) -> Result<Vec<String>, Box<dyn Error>> {
        let leases = self.db.leases().await?.into_iter().map(|l| format!("lease {l}"));
        let roles = self.db.logins().await?.into_iter().map(|r| format!("Postgres role {r}"));
        let sessions = self.db.sessions().await?.into_iter().map(|s| {
            format!("session {} of {}", s.pid, s.user.as_deref().unwrap_or("a role that is gone"))
        });
        let tokens = self.stack.token_accessors().await?.into_iter();
        let tokens = tokens.filter(|t| !self.tokens.contains(t)).map(|t| format!("token {t}"));
        Ok(leases.chain(roles).chain(sessions).chain(tokens).collect())
    }
}
