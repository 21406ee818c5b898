//! Years of simulated weather: the lease machine and the rotator against models of Vault, Postgres
//! and pools, on virtual time. One seed is one history.

#![forbid(unsafe_code)]

pub mod vault;
