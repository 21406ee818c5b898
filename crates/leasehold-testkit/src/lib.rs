#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod admin;
mod audit;
mod backend;
mod bao;
#[cfg(feature = "containers")]
mod containers;
mod database;
mod error;
mod http;
#[cfg(feature = "containers")]
mod owner;
mod pglog;
mod postgres;
mod process;
mod processes;
mod programs;
mod proxy;
mod replica;
mod shared;
mod sockets;
mod spec;
mod stack;
#[cfg(feature = "tls")]
mod tls;
mod wait;
mod watchdog;
mod workdir;

pub use admin::Session;
pub use backend::Backend;
pub use bao::Storage;
pub use database::{Creds, IssuedToken, TestDb};
pub use error::{Error, Result};
pub use pglog::{LoginEvent, LoginKind, LoginRecord, correlate, parse_login_log};
pub use postgres::PostgresShutdown;
pub use proxy::{Catch, Direction, FaultProxy, Then, Toxic, Trap};
pub use replica::Replica;
pub use shared::shared;
pub use sockets::{SocketWatch, sockets_to};
pub use spec::{AppRoleSpec, DatabaseSpec, RoleSpec, TokenSpec};
pub use stack::{Stack, StackBuilder};
#[cfg(feature = "tls")]
pub use tls::ClientCertificate;
pub use wait::eventually;
