//! What an application can do about errors that no hook gets to see.

use leasehold::hook::{Refusal, sql};
use leasehold::{CredentialProvider, Observation};

use crate::diagnosis::sqlstate;

/// Tells the rotator of an error that may come from a revoked login: a refused one (28P01, 28000),
/// or one that only looks like it (42501, 42704, 57P01), which is confirmed before anything is
/// minted. Every other error is ignored.
///
/// Takes any error with a [`tokio_postgres::Error`] in its chain: that of a query, of a pool, or your
/// own that wraps one. Cheap and never blocks.
pub fn report(provider: &CredentialProvider, error: &(dyn std::error::Error + 'static)) {
    if let Some(what) = postgres(error).and_then(observation) {
        provider.report(provider.current().number(), what);
    }
}

fn postgres<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a tokio_postgres::Error> {
    std::iter::successors(Some(error), |e| e.source()).find_map(|e| e.downcast_ref())
}

fn observation(error: &tokio_postgres::Error) -> Option<Observation> {
    let code = sqlstate(error)?;
    match code {
        code if Refusal::is_authentication(code) => Some(Observation::LoginRejected),
        // Even the plain text of a missing role is a suspicion only: the connection may be one of a
        // superseded generation.
        "42501" | sql::ROLE_GONE | "57P01" => Some(Observation::Suspected),
        _ => None,
    }
}
