//! `leasehold doctor` against real servers: each broken set-up is found at the right step, and
//! nothing is left behind whatever it finds.

#![allow(clippy::unwrap_used)]

mod as_documented;
mod found_in_postgres;
mod found_in_vault;
mod leaves_nothing;
mod orphans;
mod run;
#[path = "../common/signals.rs"]
mod signals;
