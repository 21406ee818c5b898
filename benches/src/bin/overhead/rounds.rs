//! Throughput and latency of both sides, in short rounds that alternate.

use std::time::{Duration, Instant};

use leasehold_drill::AnyError;
use leasehold_drill::stats::{self, Ratio};
use serde::Serialize;
use tokio::task::JoinSet;

use crate::pools::{AnyPool, Kind};

/// Rounds of each side whose figures are thrown away: caches warm up, statements are prepared.
const WARM_UP: usize = 5;

/// Taking a connection from deadpool is a third of a microsecond. Looking at the clock around each
/// one would be a good part of what is measured: one in so many is timed.
const UNTIMED: u64 = 32;

/// What is done with each connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Work {
    /// Nothing.
    Acquire,
    /// One statement.
    Select,
}

impl Work {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Acquire => "acquire",
            Self::Select => "acquire, SELECT 1",
        }
    }
}

/// One cell of the table.
#[derive(Debug, Serialize)]
pub(crate) struct Throughput {
    pub(crate) pool: &'static str,
    pub(crate) work: Work,
    pub(crate) tasks: usize,
    /// Hooked to plain.
    pub(crate) ratio: Ratio,
    pub(crate) plain: Side,
    pub(crate) hooked: Side,
}

#[derive(Debug, Serialize)]
pub(crate) struct Side {
    /// The median of the rounds.
    pub(crate) per_second: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
}

/// How a cell is measured.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) rounds: usize,
    pub(crate) round: Duration,
    pub(crate) tasks: usize,
    pub(crate) work: Work,
}

/// One side, or one of its rounds.
#[derive(Default)]
struct Seen {
    rates: Vec<f64>,
    /// In nanoseconds.
    took: Vec<u32>,
}

/// An operation that fails ends it all: nothing fails while nothing happens.
pub(crate) async fn compare(
    kind: Kind,
    pools: &[AnyPool; 2],
    shape: Shape,
) -> Result<Throughput, AnyError> {
    let mut seen = [Seen::default(), Seen::default()];
    for round in 0..shape.rounds + WARM_UP {
        // A drift of the machine is then as often in favour of the one as of the other.
        let order = if round % 2 == 0 { [0, 1] } else { [1, 0] };
        for side in order {
            let (rate, took) = run(&pools[side], kind, shape).await?;
            pools[side].settle().await?;
            if round >= WARM_UP {
                seen[side].rates.push(rate);
                seen[side].took.extend(took);
            }
        }
    }
    let [plain, hooked] = seen;
    let pairs = hooked.rates.iter().zip(&plain.rates).map(|(hooked, plain)| hooked / plain);
    Ok(Throughput {
        pool: kind.as_str(),
        work: shape.work,
        tasks: shape.tasks,
        ratio: Ratio::of_pairs(pairs).ok_or("no rounds")?,
        plain: plain.side()?,
        hooked: hooked.side()?,
    })
}

/// One round: operations per second, and how long some of them took.
async fn run(pool: &AnyPool, kind: Kind, shape: Shape) -> Result<(f64, Vec<u32>), AnyError> {
    let untimed = match (kind, shape.work) {
        (Kind::Deadpool, Work::Acquire) => UNTIMED - 1,
        _ => 0,
    };
    let begun = Instant::now();
    let end = begun + shape.round;
    let select = shape.work == Work::Select;
    let mut tasks = JoinSet::new();
    for _ in 0..shape.tasks {
        let pool = pool.clone();
        tasks.spawn(async move {
            let mut took = Vec::new();
            let mut done = 0u64;
            let mut from = Instant::now();
            while from < end {
                pool.use_one(select).await?;
                let until = Instant::now();
                took.push(u32::try_from((until - from).as_nanos()).unwrap_or(u32::MAX));
                for _ in 0..untimed {
                    pool.use_one(select).await?;
                }
                done += 1 + untimed;
                from = if untimed == 0 { until } else { Instant::now() };
            }
            Ok::<_, AnyError>((done, took))
        });
    }
    let (mut done, mut took) = (0, Vec::new());
    while let Some(ended) = tasks.join_next().await {
        let (by_one, of_one) = ended??;
        done += by_one;
        took.extend(of_one);
    }
    Ok((done as f64 / begun.elapsed().as_secs_f64(), took))
}

impl Seen {
    fn side(mut self) -> Result<Side, AnyError> {
        self.rates.sort_unstable_by(f64::total_cmp);
        self.took.sort_unstable();
        let us = |q| stats::quantile(&self.took, q).map(|ns| f64::from(ns) / 1000.0);
        Ok(Side {
            per_second: stats::quantile(&self.rates, 0.5).ok_or("no rounds")?,
            p50_us: us(0.5).ok_or("nothing was timed")?,
            p99_us: us(0.99).ok_or("nothing was timed")?,
        })
    }
}
