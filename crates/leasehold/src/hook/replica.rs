//! The first login of a pool on a replica.

use std::time::Duration;

use super::{ManagedPool, Proof};
use crate::provider::CredentialProvider;

/// Short against what a replica lags, and long against what a login costs.
const PAUSE: Duration = Duration::from_millis(50);

/// For a hook's `connect`: while the server refuses the current login, tries again for at most
/// `lag`, as a replica learns of a role only after its primary. What it says then is for the caller
/// to find out. Returns at once where `lag` is zero. Cancel safe.
pub async fn await_replica(pool: &dyn ManagedPool, provider: &CredentialProvider, lag: Duration) {
    let heard = async {
        loop {
            let current = provider.current().clone();
            if !matches!(pool.prove(&current).await, Proof::Rejected(_)) {
                return;
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    if !lag.is_zero() {
        // Late: the login is tried in any case.
        let _ = tokio::time::timeout(lag, heard).await;
    }
}
