//! Years of simulated weather: the lease machine and the rotator against models of Vault, Postgres
//! and pools, on virtual time. One seed is one history.

#![forbid(unsafe_code)]

pub mod explore;
pub mod fleet;
pub mod history;
pub mod invariants;
pub mod mutate;
pub mod plan;
pub mod pool;
pub mod postgres;
pub mod rotator;
pub mod session;
pub mod vault;
pub mod world;
