//! A server that was set up with the files of `deploy/vault` and the commands of
//! `docs/vault-setup.md`, as they stand.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use leasehold_testkit::Stack;
use leasehold_vault::{Auth, Session, VaultConfig};
use serde_json::{Value, json};
use tokio::sync::OnceCell;
use tokio_postgres::{Client, NoTls};

/// The policy of a service on a dynamic role.
pub const DYNAMIC_ROLE: &str = include_str!("../../deploy/vault/dynamic-role.hcl");
/// The policy of a service on a static role.
pub const STATIC_ROLE: &str = include_str!("../../deploy/vault/static-role.hcl");
/// The policy of a service whose login is kept in KV version 1.
pub const KV1: &str = include_str!("../../deploy/vault/kv1.hcl");
/// The policy of a service whose login is kept in KV version 2.
pub const KV2: &str = include_str!("../../deploy/vault/kv2.hcl");
/// The policy of a service that works with keys of a Transit engine.
pub const TRANSIT: &str = include_str!("../../deploy/vault/transit.hcl");

const POSTGRES: &str = include_str!("../../deploy/vault/postgres.sql");
const GUIDE: &str = include_str!("../../docs/vault-setup.md");

/// The paths that a policy has a block for.
#[must_use]
pub fn paths(policy: &str) -> Vec<&str> {
    policy.split("path \"").skip(1).filter_map(|block| block.split('"').next()).collect()
}

/// A policy without its block for `path`.
#[must_use]
pub fn without(policy: &str, path: &str) -> String {
    let (before, block) = policy.split_once(&format!("path \"{path}\"")).expect("has that block");
    let (_, after) = block.split_once('}').expect("the block ends");
    format!("{before}{after}")
}

/// What the guide sets up.
#[derive(Debug)]
pub struct ReadyMade {
    /// The servers.
    pub stack: Stack,
    operator: Operator,
}

/// Somebody with the server's command line and all rights, who types what a page says.
#[derive(Debug)]
pub struct Operator {
    address: String,
    token: String,
    cli: PathBuf,
}

/// One that all tests of a program share.
pub async fn ready_made() -> &'static ReadyMade {
    static WORLD: OnceCell<ReadyMade> = OnceCell::const_new();
    WORLD.get_or_init(ReadyMade::set_up).await
}

/// Who logs in.
#[derive(Debug)]
pub struct Identity {
    role_id: String,
    secret_id: String,
    /// Of the AppRole and of its policy.
    pub name: String,
}

impl ReadyMade {
    /// One of a test's own.
    pub async fn set_up() -> Self {
        // The guide's commands need the server's program and a folder, which containers have not.
        let stack = Stack::processes().await.unwrap();
        let server = connect(&stack, "postgres", stack.superuser(), stack.superuser_password());
        server.await.unwrap().batch_execute("CREATE DATABASE orders").await.unwrap();
        let operator = Operator::of(&stack).await;
        let world = Self { stack, operator };
        let admin = world.admin().await;
        admin.batch_execute(POSTGRES).await.unwrap();
        let script = commands(GUIDE).replace("db.internal:5432", &world.pg_address());
        world.sh(&script).await;
        let tables = "SET ROLE orders_owner;
            CREATE TABLE orders.accounts (id int PRIMARY KEY, v bigint NOT NULL DEFAULT 0);
            INSERT INTO orders.accounts VALUES (1)";
        admin.batch_execute(tables).await.unwrap();
        world
    }

    fn pg_address(&self) -> String {
        format!("{}:{}", self.stack.pg_host(), self.stack.pg_port())
    }

    /// Runs commands as an operator does, from the root of the repository. Returns what they say.
    pub async fn sh(&self, script: &str) -> String {
        self.operator.sh(script).await
    }

    /// A request of the administrator's that has to succeed.
    pub async fn vault(&self, method: &str, path: &str, body: Value) -> Value {
        let body = (!body.is_null()).then_some(body);
        let (status, reply) = self.stack.vault_request(method, path, body).await.unwrap();
        assert!(status < 300, "{method} {path}: {status} {reply}");
        reply
    }

    /// Changes a role's TTLs, and nothing else of it.
    pub async fn set_ttls(&self, role: &str, default_ttl: u64, max_ttl: u64) {
        let body = json!({ "default_ttl": default_ttl, "max_ttl": max_ttl });
        self.vault("POST", &format!("database/roles/{role}"), body).await;
    }

    /// The AppRole that the guide makes.
    pub async fn orders(&self) -> Identity {
        self.identity("orders").await
    }

    /// An AppRole like that of the guide with another policy and tokens of another length.
    pub async fn with_policy(&self, policy: &str, token_ttl: &str) -> Identity {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("case-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let body = json!({ "policy": policy });
        self.vault("PUT", &format!("sys/policies/acl/{name}"), body).await;
        let body = json!({
            "token_policies": [&name], "token_no_default_policy": true, "token_ttl": token_ttl,
        });
        self.vault("POST", &format!("auth/approle/role/{name}"), body).await;
        self.identity(&name).await
    }

    async fn identity(&self, name: &str) -> Identity {
        let path = format!("auth/approle/role/{name}");
        let role = self.vault("GET", &format!("{path}/role-id"), Value::Null).await;
        let secret = self.vault("POST", &format!("{path}/secret-id"), json!({})).await;
        Identity {
            role_id: role["data"]["role_id"].as_str().unwrap().to_owned(),
            secret_id: secret["data"]["secret_id"].as_str().unwrap().to_owned(),
            name: name.to_owned(),
        }
    }

    /// Logs in.
    pub async fn session(&self, who: &Identity) -> Session {
        let auth = Auth::approle(&who.role_id, &who.secret_id);
        Session::login(VaultConfig::new(self.stack.vault_addr()), auth).await.unwrap()
    }

    /// A token like that of an AppRole's login.
    pub async fn token(&self, who: &Identity) -> String {
        let body = json!({ "role_id": who.role_id, "secret_id": who.secret_id });
        let reply = self.vault("POST", "auth/approle/login", body).await;
        reply["auth"]["client_token"].as_str().unwrap().to_owned()
    }

    /// A login by a raw read of the administrator's: lease id, user name, password.
    pub async fn creds(&self, role: &str) -> (String, String, String) {
        let reply = self.vault("GET", &format!("database/creds/{role}"), Value::Null).await;
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let data = &reply["data"];
        (text(&reply["lease_id"]), text(&data["username"]), text(&data["password"]))
    }

    /// A connection to the database.
    pub async fn connect(&self, user: &str, password: &str) -> Client {
        connect(&self.stack, "orders", user, password).await.unwrap()
    }

    /// A superuser's connection to the database.
    pub async fn admin(&self) -> Client {
        self.connect(self.stack.superuser(), self.stack.superuser_password()).await
    }

    /// Host, port and database for sqlx.
    #[must_use]
    pub fn sqlx_base(&self) -> sqlx::postgres::PgConnectOptions {
        sqlx::postgres::PgConnectOptions::new_without_pgpass()
            .host(self.stack.pg_host())
            .port(self.stack.pg_port())
            .database("orders")
    }
}

impl Operator {
    /// The one of these servers.
    pub async fn of(stack: &Stack) -> Self {
        let cli = stack.dir().unwrap().join("cli");
        std::fs::create_dir(&cli).unwrap();
        symlink(stack.vault_program().await.unwrap(), cli.join("bao")).unwrap();
        Self { address: stack.vault_addr(), token: stack.root_token().to_owned(), cli }
    }

    /// A folder of its own, which goes with the servers.
    #[must_use]
    pub fn home(&self) -> &Path {
        &self.cli
    }

    /// Runs commands from the root of the repository. Returns what they say.
    pub async fn sh(&self, script: &str) -> String {
        let mut command = Command::new("sh");
        command
            .args(["-euc", script])
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
            .env("PATH", format!("{}:{}", self.cli.display(), std::env::var("PATH").unwrap()))
            .env("HOME", &self.cli)
            .env("PG_SSLMODE", "disable");
        for kind in ["VAULT", "BAO"] {
            command.env(format!("{kind}_ADDR"), &self.address);
            command.env(format!("{kind}_TOKEN"), &self.token);
        }
        let done = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let (said, complained) =
            (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        assert!(done.status.success(), "{script}\n{said}\n{complained}");
        said.into_owned()
    }
}

async fn connect(
    stack: &Stack,
    database: &str,
    user: &str,
    password: &str,
) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::Config::new()
        .host(stack.pg_host())
        .port(stack.pg_port())
        .user(user)
        .password(password)
        .dbname(database)
        .connect(NoTls)
        .await?;
    tokio::spawn(connection);
    Ok(client)
}

/// What a page tells its reader to type.
fn commands(page: &str) -> String {
    let blocks = page.split("```sh\n").skip(1);
    let blocks: Vec<&str> = blocks.filter_map(|block| block.split("```").next()).collect();
    assert!(!blocks.is_empty(), "the page has commands");
    blocks.concat()
}
