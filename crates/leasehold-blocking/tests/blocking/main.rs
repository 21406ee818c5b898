//! A service without async, on real servers. One room of tests for each question.

#![allow(clippy::unwrap_used, unreachable_pub, reason = "tests; nothing is exported")]

#[cfg(feature = "diesel")]
mod by_libpq;
#[cfg(feature = "diesel")]
mod hostile;
mod kit;
mod load;
mod pools;
mod settings;
mod threads;
