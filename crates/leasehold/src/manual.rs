// Built by rustdoc alone, `cfg(all(doc, not(doctest)))`: its code blocks need the other crates, and are
// compiled in `tests/src/lib.rs`.

//! The manual: what it is, how to use it, what to do when something breaks, and why it is so.
//!
//! | | |
//! | --- | --- |
//! | [concepts] | leases, generations, one rotation step by step |
//! | [how_to] | a page for each situation: one pool, several, files, tests, probes, shutdown |
//! | [failure_modes] | what happens, what you see, what to do |
//! | [defaults] | every number, and why it is what it is |
//! | [operations] | what Vault and Postgres need; what in Postgres stands in the way |
//!
//! # Pages beside the manual
//!
//! In the repository's folder `docs`: `vault-setup.md` (from nothing to a working set-up), `auth.md`
//! (ways to log in), `sources.md` (where logins come from), `errors.md` (every answer of the server),
//! `fault-matrix.md` (what a user sees of each fault), `migrating.md` (from a static
//! `DATABASE_URL`), `comparison.md` (other ways), `performance.md` (what it costs),
//! `threat-model.md`.

#[doc = include_str!("../manual/concepts.md")]
pub mod concepts {}

#[doc = include_str!("../manual/how_to.md")]
pub mod how_to {}

#[doc = include_str!("../manual/failure_modes.md")]
pub mod failure_modes {}

#[doc = include_str!("../manual/defaults.md")]
pub mod defaults {}

#[doc = include_str!("../manual/operations.md")]
pub mod operations {}
