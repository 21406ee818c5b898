//! `docs/migrating.md`: the steps on real servers, and the difference between the two projects.

use std::collections::BTreeMap;
use std::fmt::Write;

use leasehold_testkit::Stack;
use leasehold_tests::ready_made::Operator;
use similar::TextDiff;
use tokio_postgres::{Client, NoTls};

use crate::pages::page;
use crate::repository;

const PAGE: &str = "docs/migrating.md";

/// What the acceptance of this page asks for.
const FEW: usize = 25;

fn project(name: &str) -> BTreeMap<String, String> {
    let folder = format!("examples/migration/{name}/");
    let files = repository::files().iter().filter_map(|file| file.strip_prefix(&folder));
    let files = files.filter(|file| *file != "Cargo.lock");
    files.map(|file| (file.to_owned(), repository::read(&format!("{folder}{file}")))).collect()
}

/// As `diff -u before after` has it, with one line around each change.
fn difference(of: impl Fn(&str) -> bool) -> String {
    let (before, after) = (project("before"), project("after"));
    let mut all = String::new();
    for (file, new) in after.iter().filter(|(file, _)| of(file)) {
        let old = &before[file];
        let text = TextDiff::from_lines(old, new);
        let mut diff = text.unified_diff();
        diff.context_radius(1).header(&format!("before/{file}"), &format!("after/{file}"));
        write!(all, "{diff}").unwrap();
    }
    all
}

fn changed(diff: &str) -> usize {
    let header = |line: &&str| line.starts_with("--- ") || line.starts_with("+++ ");
    diff.lines().filter(|line| !header(line) && line.starts_with(['+', '-'])).count()
}

#[test]
fn the_difference_is_the_one_that_the_page_shows() {
    let [shown, shown_servers] = page(PAGE).run("the_difference_is_the_one_that_the_page_shows");
    let (program, servers) = (
        difference(|file| file == "Cargo.toml" || file.starts_with("src/")),
        difference(|file| file == "tests/servers/mod.rs"),
    );
    assert_eq!(shown.text, program, "the program's is\n{program}");
    assert_eq!(shown_servers.text, servers, "the servers' is\n{servers}");
    let lines = changed(&program);
    assert!(lines > 0 && lines < FEW, "{lines}");
    assert!(repository::read(PAGE).contains(&format!("{lines} changed lines")), "{lines}");
    assert!(repository::read("README.md").contains(&format!("changes {lines} lines")), "{lines}");
}

#[test]
fn handlers_and_tests_stay_as_they_are() {
    let (before, after) = (project("before"), project("after"));
    let touched = ["Cargo.toml", "src/main.rs", "tests/servers/mod.rs"];
    for (file, text) in &before {
        assert!(touched.contains(&file.as_str()) || after[file] == *text, "{file} differs");
    }
    let new: Vec<_> = after.keys().filter(|file| !before.contains_key(*file)).collect();
    assert_eq!(new, ["tests/rotation.rs"]);
}

async fn connect(
    stack: &Stack,
    user: &str,
    password: &str,
) -> Result<Client, tokio_postgres::Error> {
    let mut config = tokio_postgres::Config::new();
    config.host(stack.pg_host()).port(stack.pg_port()).dbname("orders");
    let (client, connection) = config.user(user).password(password).connect(NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

#[tokio::test]
async fn the_three_steps_are_taken() {
    let [postgres, vault, end, look] = page(PAGE).run("the_three_steps_are_taken");
    let stack = Stack::start().await.unwrap();
    let operator = Operator::of(&stack).await;

    // What is there before: a database, and its service's login, which owns the tables.
    let mut config = tokio_postgres::Config::new();
    config.host(stack.pg_host()).port(stack.pg_port()).dbname("postgres");
    config.user(stack.superuser()).password(stack.superuser_password());
    let (server, connection) = config.connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    let role = "CREATE ROLE orders_app LOGIN PASSWORD 'static'";
    for statement in [role, "CREATE DATABASE orders OWNER orders_app"] {
        server.batch_execute(statement).await.unwrap();
    }
    let old = connect(&stack, "orders_app", "static").await.unwrap();
    old.batch_execute(&repository::read("examples/migration/before/schema.sql")).await.unwrap();

    let admin = connect(&stack, stack.superuser(), stack.superuser_password()).await.unwrap();
    admin.batch_execute(&postgres.text).await.unwrap();
    let address = format!("{}:{}", stack.pg_host(), stack.pg_port());
    let script = vault.text.replace("db.internal:5432", &address);
    operator.sh(&script.replace("verify-full", "disable")).await;

    // Old and new side by side, with the same rights.
    let (status, reply) =
        stack.vault_request("GET", "database/creds/orders-rw", None).await.unwrap();
    assert_eq!(status, 200, "{reply}");
    let [user, password] = ["username", "password"].map(|k| reply["data"][k].as_str().unwrap());
    let new = connect(&stack, user, password).await.unwrap();
    for client in [&old, &new] {
        client.execute("INSERT INTO orders (item) VALUES ('tea')", &[]).await.unwrap();
    }

    admin.batch_execute(&end.text).await.unwrap();
    drop(old);
    assert!(connect(&stack, "orders_app", "static").await.is_err(), "the old password has ended");
    new.execute("INSERT INTO orders (item) VALUES ('coffee')", &[]).await.unwrap();
    let seen = admin.query(&look.text, &[]).await.unwrap();
    assert!(seen.iter().any(|row| row.get::<_, Option<String>>(0).as_deref() == Some(user)));
    drop(new);
    let lease = reply["lease_id"].as_str().unwrap();
    stack.revoke_lease(lease).await.unwrap();
}
