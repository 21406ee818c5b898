//! A plain deadpool pool on a provider, against a real Postgres. One room of tests for each
//! question.

#![allow(clippy::unwrap_used, unreachable_pub, reason = "tests; nothing is exported")]

mod attaching;
mod cut;
mod draining;
mod kit;
mod load;
mod refused;
mod revoked;
mod warm;
