//! An HTTP server that answers what it is told to, faults included.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

type Answer = Arc<dyn Fn(&str) -> Reply + Send + Sync>;

/// One scripted server. Paths without an answer get a 404.
pub struct Script {
    address: String,
    shared: Arc<Shared>,
    tls: Option<TlsAcceptor>,
    /// Keeps the port while nobody listens on it.
    _port: TcpSocket,
    /// Accepts, and holds the connections. `None` while the server is down.
    task: Mutex<Option<AbortOnDrop>>,
}

struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn bind(to: SocketAddr) -> TcpSocket {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_reuseport(true).expect("a socket option");
    socket.bind(to).expect("bind");
    socket
}

#[derive(Default)]
struct Shared {
    /// By path below `/v1/`: what to answer, in order, and whether it was given yet.
    answers: Mutex<HashMap<String, Vec<(Answer, bool)>>>,
    /// Requests as they came, by path.
    seen: Mutex<Vec<(String, String)>>,
}

#[derive(Clone)]
pub struct Reply {
    status: u16,
    headers: String,
    body: String,
    how: How,
    wait: Duration,
}

#[derive(Clone, Copy, PartialEq)]
enum How {
    Whole,
    /// The length is not told; the end of the connection is the end of the body.
    Undeclared,
    /// More is promised than comes.
    CutShort,
    /// More is promised, and the connection stays open.
    Stalled,
    HangUp,
    /// Closed with a reset, as by a machine that lost its connections.
    Reset,
    /// A byte now and then, for ever.
    Dripping,
    Silence,
}

/// How long until the next byte of an answer that drips.
const DRIP: Duration = Duration::from_millis(50);

/// A connection that can be closed with a reset.
trait Wire: AsyncRead + AsyncWrite + Unpin {
    fn reset_on_close(&self);
}

impl Wire for TcpStream {
    fn reset_on_close(&self) {
        self.set_zero_linger().expect("a socket option");
    }
}

impl Wire for tokio_rustls::server::TlsStream<TcpStream> {
    fn reset_on_close(&self) {
        self.get_ref().0.reset_on_close();
    }
}

impl Reply {
    pub fn json(status: u16, body: impl Into<String>) -> Self {
        Self {
            status,
            headers: String::new(),
            body: body.into(),
            how: How::Whole,
            wait: Duration::ZERO,
        }
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers += &format!("{name}: {value}\r\n");
        self
    }

    pub fn cut_short(self) -> Self {
        self.how(How::CutShort)
    }

    pub fn stalled(self) -> Self {
        self.how(How::Stalled)
    }

    pub fn undeclared(self) -> Self {
        self.how(How::Undeclared)
    }

    pub fn hang_up() -> Self {
        Self::json(200, "").how(How::HangUp)
    }

    pub fn reset() -> Self {
        Self::json(200, "").how(How::Reset)
    }

    pub fn dripping(self) -> Self {
        self.how(How::Dripping)
    }

    pub fn silence() -> Self {
        Self::json(200, "").how(How::Silence)
    }

    pub fn after(mut self, wait: Duration) -> Self {
        self.wait = wait;
        self
    }

    fn how(mut self, how: How) -> Self {
        self.how = how;
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let length = match self.how {
            How::Undeclared => String::new(),
            How::Whole if self.status == 204 => String::new(),
            How::Whole => format!("content-length: {}\r\n", self.body.len()),
            How::Dripping => "content-length: 1000000\r\n".to_owned(),
            _ => format!("content-length: {}\r\n", self.body.len() + 100),
        };
        let close = if self.how == How::Whole { "" } else { "connection: close\r\n" };
        format!(
            "HTTP/1.1 {} Scripted\r\ncontent-type: application/json\r\n{length}{close}{}\r\n{}",
            self.status, self.headers, self.body
        )
        .into_bytes()
    }
}

impl Script {
    pub async fn start() -> Self {
        Self::start_with(None).await
    }

    /// One that speaks TLS, with a certificate for 127.0.0.1 that is its own CA, in PEM form.
    pub async fn start_tls() -> (Self, String) {
        let own = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a key");
        let key = own.signing_key.serialize_der().try_into().expect("a key");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![own.cert.der().clone()], key)
            .expect("a certificate");
        let script = Self::start_with(Some(TlsAcceptor::from(Arc::new(config)))).await;
        (script, own.cert.pem())
    }

    async fn start_with(tls: Option<TlsAcceptor>) -> Self {
        let port = bind(SocketAddr::from(([127, 0, 0, 1], 0)));
        let at = port.local_addr().expect("bound");
        let scheme = if tls.is_some() { "https" } else { "http" };
        let script = Self {
            address: format!("{scheme}://{at}"),
            shared: Arc::default(),
            tls,
            _port: port,
            task: Mutex::new(None),
        };
        script.up();
        script
    }

    /// Takes connections again.
    pub fn up(&self) {
        let at = self.address.rsplit('/').next().expect("host and port");
        let listener = bind(at.parse().expect("an address")).listen(1024).expect("listen");
        let (shared, tls) = (self.shared.clone(), self.tls.clone());
        let accept = async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (shared, tls) = (shared.clone(), tls.clone());
                connections.spawn(async move {
                    let Some(tls) = tls else {
                        return serve(stream, shared).await;
                    };
                    // Else it does not trust us.
                    if let Ok(stream) = tls.accept(stream).await {
                        serve(stream, shared).await;
                    }
                });
            }
        };
        *self.task.lock().expect("lock") = Some(AbortOnDrop(tokio::spawn(accept)));
    }

    /// Closes all connections, and has new ones refused.
    pub fn down(&self) {
        *self.task.lock().expect("lock") = None;
    }

    pub fn address(&self) -> String {
        self.address.clone()
    }

    /// Adds an answer for a path. Each is given once; the last is repeated until there is another.
    pub fn answer(&self, path: &str, reply: Reply) {
        self.answer_with(path, move |_| reply.clone());
    }

    /// Adds an answer that depends on the request.
    pub fn answer_with(&self, path: &str, reply: impl Fn(&str) -> Reply + Send + Sync + 'static) {
        let mut answers = self.shared.answers.lock().expect("lock");
        let queue = answers.entry(path.to_owned()).or_default();
        queue.push((Arc::new(reply), false));
    }

    /// The requests to a path, each from its first line to its body.
    pub fn requests(&self, path: &str) -> Vec<String> {
        let seen = self.shared.seen.lock().expect("lock");
        let here = seen.iter().filter(|(p, _)| p == path);
        here.map(|(_, request)| request.clone()).collect()
    }

    pub fn all_requests(&self) -> usize {
        self.shared.seen.lock().expect("lock").len()
    }

    /// Method and path of each request, in the order they came.
    pub fn trace(&self) -> Vec<(String, String)> {
        let seen = self.shared.seen.lock().expect("lock");
        let line = |(path, request): &(String, String)| {
            let method = request.split(' ').next().unwrap_or_default();
            (method.to_owned(), path.clone())
        };
        seen.iter().map(line).collect()
    }
}

async fn serve(mut stream: impl Wire, shared: Arc<Shared>) {
    let mut received = Vec::new();
    loop {
        let Some(request) = read_request(&mut stream, &mut received).await else {
            return;
        };
        let reply = reply_to(&request, &shared);
        tokio::time::sleep(reply.wait).await;
        match reply.how {
            How::HangUp => return,
            How::Reset => return stream.reset_on_close(),
            How::Silence => return std::future::pending().await,
            _ => {}
        }
        if stream.write_all(&reply.bytes()).await.is_err() {
            return;
        }
        match reply.how {
            How::Whole => {}
            How::Stalled => return std::future::pending().await,
            How::Dripping => {
                while stream.write_all(b" ").await.is_ok() {
                    tokio::time::sleep(DRIP).await;
                }
                return;
            }
            _ => return,
        }
    }
}

fn reply_to(request: &str, shared: &Shared) -> Reply {
    let target = request.split(' ').nth(1).unwrap_or_default();
    let path = target.split_once("/v1/").map_or(target, |(_, path)| path);
    shared.seen.lock().expect("lock").push((path.to_owned(), request.to_owned()));
    let mut answers = shared.answers.lock().expect("lock");
    let answer = answers.get_mut(path).map(|queue| {
        while queue.len() > 1 && queue[0].1 {
            queue.remove(0);
        }
        queue[0].1 = true;
        queue[0].0.clone()
    });
    drop(answers);
    match answer {
        Some(answer) => answer(request),
        None => Reply::json(404, r#"{"errors":["no handler for route"]}"#),
    }
}

/// One request, head and body, as text.
async fn read_request(
    stream: &mut (impl AsyncRead + Unpin),
    received: &mut Vec<u8>,
) -> Option<String> {
    loop {
        if let Some(end) = received.windows(4).position(|w| w == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&received[..end]).to_lowercase();
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length:"))
                .map_or(0, |n| n.trim().parse().unwrap_or(0));
            if received.len() >= end + 4 + length {
                let request = received.drain(..end + 4 + length).collect::<Vec<_>>();
                return Some(String::from_utf8_lossy(&request).into_owned());
            }
        }
        let mut chunk = [0; 4096];
        match stream.read(&mut chunk).await {
            Ok(0) | Err(_) => return None,
            Ok(n) => received.extend_from_slice(&chunk[..n]),
        }
    }
}
