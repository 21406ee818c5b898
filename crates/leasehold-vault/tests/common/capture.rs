//! What `RUST_LOG=trace` would show, of every crate, held against the server's own list of secrets.

use std::collections::BTreeSet;
use std::io::Write;
use std::ops::Deref;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use leasehold_testkit::{Stack, TestDb};
use tracing_subscriber::fmt::format::FmtSpan;
use tracing_subscriber::util::SubscriberInitExt;

/// Shorter ones would be met by chance.
const SHORTEST: usize = 6;

/// Everything logged, in memory.
#[derive(Clone, Default)]
pub struct Capture(Arc<Inner>);

#[derive(Default)]
struct Inner {
    text: Mutex<Vec<u8>>,
    searched: Mutex<Searched>,
}

/// What a search need not do again.
#[derive(Default)]
struct Searched {
    upto: usize,
    needles: BTreeSet<Vec<u8>>,
}

impl Write for Capture {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let mut text = self.0.text.lock().unwrap_or_else(PoisonError::into_inner);
        text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Capture {
    /// A subscriber at the finest level that writes here. Spans too: their fields are logged.
    pub fn subscriber(&self) -> impl tracing::Subscriber + Send + Sync + 'static {
        let to = self.clone();
        tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_span_events(FmtSpan::NEW | FmtSpan::CLOSE)
            .with_ansi(false)
            .with_writer(move || to.clone())
            .finish()
    }

    /// That of this process, which hears `tracing` and `log` from the first call on.
    pub fn global() -> &'static Self {
        static GLOBAL: LazyLock<Capture> = LazyLock::new(|| {
            let capture = Capture::default();
            capture.subscriber().init();
            capture
        });
        &GLOBAL
    }

    pub fn text(&self) -> String {
        let text = self.0.text.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&text).into_owned()
    }

    /// The lines that hold one of these, as text or as a list of bytes.
    pub fn lines_with(&self, secrets: &[String]) -> Vec<String> {
        let mut searched = self.0.searched.lock().unwrap_or_else(PoisonError::into_inner);
        let text = self.0.text.lock().unwrap_or_else(PoisonError::into_inner);
        let mut found = Vec::new();
        for secret in secrets.iter().filter(|s| s.len() >= SHORTEST) {
            let bytes: Vec<String> = secret.bytes().map(|b| b.to_string()).collect();
            for needle in [secret.clone(), bytes.join(", ")].map(String::into_bytes) {
                let known = searched.needles.contains(&needle);
                let from = if known { searched.upto.saturating_sub(needle.len()) } else { 0 };
                if let Some(at) = memchr::memmem::find(&text[from..], &needle) {
                    let at = from + at;
                    let begin = text[..at].iter().rposition(|b| *b == b'\n').map_or(0, |b| b + 1);
                    let end = text[at..].iter().position(|b| *b == b'\n').unwrap_or(0);
                    let line = String::from_utf8_lossy(&text[begin..at + end]);
                    found.push(format!("{secret:?} in: {line}"));
                }
                searched.needles.insert(needle);
            }
        }
        searched.upto = text.len();
        found
    }
}

/// Panics if anything that the server issued or was given is in what this process logged so far.
#[track_caller]
fn check(stack: &Stack) {
    // The test's own runtime waits meanwhile, and may be on its way out.
    let secrets = std::thread::scope(|scope| {
        let ask = || {
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            runtime.block_on(stack.secrets_issued()).expect("the server's own list")
        };
        scope.spawn(ask).join().expect("asked")
    });
    assert!(secrets.len() > 1, "the root token at least, and what it was used for");
    let capture = Capture::global();
    let found = capture.lines_with(&secrets);
    assert!(found.is_empty(), "secrets were logged:\n{}", found.join("\n"));
    let heard = capture.0.text.lock().unwrap_or_else(PoisonError::into_inner).len();
    assert!(heard > 0, "nothing was heard at all");
}

/// A database whose test ends with the check.
pub struct Checked(TestDb);

impl Checked {
    pub fn new(db: TestDb) -> Self {
        Capture::global();
        Self(db)
    }
}

impl Deref for Checked {
    type Target = TestDb;

    fn deref(&self) -> &TestDb {
        &self.0
    }
}

impl Drop for Checked {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            check(self.0.stack());
        }
    }
}

/// A stack of a test's own, whose test ends with the check.
pub struct CheckedStack(Stack);

impl CheckedStack {
    pub fn new(stack: Stack) -> Self {
        Capture::global();
        Self(stack)
    }
}

impl Deref for CheckedStack {
    type Target = Stack;

    fn deref(&self) -> &Stack {
        &self.0
    }
}

impl Drop for CheckedStack {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            check(&self.0);
        }
    }
}
