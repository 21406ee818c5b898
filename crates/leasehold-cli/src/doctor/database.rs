//! The way to Postgres, and what a login can do there.

use std::time::{Duration, SystemTime};

use tokio_postgres::Client;

use super::journey::Journey;
use super::report::Finding;
use super::vault::seconds_ahead;
use crate::postgres::{Refusal, is_login_refused, said};

/// A replica is behind the making of a role by this much at the most.
const LAG: Duration = Duration::from_secs(15);

/// Clocks that differ by less do no harm: VALID UNTIL is 5 s after the lease's end.
const SKEW: f64 = 5.0;

impl Journey {
    pub(super) async fn postgres_address(&self) -> Finding {
        match self.server.reach().await {
            Ok(found) => Finding::ok(format!("{}: {found} answers", self.server.place())),
            Err(why) => Finding::fail(
                format!("{}: {why}", self.server.place()),
                "check host and port in --database-url (or PGHOST, PGPORT), that Postgres runs, \
                 and that no firewall is in between",
            ),
        }
    }

    /// TLS and login are one exchange; what came of the second is kept for the next step.
    pub(super) async fn postgres_tls(&mut self) -> Finding {
        match self.connect().await {
            Ok((client, waited)) => {
                let tls = is_encrypted(&client).await;
                self.client = Some(client);
                self.lagged = waited;
                match tls {
                    true => Finding::ok("with TLS, as sslmode says"),
                    false if self.server.is_local() => Finding::ok("in clear, within this machine"),
                    false => Finding::warn(
                        "in clear: logins and data can be read on the way",
                        "set sslmode=verify-full (PGSSLMODE), with the authority in PGSSLROOTCERT",
                    ),
                }
            }
            Err(Refusal::Tls(why, mend)) => Finding::fail(why, mend),
            Err(Refusal::Unreachable(why)) => {
                Finding::fail(why, "it answered a moment ago: try again, look at Postgres's log")
            }
            Err(refused) => {
                self.refusal = Some(refused);
                Finding::ok("it came as far as the login")
            }
        }
    }

    /// A session, and how long it took until the login was known there.
    async fn connect(&self) -> Result<(Client, Duration), Refusal> {
        let begun = std::time::Instant::now();
        let credential = &self.issued().credential;
        // As the library waits, too.
        let patience = self.issued().lease.ttl.map_or(LAG, |ttl| LAG.min(ttl / 2));
        loop {
            let session =
                self.server.connect(credential.username(), credential.expose_password()).await;
            match session {
                // A replica may not have heard of it yet.
                Err(Refusal::Refused { code, .. })
                    if is_login_refused(&code) && begun.elapsed() < patience =>
                {
                    tokio::time::sleep(Duration::from_millis(250)).await;
                }
                Err(e) => return Err(e),
                Ok(client) => return Ok((client, begun.elapsed())),
            }
        }
    }

    pub(super) async fn postgres_login(&mut self) -> Finding {
        let (place, user) = (self.server.shown(), self.issued().credential.username().to_owned());
        let Some(Refusal::Refused { code, message }) = self.refusal.take() else {
            if self.lagged > Duration::from_secs(1) {
                return Finding::warn(
                    format!("{place} took it after {} s only", self.lagged.as_secs()),
                    "is this a replica? Logins are made on the primary, and known here once it has \
                     caught up: look at its lag",
                );
            }
            return Finding::ok(format!("{place} takes {user}"));
        };
        let mend = match code.as_str() {
            "3D000" => format!(
                "there is no database {}: correct --database-url (or PGDATABASE)",
                self.server.database
            ),
            "42501" => format!(
                "GRANT CONNECT ON DATABASE {} to the group that the logins are members of",
                self.server.database
            ),
            "53300" => "all of its connections are taken: raise max_connections, or CONNECTION \
                        LIMIT of database or role"
                .to_owned(),
            code if is_login_refused(code) => self.mend_of_refusal(&user).await,
            _ => "look at Postgres's log".to_owned(),
        };
        Finding::fail(format!("{place} refuses {user}: {message} ({code})"), mend)
    }

    /// Why a login that was just made is refused: Postgres gives one answer for all of it.
    async fn mend_of_refusal(&self, user: &str) -> String {
        let (place, mount) = (self.server.place(), &self.mount);
        let elsewhere = format!(
            "Vault makes its logins on another server than {place}, or this is a replica that is \
             far behind: compare connection_url in {mount}/config with it"
        );
        let past = "its VALID UNTIL is over at once: set the clocks of Vault and Postgres (NTP), and \
                    use '{{expiration}}' with its time zone";
        let kept_out = "the role is there: look at pg_hba.conf, and at the password_encryption and \
                        LOGIN of the creation_statements";
        let sql =
            "SELECT coalesce(rolvaliduntil < now(), false) FROM pg_roles WHERE rolname = $1::text";
        let seen = match &self.admin {
            None => None,
            Some((server, admin)) => match server.connect(&admin.user, &admin.password).await {
                Ok(client) => client.query_opt(sql, &[&user]).await.ok(),
                Err(_) => None,
            },
        };
        match seen {
            Some(Some(row)) if row.get(0) => past.to_owned(),
            Some(Some(_)) => kept_out.to_owned(),
            Some(None) => elsewhere,
            None => format!(
                "one of: {elsewhere}; {past}; or pg_hba.conf keeps it out. --admin-url tells which"
            ),
        }
    }

    pub(super) async fn privileges(&mut self) -> Finding {
        let acting = "SELECT current_user::text WHERE current_user <> session_user";
        if let Ok(acting) = self.client().query_opt(acting, &[]).await {
            self.acts_as = acting.map(|row| row.get(0));
        }
        let client = self.client();
        for (rights, table) in &self.needs {
            if let Some(finding) = lacking(client, rights, table).await {
                return finding;
            }
        }
        if let Some(probe) = &self.probe {
            let whole = format!("BEGIN; {probe}\n; ROLLBACK");
            if let Err(e) = client.batch_execute(&whole).await {
                let _ = client.batch_execute("ROLLBACK").await;
                return Finding::fail_and_go_on(
                    format!("the probe fails: {}", said(&e)),
                    "grant what it lacks to the group that the logins are members of",
                );
            }
        }
        let groups = "SELECT r.rolname::text FROM pg_auth_members m \
             JOIN pg_roles r ON r.oid = m.roleid JOIN pg_roles me ON me.oid = m.member \
             WHERE me.rolname = session_user ORDER BY 1";
        let tables = "SELECT count(*) FROM pg_class c \
             WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND c.relnamespace::regnamespace::text \
                 NOT IN ('pg_catalog', 'information_schema', 'pg_toast') \
             AND has_schema_privilege(c.relnamespace, 'USAGE') \
             AND has_table_privilege(c.oid, 'SELECT, INSERT, UPDATE, DELETE')";
        let (groups, tables) =
            match (client.query(groups, &[]).await, client.query_one(tables, &[]).await) {
                (Ok(groups), Ok(row)) => (groups, row.get::<_, i64>(0)),
                (Err(e), _) | (_, Err(e)) => {
                    return Finding::fail_and_go_on(said(&e), "look at Postgres's log");
                }
            };
        let groups: Vec<String> = groups.iter().map(|row| row.get(0)).collect();
        let member = if groups.is_empty() { "no group".to_owned() } else { groups.join(", ") };
        let detail = format!("member of {member}; {tables} tables and views are open to it");
        if self.needs.is_empty() && self.probe.is_none() {
            if tables == 0 {
                return Finding::warn(
                    detail,
                    "grant rights to a group (GRANT SELECT ON … TO orders_rw, and USAGE on its \
                     schema), and make logins its members (IN ROLE orders_rw)",
                );
            }
            return Finding::ok(format!("{detail} (--needs or --probe says what is needed)"));
        }
        Finding::ok(detail)
    }

    pub(super) async fn obstacles(&mut self) -> Finding {
        let client = self.client();
        // Catalogs are everybody's to read, those of other databases by number only.
        let depending = "SELECT CASE WHEN d.deptype = 'o' THEN 'owns ' ELSE 'has a right of its own on ' END || \
                 CASE WHEN d.dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) \
                     OR d.dbid = 0 \
                 THEN pg_describe_object(d.classid, d.objid, d.objsubid) \
                 ELSE 'something in another database' END \
             FROM pg_shdepend d JOIN pg_roles r ON r.oid = d.refobjid \
             WHERE d.refclassid = 'pg_authid'::regclass AND r.rolname = session_user \
                 AND d.classid <> 'pg_auth_members'::regclass LIMIT 5";
        let creates = "SELECT n.nspname::text FROM pg_namespace n \
             WHERE has_schema_privilege(session_user::name, n.oid, 'CREATE') \
                 AND n.nspname NOT LIKE 'pg\\_%' ORDER BY 1 LIMIT 5";
        let found = (client.query(depending, &[]).await, client.query(creates, &[]).await);
        let (depending, creates) = match found {
            (Ok(depending), Ok(creates)) => (depending, creates),
            (Err(e), _) | (_, Err(e)) => {
                return Finding::fail_and_go_on(said(&e), "look at Postgres's log");
            }
        };
        let texts = |rows: &[tokio_postgres::Row]| -> Vec<String> {
            rows.iter().map(|row| row.get(0)).collect()
        };
        self.obstacles = texts(&depending);
        let creates = texts(&creates);
        if !self.obstacles.is_empty() {
            return Finding::warn(
                format!("the login {}", self.obstacles.join("; it ")),
                "give rights to a group, and the login membership of it (IN ROLE) and nothing else: \
                 a bare DROP ROLE fails with 2BP01",
            );
        }
        if !creates.is_empty() {
            return Finding::warn(
                format!(
                    "the login may create in schema {}: what it makes is its own, and blocks \
                         its DROP ROLE",
                    creates.join(", ")
                ),
                "REVOKE CREATE ON SCHEMA … FROM the group (and from PUBLIC); migrations act as an \
                 owner that stays",
            );
        }
        Finding::ok("it owns nothing, and has no right of its own")
    }

    /// Seconds to the login's VALID UNTIL, by Postgres's clock; `None` if it has none.
    pub(super) async fn valid_for(&self) -> Option<f64> {
        let sql = "SELECT extract(epoch FROM rolvaliduntil - clock_timestamp())::float8 \
             FROM pg_roles WHERE rolname = session_user AND isfinite(rolvaliduntil)";
        let row = self.client.as_ref()?.query_opt(sql, &[]).await.ok()??;
        row.get(0)
    }

    pub(super) async fn valid_until(&self) -> Finding {
        let left = self.valid_for().await;
        let age = SystemTime::now().duration_since(self.issued_at).unwrap_or_default();
        let Some(ttl) = self.issued().lease.ttl else { return Finding::ok("the lease has no end") };
        let lease = ttl.saturating_sub(age).as_secs_f64();
        let Some(left) = left else {
            return Finding::warn(
                "it has no VALID UNTIL: a login that Vault could not revoke works for ever",
                "add VALID UNTIL '{{expiration}}' to the CREATE ROLE of the creation_statements",
            );
        };
        let detail = format!("VALID UNTIL is {left:.0} s from now, the lease's end {lease:.0} s");
        if left < lease - 2.0 {
            return Finding::fail_and_go_on(
                format!("{detail}: logins are refused before their lease ends"),
                "the clocks of Vault and Postgres differ, or the statements set another time: set \
                 the clocks (NTP), and use '{{expiration}}' with its time zone",
            );
        }
        if left > lease + 60.0 {
            return Finding::warn(
                format!("{detail}: a login that Vault could not revoke works for longer"),
                "the clocks of Vault and Postgres differ, or the statements set another time: set \
                 the clocks (NTP), and use '{{expiration}}' with its time zone",
            );
        }
        Finding::ok(detail)
    }

    pub(super) async fn clocks(&self) -> Finding {
        let sql = "SELECT extract(epoch FROM clock_timestamp())::float8";
        let postgres = match self.client().query_one(sql, &[]).await {
            Ok(row) => SystemTime::UNIX_EPOCH + Duration::from_secs_f64(row.get(0)),
            Err(e) => return Finding::fail_and_go_on(said(&e), "look at Postgres's log"),
        };
        let postgres = seconds_ahead(postgres, SystemTime::now());
        let told = |name: &str, ahead: f64| format!("{name} is {ahead:+.0} s from this machine");
        let Some(vault) = self.vault_ahead else {
            return Finding::unknown(format!("Vault told no time; {}", told("Postgres", postgres)));
        };
        let detail = format!("{}, {}", told("Vault", vault), told("Postgres", postgres));
        // Vault's is in whole seconds.
        let apart = (vault - postgres).abs().max(vault.abs()).max(postgres.abs());
        if apart > SKEW + 1.0 {
            return Finding::warn(
                detail,
                "set the clocks (NTP): VALID UNTIL is made by Vault's clock and judged by \
                 Postgres's, and certificates are judged by this machine's",
            );
        }
        Finding::ok(detail)
    }

    pub(super) async fn gone(&mut self) -> Finding {
        let credential = &self.issued().credential;
        let user = credential.username().to_owned();
        let fresh = self.server.connect(&user, credential.expose_password()).await;
        let refused = match fresh {
            Err(Refusal::Refused { code, .. }) if is_login_refused(&code) => true,
            Err(e) => {
                return Finding::warn(
                    format!("a fresh login could not be tried: {e}"),
                    "try again; look at Postgres's log",
                );
            }
            Ok(_) => false,
        };
        let mend = "check revocation_statements of the role: they have to DROP ROLE \"{{name}}\" \
                    (on the primary, if this is a replica)";
        if !refused {
            return Finding::fail(format!("Postgres still takes {user}"), mend);
        }
        let Some((server, admin)) = &self.admin else {
            return Finding::ok("Postgres refuses it (--admin-url says whether its role is gone)");
        };
        let client = match server.connect(&admin.user, &admin.password).await {
            Ok(client) => client,
            Err(e) => {
                let mend = "correct --admin-url (or LEASEHOLD_ADMIN_URL)";
                return Finding::warn(format!("refused, but as the administrator: {e}"), mend);
            }
        };
        let sql = "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1::text)";
        match client.query_one(sql, &[&user]).await {
            Ok(row) if row.get(0) => {
                Finding::fail(format!("it is refused, but the role {user} is still there"), mend)
            }
            Ok(_) => Finding::ok("Postgres refuses it, and its role is gone"),
            Err(e) => Finding::warn(said(&e), "give an administrator's --admin-url"),
        }
    }

    pub(super) async fn set_role(&mut self) -> Finding {
        let Some(client) = self.client.take() else { return Finding::ok("") };
        let alive = client.batch_execute("SELECT 1").await.is_ok();
        let Some(group) = &self.acts_as else {
            // It would answer pings, and be refused every table.
            return Finding::ok("logins act as themselves");
        };
        let mend = "take SET ROLE out of the creation statements (rights by membership need none), \
                    or have revocation_statements end sessions first: SELECT \
                    pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = \
                    '{{name}}'";
        if alive {
            return Finding::fail(
                format!(
                    "logins act as {group} (SET ROLE), and a session that was open when its \
                         login was revoked goes on with all rights of {group}"
                ),
                mend,
            );
        }
        Finding::warn(
            format!(
                "logins act as {group} (SET ROLE). Their revocation ends sessions, so that none \
                     keeps its rights; one that dials in that moment does"
            ),
            mend,
        )
    }
}

/// What of `rights` the login lacks on `table`, as a finding.
async fn lacking(client: &Client, rights: &str, table: &str) -> Option<Finding> {
    let fail = |detail: String, mend: String| Some(Finding::fail_and_go_on(detail, mend));
    let schema_mend = || {
        let schema = table.rsplit_once('.').map_or("public", |(schema, _)| schema);
        format!(
            "GRANT USAGE ON SCHEMA {schema} and GRANT {rights} ON {table} to the group that the \
             logins are members of"
        )
    };
    let oid: Option<u32> = match client.query_one("SELECT to_regclass($1)::oid", &[&table]).await {
        Ok(row) => row.get(0),
        Err(e) => return fail(format!("{table}: {}", said(&e)), schema_mend()),
    };
    let Some(oid) = oid else {
        return fail(
            format!("there is no table {table} in this database"),
            "correct --needs (with the schema in front), or the database".to_owned(),
        );
    };
    let sql = "SELECT has_schema_privilege(c.relnamespace, 'USAGE'), has_table_privilege(c.oid, $2) \
         FROM pg_class c WHERE c.oid = $1";
    for right in rights.split(", ") {
        let (schema, has): (bool, bool) = match client.query_one(sql, &[&oid, &right]).await {
            Ok(row) => (row.get(0), row.get(1)),
            Err(e) => return fail(format!("{table}: {}", said(&e)), schema_mend()),
        };
        if !(schema && has) {
            return fail(
                format!("the login has no {right} on {table}"),
                if schema {
                    format!("GRANT {right} ON {table} to the group that the logins are members of")
                } else {
                    schema_mend()
                },
            );
        }
    }
    None
}

async fn is_encrypted(client: &Client) -> bool {
    let sql = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    client.query_one(sql, &[]).await.is_ok_and(|row| row.get(0))
}
