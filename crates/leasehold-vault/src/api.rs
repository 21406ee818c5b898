//! One call to the server: built from an endpoint, sent, bounded, counted and classified.
//!
//! Requests are made by vaultrs' and rustify's machinery (paths, version, namespace) and sent by
//! our own client instead of theirs, because that one drops `Retry-After`, bounds neither the time
//! nor the size of an answer, carries the token along to another host on a redirect, keeps whole
//! bodies in its errors, and logs each failing call several times at ERROR.

use std::time::{Duration, SystemTime};

use leasehold::clock::Clock;
use leasehold::{ErrorKind, SourceError};
use reqwest::header::{LOCATION, RETRY_AFTER};
use reqwest::redirect::{Attempt, Policy};
use rustify::Endpoint;
use serde::de::DeserializeOwned;
use url::{Origin, Url};
use vaultrs::api::EndpointMiddleware;
use zeroize::{Zeroize, Zeroizing};

use crate::calls::{CallCounts, Calls};
use crate::classify::{Answer, Failure, Op, classify, malformed, no_answer};
use crate::config::{ConfigError, VaultConfig};
use crate::token::Token;

/// Answers are a few hundred bytes. Whatever is longer is not from the server we talk to.
const MAX_ANSWER: usize = 1024 * 1024;

/// Name lookup, TCP and TLS.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// More than a handful of hops is a loop.
const MAX_REDIRECTS: usize = 5;

/// A quota may name any time it likes; nothing here waits longer.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// The HTTP side of a session.
pub(crate) struct Api {
    http: reqwest::Client,
    /// Scheme, host and port.
    origin: String,
    /// What comes before `/v1` where a proxy serves the API under a path; usually empty.
    prefix: String,
    middle: EndpointMiddleware,
    calls: Calls,
    clock: Clock,
    pub(crate) request_timeout: Duration,
    pub(crate) mint_timeout: Duration,
}

/// An answer: its status and all of its body, which is wiped when dropped.
pub(crate) struct Reply {
    pub(crate) status: u16,
    retry_after: Option<Duration>,
    location: Option<String>,
    pub(crate) body: Zeroizing<Vec<u8>>,
}

impl Api {
    pub(crate) fn new(config: &VaultConfig) -> Result<Self, ConfigError> {
        let url = parse_address(config.address_from, &config.address)?;
        let namespace = config.namespace.clone();
        if let Some(name) = &namespace
            && !name.bytes().all(|b| b.is_ascii_graphic())
        {
            return Err(ConfigError::new(
                "namespace",
                "holds characters that no header can carry: use plain ASCII",
            ));
        }
        Ok(Self {
            http: http_client(config, &url)?,
            origin: url.origin().ascii_serialization(),
            prefix: url.path().trim_end_matches('/').to_owned(),
            middle: EndpointMiddleware {
                // The token is set below, in a header that is marked sensitive.
                token: String::new(),
                version: "v1".to_owned(),
                wrap: None,
                namespace,
            },
            calls: Calls::default(),
            clock: config.clock.clone(),
            request_timeout: config.request_timeout,
            mint_timeout: config.mint_timeout,
        })
    }

    /// The server's address, for messages.
    pub(crate) fn address(&self) -> &str {
        &self.origin
    }

    pub(crate) fn counts(&self) -> CallCounts {
        self.calls.read()
    }

    /// Makes one call and reads a JSON answer. `path` is what the error messages name.
    pub(crate) async fn json<R: DeserializeOwned>(
        &self,
        op: Op,
        path: &str,
        endpoint: impl Endpoint,
        token: Option<&Token>,
        timeout: Duration,
    ) -> Result<R, Failure> {
        let reply = self.call(op, path, endpoint, token, timeout).await?;
        // The parser's own words could repeat a piece of the body.
        let parsed = serde_json::from_slice(&reply.body);
        parsed.map_err(|_| malformed(op, path, "could not be understood").into())
    }

    /// Makes one call; anything but a 2xx is an error.
    pub(crate) async fn call(
        &self,
        op: Op,
        path: &str,
        endpoint: impl Endpoint,
        token: Option<&Token>,
        timeout: Duration,
    ) -> Result<Reply, Failure> {
        self.calls.count(op);
        let request = self.request(path, endpoint, &self.middle, token, timeout)?;
        let reply = self.send(op, path, request).await?;
        if (200..300).contains(&reply.status) {
            return Ok(reply);
        }
        let answer = Answer {
            status: reply.status,
            body: &reply.body,
            retry_after: reply.retry_after,
            location: reply.location.as_deref(),
        };
        Err(classify(op, path, &answer))
    }

    /// Makes one call for its status and body, whatever they are. Without token or namespace:
    /// what answers to all lives in the root namespace.
    pub(crate) async fn ask(
        &self,
        path: &str,
        endpoint: impl Endpoint,
        timeout: Duration,
    ) -> Result<Reply, SourceError> {
        self.calls.count(Op::Health);
        let middle = EndpointMiddleware { namespace: None, ..self.middle.clone() };
        let request = self.request(path, endpoint, &middle, None, timeout)?;
        self.send(Op::Health, path, request).await
    }

    fn request(
        &self,
        path: &str,
        endpoint: impl Endpoint,
        middle: &EndpointMiddleware,
        token: Option<&Token>,
        timeout: Duration,
    ) -> Result<reqwest::Request, SourceError> {
        // Its errors are dropped, as they may hold the request.
        let bad = || {
            let message = format!("{path} makes no valid request path: check mount and role");
            SourceError::new(ErrorKind::Other, message)
        };
        let built = endpoint.with_middleware(middle).request(&self.origin);
        let mut request =
            reqwest::Request::try_from(built.map_err(|_| bad())?).map_err(|_| bad())?;
        if !self.prefix.is_empty() {
            let full = format!("{}{}", self.prefix, request.url().path());
            request.url_mut().set_path(&full);
        }
        if let Some(token) = token {
            request.headers_mut().insert("x-vault-token", token.header());
        }
        *request.timeout_mut() = Some(timeout);
        Ok(request)
    }

    async fn send(
        &self,
        op: Op,
        path: &str,
        request: reqwest::Request,
    ) -> Result<Reply, SourceError> {
        let failed = |e: reqwest::Error| no_answer(op, path, &self.origin, &e);
        let mut response = self.http.execute(request).await.map_err(failed)?;
        let header = |name| {
            let value = response.headers().get(name)?;
            value.to_str().ok().map(str::to_owned)
        };
        let mut reply = Reply {
            status: response.status().as_u16(),
            retry_after: header(RETRY_AFTER).and_then(|v| retry_after(&v, self.clock.wall())),
            location: header(LOCATION),
            body: Zeroizing::new(Vec::with_capacity(4096)),
        };
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            if reply.body.len() + chunk.len() > MAX_ANSWER {
                return Err(malformed(op, path, "is longer than 1 MiB"));
            }
            append(&mut reply.body, &chunk);
        }
        Ok(reply)
    }
}

/// Grows by hand: `Vec` would free the old memory with what it held.
fn append(body: &mut Vec<u8>, chunk: &[u8]) {
    let needed = body.len() + chunk.len();
    if needed > body.capacity() {
        let mut larger = Vec::with_capacity(needed.max(2 * body.capacity()));
        larger.extend_from_slice(body);
        body.zeroize();
        *body = larger;
    }
    body.extend_from_slice(chunk);
}

/// Seconds, or a date. One that is over means now; anything else is as if nothing was said.
fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    let after = match value.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => httpdate::parse_http_date(value).ok()?.duration_since(now).unwrap_or_default(),
    };
    Some(after.min(MAX_RETRY_AFTER))
}

/// Where the token may go: the session's own address, and those of the same cluster.
fn trusted_origins(config: &VaultConfig, own: &Url) -> Result<Vec<Origin>, ConfigError> {
    let mut trusted = vec![own.origin()];
    for address in &config.redirect_to {
        let url = parse_address("redirect_to", address)?;
        if url.scheme() != own.scheme() {
            return Err(ConfigError::new(
                "redirect_to",
                format!("has another scheme than the address: use {}:// for all", own.scheme()),
            ));
        }
        trusted.push(url.origin());
    }
    Ok(trusted)
}

fn parse_address(setting: &'static str, text: &str) -> Result<Url, ConfigError> {
    let text = text.trim();
    if text.is_empty() {
        return Err(ConfigError::new(
            setting,
            "is empty: set it to the server's address, such as https://vault.internal:8200",
        ));
    }
    let Ok(url) = Url::parse(text) else {
        return Err(ConfigError::new(
            setting,
            "is not a URL: write it like https://vault.internal:8200",
        ));
    };
    if !matches!(url.scheme(), "http" | "https") {
        let hint = if text.contains("://") {
            "use https:// (or http:// on loopback)"
        } else {
            "write https:// in front of the host"
        };
        return Err(ConfigError::new(
            setting,
            format!("has the scheme {:?}: {hint}", url.scheme()),
        ));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(ConfigError::new(
            setting,
            "holds a user name or password: take it out, the server knows tokens only",
        ));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(ConfigError::new(
            setting,
            "holds a query or fragment: give scheme, host and port only",
        ));
    }
    Ok(url)
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
        Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
        Some(url::Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

fn http_client(config: &VaultConfig, url: &Url) -> Result<reqwest::Client, ConfigError> {
    // reqwest panics without one. Whoever comes first wins; ours only fills a gap.
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
    let trusted = trusted_origins(config, url)?;
    let mut builder = reqwest::Client::builder()
        .tls_backend_rustls()
        .redirect(Policy::custom(move |attempt| within_the_cluster(attempt, &trusted)))
        // Sooner than the whole, so that a host that swallows packets is known as one that can't
        // be reached, where nothing was done.
        .connect_timeout(CONNECT_TIMEOUT.min(config.request_timeout / 2))
        .user_agent(concat!("leasehold-vault/", env!("CARGO_PKG_VERSION")))
        // The server closes after 5 min, balancers sooner; a connection that was closed under a
        // request leaves its outcome unknown.
        .pool_idle_timeout(Duration::from_secs(30));
    if is_loopback(url) {
        // As the server's own clients do: a proxy has no business there.
        builder = builder.no_proxy();
    }
    if url.scheme() == "http" {
        if !is_loopback(url) {
            tracing::warn!(
                address = %url.origin().ascii_serialization(),
                "tokens and logins travel in clear text: use https"
            );
        }
        // Spares reading the system's certificates.
        builder = builder.tls_certs_only([]);
    } else if let Some(pem) = &config.ca_pem {
        let certs = reqwest::Certificate::from_pem_bundle(pem).unwrap_or_default();
        if certs.is_empty() {
            return Err(ConfigError::new(
                "ca_pem",
                "(VAULT_CACERT) holds no certificate in PEM form: give a file that begins with \
                 -----BEGIN CERTIFICATE-----",
            ));
        }
        builder = builder.tls_certs_only(certs);
    }
    builder.build().map_err(|_| {
        ConfigError::new(
            "ca_pem",
            "(VAULT_CACERT) or the system's certificates can't be used for TLS: check them",
        )
    })
}

/// 307 and 308 keep method and body, the others turn a POST into a GET. And reqwest would take
/// our token along to wherever the server points, as it knows it only for some header.
fn within_the_cluster(attempt: Attempt<'_>, trusted: &[Origin]) -> reqwest::redirect::Action {
    let keeps_method = matches!(attempt.status().as_u16(), 307 | 308);
    let ours = trusted.contains(&attempt.url().origin());
    if keeps_method && ours && attempt.previous().len() <= MAX_REDIRECTS {
        attempt.follow()
    } else {
        attempt.stop()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date_and_bounded() {
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        let s = |value| retry_after(value, now).map(|after| after.as_secs());
        assert_eq!(s(" 9 "), Some(9));
        assert_eq!(s("Sun, 06 Nov 1994 08:50:07 GMT"), Some(30));
        assert_eq!(s("Sunday, 06-Nov-94 08:50:07 GMT"), Some(30), "an old form of it");
        assert_eq!(s("Sun, 06 Nov 1994 08:00:00 GMT"), Some(0), "over");
        assert_eq!(s("Sat, 06 Nov 2094 08:00:00 GMT"), Some(3600), "nothing waits longer");
        assert_eq!(s("999999999999"), Some(3600));
        for nonsense in ["", "soon", "-1", "1.5", "99999999999999999999999"] {
            assert_eq!(s(nonsense), None, "{nonsense}");
        }
    }
}
