//! The servers, set up as `deploy/vault` sets them up, and what is asked of them.

use std::time::Duration;

use leasehold_drill::AnyError;
use leasehold_testkit::{Stack, Storage};
use serde_json::{Value, json};
use tokio_postgres::{Client, NoTls};

const POSTGRES: &str = include_str!("../../../../deploy/vault/postgres.sql");
const ROLE: &str = include_str!("../../../../deploy/vault/roles/orders-rw.json");

/// The ready-made role on the server's own pool of connections to Postgres, which holds 4.
pub(crate) const NARROW: &str = "narrow";
/// On a pool of 32.
pub(crate) const WIDE: &str = "wide";
/// On a pool of 32, with passwords hashed by the Vault server instead of Postgres.
pub(crate) const HASHED: &str = "hashed";
/// Revoked by what the server does where a role has no statements for it.
pub(crate) const OWN_REVOCATION: &str = "server-revokes";
/// Revoked by nothing but `DROP ROLE`.
pub(crate) const BARE_DROP: &str = "bare-drop";

/// Both servers, with one database that dynamic roles of several kinds are for.
pub(crate) struct World {
    pub(crate) stack: Stack,
    pub(crate) admin: Client,
    pub(crate) postgres: String,
    pub(crate) openbao: String,
}

impl World {
    pub(crate) async fn new() -> Result<Self, AnyError> {
        eprintln!("starting OpenBao and Postgres");
        // Leases have to outlive a restart, and a commit has to reach the disk as it does where
        // data is worth something.
        let stack = Stack::builder()
            .storage(Storage::Raft)
            .postgres_setting("fsync", "on")
            .postgres_setting("full_page_writes", "on")
            .postgres_setting("max_connections", "300")
            // One line for each of some thousand logins tells nobody anything.
            .postgres_setting("log_connections", "off")
            .postgres_setting("log_disconnections", "off");
        let stack = stack.start().await?;
        let (user, password) = (stack.superuser(), stack.superuser_password());
        let server = connect(&stack, "postgres", user, password).await?;
        server.batch_execute("CREATE DATABASE orders").await?;
        let admin = connect(&stack, "orders", user, password).await?;
        admin.batch_execute(POSTGRES).await?;
        let table = "SET ROLE orders_owner; CREATE TABLE orders.accounts (id int PRIMARY KEY); \
                     RESET ROLE";
        admin.batch_execute(table).await?;
        let postgres: String = admin.query_one("SHOW server_version", &[]).await?.get(0);
        let (_, health) = stack.vault_request("GET", "sys/health", None).await?;
        let openbao = health["version"].as_str().unwrap_or("?").to_owned();

        let world = Self { stack, admin, postgres, openbao };
        world.vault("POST", "sys/mounts/database", json!({ "type": "database" })).await?;
        let wide = json!({ "max_open_connections": 32, "max_idle_connections": 32 });
        let hashed = json!({
            "max_open_connections": 32,
            "max_idle_connections": 32,
            "password_authentication": "scram-sha-256",
        });
        for (name, settings) in [(NARROW, json!({})), (WIDE, wide), (HASHED, hashed)] {
            world.configure(name, settings).await?;
            world.role(name, name, None).await?;
        }
        world.role(OWN_REVOCATION, WIDE, Some(json!([]))).await?;
        let drop = json!([r#"DROP ROLE IF EXISTS "{{name}}""#]);
        world.role(BARE_DROP, WIDE, Some(drop)).await?;
        Ok(world)
    }

    /// A connection of the database engine, as the administrator of `deploy/vault/postgres.sql`.
    async fn configure(&self, name: &str, more: Value) -> Result<(), AnyError> {
        let (host, port) = (self.stack.pg_host(), self.stack.pg_port());
        let mut body = json!({
            "plugin_name": "postgresql-database-plugin",
            "connection_url": format!(
                "postgresql://{{{{username}}}}:{{{{password}}}}@{host}:{port}/orders?sslmode=disable"
            ),
            "username": "vaultadmin",
            "password": "change-me",
            "allowed_roles": "*",
        });
        merge(&mut body, more);
        self.vault("POST", &format!("database/config/{name}"), body).await.map(drop)
    }

    /// The ready-made role, on one of the connections, with other statements for revocation.
    async fn role(&self, name: &str, on: &str, revoke: Option<Value>) -> Result<(), AnyError> {
        let mut role: Value = serde_json::from_str(ROLE)?;
        role["db_name"] = on.into();
        if let Some(statements) = revoke {
            role["revocation_statements"] = statements;
        }
        self.vault("POST", &format!("database/roles/{name}"), role).await.map(drop)
    }

    /// A request that has to succeed.
    pub(crate) async fn vault(
        &self,
        method: &str,
        path: &str,
        body: Value,
    ) -> Result<Value, AnyError> {
        let body = (!body.is_null()).then_some(body);
        match self.stack.vault_request(method, path, body).await? {
            (200..300, reply) => Ok(reply),
            (status, reply) => Err(format!("{method} {path}: {status} {reply}").into()),
        }
    }

    pub(crate) async fn mint(&self, role: &str) -> Result<Login, AnyError> {
        let reply = self.vault("GET", &format!("database/creds/{role}"), Value::Null).await?;
        let text = |value: &Value| value.as_str().map(str::to_owned).ok_or("a login lacks a part");
        Ok(Login {
            lease: text(&reply["lease_id"])?,
            user: text(&reply["data"]["username"])?,
            password: text(&reply["data"]["password"])?,
        })
    }

    pub(crate) async fn renew(&self, lease: &str, time: Duration) -> Result<(), AnyError> {
        let body = json!({ "lease_id": lease, "increment": time.as_secs() });
        self.vault("POST", "sys/leases/renew", body).await.map(drop)
    }

    pub(crate) async fn revoke(&self, lease: &str) -> Result<(), AnyError> {
        let body = json!({ "lease_id": lease, "sync": true });
        self.vault("POST", "sys/leases/revoke", body).await.map(drop)
    }

    /// Logs in to Postgres.
    pub(crate) async fn log_in(&self, login: &Login) -> Result<Client, AnyError> {
        connect(&self.stack, "orders", &login.user, &login.password).await
    }

    /// How many logins there are.
    pub(crate) async fn live(&self) -> Result<usize, AnyError> {
        let sql = "SELECT count(*) FROM pg_roles WHERE rolname LIKE 'v-%'";
        let count: i64 = self.admin.query_one(sql, &[]).await?.get(0);
        Ok(usize::try_from(count)?)
    }
}

/// What a mint brings.
pub(crate) struct Login {
    pub(crate) lease: String,
    pub(crate) user: String,
    password: String,
}

fn merge(into: &mut Value, more: Value) {
    if let Value::Object(more) = more {
        for (key, value) in more {
            into[key] = value;
        }
    }
}

async fn connect(
    stack: &Stack,
    database: &str,
    user: &str,
    password: &str,
) -> Result<Client, AnyError> {
    let mut config = tokio_postgres::Config::new();
    config.host(stack.pg_host()).port(stack.pg_port()).dbname(database);
    let (client, connection) = config.user(user).password(password).connect(NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}
