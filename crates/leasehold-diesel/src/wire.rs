//! A connection of diesel's that is counted, whatever pool it is in.

use std::sync::Arc;
use std::time::Instant;

use diesel::{ConnectionError, ConnectionResult};
use diesel_async::{AsyncPgConnection, SimpleAsyncConnection};
use leasehold::hook::{BoxFuture, Refusal, sql};
use leasehold::{CredentialProvider, Observation};
use leasehold_tokio_postgres::Error;
use leasehold_tokio_postgres::hook::{
    self, Admission, Engine, Link, SAMPLE, Spare, is_authentication, kind,
};
use tokio::task::JoinHandle;
use tokio_postgres::error::DbError;

/// A connection of diesel's, with what is known of it.
pub(crate) struct Wire {
    pub(crate) connection: AsyncPgConnection,
    generation: u64,
    made: Instant,
    /// Moves its bytes, counts it, and ends when its socket is closed. That it ends with the
    /// connection is the driver's business: a query that was given up is waited for.
    task: JoinHandle<()>,
}

impl Wire {
    /// diesel sets time zone and encoding.
    async fn set_up(link: Link) -> ConnectionResult<Self> {
        let (generation, made) = (link.generation(), link.made());
        let (client, task) = link.into_parts();
        let connection = AsyncPgConnection::try_from(client).await?;
        Ok(Self { connection, generation, made, task })
    }
}

impl Spare for Wire {
    fn generation(&self) -> u64 {
        self.generation
    }

    fn made(&self) -> Instant {
        self.made
    }

    fn is_closed(&self) -> bool {
        self.task.is_finished()
    }
}

/// What a borrower waits for: a spare, or a connection with the login that is current.
pub(crate) async fn connect(
    engine: &Engine,
    provider: &CredentialProvider,
    spare: impl Fn(u64) -> Option<Wire>,
) -> ConnectionResult<Wire> {
    let open = |admission| open(engine, admission);
    let connected = engine.connect(provider, spare, open, Failed::is_refusal).await;
    connected.map_err(Failed::tell)
}

async fn open(engine: &Engine, admission: Admission) -> Result<Wire, Failed> {
    let link = engine.open(admission).await.map_err(Failed::Dial)?;
    Wire::set_up(link).await.map_err(Failed::SetUp)
}

/// A first connection, which works and passes the probe; `None` if it was lost then.
pub(crate) async fn first(
    engine: &Engine,
    provider: &CredentialProvider,
) -> Result<Option<Wire>, Error> {
    let link = engine.verified(provider).await?;
    let ready = tokio::time::timeout(engine.connect_timeout(), Wire::set_up(link)).await;
    Ok(ready.ok().and_then(Result::ok))
}

/// Opens connections before anybody asks for them.
pub(crate) fn opener(
    engine: &Arc<Engine>,
) -> impl Fn() -> BoxFuture<'static, Result<Option<Wire>, Refusal>> + Send + Sync + 'static {
    let open = hook::opener(engine);
    move || {
        let opening = open();
        Box::pin(async move {
            match opening.await? {
                Some(link) => Ok(Wire::set_up(link).await.ok()),
                None => Ok(None),
            }
        })
    }
}

/// Looks whether the role of a connection is still there, and tells the rotator if it is not.
pub(crate) async fn is_revoked(
    connection: &mut AsyncPgConnection,
    provider: &CredentialProvider,
    generation: u64,
) -> bool {
    // Late: says nothing about the login.
    let gone = tokio::time::timeout(SAMPLE, role_is_gone(connection)).await.unwrap_or(false);
    if gone {
        provider.report(generation, Observation::SessionRevoked);
    }
    gone
}

/// Pings pass on a session whose role is gone, and the sample does not. diesel keeps the SQLSTATE to
/// itself that would tell this from a cancelled statement, a transaction left in failure, a
/// connection that has ended: those fail once, or also with the ping.
async fn role_is_gone(connection: &mut AsyncPgConnection) -> bool {
    for (statement, answers) in [(sql::LIVENESS, false), (sql::LIVENESS, false), ("SELECT 1", true)]
    {
        if connection.batch_execute(statement).await.is_ok() != answers {
            return false;
        }
    }
    true
}

/// Why no connection was made.
enum Failed {
    Dial(tokio_postgres::Error),
    SetUp(ConnectionError),
}

impl Failed {
    fn is_refusal(&self) -> bool {
        matches!(self, Self::Dial(error) if is_authentication(error))
    }

    /// For the borrower. Of what the server said there is no more than the SQLSTATE (I10).
    fn tell(self) -> ConnectionError {
        match self {
            Self::Dial(error) => ConnectionError::BadConnection(line(&error)),
            Self::SetUp(error) => error,
        }
    }
}

fn line(error: &tokio_postgres::Error) -> String {
    let mut line = kind(error);
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next.filter(|cause| !cause.is::<DbError>()) {
        line = format!("{line}: {cause}");
        next = cause.source();
    }
    line
}
