//! Where blocking calls may be made.
//!
//! tokio panics where one of its blocking calls is made on a thread that polls futures, and the
//! blocking driver makes them in each of its calls, the drop of a client included. Whether this
//! thread is polling just now can't be asked; whether it belongs to a runtime can.

use std::io;
use std::mem;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use tokio::runtime::{Builder, Handle};

/// Does `work` on this thread or, where that belongs to an async runtime, on another while this one
/// waits.
///
/// # Errors
/// The system gives no thread.
pub(crate) fn blocking<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    if Handle::try_current().is_err() {
        return Ok(work());
    }
    thread::scope(|scope| {
        let done = named("leasehold-wait").spawn_scoped(scope, work)?.join();
        Ok(done.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

/// Waits for `future` on a runtime of its own, so that a pool needs no runtime that others own.
///
/// # Errors
/// The system gives no thread, or no file for a runtime to wait on.
pub(crate) fn wait_for<T: Send>(future: impl Future<Output = T> + Send) -> io::Result<T> {
    blocking(move || {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let done = runtime.block_on(future);
        // A dial that was given up ends by itself.
        runtime.shutdown_background();
        Ok(done)
    })?
}

/// Drops `what` here or, where this thread belongs to an async runtime, on another, and waits for
/// nothing then.
pub(crate) fn drop_blocking<T: Send + 'static>(what: T) {
    if Handle::try_current().is_err() {
        return;
    }
    let shared = Arc::new(Mutex::new(Some(what)));
    let theirs = shared.clone();
    let take =
        |shared: &Mutex<Option<T>>| shared.lock().unwrap_or_else(PoisonError::into_inner).take();
    if named("leasehold-close").spawn(move || drop(take(&theirs))).is_err() {
        // No thread is to be had. Its session ends at the drain's deadline, or with the process;
        // the panic would end the drain.
        mem::forget(take(&shared));
    }
}

fn named(name: &str) -> thread::Builder {
    thread::Builder::new().name(name.to_owned())
}
