//! `leasehold watch`: on a terminal, in a pipe, and how it ends.

use std::process::Command;

use leasehold_testkit::{Stack, TestDb, eventually, shared};
use rustix::process::Signal;
use serde_json::Value;

use crate::program::{PATIENCE, Program, assert_nothing_left, database, leasehold, run};
use crate::terminal::{Terminal, screen};

async fn watch(db: &TestDb, options: &[&str]) -> Command {
    let mut command = leasehold(db, &[&["watch"], options].concat()).await;
    command
        .env("PGHOST", db.pg_host())
        .env("PGPORT", db.pg_port().to_string())
        .env("PGDATABASE", db.name());
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_pipe_each_event_is_a_line() {
    let db = database(shared().await.unwrap(), "lines", 4, 8).await;
    let mut program = Program::start(&mut watch(&db, &[]).await);
    program.wait_for("revoked generation 1");
    program.signal(Signal::INT);
    let status = program.end();
    let said = program.said();
    assert_eq!(status.code(), Some(0), "{said}");
    for line in [
        "issued v-",
        "renewed generation 1 for 4s",
        "swapped to generation 2",
        "drained generation 1",
        "pool",
        " 0 failed; nothing is left\n",
    ] {
        assert!(said.contains(line), "{line}\n{said}");
    }
    assert!(!said.contains('\x1b'), "no terminal, no colours\n{said}");
    assert_nothing_left(&db).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn as_json_each_line_is_an_object_and_it_ends_by_itself() {
    let db = database(shared().await.unwrap(), "json", 60, 600).await;
    let (code, said) = run(&mut watch(&db, &["--json", "--for", "1s"]).await);
    assert_eq!(code, Some(0), "{said}");
    let lines: Vec<Value> = said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0]["event"], "issued");
    let swapped = lines.iter().find(|line| line["event"] == "swapped").unwrap();
    assert_eq!(swapped["health"]["generation"], 1);
    let end = lines.last().unwrap();
    assert_eq!((&end["event"], &end["clean"]), (&"end".into(), &true.into()));
    assert!(end["queries"].as_u64().unwrap() > 0, "{end}");
    assert_eq!(end["failed_queries"], 0);
    assert_nothing_left(&db).await;
}

/// The line of the screen that begins so.
fn line(bytes: &[u8], begins: &str) -> Option<String> {
    let contents = screen(bytes).screen().contents();
    contents.lines().find(|line| line.trim_start().starts_with(begins)).map(str::to_owned)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_counts_down_rotates_by_a_key_and_is_given_back() {
    let db = database(shared().await.unwrap(), "screen", 60, 600).await;
    for end in ["q", "\x03", "TERM"] {
        let mut command = watch(&db, &[]).await;
        let (mut terminal, mut program) = Terminal::start(&mut command);
        let before = terminal.modes();
        let mut countdowns = Vec::new();
        program.wait_until("two countdowns", |said| {
            countdowns.extend(line(said, "lease "));
            countdowns.dedup();
            countdowns.len() > 2
        });
        assert!(countdowns[0].contains("[####"), "{countdowns:?}");
        assert!(screen(program.bytes()).screen().alternate_screen());
        assert_ne!(terminal.modes(), before, "keys are read as they are pressed");
        terminal.press("r");
        program.wait_until("generation 2 on the screen", |said| {
            line(said, "state").is_some_and(|line| line.contains("ready, generation 2, v-"))
                && line(said, "so far").is_some_and(|line| line.contains("1 rotations"))
        });
        program.wait_until("queries on the screen", |said| {
            line(said, "pool").is_some_and(|line| line.contains("0 failed"))
        });
        match end {
            "TERM" => program.signal(Signal::TERM),
            key => terminal.press(key),
        }
        let status = program.end();
        let shown = screen(program.bytes());
        assert_eq!(status.code(), Some(0), "{}", shown.screen().contents());
        assert!(!shown.screen().alternate_screen() && !shown.screen().hide_cursor());
        assert_eq!(terminal.modes(), before, "as it was");
        let last = shown.screen().contents();
        assert!(last.contains("1 rotations") && last.contains("nothing is left"), "{last}");
        assert_nothing_left(&db).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_work_is_told_and_leaves_nothing() {
    let db = database(shared().await.unwrap(), "refused", 60, 600).await;
    let mut nowhere = watch(&db, &["--database-url", "postgres://127.0.0.1:1/orders"]).await;
    let mut no_role = watch(&db, &["--role", "nobody"]).await;
    let mut grace = watch(&db, &["--grace", "5m"]).await;
    for (command, named) in [
        (&mut nowhere, "logging in to Postgres: "),
        (&mut no_role, "nobody"),
        (&mut grace, "the grace of 300.0s"),
    ] {
        let (code, said) = run(command);
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains(named), "{said}");
        assert_nothing_left(&db).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rehearsal_speaks_tls_as_the_place_says() {
    let stack = Stack::builder().postgres_tls(true).start().await.unwrap();
    let db = database(&stack, "tls", 60, 600).await;
    // The whole way is said by one URL, or by variables; neither has a login.
    let place = format!("postgres://{}:{}/{}", db.pg_host(), db.pg_port(), db.name());
    let required = format!("{place}?sslmode=require");
    let mut program =
        Program::start(&mut leasehold(&db, &["watch", "--database-url", &required]).await);
    let admin = db.admin().await.unwrap();
    eventually("its sessions are there", PATIENCE, async || {
        let sql = "SELECT count(*) FILTER (WHERE s.ssl), count(*) FILTER (WHERE NOT s.ssl)
            FROM pg_stat_activity JOIN pg_stat_ssl s USING (pid)
            WHERE datname = current_database() AND application_name = 'leasehold watch'";
        let row = admin.query_one(sql, &[]).await.unwrap();
        assert_eq!(row.get::<_, i64>(1), 0, "in clear");
        Ok(row.get::<_, i64>(0) > 0)
    })
    .await
    .unwrap();
    program.signal(Signal::INT);
    assert_eq!(program.end().code(), Some(0), "{}", program.said());
    // An authority that has not signed it, by a variable; the mend is told.
    let mut untrusting = leasehold(&db, &["watch", "--database-url", &place, "--for", "1s"]).await;
    let (code, said) = run(untrusting.env("PGSSLMODE", "verify-full"));
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("PGSSLROOTCERT"), "{said}");
    assert_nothing_left(&db).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_color_is_honoured_on_a_terminal() {
    let db = database(shared().await.unwrap(), "colours", 60, 600).await;
    for (no_color, coloured) in [("", true), ("1", false)] {
        let mut command = watch(&db, &["--for", "1s"]).await;
        let (_terminal, mut program) = Terminal::start(command.env("NO_COLOR", no_color));
        assert_eq!(program.end().code(), Some(0), "{}", program.said());
        // Green, as it is ready; the screen itself is there either way.
        assert_eq!(program.said().contains("\x1b[32m"), coloured, "{:?}", program.said());
        assert!(program.said().contains("\x1b[?1049h"), "{:?}", program.said());
    }
    assert_nothing_left(&db).await;
}
