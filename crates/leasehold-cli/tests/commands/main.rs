//! The commands as they are typed, on real servers.
// Helpers outside of test functions count as such too.
#![allow(clippy::unwrap_used)]

mod completions;
mod dev;
mod exec;
mod import;
mod log;
mod program;
#[path = "../common/signals.rs"]
mod signals;
mod terminal;
mod watch;
