//! Sessions and sources against a server on loopback that answers whatever the input says: status
//! lines, headers, redirects, bodies that are right, wrong, spliced, too long or cut short.
//! Everything logged at TRACE is searched for secrets.

#![no_main]

use std::cell::RefCell;
use std::io::Write;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use arbitrary::{Arbitrary, Unstructured};
use leasehold::{CredentialSource, Issued, RevokeMode, SourceError};
use leasehold_fuzz::{NEEDLE, SECRET, no_secret_in, one_line};
use leasehold_vault::{Auth, SecretId, Session, VaultConfig};
use libfuzzer_sys::fuzz_target;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    auth: u8,
    uses: [u8; 4],
    /// So many questions are answered as they should be first, and all after these.
    first: u8,
    answers: Vec<Answer<'a>>,
}

/// The next answer, whatever is asked.
#[derive(Arbitrary, Debug)]
struct Answer<'a> {
    status: u8,
    headers: Vec<(u8, &'a str)>,
    body: Body<'a>,
    framing: u8,
    /// Bytes of the body replaced by others.
    splice: Option<(u16, u8, [u8; 3])>,
}

#[derive(Arbitrary, Debug)]
enum Body<'a> {
    /// What should be answered, with these in it.
    Right {
        seconds: u64,
        name: &'a str,
        uses: i8,
        renewable: bool,
    },
    /// What was asked is said back.
    Echo,
    Errors(Vec<&'a str>),
    Raw(&'a [u8]),
    Long(u16),
}

const STATUS: [u16; 22] = [
    200, 200, 200, 200, 204, 301, 307, 308, 400, 401, 403, 404, 405, 412, 429, 472, 473, 500, 502,
    503, 199, 999,
];
const HEADERS: [&str; 8] = [
    "retry-after",
    "location",
    "content-encoding",
    "transfer-encoding",
    "content-type",
    "set-cookie",
    "connection",
    "x-vault-token",
];

/// One answer, ready to be sent.
struct Scripted {
    head: String,
    body: Make,
    framing: u8,
    splice: Option<(u16, u8, [u8; 3])>,
    /// The client knows where it ends, so that there can be another on the connection.
    ends: bool,
}

enum Make {
    Right { seconds: u64, name: String, uses: i8, renewable: bool },
    Echo,
    Bytes(Vec<u8>),
}

#[derive(Default)]
struct Script {
    /// Which input it is of: what an earlier one left running is not answered.
    number: u64,
    /// `None` is as it should be, as is all that comes after these.
    answers: std::collections::VecDeque<Option<Scripted>>,
}

struct World {
    runtime: Runtime,
    script: Arc<Mutex<Script>>,
    at: String,
    elsewhere: String,
}

thread_local! {
    static WORLD: RefCell<Option<World>> = const { RefCell::new(None) };
}

/// What is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

static LOG: LazyLock<Log> = LazyLock::new(|| {
    let log = Log::default();
    let to = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(move || to.clone());
    subscriber.init();
    log
});

impl World {
    fn new() -> Self {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let script = Arc::new(Mutex::new(Script::default()));
        let (at, elsewhere) = runtime.block_on(async {
            let here = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let other = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let at = here.local_addr().expect("bound").to_string();
            let elsewhere = other.local_addr().expect("bound").to_string();
            let (to, places) = (script.clone(), (at.clone(), elsewhere.clone()));
            tokio::spawn(async move {
                while let Ok((stream, _)) = here.accept().await {
                    tokio::spawn(serve(stream, to.clone(), places.clone()));
                }
            });
            tokio::spawn(async move {
                if other.accept().await.is_ok() {
                    panic!("a redirect was followed to another origin");
                }
            });
            (at, elsewhere)
        });
        Self { runtime, script, at, elsewhere }
    }
}

async fn serve(mut stream: TcpStream, script: Arc<Mutex<Script>>, places: (String, String)) {
    let mut received = Vec::new();
    while let Some(request) = request(&mut stream, &mut received).await {
        let number: u64 =
            request.split(['/', ' ']).nth(2).and_then(|n| n.parse().ok()).unwrap_or(0);
        let answer = {
            let mut script = script.lock().unwrap_or_else(PoisonError::into_inner);
            (script.number == number).then(|| script.answers.pop_front().flatten())
        };
        let Some(answer) = answer else { return };
        let answer = answer.unwrap_or_else(Scripted::fine);
        let (bytes, goes_on) = answer.bytes(&request, &places);
        if stream.write_all(&bytes).await.is_err() || !goes_on {
            return;
        }
    }
}

async fn request(stream: &mut TcpStream, received: &mut Vec<u8>) -> Option<String> {
    loop {
        if let Some(end) = received.windows(4).position(|w| w == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&received[..end]).to_lowercase();
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length:"))
                .map_or(0, |n| n.trim().parse().unwrap_or(0));
            if received.len() >= end + 4 + length {
                let request: Vec<u8> = received.drain(..end + 4 + length).collect();
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

impl Scripted {
    fn new(answer: &Answer<'_>) -> Self {
        let mut head = STATUS[usize::from(answer.status) % STATUS.len()].to_string() + " It\r\n";
        for (name, value) in &answer.headers {
            let name = HEADERS[usize::from(*name) % HEADERS.len()];
            head += &format!("{name}: {value}\r\n");
        }
        let body = match &answer.body {
            Body::Right { seconds, name, uses, renewable } => Make::Right {
                seconds: *seconds,
                name: (*name).to_owned(),
                uses: *uses,
                renewable: *renewable,
            },
            Body::Echo => Make::Echo,
            Body::Errors(errors) => {
                Make::Bytes(serde_json::json!({ "errors": errors }).to_string().into_bytes())
            }
            Body::Raw(bytes) => Make::Bytes(bytes.to_vec()),
            Body::Long(times) => Make::Bytes(b"{\"x\":1} ".repeat(usize::from(*times) / 4)),
        };
        let status = STATUS[usize::from(answer.status) % STATUS.len()];
        let ends = answer.headers.is_empty() && answer.framing % 6 < 2 && status >= 200;
        Self { head, body, framing: answer.framing, splice: answer.splice, ends }
    }

    /// As it should be.
    fn fine() -> Self {
        let (seconds, name) = (3600, "app".to_owned());
        let body = Make::Right { seconds, name, uses: 0, renewable: true };
        Self { head: "200 It\r\n".to_owned(), body, framing: 0, splice: None, ends: true }
    }

    /// All that is sent, and whether the connection stays.
    fn bytes(self, request: &str, (at, elsewhere): &(String, String)) -> (Vec<u8>, bool) {
        let mut body = match self.body {
            Make::Right { seconds, name, uses, renewable } => {
                right(request, seconds, &name, uses, renewable).into_bytes()
            }
            Make::Bytes(bytes) => bytes,
            Make::Echo => {
                let said: Vec<_> = request.split(['\r', '\n', '"']).collect();
                // Whole: what is cut in two is not what was sent.
                let body = serde_json::json!({ "errors": said }).to_string().into_bytes();
                return (framed(&self.head, &body, 0), self.ends);
            }
        };
        if let Some((from, cut, other)) = self.splice {
            // A few bytes: no more than turns one key into none.
            let from = usize::from(from) % (body.len() + 1);
            let to = (from + usize::from(cut % 5)).min(body.len());
            body.splice(from..to, other);
        }
        let head = self.head.replace("$at", at).replace("$else", elsewhere);
        (framed(&head, &body, self.framing), self.ends)
    }
}

fn framed(head: &str, body: &[u8], framing: u8) -> Vec<u8> {
    let (length, body) = match framing % 6 {
        0 | 1 => (format!("content-length: {}\r\n", body.len()), body.to_vec()),
        2 => {
            let mut chunked = format!("{:x}\r\n", body.len()).into_bytes();
            chunked.extend_from_slice(body);
            chunked.extend_from_slice(b"\r\n0\r\n\r\n");
            ("transfer-encoding: chunked\r\n".to_owned(), chunked)
        }
        3 => ("connection: close\r\n".to_owned(), body.to_vec()),
        4 => (format!("content-length: {}\r\n", body.len() + 7), body.to_vec()),
        _ => return [head.as_bytes(), body].concat(),
    };
    let head = format!("HTTP/1.1 {head}{length}\r\n");
    [head.as_bytes(), &body].concat()
}

/// What a server answers there.
fn right(request: &str, seconds: u64, name: &str, uses: i8, renewable: bool) -> String {
    let path = request.split(' ').nth(1).unwrap_or_default();
    let path = path.split_once("/v1/").map_or(path, |(_, path)| path);
    let login = serde_json::json!({ "password": SECRET, "username": name });
    match path {
        "sys/health" => serde_json::json!({
            "initialized": true, "sealed": false, "standby": renewable, "version": name,
        }),
        "sys/capabilities-self" => serde_json::json!({ "data": {
            "database/creds/app": ["read"], "sys/leases/renew": [name],
            "sys/leases/revoke": ["update"], "auth/token/renew-self": ["root"],
            "auth/token/lookup-self": ["read"], "auth/token/revoke-self": ["update"],
        }}),
        "sys/wrapping/lookup" => serde_json::json!({ "data": {
            "creation_path": format!("auth/approle/role/{name}/secret-id"),
        }}),
        "sys/wrapping/unwrap" => serde_json::json!({ "data": { "secret_id": SECRET } }),
        "auth/token/lookup-self" => serde_json::json!({ "data": {
            "ttl": seconds, "creation_ttl": seconds, "expire_time": name, "num_uses": uses,
            "renewable": renewable, "type": "service",
        }}),
        "sys/leases/renew" => serde_json::json!({ "lease_duration": seconds }),
        "database/creds/app" => serde_json::json!({
            "lease_id": name, "lease_duration": seconds, "renewable": renewable, "data": login,
        }),
        "database/static-creds/app" => serde_json::json!({ "data": {
            "password": SECRET, "username": name, "ttl": seconds, "last_vault_rotation": name,
        }}),
        "kv/app" => serde_json::json!({ "data": login }),
        "kv/data/app" => serde_json::json!({ "data": {
            "data": login, "metadata": { "version": seconds },
        }}),
        "kv/metadata/app" => serde_json::json!({ "data": { "current_version": seconds } }),
        _ => serde_json::json!({ "auth": {
            "client_token": SECRET, "lease_duration": seconds, "renewable": renewable,
            "token_type": "service", "num_uses": uses,
        }}),
    }
    .to_string()
}

fuzz_target!(|data: &[u8]| {
    // Only what is planted below is a secret.
    if data.windows(NEEDLE.len()).any(|w| w == NEEDLE.as_bytes()) {
        return;
    }
    let Ok(input) = Input::arbitrary(&mut Unstructured::new(data)) else { return };
    let log = &*LOG;
    WORLD.with_borrow_mut(|world| {
        let world = world.get_or_insert_with(World::new);
        let number = {
            let mut script = world.script.lock().unwrap_or_else(PoisonError::into_inner);
            script.number += 1;
            let first = (0..input.first % 12).map(|_| None);
            let then = input.answers.iter().take(24).map(|answer| Some(Scripted::new(answer)));
            script.answers = first.chain(then).collect();
            script.number
        };
        let config = VaultConfig::new(format!("http://{}/{number}", world.at))
            .request_timeout(Duration::from_secs(20))
            .mint_timeout(Duration::from_secs(20))
            .max_response(16 * 1024);
        let run = async {
            let most = Duration::from_secs(300);
            let run = tokio::time::timeout(most, use_it(&input, config)).await;
            run.expect("no call takes longer than its timeout");
        };
        world.runtime.block_on(run);
        assert_ne!(world.at, world.elsewhere);
    });
    let mut logged = log.0.lock().unwrap_or_else(PoisonError::into_inner);
    let text = String::from_utf8_lossy(&logged).into_owned();
    logged.clear();
    drop(logged);
    no_secret_in(&text);
});

async fn use_it(input: &Input<'_>, config: VaultConfig) {
    let auth = match input.auth % 6 {
        0 | 1 => Auth::approle("role", SECRET),
        2 => Auth::approle("role", SecretId::wrapped(SECRET)),
        3 => Auth::token(SECRET),
        4 => Auth::userpass("joe", SECRET),
        _ => Auth::custom("auth/other/login", || async {
            Ok(serde_json::json!({ "role": "app", "proof": [SECRET] }))
        }),
    };
    let Some(session) = fit(Session::login(config, auth).await) else { return };
    for step in input.uses {
        match step % 8 {
            0..=2 => {
                let source = session.dynamic_role("database", "app");
                let Some(Issued { lease, .. }) = issued(source.issue().await) else { continue };
                fit(source.renew(&lease, Duration::from_secs(60)).await);
                fit(source.revoke(&lease, RevokeMode::Sync).await);
            }
            3 => drop(issued(session.static_role("database", "app").issue().await)),
            4 => drop(issued(session.kv1("kv", "app").issue().await)),
            5 => drop(issued(session.kv2("kv", "app").issue().await)),
            6 => no_secret_in(&format!("{:?}", session.health().await)),
            _ => {
                if let Some(missing) =
                    fit(session.dynamic_role("database", "app").privileges().await)
                {
                    missing.iter().for_each(|m| one_line(&m.to_string()));
                }
            }
        }
        let state = session.token_state();
        no_secret_in(&format!("{state:?} {session:?}"));
    }
    for left in session.close().await {
        no_secret_in(&left);
        one_line(&left);
    }
}

fn issued(result: Result<Issued, SourceError>) -> Option<Issued> {
    let issued = fit(result)?;
    no_secret_in(&format!("{issued:?}"));
    one_line(issued.credential.username());
    Some(issued)
}

/// What failed says so in one line, with no secret in it.
fn fit<T>(result: Result<T, SourceError>) -> Option<T> {
    result
        .map_err(|e| {
            no_secret_in(&format!("{e} {e:?}"));
            one_line(&e.to_string());
        })
        .ok()
}
