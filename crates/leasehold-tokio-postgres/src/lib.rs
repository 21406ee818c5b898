#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod connector;
mod control;
mod diagnosis;
mod drain;
mod engine;
mod error;
pub mod hook;
mod hosts;
mod link;
mod listener;
mod managed;
mod report;
mod sample;
mod slots;
mod spare;

pub use tokio_postgres;

pub use connector::{Connection, Connector, Installer};
pub use error::Error;
pub use listener::Listener;
pub use report::report;
