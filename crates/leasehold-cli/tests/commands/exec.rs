//! `leasehold exec`: a login lent to a command, and taken back whatever happens.

use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use leasehold_testkit::{
    AppRoleSpec, Catch, DatabaseSpec, Direction, Stack, TestDb, Toxic, eventually, shared,
};
use rustix::process::Signal;

use crate::program::{
    Folder, LEASEHOLD, PATIENCE, Program, assert_nothing_left, database, leasehold, plain, role,
    run,
};
use crate::terminal::Terminal;

/// Writes its environment to `env`, and waits for the file `go`. The folder is its first argument.
const WAITS: &str = r#"
env > "$1/env.new" && mv "$1/env.new" "$1/env"
while [ ! -e "$1/go" ]; do sleep 0.05; done"#;

/// `exec`ed by `sh`, with the folder as its argument.
async fn exec(db: &TestDb, folder: &Folder, options: &[&str], script: &str) -> Command {
    let folder = folder.join("");
    let words = ["exec", "--verbose"].iter().chain(options);
    let words: Vec<&str> =
        words.copied().chain(["--", "sh", "-c", script, "sh", folder.to_str().unwrap()]).collect();
    leasehold(db, &words).await
}

/// As a session whose terminal it is: Ctrl-C goes to all of its foreground group, and the end of
/// the terminal to its first program.
fn in_a_session(inner: &Command) -> Command {
    let mut command = Command::new("setsid");
    command.args(["--ctty", "--wait"]).arg(inner.get_program()).args(inner.get_args());
    let set = inner.get_envs().filter_map(|(name, value)| Some((name, value?)));
    command.env_clear().envs(set);
    command
}

/// Its exit code, as a shell has it.
async fn end_of(child: Child) -> Option<i32> {
    let ended = tokio::task::spawn_blocking(move || { child }.wait().unwrap());
    let status = tokio::time::timeout(PATIENCE, ended).await.expect("it ends").unwrap();
    status.code()
}

async fn assert_logs_in(db: &TestDb, variables: &BTreeMap<String, String>) {
    let client = db.connect(&variables["PGUSER"], &variables["PGPASSWORD"]).await.unwrap();
    client.query_one("SELECT count(*) FROM accounts", &[]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_outlives_several_ttls_and_leaves_nothing() {
    let db = database(shared().await.unwrap(), "renewed", 9, 600).await;
    let folder = Folder::new("renewed");
    let place =
        ["--database-url", "postgres://joe:hunter2@db.internal:6432/orders?sslmode=require"];
    let script = format!("{WAITS}; exit 7");
    let mut command = exec(&db, &folder, &place, &script).await;
    command.env("PGSERVICE", "other").env("PGHOSTADDR", "127.0.0.9").env("PGHOST", "other");
    let mut program = Program::start(&mut command);
    let variables = folder.variables("env");
    // Each comes when two thirds of 9 s are over: together they are more than three TTLs.
    program.wait_until("6 renewals", |said| {
        String::from_utf8_lossy(said).matches("renewed for ").count() >= 6
    });
    assert_logs_in(&db, &variables).await;
    assert_eq!(variables["PGHOST"], "db.internal");
    assert_eq!(variables["PGPORT"], "6432");
    assert_eq!(variables["PGDATABASE"], "orders");
    assert_eq!(variables["PGSSLMODE"], "require");
    for stronger in ["PGSERVICE", "PGHOSTADDR"] {
        assert!(!variables.contains_key(stronger), "{stronger} would win over the variables");
    }
    let vaults: Vec<_> = variables.keys().filter(|name| name.starts_with("VAULT_")).collect();
    assert!(vaults.is_empty(), "{vaults:?}");
    // I10: neither in what it says, nor where `ps` would show it.
    let cmdline = std::fs::read(format!("/proc/{}/cmdline", program.id())).unwrap();
    let shown = String::from_utf8_lossy(&cmdline).into_owned() + &program.said();
    assert!(!shown.contains(&variables["PGPASSWORD"]), "{shown}");
    folder.write("go", "");
    let status = program.end();
    assert_eq!(status.code(), Some(7), "{}", program.said());
    assert!(program.said().contains(&format!("revoked {}", variables["PGUSER"])));
    assert_nothing_left(&db).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_goes_to_the_command_and_nothing_is_left() {
    let db = database(shared().await.unwrap(), "signals", 60, 600).await;
    for (signal, name) in [
        (Signal::TERM, "TERM"),
        (Signal::INT, "INT"),
        (Signal::HUP, "HUP"),
        (Signal::QUIT, "QUIT"),
        (Signal::USR1, "USR1"),
        (Signal::USR2, "USR2"),
        (Signal::WINCH, "WINCH"),
    ] {
        // By a command that takes it as it likes ...
        let folder = Folder::new("taken");
        let script = format!("trap 'echo took {name}; exit 3' {name}; {WAITS}");
        let mut program = Program::start(&mut exec(&db, &folder, &[], &script).await);
        folder.read("env");
        program.signal(signal);
        assert_eq!(program.end().code(), Some(3), "{name}: {}", program.said());
        assert_eq!(program.said().matches(&format!("took {name}")).count(), 1);
        assert_nothing_left(&db).await;
    }
    // ... and by one that ends of it.
    for (signal, number) in [(Signal::TERM, 15), (Signal::INT, 2), (Signal::HUP, 1)] {
        let folder = Folder::new("ended");
        let mut program = Program::start(&mut exec(&db, &folder, &[], WAITS).await);
        folder.read("env");
        program.signal(signal);
        assert_eq!(program.end().code(), Some(128 + number), "{}", program.said());
        assert_nothing_left(&db).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_does_not_end_is_killed_when_asked_twice() {
    let db = database(shared().await.unwrap(), "stubborn", 60, 600).await;
    let folder = Folder::new("stubborn");
    let script = format!("trap 'echo no' TERM; {WAITS}");
    let mut command = exec(&db, &folder, &["--kill-after", "100ms"], &script).await;
    let mut program = Program::start(&mut command);
    folder.read("env");
    program.signal(Signal::TERM);
    program.wait_for("no");
    assert!(!db.logins().await.unwrap().is_empty(), "the command still has its login");
    program.signal(Signal::TERM);
    assert_eq!(program.end().code(), Some(128 + 9), "{}", program.said());
    assert!(program.said().contains("killing the command"), "{}", program.said());
    assert_nothing_left(&db).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_during_the_mint_leaves_nothing_and_runs_nothing() {
    let slow = [
        "SELECT pg_sleep(2)",
        r#"CREATE ROLE "{{name}}" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}' IN ROLE "{{group}}""#,
    ];
    let spec = DatabaseSpec::new("mint").role(role(60, 600).creation(slow));
    let db = shared().await.unwrap().database(spec).await.unwrap();
    let folder = Folder::new("mint");
    let mut program = Program::start(&mut exec(&db, &folder, &[], WAITS).await);
    let admin = db.admin().await.unwrap();
    eventually("the login is being made", PATIENCE, async || {
        let sql = "SELECT count(*) FROM pg_stat_activity
            WHERE datname = current_database() AND query LIKE '%pg_sleep(2)%' AND state = 'active'
              AND pid <> pg_backend_pid()";
        Ok(admin.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) > 0)
    })
    .await
    .unwrap();
    program.signal(Signal::TERM);
    assert_eq!(program.end().code(), Some(128 + 15), "{}", program.said());
    assert!(program.said().contains("second signal gives up"), "{}", program.said());
    assert!(!folder.join("env").exists(), "the command was run");
    assert_nothing_left(&db).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nothing_can_be_said_all_is_given_back() {
    let db = database(shared().await.unwrap(), "full", 60, 600).await;
    let folder = Folder::new("full");
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let script = format!("{WAITS}; exit 7");
    let mut command = exec(&db, &folder, &[], &script).await;
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(full).spawn().unwrap();
    let variables = folder.variables("env");
    assert_logs_in(&db, &variables).await;
    folder.write("go", "");
    assert_eq!(end_of(child).await, Some(7));
    assert_nothing_left(&db).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_that_is_closed_during_the_mint_leaves_nothing() {
    let stack = shared().await.unwrap();
    let db = database(stack, "closed", 60, 600).await;
    let way = stack.vault_proxy().await.unwrap();
    let trap = way.trap(Catch::request("/creds/app"));
    let folder = Folder::new("closed");
    let mut inner = exec(&db, &folder, &[], WAITS).await;
    inner.env("VAULT_ADDR", format!("http://{}", way.address()));
    let (terminal, child) = Terminal::open(&mut in_a_session(&inner));
    tokio::time::timeout(PATIENCE, trap.caught()).await.unwrap();
    // The signal comes, and what is said about it goes nowhere.
    drop(terminal);
    trap.release();
    assert_eq!(end_of(child).await, Some(128 + 1));
    assert!(!folder.join("env").exists(), "the command was run");
    assert_nothing_left(&db).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn why_a_login_will_not_last_is_told_as_it_is() {
    let policy = r#"path "{{mount}}/creds/app" { capabilities = ["read"] }
        path "sys/leases/revoke" { capabilities = ["update"] }
        path "auth/token/renew-self" { capabilities = ["update"] }
        path "auth/token/revoke-self" { capabilities = ["update"] }"#;
    let app_role = AppRoleSpec::new().no_default_policy().policy(policy);
    let spec = DatabaseSpec::new("lacking").role(role(20, 600)).app_role(app_role);
    let db = shared().await.unwrap().database(spec).await.unwrap();
    let folder = Folder::new("lacking");
    let mut program = Program::start(&mut exec(&db, &folder, &[], WAITS).await);
    folder.read("env");
    program.wait_for("what takes longer needs `update` on sys/leases/renew");
    folder.write("go", "");
    assert_eq!(program.end().code(), Some(0), "{}", program.said());
    assert!(!program.said().contains("max_ttl"), "{}", program.said());
    assert_nothing_left(&db).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_codes_are_those_of_a_shell() {
    let db = database(shared().await.unwrap(), "codes", 60, 600).await;
    let folder = Folder::new("codes");
    let not_executable = folder.write("data", "");
    for (words, code, said) in [
        (&["true"][..], 0, ""),
        (&["sh", "-c", "exit 200"], 200, ""),
        (&["sh", "-c", "kill -KILL $$"], 137, ""),
        (&["sh", "-c", "kill -SEGV $$"], 139, ""),
        (&["there-is-no-such-command"], 127, "there-is-no-such-command: "),
        (&[&not_executable], 126, "ermission"),
        // Options of the command are its own.
        (&["test", "--help", "=", "--help"], 0, ""),
    ] {
        let words: Vec<&str> = ["exec", "--"].iter().chain(words).copied().collect();
        let (got, output) = run(&mut leasehold(&db, &words).await);
        assert_eq!(got, Some(code), "{words:?}: {output}");
        assert!(output.contains(said), "{words:?}: {output}");
        assert_nothing_left(&db).await;
    }
    // No login: 125, whatever the reason is.
    let mut no_role = leasehold(&db, &["exec", "--role", "nobody", "--", "true"]).await;
    let (got, output) = run(&mut no_role);
    assert_eq!(got, Some(125), "{output}");
    assert!(output.contains("nobody"), "{output}");
    assert_nothing_left(&db).await;
    let (got, output) = run(&mut plain(&["exec", "--role", "app", "--", "true"]));
    assert_eq!(got, Some(125), "{output}");
    assert!(output.contains("VAULT_ADDR"), "{output}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_url_and_vaults_variables_are_as_asked_for() {
    let db = database(shared().await.unwrap(), "url", 60, 600).await;
    let folder = Folder::new("url");
    folder.write("go", "");
    let options = ["--url-var", "DATABASE_URL", "--keep-vault-env"];
    let mut command = exec(&db, &folder, &options, WAITS).await;
    let old = format!("postgres://u:hunter2@{}:{}/{}", db.pg_host(), db.pg_port(), db.name());
    command.env("DATABASE_URL", old + "?application_name=of-the-test");
    command.env("LEASEHOLD_ADMIN_URL", "postgres://admin:hunter3@h/d");
    let (code, said) = run(&mut command);
    assert_eq!(code, Some(0), "{said}");
    let variables = folder.variables("env");
    assert!(variables.contains_key("VAULT_SECRET_ID"));
    assert!(!variables.contains_key("LEASEHOLD_ADMIN_URL"), "an administrator's login");
    let url: tokio_postgres::Config = variables["DATABASE_URL"].parse().unwrap();
    assert_eq!(url.get_user(), Some(&*variables["PGUSER"]));
    assert_eq!(url.get_password(), Some(variables["PGPASSWORD"].as_bytes()));
    assert_eq!(url.get_dbname(), Some(db.name()));
    assert_eq!(url.get_application_name(), Some("of-the-test"));
    // What the URL says, the other variables say too.
    assert_eq!(variables["PGDATABASE"], db.name());

    // Made of variables where there is none; the command line wins over one that is there.
    for (arguments, held, host, database) in [
        (&[][..], None, "db.internal", "orders"),
        (&[][..], Some("postgres://u:hunter2@held/b"), "held", "b"),
        (&["--database-url", "postgres://given/c"], Some("postgres://held/b"), "given", "c"),
    ] {
        let folder = Folder::new("url-made");
        folder.write("go", "");
        let options = [&["--url-var", "ORDERS_URL"], arguments].concat();
        let mut command = exec(&db, &folder, &options, WAITS).await;
        command
            .env("PGHOST", "db.internal")
            .env("PGDATABASE", "orders")
            .env("PGSSLMODE", "require");
        command.envs(held.map(|url| ("ORDERS_URL", url)));
        let (code, said) = run(&mut command);
        assert_eq!(code, Some(0), "{said}");
        let variables = folder.variables("env");
        let url: tokio_postgres::Config = variables["ORDERS_URL"].parse().unwrap();
        assert_eq!(url.get_hosts(), [tokio_postgres::config::Host::Tcp(host.to_owned())]);
        assert_eq!(url.get_dbname(), Some(database));
        assert_eq!(url.get_password(), Some(variables["PGPASSWORD"].as_bytes()));
        if held.is_none() {
            assert_eq!(url.get_ssl_mode(), tokio_postgres::config::SslMode::Require);
        }
    }
    let mut nowhere = exec(&db, &folder, &["--url-var", "ORDERS_URL"], WAITS).await;
    let (code, said) = run(nowhere.env("PGHOST", "db.internal"));
    assert_eq!(code, Some(125), "{said}");
    assert!(said.contains("ORDERS_URL") && said.contains("PGDATABASE"), "{said}");
    assert_nothing_left(&db).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_will_not_last_is_told_in_time() {
    let db = database(shared().await.unwrap(), "max", 20, 27).await;
    let folder = Folder::new("max");
    let mut program = Program::start(&mut exec(&db, &folder, &[], WAITS).await);
    let variables = folder.variables("env");
    program.wait_for("can't be given another: what takes longer needs a longer max_ttl");
    assert_logs_in(&db, &variables).await;
    program.wait_for("the login has ended before the command");
    folder.write("go", "");
    assert_eq!(program.end().code(), Some(0), "{}", program.said());
    assert_nothing_left(&db).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn vault_may_be_away_while_the_command_runs() {
    let stack = shared().await.unwrap();
    let db = database(stack, "away", 20, 600).await;
    let way = stack.vault_proxy().await.unwrap();
    let folder = Folder::new("away");
    let mut command = exec(&db, &folder, &[], WAITS).await;
    command.env("VAULT_ADDR", format!("http://{}", way.address()));
    let mut program = Program::start(&mut command);
    let variables = folder.variables("env");
    way.inject(Direction::Both, Toxic::Reset).await;
    program.wait_for("renewal failed: ");
    assert_logs_in(&db, &variables).await;
    way.mend().await;
    program.wait_for("renewed for ");
    folder.write("go", "");
    assert_eq!(program.end().code(), Some(0), "{}", program.said());
    assert_nothing_left(&db).await;

    // Away at the end: what is left is said, and until when.
    let folder = Folder::new("gone");
    let mut command = exec(&db, &folder, &[], WAITS).await;
    command.env("VAULT_ADDR", format!("http://{}", way.address()));
    let mut program = Program::start(&mut command);
    let variables = folder.variables("env");
    way.inject(Direction::Both, Toxic::Reset).await;
    folder.write("go", "");
    assert_eq!(program.end().code(), Some(0), "{}", program.said());
    assert!(program.said().contains("left behind: "), "{}", program.said());
    assert!(program.said().contains(&variables["PGUSER"]), "{}", program.said());
    // It ends by its TTL.
    let gone = async || Ok(db.leases().await?.is_empty() && db.logins().await?.is_empty());
    eventually("the lease ends", Duration::from_secs(60), gone).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_reaches_the_command_once() {
    let db = database(shared().await.unwrap(), "terminal", 60, 600).await;
    let folder = Folder::new("terminal");
    let script = format!("trap 'echo took INT' INT; {WAITS}; echo went");
    let inner = exec(&db, &folder, &["--kill-after", "1ms"], &script).await;
    let mut command = in_a_session(&inner);
    let (mut terminal, mut program) = Terminal::start(&mut command);
    folder.read("env");
    terminal.press("\x03");
    program.wait_for("took INT");
    // For programs that use it, as psql does to cancel a query, it is no wish for an end.
    terminal.press("\x03");
    program.wait_until("a second INT", |said| {
        String::from_utf8_lossy(said).matches("took INT").count() == 2
    });
    folder.write("go", "");
    assert_eq!(program.end().code(), Some(0), "{}", program.said());
    // Had they been handed on as well, the shell would have taken them again before it went.
    assert_eq!(program.said().matches("took INT").count(), 2, "{}", program.said());
    assert_nothing_left(&db).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_ignored_stays_ignored() {
    let db = database(shared().await.unwrap(), "nohup", 60, 600).await;
    let folder = Folder::new("nohup");
    let inner = exec(&db, &folder, &[], WAITS).await;
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' HUP; exec \"$@\"", "sh"]);
    command.arg(inner.get_program()).args(inner.get_args());
    let set = inner.get_envs().filter_map(|(name, value)| Some((name, value?)));
    let mut program = Program::start(command.env_clear().envs(set));
    folder.read("env");
    program.signal(Signal::HUP);
    program.signal(Signal::TERM);
    assert_eq!(program.end().code(), Some(128 + 15), "{}", program.said());
    assert_nothing_left(&db).await;
}

#[test]
fn a_command_is_asked_for() {
    let (code, said) = run(Command::new(LEASEHOLD).arg("exec"));
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("<CMD>"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_gives_up_on_a_vault_that_hangs() {
    // Of its own: nobody else can wait for it.
    let stack = Stack::start().await.unwrap();
    let db = database(&stack, "hangs", 5, 600).await;
    let folder = Folder::new("hangs");
    let script = format!("echo $$ > \"$1/pid\"; {WAITS}");
    let mut program = Program::start(&mut exec(&db, &folder, &[], &script).await);
    let variables = folder.variables("env");
    stack.pause_vault().await.unwrap();
    folder.write("go", "");
    let process = format!("/proc/{}", folder.read("pid").trim());
    let over = async || Ok(!std::path::Path::new(&process).exists());
    eventually("the command has ended", PATIENCE, over).await.unwrap();
    program.signal(Signal::TERM);
    program.wait_for("a second signal gives up waiting");
    program.signal(Signal::TERM);
    assert_eq!(program.end().code(), Some(0), "{}", program.said());
    let left = format!("left behind: {}", variables["PGUSER"]);
    assert!(program.said().contains(&left), "{}", program.said());
    // It ends by its TTL.
    stack.resume_vault().await.unwrap();
    let gone = async || Ok(db.leases().await?.is_empty() && db.logins().await?.is_empty());
    eventually("the lease ends", PATIENCE, gone).await.unwrap();
}
