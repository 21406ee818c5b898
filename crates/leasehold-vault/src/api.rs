//! One call to the server: built from an endpoint, sent, bounded, counted and classified.
//!
//! By reqwest, and no Vault client above it: the one there is (vaultrs) drops `Retry-After`, bounds
//! neither the time nor the size of an answer, carries the token along to another host on a
//! redirect, keeps whole bodies in its errors, logs each failing call several times at ERROR, and
//! is two dozen crates for what is left then.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use leasehold::clock::Clock;
use leasehold::{ErrorKind, SourceError};
use reqwest::Method;
use reqwest::header::{CONTENT_TYPE, DATE, HOST, HeaderValue, LOCATION, RETRY_AFTER};
use reqwest::redirect::Attempt;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tracing::Instrument;
use url::{Origin, Url};
use zeroize::Zeroizing;

use crate::call::Call;
use crate::calls::{CallCounts, Calls};
use crate::classify::{Answer, Failure, Op, classify, malformed, no_answer};
use crate::client::{self, Target};
use crate::config::{ConfigError, MINT_TIMEOUT_TOO_LONG, VaultConfig};
use crate::endpoints::{Endpoint, append};
use crate::lanes::{Lanes, Pass};
use crate::limit::Limiter;
use crate::metrics::Meter;
use crate::mint_time::{self, MintTime};
use crate::token::Token;
use crate::transit;

/// More than a handful of hops is a loop.
const MAX_REDIRECTS: usize = 5;

/// A quota may name any time it likes; nothing here waits longer.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// The HTTP side of a session.
pub(crate) struct Api {
    http: reqwest::Client,
    /// What requests are addressed to.
    target: Target,
    /// The address as it was configured, and the proxy if there is one: for messages.
    shown: String,
    /// What comes before `/v1` where a proxy serves the API under a path; usually empty.
    prefix: String,
    namespace: Option<String>,
    calls: Calls,
    pub(crate) meter: Meter,
    limiter: Option<Limiter>,
    lanes: Lanes,
    clock: Clock,
    pub(crate) max_response: usize,
    pub(crate) request_timeout: Duration,
    pub(crate) mint_timeout: Duration,
}

/// What an endpoint takes for an answer: see [`Endpoint::answers`].
type Answers = fn(u16, &[u8]) -> bool;

/// An answer: its status and all of its body, which is wiped when dropped.
pub(crate) struct Reply {
    pub(crate) status: u16,
    retry_after: Option<Duration>,
    location: Option<String>,
    /// The clock of whoever answered.
    pub(crate) date: Option<SystemTime>,
    pub(crate) body: Zeroizing<Vec<u8>>,
}

impl Api {
    /// `login` says how the session logs in.
    pub(crate) fn new(config: &VaultConfig, login: Option<&str>) -> Result<Self, ConfigError> {
        let url = client::parse_address(&config.address_from, &config.address)?;
        let (http, target) = client::build(config, &url)?;
        let namespace = config.namespace.clone();
        if let Some(name) = &namespace
            && !name.bytes().all(|b| b.is_ascii_graphic())
        {
            return Err(ConfigError::new(
                "namespace",
                "holds characters that no header can carry: use plain ASCII",
            ));
        }
        if config.mint_timeout > mint_time::MOST {
            return Err(ConfigError::new("mint_timeout", MINT_TIMEOUT_TOO_LONG));
        }
        let place = target.configured().to_string();
        let parts = [Some(&*place), namespace.as_deref(), login];
        let parts = || parts.into_iter().flatten().collect::<Vec<_>>().join(" ");
        let name = config.name.clone().unwrap_or_else(parts);
        Ok(Self {
            http,
            shown: target.shown(),
            target,
            prefix: url.path().trim_end_matches('/').to_owned(),
            namespace,
            calls: Calls::default(),
            meter: Meter::new(name.into()),
            limiter: config.rate_limit.map(Limiter::new),
            lanes: Lanes::new(config.max_in_flight),
            clock: config.clock.clone(),
            max_response: config.max_response,
            request_timeout: config.request_timeout,
            mint_timeout: config.mint_timeout,
        })
    }

    /// The server's address, for messages.
    pub(crate) fn address(&self) -> &str {
        &self.shown
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
        read(op, path, &self.call(op, path, endpoint, token, timeout).await?)
    }

    /// Asks for a login, within `time`.
    pub(crate) async fn mint<R: DeserializeOwned, E: Endpoint>(
        &self,
        path: &str,
        endpoint: E,
        token: &Token,
        time: MintTime,
    ) -> Result<R, Failure> {
        let too_late = |kind, why| {
            let message = format!("{} {path}: {why}", Op::Issue.doing());
            SourceError::new(kind, message).before_issuing()
        };
        if let Some(limiter) = &self.limiter
            && let Err(wait) = limiter.turn_by(&self.clock, time.ready_by()).await
        {
            let e = too_late(ErrorKind::Throttled, "rate_limit lets no request through for now");
            return Err(e.retry_after(wait).into());
        }
        let late = || too_late(ErrorKind::Throttled, "max_in_flight requests are not answered yet");
        let turn = async { Ok(self.lanes.enter(Op::Issue).await) };
        let pass = mint_time::by(&self.clock, time.ready_by(), turn, late).await?;
        let Some(timeout) = time.for_answer(self.clock.now(), self.mint_timeout) else {
            return Err(too_late(ErrorKind::Timeout, "it took too long to get to ask").into());
        };
        let request =
            self.request(path, endpoint, self.namespace.as_deref(), Some(token), timeout)?;
        // Boxed, as below: what waits for its turn has no need of the room yet.
        let asked = (path, E::answers as Answers);
        let answer = Box::pin(self.answer(pass, Op::Issue, asked, request, Some(token)));
        read(Op::Issue, path, &answer.await?)
    }

    /// Makes one call; anything but what the endpoint takes for an answer, a 2xx, is an error.
    pub(crate) async fn call<E: Endpoint>(
        &self,
        op: Op,
        path: &str,
        endpoint: E,
        token: Option<&Token>,
        timeout: Duration,
    ) -> Result<Reply, Failure> {
        let request = self.request(path, endpoint, self.namespace.as_deref(), token, timeout)?;
        if let Some(limiter) = &self.limiter {
            // Each of these is one of a kind and has its own pace, and a session that waits for
            // its token waits for all.
            match op {
                Op::Login | Op::WrapLookup | Op::Unwrap => limiter.pass(&self.clock),
                Op::TokenLookup | Op::TokenRenew | Op::TokenRevoke => limiter.pass(&self.clock),
                _ => limiter.turn(&self.clock).await,
            }
        }
        let pass = self.lanes.enter(op).await;
        Box::pin(self.answer(pass, op, (path, E::answers), request, token)).await
    }

    async fn answer(
        &self,
        pass: Pass<'_>,
        op: Op,
        (path, answers): (&str, Answers),
        request: reqwest::Request,
        token: Option<&Token>,
    ) -> Result<Reply, Failure> {
        self.calls.count(op);
        let call = Call::begin(op, path, &self.clock, &self.meter);
        let answer = self.answer_to(&call, op, (path, answers), request, token);
        let answer = pass.until_answered(answer.instrument(call.span.clone())).await;
        call.ended(match &answer {
            Ok(reply) if reply.status >= 500 => Some(ErrorKind::ServerFault),
            Ok(reply) if reply.status >= 300 => Some(ErrorKind::Other),
            Ok(_) => None,
            Err(failure) => Some(failure.error().kind()),
        });
        answer
    }

    async fn answer_to(
        &self,
        call: &Call<'_>,
        op: Op,
        (path, answers): (&str, Answers),
        request: reqwest::Request,
        token: Option<&Token>,
    ) -> Result<Reply, Failure> {
        // For what is said of a failure: the body is not copied for it.
        let asked = request.try_clone();
        let reply = self.send(call, op, path, request).await?;
        if answers(reply.status, &reply.body) {
            return Ok(reply);
        }
        let sent = confided(op, asked.as_ref(), token);
        let answer = Answer {
            status: reply.status,
            body: &reply.body,
            retry_after: reply.retry_after,
            location: reply.location.as_deref(),
            namespace: self.namespace.as_deref(),
            sent: &sent,
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
        let request = self.request(path, endpoint, None, None, timeout)?;
        let call = Call::begin(Op::Health, path, &self.clock, &self.meter);
        let reply = self.send(&call, Op::Health, path, request);
        let reply = reply.instrument(call.span.clone()).await;
        call.ended(reply.as_ref().err().map(SourceError::kind));
        reply
    }

    fn request<E: Endpoint>(
        &self,
        path: &str,
        endpoint: E,
        namespace: Option<&str>,
        token: Option<&Token>,
        timeout: Duration,
    ) -> Result<reqwest::Request, SourceError> {
        // Causes are dropped, as they may hold the request.
        let bad = || {
            let message = format!("{path} makes no valid request path: check mount and role");
            SourceError::new(ErrorKind::Other, message)
        };
        let mut url = Url::parse(&self.target.origin).map_err(|_| bad())?;
        // By segments: a name with a `?` or `#` in it must not begin another part of the URL.
        url.path_segments_mut().map_err(|()| bad())?.extend(endpoint.path().split('/'));
        url.set_path(&format!("{}/v1{}", self.prefix, url.path()));
        url.set_query(endpoint.query().as_deref());
        let method = Method::from_bytes(E::METHOD.as_bytes()).map_err(|_| bad())?;
        let mut request = reqwest::Request::new(method, url);
        let body = endpoint.body().ok_or_else(bad)?;
        // Wiped when the client lets go of it.
        *request.body_mut() = Some(Bytes::from_owner(body).into());
        // Some servers ask for it, against requests that a browser was tricked into.
        request.headers_mut().insert("x-vault-request", HeaderValue::from_static("true"));
        if let Some(kind) = E::CONTENT_TYPE {
            request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        }
        if let Some(namespace) = namespace {
            let value = HeaderValue::from_str(namespace).map_err(|_| bad())?;
            request.headers_mut().insert("x-vault-namespace", value);
        }
        if let Some(host) = &self.target.host {
            request.headers_mut().insert(HOST, host.clone());
        }
        if let Some(token) = token {
            request.headers_mut().insert("x-vault-token", token.header());
        }
        *request.timeout_mut() = Some(timeout);
        Ok(request)
    }

    async fn send(
        &self,
        call: &Call<'_>,
        op: Op,
        path: &str,
        request: reqwest::Request,
    ) -> Result<Reply, SourceError> {
        let failed = |e: reqwest::Error| no_answer(op, path, &self.shown, &e);
        let mut response = self.http.execute(request).await.map_err(failed)?;
        call.answered(response.status().as_u16());
        let header = |name| {
            let value = response.headers().get(name)?;
            value.to_str().ok().map(str::to_owned)
        };
        let mut reply = Reply {
            status: response.status().as_u16(),
            retry_after: header(RETRY_AFTER).and_then(|v| retry_after(&v, self.clock.wall())),
            location: header(LOCATION),
            date: header(DATE).and_then(|date| httpdate::parse_http_date(&date).ok()),
            body: Zeroizing::new(Vec::with_capacity(4096)),
        };
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            if reply.body.len() + chunk.len() > self.max_response {
                let problem = format!("is longer than {}", size(self.max_response));
                return Err(malformed(op, path, &problem));
            }
            append(&mut reply.body, &chunk);
        }
        Ok(reply)
    }
}

pub(crate) fn read<R: DeserializeOwned>(op: Op, path: &str, reply: &Reply) -> Result<R, Failure> {
    // The parser's own words could repeat a piece of the body.
    let parsed = serde_json::from_slice(&reply.body);
    parsed.map_err(|_| malformed(op, path, "could not be understood").into())
}

/// The secrets in a request, for which the server's error text is searched: no server is known to
/// say them back, yet some plugin may, and that text goes into logs.
fn confided(
    op: Op,
    request: Option<&reqwest::Request>,
    token: Option<&Token>,
) -> Vec<Zeroizing<String>> {
    let mut sent: Vec<_> = token.map(Token::text).into_iter().collect();
    if matches!(op, Op::Login | Op::WrapLookup | Op::Write | Op::Patch | Op::Transit)
        && let Some(body) = request.and_then(reqwest::Request::body)
        && let Some(body) = body.as_bytes()
        && let Ok(body) = serde_json::from_slice(body)
    {
        collect_secrets(body, &mut sent);
    }
    if op == Op::Transit {
        let decoded: Vec<_> = sent.iter().filter_map(|text| transit::decoded(text)).collect();
        sent.extend(decoded);
    }
    sent
}

/// Whatever text is in a login's body, its public names excepted. Moved, so that it is wiped.
fn collect_secrets(value: Value, into: &mut Vec<Zeroizing<String>>) {
    match value {
        Value::String(text) => into.push(Zeroizing::new(text)),
        Value::Array(items) => items.into_iter().for_each(|item| collect_secrets(item, into)),
        Value::Object(fields) => {
            for (name, field) in fields {
                if !matches!(name.as_str(), "role" | "name") {
                    collect_secrets(field, into);
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn size(bytes: usize) -> String {
    const MIB: usize = 1024 * 1024;
    if bytes.is_multiple_of(MIB) {
        format!("{} MiB", bytes / MIB)
    } else {
        format!("{bytes} bytes")
    }
}

/// Seconds, or a date. One that is over means now; anything else is as if nothing was said.
pub(crate) fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    let after = match value.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => httpdate::parse_http_date(value).ok()?.duration_since(now).unwrap_or_default(),
    };
    Some(after.min(MAX_RETRY_AFTER))
}

/// 307 and 308 keep method and body, the others turn a POST into a GET. And reqwest would take
/// our token along to wherever the server points, as it knows it only for some header.
pub(crate) fn within_the_cluster(
    attempt: Attempt<'_>,
    trusted: &[Origin],
) -> reqwest::redirect::Action {
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
