//! Vault and OpenBao for [Leasehold](leasehold): a [`Session`] that logs in and stays logged in,
//! and [`CredentialSource`](leasehold::CredentialSource)s that work through it.
//!
//! ```no_run
//! use leasehold::CredentialSource;
//! use leasehold_vault::{Auth, Session, VaultConfig};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let auth = Auth::approle(std::env::var("ROLE_ID")?, std::env::var("SECRET_ID")?);
//! let session = Session::login(VaultConfig::from_env()?, auth).await?;
//!
//! // Usually the next step is `leasehold::Rotator::builder(source)`; by hand it goes like this.
//! let source = session.dynamic_role("database", "orders-rw");
//! let issued = source.issue().await?;
//! println!("{} for {:?}", issued.credential.username(), issued.lease.ttl);
//! # Ok(()) }
//! ```
//!
//! A [`KvStore`] reads and writes the application's other settings through the same session.
//!
//! # Tokens
//!
//! A database lease dies with the token that made it, and nothing in the lease says so. The
//! session therefore
//!
//! - renews its token at random between a sixth and a third of its life, sooner where that would
//!   leave less time than a rotation takes, and asks for as much as it got at first;
//! - logs in anew as soon as the end can't be moved any more (the server granted less than was
//!   asked for, or the token can't be renewed at all), and issues with the new token from then on;
//! - tells each lease's [`Parent`](leasehold::Parent) when its token ends, judged from before the
//!   request that told it;
//! - keeps the old token alive until the last lease made with it is gone, then revokes it;
//! - on finding the token dead, logs in once for all who wait, and repeats the call once.
//!
//! A token that was given ([`Auth::token`]) is renewed but never revoked, and has no successor. One
//! in a file ([`Auth::token_file`]) is neither renewed nor revoked by us; the next one in the file
//! succeeds it.
//! Tokens that are limited in their uses are refused: leases die with the last use.
//!
//! While the server can't be reached, logins and renewals are retried with full jitter inside the
//! life that is left. A login that is refused for good is retried each 30 s to 5 min, so that
//! nobody has to restart anything once a person has mended it;
//! [`Session::token_state`] says `lost` meanwhile.
//!
//! # Errors
//!
//! What the server answers is told apart by operation, status and text, in one table. Messages
//! name the path and say what to do. They repeat the server's own error text, never a body of
//! another form, and no secret.
//!
//! # Secrets
//!
//! Tokens, secret_ids, passwords and whole answers are wiped from memory when they are dropped,
//! and are in no `Debug` output, error, log or span. What is not ours to wipe: the HTTP client's
//! copy of the token (a header marked sensitive), its copy of a login's request body, and its
//! buffers of what was received; the environment itself, and what the parser of a settings file
//! made of it.
//!
//! # TLS
//!
//! rustls, with the provider that the application installed, else ring. Trusted are the system's
//! certificate authorities, or only those of [`VaultConfig::ca_pem`] or [`VaultConfig::ca_path`].
//! [`VaultConfig::client_certificate`] is shown to servers that ask for one;
//! [`VaultConfig::tls_server_name`] is for certificates of another name than the address's. Not
//! verifying at all, and plain http to another machine, are warned of at each login. Redirects are followed
//! within one scheme, host and port only, so that the token goes to no other host, except to those
//! of [`VaultConfig::redirect_to`].
//!
//! # Policy
//!
//! What the identity that logs in needs, for a role `orders-rw` of the engine at `database`:
//!
//! ```hcl
#![doc = include_str!("../policy.hcl")]
//! ```
//!
//! When a source issues its first login, the session asks once (`sys/capabilities-self`) what the
//! policy gives, and logs a warning for each right that is missing, with what will then not work;
//! `privileges` of the source is the same as a list. It holds up nothing. What is missing and can
//! be done without is done without: a lease that may not be renewed is rotated before it ends; one
//! that may not be revoked is cut short by a renewal of one second, or left to its TTL.

#![forbid(unsafe_code)]

mod api;
mod auth;
mod call;
mod calls;
mod classify;
mod client;
mod config;
mod dynamic;
mod endpoints;
mod epoch;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod health;
#[doc(hidden)]
pub mod inspect;
mod keeper;
mod kv;
mod kv_entries;
mod kv_store;
mod lanes;
mod limit;
#[cfg(feature = "metrics")]
pub mod metrics;
#[cfg(not(feature = "metrics"))]
#[path = "metrics/off.rs"]
mod metrics;
mod mint_time;
mod once;
mod privileges;
mod schedule;
mod seat;
mod session;
mod static_role;
mod token;
mod tracked;
pub mod transit;

pub use auth::{Auth, SecretId};
pub use calls::CallCounts;
pub use config::{ConfigError, Settings, VaultConfig};
pub use dynamic::DynamicRole;
pub use health::VaultHealth;
pub use kv::KvSecret;
/// For the command line.
#[doc(hidden)]
pub use kv_entries::{Entries, KvMount};
pub use kv_store::{
    KvCache, KvEntry, KvError, KvKeyProblem, KvLoadError, KvLoader, KvMetadata, KvOrigin,
    KvSection, KvSettings, KvStore, KvVersion, KvVersionState, KvWatch, WriteIf,
};
pub use once::once;
pub use privileges::Missing;
pub use session::{Session, TokenState};
pub use static_role::StaticRole;

/// The README's code compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
