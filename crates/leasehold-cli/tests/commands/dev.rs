//! `leasehold dev`: servers for one's own machine, and the end of them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use rustix::process::Signal;

use crate::program::{Folder, LEASEHOLD, Program, plain, run};

/// `dev` needs no Vault; it may need where servers were fetched to.
fn dev(options: &[&str]) -> Command {
    let mut command = plain(&[&["dev"], options].concat());
    for name in ["HOME", "LEASEHOLD_TESTKIT_CACHE", "BAO_BIN", "PG_BINDIR", "TMPDIR"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command
}

fn pairs<'a>(lines: impl Iterator<Item = &'a str>) -> BTreeMap<&'a str, &'a str> {
    lines.filter_map(|line| line.split_once('=')).collect()
}

fn assert_gone(variables: &BTreeMap<&str, &str>) {
    let vault = variables["VAULT_ADDR"].strip_prefix("http://").unwrap();
    let postgres = format!("{}:{}", variables["PGHOST"], variables["PGPORT"]);
    for address in [vault, &postgres] {
        assert!(TcpStream::connect(address).is_err(), "{address} still answers");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_prints_and_writes_an_environment_that_works_until_it_ends() {
    let folder = Folder::new("dev");
    let schema = folder.write(
        "schema.sql",
        "CREATE TABLE orders(id int); INSERT INTO orders VALUES (7);\n\
         GRANT CREATE ON SCHEMA public TO orders_rw;",
    );
    let file = folder.join(".env");
    // One that an earlier run left behind is ours to replace.
    std::fs::write(&file, "# Written by `leasehold dev`: old\nROLE=old\n").unwrap();
    let path = file.to_str().unwrap();
    let life = ["--ttl", "20s", "--max-ttl", "1m", "--role", "writer"];
    let names = ["--database", "orders", "--group", "orders_rw"];
    let files = ["--schema", &schema, "--write-env", path];
    let mut program = Program::start(&mut dev(&[&life[..], &names, &files].concat()));
    program.wait_for("ready; Ctrl-C ends it");
    // The two streams have no order.
    program.wait_for("export PGDATABASE=orders\n");
    let said = program.said();
    let printed = pairs(said.lines().filter_map(|line| line.strip_prefix("export ")));
    let text = std::fs::read_to_string(&file).unwrap();
    let written = pairs(text.lines().filter(|line| !line.starts_with('#')));
    assert_eq!(printed, written);
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!((printed["PGDATABASE"], printed["VAULT_DATABASE_ROLE"]), ("orders", "writer"));

    // Each of them is in the example for all, and that has no others.
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../../.env.example");
    let example = std::fs::read_to_string(example).unwrap();
    let told: BTreeSet<_> =
        pairs(example.lines().filter(|line| !line.starts_with('#'))).into_keys().collect();
    assert_eq!(told, printed.keys().copied().collect());

    // The library reads it: `exec` has a login that is of the group, for as long as was said.
    let wrote = folder.join("");
    let script = "env > \"$1/login.new\" && mv \"$1/login.new\" \"$1/login\"; \
                  while [ ! -e \"$1/go\" ]; do sleep 0.05; done";
    let words = ["exec", "-v", "--", "sh", "-c", script, "sh", wrote.to_str().unwrap()];
    let mut exec = Program::start(plain(&words).envs(&printed));
    let login = folder.variables("login");
    let (client, connection) = tokio_postgres::Config::new()
        .host(&login["PGHOST"])
        .port(login["PGPORT"].parse().unwrap())
        .dbname(&login["PGDATABASE"])
        .user(&login["PGUSER"])
        .password(&login["PGPASSWORD"])
        .connect(tokio_postgres::NoTls)
        .await
        .unwrap();
    let connection = tokio::spawn(connection);
    let row = client
        .query_one("SELECT id, pg_has_role('orders_rw', 'member') FROM orders", &[])
        .await
        .unwrap();
    assert_eq!((row.get::<_, i32>(0), row.get::<_, bool>(1)), (7, true));
    drop(client);
    connection.await.unwrap().unwrap();
    folder.write("go", "");
    assert_eq!(exec.end().code(), Some(0), "{}", exec.said());
    let life = exec.said().split(" for ").nth(1).unwrap().to_owned();
    let seconds: u64 = life.split('s').next().unwrap().parse().unwrap();
    assert!((1..=20).contains(&seconds), "{}", exec.said());

    program.signal(Signal::INT);
    assert_eq!(program.end().code(), Some(0), "{}", program.said());
    assert!(!file.exists(), "what it says is true no more");
    assert_gone(&printed);
}

#[test]
fn a_command_runs_in_it_and_gives_its_exit_code() {
    let folder = Folder::new("run");
    let script = "env > \"$1/env.new\" && mv \"$1/env.new\" \"$1/env\"; exit 5";
    let wrote = folder.join("");
    let mut command = dev(&["--", "sh", "-c", script, "sh", wrote.to_str().unwrap()]);
    command.env("VAULT_TOKEN", "of another server").env("DATABASE_URL", "postgres://a:b@c/d");
    command.env("LEASEHOLD_ADMIN_URL", "postgres://a:b@c/d");
    command.env("PGSERVICE", "other").env("PGHOSTADDR", "127.0.0.9");
    let (code, said) = run(&mut command);
    assert_eq!(code, Some(5), "{said}");
    let variables = folder.variables("env");
    assert!(!variables.contains_key("VAULT_TOKEN"), "two ways to log in");
    for elsewhere in ["DATABASE_URL", "LEASEHOLD_ADMIN_URL", "PGSERVICE", "PGHOSTADDR"] {
        assert!(!variables.contains_key(elsewhere), "{elsewhere} leads to another server");
    }
    assert!(!said.contains(&variables["VAULT_SECRET_ID"]), "{said}");
    assert_gone(&variables.iter().map(|(name, value)| (&**name, &**value)).collect());
}

/// A folder that Postgres, which may run as another user, can write to.
fn open_folder(name: &str) -> Folder {
    let folder = Folder::new(name);
    let all = std::fs::Permissions::from_mode(0o777);
    std::fs::set_permissions(folder.join(""), all).unwrap();
    folder
}

#[test]
fn a_signal_during_the_set_up_ends_it_and_runs_nothing() {
    let folder = open_folder("set-up");
    let there = folder.join("there");
    let sql = format!(
        "COPY (SELECT 1) TO PROGRAM 'cat > {0}.new && mv {0}.new {0}'; SELECT pg_sleep(600)",
        there.display()
    );
    let schema = folder.write("slow.sql", &sql);
    let ran = folder.join("ran");
    let options = ["--schema", &schema, "--", "touch", ran.to_str().unwrap()];
    let mut program = Program::start(&mut dev(&options));
    folder.read("there");
    program.signal(Signal::INT);
    assert_eq!(program.end().code(), Some(128 + 2), "{}", program.said());
    assert!(!ran.exists(), "the command was run");
}

#[test]
fn a_file_that_comes_meanwhile_stays_as_it_is() {
    let folder = open_folder("meanwhile");
    let file = folder.join(".env");
    let sql = format!("COPY (SELECT 'API_KEY=mine') TO PROGRAM 'cat > {}'", file.display());
    let schema = folder.write("late.sql", &sql);
    let options = ["--schema", &schema, "--write-env", file.to_str().unwrap(), "--", "true"];
    let (code, said) = run(&mut dev(&options));
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("--force"), "{said}");
    assert_eq!(folder.read(".env"), "API_KEY=mine\n");
}

#[test]
fn a_file_of_others_stays_as_it_is() {
    let folder = Folder::new("foreign");
    let foreign = folder.write(".env", "API_KEY=mine\n");
    let (code, said) = run(&mut dev(&["--write-env", &foreign]));
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("--force"), "{said}");
    assert_eq!(folder.read(".env"), "API_KEY=mine\n");

    let options = ["--write-env", &foreign, "--force", "--", "grep", "^VAULT_ADDR=", &foreign];
    let (code, said) = run(&mut dev(&options));
    assert_eq!(code, Some(0), "{said}");
    assert!(!folder.join(".env").exists());

    // One that was changed meanwhile is somebody else's.
    let options = ["--write-env", &foreign, "--", "sh", "-c", "echo MINE=1 >> \"$0\"", &foreign];
    let (code, said) = run(&mut dev(&options));
    assert_eq!(code, Some(0), "{said}");
    assert!(folder.read(".env").ends_with("MINE=1\n"));
}

#[test]
fn what_makes_no_sense_is_told_before_anything_is_started() {
    let folder = Folder::new("nonsense");
    let none = folder.join("none.sql");
    for (options, named) in [
        (&["--ttl", "500ms"][..], "whole seconds"),
        (&["--ttl", "soon"], "30s or 5m"),
        (&["--ttl", "1m", "--max-ttl", "30s"], "less than --ttl"),
        (&["--database", "Orders; DROP"], "small letters"),
        (&["--schema", none.to_str().unwrap()], "none.sql"),
        (&["--force"], "--write-env"),
        (&["--write-env", "/nowhere/.env"], "/nowhere/.env"),
    ] {
        let (code, said) = run(&mut dev(options));
        assert!(matches!(code, Some(1 | 2)), "{options:?}: {said}");
        assert!(said.contains(named), "{options:?}: {said}");
    }
    let (code, _) = run(Command::new(LEASEHOLD).args(["dev", "--nonsense"]));
    assert_eq!(code, Some(2));
}
