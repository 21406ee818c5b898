//! The cells as data: what breaks, in which phase, under which pool, and what may come of it.

use std::fmt;
use std::time::Duration;

use crate::args::{FaultKind, PoolKind};

/// What breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// On the way from the service to Vault.
    Vault(Net),
    /// On the way to Postgres, that of the pools and that of Vault.
    Postgres(Net),
    /// As an administrator does it.
    Admin(Admin),
    /// Two at a time.
    Pair(Pair),
}

/// What a network does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Net {
    Latency,
    Bandwidth,
    Reset,
    HalfReply,
    BlackHole,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Admin {
    Pause,
    Restart,
    Seal,
    Throttle,
    LeasesRevoked,
    TokenRevoked,
    PostgresRestart,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Pair {
    /// Vault is sealed when the session is to log in anew, until the token has ended.
    SealedWhileTheTokenEnds,
    /// Vault can't be reached when Postgres restarts under the proof.
    PostgresRestartsAndVaultIsAway,
    /// The policy loses renewing and revoking, until the superseded lease has ended.
    PolicyTakenWhileTheLeaseEnds,
    /// Postgres refuses to drop the role, until the superseded lease has ended.
    RevocationFailsWhileTheLeaseEnds,
}

/// When it strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Issue,
    Prove,
    Swap,
    Drain,
    Confirm,
    Revoke,
    Renew,
    TokenRenew,
    Relogin,
    Start,
    Shutdown,
}

impl Phase {
    pub(crate) const ALL: [Self; 11] = [
        Self::Issue,
        Self::Prove,
        Self::Swap,
        Self::Drain,
        Self::Confirm,
        Self::Revoke,
        Self::Renew,
        Self::TokenRenew,
        Self::Relogin,
        Self::Start,
        Self::Shutdown,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Issue => "issue",
            Self::Prove => "prove",
            Self::Swap => "swap",
            Self::Drain => "drain",
            Self::Confirm => "confirm",
            Self::Revoke => "revoke",
            Self::Renew => "renew",
            Self::TokenRenew => "token renew",
            Self::Relogin => "re-login",
            Self::Start => "start",
            Self::Shutdown => "shutdown",
        }
    }

    /// Part of a rotation, which is asked for then.
    pub(crate) fn of_rotation(self) -> bool {
        self <= Self::Revoke
    }
}

impl Net {
    pub(crate) const ALL: [Self; 5] =
        [Self::Latency, Self::Bandwidth, Self::Reset, Self::HalfReply, Self::BlackHole];

    fn name(self) -> &'static str {
        match self {
            Self::Latency => "latency",
            Self::Bandwidth => "bandwidth",
            Self::Reset => "reset",
            Self::HalfReply => "half reply",
            Self::BlackHole => "black hole",
        }
    }
}

impl Admin {
    const ALL: [Self; 7] = [
        Self::Pause,
        Self::Restart,
        Self::Seal,
        Self::Throttle,
        Self::LeasesRevoked,
        Self::TokenRevoked,
        Self::PostgresRestart,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Pause => "Vault paused",
            Self::Restart => "Vault restarted",
            Self::Seal => "Vault sealed",
            Self::Throttle => "Vault throttled",
            Self::LeasesRevoked => "all leases revoked",
            Self::TokenRevoked => "token revoked",
            Self::PostgresRestart => "Postgres restarted",
        }
    }
}

impl Pair {
    const ALL: [Self; 4] = [
        Self::SealedWhileTheTokenEnds,
        Self::PostgresRestartsAndVaultIsAway,
        Self::PolicyTakenWhileTheLeaseEnds,
        Self::RevocationFailsWhileTheLeaseEnds,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::SealedWhileTheTokenEnds => "sealed while the token ends",
            Self::PostgresRestartsAndVaultIsAway => "Postgres restarted, Vault in a black hole",
            Self::PolicyTakenWhileTheLeaseEnds => "policy taken away while the lease ends",
            Self::RevocationFailsWhileTheLeaseEnds => "DROP ROLE fails while the lease ends",
        }
    }

    fn phase(self) -> Phase {
        match self {
            Self::SealedWhileTheTokenEnds => Phase::Relogin,
            Self::PostgresRestartsAndVaultIsAway => Phase::Prove,
            Self::PolicyTakenWhileTheLeaseEnds | Self::RevocationFailsWhileTheLeaseEnds => {
                Phase::Revoke
            }
        }
    }
}

impl Fault {
    /// Rows of the table, in its order.
    pub(crate) fn singles() -> impl Iterator<Item = Self> {
        let vault = Net::ALL.into_iter().map(Self::Vault);
        let postgres = Net::ALL.into_iter().map(Self::Postgres);
        vault.chain(postgres).chain(Admin::ALL.into_iter().map(Self::Admin))
    }

    pub(crate) fn name(self) -> String {
        match self {
            Self::Vault(net) => format!("Vault: {}", net.name()),
            Self::Postgres(net) => format!("Postgres: {}", net.name()),
            Self::Admin(admin) => admin.name().to_owned(),
            Self::Pair(pair) => pair.name().to_owned(),
        }
    }

    /// Others on the same servers would feel it.
    pub(crate) fn is_everybodys(self) -> bool {
        match self {
            Self::Vault(_) | Self::Postgres(_) => false,
            Self::Admin(admin) => !matches!(admin, Admin::LeasesRevoked | Admin::TokenRevoked),
            Self::Pair(pair) => {
                matches!(pair, Pair::SealedWhileTheTokenEnds | Pair::PostgresRestartsAndVaultIsAway)
            }
        }
    }

    /// What the drill can do as well.
    pub(crate) fn kind(self) -> Option<FaultKind> {
        match self {
            Self::Admin(Admin::Pause) => Some(FaultKind::VaultPause),
            Self::Admin(Admin::Restart) => Some(FaultKind::VaultStop),
            Self::Admin(Admin::Seal) | Self::Pair(Pair::SealedWhileTheTokenEnds) => {
                Some(FaultKind::VaultSeal)
            }
            Self::Admin(Admin::LeasesRevoked) => Some(FaultKind::LeaseRevoke),
            Self::Admin(Admin::TokenRevoked) => Some(FaultKind::TokenRevoke),
            Self::Admin(Admin::PostgresRestart)
            | Self::Pair(Pair::PostgresRestartsAndVaultIsAway) => Some(FaultKind::PgRestart),
            _ => None,
        }
    }

    /// How long it goes on: less than what is left of a login when it is renewed or rotated; with
    /// some pairs, longer than the login or the token lives.
    pub(crate) fn lasts(self) -> Duration {
        match self {
            Self::Pair(Pair::SealedWhileTheTokenEnds) => TOKEN_TTL + Duration::from_secs(1),
            Self::Pair(
                Pair::PolicyTakenWhileTheLeaseEnds | Pair::RevocationFailsWhileTheLeaseEnds,
            ) => TTL + Duration::from_secs(1),
            // Stopping and starting take their time as well.
            Self::Admin(Admin::Restart) => Duration::from_millis(500),
            _ => Duration::from_millis(2500),
        }
    }

    pub(crate) fn restarts_postgres(self) -> bool {
        self.kind() == Some(FaultKind::PgRestart)
    }

    /// Logins end while it goes on, whatever one does.
    pub(crate) fn outlasts_a_lease(self) -> bool {
        self == Self::Pair(Pair::SealedWhileTheTokenEnds)
    }

    /// A request can have been carried out whose answer is lost.
    pub(crate) fn loses_answers(self) -> bool {
        match self {
            Self::Vault(net) | Self::Postgres(net) => {
                matches!(net, Net::Reset | Net::HalfReply | Net::BlackHole)
            }
            Self::Admin(admin) => {
                matches!(admin, Admin::Pause | Admin::Restart | Admin::PostgresRestart)
            }
            Self::Pair(pair) => pair == Pair::PostgresRestartsAndVaultIsAway,
        }
    }

    /// What an operation may fail of while it lasts.
    pub(crate) fn excuse(self) -> Excuse {
        match self {
            Self::Postgres(Net::Reset | Net::HalfReply)
            | Self::Admin(Admin::PostgresRestart)
            | Self::Pair(Pair::PostgresRestartsAndVaultIsAway) => Excuse::Cut,
            Self::Postgres(Net::BlackHole) => Excuse::Overdue,
            Self::Admin(Admin::LeasesRevoked | Admin::TokenRevoked) => Excuse::Revoked,
            _ => Excuse::None,
        }
    }
}

/// What an operation may fail of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Excuse {
    /// Of nothing.
    None,
    /// Its way to Postgres, or Postgres, was cut under it.
    Cut,
    /// It was held up in a black hole for longer than a drain waits.
    Overdue,
    /// Its login was dropped from outside, and that was not known yet.
    Revoked,
}

/// TTL of the logins, and how far renewals go.
pub(crate) const TTL: Duration = Duration::from_secs(8);
pub(crate) const MAX_TTL: Duration = Duration::from_secs(40);
/// TTL of tokens where their renewal is the phase; and their end, where a new login is.
pub(crate) const TOKEN_TTL: Duration = Duration::from_secs(12);

/// One fault in one phase under one pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cell {
    pub(crate) fault: Fault,
    pub(crate) phase: Phase,
    pub(crate) pool: PoolKind,
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} / {} / {}", self.fault.name(), self.phase.name(), self.pool.as_str())
    }
}

/// All of them, always in this order.
pub(crate) fn all() -> Vec<Cell> {
    let pools = [PoolKind::Sqlx, PoolKind::Deadpool];
    let singles = Fault::singles().flat_map(|fault| Phase::ALL.map(|phase| (fault, phase)));
    let pairs = Pair::ALL.into_iter().map(|pair| (Fault::Pair(pair), pair.phase()));
    singles
        .chain(pairs)
        .flat_map(|(fault, phase)| pools.map(|pool| Cell { fault, phase, pool }))
        .collect()
}

/// A tenth, so that ten runs with 0 to 9 are all of them, and each has some of every fault, phase
/// and pool.
pub(crate) fn tenth(cells: &[Cell], n: usize) -> Vec<Cell> {
    let phases = Phase::ALL.len();
    let number = |at: usize| (at / 2 / phases * 3 + at / 2 % phases + at % 2 * 5) % 10;
    cells
        .iter()
        .enumerate()
        .filter(|(at, _)| number(*at) == n % 10)
        .map(|(_, cell)| *cell)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_tenths_are_all_cells_and_each_is_mixed() {
        let all = all();
        assert_eq!(all.len(), 17 * 11 * 2 + 4 * 2);
        let tenths: Vec<_> = (0..10).map(|n| tenth(&all, n)).collect();
        assert_eq!(tenths.iter().map(Vec::len).sum::<usize>(), all.len());
        for cell in &all {
            assert_eq!(tenths.iter().filter(|t| t.contains(cell)).count(), 1, "{cell}");
        }
        for tenth in &tenths {
            assert!((30..=46).contains(&tenth.len()), "{}", tenth.len());
            for phase in Phase::ALL {
                assert!(tenth.iter().any(|c| c.phase == phase), "{}", phase.name());
            }
            for pool in [PoolKind::Sqlx, PoolKind::Deadpool] {
                assert!(tenth.iter().filter(|c| c.pool == pool).count() >= 10);
            }
        }
    }
}
