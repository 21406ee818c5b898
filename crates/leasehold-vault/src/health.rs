//! How the server is.

use std::time::{Duration, SystemTime};

use leasehold::ErrorKind;

use crate::api::{Api, Reply};
use crate::endpoints::{Health, HealthReply};

/// Health pages ask often and are asked with a deadline of their own.
const TIMEOUT: Duration = Duration::from_secs(2);

/// What the server says of itself. Fields are `None` where it did not say.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct VaultHealth {
    /// It answered.
    pub reachable: bool,
    /// It is sealed: it serves nothing until it is unsealed.
    pub sealed: Option<bool>,
    /// It has been initialised.
    pub initialized: Option<bool>,
    /// It is a standby, which passes requests on to the active node.
    pub standby: Option<bool>,
    /// Its version.
    pub version: Option<String>,
    /// Why there is no more to say.
    pub error: Option<String>,
}

pub(crate) async fn ask(api: &Api) -> VaultHealth {
    look(api).await.0
}

/// How it is, what the time is there, and what kept it from saying so.
pub(crate) async fn look(api: &Api) -> (VaultHealth, Option<SystemTime>, Option<ErrorKind>) {
    let timeout = TIMEOUT.min(api.request_timeout);
    match api.ask("sys/health", Health {}, timeout).await {
        Ok(reply) => (read(&reply), reply.date, None),
        Err(e) => {
            let health = VaultHealth { error: Some(e.to_string()), ..VaultHealth::default() };
            (health, None, Some(e.kind()))
        }
    }
}

fn read(reply: &Reply) -> VaultHealth {
    // By the body and not by the status: a rate limit answers 429, which otherwise means standby.
    match serde_json::from_slice::<HealthReply>(&reply.body) {
        Ok(body) => VaultHealth {
            reachable: true,
            sealed: Some(body.sealed),
            initialized: Some(body.initialized),
            standby: Some(body.standby),
            version: body.version,
            error: None,
        },
        Err(_) => VaultHealth {
            reachable: true,
            error: Some(format!(
                "sys/health answered {} with something else than its health",
                reply.status
            )),
            ..VaultHealth::default()
        },
    }
}
