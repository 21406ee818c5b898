//! What an application can do about errors that no hook gets to see.

use std::error::Error as StdError;

use diesel::result::{DatabaseErrorKind, Error};
use leasehold::{CredentialProvider, Observation};

/// Tells the rotator of an error that may come from a revoked login. It is confirmed by a login
/// before anything is minted, and not more often than the rotator looks into such suspicions.
///
/// diesel's errors have no SQLSTATE. So every error of Postgres's that diesel has no name for is
/// such a suspicion, a missing grant (42501) and a missing role (42704) among them, and a typing
/// error in a query too; violated constraints, failed serialisations and broken connections are not.
///
/// Takes any error with a [`diesel::result::Error`] in its chain: that of a query, or your own that has
/// one as its source. Cheap and never blocks.
pub fn report(provider: &CredentialProvider, error: &(dyn StdError + 'static)) {
    let chain = std::iter::successors(Some(error), |&error| error.source());
    let suspect =
        |error: &Error| matches!(error, Error::DatabaseError(DatabaseErrorKind::Unknown, _));
    if chain.filter_map(|error| error.downcast_ref()).any(suspect) {
        provider.report(provider.current().number(), Observation::Suspected);
    }
}
