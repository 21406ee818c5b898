//! The rotator on a source that grants whatever times the input says, on virtual time: no number
//! that a server can name is a panic, a hang or a loop of mints.

#![no_main]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use arbitrary::Arbitrary;
use leasehold::clock::Clock;
use leasehold::{
    Credential, CredentialSource, ErrorKind, Issued, Lease, Parent, ParentState, RevokeMode,
    Rotator, SourceError,
};
use leasehold_fuzz::{no_secret_in, one_line};
use libfuzzer_sys::fuzz_target;
use tokio::sync::watch;

#[derive(Arbitrary, Debug)]
struct Input {
    grace: Option<Span>,
    roll: Option<Span>,
    /// How long to look on.
    minutes: u8,
    answers: Vec<Answer>,
}

/// Any length of time, and often one that is about to overflow.
#[derive(Arbitrary, Clone, Copy, Debug)]
enum Span {
    Seconds(u8),
    Millis(u16),
    Any(u64),
    Most,
}

impl Span {
    fn get(self) -> Duration {
        match self {
            Self::Seconds(n) => Duration::from_secs(n.into()),
            Self::Millis(n) => Duration::from_millis(n.into()),
            Self::Any(n) => Duration::from_secs(n),
            Self::Most => Duration::MAX,
        }
    }
}

#[derive(Arbitrary, Clone, Debug)]
enum Answer {
    Granted { ttl: Option<Span>, renewable: bool, parent: Option<(Span, bool, bool)> },
    Failed { kind: u8, after: Option<Span> },
}

impl Answer {
    /// Grants less than a second.
    fn has_moments(&self) -> bool {
        let Self::Granted { ttl, parent, .. } = self else { return false };
        let spans = [*ttl, parent.map(|(ends, ..)| ends)];
        spans.into_iter().flatten().any(|span| span.get() < Duration::from_secs(1))
    }
}

const KINDS: [ErrorKind; 12] = [
    ErrorKind::Unreachable,
    ErrorKind::Timeout,
    ErrorKind::Throttled,
    ErrorKind::Sealed,
    ErrorKind::ServerFault,
    ErrorKind::Denied,
    ErrorKind::TokenLost,
    ErrorKind::LeaseLost,
    ErrorKind::NotRenewable,
    ErrorKind::NotFound,
    ErrorKind::Malformed,
    ErrorKind::Other,
];

struct Source {
    answers: Mutex<std::collections::VecDeque<Answer>>,
    calls: Arc<Calls>,
    clock: Clock,
}

#[derive(Default)]
struct Calls {
    issue: AtomicUsize,
    renew: AtomicUsize,
    revoke: AtomicUsize,
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Source")
    }
}

impl Source {
    /// The next answer; the last one again and again.
    fn next(&self) -> Answer {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let next = if answers.len() > 1 { answers.pop_front() } else { answers.front().cloned() };
        next.unwrap_or(Answer::Failed { kind: 0, after: None })
    }

    fn error(kind: u8, after: Option<Span>) -> SourceError {
        let e = SourceError::new(KINDS[usize::from(kind) % KINDS.len()], "as the input says");
        match after {
            Some(after) => e.retry_after(after.get()),
            None => e,
        }
    }
}

impl CredentialSource for Source {
    async fn issue(&self) -> Result<Issued, SourceError> {
        let n = self.calls.issue.fetch_add(1, Ordering::Relaxed);
        match self.next() {
            Answer::Granted { ttl, renewable, parent } => {
                let lease = match ttl {
                    None => Lease::endless(),
                    Some(ttl) if renewable => Lease::renewable(format!("lease-{n}"), ttl.get()),
                    Some(ttl) => Lease::fixed(ttl.get()),
                };
                let credential = Credential::new(format!("app-{n}"), "must-not-leak");
                let issued = Issued::new(credential, lease);
                Ok(match parent {
                    None => issued,
                    Some((ends, renewing, replaceable)) => {
                        let ends = self.clock.now() + ends.get();
                        let state = ParentState::ending(ends, renewing, replaceable);
                        let (_, see) = watch::channel(state);
                        issued.with_parent(Parent::new(see, Arc::new(())))
                    }
                })
            }
            Answer::Failed { kind, after } => Err(Self::error(kind, after)),
        }
    }

    async fn renew(&self, _: &Lease, _: Duration) -> Result<Duration, SourceError> {
        self.calls.renew.fetch_add(1, Ordering::Relaxed);
        match self.next() {
            Answer::Granted { ttl, .. } => Ok(ttl.map(Span::get).unwrap_or_default()),
            Answer::Failed { kind, after } => Err(Self::error(kind, after)),
        }
    }

    async fn revoke(&self, _: &Lease, _: RevokeMode) -> Result<(), SourceError> {
        self.calls.revoke.fetch_add(1, Ordering::Relaxed);
        match self.next() {
            Answer::Granted { .. } => Ok(()),
            Answer::Failed { kind, after } => Err(Self::error(kind, after)),
        }
    }
}

fuzz_target!(|input: Input| {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    runtime.block_on(run(input));
});

async fn run(input: Input) {
    let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let clock = Clock::with_wall(move || wall);
    let calls = Arc::new(Calls::default());
    let moments = input.answers.iter().any(Answer::has_moments);
    let source = Source {
        answers: Mutex::new(input.answers.into_iter().take(64).collect()),
        calls: calls.clone(),
        clock: clock.clone(),
    };
    let mut builder = Rotator::builder(source).clock(clock.clone()).observer(|event| {
        let shown = event.to_string();
        one_line(&shown);
        no_secret_in(&format!("{shown} {event:?}"));
    });
    if let Some(grace) = input.grace {
        builder = builder.grace(grace.get());
    }
    if let Some(roll) = input.roll {
        builder = builder.roll(roll.get());
    }
    let rotator = match builder.start().await {
        Ok(rotator) => rotator,
        Err(e) => return no_secret_in(&format!("{e} {e:?}")),
    };
    let began = clock.now();
    let minutes = u64::from(input.minutes % 11);
    tokio::time::sleep(Duration::from_secs(60 * minutes)).await;
    let provider = rotator.provider();
    no_secret_in(&format!("{:?} {:?} {provider:?}", provider.health(), provider.current()));
    let lasted = clock.now() - began;
    // A rotation is free once the login served half of what was planned, which is a quarter of its
    // life at the least. Only whole seconds count, as servers do.
    let issued = calls.issue.load(Ordering::Relaxed);
    let most = 16 + 8 * usize::try_from(lasted.as_secs()).unwrap_or(usize::MAX / 8);
    assert!(moments || issued <= most, "{issued} mints in {lasted:?}");
    let report = rotator.shutdown(Duration::from_secs(5)).await;
    no_secret_in(&format!("{report:?} {report}"));
}
