//! What grows with the number of logins that live at once, and where it ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use leasehold::hook::sql::COUNT_SESSIONS;
use leasehold_drill::AnyError;
use leasehold_drill::stats::quantile;
use serde::Serialize;

use crate::series::{self, Series, Until};
use crate::world::{WIDE, World};

/// What a service feels of the logins of others.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Felt {
    pub(crate) live: usize,
    /// Opening a connection, SCRAM included, without TLS.
    pub(crate) login_p50_ms: f64,
    /// Counting a login's sessions, as it is done before each revocation.
    pub(crate) count_p50_ms: f64,
    /// What the tables of roles and of memberships take, indexes and dead rows included.
    pub(crate) catalog_kib: i64,
}

pub(crate) async fn felt(world: &World, times: usize) -> Result<Felt, AnyError> {
    let live = world.live().await?;
    let login = world.mint(WIDE).await?;
    let (mut logins, mut counts) = (Vec::new(), Vec::new());
    for _ in 0..times {
        let at = Instant::now();
        let client = world.log_in(&login).await?;
        logins.push(at.elapsed().as_secs_f64() * 1e3);
        let at = Instant::now();
        client.query_one(COUNT_SESSIONS, &[&login.user, &0_i64]).await?;
        counts.push(at.elapsed().as_secs_f64() * 1e3);
    }
    world.revoke(&login.lease).await?;
    let sql = "SELECT sum(pg_total_relation_size(oid))::bigint / 1024 FROM pg_class \
               WHERE relname IN ('pg_authid', 'pg_auth_members')";
    let median = |mut series: Vec<f64>| {
        series.sort_unstable_by(f64::total_cmp);
        quantile(&series, 0.5).unwrap_or_default()
    };
    Ok(Felt {
        live,
        login_p50_ms: median(logins),
        count_p50_ms: median(counts),
        catalog_kib: world.admin.query_one(sql, &[]).await?.get(0),
    })
}

/// Logins with a right of their own on one table, none taken back, until Postgres refuses.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Ceiling {
    pub(crate) roles: usize,
    pub(crate) sqlstate: Option<String>,
    pub(crate) message: Option<String>,
}

/// By SQL alone: it is a limit of Postgres.
pub(crate) async fn ceiling(world: &World, at_most: u32) -> Result<Ceiling, AnyError> {
    const BATCH: u32 = 100;
    eprintln!("rights for each role alone");
    let admin = &world.admin;
    admin.batch_execute("CREATE TABLE orders.granted (id int)").await?;
    let grant = async |roles: std::ops::Range<u32>| {
        let names: Vec<_> = roles.map(|n| format!("\"ceiling-{n}\"")).collect();
        admin.batch_execute(&format!("GRANT SELECT ON orders.granted TO {}", names.join(","))).await
    };
    let mut ceiling = Ceiling { roles: 0, sqlstate: None, message: None };
    let mut made = 0;
    while made < at_most && ceiling.sqlstate.is_none() {
        let batch = made..at_most.min(made + BATCH);
        made = batch.end;
        let names = batch.clone().map(|n| format!("CREATE ROLE \"ceiling-{n}\" NOLOGIN;"));
        admin.batch_execute(&names.collect::<String>()).await?;
        // All at once, as each grant writes the whole list anew; the last batch one by one.
        if grant(batch.clone()).await.is_ok() {
            ceiling.roles += batch.len();
            continue;
        }
        for n in batch {
            match grant(n..n + 1).await {
                Ok(()) => ceiling.roles += 1,
                Err(error) => {
                    ceiling.sqlstate = error.code().map(|code| code.code().to_owned());
                    ceiling.message = error.as_db_error().map(|e| e.message().to_owned());
                    break;
                }
            }
        }
    }
    // Out of the way of what is measured next.
    admin.batch_execute("DROP TABLE orders.granted").await?;
    let drops = (0..made).map(|n| format!("DROP ROLE \"ceiling-{n}\";"));
    admin.batch_execute(&drops.collect::<String>()).await?;
    Ok(ceiling)
}

/// Leases that ended while the Vault server was down, and what it does when it is back.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Backlog {
    /// Of these the roles were there when the server was unsealed.
    pub(crate) logins: usize,
    /// From the unsealing until the last of them is gone.
    pub(crate) seconds: f64,
    pub(crate) per_second: f64,
    /// Mints meanwhile, by 8 clients: services whose logins have ended come at the same time.
    pub(crate) mint: Series,
}

/// What hangs is an error after this; what is slow is not.
const PATIENCE: Duration = Duration::from_secs(900);

pub(crate) async fn backlog(
    world: &Arc<World>,
    count: usize,
    time: Duration,
) -> Result<Backlog, AnyError> {
    eprintln!("a backlog of {count} leases");
    let (_, logins) = series::mints(world, WIDE, 8, Until::Count(count)).await;
    let (leases, users): (Vec<_>, Vec<_>) =
        logins.into_iter().map(|login| (login.lease, login.user)).unzip();
    series::shorten(world, leases, 8, time).await;
    let over = SystemTime::now() + time;
    world.stack.stop_vault().await?;
    // Leases end by the wall clock, also those of a server that is down.
    tokio::time::sleep(over.duration_since(SystemTime::now()).unwrap_or_default()).await;
    let left = async || -> Result<usize, AnyError> {
        let sql = "SELECT count(*) FROM pg_roles WHERE rolname = ANY($1)";
        let left: i64 = world.admin.query_one(sql, &[&users]).await?.get(0);
        Ok(usize::try_from(left)?)
    };
    let logins = left().await?;
    world.stack.start_vault_sealed().await?;
    let begun = Instant::now();
    world.stack.unseal_vault().await?;
    let gone = Arc::new(AtomicBool::new(false));
    let until = Until::Told(gone.clone());
    let minted = {
        let world = world.clone();
        tokio::spawn(async move { series::mints(&world, WIDE, 8, until).await.0 })
    };
    let emptied = async {
        while left().await? > 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok::<_, AnyError>(())
    };
    let emptied = tokio::time::timeout(PATIENCE, emptied).await;
    let seconds = begun.elapsed().as_secs_f64();
    gone.store(true, Ordering::Relaxed);
    let mint = minted.await?;
    emptied.map_err(|_| format!("logins of ended leases live on after {PATIENCE:?}"))??;
    Ok(Backlog { logins, seconds, per_second: logins as f64 / seconds, mint })
}
