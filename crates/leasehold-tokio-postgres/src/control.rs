//! Connections beside the pool: they prove a login, count the sessions of a superseded one, and
//! end them at the deadline.
//!
//! Each is closed when it has done its work: one that stays would be counted by the drain of its own
//! login. Only that of a proof is kept until its candidate is installed, to be the first spare.

use std::sync::Arc;
use std::time::Duration;

use leasehold::Generation;
use leasehold::hook::{Holder, Refusal, sql};
use tokio_postgres::{Client, Error};

use crate::diagnosis::{refusal, sqlstate};
use crate::engine::Engine;
use crate::link::Link;

/// How long terminated sessions get to disappear from the server's list.
const ENDING: Duration = Duration::from_secs(1);

/// How often a dial is tried for the place of a connection that has just been closed, 10 ms apart.
const LEAVING: u32 = 20;

/// Why a candidate was not proven.
#[derive(Debug)]
pub enum Unproven {
    /// No connection could be made, or it does not work.
    Connect(Error),
    /// The probe failed.
    Probe(Error),
}

/// Opens a connection with `candidate`, checks that it works, and runs the user's probe.
pub(crate) async fn prove(engine: &Engine, candidate: &Arc<Generation>) -> Result<(), Unproven> {
    let round = engine.proven.begin();
    // Under the user's own name: it may become the pool's.
    let dialled = open(engine, Some(candidate), None).await;
    let (link, crowded) = dialled.map_err(Unproven::Connect)?;
    let checked = check(engine, link.client()).await;
    if checked.is_ok()
        && !crowded
        && is_useful(engine, candidate)
        && is_clean(engine, link.client()).await
        && engine.warm_up(link.client()).await
    {
        engine.proven.keep(round, candidate, link);
    } else {
        link.close().await;
    }
    if let Some(oid) = checked? {
        engine.remember_oid(candidate.number(), oid);
    }
    Ok(())
}

/// There are connections that it can stand in for once `candidate` is installed; it is not the
/// current login that is proved once more.
fn is_useful(engine: &Engine, candidate: &Generation) -> bool {
    let current = engine.current().number();
    candidate.number() > current && engine.ledger.of(current) > 0
}

/// Has no more of a past than a new one, whatever the probe did.
async fn is_clean(engine: &Engine, client: &Client) -> bool {
    engine.settings.probe.is_none() || client.batch_execute("DISCARD ALL").await.is_ok()
}

/// Whether a connection can do what one must be able to, the probe included. Returns its role's OID,
/// if the role may read it.
///
/// # Errors
/// [`Unproven`].
pub async fn check(engine: &Engine, client: &Client) -> Result<Option<i64>, Unproven> {
    let oid = works(client).await.map_err(Unproven::Connect)?;
    if let Some(probe) = &engine.settings.probe {
        client.batch_execute(probe).await.map_err(Unproven::Probe)?;
    }
    Ok(oid)
}

/// Whether a connection works. Returns its role's OID, if the role may read it.
pub(crate) async fn works(client: &Client) -> Result<Option<i64>, Error> {
    match client.query_opt(sql::PROVE, &[]).await {
        Ok(row) => row.map(|row| row.try_get(0)).transpose(),
        Err(error) if sqlstate(&error) == Some("42501") => Ok(None),
        Err(error) => Err(error),
    }
}

/// Sessions of the login of `of` that the server shows, asked for with the current login. `None`:
/// that one is good on another server.
pub(crate) async fn count(engine: &Engine, of: &Generation) -> Result<Option<i64>, Error> {
    if engine.current().credential().address() != of.credential().address() {
        return Ok(None);
    }
    let (link, _) = open(engine, None, Some(sql::CONTROL_APPLICATION)).await?;
    let counted = sessions(engine, link.client(), of).await;
    link.close().await;
    counted.map(Some)
}

/// Logs in as `old`, lists who still holds on, and ends their sessions. Tells whether Postgres then
/// showed none any more. Not counted among the pool's own: every place may be taken by those that
/// are to be ended.
pub(crate) async fn end_sessions(
    engine: &Engine,
    old: &Arc<Generation>,
) -> Result<(Vec<Holder>, bool), Error> {
    let link = engine.open_control(old, None, Some(sql::CONTROL_APPLICATION)).await?;
    let ended = end(engine, link.client(), old).await;
    link.close().await;
    ended
}

async fn end(
    engine: &Engine,
    client: &Client,
    old: &Generation,
) -> Result<(Vec<Holder>, bool), Error> {
    // Roles are often made with a default role that owns the tables; that one may not end the
    // login's sessions.
    client.batch_execute("SET ROLE NONE").await?;
    let rows = client.query(sql::LIST_HOLDERS, &[]).await?;
    let holders = rows
        .iter()
        .map(|row| {
            let (pid, application) = (row.try_get(0)?, row.try_get(1)?);
            let holder = Holder::new(pid, application, row.try_get(2)?, row.try_get(3)?);
            Ok(holder.began(row.try_get(4)?))
        })
        .collect::<Result<Vec<_>, Error>>()?;
    client.query(sql::END_OWN_SESSIONS, &[]).await?;
    let gone = async {
        while sessions(engine, client, old).await? > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok::<_, Error>(())
    };
    match tokio::time::timeout(ENDING, gone).await {
        Ok(Err(error)) => Err(error),
        Ok(Ok(())) => Ok((holders, true)),
        Err(_) => Ok((holders, false)),
    }
}

async fn sessions(engine: &Engine, client: &Client, of: &Generation) -> Result<i64, Error> {
    let (user, oid) = (of.credential().username(), engine.oid(of.number()));
    client.query_one(sql::COUNT_SESSIONS, &[&user, &oid]).await?.try_get(0)
}

/// A counted connection with the login of `of`, or else with the one that is current when there is
/// room: not with one that a swap supersedes while it waits. If Postgres has no place left, one of
/// the pool's own makes way; tells whether one had to.
async fn open(
    engine: &Engine,
    of: Option<&Arc<Generation>>,
    application: Option<&str>,
) -> Result<(Link, bool), Error> {
    let dial = async || {
        let admission = engine.admit(of).await;
        let generation = admission.generation().clone();
        engine.open_control(&generation, Some(admission), application).await
    };
    let mut dialled = dial().await;
    let crowded = is_full(&dialled) && engine.close_idle(1, |_| true) > 0;
    if crowded {
        // A backend outlives its socket by some milliseconds.
        for _ in 0..LEAVING {
            dialled = dial().await;
            if !is_full(&dialled) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    dialled.map(|link| (link, crowded))
}

fn is_full(dialled: &Result<Link, Error>) -> bool {
    dialled.as_ref().is_err_and(|error| refusal(error) == Refusal::Full)
}
