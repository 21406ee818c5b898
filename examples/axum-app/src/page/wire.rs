//! How a browser gets the page: its files, and what is new as server-sent events.

use std::convert::Infallible;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::{HeaderValue, StatusCode};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use futures_util::stream;
use tokio::sync::broadcast;

use super::board::{Board, News};

/// Nothing from elsewhere, nothing inline, in nobody's frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
     connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// A browser that lost the stream asks again after that.
const RETRY: Duration = Duration::from_secs(1);

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

macro_rules! asset {
    ($name:literal) => {
        include_str!(concat!("../../assets/", $name))
    };
}

/// `/`, its files, and `/events`.
pub(crate) fn routes<S: Clone + Send + Sync + 'static>(board: Board) -> Router<S> {
    Router::new()
        .route("/", file(HTML, asset!("index.html")))
        .route("/page/style.css", file(CSS, asset!("style.css")))
        .route("/page/icon.svg", file(SVG, asset!("icon.svg")))
        .route("/page/main.js", file(JS, asset!("main.js")))
        .route("/page/state.js", file(JS, asset!("state.js")))
        .route("/page/now.js", file(JS, asset!("now.js")))
        .route("/page/timeline.js", file(JS, asset!("timeline.js")))
        .route("/page/chart.js", file(JS, asset!("chart.js")))
        .route("/page/log.js", file(JS, asset!("log.js")))
        .route("/page/buttons.js", file(JS, asset!("buttons.js")))
        .route("/page/svg.js", file(JS, asset!("svg.js")))
        .route("/events", get(events).with_state(board))
}

fn file<S: Clone + Send + Sync + 'static>(
    kind: &'static str,
    text: &'static str,
) -> MethodRouter<S> {
    get(move || async move { (headers(), [(CONTENT_TYPE, HeaderValue::from_static(kind))], text) })
}

fn headers() -> [(HeaderName, HeaderValue); 5] {
    [
        (CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
        (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
        (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ]
}

/// `GET /events`: first `hello` with all that is known, then what is new. Ends when the service
/// stops, or when the browser is too far behind; it then asks again and gets everything.
async fn events(State(board): State<Board>) -> Response {
    let Some((hello, news)) = board.follow() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "the service stops").into_response();
    };
    let first = |hello| sse(hello).retry(RETRY);
    let stream = stream::unfold((Some(hello), news), move |(hello, mut news)| async move {
        let event = match hello {
            Some(hello) => first(hello),
            None => next(&mut news).await?,
        };
        Some((Ok::<_, Infallible>(event), (None, news)))
    });
    let sse = Sse::new(stream).keep_alive(KeepAlive::default());
    (headers(), sse).into_response()
}

async fn next(news: &mut broadcast::Receiver<News>) -> Option<Event> {
    news.recv().await.ok().map(sse)
}

fn sse((what, json): News) -> Event {
    Event::default().event(what).data(&*json)
}
