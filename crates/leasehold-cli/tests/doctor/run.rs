//! The program, run as people run it, and what it says.

use std::process::Stdio;

use leasehold_testkit::{AppRoleSpec, DatabaseSpec, RoleSpec, Stack, TestDb, shared};
use serde_json::Value;
use tokio::process::Command;

/// Ids of steps that give back what was made.
pub(crate) const LAST: &str = "logout";

/// The program, with an environment of its own.
pub(crate) struct Doctor {
    env: Vec<(String, String)>,
    args: Vec<String>,
    /// What must be in no output.
    secrets: Vec<String>,
}

pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Doctor {
    /// Everything right: AppRole, plain http and Postgres on this machine.
    pub(crate) async fn of(db: &TestDb) -> Self {
        let secret_id = db.secret_id().await.unwrap();
        let stack = db.stack();
        let doctor = Self {
            env: Vec::new(),
            args: vec!["doctor".into()],
            secrets: vec![
                secret_id.clone(),
                stack.root_token().to_owned(),
                stack.superuser_password().to_owned(),
            ],
        };
        doctor
            .env("VAULT_ADDR", stack.vault_addr())
            .env("VAULT_ROLE_ID", db.role_id())
            .env("VAULT_SECRET_ID", secret_id)
            .env("VAULT_MOUNT_PATH", db.mount())
            .env("VAULT_DATABASE_ROLE", db.role())
            .env("PGHOST", db.pg_host())
            .env("PGPORT", db.pg_port().to_string())
            .env("PGDATABASE", db.name())
    }

    /// By this token in place of the AppRole.
    pub(crate) fn token(mut self, token: &str) -> Self {
        self.env.retain(|(name, _)| !name.ends_with("_ID"));
        self.secrets.push(token.to_owned());
        self.env("VAULT_TOKEN", token)
    }

    pub(crate) fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.retain(|(n, _)| n != name);
        self.env.push((name.to_owned(), value.into()));
        self
    }

    pub(crate) fn arg(mut self, arg: impl Into<String>) -> Self {
        self.args.push(arg.into());
        self
    }

    pub(crate) fn administrator(self, db: &TestDb) -> Self {
        let (stack, name) = (db.stack(), db.name());
        let (user, password) = (stack.superuser(), stack.superuser_password());
        let place = format!("{}:{}", db.pg_host(), db.pg_port());
        self.env("LEASEHOLD_ADMIN_URL", format!("postgres://{user}:{password}@{place}/{name}"))
    }

    pub(crate) fn command(&self) -> Command {
        crate::signals::heed();
        let mut command = Command::new(env!("CARGO_BIN_EXE_leasehold"));
        command.env_clear().envs(self.env.iter().map(|(n, v)| (n, v))).args(&self.args);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.kill_on_drop(true);
        command
    }

    pub(crate) async fn run(&self) -> Said {
        let output = self.command().output().await.unwrap();
        self.said(output)
    }

    pub(crate) fn said(&self, output: std::process::Output) -> Said {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let (stdout, stderr) = (text(output.stdout), text(output.stderr));
        for secret in &self.secrets {
            let shown = stdout.contains(secret) || stderr.contains(secret);
            assert!(!shown, "a secret is shown:\n{stdout}\n{stderr}");
        }
        Said { code: output.status.code(), stdout, stderr }
    }

    /// Runs it for its JSON.
    pub(crate) async fn report(self) -> Report {
        let said = self.arg("--json").run().await;
        Report::of(&said)
    }

    /// The step at which it has to fail first, and what its mend has to name.
    pub(crate) async fn fails_at(self, step: &str, mend: &str) -> Report {
        let report = self.report().await;
        let first = report.steps().find(|s| s["status"] == "fail");
        let first = first.unwrap_or_else(|| panic!("nothing failed:\n{}", report.text()));
        assert_eq!(first["id"], step, "{}", report.text());
        let said = first["mend"].as_str().unwrap();
        assert!(said.contains(mend), "{said:?} does not name {mend:?}\n{}", report.text());
        assert_eq!(report.code, Some(1));
        report
    }
}

pub(crate) struct Report {
    pub(crate) code: Option<i32>,
    pub(crate) json: Value,
}

impl Report {
    pub(crate) fn of(said: &Said) -> Self {
        let json = serde_json::from_str(&said.stdout)
            .unwrap_or_else(|e| panic!("{e}: {}\n{}", said.stdout, said.stderr));
        let report = Self { code: said.code, json };
        report.has_the_documented_form();
        report
    }

    pub(crate) fn text(&self) -> String {
        serde_json::to_string_pretty(&self.json).unwrap()
    }

    pub(crate) fn steps(&self) -> impl Iterator<Item = &Value> {
        self.json["steps"].as_array().unwrap().iter()
    }

    pub(crate) fn step(&self, id: &str) -> &Value {
        self.steps().find(|s| s["id"] == id).unwrap_or_else(|| panic!("no step {id}"))
    }

    pub(crate) fn is(&self, id: &str, status: &str) -> &Value {
        let step = self.step(id);
        assert_eq!(step["status"], status, "{id} in {}", self.text());
        step
    }

    /// As `docs/doctor.md` has it.
    fn has_the_documented_form(&self) {
        assert_eq!(self.json["version"], 1);
        let worst = |status: &str| self.steps().any(|s| s["status"] == status);
        let whole = match (worst("fail"), worst("warn")) {
            (true, _) => "fail",
            (false, true) => "warn",
            (false, false) if self.code == Some(130) => "skipped",
            (false, false) => "ok",
        };
        assert_eq!(self.json["status"], whole);
        for step in self.steps() {
            let status = step["status"].as_str().unwrap();
            assert!(["ok", "warn", "fail", "skipped"].contains(&status), "{step}");
            assert!(step["what"].is_string() && step["detail"].is_string(), "{step}");
            let wrong = matches!(status, "warn" | "fail");
            assert_eq!(step["mend"].is_string(), wrong, "{step}");
        }
        assert_eq!(self.steps().last().unwrap()["id"], LAST);
    }
}

pub(crate) async fn database(spec: impl Into<DatabaseSpec>) -> TestDb {
    shared().await.unwrap().database(spec).await.unwrap()
}

/// A database whose one role has this for its creation statements.
pub(crate) async fn created_by(name: &str, creation: &[&str]) -> TestDb {
    let role = RoleSpec::new("app").creation(creation.iter().copied());
    database(DatabaseSpec::new(name).role(role).with_accounts()).await
}

/// A database whose tokens have this policy and no other.
pub(crate) async fn allowed(name: &str, policy: &str) -> TestDb {
    let app_role = AppRoleSpec::new().no_default_policy().policy(policy);
    database(DatabaseSpec::new(name).app_role(app_role)).await
}

/// No lease and no login of this database.
pub(crate) async fn assert_nothing_left(db: &TestDb) {
    assert_eq!(db.leases().await.unwrap(), Vec::<String>::new(), "leases");
    assert_eq!(db.logins().await.unwrap(), Vec::<String>::new(), "logins");
}

/// A port that nothing listens on, and that nobody else is given while the guard lives.
pub(crate) async fn closed_port() -> (tokio::net::TcpSocket, u16) {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let port = socket.local_addr().unwrap().port();
    (socket, port)
}

/// With a table that the logins may use.
pub(crate) fn with_table(name: &str) -> DatabaseSpec {
    DatabaseSpec::new(name).with_accounts()
}

pub(crate) async fn own_stack() -> Stack {
    Stack::start().await.unwrap()
}
