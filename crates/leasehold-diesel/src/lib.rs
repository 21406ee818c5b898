#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

#[cfg(feature = "bb8")]
pub mod bb8;
#[cfg(feature = "deadpool")]
pub mod deadpool;
#[cfg(any(feature = "bb8", feature = "deadpool"))]
mod installer;
mod report;
#[cfg(any(feature = "bb8", feature = "deadpool"))]
mod wire;

pub use diesel_async;
pub use leasehold_tokio_postgres::{Error, tokio_postgres};

#[cfg(any(feature = "bb8", feature = "deadpool"))]
pub use installer::Installer;
pub use report::report;
