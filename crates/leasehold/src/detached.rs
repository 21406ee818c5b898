//! Requests that are never cut off.

use std::future::Future;

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tracing::Instrument;

use crate::source::{ErrorKind, SourceError};

/// Runs a request to mint to its end in a task of its own, whatever becomes of the caller: one that
/// is cut off may leave a role that nobody ever revokes. What comes when nobody waits any more goes
/// to `give_back`. For sources that may be called by others than the rotator.
///
/// # Errors
/// The request's own.
#[doc(hidden)]
pub async fn to_its_end<T, B>(
    mint: impl Future<Output = Result<T, SourceError>> + Send + 'static,
    give_back: impl FnOnce(T) -> B + Send + 'static,
) -> Result<T, SourceError>
where
    T: Send + 'static,
    B: Future<Output = ()> + Send + 'static,
{
    let (answer, outcome) = oneshot::channel();
    let to_its_end = async move {
        let made = mint.await;
        let runtime = Handle::current();
        let made = made.map(|made| OnItsWay { held: Some((made, give_back)), runtime });
        // Not taken in, or taken in and never looked at: its drop is the same.
        drop(answer.send(made));
    };
    tokio::spawn(to_its_end.in_current_span());
    let gone = |_| {
        let message = "the source panicked in issue, or the runtime ended";
        SourceError::new(ErrorKind::Other, message)
    };
    let mut made = outcome.await.map_err(gone)??;
    let (made, _) = made.held.take().expect("only its drop takes it otherwise");
    Ok(made)
}

/// What was made, until whoever asked for it has it.
struct OnItsWay<T, B, F>
where
    T: Send + 'static,
    B: Future<Output = ()> + Send + 'static,
    F: FnOnce(T) -> B,
{
    held: Option<(T, F)>,
    runtime: Handle,
}

impl<T, B, F> Drop for OnItsWay<T, B, F>
where
    T: Send + 'static,
    B: Future<Output = ()> + Send + 'static,
    F: FnOnce(T) -> B,
{
    fn drop(&mut self) {
        if let Some((made, give_back)) = self.held.take() {
            self.runtime.spawn(give_back(made));
        }
    }
}
