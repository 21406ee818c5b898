//! A primary and its replica, fed by one login: a real streaming replica, real lag, and a real
//! fail-over.

#![allow(clippy::unwrap_used)]

mod fail_over;
mod kit;
mod lag;
mod load;
