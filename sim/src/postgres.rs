//! Postgres as pools meet it: who gets in, and whose role is still there. Roles themselves are in
//! the model of Vault, which makes and drops them.

use std::time::Duration;

use leasehold::clock::Time;

use crate::vault::{self, Vault};

/// What Postgres knows a login by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Secret {
    /// A role of its own, made at an instant of the server's clock.
    Role {
        /// Which.
        login: vault::LoginId,
        /// When.
        made: Time,
    },
    /// The static role with one of its passwords.
    Password(u32),
}

/// What comes of a dial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dial {
    /// Logged in.
    In,
    /// 28P01.
    Refused,
    /// 53300.
    Full,
    /// Nobody there.
    Unreachable,
}

/// The servers.
#[derive(Clone, Debug, Default, Hash)]
pub struct Postgres {
    /// Nobody gets in until then.
    pub down_until: Time,
    /// 53300 until then.
    pub full_until: Time,
    /// Pools talk to a replica until then, which lags so far behind.
    pub failover_until: Time,
    /// See `failover_until`.
    pub lag: Duration,
    /// The static role's password as it is now.
    pub password: u32,
}

impl Postgres {
    /// It answers.
    #[must_use]
    pub fn is_up(&self, real: Time) -> bool {
        real >= self.down_until
    }

    /// The role is there, and the password is its own, on the server of a pool that lags by `lag`.
    #[must_use]
    pub fn lets_in(&self, vault: &Vault, secret: Secret, lag: Duration, real: Time) -> bool {
        match secret {
            Secret::Password(version) => version == self.password,
            Secret::Role { login, made } => {
                let lag = if real < self.failover_until { lag.max(self.lag) } else { lag };
                real >= made + lag && vault.login_works(real, login)
            }
        }
    }

    /// Sessions of it can still reach their tables.
    #[must_use]
    pub fn role_is_there(vault: &Vault, secret: Secret) -> bool {
        match secret {
            Secret::Password(_) => true,
            Secret::Role { login, .. } => vault.pg_role(login).is_some(),
        }
    }

    /// Tries to log in.
    #[must_use]
    pub fn dial(&self, vault: &Vault, secret: Secret, lag: Duration, real: Time) -> Dial {
        match () {
            () if !self.is_up(real) => Dial::Unreachable,
            () if !self.lets_in(vault, secret, lag, real) => Dial::Refused,
            () if real < self.full_until => Dial::Full,
            () => Dial::In,
        }
    }
}
