//! `leasehold import`: what it shows, what it writes, and what it never shows.

use std::process::Command;
use std::time::Duration;

use leasehold::{CredentialSource, Rotator};
use leasehold_testkit::{AppRoleSpec, Catch, DatabaseSpec, Direction, TestDb, Toxic, shared};
use leasehold_vault::{Auth, Session, VaultConfig};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::program::{Folder, PATIENCE, Program, assert_nothing_left, leasehold, plain, run};

const ENV: &str = "# of the old days\nPGUSER=app\nexport PGPASSWORD='hunter2 $x'\nPGHOST=db\n\
                   PORT=3000\nAPI_KEY=hunter3\n";

/// A database whose AppRole may write secrets below `MOUNT`, an engine of this version.
async fn database(name: &str, version: u8) -> (TestDb, String) {
    let stack = shared().await.unwrap();
    let mount = format!("teams/kv-{name}");
    let policy = format!(
        "path \"{mount}/data/apps/*\" {{ capabilities = [\"create\", \"update\", \"read\"] }}\n\
         path \"{mount}/metadata/apps/*\" {{ capabilities = [\"read\"] }}\n\
         path \"{mount}/apps/*\" {{ capabilities = [\"read\"] }}"
    );
    let app_role = AppRoleSpec::new().extra_policy(policy);
    let db = stack.database(DatabaseSpec::new(name).app_role(app_role)).await.unwrap();
    let engine = json!({ "type": "kv", "options": { "version": version.to_string() } });
    let path = format!("sys/mounts/{mount}");
    let (status, reply) = stack.vault_request("POST", &path, Some(engine)).await.unwrap();
    assert_eq!(status, 204, "{reply}");
    (db, mount)
}

async fn import(db: &TestDb, from: &str, to: &str, options: &[&str]) -> Command {
    let words = ["import", "--from", from, "--to", to];
    leasehold(db, &words.iter().chain(options).copied().collect::<Vec<_>>()).await
}

/// What is there, and its version.
async fn secret(db: &TestDb, mount: &str, path: &str) -> (Value, Value) {
    let path = format!("{mount}/data/{path}");
    let (_, reply) = db.stack().vault_request("GET", &path, None).await.unwrap();
    (reply["data"]["data"].clone(), reply["data"]["metadata"]["version"].clone())
}

async fn put(db: &TestDb, mount: &str, path: &str, data: Value) {
    let path = format!("{mount}/data/{path}");
    let body = Some(json!({ "data": data }));
    assert_eq!(db.stack().vault_request("POST", &path, body).await.unwrap().0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_writes_nothing_and_a_second_write_finds_nothing_to_do() {
    let (db, mount) = database("steps", 2).await;
    let folder = Folder::new("steps");
    let from = folder.write(".env", ENV);
    let to = format!("{mount}/apps/orders");

    let (code, dry) = run(&mut import(&db, &from, &to, &[]).await);
    assert_eq!(code, Some(0), "{dry}");
    for line in [
        "which is new:",
        "  + username (added)",
        "  + password (added)",
        "  + host (added)",
        "Nothing was written: --write does it.",
        &format!("left in {from}: PORT, API_KEY"),
    ] {
        assert!(dry.contains(line), "{line}\n{dry}");
    }
    assert_eq!(secret(&db, &mount, "apps/orders").await.0, Value::Null);

    let (code, written) = run(&mut import(&db, &from, &to, &["--write"]).await);
    assert_eq!(code, Some(0), "{written}");
    assert!(written.contains(&format!("Wrote version 1 of {to}.")), "{written}");
    assert!(written.contains(&format!("session.kv2({mount:?}, \"apps/orders\")")), "{written}");
    let expected = json!({ "username": "app", "password": "hunter2 $x", "host": "db" });
    assert_eq!(secret(&db, &mount, "apps/orders").await, (expected, json!(1)));

    let (code, again) = run(&mut import(&db, &from, &to, &["--yes"]).await);
    assert_eq!(code, Some(0), "{again}");
    assert!(again.contains("  = password (unchanged)"), "{again}");
    assert!(again.contains("Nothing to write."), "{again}");
    assert_eq!(secret(&db, &mount, "apps/orders").await.1, json!(1), "no other version");

    // What is in the secret and not in the file is kept, unless it is said not to be.
    put(&db, &mount, "apps/orders", json!({ "username": "old", "note": 7 })).await;
    let (_, kept) = run(&mut import(&db, &from, &to, &[]).await);
    assert!(kept.contains("  ~ username (changed)"), "{kept}");
    assert!(kept.contains("    note (kept, not in the file)"), "{kept}");
    let (_, replaced) = run(&mut import(&db, &from, &to, &["--replace", "--write"]).await);
    assert!(replaced.contains("  - note (removed)"), "{replaced}");
    let now = secret(&db, &mount, "apps/orders").await;
    assert_eq!((&now.0["note"], &now.1), (&Value::Null, &json!(3)));

    // A version that was deleted has a number all the same.
    let path = format!("{mount}/data/apps/orders");
    db.stack().vault_request("DELETE", &path, None).await.unwrap();
    let (code, undone) = run(&mut import(&db, &from, &to, &["--write"]).await);
    assert_eq!(code, Some(0), "{undone}");
    assert!(undone.contains("Wrote version 4"), "{undone}");

    // I10, and no colours without a terminal.
    for said in [dry, written, again, kept, replaced, undone] {
        assert!(!said.contains("hunter") && !said.contains('\x1b'), "{said}");
    }
    assert_nothing_left(&db).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_taken_along_is_as_asked_for() {
    let (db, mount) = database("selection", 2).await;
    let folder = Folder::new("selection");
    let text = "ORDERS_DB=postgres://a:b@c/d\nORDERS_KEY=k\nDATABASE_URL=postgres://x:y@z/w\nA=1\n";
    let from = folder.write(".env", text);
    for (n, (options, expected)) in [
        (&[][..], json!({ "url": "postgres://x:y@z/w" })),
        (
            &["--prefix", "ORDERS_", "--map", "DB=url"],
            json!({ "url": "postgres://a:b@c/d", "KEY": "k" }),
        ),
        (&["--only", "A,DATABASE_URL"], json!({ "A": "1", "url": "postgres://x:y@z/w" })),
        (&["--map", "A=b"], json!({ "b": "1", "url": "postgres://x:y@z/w" })),
        (
            &["--all"],
            json!({ "A": "1", "ORDERS_DB": "postgres://a:b@c/d", "ORDERS_KEY": "k",
                "url": "postgres://x:y@z/w" }),
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let (path, options) = (format!("apps/{n}"), [options, &["--write"]].concat());
        let (code, said) = run(&mut import(&db, &from, &format!("{mount}/{path}"), &options).await);
        assert_eq!(code, Some(0), "{options:?}: {said}");
        assert_eq!(secret(&db, &mount, &path).await.0, expected, "{options:?}");
    }
    for (options, named) in [
        (&["--only", "NOT_THERE"][..], "NOT_THERE"),
        (&["--only", "A", "--map", "DATABASE_URL=url"], "DATABASE_URL"),
        (&["--map", "A=url"], "both be written as url"),
        (&["--prefix", "NONE_"], "none of the variables"),
        (&["--map", "A"], "NAME=KEY"),
        (&["--all", "--only", "A"], "--all"),
    ] {
        let (code, said) = run(&mut import(&db, &from, &format!("{mount}/apps/x"), options).await);
        assert_eq!(code, Some(2), "{options:?}: {said}");
        assert!(said.contains(named), "{options:?}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_somebody_else_wrote_is_lost() {
    let (db, mount) = database("conflict", 2).await;
    let folder = Folder::new("conflict");
    let from = folder.write(".env", ENV);
    put(&db, &mount, "apps/orders", json!({ "username": "old" })).await;
    // Compared; and before our write arrives another one does.
    let way = db.stack().vault_proxy().await.unwrap();
    let trap = way.trap(Catch::request("POST /v1/teams/kv-conflict/data/apps/orders"));
    let mut command = import(&db, &from, &format!("{mount}/apps/orders"), &["--write"]).await;
    command.env("VAULT_ADDR", format!("http://{}", way.address()));
    let mut program = Program::start(&mut command);
    tokio::time::timeout(Duration::from_secs(60), trap.caught()).await.unwrap();
    put(&db, &mount, "apps/orders", json!({ "username": "theirs" })).await;
    trap.release();
    assert_eq!(program.end().code(), Some(1), "{}", program.said());
    assert!(program.said().contains("somebody has written it meanwhile"), "{}", program.said());
    let theirs = json!({ "username": "theirs" });
    assert_eq!(secret(&db, &mount, "apps/orders").await, (theirs, json!(2)));
    assert_nothing_left(&db).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn told_to_stop_it_writes_nothing_and_leaves_nothing() {
    let (db, mount) = database("stopped", 2).await;
    let folder = Folder::new("stopped");
    let from = folder.write(".env", ENV);
    // While it logs in, and while it compares.
    for request in ["auth/approle", "GET /v1/teams/kv-stopped/data/"] {
        let way = db.stack().vault_proxy().await.unwrap();
        let trap = way.trap(Catch::request(request));
        let mut command = import(&db, &from, &format!("{mount}/apps/orders"), &["--write"]).await;
        command.env("VAULT_ADDR", format!("http://{}", way.address()));
        let mut program = Program::start(&mut command);
        tokio::time::timeout(PATIENCE, trap.caught()).await.unwrap();
        program.signal(Signal::TERM);
        if request.starts_with("auth") {
            program.wait_for("second signal gives up");
        }
        trap.release();
        assert_eq!(program.end().code(), Some(128 + 15), "{request}: {}", program.said());
        assert!(program.said().contains("nothing was written"), "{}", program.said());
        assert_eq!(secret(&db, &mount, "apps/orders").await.0, Value::Null);
        assert_nothing_left(&db).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_without_an_answer_is_not_called_undone() {
    let (db, mount) = database("unknown", 2).await;
    let folder = Folder::new("unknown");
    let from = folder.write(".env", ENV);
    let way = db.stack().vault_proxy().await.unwrap();
    let trap = way.trap(Catch::request("POST /v1/teams/kv-unknown/data/apps/orders"));
    let mut command = import(&db, &from, &format!("{mount}/apps/orders"), &["--write"]).await;
    command.env("VAULT_ADDR", format!("http://{}", way.address()));
    let mut program = Program::start(&mut command);
    tokio::time::timeout(PATIENCE, trap.caught()).await.unwrap();
    way.inject(Direction::Both, Toxic::Reset).await;
    trap.release();
    assert_eq!(program.end().code(), Some(1), "{}", program.said());
    assert!(program.said().contains("not known whether it was written"), "{}", program.said());
    assert!(!program.said().contains("nothing was written"), "{}", program.said());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_named_with_its_mend() {
    let (db, mount) = database("wrong", 2).await;
    let (old, old_mount) = database("old", 1).await;
    let folder = Folder::new("wrong");
    let from = folder.write(".env", ENV);
    let bad = folder.write("bad.env", "A=1\n\nPGPASSWORD=hunter2 with spaces\n");
    let open = folder.write("open.env", "PGUSER=app\nPGPASSWORD=\"hunter2\nPGHOST=x\n");
    let missing = folder.join("none.env").to_str().unwrap().to_owned();
    let there = format!("{mount}/apps/orders");
    for (db, from, to, code, named) in [
        (&db, &bad, &*there, 2, "bad.env: line 3 is no NAME=VALUE"),
        (&db, &open, &there, 2, "open.env: line 2 is no NAME=VALUE"),
        (&db, &missing, &there, 1, "none.env"),
        (&db, &from, "nowhere/apps/orders", 1, "no engine that this login may use is mounted"),
        (&db, &from, &*mount, 2, "give a path below the mount"),
        (&db, &from, &format!("{mount}/other/x"), 1, "grant `read` on"),
        (&old, &from, &format!("{old_mount}/apps/x"), 1, "version 1"),
        (&db, &from, &format!("{}/creds/app", db.mount()), 1, "is no KV engine"),
    ] {
        let (got, said) = run(&mut import(db, from, to, &["--write"]).await);
        assert_eq!(got, Some(code), "{to}: {said}");
        assert!(said.contains(named), "{named}: {said}");
        assert!(!said.contains("hunter2"), "{said}");
    }
    let (code, said) = run(&mut plain(&["import", "--from", &from, "--to", &there]));
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("VAULT_ADDR"), "{said}");
    assert_nothing_left(&db).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_imported_login_is_one_that_the_library_logs_in_by() {
    let (db, mount) = database("served", 2).await;
    let admin = db.admin().await.unwrap();
    let sql = format!("CREATE ROLE imported LOGIN PASSWORD 'p@ss/w:rd' IN ROLE \"{}\"", db.name());
    admin.batch_execute(&sql).await.unwrap();
    let folder = Folder::new("served");
    let (host, port, name) = (db.pg_host(), db.pg_port(), db.name());
    let url = format!("DATABASE_URL=postgres://imported:p%40ss%2Fw%3Ard@{host}:{port}/{name}\n");
    let from = folder.write(".env", &url);
    let to = format!("{mount}/apps/orders");
    let (code, said) = run(&mut import(&db, &from, &to, &["--write"]).await);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("A login: session.kv2("), "{said}");
    assert!(!said.contains("imported"), "{said}");

    let auth = Auth::approle(db.role_id(), db.secret_id().await.unwrap());
    let session = Session::login(VaultConfig::new(db.vault_addr()), auth).await.unwrap();
    let source = session.kv2(&mount, "apps/orders");
    assert_eq!(source.describe(), format!("{mount}/data/apps/orders"));
    let rotator = Rotator::builder(source).start().await.unwrap();
    let provider = rotator.provider();
    let current = provider.current();
    let login = current.credential();
    assert_eq!(login.address().unwrap().database.as_deref(), Some(name));
    let client = db.connect(login.username(), login.expose_password()).await.unwrap();
    client.query_one("SELECT 1", &[]).await.unwrap();
    drop(client);
    assert!(rotator.shutdown(Duration::from_secs(10)).await.is_clean());
    admin.batch_execute("DROP ROLE imported").await.unwrap();
    assert_nothing_left(&db).await;
}
