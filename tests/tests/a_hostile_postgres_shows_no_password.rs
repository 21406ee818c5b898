//! A server that asks for the password in clear text, and says it back in a megabyte of lines that
//! look like ours. Scripted: no real Postgres does that.

#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use leasehold::{Credential, CredentialSource, Event, Issued, Lease, Rotator, SourceError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const PASSWORD: &str = "pw-that-must-not-leak";

#[derive(Debug, Default)]
struct Logins(AtomicU64);

impl CredentialSource for Logins {
    async fn issue(&self) -> Result<Issued, SourceError> {
        let n = self.0.fetch_add(1, Ordering::Relaxed);
        let lease = Lease::fixed(Duration::from_secs(3600));
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

async fn serve(mut stream: TcpStream, given: Arc<Mutex<Vec<String>>>) -> Option<()> {
    const SSL_REQUEST: [u8; 4] = 80_877_103_u32.to_be_bytes();
    while sized(&mut stream).await? == SSL_REQUEST {
        stream.write_all(b"N").await.ok()?;
    }
    // AuthenticationCleartextPassword.
    stream.write_all(&message(b'R', &3_u32.to_be_bytes())).await.ok()?;
    stream.read_u8().await.ok()?;
    let password = String::from_utf8(sized(&mut stream).await?).ok()?;
    let password = password.trim_end_matches('\0').to_owned();
    let padding = "x".repeat(1 << 20);
    let said = format!("no \"{password}\"\nERROR leasehold: forged\u{1b}[2J {padding}");
    given.lock().unwrap().push(password);
    let fields = format!("SFATAL\0VFATAL\0C28P01\0M{said}\0\0");
    stream.write_all(&message(b'E', fields.as_bytes())).await.ok()?;
    // The client hangs up once it has read that.
    stream.read_u8().await.ok()?;
    Some(())
}

/// What is told when a candidate is proven on each hook's pool there.
#[tokio::test]
async fn what_it_says_is_one_bounded_line_without_the_password() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let given = Arc::new(Mutex::new(Vec::new()));
    let to = given.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, to.clone()));
        }
    });

    let rotator = Rotator::builder(Logins::default()).start().await.unwrap();
    let provider = rotator.provider();
    let base = sqlx::postgres::PgConnectOptions::new_without_pgpass()
        .host("127.0.0.1")
        .port(port)
        .database("orders");
    let sqlx = leasehold_sqlx::Installer::new().name("by-sqlx");
    let sqlx = sqlx.connect_lazy(&provider, sqlx::postgres::PgPoolOptions::new(), base).unwrap();
    let mut config = tokio_postgres::Config::new();
    config.host("127.0.0.1").port(port).dbname("orders");
    let deadpool = leasehold_deadpool::Installer::new().name("by-deadpool");
    let deadpool =
        deadpool.connect_lazy(&provider, config, tokio_postgres::NoTls, |pool| pool).unwrap();

    let mut events = provider.events();
    rotator.rotate();
    let mut told = Vec::new();
    while told.len() < 2 {
        let event = events.recv().await.unwrap();
        if let Event::ProofFailed { pool, .. } = &event
            && !told.iter().any(|(name, _): &(String, String)| name == pool)
        {
            let shown = event.to_string();
            assert!(shown.contains("[redacted]"), "{pool}: {shown:.300}");
            assert!(!shown.chars().any(char::is_control), "{pool}: {shown:.300}");
            assert!(shown.len() < 5000, "{pool}: {} bytes", shown.len());
            assert!(!format!("{event:?}").contains(PASSWORD), "{pool}");
            told.push((pool.clone(), shown));
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
