//! An Axum service on a plain [`sqlx::PgPool`] whose Postgres login is a short-lived one from
//! Vault or OpenBao.
//!
//! Read [`Service::start`] first: the rotator and the pool are all that differs from a service
//! with a fixed password. The handlers in `accounts` know nothing of it.

#![forbid(unsafe_code)]

mod accounts;
#[cfg(feature = "browser")]
pub mod browser;
mod config;
mod error;
mod health;
mod latency;
mod metrics;
mod page;
mod service;

pub use config::{Config, ConfigError};
pub use latency::Latencies;
pub use page::Page;
pub use service::{Service, StartError};
