//! A time that may have been set.

use tokio::time::Instant;

/// Waits until then; for ever where none is set. Cancel safe.
pub(crate) async fn passed(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
