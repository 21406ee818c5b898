//! Whether the role of a connection is still there, asked when it is handed out.

use std::time::Duration;

use leasehold::hook::sql;
use leasehold::{CredentialProvider, Observation};
use tokio_postgres::{Client, Error};

use crate::diagnosis::sqlstate;

/// How long a liveness sample may hold up its borrower. A server that takes longer is in trouble of
/// its own, of which the borrower's query will tell.
pub const SAMPLE: Duration = Duration::from_secs(1);

/// Asks, for [`SAMPLE`] at most, and reports a login that is gone. Pings pass on a session whose role
/// is gone; this does not.
///
/// # Errors
/// The connection is of no use, and not to be handed out.
pub async fn sample(
    client: &Client,
    provider: &CredentialProvider,
    generation: u64,
) -> Result<(), Error> {
    match tokio::time::timeout(SAMPLE, client.simple_query(sql::LIVENESS)).await {
        Ok(Err(error)) if sqlstate(&error) == Some(sql::ROLE_GONE) => {
            provider.report(generation, Observation::SessionRevoked);
            Err(error)
        }
        Ok(Err(error)) if client.is_closed() => Err(error),
        // Late, or an error that says nothing about the login (a transaction left in failure).
        _ => Ok(()),
    }
}
