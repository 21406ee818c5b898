//! `/events` as a browser reads it.

use std::time::Duration;

use axum::body::Body;
use http_body_util::BodyExt;
use hyper::client::conn::http1::handshake;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

/// For a slow machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Server-sent events, one after another.
pub(crate) struct Stream {
    body: Body,
    text: String,
}

impl Stream {
    pub(crate) fn of(response: Response<Body>) -> Self {
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { body: response.into_body(), text: String::new() }
    }

    /// The next one: its name and its data. `None`: the stream has ended.
    pub(crate) async fn next(&mut self) -> Option<(String, Value)> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let field = |name: &str| event.lines().find_map(|l| l.strip_prefix(name));
                let event = field("event: ").zip(field("data: "));
                let event = event.map(|(n, d)| (n.to_owned(), serde_json::from_str(d).unwrap()));
                self.text = rest.to_owned();
                match event {
                    Some(event) => return Some(event),
                    None => continue, // kept alive
                }
            }
            let frame = tokio::time::timeout(PATIENCE, self.body.frame()).await;
            let data = frame.expect("nothing within a minute")?.ok()?.into_data().unwrap();
            self.text += std::str::from_utf8(&data).unwrap();
        }
    }

    /// The data of the next one of that name for which `found` finds something.
    pub(crate) async fn until<T>(&mut self, name: &str, found: impl Fn(&Value) -> Option<T>) -> T {
        let look = async {
            loop {
                let (event, data) = self.next().await.expect("the stream goes on");
                if let Some(found) = (event == name).then(|| found(&data)).flatten() {
                    return found;
                }
            }
        };
        tokio::time::timeout(PATIENCE, look).await.unwrap_or_else(|_| panic!("no such {name}"))
    }
}

/// One request over TCP. `url` is an origin.
pub(crate) async fn send(
    url: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
) -> Response<Body> {
    let host = url.trim_start_matches("http://");
    let stream = TcpStream::connect(host).await.unwrap();
    let (mut client, connection) = handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let mut request = Request::builder().method(method).uri(path);
    if !headers.iter().any(|(name, _)| *name == "host") {
        request = request.header("host", host);
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    client.send_request(request.body(Body::empty()).unwrap()).await.unwrap().map(Body::new)
}

/// The same, with its body as JSON.
pub(crate) async fn ask(
    url: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
) -> (StatusCode, Value) {
    let response = send(url, method, path, headers).await;
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&body).unwrap_or_default())
}
