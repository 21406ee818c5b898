//! What the command line asks beyond what a session does for an application. Not for use: exempt
//! from semver.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use leasehold::{ErrorKind, SourceError};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::api::Api;
use crate::classify::Op;
use crate::client;
use crate::config::{ConfigError, VaultConfig};
use crate::endpoints::{LeasesUnder, LookupLease, LookupSelf, ReadPath, RenewSelf};
use crate::health::{self, VaultHealth};
use crate::session::Session;

/// Where a server is to be found, before anything is sent.
#[derive(Clone, Debug)]
pub struct Way {
    /// The host of the address, without brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// With TLS.
    pub https: bool,
    /// The address is this machine's own.
    pub loopback: bool,
    /// The certificate is not looked at.
    pub unverified: bool,
    /// Scheme, host and port of the proxy that requests go through, if settings name one.
    pub proxy: Option<String>,
}

/// The way that requests take.
///
/// # Errors
/// A setting that can't be worked with.
pub fn way(config: &VaultConfig) -> Result<Way, ConfigError> {
    let url = client::parse_address(&config.address_from, &config.address)?;
    let (_, target) = client::build(config, &url)?;
    Ok(Way {
        host: url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned(),
        port: url.port_or_known_default().unwrap_or(8200),
        https: url.scheme() == "https",
        loopback: client::is_loopback(&url),
        unverified: config.skip_verify,
        proxy: target.proxy,
    })
}

/// What a server says to somebody who has not logged in.
#[derive(Debug)]
pub struct Look {
    /// How it is.
    pub health: VaultHealth,
    /// Its clock, which tells whole seconds.
    pub date: Option<SystemTime>,
    /// No connection came about, or no TLS.
    pub no_connection: bool,
}

/// Asks a server how it is, and what the time is there.
///
/// # Errors
/// A setting that can't be worked with.
pub async fn look(config: &VaultConfig) -> Result<Look, ConfigError> {
    let (health, date, kind) = health::look(&Api::new(config, None)?).await;
    Ok(Look { health, date, no_connection: kind == Some(ErrorKind::Unreachable) })
}

/// What a token says of itself. Holds no secret.
#[derive(Clone, Debug, Deserialize)]
pub struct TokenLook {
    /// `service` or `batch`.
    #[serde(default, rename = "type")]
    pub kind: String,
    /// What it may do.
    #[serde(default)]
    pub policies: Vec<String>,
    /// Seconds that are left; 0 for one that never ends.
    #[serde(default)]
    pub ttl: u64,
    /// Seconds that each renewal gives, for a periodic token.
    #[serde(default)]
    pub period: u64,
    /// Seconds after its making at which it ends, whatever is renewed.
    #[serde(default)]
    pub explicit_max_ttl: u64,
    /// It can be renewed.
    #[serde(default)]
    pub renewable: bool,
    /// It does not end with another token.
    #[serde(default)]
    pub orphan: bool,
}

#[derive(Deserialize)]
pub(crate) struct Answer<T> {
    pub(crate) data: T,
}

#[derive(Deserialize)]
pub(crate) struct Keys {
    pub(crate) keys: Vec<String>,
}

#[derive(Deserialize)]
struct Renewed {
    auth: Granted,
}

#[derive(Deserialize)]
struct Granted {
    lease_duration: u64,
}

/// What the session's token is.
///
/// # Errors
/// As any call: [`ErrorKind::Denied`] where the policy does not let it look.
pub async fn token(session: &Session) -> Result<TokenLook, SourceError> {
    let api = session.api();
    let answer: Answer<TokenLook> = session
        .manage_with(async |token| {
            let path = "auth/token/lookup-self";
            let look = LookupSelf {};
            api.json(Op::TokenLookup, path, look, Some(&token), api.request_timeout).await
        })
        .await?;
    Ok(answer.data)
}

/// Renews the session's token, and says how long it lives now.
///
/// # Errors
/// As any call.
pub async fn renew_token(session: &Session, wish: Duration) -> Result<Duration, SourceError> {
    let api = session.api();
    let renewed: Renewed = session
        .manage_with(async |token| {
            let renew = RenewSelf { increment: wish.as_secs() };
            let path = "auth/token/renew-self";
            api.json(Op::TokenRenew, path, renew, Some(&token), api.request_timeout).await
        })
        .await?;
    Ok(Duration::from_secs(renewed.auth.lease_duration))
}

/// The `data` of whatever is read at `path`.
///
/// # Errors
/// As any call.
pub async fn read<T: DeserializeOwned>(session: &Session, path: &str) -> Result<T, SourceError> {
    let api = session.api();
    let answer: Answer<T> = session
        .manage_with(async |token| {
            let request = ReadPath { path: path.to_owned() };
            api.json(Op::Read, path, request, Some(&token), api.request_timeout).await
        })
        .await?;
    Ok(answer.data)
}

/// An engine, as whoever may do anything below it may see it.
#[derive(Clone, Debug, Deserialize)]
pub struct Mounted {
    /// Where it is mounted, with a slash at the end.
    pub path: String,
    /// Its type, such as `database`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Such as the version of a KV engine.
    #[serde(default)]
    pub options: Option<BTreeMap<String, String>>,
}

/// The engine that serves `path`.
///
/// # Errors
/// As any call. [`ErrorKind::Denied`]: nothing is mounted there, or nothing below it is allowed.
pub async fn mounted(session: &Session, path: &str) -> Result<Mounted, SourceError> {
    read(session, &format!("sys/internal/ui/mounts/{path}")).await
}

/// Ids of the leases under a prefix such as `database/creds/orders`, or names of the roles that have
/// some. Needs the right to list them, which an application never has.
///
/// # Errors
/// As any call. Where there are none the answer is empty.
pub async fn leases(session: &Session, prefix: &str) -> Result<Vec<String>, SourceError> {
    let api = session.api();
    let listed: Result<Answer<Keys>, _> = session
        .manage_with(async |token| {
            let request = LeasesUnder { prefix: prefix.to_owned() };
            let path = "sys/leases/lookup";
            api.json(Op::Read, path, request, Some(&token), api.request_timeout).await
        })
        .await;
    match listed {
        Ok(answer) => Ok(answer.data.keys),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(e),
    }
}

/// What is known of a lease; `None` if it is gone.
///
/// # Errors
/// As any call.
pub async fn lease(session: &Session, id: &str) -> Result<Option<Value>, SourceError> {
    let api = session.api();
    let found: Result<Answer<Value>, _> = session
        .manage_with(async |token| {
            let request = LookupLease { lease_id: id.to_owned() };
            let path = "sys/leases/lookup";
            api.json(Op::Read, path, request, Some(&token), api.request_timeout).await
        })
        .await;
    match found {
        Ok(answer) => Ok(Some(answer.data)),
        // The one thing that can be wrong with an id that was just listed.
        Err(e) if e.to_string().contains("invalid lease") => Ok(None),
        Err(e) => Err(e),
    }
}

/// Whether there is a way to another token once this one has ended.
#[must_use]
pub fn can_log_in_anew(session: &Session) -> bool {
    session.can_log_in_anew()
}
