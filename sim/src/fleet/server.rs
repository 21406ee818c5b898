//! The one server of the fleet: how much it can do, and who waits for it.

use std::time::Duration;

use leasehold::clock::Time;

/// What is asked of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// `auth/approle/login`.
    Login,
    /// `auth/token/renew-self`.
    RenewToken,
    /// `auth/token/revoke-self`.
    RevokeToken,
    /// `database/creds/...`.
    Mint,
    /// `sys/leases/renew`.
    Renew,
    /// `sys/leases/revoke`.
    Revoke,
}

impl Work {
    /// Of a real OpenBao with one Postgres behind it on 2 cores: 55 mints, 250 renewals and 35
    /// revocations a second. What is about a token is taken for as dear as a renewal.
    const fn cost(self) -> Duration {
        Duration::from_micros(match self {
            Self::Mint => 18_200,
            Self::Revoke => 28_600,
            Self::Login | Self::RenewToken | Self::RevokeToken | Self::Renew => 4_000,
        })
    }

    /// Whether it is about the token, and not about a login.
    #[must_use]
    pub const fn is_of_token(self) -> bool {
        matches!(self, Self::Login | Self::RenewToken | Self::RevokeToken)
    }
}

/// Why a request came to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// Refused: nobody is there.
    Refused,
    /// The client hung up.
    Late,
    /// The server gave it up, after its own 90 s.
    GivenUp,
}

/// When the server is away, and slow.
#[derive(Clone, Copy, Debug)]
pub struct Trouble {
    /// Connections are refused from here on.
    pub begins: Time,
    /// Until here.
    pub ends: Time,
    /// It is slow from then until here.
    pub slow_until: Time,
    /// What is slow takes so many times as long.
    pub slowness: u32,
}

/// First come, first served, with a queue of its own for what Postgres has to do: while logins are
/// made, renewals go on. It is kind to those who hurry: what nobody waits for any more by its
/// turn costs nothing, and ending by itself what is over costs nothing either.
#[derive(Clone, Debug)]
pub struct Server {
    trouble: Trouble,
    /// Vault itself, and the Postgres behind it.
    busy_until: [Time; 2],
}

/// The server's own bound on a request.
const OWN_BOUND: Duration = Duration::from_secs(90);
/// There and back.
const TRIP: Duration = Duration::from_millis(2);
/// The same of a server that has just been started.
const SLOW_TRIP: Duration = Duration::from_millis(500);

impl Server {
    /// Idle.
    #[must_use]
    pub const fn new(trouble: Trouble) -> Self {
        Self { trouble, busy_until: [Time::ZERO; 2] }
    }

    /// What becomes of a request that is sent now, by a client that waits for `patience`; and when
    /// the client knows.
    pub fn accept(&mut self, now: Time, work: Work, patience: Duration) -> (Time, Option<Lost>) {
        let Trouble { begins, ends, slow_until, slowness } = self.trouble;
        if now >= begins && now < ends {
            return (now + TRIP, Some(Lost::Refused));
        }
        let queue = &mut self.busy_until[usize::from(matches!(work, Work::Mint | Work::Revoke))];
        let turn = (*queue).max(now);
        let slow = turn >= ends && turn < slow_until;
        let (trip, cost) =
            if slow { (SLOW_TRIP, work.cost() * slowness) } else { (TRIP, work.cost()) };
        let answered = turn + cost + trip;
        if turn >= now + OWN_BOUND && patience > OWN_BOUND {
            return (now + OWN_BOUND, Some(Lost::GivenUp));
        }
        if answered > now + patience {
            return (now + patience, Some(Lost::Late));
        }
        if now < begins && answered >= begins {
            return (begins, Some(Lost::Refused));
        }
        *queue = turn + cost;
        (answered, None)
    }
}
