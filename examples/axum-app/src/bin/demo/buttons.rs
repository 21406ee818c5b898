//! `POST /harm/{deed}`: the buttons of the page, for nobody but the page.
//!
//! The demo listens on loopback, which any page in the same browser can reach. Three things keep
//! those out: a header with a token of this run (a cross-site request may not set one unasked, and
//! the page that can read it is of this origin), the `Origin`, and the `Host`, so that a name that
//! leads to loopback is no way in.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::header::{HOST, ORIGIN};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use axum_app::Page;
use serde_json::{Value, json};

use crate::console::{Console, Tint};
use crate::harm::{Deed, Harm};

const TOKEN: &str = "x-harm-token";

#[derive(Clone)]
struct Buttons {
    harm: Harm,
    page: Page,
    console: Console,
    gate: Arc<Gate>,
}

/// Who may press.
struct Gate {
    /// Our own addresses as a browser writes them.
    hosts: [String; 2],
    token: String,
}

/// The route, and what the page shows.
pub(crate) fn buttons(address: SocketAddr, harm: Harm, page: Page, console: Console) -> Router {
    let gate = Arc::new(Gate::new(address));
    page.offer(described(&gate.token));
    Router::new().route("/harm/{deed}", post(press)).with_state(Buttons {
        harm,
        page,
        console,
        gate,
    })
}

fn described(token: &str) -> Value {
    let deed = |deed: Deed| {
        json!({
            "name": deed.name(),
            "title": deed.title(),
            "before": deed.before(),
            "after": deed.after(),
            "mends": deed == Deed::Mend,
        })
    };
    json!({ "token": token, "deeds": Deed::ALL.map(deed) })
}

async fn press(
    State(buttons): State<Buttons>,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Response {
    let refuse =
        |status: StatusCode, why: &str| (status, Json(json!({ "error": why }))).into_response();
    if let Err(why) = buttons.gate.admits(&headers) {
        return refuse(StatusCode::FORBIDDEN, why);
    }
    let Some(deed) = Deed::named(&name) else {
        return refuse(StatusCode::NOT_FOUND, "there is no such button");
    };
    buttons.console.line(Tint::Bad, format!("button pressed: {}", deed.title()));
    buttons.page.note(format!("Button pressed: {}", deed.title()), deed.before());
    match buttons.harm.do_it(deed).await {
        Ok(done) => Json(json!({ "done": done })).into_response(),
        Err(why) => {
            buttons.console.line(Tint::Bad, format!("{}: {why}", deed.title()));
            refuse(StatusCode::CONFLICT, &why)
        }
    }
}

impl Gate {
    fn new(address: SocketAddr) -> Self {
        // Keyed by the operating system's randomness.
        let random = || RandomState::new().build_hasher().finish();
        let token = format!("{:016x}{:016x}", random(), random());
        let hosts = [address.to_string(), format!("localhost:{}", address.port())];
        Self { hosts, token }
    }

    fn admits(&self, headers: &HeaderMap) -> Result<(), &'static str> {
        let header = |name: &str| headers.get(name).and_then(|v| v.to_str().ok());
        let host = header(HOST.as_str()).unwrap_or_default();
        if !self.hosts.iter().any(|ours| ours == host) {
            return Err("the Host is not this demo's address");
        }
        // A browser sends it with every POST; it may be left out where there is none.
        if header(ORIGIN.as_str()).is_some_and(|origin| origin != format!("http://{host}")) {
            return Err("the request comes from another site's page");
        }
        if header(TOKEN) != Some(&*self.token) {
            return Err("the header x-harm-token is missing or not this run's: reload the page");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_page_is_admitted() {
        let gate = Gate::new("127.0.0.1:4000".parse().unwrap());
        let token = gate.token.clone();
        let with = |host: &str, origin: Option<&str>, token: Option<&str>| {
            let mut headers = HeaderMap::new();
            headers.insert(HOST, host.parse().unwrap());
            if let Some(origin) = origin {
                headers.insert(ORIGIN, origin.parse().unwrap());
            }
            if let Some(token) = token {
                headers.insert(TOKEN, token.parse().unwrap());
            }
            gate.admits(&headers)
        };
        let (us, here) = ("127.0.0.1:4000", Some("http://127.0.0.1:4000"));
        assert_eq!(with(us, here, Some(&token)), Ok(()));
        assert_eq!(with("localhost:4000", Some("http://localhost:4000"), Some(&token)), Ok(()));
        assert_eq!(with(us, None, Some(&token)), Ok(()), "curl");
        for (host, origin, token) in [
            (us, here, None),
            (us, here, Some("0")),
            (us, Some("http://evil.example"), Some(&*token)),
            (us, Some("null"), Some(&*token)),
            ("evil.example:4000", Some("http://evil.example:4000"), Some(&*token)),
        ] {
            assert!(with(host, origin, token).is_err(), "{host} {origin:?} {token:?}");
        }
        assert_ne!(Gate::new("127.0.0.1:4000".parse().unwrap()).token, token);
    }
}
