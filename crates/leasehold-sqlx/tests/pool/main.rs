//! The hooks against a real Postgres, with logins issued and revoked by a real OpenBao.

#![allow(unreachable_pub, reason = "a program of its own, nothing is exported")]
#![allow(clippy::unwrap_used, reason = "helpers of tests")]
mod attach;
mod callbacks;
mod cut;
mod deadline;
mod drain;
mod kit;
mod lifetimes;
mod outside;
mod staying;
mod swap;
mod warm;
