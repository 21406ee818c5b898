//! The two programs as a user starts and ends them.
// Helpers outside of test functions count as such too.
#![allow(clippy::unwrap_used)]

mod common;

use std::process::{Command, Output};

use common::program::Program;
use common::stream::{Stream, send};
use common::{assert_nothing_left, database};
use leasehold_testkit::{TestDb, TokenSpec, shared};
use rustix::process::Signal;

const DEMO: &str = env!("CARGO_BIN_EXE_demo");
const APP: &str = env!("CARGO_BIN_EXE_axum-app");

#[test]
fn the_demo_rotates_under_load_and_leaves_nothing() {
    let mut demo = Program::start(&mut Command::new(DEMO));
    demo.wait_for("swapped to generation 2");
    demo.wait_for("revoked generation 1");
    demo.signal(Signal::INT);
    let status = demo.end();
    let said = demo.said();
    assert!(status.success(), "{status}\n{said}");
    for line in [
        "open http://127.0.0.1:",
        "issued v-",
        "renewed generation 1",
        "rotating (max_ttl)",
        "swapped to generation 2",
        "drained generation 1",
        "revoked generation 1",
        ", 0 failed; p50 ",
        "nothing is left: 0 leases, 0 Postgres roles, 0 sessions, 0 tokens",
    ] {
        assert!(said.contains(line), "{line} is missing in\n{said}");
    }
    assert!(!said.contains('\x1b'), "colours without a terminal\n{said}");
}

#[test]
fn an_interrupted_demo_ends_in_order() {
    let mut demo = Program::start(&mut Command::new(DEMO));
    demo.wait_for("queries ");
    demo.signal(Signal::INT);
    let status = demo.end();
    let said = demo.said();
    assert!(status.success(), "{status}\n{said}");
    assert!(said.contains("stopping in order"), "{said}");
    assert!(said.contains("revoked generation 1"), "{said}");
    assert!(said.contains("nothing is left: 0 leases"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_runs_on_servers_that_are_there_already() {
    let db = database(shared().await.unwrap(), "external", 6, 12).await;
    let token = db.token(TokenSpec::new()).await.unwrap().token;
    let mut command = on(&db, DEMO);
    command.env("VAULT_TOKEN", token).args(["--", "--external", "--workers", "3"]);
    let work = move || {
        let mut demo = Program::start(&mut command);
        demo.wait_for("swapped to generation 2");
        demo.signal(Signal::INT);
        (demo.end(), demo.said())
    };
    let (status, said) = tokio::task::spawn_blocking(work).await.unwrap();
    assert!(status.success(), "{status}\n{said}");
    assert!(said.contains("swapped to generation 2"), "{said}");
    assert!(said.contains("for an administrator to see"), "{said}");
    assert_nothing_left(&db).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_demo_whose_queries_fail_says_so_and_fails() {
    let db = database(shared().await.unwrap(), "failing", 60, 600).await;
    db.admin().await.unwrap().batch_execute("drop table accounts").await.unwrap();
    let mut command = on(&db, DEMO);
    with_app_role(&db, &mut command).await;
    command.args(["--external", "--for", "1s"]);
    let (status, said) = run(command).await;
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("FAILED: ") && said.contains("queries failed, first: "), "{said}");
    assert_nothing_left(&db).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_ends_in_order_on_a_signal() {
    let db = database(shared().await.unwrap(), "service", 60, 600).await;
    for signal in [Signal::TERM, Signal::INT] {
        let mut command = on(&db, APP);
        with_app_role(&db, &mut command).await;
        command.env("LISTEN", "127.0.0.1:0");
        let (status, said) = tokio::task::spawn_blocking(move || {
            let mut app = Program::start(&mut command);
            app.wait_for("listening on");
            app.signal(signal);
            (app.end(), app.said())
        })
        .await
        .unwrap();
        assert!(status.success(), "{status}\n{said}");
        assert!(said.contains("nothing is left"), "{said}");
        assert_nothing_left(&db).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_page_holds_up_no_end() {
    let db = database(shared().await.unwrap(), "held", 60, 600).await;
    let mut command = on(&db, APP);
    with_app_role(&db, &mut command).await;
    command.env("LISTEN", "127.0.0.1:0");
    let start = move || {
        let mut app = Program::start(&mut command);
        app.wait_for("listening on http://");
        app
    };
    let mut app = tokio::task::spawn_blocking(start).await.unwrap();
    let said = app.said();
    let url = said.split("listening on ").nth(1).and_then(|rest| rest.lines().next()).unwrap();
    let mut stream = Stream::of(send(url, "GET", "/events", &[]).await);
    assert_eq!(stream.next().await.unwrap().0, "hello");
    app.signal(Signal::TERM);
    let mut last = String::new();
    while let Some((name, _)) = stream.next().await {
        last = name;
    }
    assert_eq!(last, "bye", "a stop is told from a loss");
    let (status, said) =
        tokio::task::spawn_blocking(move || (app.end(), app.said())).await.unwrap();
    assert!(status.success(), "{status}\n{said}");
    assert!(!said.contains("requests still run"), "{said}");
    assert_nothing_left(&db).await;
}

/// What `leasehold dev --write-env` writes has these variables, as a test over there holds.
#[tokio::test(flavor = "multi_thread")]
async fn the_service_starts_with_the_variables_of_the_example_file() {
    let db = database(shared().await.unwrap(), "env_file", 60, 600).await;
    let secret_id = db.secret_id().await.unwrap();
    let port = db.pg_port().to_string();
    let vault = db.vault_addr();
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../../.env.example");
    let example = std::fs::read_to_string(example).unwrap();
    let mut command = Command::new(APP);
    command.env_clear().env("LISTEN", "127.0.0.1:0");
    for line in example.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let (name, _) = line.split_once('=').unwrap();
        let value = match name {
            "VAULT_ADDR" => &vault,
            "VAULT_ROLE_ID" => db.role_id(),
            "VAULT_SECRET_ID" => &secret_id,
            "VAULT_MOUNT_PATH" | "DB_MOUNT" => db.mount(),
            "VAULT_DATABASE_ROLE" | "ROLE" => db.role(),
            "PG_HOST" | "PGHOST" => db.pg_host(),
            "PG_PORT" | "PGPORT" => &port,
            "PG_DB" | "PGDATABASE" => db.name(),
            _ => panic!("{name} is new: give it a value here"),
        };
        command.env(name, value);
    }
    let work = move || {
        let mut app = Program::start(&mut command);
        app.wait_for("listening on");
        app.signal(Signal::TERM);
        (app.end(), app.said())
    };
    let (status, said) = tokio::task::spawn_blocking(work).await.unwrap();
    assert!(status.success(), "{status}\n{said}");
    assert_nothing_left(&db).await;
}

#[test]
fn missing_and_senseless_settings_are_named() {
    let complete = [
        ("VAULT_ADDR", "http://127.0.0.1:9"),
        ("VAULT_TOKEN", "t"),
        ("ROLE", "app"),
        ("PG_HOST", "127.0.0.1"),
        ("PG_DB", "app"),
    ];
    for missing in complete.iter().map(|(name, _)| *name) {
        let rest = complete.iter().filter(|(name, _)| *name != missing);
        let said = refusal(Command::new(APP).env_clear().envs(rest.copied()));
        assert!(said.contains(&format!("{missing} is not set")), "{missing}: {said}");
    }
    for (name, value) in [
        ("PG_PORT", "many"),
        ("LISTEN", "everywhere"),
        ("POOL_SIZE", "-1"),
        ("APPROLE_ROLE_ID", "r"),
        ("APPROLE_SECRET_ID", "s"),
    ] {
        let said = refusal(Command::new(APP).env_clear().envs(complete).env(name, value));
        let named = if name.starts_with("APPROLE") { "APPROLE_" } else { name };
        assert!(said.starts_with(&format!("axum-app: {named}")), "{name}: {said}");
    }
    let said = refusal(Command::new(APP).arg("--port"));
    assert!(said.contains("--port"), "{said}");
    let said = refusal(Command::new(DEMO).args(["--for", "soon"]));
    assert!(said.contains("20s or 1m30s"), "{said}");
    let said = refusal(Command::new(DEMO).env_clear().arg("--external"));
    assert!(said.contains("VAULT_ADDR is not set"), "{said}");
}

/// A program with this database's settings.
fn on(db: &TestDb, program: &str) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("VAULT_ADDR", db.vault_addr())
        .env("DB_MOUNT", db.mount())
        .env("ROLE", db.role())
        .env("PG_HOST", db.pg_host())
        .env("PG_PORT", db.pg_port().to_string())
        .env("PG_DB", db.name());
    command
}

async fn with_app_role(db: &TestDb, command: &mut Command) {
    command
        .env("APPROLE_ROLE_ID", db.role_id())
        .env("APPROLE_SECRET_ID", db.secret_id().await.unwrap());
}

async fn run(mut command: Command) -> (std::process::ExitStatus, String) {
    let work = move || {
        let mut program = Program::start(&mut command);
        (program.end(), program.said())
    };
    tokio::task::spawn_blocking(work).await.unwrap()
}

/// What a program says that refuses to run.
fn refusal(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap();
    assert!(!status.success(), "{command:?}");
    let said = [stdout, stderr].concat();
    let said = String::from_utf8(said).unwrap();
    assert!(!said.contains("panicked"), "{said}");
    said
}
