//! Survives one panic of the driver, and says so when it is over.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::Poll;

use super::driver::Driver;

/// Runs the driver to its end. A panic in it (an observer's, or a defect of ours) restarts it once
/// with the machine's state as it was: leases still have to be renewed and given back.
pub(super) async fn supervise(mut driver: Driver) {
    for life in 1..=2 {
        match caught(driver.run()).await {
            Ok(()) => return,
            Err(Panicked) if broken!(RestartsNoMore) => return,
            Err(Panicked) => driver.panicked(life),
        }
    }
}

/// The payload may hold anything; only the fact is told.
struct Panicked;

/// Not a task of its own, whose end would be seen as well: each rotator would pay for two.
async fn caught(work: impl Future<Output = ()>) -> Result<(), Panicked> {
    let mut work = pin!(work);
    // Unwind safe: the driver is made to be found again in the middle of things.
    std::future::poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(cx))) {
        Ok(poll) => poll.map(Ok),
        Err(_) => Poll::Ready(Err(Panicked)),
    })
    .await
}
