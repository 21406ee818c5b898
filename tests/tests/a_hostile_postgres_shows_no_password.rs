//! A server that asks for the password in clear text, and says it back in a megabyte of lines that
//! look like ours; at once, or after it let everybody in. Scripted: no real Postgres does that.

#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use leasehold::{
    Credential, CredentialProvider, CredentialSource, Event, Issued, Lease, Rotator, SourceError,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

const PASSWORD: &str = "pw-that-must-not-leak";

#[derive(Debug, Default)]
struct Logins(AtomicU64);

impl CredentialSource for Logins {
    async fn issue(&self) -> Result<Issued, SourceError> {
        let n = self.0.fetch_add(1, Ordering::Relaxed);
        let lease = Lease::renewable(format!("lease-{n}"), Duration::from_secs(3600));
        Ok(Issued::new(Credential::new(format!("app-{n}"), PASSWORD), lease))
    }
}

/// One message of the server's.
fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
    [&[kind][..], &length, body].concat()
}

async fn sized(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let length = usize::try_from(stream.read_u32().await.ok()?).ok()?.checked_sub(4)?;
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some(body)
}

/// What the server does.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mood {
    /// Lets everybody in. Each statement fails with 42501, which a login that may read no catalog
    /// gets too.
    Friendly,
    /// Refuses one login, or all.
    Refuses(Option<&'static str>),
    /// Throws everybody out.
    Ends,
}

/// An error that says the password back, also where its SQLSTATE belongs if there is no other.
fn error(sqlstate: Option<&str>, password: &str) -> Vec<u8> {
    let padding = "x".repeat(1 << 20);
    let said = format!("no \"{password}\"\nERROR leasehold: forged\u{1b}[2J\u{2028} {padding}");
    let code = sqlstate.unwrap_or(password);
    message(b'E', format!("SFATAL\0VFATAL\0C{code}\0M{said}\0\0").as_bytes())
}

async fn serve(
    mut stream: TcpStream,
    given: Arc<Mutex<Vec<String>>>,
    mut mood: watch::Receiver<Mood>,
) -> Option<()> {
    const SSL_REQUEST: [u8; 4] = 80_877_103_u32.to_be_bytes();
    let mut startup = sized(&mut stream).await?;
    while startup == SSL_REQUEST {
        stream.write_all(b"N").await.ok()?;
        startup = sized(&mut stream).await?;
    }
    let startup = String::from_utf8_lossy(&startup).into_owned();
    // AuthenticationCleartextPassword.
    stream.write_all(&message(b'R', &3_u32.to_be_bytes())).await.ok()?;
    stream.read_u8().await.ok()?;
    let password = String::from_utf8(sized(&mut stream).await?).ok()?;
    let password = password.trim_end_matches('\0').to_owned();
    given.lock().unwrap().push(password.clone());
    let now = *mood.borrow_and_update();
    if let Mood::Refuses(whom) = now
        && whom.is_none_or(|user| startup.contains(&format!("user\0{user}\0")))
    {
        stream.write_all(&error(Some("28P01"), &password)).await.ok()?;
        // The client hangs up once it has read that.
        stream.read_u8().await.ok()?;
        return Some(());
    }
    let ready = message(b'Z', b"I");
    // AuthenticationOk.
    let welcome = [message(b'R', &0_u32.to_be_bytes()), ready.clone()].concat();
    stream.write_all(&welcome).await.ok()?;
    loop {
        let kind = tokio::select! {
            kind = stream.read_u8() => kind.ok()?,
            ended = async { mood.wait_for(|mood| *mood == Mood::Ends).await.map(drop) } => {
                ended.ok()?;
                stream.write_all(&error(None, &password)).await.ok()?;
                return Some(());
            }
        };
        sized(&mut stream).await?;
        let denied = error(Some("42501"), &password);
        match kind {
            // Parse; what follows is skipped up to a Sync.
            b'P' => stream.write_all(&denied).await.ok()?,
            b'S' => stream.write_all(&ready).await.ok()?,
            b'Q' => stream.write_all(&[denied, ready.clone()].concat()).await.ok()?,
            _ => {}
        }
    }
}

/// The server's port, who gave it which password, and what it does.
async fn server(begins: Mood) -> (u16, Arc<Mutex<Vec<String>>>, watch::Sender<Mood>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let given = Arc::new(Mutex::new(Vec::new()));
    let (mood, follow) = watch::channel(begins);
    let to = given.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, to.clone(), follow.clone()));
        }
    });
    (port, given, mood)
}

/// A pool of each kind there.
fn pools(provider: &CredentialProvider, port: u16) -> (sqlx::PgPool, deadpool_postgres::Pool) {
    let base = sqlx::postgres::PgConnectOptions::new_without_pgpass()
        .host("127.0.0.1")
        .port(port)
        .database("orders");
    let sqlx = leasehold_sqlx::Installer::new().name("by-sqlx");
    let sqlx = sqlx.connect_lazy(provider, sqlx::postgres::PgPoolOptions::new(), base).unwrap();
    let mut config = tokio_postgres::Config::new();
    config.host("127.0.0.1").port(port).dbname("orders");
    let deadpool = leasehold_deadpool::Installer::new().name("by-deadpool");
    let deadpool =
        deadpool.connect_lazy(provider, config, tokio_postgres::NoTls, |pool| pool).unwrap();
    (sqlx, deadpool)
}

/// One line of bounded length, with what the server said and without the password.
fn is_fit_to_show(pool: &str, event: &Event) {
    let (Event::ProofFailed { message, .. } | Event::Warning { message, .. }) = event else {
        unreachable!("{event:?}")
    };
    for shown in [message, &event.to_string()] {
        assert!(shown.contains("[redacted]"), "{pool}: {shown:.300}");
        assert!(!shown.chars().any(|c| c.is_control() || c == '\u{2028}'), "{pool}: {shown:.300}");
        assert!(shown.len() < 5000, "{pool}: {} bytes", shown.len());
    }
    assert!(!format!("{event:?}").contains(PASSWORD), "{pool}");
}

/// What is told when a candidate is proven on each hook's pool there.
#[tokio::test]
async fn what_it_says_is_one_bounded_line_without_the_password() {
    let (port, given, _mood) = server(Mood::Refuses(None)).await;
    let rotator = Rotator::builder(Logins::default()).start().await.unwrap();
    let provider = rotator.provider();
    let (sqlx, deadpool) = pools(&provider, port);

    let mut events = provider.events();
    rotator.rotate();
    let mut told = Vec::new();
    while told.len() < 2 {
        let event = events.recv().await.unwrap();
        if let Event::ProofFailed { pool, .. } = &event
            && !told.contains(pool)
        {
            is_fit_to_show(pool, &event);
            told.push(pool.clone());
        }
    }
    let health = format!("{:?}", provider.health());
    assert!(!health.contains(PASSWORD), "{health:.300}");
    assert!(given.lock().unwrap().iter().any(|p| p == PASSWORD), "it had the password");

    // And who is refused by it himself.
    let error = deadpool.get().await.map(drop).unwrap_err();
    assert!(!format!("{:?}", provider.health()).contains(PASSWORD), "{:.100}", error.to_string());
    drop((sqlx, deadpool));
    rotator.shutdown(Duration::from_secs(5)).await;
}

/// What our crates log, at every level.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// It lets everybody in, and turns on the superseded login that comes to end its own sessions at
/// the deadline; and then on everybody.
#[tokio::test]
async fn what_it_says_at_the_deadline_is_fit_to_show_too() {
    use tracing_subscriber::prelude::*;
    let log = Log::default();
    let writer = log.clone();
    let lines =
        tracing_subscriber::fmt::layer().with_ansi(false).with_writer(move || writer.clone());
    // The drivers log on their own account.
    let ours = tracing_subscriber::filter::filter_fn(|m| m.target().starts_with("leasehold"));
    let _heard = tracing::subscriber::set_default(
        tracing_subscriber::registry().with(lines.with_filter(ours)),
    );

    let (port, given, mood) = server(Mood::Friendly).await;
    let builder = Rotator::builder(Logins::default()).grace(Duration::from_millis(500));
    let rotator = builder.start().await.unwrap();
    let provider = rotator.provider();
    let (sqlx, deadpool) = pools(&provider, port);
    let held = (sqlx.acquire().await.unwrap(), deadpool.get().await.unwrap());

    let mut events = provider.events();
    mood.send_replace(Mood::Refuses(Some("app-0")));
    rotator.rotate();
    let mut told = Vec::new();
    while told.len() < 2 {
        let event = events.recv().await.unwrap();
        if let Event::Warning { pool: Some(pool), message } = &event
            && message.contains("forged")
        {
            is_fit_to_show(pool, &event);
            told.push(pool.clone());
        }
    }
    told.sort();
    assert_eq!(told, ["by-deadpool", "by-sqlx"]);
    let health = format!("{:?}", provider.health());
    assert!(!health.contains(PASSWORD), "{health:.300}");

    let current = deadpool.get().await.unwrap();
    mood.send_replace(Mood::Ends);
    while !current.is_closed() {
        tokio::task::yield_now().await;
    }
    assert!(given.lock().unwrap().iter().any(|p| p == PASSWORD), "it had the password");
    let log = String::from_utf8_lossy(&log.0.lock().unwrap()).into_owned();
    for line in ["by-sqlx", "connection ended: db error"] {
        assert!(log.contains(line), "{line}: {log:.3000}");
    }
    assert!(!log.contains(PASSWORD), "{log:.3000}");
    assert!(!log.contains('\u{1b}') && !log.contains('\u{2028}'), "{log:.3000}");
    drop((held, current, sqlx, deadpool));
    rotator.shutdown(Duration::from_secs(5)).await;
}
