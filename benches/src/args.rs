//! What the drill is told.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Parser, ValueEnum};

/// Load through rotations of a database login, on real servers.
///
/// Each worker starts one transaction per pace on a fixed schedule: checkout, BEGIN, SELECT, 5 to
/// 20 ms of work, UPDATE, COMMIT. Nothing is retried. Progress goes to stderr; the last line on
/// stdout is one JSON object.
#[derive(Clone, Debug, Parser)]
#[command(name = "cargo drill --")]
pub struct Args {
    /// How long the load runs.
    #[arg(long, default_value_t = 60)]
    pub seconds: u64,
    /// Which pool.
    #[arg(long, value_enum, default_value_t = PoolKind::Sqlx)]
    pub pool: PoolKind,
    /// TTL of the role, in seconds.
    #[arg(long, default_value_t = 6)]
    pub ttl: u64,
    /// Maximum TTL of the role, in seconds [default: twice the TTL].
    #[arg(long)]
    pub max_ttl: Option<u64>,
    /// Tasks that put load on the pool.
    #[arg(long, default_value_t = 8)]
    pub workers: usize,
    /// Maximum size of the pool.
    #[arg(long, default_value_t = 10)]
    pub pool_size: usize,
    /// Milliseconds from one start of a worker to its next; 0: as fast as it can.
    #[arg(long, default_value_t = 50)]
    pub pace_ms: u64,
    /// Seconds from one long transaction to the next; 0: none.
    #[arg(long, default_value_t = 10.0)]
    pub long_every: f64,
    /// Seconds that a long transaction takes.
    #[arg(long, default_value_t = 3.0)]
    pub long_secs: f64,
    /// A fault at a second of the run, for some seconds: `NAME@AT` or `NAME@AT:FOR`. May be given
    /// more than once. Names: vault-pause, vault-stop, vault-seal, lease-revoke, token-revoke, pg-restart.
    #[arg(long)]
    pub fault: Vec<Fault>,
    /// The AppRole's token TTL, in seconds.
    #[arg(long, default_value_t = 3600)]
    pub token_ttl: u64,
    /// The AppRole's token maximum TTL, in seconds.
    #[arg(long, default_value_t = 86400)]
    pub token_max_ttl: u64,
    /// Use VAULT_ADDR, VAULT_TOKEN (or APPROLE_ROLE_ID and APPROLE_SECRET_ID), DB_MOUNT, ROLE,
    /// PG_HOST, PG_PORT, PG_DB and the table `accounts` that is there.
    #[arg(long)]
    pub external: bool,
    /// One tab-separated line per operation: start, duration, short or long, SQLSTATE, checkout
    /// or tx, message.
    #[arg(long)]
    pub events: Option<PathBuf>,
}

impl Args {
    pub(crate) fn max_ttl(&self) -> u64 {
        self.max_ttl.unwrap_or(self.ttl * 2)
    }

    /// Long transactions have to fit into a drain.
    pub(crate) fn grace(&self) -> Duration {
        Duration::from_secs_f64(self.long_secs + 0.5)
    }
}

/// The pool under load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PoolKind {
    /// `sqlx::PgPool`.
    Sqlx,
    /// `deadpool_postgres::Pool`.
    Deadpool,
}

impl PoolKind {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Sqlx => "sqlx",
            Self::Deadpool => "deadpool",
        }
    }
}

/// What can be broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// Vault accepts connections and answers nothing.
    VaultPause,
    /// Vault is stopped and started.
    VaultStop,
    /// Vault is sealed and unsealed.
    VaultSeal,
    /// An admin revokes every lease.
    LeaseRevoke,
    /// An admin revokes the token.
    TokenRevoke,
    /// Postgres is restarted.
    PgRestart,
}

impl FaultKind {
    /// Goes on until it is mended.
    pub(crate) fn lasts(self) -> bool {
        matches!(self, Self::VaultPause | Self::VaultStop | Self::VaultSeal)
    }
}

/// One accident.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fault {
    /// What.
    pub kind: FaultKind,
    /// When, counted from the start of the load.
    pub at: Duration,
    /// For how long, where that is its own to say.
    pub lasts: Duration,
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, when) = text
            .split_once('@')
            .ok_or("say NAME@AT or NAME@AT:FOR, in seconds, as in vault-pause@20:20")?;
        let kind = match name {
            "vault-pause" => FaultKind::VaultPause,
            "vault-stop" => FaultKind::VaultStop,
            "vault-seal" => FaultKind::VaultSeal,
            "lease-revoke" => FaultKind::LeaseRevoke,
            "token-revoke" => FaultKind::TokenRevoke,
            "pg-restart" => FaultKind::PgRestart,
            other => return Err(format!("no fault is called {other:?}; see --help")),
        };
        let seconds = |s: &str| {
            let n: f64 = s.parse().map_err(|_| format!("{s:?} is not a number of seconds"))?;
            Duration::try_from_secs_f64(n).map_err(|e| format!("{s:?}: {e}"))
        };
        let (at, lasts) = match when.split_once(':') {
            Some((at, lasts)) => (seconds(at)?, seconds(lasts)?),
            None => (seconds(when)?, Duration::ZERO),
        };
        if kind.lasts() && lasts.is_zero() {
            return Err(format!("{name} needs to know for how long: {name}@{when}:SECONDS"));
        }
        Ok(Self { kind, at, lasts })
    }
}
