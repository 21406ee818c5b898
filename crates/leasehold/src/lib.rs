//! Database pools on short-lived credentials, with no query lost when they change.
//!
//! A [`CredentialSource`] issues logins that live on leases. A [`Rotator`] owns one stream of them:
//! it renews the lease, and before the lease ends it issues another login, proves it on every
//! attached pool, swaps to it, drains the connections of the old one, and only then revokes the old
//! lease. Pools and handlers read a [`CredentialProvider`].
//!
//! ```text
//!            issue   swap                            rotate: issue, prove, swap
//!              │      │   renew    renew    renew        │      │
//! generation 1 ┝━━━━━━┿━━━━━┿━━━━━━━━┿━━━━━━━━┿━━━━━━━━━━┿━━━━━━┿╌╌ drain ╌╌┥ revoke
//! generation 2                                           ┝━━━━━━┿━━━━━┿━━━━━━━━ …
//!                                     end of the lease, max TTL ┊→──────────────┤
//!                                              leeway ──────────┊←──────────────┘
//! ```
//!
#![cfg_attr(all(doc, not(doctest)), doc = "The [manual] has the whole of it.\n")]
//! This crate has no pool, HTTP or TLS in it. Add the source and the hooks that you need:
//! `leasehold-vault` for Vault and OpenBao, `leasehold-sqlx` for `sqlx::PgPool`,
//! `leasehold-deadpool` for `deadpool_postgres::Pool`.
//!
//! ```
//! use std::time::Duration;
//! use leasehold::{Credential, CredentialSource, Issued, Lease, Rotator, SourceError};
//!
//! /// Any source will do; this one makes its logins up.
//! #[derive(Debug)]
//! struct Imaginary;
//!
//! impl CredentialSource for Imaginary {
//!     async fn issue(&self) -> Result<Issued, SourceError> {
//!         let lease = Lease::renewable("lease-1", Duration::from_secs(3600));
//!         Ok(Issued::new(Credential::new("v-app-1", "password"), lease))
//!     }
//!     async fn renew(&self, _: &Lease, increment: Duration) -> Result<Duration, SourceError> {
//!         Ok(increment)
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let rotator = Rotator::builder(Imaginary).grace(Duration::from_secs(10)).start().await?;
//! let provider = rotator.provider();
//! assert_eq!(provider.current().credential().username(), "v-app-1");
//! assert!(provider.health().is_ready());
//! assert!(rotator.shutdown(Duration::from_secs(5)).await.is_clean());
//! # Ok(())
//! # }
//! ```
//!
//! # What happens when
//!
//! | situation | what the rotator does |
//! | --- | --- |
//! | a sixth to a third of the TTL has passed, at random | renews; where that fails for now, again at a pace that follows what is left |
//! | the lease can't be renewed further | rotates at its leeway: roll + grace + min(5 s, TTL/10) + 1 s before the end |
//! | the server says the lease is gone | rotates now, without a roll |
//! | the token of the lease ends | rotates before it does, onto the next token |
//! | the server is away, sealed, throttling | keeps the current login, retries with full jitter, mints nothing in a loop |
//! | a session finds its role gone | stops handing out its connections, rotates now |
//! | a new login is refused everywhere | never makes it current, revokes it, tries again ever more slowly |
//! | the source has another login | issues, proves and swaps now, without the limiter where nothing is minted |
//! | the source has the very same login | swaps nothing, takes over its lease's time |
//! | the old login can't be revoked | repeats it inside the lease; cuts the lease short by a renewal where revoking is not allowed |
//!
//! # Dropping and cancelling
//!
//! Dropping the [`Rotator`] ends renewal and rotation and revokes nothing; [`Rotator::shutdown`]
//! ends in order. Every future of this crate may be dropped at any point. A request to mint runs to
//! its end in a task of its own whatever is dropped, and what it brings is used or revoked.

#![forbid(unsafe_code)]

/// What `tests/loom.rs` has its own kind of.
mod sync {
    pub(crate) use std::sync::atomic::{AtomicU64, Ordering};
}

pub mod clock;
mod credential;
mod detached;
mod event;
#[cfg_attr(not(feature = "simulation"), allow(unreachable_pub))]
#[cfg_attr(feature = "simulation", allow(missing_docs, clippy::must_use_candidate))]
mod fold;
mod generation;
mod health;
pub mod hook;
mod json;
mod kept;
mod line;
// Its items are public for the simulation alone, and unreachable in a normal build.
#[cfg_attr(not(feature = "simulation"), allow(unreachable_pub))]
#[cfg_attr(feature = "simulation", allow(missing_docs, clippy::must_use_candidate))]
#[macro_use]
mod machine;
#[cfg(all(doc, not(doctest)))]
pub mod manual;
#[cfg(feature = "metrics")]
pub mod metrics;
#[cfg(not(feature = "metrics"))]
#[path = "metrics/off.rs"]
mod metrics;
mod once;
mod provider;
mod rotator;
mod source;
mod sources;
mod told;

pub use credential::{Address, Credential, Issued, Lease, Parent, ParentState};
#[doc(hidden)]
pub use detached::to_its_end;
pub use event::{Event, Reason, Severity};
pub use generation::Generation;
pub use health::{DrainHealth, Health, HealthState, LastError, PoolHealth};
pub use kept::{Kept, KeptUntil};
pub use machine::Remains;
/// For the command line: a rotator's own terms, without a rotator.
#[doc(hidden)]
pub use machine::policy::plan;
#[doc(hidden)]
pub use once::once_by;
pub use once::{Once, once};
pub use provider::{
    AttachError, CredentialProvider, Observation, Refreshed, Stopped, Subscription,
};
pub use rotator::{Rotator, RotatorBuilder, ShutdownReport, StartError};
pub use source::{CredentialSource, ErrorKind, RevokeMode, SourceError};
pub use sources::{Chain, FileSource, FnSource, InForce, StaticSource};
/// For source crates: logins as people write them, and files that others keep fresh.
#[doc(hidden)]
pub use sources::{Contents, FileWatch, LoginForm};

/// The lease machine and the fold of the clocks, for the simulation in `sim/`. Exempt from semver:
/// nothing outside this repository may use it.
#[cfg(feature = "simulation")]
#[doc(hidden)]
pub mod simulation {
    pub use crate::fold::Fold;
    pub use crate::machine::broken::{Mutation, break_mechanism};
    pub use crate::machine::{
        Action, Input, Login, LoginId, Machine, Minted, Policy, Proofs, Revocation, SOFT_REVOKE,
        Stage, StartFailure, Terms, goes_with_its_token, policy,
    };
    pub use crate::provider::{Observed, swap_lock_is_held};
}
