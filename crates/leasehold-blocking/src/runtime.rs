//! A runtime for services that have none.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// The name of the thread, and of those that it has others dial on.
const NAME: &str = "leasehold";

/// How long the end waits for calls that block: a connect that nobody wants any more.
const LAST_CALLS: Duration = Duration::from_secs(1);

/// One background thread with a tokio runtime on it, on which everything runs that is not called by
/// the application itself: rotations, renewals, proofs, drains, requests of sessions. Clones share it.
///
/// One thread is enough for them: they wait for servers nearly all the time, what they compute takes
/// a millisecond or two (a login), and what blocks, such as dialling with a blocking driver, is done
/// on short-lived threads beside it.
///
/// The thread ends with the last clone, which waits for it. A [`Rotator`](crate::Rotator) has a
/// clone, a pool has none. What was not ended before is cut off then: shut rotators down and close
/// sessions first. From then on a pool hands out what it has, dials with the login that was current
/// last, and `health` of its provider says that nothing is rotated any more.
#[derive(Clone)]
pub struct Runtime(Arc<Inner>);

struct Inner {
    handle: Handle,
    /// The thread ends when this is dropped.
    stop: Option<oneshot::Sender<Infallible>>,
    thread: Option<JoinHandle<()>>,
}

impl Runtime {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system gives no thread, or no file for the runtime to wait on.
    pub fn new() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().thread_name(NAME).build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        let thread = thread::Builder::new().name(NAME.to_owned()).spawn(move || {
            // An error: the sender is gone, as it never sends.
            let _: Result<Infallible, _> = runtime.block_on(stopped);
            runtime.shutdown_timeout(LAST_CALLS);
        })?;
        Ok(Self(Arc::new(Inner { handle, stop: Some(stop), thread: Some(thread) })))
    }

    /// Waits on this thread until `future` is done: any future of the async crates, such as
    /// `Session::login` and the calls of a session. What it spawns runs in the background.
    ///
    /// # Errors
    /// [`InsideRuntime`], where a thread of an async runtime would be blocked.
    pub fn block_on<F: Future>(&self, future: F) -> Result<F::Output, InsideRuntime> {
        if Handle::try_current().is_ok() {
            return Err(InsideRuntime);
        }
        Ok(self.0.handle.block_on(future))
    }

    /// The runtime itself, for what wants to spawn tasks on it. It does not keep the thread alive.
    #[must_use]
    pub fn handle(&self) -> &Handle {
        &self.0.handle
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take()
            // The last clone may be one that a task had.
            && thread.thread().id() != thread::current().id()
        {
            // It panicked: nobody is left to be told.
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runtime").finish_non_exhaustive()
    }
}

/// A call that blocks was made on a thread of an async runtime, such as in an `async fn` or on a
/// thread of `spawn_blocking`. Nothing was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InsideRuntime;

impl fmt::Display for InsideRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "called on a thread of an async runtime, which must not be blocked: await the future \
             there, as with the async crates, or make this call on a thread of your own",
        )
    }
}

impl std::error::Error for InsideRuntime {}
