//! Orders are taken while one login replaces another.

mod program;
mod servers;

use std::process::Command;
use std::time::Duration;

use leasehold_testkit::eventually;

#[tokio::test]
async fn orders_are_taken_across_a_rotation() -> Result<(), Box<dyn std::error::Error>> {
    let (environment, db) = servers::start().await?;
    let program = program::Program::start(environment)?;
    let first = db.logins().await?;
    eventually("the first login is gone", Duration::from_secs(60), async || {
        program.order("tea").expect("orders are taken all the time");
        Ok(db.logins().await?.iter().all(|login| !first.contains(login)))
    })
    .await?;
    program.order("coffee")?;
    program.stop()?;
    assert_eq!((db.logins().await?.len(), db.lease_count().await?), (0, 0));
    Ok(())
}

/// It can't listen, and may be started again and again.
#[tokio::test]
async fn a_start_that_fails_leaves_no_login() -> Result<(), Box<dyn std::error::Error>> {
    let (environment, db) = servers::start().await?;
    let mut program = Command::new(env!("CARGO_BIN_EXE_orders"));
    program.envs(environment).env("LISTEN", "nowhere");
    let done = tokio::task::spawn_blocking(move || program.output()).await??;
    assert!(!done.status.success() && !done.stdout.is_empty(), "it had a login: {done:?}");
    assert_eq!((db.logins().await?.len(), db.lease_count().await?), (0, 0));
    Ok(())
}
