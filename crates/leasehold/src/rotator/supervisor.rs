//! Survives one panic of the driver, and says so when it is over.

use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::Mutex;

use super::driver::Driver;

/// Runs the driver to its end. A panic in it (an observer's, or a defect of ours) restarts it once
/// with the machine's state as it was: leases still have to be renewed and given back.
pub(super) async fn supervise(driver: Driver, runtime: Handle) {
    let driver = Arc::new(Mutex::new(driver));
    for life in 1..=2 {
        let this = driver.clone();
        let run = runtime.spawn(async move { this.lock().await.run().await });
        match run.await {
            Ok(()) => return,
            Err(error) if error.is_panic() && !broken!(RestartsNoMore) => {
                // The payload may hold anything; only the fact is told.
                driver.lock().await.panicked(life);
            }
            // The runtime is shutting down.
            Err(_) => return,
        }
    }
}
