//! A small load: clients that talk to the service as any client would, over TCP.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum_app::Latencies;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use crate::chain;
use crate::harm::Record;

/// Each client begins one request per slot; slots that it is too late for are left out.
const PACE: Duration = Duration::from_millis(25);
/// A request that takes longer has failed.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Failures that are kept word by word.
const KEPT: usize = 3;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Clients at work.
#[derive(Debug)]
pub(crate) struct Load {
    results: Results,
    stop: watch::Sender<bool>,
    workers: JoinSet<()>,
}

impl Load {
    /// Failures that `harm` explains are counted apart.
    pub(crate) fn start(address: SocketAddr, workers: u16, harm: Record) -> Self {
        let (stop, stopped) = watch::channel(false);
        let results = Results { counts: Arc::default(), harm };
        let workers = (0..workers)
            .map(|_| work(address, results.clone(), stopped.clone()))
            .collect::<JoinSet<()>>();
        Self { results, stop, workers }
    }

    pub(crate) fn results(&self) -> &Results {
        &self.results
    }

    /// Lets every request under way come to its end.
    pub(crate) async fn stop(mut self) -> Results {
        self.stop.send_replace(true);
        while let Some(outcome) = self.workers.join_next().await {
            if let Err(e) = outcome {
                self.results.failed(Instant::now(), format!("a client of the load ended: {e}"));
            }
        }
        self.results
    }
}

/// What the clients met; shared.
#[derive(Clone, Debug)]
pub(crate) struct Results {
    counts: Arc<Mutex<Counts>>,
    harm: Record,
}

#[derive(Debug, Default)]
struct Counts {
    ok: u64,
    failed: u64,
    /// Failed after somebody pressed a button, and by that.
    harmed: u64,
    first_failures: Vec<String>,
    /// Cents that deposits were confirmed for.
    deposited: i64,
    latest: Latencies,
    all: Latencies,
}

impl Results {
    pub(crate) fn ok(&self) -> u64 {
        self.counts().ok
    }

    /// Without those that somebody pressed a button for.
    pub(crate) fn failures(&self) -> u64 {
        self.counts().failed
    }

    pub(crate) fn harmed(&self) -> u64 {
        self.counts().harmed
    }

    /// The first few, word by word.
    pub(crate) fn first_failures(&self) -> Vec<String> {
        self.counts().first_failures.clone()
    }

    pub(crate) fn deposited(&self) -> i64 {
        self.counts().deposited
    }

    /// Latencies since the last call.
    pub(crate) fn take_latest(&self) -> Latencies {
        std::mem::take(&mut self.counts().latest)
    }

    pub(crate) fn all(&self) -> Latencies {
        self.counts().all.clone()
    }

    fn succeeded(&self, took: Duration, deposited: i64) {
        let mut counts = self.counts();
        counts.ok += 1;
        counts.deposited += deposited;
        counts.latest.record(took);
        counts.all.record(took);
    }

    fn failed(&self, begun: Instant, why: String) {
        if self.harm.explains(begun) {
            self.counts().harmed += 1;
            return;
        }
        let mut counts = self.counts();
        counts.failed += 1;
        if counts.first_failures.len() < KEPT {
            counts.first_failures.push(why);
        }
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn work(address: SocketAddr, results: Results, mut stop: watch::Receiver<bool>) {
    let mut slots = tokio::time::interval(PACE);
    slots.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut client = None;
    loop {
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            _ = slots.tick() => {}
        }
        let call = Call::pick();
        let begun = Instant::now();
        match tokio::time::timeout(TIMEOUT, send(address, &mut client, &call)).await {
            Ok(Ok(())) => results.succeeded(begun.elapsed(), call.amount),
            Ok(Err(e)) => {
                client = None;
                results.failed(begun, format!("{call}: {}", chain(&*e)));
            }
            Err(_) => {
                client = None;
                results.failed(begun, format!("{call}: no answer within {TIMEOUT:?}"));
            }
        }
    }
}

/// One request.
#[derive(Debug)]
struct Call {
    method: Method,
    path: String,
    /// Cents to deposit.
    amount: i64,
}

impl Call {
    /// Mostly reads, every third a transaction.
    fn pick() -> Self {
        let id = fastrand::u32(0..10_000);
        match fastrand::u32(0..10) {
            0 => Self { method: Method::GET, path: "/accounts?limit=10".to_owned(), amount: 0 },
            1..=3 => Self {
                method: Method::POST,
                path: format!("/accounts/{id}/deposit"),
                amount: fastrand::i64(1..=500),
            },
            _ => Self { method: Method::GET, path: format!("/accounts/{id}"), amount: 0 },
        }
    }
}

impl std::fmt::Display for Call {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.method, self.path)
    }
}

async fn send(
    address: SocketAddr,
    client: &mut Option<SendRequest<Full<Bytes>>>,
    call: &Call,
) -> Result<(), Error> {
    let client = match client.take() {
        Some(open) if !open.is_closed() => client.insert(open),
        _ => {
            let (new, connection) =
                handshake(TokioIo::new(TcpStream::connect(address).await?)).await?;
            // Ends with the client; its error is the request's error too.
            tokio::spawn(connection);
            client.insert(new)
        }
    };
    let body = match call.amount {
        0 => Bytes::new(),
        amount => Bytes::from(format!("{{\"amount\":{amount}}}")),
    };
    let request = Request::builder()
        .method(&call.method)
        .uri(&call.path)
        .header(HOST, "localhost")
        .header(CONTENT_TYPE, "application/json")
        .body(Full::new(body))?;
    let response = client.send_request(request).await?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    if status.is_success() {
        return Ok(());
    }
    Err(format!("{status}: {}", String::from_utf8_lossy(&body)).into())
}
