//! A database, a mount, roles and an AppRole of one test's own.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use serde_json::{Value, json};
use tokio_postgres::Client;

use crate::postgres::SUPERUSER;
use crate::spec::{AppRoleSpec, DatabaseSpec, RoleSpec, TokenSpec, seconds};
use crate::{Error, Result, Stack, http};

/// The policy that operators are given to copy, as it stands; only its path is put in place.
const POLICY: &str = include_str!("policy.hcl");

const ACCOUNTS: &str = "create table accounts(
    id int primary key, v bigint not null default 0, note text not null default 'x');
    insert into accounts(id) select generate_series(0, 9999)";

/// One test's own database, mount, roles and AppRole, made by [`Stack::database`]. A cheap handle
/// that keeps the stack alive.
#[derive(Clone, Debug)]
pub struct TestDb {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    stack: Stack,
    name: String,
    mount: String,
    namespace: Option<String>,
    roles: Vec<String>,
    role_id: String,
    /// `host:port` of Postgres for the Vault server.
    postgres_at: String,
}

/// A login that the database engine made.
#[derive(Clone)]
#[non_exhaustive]
pub struct Creds {
    /// The Postgres role.
    pub username: String,
    /// Its password.
    pub password: String,
    /// The lease.
    pub lease_id: String,
    /// The lease's TTL in seconds, as granted.
    pub lease_duration: u64,
}

/// Whether a `host:port` means another machine in a container than here.
fn is_loopback(address: &str) -> bool {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

impl fmt::Debug for Creds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Creds")
            .field("username", &self.username)
            .field("lease_id", &self.lease_id)
            .field("lease_duration", &self.lease_duration)
            .finish_non_exhaustive()
    }
}

/// A token of the Vault server.
#[derive(Clone)]
#[non_exhaustive]
pub struct IssuedToken {
    /// The token.
    pub token: String,
    /// Its accessor; batch tokens have none.
    pub accessor: String,
    /// Its TTL in seconds, as granted.
    pub lease_duration: u64,
}

impl fmt::Debug for IssuedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IssuedToken")
            .field("accessor", &self.accessor)
            .field("lease_duration", &self.lease_duration)
            .finish_non_exhaustive()
    }
}

impl Stack {
    /// Makes a database, a mount, roles, a policy and an AppRole for one test. Takes about a tenth
    /// of a second.
    pub async fn database(&self, spec: impl Into<DatabaseSpec>) -> Result<TestDb> {
        let mut spec = spec.into();
        if let Some(at) = spec.postgres_at.as_deref().filter(|at| is_loopback(at)) {
            self.inner.servers.processes(&format!("leading the Vault server to {at}"))?;
        }
        if spec.roles.is_empty() {
            spec.roles.push(RoleSpec::new("app"));
        }
        let name = if spec.exact_name { exact(&spec.name)? } else { unique(&spec.name) };
        self.create_database(&name, &spec).await?;
        if let Some(namespace) = &spec.namespace {
            let path = format!("sys/namespaces/{namespace}");
            if self.vault_request("GET", &path, None).await?.0 == 404 {
                self.vault("POST", &path, json!({})).await?;
            }
        }

        let mount = match &spec.mount {
            Some(other) => other.mount().to_owned(),
            None => {
                let mount = spec.mount_path.clone().unwrap_or_else(|| format!("db-{name}"));
                let path = within(spec.namespace.as_deref(), &format!("sys/mounts/{mount}"));
                self.vault("POST", &path, json!({ "type": "database" })).await?;
                mount
            }
        };
        let db = TestDb {
            inner: Arc::new(Inner {
                stack: self.clone(),
                role_id: self.create_app_role(&name, &mount, &spec).await?,
                roles: spec.roles.iter().map(|r| r.name.clone()).collect(),
                name,
                mount,
                namespace: spec.namespace,
                postgres_at: (spec.postgres_at)
                    .unwrap_or_else(|| self.inner.ends.pg_for_vault.clone()),
            }),
        };
        db.configure_connection().await?;
        for role in &spec.roles {
            db.create_role(role).await?;
        }
        Ok(db)
    }

    async fn create_database(&self, name: &str, spec: &DatabaseSpec) -> Result<()> {
        let server = self.connect_as(SUPERUSER, self.superuser_password(), "postgres").await?;
        let doing = |what: &str| format!("making database {name}: {what}");
        let version: String = server
            .query_one("show server_version_num", &[])
            .await
            .map_err(Error::postgres(doing("version")))?
            .get(0);
        // Copying files is three times as quick where nothing has to reach a disk; Postgres 14 and
        // older do nothing else.
        let strategy = if version.as_str() >= "150000" { "strategy file_copy" } else { "" };
        for sql in [
            format!("create role \"{name}\" nologin"),
            format!("create database \"{name}\" {strategy}"),
        ] {
            server.batch_execute(&sql).await.map_err(Error::postgres(doing(&sql)))?;
        }
        let inside = self.connect_as(SUPERUSER, self.superuser_password(), name).await?;
        let accounts = spec.accounts.then(|| ACCOUNTS.to_owned());
        let schema = accounts.into_iter().chain(spec.schema.iter().map(|s| with_group(s, name)));
        // What comes later is granted too, so that a test may add tables by hand.
        let grants = format!(
            "grant usage on schema public to \"{name}\";
             grant select, insert, update, delete on all tables in schema public to \"{name}\";
             grant usage, select on all sequences in schema public to \"{name}\";
             alter default privileges in schema public
                 grant select, insert, update, delete on tables to \"{name}\";
             alter default privileges in schema public
                 grant usage, select on sequences to \"{name}\""
        );
        for sql in schema.chain([grants]) {
            inside.batch_execute(&sql).await.map_err(Error::postgres(doing(&sql)))?;
        }
        Ok(())
    }

    async fn create_app_role(
        &self,
        name: &str,
        mount: &str,
        spec: &DatabaseSpec,
    ) -> Result<String> {
        // Enabled by the first that needs it: a dev server that was restarted has lost it.
        let at = |path: &str| within(spec.namespace.as_deref(), path);
        let enable = at("sys/auth/approle");
        let (status, reply) =
            self.vault_request("POST", &enable, Some(json!({ "type": "approle" }))).await?;
        if status != 204 && !reply.to_string().contains("already in use") {
            http::ok("POST", &enable, (status, reply))?;
        }
        let a = &spec.app_role;
        let policy = json!({ "policy": policy(mount, a, &spec.roles) });
        self.vault("PUT", &at(&format!("sys/policies/acl/{name}")), policy).await?;
        let mut body = json!({
            "token_policies": [name],
            "token_no_default_policy": a.no_default_policy,
        });
        for (key, value) in [
            ("token_ttl", a.token_ttl),
            ("token_max_ttl", a.token_max_ttl),
            ("token_period", a.token_period),
            ("secret_id_ttl", a.secret_id_ttl),
        ] {
            if let Some(ttl) = value {
                body[key] = seconds(key, ttl)?.into();
            }
        }
        for (key, value) in
            [("token_num_uses", a.token_num_uses), ("secret_id_num_uses", a.secret_id_num_uses)]
        {
            if let Some(uses) = value {
                body[key] = uses.into();
            }
        }
        if let Some(kind) = &a.token_type {
            body["token_type"] = kind.clone().into();
        }
        let path = at(&format!("auth/approle/role/{name}"));
        self.vault("POST", &path, body).await?;
        let reply = self.vault("GET", &format!("{path}/role-id"), Value::Null).await?;
        string(&reply["data"]["role_id"], "a role_id")
    }

    /// A connection of the current runtime to this Postgres.
    pub(crate) async fn connect_as(&self, user: &str, password: &str, db: &str) -> Result<Client> {
        self.inner.ends.connect(user, password, db).await
    }
}

impl TestDb {
    /// The stack that it is on.
    #[must_use]
    pub fn stack(&self) -> &Stack {
        &self.inner.stack
    }

    /// Its unique name: that of the Postgres database, of the group role, of the policy, of the
    /// AppRole and of the connection on the mount.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// The database engine's mount path.
    #[must_use]
    pub fn mount(&self) -> &str {
        &self.inner.mount
    }

    /// The namespace that mount, policy and AppRole are in, if not the root.
    #[must_use]
    pub fn namespace(&self) -> Option<&str> {
        self.inner.namespace.as_deref()
    }

    /// A path, led into the namespace.
    pub(crate) fn at(&self, path: &str) -> String {
        within(self.namespace(), path)
    }

    /// The database engine's (first) role.
    #[must_use]
    pub fn role(&self) -> &str {
        &self.inner.roles[0] // `database` makes one where none was given
    }

    /// All its roles, in the order given.
    #[must_use]
    pub fn roles(&self) -> &[String] {
        &self.inner.roles
    }

    /// The Vault server's address, `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn vault_addr(&self) -> String {
        self.stack().vault_addr()
    }

    /// Postgres's host.
    #[must_use]
    pub fn pg_host(&self) -> &str {
        self.stack().pg_host()
    }

    /// Postgres's port.
    #[must_use]
    pub fn pg_port(&self) -> u16 {
        self.stack().pg_port()
    }

    /// Host, port and database, for a connection without a login yet.
    #[must_use]
    pub fn pg_config(&self) -> tokio_postgres::Config {
        let mut config = tokio_postgres::Config::new();
        config.host(self.pg_host()).port(self.pg_port()).dbname(self.name());
        config
    }

    /// The AppRole's role_id, on the mount `approle`.
    #[must_use]
    pub fn role_id(&self) -> &str {
        &self.inner.role_id
    }

    /// A fresh secret_id of the AppRole.
    pub async fn secret_id(&self) -> Result<String> {
        let path = self.at(&format!("auth/approle/role/{}/secret-id", self.name()));
        let reply = self.stack().vault("POST", &path, json!({})).await?;
        string(&reply["data"]["secret_id"], "a secret_id")
    }

    /// A fresh secret_id of the AppRole, behind a wrapping token that lives for `ttl`: the token.
    pub async fn wrapped_secret_id(&self, ttl: Duration) -> Result<String> {
        let path = self.at(&format!("auth/approle/role/{}/secret-id", self.name()));
        self.stack().vault_request_wrapped("POST", &path, Some(json!({})), ttl).await
    }

    /// Logs in with the AppRole and a fresh secret_id.
    pub async fn login(&self) -> Result<IssuedToken> {
        let body = json!({ "role_id": self.role_id(), "secret_id": self.secret_id().await? });
        issued(&self.stack().vault("POST", &self.at("auth/approle/login"), body).await?)
    }

    /// A plain token, with this database's policy if the specification names no others.
    pub async fn token(&self, spec: TokenSpec) -> Result<IssuedToken> {
        let mut body = json!({
            "policies": spec.policies.unwrap_or_else(|| vec![self.name().to_owned()]),
            "no_default_policy": spec.no_default_policy,
            "no_parent": spec.parent.is_none(),
            "renewable": !(spec.not_renewable || spec.batch),
            "type": if spec.batch { "batch" } else { "service" },
        });
        for (key, value) in [
            ("ttl", spec.ttl),
            ("explicit_max_ttl", spec.explicit_max_ttl),
            ("period", spec.period),
        ] {
            if let Some(ttl) = value {
                body[key] = format!("{}s", seconds(key, ttl)?).into();
            }
        }
        if let Some(uses) = spec.num_uses {
            body["num_uses"] = uses.into();
        }
        let by = spec.parent.as_deref().unwrap_or_else(|| self.stack().root_token());
        let path = self.at("auth/token/create");
        let reply = self.stack().vault_request_as(by, "POST", &path, Some(body)).await?;
        issued(&http::ok("POST", &path, reply)?)
    }

    /// A login of the first role, read by the administrator: it dies with no token.
    pub async fn creds(&self) -> Result<Creds> {
        self.creds_as(self.stack().root_token(), self.role()).await
    }

    /// A login of this role, read with this token: it dies with the token.
    pub async fn creds_as(&self, token: &str, role: &str) -> Result<Creds> {
        let path = self.at(&format!("{}/creds/{role}", self.mount()));
        let reply = self.stack().vault_request_as(token, "GET", &path, None).await?;
        let reply = http::ok("GET", &path, reply)?;
        Ok(Creds {
            username: string(&reply["data"]["username"], "a username")?,
            password: string(&reply["data"]["password"], "a password")?,
            lease_id: string(&reply["lease_id"], "a lease_id")?,
            lease_duration: reply["lease_duration"].as_u64().unwrap_or_default(),
        })
    }

    /// A connection to this database, driven by the current runtime. SQLSTATE of a refusal:
    /// [`Error::sqlstate`].
    pub async fn connect(&self, username: &str, password: &str) -> Result<Client> {
        self.stack().connect_as(username, password, self.name()).await
    }

    /// A superuser's connection to this database.
    pub async fn admin(&self) -> Result<Client> {
        self.connect(SUPERUSER, self.stack().superuser_password()).await
    }

    /// Writes the connection of the mount anew: after it was deleted, say.
    pub async fn configure_connection(&self) -> Result<()> {
        let (stack, name) = (self.stack(), self.name());
        let body = json!({
            "plugin_name": "postgresql-database-plugin",
            "connection_url": format!(
                "postgresql://{{{{username}}}}:{{{{password}}}}@{}/{name}?sslmode=disable",
                self.inner.postgres_at
            ),
            "username": SUPERUSER,
            "password": stack.superuser_password(),
            "allowed_roles": "*",
            // One kept open, so that many tests' mounts leave Postgres's slots alone.
            "max_idle_connections": 1,
        });
        stack
            .vault("POST", &self.at(&format!("{}/config/{name}", self.mount())), body)
            .await
            .map(drop)
    }

    /// Adds a role to the mount. The AppRole's policy knows only those of the specification.
    pub async fn create_role(&self, role: &RoleSpec) -> Result<()> {
        let path = self.at(&format!("{}/roles/{}", self.mount(), role.name));
        if self.stack().vault_request("GET", &path, None).await?.0 == 200 {
            return Err(Error::BadSpec(format!(
                "there is a role {} on mount {} already: give this one another name",
                role.name,
                self.mount()
            )));
        }
        let sql = |list: &[String]| -> Vec<String> {
            list.iter().map(|s| with_group(s, self.name())).collect()
        };
        let body = json!({
            "db_name": self.name(),
            "default_ttl": seconds("default_ttl", role.default_ttl)?,
            "max_ttl": seconds("max_ttl", role.max_ttl)?,
            "creation_statements": sql(&role.creation),
            "revocation_statements": sql(&role.revocation),
            "renew_statements": sql(&role.renew),
        });
        self.stack().vault("POST", &path, body).await.map(drop)
    }

    /// Removes everything again: leases, mount, AppRole, policy, database, group. Not needed for a
    /// test's end, as all of it goes with the stack.
    pub async fn remove(self) -> Result<()> {
        let (stack, name) = (self.stack(), self.name());
        for path in [
            format!("sys/mounts/{}", self.mount()),
            format!("auth/approle/role/{name}"),
            format!("sys/policies/acl/{name}"),
        ] {
            stack.vault("DELETE", &self.at(&path), Value::Null).await?;
        }
        let server = stack.connect_as(SUPERUSER, stack.superuser_password(), "postgres").await?;
        for sql in
            [format!("drop database \"{name}\" with (force)"), format!("drop role \"{name}\"")]
        {
            server.batch_execute(&sql).await.map_err(Error::postgres(sql.clone()))?;
        }
        Ok(())
    }
}

/// Short (Postgres cuts names at 63 bytes), plain, and never the same twice in a stack.
fn unique(name: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' };
    let short: String = name.chars().take(32).map(plain).collect();
    format!("{short}_{}", NEXT.fetch_add(1, Relaxed))
}

/// As given, if it needs no quoting anywhere.
fn exact(name: &str) -> Result<String> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
    if (1..=48).contains(&name.len()) && name.bytes().all(plain) {
        return Ok(name.to_owned());
    }
    Err(Error::BadSpec(format!(
        "{name:?} can't be an exact name: use at most 48 small letters, digits and underscores"
    )))
}

/// Any path may begin with the namespace, in place of a header.
pub(crate) fn within(namespace: Option<&str>, path: &str) -> String {
    match namespace {
        Some(namespace) => format!("{namespace}/{path}"),
        None => path.to_owned(),
    }
}

fn with_group(sql: &str, group: &str) -> String {
    sql.replace("{{group}}", group)
}

fn policy(mount: &str, a: &AppRoleSpec, roles: &[RoleSpec]) -> String {
    let mut text = match &a.policy {
        Some(own) => own.clone(),
        None => {
            let creds = |r: &RoleSpec| format!("{mount}/creds/{}", r.name);
            let mut roles = roles.iter();
            let first = roles.next().map_or_else(String::new, creds);
            let mut text = POLICY.replace("database/creds/orders-rw", &first);
            for role in roles {
                text += &format!("path \"{}\" {{ capabilities = [\"read\"] }}\n", creds(role));
            }
            text
        }
    };
    text.push('\n');
    text.push_str(&a.extra_policy);
    let text = text.replace("{{mount}}", mount);
    // An empty policy is refused; a comment is not.
    if text.trim().is_empty() { "# nothing is allowed\n".into() } else { text }
}

pub(crate) fn issued(reply: &Value) -> Result<IssuedToken> {
    let auth = &reply["auth"];
    Ok(IssuedToken {
        token: string(&auth["client_token"], "a token")?,
        accessor: auth["accessor"].as_str().unwrap_or_default().to_owned(),
        lease_duration: auth["lease_duration"].as_u64().unwrap_or_default(),
    })
}

fn string(value: &Value, what: &str) -> Result<String> {
    value.as_str().map(str::to_owned).ok_or_else(|| Error::Server {
        server: "OpenBao",
        detail: format!("answered without {what}"),
    })
}
