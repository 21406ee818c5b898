//! The Vault API over plain HTTP on loopback: one connection per request.
//!
//! No pooled connection means none that belongs to another test's runtime, and none that a stop
//! or a pause of the server left half open.

use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

use crate::{Error, Result};

/// Above the server's own limit of 90 s: a read of credentials that the client cuts short can
/// leave a Postgres role that nobody revokes.
pub(crate) const LIMIT: Duration = Duration::from_secs(100);

/// A status and a body: `Null` where there is none.
pub(crate) type Reply = (u16, Value);

/// Sends one request and returns whatever the server answers.
pub(crate) async fn request(
    authority: &str,
    token: &str,
    method: &str,
    path: &str,
    body: Option<&Value>,
) -> Result<Reply> {
    let token = ("X-Vault-Token", token);
    let headers = if token.1.is_empty() { &[][..] } else { &[token][..] };
    request_within(LIMIT, authority, headers, method, path, body).await
}

/// The same with another limit and other headers.
pub(crate) async fn request_within(
    limit: Duration,
    authority: &str,
    headers: &[(&str, &str)],
    method: &str,
    path: &str,
    body: Option<&Value>,
) -> Result<Reply> {
    let path = path.trim_start_matches('/').trim_start_matches("v1/");
    let no_answer = |detail: String| Error::NoAnswer {
        method: method.to_owned(),
        path: path.to_owned(),
        detail,
    };
    let mut request = Request::builder()
        .method(method)
        .uri(format!("/v1/{path}"))
        .header("Host", authority)
        .header("Connection", "close");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let bytes = body.map(|b| Bytes::from(b.to_string())).unwrap_or_default();
    let request = request
        .body(Full::new(bytes))
        .map_err(|e| Error::BadSpec(format!("{method} {path} is no valid request: {e}")))?;

    let exchange = async {
        let stream = TcpStream::connect(authority).await.map_err(|e| e.to_string())?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|e| e.to_string())?;
        // The connection is driven here, not in a task of its own: nothing outlives this call.
        let answer = async {
            let response = sender.send_request(request).await.map_err(|e| e.to_string())?;
            let status = response.status().as_u16();
            let bytes = response.into_body().collect().await.map_err(|e| e.to_string())?.to_bytes();
            Ok::<_, String>((status, bytes))
        };
        tokio::pin!(answer, connection);
        tokio::select! {
            done = &mut answer => done,
            closed = &mut connection => {
                closed.map_err(|e| e.to_string())?;
                answer.await // the connection's end; the rest of the body is buffered already
            }
        }
    };
    let (status, bytes) = tokio::time::timeout(limit, exchange)
        .await
        .map_err(|_| no_answer(format!("nothing within {limit:?}")))?
        .map_err(no_answer)?;
    // Always JSON or empty from the API itself; anything else is kept as text.
    let value = if bytes.is_empty() {
        Value::Null
    } else {
        serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()))
    };
    Ok((status, value))
}

/// Turns an error status into an error.
pub(crate) fn ok(method: &str, path: &str, (status, value): Reply) -> Result<Value> {
    if (200..300).contains(&status) {
        return Ok(value);
    }
    let body = match value.get("errors").and_then(Value::as_array) {
        Some(errors) if !errors.is_empty() => {
            errors.iter().filter_map(Value::as_str).collect::<Vec<_>>().join("; ")
        }
        _ => value.to_string(),
    };
    Err(Error::Vault { method: method.to_owned(), path: path.to_owned(), status, body })
}
