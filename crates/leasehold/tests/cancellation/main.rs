//! Every public async function, dropped at every point at which it can be.
//!
//! Paused time, one thread: a future is polled n times and dropped, for n = 0, 1, 2 and so on
//! until it completes, while each operation of the source and of the pool goes well, fails, is
//! slow or hangs. Afterwards no task is left, no lease is unaccounted for, and what is shared works.

#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

mod listed;
mod model;
mod rotator;
mod sources;
mod waits;
