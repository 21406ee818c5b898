//! What an administrator can do, and break.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::backend::{Deed, Server};
use crate::bao::{Storage, unseal_key_in};
use crate::database::within;
use crate::pglog::{LoginEvent, LoginRecord, correlate, parse_login_log};
use crate::postgres::{PostgresShutdown, SUPERUSER};
use crate::process::START_TIMEOUT;
use crate::spec::seconds;
use crate::stack::{unseal, wait_active};
use crate::{Error, Result, Stack, TestDb};

/// A session as Postgres lists it.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Session {
    /// Its server process.
    pub pid: i32,
    /// Its role; `None` once that role was dropped under it.
    pub user: Option<String>,
    /// Its role's number, which stays.
    pub user_oid: u32,
    /// What the client calls itself.
    pub application_name: String,
    /// `active`, `idle`, `idle in transaction` and so on.
    pub state: Option<String>,
    /// When it began, in Unix seconds.
    pub began: f64,
}

/// The servers as such. Other tests on a shared stack feel all of this.
impl Stack {
    /// Stops the Vault server in order, and waits for its end. From then on connections to it are
    /// refused. Does nothing if it is stopped.
    pub async fn stop_vault(&self) -> Result<()> {
        self.carry_out(Deed::End(Server::Vault, Signal::TERM)).await.map(drop)
    }

    /// Ends the Vault server with SIGKILL.
    pub async fn kill_vault(&self) -> Result<()> {
        self.carry_out(Deed::End(Server::Vault, Signal::KILL)).await.map(drop)
    }

    /// Starts a stopped Vault server on its old port and waits until it serves. Raft: with its
    /// data, and unsealed. Dev: empty, with the same root token. Does nothing if it runs.
    pub async fn start_vault(&self) -> Result<()> {
        if self.start_vault_sealed().await? {
            match self.inner.storage {
                Storage::Raft => self.unseal_vault().await?,
                Storage::Dev => {
                    wait_active(&self.inner.ends.vault).await?;
                    self.have_it_audit().await?;
                }
            }
        }
        Ok(())
    }

    /// Starts a stopped Vault server and leaves it as it comes: sealed, with raft. False if it
    /// was running already.
    pub async fn start_vault_sealed(&self) -> Result<bool> {
        self.carry_out(Deed::Start(Server::Vault)).await
    }

    /// SIGSTOP, or the freezer of a container: the Vault server accepts connections (the kernel
    /// does, or Docker's proxy) and answers nothing. Harmless if it is paused already; an error if it
    /// is stopped.
    pub async fn pause_vault(&self) -> Result<()> {
        self.carry_out(Deed::PauseVault).await.map(drop)
    }

    /// It goes on, and answers what has waited. Harmless if it is not paused; an error if it is
    /// stopped.
    pub async fn resume_vault(&self) -> Result<()> {
        self.carry_out(Deed::ResumeVault).await.map(drop)
    }

    /// Seals the Vault server. From then on it answers 503.
    pub async fn seal_vault(&self) -> Result<()> {
        self.vault("PUT", "sys/seal", Value::Null).await.map(drop)
    }

    /// Unseals it and waits until it serves.
    pub async fn unseal_vault(&self) -> Result<()> {
        let begun = Instant::now();
        let key = loop {
            match self.unseal_key().await? {
                Some(key) => break key,
                // A dev server that was sealed right after its start has yet to print it.
                None if begun.elapsed() < START_TIMEOUT => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                None => {
                    let detail = "its unseal key is unknown: its log holds none".into();
                    return Err(Error::Server { server: "OpenBao", detail });
                }
            }
        };
        unseal(&self.inner.ends.vault, &key).await
    }

    /// A dev server prints it, anew at each start and soon after it says that it is ready.
    async fn unseal_key(&self) -> Result<Option<String>> {
        match &self.inner.unseal_key {
            Some(key) => Ok(Some(key.clone())),
            None => Ok(unseal_key_in(&self.vault_log().await?)),
        }
    }

    /// Stops Postgres and waits for its end. Does nothing if it is stopped.
    pub async fn stop_postgres(&self, how: PostgresShutdown) -> Result<()> {
        self.carry_out(Deed::End(Server::Postgres, how.signal())).await.map(drop)
    }

    /// Starts a stopped Postgres on its old port, with its data, and waits until it serves.
    pub async fn start_postgres(&self) -> Result<()> {
        self.carry_out(Deed::Start(Server::Postgres)).await.map(drop)
    }

    /// Stops and starts Postgres.
    pub async fn restart_postgres(&self, how: PostgresShutdown) -> Result<()> {
        self.stop_postgres(how).await?;
        self.start_postgres().await
    }

    /// Postgres's log, from its first start on.
    pub async fn postgres_log(&self) -> Result<String> {
        self.log_of(Server::Postgres).await
    }

    /// The program that the Vault server runs: its command line client as well. Not with
    /// containers.
    pub async fn vault_program(&self) -> Result<std::path::PathBuf> {
        self.on_processes("finding its program", |p| Ok(p.bao().program().to_path_buf())).await
    }

    /// The Vault server's log, from its first start on.
    pub async fn vault_log(&self) -> Result<String> {
        self.log_of(Server::Vault).await
    }

    /// What Postgres logged about connections, oldest first.
    pub async fn login_log(&self) -> Result<Vec<LoginEvent>> {
        Ok(parse_login_log(&self.postgres_log().await?))
    }

    /// The same, one record per connection: received when, for whom, until when.
    pub async fn login_records(&self) -> Result<Vec<LoginRecord>> {
        Ok(correlate(&self.login_log().await?))
    }
}

/// Leases, tokens and limits.
impl Stack {
    /// Revokes a lease and waits until its SQL has run. Fine for a lease that is gone already.
    pub async fn revoke_lease(&self, lease_id: &str) -> Result<()> {
        let body = json!({ "lease_id": lease_id, "sync": true });
        self.vault("PUT", "sys/leases/revoke", body).await.map(drop)
    }

    /// Revokes all leases under a prefix. With `force` the server forgets leases that it cannot
    /// revoke; their Postgres roles stay.
    pub async fn revoke_prefix(&self, prefix: &str, force: bool) -> Result<()> {
        self.revoke_prefix_in(None, prefix, force).await
    }

    async fn revoke_prefix_in(
        &self,
        namespace: Option<&str>,
        prefix: &str,
        force: bool,
    ) -> Result<()> {
        if force {
            let path = within(namespace, &format!("sys/leases/revoke-force/{prefix}"));
            return self.vault("PUT", &path, Value::Null).await.map(drop);
        }
        let path = within(namespace, &format!("sys/leases/revoke-prefix/{prefix}"));
        self.vault("PUT", &path, json!({ "sync": true })).await.map(drop)
    }

    /// Renews a lease to this TTL from now on, which may well be a shorter one. Returns what was
    /// granted, in seconds.
    pub async fn renew_lease(&self, lease_id: &str, ttl: Duration) -> Result<u64> {
        let body = json!({ "lease_id": lease_id, "increment": seconds("ttl", ttl)? });
        let reply = self.vault("PUT", "sys/leases/renew", body).await?;
        Ok(reply["lease_duration"].as_u64().unwrap_or_default())
    }

    /// What the server knows of a lease (`ttl`, `expire_time`, ...), or `None` if it is gone.
    pub async fn lookup_lease(&self, lease_id: &str) -> Result<Option<Value>> {
        let body = json!({ "lease_id": lease_id });
        match self.vault("PUT", "sys/leases/lookup", body).await {
            Ok(reply) => Ok(Some(reply["data"].clone())),
            Err(Error::Vault { status: 400, body, .. }) if body.contains("invalid lease") => {
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }

    /// Ids of the leases directly under a prefix such as `MOUNT/creds/ROLE`.
    pub async fn leases(&self, prefix: &str) -> Result<Vec<String>> {
        self.leases_in(None, prefix).await
    }

    async fn leases_in(&self, namespace: Option<&str>, prefix: &str) -> Result<Vec<String>> {
        let prefix = prefix.trim_end_matches('/');
        let path = within(namespace, &format!("sys/leases/lookup/{prefix}/"));
        match self.vault("LIST", &path, Value::Null).await {
            Ok(reply) => {
                Ok(strings(&reply["data"]["keys"]).map(|key| format!("{prefix}/{key}")).collect())
            }
            Err(Error::Vault { status: 404, .. }) => Ok(Vec::new()),
            Err(e) => Err(e),
        }
    }

    /// Revokes a token, its children, and soon after all their leases.
    pub async fn revoke_token(&self, token: &str) -> Result<()> {
        self.vault("POST", "auth/token/revoke", json!({ "token": token })).await.map(drop)
    }

    /// The same by accessor.
    pub async fn revoke_accessor(&self, accessor: &str) -> Result<()> {
        let path = "auth/token/revoke-accessor";
        self.vault("POST", path, json!({ "accessor": accessor })).await.map(drop)
    }

    /// Renews a token to this TTL from now on, which may well be a shorter one. Returns what was
    /// granted, in seconds. A periodic token always gets its period.
    pub async fn shorten_token(&self, token: &str, ttl: Duration) -> Result<u64> {
        let body = json!({ "token": token, "increment": format!("{}s", seconds("ttl", ttl)?) });
        let reply = self.vault("POST", "auth/token/renew", body).await?;
        Ok(reply["auth"]["lease_duration"].as_u64().unwrap_or_default())
    }

    /// What the server knows of a token, or `None` if it is gone.
    pub async fn lookup_token(&self, token: &str) -> Result<Option<Value>> {
        match self.vault("POST", "auth/token/lookup", json!({ "token": token })).await {
            Ok(reply) => Ok(Some(reply["data"].clone())),
            Err(Error::Vault { status: 403 | 404, .. }) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// All accessors of service tokens, the root token's included.
    pub async fn token_accessors(&self) -> Result<Vec<String>> {
        let reply = self.vault("LIST", "auth/token/accessors/", Value::Null).await?;
        Ok(strings(&reply["data"]["keys"]).map(str::to_owned).collect())
    }

    /// A rate limit: `rate` requests per `interval` and client for everything under `path` (`""`:
    /// for all), with a Retry-After header if `headers`.
    pub async fn create_rate_limit(
        &self,
        name: &str,
        path: &str,
        rate: f64,
        interval: Duration,
        headers: bool,
    ) -> Result<()> {
        // Only with the exempt paths said again: leaving them out would empty the list.
        let config = json!({
            "enable_rate_limit_response_headers": headers,
            "rate_limit_exempt_paths": ["sys/health", "sys/seal-status", "sys/unseal", "sys/quotas"],
        });
        self.vault("POST", "sys/quotas/config", config).await?;
        let interval = format!("{}s", seconds("interval", interval)?);
        let body = json!({ "path": path, "rate": rate, "interval": interval });
        self.vault("POST", &format!("sys/quotas/rate-limit/{name}"), body).await.map(drop)
    }

    /// Removes a rate limit.
    pub async fn delete_rate_limit(&self, name: &str) -> Result<()> {
        let path = format!("sys/quotas/rate-limit/{name}");
        self.vault("DELETE", &path, Value::Null).await.map(drop)
    }

    /// Postgres roles of the whole server whose name begins so (`v-` for logins made by leases).
    pub async fn pg_roles(&self, prefix: &str) -> Result<Vec<String>> {
        let server = self.connect_as(SUPERUSER, self.superuser_password(), "postgres").await?;
        let sql = "select rolname::text from pg_roles where starts_with(rolname, $1) order by 1";
        let rows = server.query(sql, &[&prefix]).await.map_err(Error::postgres("listing roles"))?;
        Ok(rows.iter().map(|r| r.get(0)).collect())
    }
}

/// What one test can see and break of its own.
impl TestDb {
    /// Ids of the leases of the first role.
    pub async fn leases(&self) -> Result<Vec<String>> {
        self.leases_of(self.role()).await
    }

    /// Ids of the leases of a role.
    pub async fn leases_of(&self, role: &str) -> Result<Vec<String>> {
        self.stack().leases_in(self.namespace(), &format!("{}/creds/{role}", self.mount())).await
    }

    /// How many leases its mount has, over all roles of this database.
    pub async fn lease_count(&self) -> Result<usize> {
        let mut count = 0;
        for role in self.roles() {
            count += self.leases_of(role).await?.len();
        }
        Ok(count)
    }

    /// Revokes all leases of the mount.
    pub async fn revoke_all(&self, force: bool) -> Result<()> {
        let (stack, prefix) = (self.stack(), format!("{}/creds", self.mount()));
        stack.revoke_prefix_in(self.namespace(), &prefix, force).await
    }

    /// Postgres roles that are members of its group: the logins that exist.
    pub async fn logins(&self) -> Result<Vec<String>> {
        let sql = "select m.rolname::text from pg_auth_members a
            join pg_roles g on g.oid = a.roleid join pg_roles m on m.oid = a.member
            where g.rolname = $1::text order by 1";
        let rows = self
            .admin()
            .await?
            .query(sql, &[&self.name()])
            .await
            .map_err(Error::postgres("listing logins"))?;
        Ok(rows.iter().map(|r| r.get(0)).collect())
    }

    /// Sessions on this database, those of dropped roles included, those of the superuser (the
    /// Vault server's and this crate's own) not.
    pub async fn sessions(&self) -> Result<Vec<Session>> {
        let sql = "select pid, usename::text, usesysid, application_name, state,
                extract(epoch from backend_start)::float8
            from pg_stat_activity
            where datname = $1::text and backend_type = 'client backend'
                and usename is distinct from $2::text
            order by backend_start";
        let rows = self
            .admin()
            .await?
            .query(sql, &[&self.name(), &SUPERUSER])
            .await
            .map_err(Error::postgres("listing sessions"))?;
        Ok(rows
            .iter()
            .map(|r| Session {
                pid: r.get(0),
                user: r.get(1),
                user_oid: r.get(2),
                application_name: r.get(3),
                state: r.get(4),
                began: r.get(5),
            })
            .collect())
    }

    /// Sessions of one login.
    pub async fn sessions_of(&self, username: &str) -> Result<Vec<Session>> {
        let mut sessions = self.sessions().await?;
        sessions.retain(|s| s.user.as_deref() == Some(username));
        Ok(sessions)
    }

    /// Drops a login's role behind the Vault server's back. Its sessions stay.
    pub async fn drop_login(&self, username: &str) -> Result<()> {
        let sql = format!("drop role \"{}\"", username.replace('"', "\"\""));
        self.admin().await?.batch_execute(&sql).await.map_err(Error::postgres(sql.clone()))
    }

    /// Ends a login's sessions. Returns how many there were.
    pub async fn terminate_sessions(&self, username: &str) -> Result<u64> {
        let sql = "select pg_terminate_backend(pid) from pg_stat_activity
            where datname = $1::text and usename = $2::text";
        self.admin()
            .await?
            .execute(sql, &[&self.name(), &username])
            .await
            .map_err(Error::postgres("ending sessions"))
    }

    /// Changes a role's TTLs: at once for new leases, at the next renewal for existing ones.
    pub async fn set_role_ttls(
        &self,
        role: &str,
        default_ttl: Duration,
        max_ttl: Duration,
    ) -> Result<()> {
        let body = json!({
            "default_ttl": seconds("default_ttl", default_ttl)?,
            "max_ttl": seconds("max_ttl", max_ttl)?,
        });
        let path = self.at(&format!("{}/roles/{role}", self.mount()));
        self.stack().vault("POST", &path, body).await.map(drop)
    }

    /// Changes any fields of a role, as the API names them; others keep their values.
    pub async fn update_role(&self, role: &str, fields: Value) -> Result<()> {
        let path = self.at(&format!("{}/roles/{role}", self.mount()));
        self.stack().vault("POST", &path, fields).await.map(drop)
    }

    /// Deletes a role's definition. Its leases stay, and can be revoked but not renewed.
    pub async fn delete_role(&self, role: &str) -> Result<()> {
        let path = self.at(&format!("{}/roles/{role}", self.mount()));
        self.stack().vault("DELETE", &path, Value::Null).await.map(drop)
    }

    /// Replaces the policy of the AppRole and of [`TestDb::token`]. Live tokens feel it at once.
    pub async fn set_policy(&self, hcl: &str) -> Result<()> {
        let path = self.at(&format!("sys/policies/acl/{}", self.name()));
        self.stack().vault("PUT", &path, json!({ "policy": hcl })).await.map(drop)
    }
}

fn strings(list: &Value) -> impl Iterator<Item = &str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str)
}
