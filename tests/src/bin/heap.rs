//! Looks for a login's password in its own memory: while the login is current, and after its
//! generation has ended. For the test of what is left then, and where.
//!
//! Arguments: what to run (`core`, `vault`, `sqlx`, `deadpool`), then, but for `core`, Vault's
//! address, role_id, mount, role, Postgres's host, port and database; the secret_id comes on stdin.
//! A line of JSON on stdout. It prints counts and nothing else, and holds the passwords that it
//! looks for masked, or it would find itself.

#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use leasehold::{
    Credential, CredentialProvider, CredentialSource, Event, Issued, Lease, Rotator, SourceError,
};
use leasehold_vault::{Auth, Session, VaultConfig};
use serde_json::json;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use tokio_postgres::NoTls;

const MASK: u8 = 0xA5;
/// How much is read at once.
const CHUNK: usize = 1 << 20;

/// A password that is not there in clear.
struct Needle(Vec<u8>);

impl Needle {
    fn of(provider: &CredentialProvider) -> Self {
        let current = provider.current();
        Self(current.credential().expose_password().bytes().map(|byte| byte ^ MASK).collect())
    }

    fn is_at(&self, memory: &[u8]) -> bool {
        memory.iter().zip(&self.0).all(|(byte, masked)| byte ^ MASK == *masked)
    }

    /// How often it is in what this process can write to.
    fn count(&self) -> usize {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let memory = File::open("/proc/self/mem").unwrap();
        let mut buffer = vec![0; CHUNK + self.0.len()];
        let mut found = 0;
        for line in maps.lines() {
            let mut words = line.split_whitespace();
            let (range, rights) = (words.next().unwrap(), words.next().unwrap());
            if !rights.starts_with("rw") {
                continue;
            }
            let (from, to) = range.split_once('-').unwrap();
            let [from, to] = [from, to].map(|hex| u64::from_str_radix(hex, 16).unwrap());
            let mut at = from;
            while at < to {
                // What was read before is in the buffer, which is read as well.
                std::hint::black_box(&mut buffer).fill(0);
                let want = usize::try_from(to - at).unwrap().min(buffer.len());
                // Some regions can't be read (those of the kernel's own).
                let Ok(read) = memory.read_at(&mut buffer[..want], at) else { break };
                if read == 0 {
                    break;
                }
                // One that begins in the last bytes is found by the next read.
                let begins = if read == buffer.len() { CHUNK } else { read };
                let last = (read + 1).saturating_sub(self.0.len());
                found += (0..begins.min(last)).filter(|&i| self.is_at(&buffer[i..])).count();
                at += begins as u64;
            }
        }
        std::hint::black_box(&mut buffer).fill(0);
        found
    }
}

/// Makes its passwords where nothing else is left of them.
#[derive(Debug)]
struct Scripted;

impl CredentialSource for Scripted {
    async fn issue(&self) -> Result<Issued, SourceError> {
        let mut password = String::with_capacity(40);
        for _ in 0..40 {
            password.push(fastrand::alphanumeric());
        }
        let lease = Lease::renewable("lease", Duration::from_secs(3600));
        Ok(Issued::new(Credential::new("app", password), lease))
    }
}

#[tokio::main]
async fn main() {
    let given: Vec<String> = std::env::args().skip(1).collect();
    let (what, place) = given.split_first().unwrap();
    let (rotator, session) = if what == "core" {
        (Rotator::builder(Scripted).start().await.unwrap(), None)
    } else {
        let [vault, role_id, mount, role, ..] = place else { panic!("eight arguments") };
        let mut secret_id = String::new();
        std::io::stdin().read_to_string(&mut secret_id).unwrap();
        let auth = Auth::approle(role_id, secret_id);
        let session = Session::login(VaultConfig::new(vault), auth).await.unwrap();
        let source = session.dynamic_role(mount, role);
        let patience = Duration::from_secs(60);
        (Rotator::builder(source).start_timeout(patience).start().await.unwrap(), Some(session))
    };
    let provider = rotator.provider();
    let mut sqlx = None;
    let mut deadpool = None;
    if let [_, _, _, _, host, port, database] = place {
        let port: u16 = port.parse().unwrap();
        let patience = Duration::from_secs(60);
        if what == "sqlx" {
            let base = PgConnectOptions::new_without_pgpass();
            let base = base.host(host).port(port).database(database);
            let options = PgPoolOptions::new().max_connections(3).acquire_timeout(patience);
            let installer = leasehold_sqlx::Installer::new().connect_timeout(patience);
            sqlx = Some(installer.connect(&provider, options, base).await.unwrap());
        } else if what == "deadpool" {
            let mut config = tokio_postgres::Config::new();
            config.host(host).port(port).dbname(database);
            let installer = leasehold_deadpool::Installer::new().connect_timeout(patience);
            let pool = installer.connect(&provider, config, NoTls, |b| b.max_size(3)).await;
            deadpool = Some(pool.unwrap());
        }
    }
    // All of the pool's places with the login of now.
    let use_it = async || {
        if let Some(pool) = &sqlx {
            let mut held = Vec::new();
            for _ in 0..3 {
                let mut conn = pool.acquire().await.unwrap();
                sqlx::query("SELECT 1").execute(&mut *conn).await.unwrap();
                held.push(conn);
            }
        }
        if let Some(pool) = &deadpool {
            let mut held = Vec::new();
            for _ in 0..3 {
                let conn = pool.get().await.unwrap();
                conn.query("SELECT 1", &[]).await.unwrap();
                held.push(conn);
            }
        }
    };
    let mut events = provider.events();
    let (mut current, mut old) = (Vec::new(), Vec::new());
    let mut needles: Vec<Needle> = Vec::new();
    for _ in 0..2 {
        use_it().await;
        let needle = Needle::of(&provider);
        current.push(needle.count());
        needles.push(needle);
        let generation = provider.current().number();
        rotator.rotate();
        loop {
            let revoked = events.recv().await.unwrap();
            if matches!(revoked, Event::Revoked { generation: Some(n), .. } if n == generation) {
                break;
            }
        }
        use_it().await;
        old.push(needles.last().unwrap().count());
    }
    // And when all is over.
    assert!(rotator.shutdown(Duration::from_secs(10)).await.is_clean());
    drop((rotator, session, provider, sqlx, deadpool));
    let after: Vec<_> = needles.iter().map(Needle::count).collect();
    println!("{}", json!({ "what": what, "current": current, "old": old, "after": after }));
}
