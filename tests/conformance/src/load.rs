//! Borrowers at work.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use leasehold::CredentialProvider;
use tokio::task::JoinSet;

use crate::scene::{LIMIT, Scene, WHO};
use crate::subject::{Connection, Failure, Subject};

/// What a worker does between two operations, so that there is some time for others on a small
/// machine.
const THINKING: Duration = Duration::from_millis(3);

/// One transaction, from the wish for a connection to its commit.
#[derive(Debug)]
pub(crate) struct Op {
    pub(crate) begun: Instant,
    /// Who it ran as, if it came that far.
    pub(crate) login: Option<String>,
    /// It was open when a swap came.
    pub(crate) spanned: bool,
    pub(crate) failure: Option<String>,
}

/// Half as many workers again as there are connections, one of them with transactions that wait for
/// a swap.
pub(crate) struct Load {
    workers: JoinSet<Vec<Op>>,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    over: AtomicBool,
    done: AtomicUsize,
}

impl Load {
    pub(crate) fn start<S: Subject>(scene: &Scene<S>) -> Self {
        let state = Arc::new(State::default());
        let mut workers = JoinSet::new();
        let connections = scene.subject.max_connections().unwrap_or(8);
        for id in 0..connections + connections / 2 {
            let (subject, pool) = (scene.subject.clone(), scene.pool.clone());
            let (state, provider) = (state.clone(), scene.provider.clone());
            let swaps = (id == 0).then_some(provider);
            workers.spawn(async move {
                let mut ops = Vec::new();
                while !state.over.load(Ordering::SeqCst) {
                    ops.push(transaction(&subject, &pool, id, swaps.as_ref(), &state).await);
                    state.done.fetch_add(1, Ordering::SeqCst);
                    tokio::time::sleep(THINKING).await;
                }
                ops
            });
        }
        Self { workers, state }
    }

    /// Waits until so many more operations have ended.
    pub(crate) async fn goes_on<S: Subject>(&self, scene: &Scene<S>, operations: usize) {
        let done = || self.state.done.load(Ordering::SeqCst);
        let enough = done() + operations;
        let more =
            leasehold_testkit::eventually("operations", LIMIT, async || Ok(done() >= enough));
        more.await.unwrap_or_else(|_| panic!("the load stands still: {}", scene.story.lines()));
    }

    /// Ends it, and brings all that was done.
    pub(crate) async fn end(self) -> Vec<Op> {
        self.state.over.store(true, Ordering::SeqCst);
        self.workers.join_all().await.into_iter().flatten().collect()
    }
}

/// Adds one to a row. With `swaps`, in two halves with the next swap between.
async fn transaction<S: Subject>(
    subject: &S,
    pool: &S::Pool,
    id: usize,
    swaps: Option<&CredentialProvider>,
    state: &State,
) -> Op {
    let mut op = Op { begun: Instant::now(), login: None, spanned: false, failure: None };
    let done: Result<(), Failure> = async {
        let mut connection = subject.borrow(pool).await?;
        let used: Result<(), Failure> = async {
            op.login = Some(connection.text(WHO).await?);
            connection.begin().await?;
            if let Some(provider) = swaps {
                connection.execute(&format!("SELECT v FROM accounts WHERE id = {id}")).await?;
                op.spanned = swap(provider, op.login.as_deref(), state).await;
            }
            let update = format!("UPDATE accounts SET v = v + 1 WHERE id = {id}");
            connection.execute(&update).await?;
            connection.commit().await
        }
        .await;
        if used.is_err() {
            // Else the next borrower would be in a transaction that failed, where the pool does not
            // see to that.
            let _ = connection.execute("ROLLBACK").await;
        }
        connection.give_back().await;
        used
    }
    .await;
    op.failure = done.err().map(|error| chain(&*error));
    op
}

/// Waits for the next swap, or the end of the load. Not where the login is superseded already, as it may
/// be while it is rolled: it has its grace, and may not wait for another's swap.
async fn swap(provider: &CredentialProvider, login: Option<&str>, state: &State) -> bool {
    let mut swaps = provider.subscribe();
    if Some(swaps.latest().credential().username()) != login {
        return false;
    }
    let over = async {
        while !state.over.load(Ordering::SeqCst) {
            tokio::time::sleep(THINKING).await;
        }
    };
    tokio::select! {
        swapped = swaps.changed() => swapped.is_ok(),
        () = over => false,
    }
}

/// An error with its causes, on one line.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text = format!("{text}: {next}");
        cause = next.source();
    }
    text
}
