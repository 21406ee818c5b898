//! The binary, what it says, and what it leaves.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use leasehold_testkit::{DatabaseSpec, RoleSpec, Stack, TestDb, eventually};
use rustix::process::{Pid, Signal, kill_process};

use crate::signals;

pub(crate) const LEASEHOLD: &str = env!("CARGO_BIN_EXE_leasehold");
/// For a busy machine, the download of a first run included.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);

/// A database with a role `app` of this life.
pub(crate) async fn database(stack: &Stack, name: &str, ttl: u64, max_ttl: u64) -> TestDb {
    stack.database(DatabaseSpec::new(name).role(role(ttl, max_ttl)).with_accounts()).await.unwrap()
}

pub(crate) fn role(ttl: u64, max_ttl: u64) -> RoleSpec {
    let life = (Duration::from_secs(ttl), Duration::from_secs(max_ttl));
    RoleSpec::new("app").default_ttl(life.0).max_ttl(life.1)
}

/// `leasehold` with nothing in its environment but the way to Vault.
pub(crate) async fn leasehold(db: &TestDb, arguments: &[&str]) -> Command {
    let mut command = plain(arguments);
    command
        .env("VAULT_ADDR", db.vault_addr())
        .env("VAULT_ROLE_ID", db.role_id())
        .env("VAULT_SECRET_ID", db.secret_id().await.unwrap())
        .env("VAULT_MOUNT_PATH", db.mount())
        .env("VAULT_DATABASE_ROLE", db.role());
    command
}

/// `leasehold` with an empty environment.
pub(crate) fn plain(arguments: &[&str]) -> Command {
    signals::heed();
    let mut command = Command::new(LEASEHOLD);
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).args(arguments);
    command
}

/// No lease, no login, no session and no token of this database is left.
pub(crate) async fn assert_nothing_left(db: &TestDb) {
    assert_eq!(db.leases().await.unwrap(), Vec::<String>::new());
    assert_eq!(db.logins().await.unwrap(), Vec::<String>::new());
    assert_eq!(tokens(db).await, Vec::<String>::new());
    // Postgres takes a moment to end the process of a connection that was closed.
    let gone = async || Ok(db.sessions().await?.is_empty());
    eventually("sessions end", Duration::from_secs(60), gone).await.unwrap();
}

/// Accessors of the tokens of this database's AppRole.
async fn tokens(db: &TestDb) -> Vec<String> {
    let mut found = Vec::new();
    for accessor in db.stack().token_accessors().await.unwrap() {
        let body = serde_json::json!({ "accessor": accessor });
        let path = "auth/token/lookup-accessor";
        let (status, reply) = db.stack().vault_request("POST", path, Some(body)).await.unwrap();
        // Those that are gone meanwhile are other tests'.
        let policies = reply["data"]["policies"].as_array().filter(|_| status == 200);
        if policies.is_some_and(|policies| policies.iter().any(|p| p == db.name())) {
            found.push(accessor);
        }
    }
    found
}

/// A folder that goes with the test.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new(name: &str) -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!(
            "{name}-{}-{:x}",
            std::process::id(),
            number()
        ));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Its content once it is there; whoever writes it renames it to this name.
    pub(crate) fn read(&self, name: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match std::fs::read_to_string(self.join(name)) {
                Ok(text) => return text,
                Err(_) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                Err(e) => panic!("{name}: {e}"),
            }
        }
    }

    /// The variables that a command wrote down.
    pub(crate) fn variables(&self, name: &str) -> BTreeMap<String, String> {
        let text = self.read(name);
        let pairs = text.lines().filter_map(|line| line.split_once('='));
        pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> String {
        let path = self.join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Not the same twice in a process.
fn number() -> usize {
    use std::sync::atomic::{AtomicUsize, Ordering};
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A running program and what it says on both streams.
pub(crate) struct Program {
    child: Child,
    pieces: Receiver<Vec<u8>>,
    said: Vec<u8>,
}

impl Program {
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (to_us, pieces) = mpsc::channel();
        let (out, err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let also_to_us = to_us.clone();
        std::thread::spawn(move || pass_on_lines(out, &to_us));
        std::thread::spawn(move || pass_on_lines(err, &also_to_us));
        Self { child, pieces, said: Vec::new() }
    }

    /// One whose streams somebody else reads: `pieces` of them.
    pub(crate) fn on(child: Child, from: impl Read + Send + 'static) -> Self {
        let (to_us, pieces) = mpsc::channel();
        std::thread::spawn(move || pass_on(from, &to_us));
        Self { child, pieces, said: Vec::new() }
    }

    pub(crate) fn wait_for(&mut self, text: &str) {
        self.wait_until(text, |said| String::from_utf8_lossy(said).contains(text));
    }

    pub(crate) fn wait_until(&mut self, what: &str, mut so: impl FnMut(&[u8]) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !so(&self.said) {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.pieces.recv_timeout(left) {
                Ok(piece) => self.said.extend(piece),
                Err(_) => panic!("{what:?} was not said in\n{}", self.said()),
            }
        }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Reads to the end of its output, and waits for its end.
    pub(crate) fn end(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.pieces.recv_timeout(left) {
                Ok(piece) => self.said.extend(piece),
                Err(mpsc::RecvTimeoutError::Disconnected) => return self.child.wait().unwrap(),
                Err(mpsc::RecvTimeoutError::Timeout) => panic!("it does not end\n{}", self.said()),
            }
        }
    }

    pub(crate) fn said(&self) -> String {
        String::from_utf8_lossy(&self.said).into_owned()
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.said
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Gone already, unless the test failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whole lines, so that one stream does not come into a line of the other.
fn pass_on_lines(from: impl Read, to_us: &mpsc::Sender<Vec<u8>>) {
    let mut from = BufReader::new(from);
    let mut line = Vec::new();
    while let Ok(1..) = from.read_until(b'\n', &mut line) {
        if to_us.send(std::mem::take(&mut line)).is_err() {
            return;
        }
    }
}

fn pass_on(mut from: impl Read, to_us: &mpsc::Sender<Vec<u8>>) {
    let mut piece = [0; 4096];
    // A terminal whose last user is gone is an error to read from.
    while let Ok(n @ 1..) = from.read(&mut piece) {
        if to_us.send(piece[..n].to_vec()).is_err() {
            return;
        }
    }
}

/// Runs it to its end: the exit code, and what it says on both streams.
pub(crate) fn run(command: &mut Command) -> (Option<i32>, String) {
    let mut program = Program::start(command.stdin(Stdio::null()));
    (program.end().code(), program.said())
}
