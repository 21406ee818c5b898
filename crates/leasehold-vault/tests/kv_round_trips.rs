//! What it takes to read many secrets, counted in answers that have to be waited for.
#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use common::script::Reply;
use common::sim::{GoodVault, Sim};
use leasehold_vault::{Auth, KvStore, Session, VaultConfig};
use serde::Deserialize;

const HOUR: Duration = Duration::from_secs(3600);
/// How long the server takes for an answer: much longer than all else, and not yet hanging.
const ANSWER: Duration = Duration::from_secs(8);
const MANY: usize = 100;

#[derive(Deserialize)]
struct Tenant {
    name: String,
}

fn paths() -> Vec<String> {
    (0..MANY).map(|n| format!("tenant/{n}")).collect()
}

async fn world(sim: &Sim) -> (GoodVault, KvStore) {
    let vault = GoodVault::start(HOUR, 24 * HOUR, 24 * HOUR).await;
    for path in paths() {
        let reply = Reply::json(
            200,
            format!(r#"{{"data":{{"data":{{"name":"{path}"}},"metadata":{{"version":1}}}}}}"#),
        );
        vault.script.answer(&format!("secret/data/{path}"), reply.after(ANSWER));
    }
    let config = VaultConfig::new(vault.script.address()).clock(sim.clock()).request_timeout(HOUR);
    let login = sim.finish(Session::login(config, Auth::approle("role", "secret"))).await;
    (vault, login.unwrap().kv2_store("secret"))
}

/// Where it is the way to the server that takes time, which is so wherever that is not this
/// machine. (Where it is the server's CPU, a hundred reads are a hundred times the work.)
#[tokio::test(start_paused = true)]
async fn a_hundred_secrets_are_there_in_twice_the_time_of_one() {
    let sim = Sim::start();
    let (vault, kv) = world(&sim).await;
    let begun = sim.elapsed();
    let one = sim.finish(kv.read::<Tenant>("tenant/7")).await.unwrap();
    assert_eq!(one.value.name, "tenant/7");
    let one = sim.elapsed() - begun;
    assert!(one >= ANSWER, "{one:?}");

    let begun = sim.elapsed();
    let all = sim.finish(kv.read_many::<Tenant>(paths())).await;
    let many = sim.elapsed() - begun;
    for (read, path) in all.into_iter().zip(paths()) {
        assert_eq!(read.unwrap().value.name, path);
    }
    assert_eq!(vault.script.trace().iter().filter(|(_, p)| p.starts_with("secret/")).count(), 101);
    // Time moves in steps here, and each round may take one more.
    assert!(many.as_secs_f64() <= 2.1 * one.as_secs_f64(), "{many:?} and {one:?}");
}

#[tokio::test(start_paused = true)]
async fn no_more_are_asked_for_at_once_than_the_session_lets() {
    let sim = Sim::start();
    let (vault, kv) = world(&sim).await;
    let asked = || vault.script.trace().iter().filter(|(_, p)| p.starts_with("secret/")).count();
    let read = tokio::spawn(async move { kv.read_many::<Tenant>(paths()).await });
    sim.until(ANSWER, || asked() >= 64).await;
    sim.pass(ANSWER / 4).await;
    assert_eq!(asked(), 64, "four times as many as logins");
    let all = sim.finish(read).await.unwrap();
    assert!(all.iter().all(Result::is_ok));
}
