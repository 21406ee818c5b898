//! How much longer a hundred secrets take to load than one, when a service starts: `cargo run
//! --release -p leasehold-drill --bin kv`. A table; the figures are those of `docs/kv.md`.
//!
//! Pairs are loaded one after the other, each over a session of its own, on a real OpenBao behind a
//! proxy that holds up what passes: the way to the server is what takes time in production, and is
//! nothing on one machine.

#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use leasehold_drill::stats::{Ratio, quantile};
use leasehold_drill::{AnyError, outcome};
use leasehold_testkit::{Direction, FaultProxy, Stack, Toxic};
use leasehold_vault::{Auth, KvStore, Session, VaultConfig};
use serde_json::{Value, json};

/// How much longer a hundred secrets take to load than one.
#[derive(Debug, Parser)]
struct Args {
    /// How many secrets beside one.
    #[arg(long, default_value_t = 100)]
    secrets: usize,
    /// Pairs for each delay.
    #[arg(long, default_value_t = 15)]
    pairs: usize,
    /// Round trips to the server, in milliseconds.
    #[arg(long, value_delimiter = ',', default_value = "0,1,5,20,50")]
    round_trips: Vec<u64>,
    /// The session's bound, which is four times as much for what is only read.
    #[arg(long, default_value_t = 16)]
    max_in_flight: usize,
}

#[tokio::main]
async fn main() -> ExitCode {
    outcome::exit("kv", run(Args::parse()).await.map(|()| true))
}

async fn run(args: Args) -> Result<(), AnyError> {
    let stack = Stack::start().await?;
    let kv = json!({ "type": "kv", "options": { "version": "2" } });
    stack.vault_request("POST", "sys/mounts/bench", Some(kv)).await?;
    let paths: Vec<String> = (0..args.secrets).map(|n| format!("tenant/{n}")).collect();
    let direct = Session::login(VaultConfig::new(stack.vault_addr()), root(&stack)).await?;
    for path in &paths {
        let body = json!({ "data": { "name": path, "key": "of-sixteen-bytes" } });
        let path = format!("bench/data/{path}");
        // The engine needs a moment before it takes the first one.
        leasehold_testkit::eventually("written", Duration::from_secs(30), async || {
            let (status, _) = stack.vault_request("POST", &path, Some(body.clone())).await?;
            Ok(status == 200)
        })
        .await?;
    }
    direct.close().await;

    let n = args.secrets;
    println!("| round trip | one secret | {n} secrets | ratio (95 %) | with the login: ratio |");
    println!("| --- | --- | --- | --- | --- |");
    for round_trip in args.round_trips.iter().map(|ms| Duration::from_millis(*ms)) {
        let server = stack.vault_addr();
        let proxy = FaultProxy::before(server.trim_start_matches("http://")).await?;
        let toxic = Toxic::Latency { delay: round_trip / 2, jitter: Duration::ZERO };
        if !round_trip.is_zero() {
            proxy.inject(Direction::Both, toxic).await;
        }
        let (mut ones, mut manys) = (Vec::new(), Vec::new());
        for pair in 0..args.pairs {
            // Neither is always the first.
            for many in [pair % 2 == 0, pair % 2 == 1] {
                let (from, into) =
                    if many { (&paths[..], &mut manys) } else { (&paths[..1], &mut ones) };
                into.push(load(&stack, &proxy, args.max_in_flight, from).await?);
            }
        }
        let ratio = |of: fn(&(Duration, Duration)) -> Duration| {
            let pairs = manys.iter().zip(&ones);
            Ratio::of_pairs(pairs.map(|(many, one)| of(many).div_duration_f64(of(one))))
        };
        let (loading, all) = (ratio(|(_, load)| *load), ratio(|(login, load)| *login + *load));
        let (Some(loading), Some(all)) = (loading, all) else { continue };
        let median = |of: &[(Duration, Duration)]| {
            let mut sorted: Vec<_> = of.iter().map(|(_, load)| *load).collect();
            sorted.sort_unstable();
            quantile(&sorted, 0.5).unwrap_or_default()
        };
        println!(
            "| {round_trip:?} | {:.1?} | {:.1?} | {:.1} ({:.1} to {:.1}) | {:.1} |",
            median(&ones),
            median(&manys),
            loading.median,
            loading.lower,
            loading.upper,
            all.median
        );
    }
    Ok(())
}

fn root(stack: &Stack) -> Auth {
    Auth::token(stack.root_token())
}

/// How long the login took, and what came after it.
async fn load(
    stack: &Stack,
    proxy: &FaultProxy,
    max_in_flight: usize,
    paths: &[String],
) -> Result<(Duration, Duration), AnyError> {
    let begun = Instant::now();
    let config = VaultConfig::new(format!("http://{}", proxy.address()));
    let config = config.max_in_flight(max_in_flight);
    let session = Session::login(config, root(stack)).await?;
    let kv: KvStore = session.kv2_store("bench");
    let logged_in = begun.elapsed();
    for read in kv.read_many::<Value>(paths).await {
        read?;
    }
    let all = begun.elapsed();
    session.close().await;
    Ok((logged_in, all - logged_in))
}
