//! `/health/live` and `/health/ready`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use leasehold::CredentialProvider;
use leasehold_vault::{Session, VaultHealth};
use serde_json::{Value, json};
use tokio::sync::Mutex;

/// However many probes there are, Vault is asked no more often.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// A probe that waits longer is itself taken for a failure (Kubernetes: 1 s by default).
const ASK_WITHIN: Duration = Duration::from_millis(500);

/// What the probes look at; shared by all requests.
#[derive(Clone, Debug)]
pub(crate) struct Probe(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    provider: CredentialProvider,
    session: Session,
    /// When Vault was asked last, and what it said.
    asked: Mutex<Option<(Instant, VaultHealth)>>,
}

impl Probe {
    pub(crate) fn new(provider: CredentialProvider, session: Session) -> Self {
        Self(Arc::new(Inner { provider, session, asked: Mutex::new(None) }))
    }

    pub(crate) fn provider(&self) -> &CredentialProvider {
        &self.0.provider
    }

    pub(crate) fn session(&self) -> &Session {
        &self.0.session
    }

    /// What Vault says of itself, at most a second old.
    pub(crate) async fn vault(&self) -> VaultHealth {
        // Held while asking: whoever comes meanwhile waits for the same answer.
        let mut asked = self.0.asked.lock().await;
        if let Some((at, answer)) = &*asked
            && at.elapsed() < ASK_EVERY
        {
            return answer.clone();
        }
        let mut silence = VaultHealth::default();
        silence.error = Some(format!("no answer within {ASK_WITHIN:?}"));
        // Noted first: the probe may hang up while we ask, which drops this future.
        let (_, answer) = asked.insert((Instant::now(), silence));
        if let Ok(said) = tokio::time::timeout(ASK_WITHIN, self.0.session.health()).await {
            *answer = said;
        }
        answer.clone()
    }
}

/// `GET /health/live`: the process serves requests. It says nothing of Postgres or Vault, since a
/// restart mends neither.
pub(crate) async fn live() -> Json<Value> {
    Json(json!({ "live": true }))
}

/// `GET /health/ready`: whether this process can log in to Postgres, and how its login stands.
///
/// That Vault can't be reached makes a service not unready: its login is good until its lease
/// ends, and taking every replica out of service at once would be the worse failure.
pub(crate) async fn ready(State(probe): State<Probe>) -> (StatusCode, Json<Value>) {
    let vault = probe.vault().await;
    // Read last, so that it is no older than the answer.
    let health = probe.0.provider.health();
    let token = probe.0.session.token_state();
    let status = if health.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = json!({
        "ready": health.is_ready(),
        "credentials": health,
        "vault": {
            "reachable": vault.reachable,
            "sealed": vault.sealed,
            "standby": vault.standby,
            "version": vault.version,
            "error": vault.error,
            "token": {
                "login": token.login,
                "expires_in": token.remaining.map(seconds),
                "renewing": token.renewing,
                "lost": token.lost,
                "retired": token.retired,
            },
        },
    });
    (status, Json(body))
}

/// Seconds, to the millisecond.
pub(crate) fn seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1000.0).round() / 1000.0
}
