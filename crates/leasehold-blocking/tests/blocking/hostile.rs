//! A server that asks libpq for the password in clear text, and says it back. Scripted: no real
//! Postgres does that.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

use leasehold::{Credential, CredentialSource, Issued, Lease, SourceError};
use leasehold_blocking::{Error, Installer, Rotator, Runtime};
use tokio_postgres::{Config, NoTls};

const PASSWORD: &str = "pw-that-must-not-leak";
const LIBPQ: &str = "by-libpq";

#[derive(Debug)]
struct Login;

impl CredentialSource for Login {
    async fn issue(&self) -> Result<Issued, SourceError> {
        Ok(Issued::new(Credential::new("app", PASSWORD), Lease::endless()))
    }
}

#[test]
fn i10_what_libpq_was_told_by_a_hostile_server_is_one_line_without_the_password() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            thread::spawn(move || serve(stream.unwrap()));
        }
    });
    let runtime = Runtime::new().unwrap();
    let rotator = Rotator::start(&runtime, leasehold::Rotator::builder(Login)).unwrap();
    let mut config = Config::new();
    config.host("127.0.0.1").port(port).dbname("orders");
    let installer = Installer::diesel().libpq("application_name", LIBPQ);
    let error = installer.connect(&rotator.provider(), config, NoTls, |b| b).unwrap_err();
    let Error::Libpq { message, .. } = &error else { panic!("{error:?}") };
    assert!(message.contains("[redacted]") && message.lines().count() == 1, "{message:?}");
    let shown = format!("{error} {error:?}");
    assert!(!shown.contains(PASSWORD), "{shown}");
}

/// Refuses libpq with what it has said. Lets everybody else in; each statement fails with 42501, as
/// it does for a login that may read no catalog.
fn serve(mut stream: TcpStream) -> Option<()> {
    let mut startup = sized(&mut stream)?;
    // Of four bytes is the wish for an encrypted connection.
    while startup.len() == 4 {
        stream.write_all(b"N").ok()?;
        startup = sized(&mut stream)?;
    }
    if String::from_utf8_lossy(&startup).contains(LIBPQ) {
        let in_clear_text = message(b'R', &3_u32.to_be_bytes());
        stream.write_all(&in_clear_text).ok()?;
        kind(&mut stream)?;
        let password = sized(&mut stream)?;
        let password = String::from_utf8_lossy(&password);
        let said = format!("no \"{}\"\nERROR forged", password.trim_end_matches('\0'));
        return stream.write_all(&error("XX000", &said)).ok();
    }
    let ready = message(b'Z', b"I");
    stream.write_all(&[message(b'R', &0_u32.to_be_bytes()), ready.clone()].concat()).ok()?;
    loop {
        let kind = kind(&mut stream)?;
        sized(&mut stream)?;
        match kind {
            // Parse; what follows is skipped up to a Sync.
            b'P' => stream.write_all(&error("42501", "not yours")).ok()?,
            b'S' => stream.write_all(&ready).ok()?,
            _ => {}
        }
    }
}

fn kind(stream: &mut TcpStream) -> Option<u8> {
    let mut kind = [0];
    stream.read_exact(&mut kind).ok()?;
    Some(kind[0])
}

fn sized(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).ok()?;
    let length = usize::try_from(u32::from_be_bytes(length)).ok()?.checked_sub(4)?;
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    Some(body)
}

/// One message of the server's.
fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
    [&[kind][..], &length, body].concat()
}

fn error(sqlstate: &str, said: &str) -> Vec<u8> {
    message(b'E', format!("SFATAL\0VFATAL\0C{sqlstate}\0M{said}\0\0").as_bytes())
}
