//! Looks every half second.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use leasehold::{HealthState, LastError};
use serde::Serialize;
use sqlx::PgPool;
use tokio::time::MissedTickBehavior;

use super::board::Board;
use super::traffic::Counts;
use crate::health::{Probe, seconds};
use crate::latency::Latencies;

const EVERY: Duration = Duration::from_millis(500);
/// What one figure sums up: a percentile of half a second says little.
const RECENT: Duration = Duration::from_secs(3);
/// A pool that has no connection to give by then is asked again with the next sample.
const COUNT_WITHIN: Duration = Duration::from_millis(400);

/// How things stood at one instant, and what passed since the one before. Seconds, and
/// milliseconds where the name says so.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Sample {
    pub(crate) at: f64,
    pub(crate) ok: u64,
    pub(crate) failed: u64,
    pub(crate) ok_total: u64,
    pub(crate) failed_total: u64,
    /// Of the failed, those that somebody did on purpose.
    pub(crate) explained: u64,
    pub(crate) explained_total: u64,
    /// Latencies; `None`: no request.
    p50_ms: Option<f64>,
    p99_ms: Option<f64>,
    max_ms: Option<f64>,
    /// Of the last [`RECENT`], not of this sample alone.
    recent_p99_ms: Option<f64>,
    state: HealthState,
    pub(crate) generation: u64,
    username: String,
    pub(crate) expires_in: Option<f64>,
    rotates_in: Option<f64>,
    rotations: u64,
    renewals: u64,
    /// Drains under way, with the time until their deadline.
    draining: Vec<(u64, f64)>,
    last_error: Option<String>,
    stopped: Option<String>,
    /// Sessions by generation, as Postgres counts them; `None`: it could not be asked.
    connections: Option<BTreeMap<u64, i64>>,
    pool_size: usize,
    pool_idle: usize,
    token: Token,
    /// `None`: nobody looks, so that it is not asked.
    vault: Option<Vault>,
}

#[derive(Clone, Debug, Serialize)]
struct Token {
    login: u64,
    expires_in: Option<f64>,
    renewing: bool,
    lost: Option<String>,
}

#[derive(Clone, Debug, Serialize)]
struct Vault {
    reachable: bool,
    sealed: Option<bool>,
}

/// Samples for as long as it is let.
pub(crate) async fn sample(board: Board, probe: Probe, pool: PgPool) {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut recent = VecDeque::new();
    loop {
        ticks.tick().await;
        let vault = async {
            if !board.is_watched() {
                return None;
            }
            let vault = probe.vault().await;
            Some(Vault { reachable: vault.reachable, sealed: vault.sealed })
        };
        let (vault, connections) = tokio::join!(vault, connections(&board, &pool));
        let traffic = board.traffic().take();
        let now = Instant::now();
        recent.push_back((now, traffic.latencies.clone()));
        recent.retain(|(taken, _)| now.duration_since(*taken) < RECENT);
        let mut latencies = Latencies::default();
        for (_, some) in &recent {
            latencies.merge(some);
        }
        board.sampled(look(&probe, traffic, &latencies, vault, connections));
    }
}

fn look(
    probe: &Probe,
    traffic: Counts,
    recent: &Latencies,
    vault: Option<Vault>,
    connections: Option<BTreeMap<u64, i64>>,
) -> Sample {
    let health = probe.provider().health();
    let token = probe.session().token_state();
    let share = |of: &Latencies, share| (!of.is_empty()).then(|| ms(of.percentile(share)));
    Sample {
        at: 0.0,
        ok: traffic.ok,
        failed: traffic.failed,
        ok_total: 0,
        failed_total: 0,
        explained: traffic.explained,
        explained_total: 0,
        p50_ms: share(&traffic.latencies, 0.50),
        p99_ms: share(&traffic.latencies, 0.99),
        max_ms: share(&traffic.latencies, 1.0),
        recent_p99_ms: share(recent, 0.99),
        state: health.state,
        generation: health.generation,
        username: health.username,
        expires_in: health.expires_in.map(seconds),
        rotates_in: health.rotates_in.map(seconds),
        rotations: health.rotations,
        renewals: health.renewals,
        draining: (health.draining.iter())
            .map(|d| (d.generation, seconds(d.deadline_in)))
            .collect(),
        last_error: health.last_error.map(|LastError { message, .. }| message),
        stopped: health.stopped,
        connections,
        pool_size: health.pools.iter().map(|p| p.counts.size).sum(),
        pool_idle: health.pools.iter().map(|p| p.counts.idle).sum(),
        token: Token {
            login: token.login,
            expires_in: token.remaining.map(seconds),
            renewing: token.renewing,
            lost: token.lost,
        },
        vault,
    }
}

fn ms(latency: Duration) -> f64 {
    (latency.as_secs_f64() * 100_000.0).round() / 100.0
}

/// The sessions of our logins. Any login may count those of others; it needs no right for that.
/// Asked through the pool, as a handler would.
async fn connections(board: &Board, pool: &PgPool) -> Option<BTreeMap<u64, i64>> {
    let logins = board.open_logins();
    let names: Vec<&str> = logins.iter().map(|(_, name)| name.as_str()).collect();
    let sql = "SELECT usename::text, count(*) FROM pg_stat_activity
        WHERE usename = ANY($1::text[]) GROUP BY 1";
    let count = sqlx::query_as::<_, (String, i64)>(sql).bind(&names).fetch_all(pool);
    let rows = tokio::time::timeout(COUNT_WITHIN, count).await.ok()?.ok()?;
    let counted: BTreeMap<_, _> = rows.into_iter().collect();
    let of = |name: &String| counted.get(name).copied().unwrap_or(0);
    Some(logins.iter().map(|(generation, name)| (*generation, of(name))).collect())
}
