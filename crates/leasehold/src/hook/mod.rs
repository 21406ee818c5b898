//! What a crate needs that keeps a pool type on this provider. Applications use
//! `leasehold-sqlx` or `leasehold-deadpool` and need nothing from here.
//!
//! A hook crate implements [`ManagedPool`] and registers it with
//! [`CredentialProvider::attach`](crate::CredentialProvider::attach). The rotator then proves,
//! installs and drains through it. [`Gate`] tells which connections are superseded, [`Ledger`]
//! counts a pool's own connections where the pool lets us see them, [`Sampler`] spaces liveness
//! checks, and [`sql`] holds the few statements that every crate sends.

mod gate;
mod ledger;
mod pool;
mod replica;
mod sampler;
pub mod sql;
mod stamps;

pub use gate::Gate;
pub use ledger::{Ledger, Ticket};
pub(crate) use pool::DrainTerms;
pub use pool::{
    DrainOrder, Drained, Holder, ManagedPool, Pace, PoolCounts, Proof, Refusal, without,
};
pub use replica::await_replica;
pub use sampler::Sampler;
pub use stamps::Verdict;

/// A boxed future, as object-safe traits need it.
pub type BoxFuture<'a, T> = crate::source::BoxFuture<'a, T>;
