//! What `docs/doctor.md`, the README and `--help` say is so.

use std::process::Stdio;
use std::time::Duration;

use leasehold_testkit::{DatabaseSpec, RoleSpec};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::run::{Doctor, assert_nothing_left, own_stack};

const PAGE: &str = include_str!("../../../../docs/doctor.md");
const README: &str = include_str!("../../README.md");

/// All lines of the page's shell blocks.
fn commands(page: &str) -> String {
    let blocks = page.split("```sh\n").skip(1);
    blocks.map(|block| block.split("```").next().unwrap()).collect()
}

#[tokio::test]
async fn every_command_works_as_it_stands() {
    let stack = own_stack().await;
    let orders = DatabaseSpec::new("orders")
        .role(RoleSpec::new("orders-rw").default_ttl(Duration::from_secs(3600)))
        .schema("CREATE TABLE orders (id bigint)")
        .mounted_at("database");
    let db = stack.database(orders).await.unwrap();
    let help = Doctor::of(&db).await.arg("--help").run().await.stdout;
    let examples = help.split("Examples:\n").nth(1).expect("examples").to_owned();
    let mut pages = vec![commands(PAGE), examples.replace("INSERT ON", "UPDATE ON")];
    // The README's writes a role over the one that is there, whose group is another. The commands
    // behind it run for long, or for ever; they are parsed by a test of the program.
    pages.push(commands(README.split("## exec, watch").next().unwrap()));
    assert_eq!(pages.join("").matches("leasehold doctor").count(), 10);

    // As the administrator, who may do everything that is on these pages.
    let doctor = Doctor::of(&db).await.token(stack.root_token()).administrator(&db);
    let environment = doctor.command();
    let mut shell = Command::new("sh");
    for (name, value) in environment.as_std().get_envs() {
        shell.env(name, value.unwrap());
    }
    shell.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    shell.current_dir(stack.dir().unwrap());
    let mut child = shell.spawn().unwrap();
    let programs = format!(
        "set -e\nleasehold() {{ '{}' \"$@\"; }}\nbao() {{ '{}' \"$@\"; }}\n",
        env!("CARGO_BIN_EXE_leasehold"),
        stack.vault_program().await.unwrap().display(),
    );
    let script = programs + &pages.join("\n");
    child.stdin.take().unwrap().write_all(script.as_bytes()).await.unwrap();
    let said = doctor.said(child.wait_with_output().await.unwrap());
    assert_eq!(said.code, Some(0), "{script}\n{}\n{}", said.stdout, said.stderr);
    assert_nothing_left(&db).await;
}

#[tokio::test]
async fn the_page_has_all_steps_in_their_order() {
    let stack = leasehold_testkit::shared().await.unwrap();
    let db = stack.database("page").await.unwrap();
    let report = Doctor::of(&db).await.report().await;
    let steps: Vec<&str> = report.steps().map(|step| step["id"].as_str().unwrap()).collect();
    let table = PAGE.split("| --- | --- | --- |\n").nth(1).unwrap().split("\n\n").next().unwrap();
    let rows: Vec<&str> = table.lines().map(|row| row.split('`').nth(1).unwrap()).collect();
    assert_eq!(rows, steps);
}
