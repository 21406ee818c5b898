//! The way to Postgres, and what becomes of a login there.

use std::time::Duration;

use tokio_postgres::Client;

use super::journey::Journey;
use super::report::Finding;
use crate::postgres::{Refusal, is_login_refused, said};

/// A replica is behind the making of a role by this much at the most.
const LAG: Duration = Duration::from_secs(15);

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
                    true if self.server.verifies() || self.server.is_local() => {
                        Finding::ok("with TLS, as sslmode says")
                    }
                    true => Finding::warn(
                        "with TLS, but the certificate is not looked at: anybody can stand in \
                         between",
                        "set sslmode=verify-full (PGSSLMODE), with the authority in PGSSLROOTCERT",
                    ),
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
        let patience = self.patience();
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

    /// With a replica that lags; the library has as much.
    fn patience(&self) -> Duration {
        self.issued().lease.ttl.map_or(LAG, |ttl| LAG.min(ttl / 2))
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

    pub(super) async fn gone(&mut self) -> Finding {
        let credential = &self.issued().credential;
        let user = credential.username().to_owned();
        let (begun, patience) = (std::time::Instant::now(), self.patience());
        let refused = loop {
            match self.server.connect(&user, credential.expose_password()).await {
                Err(Refusal::Refused { code, .. }) if is_login_refused(&code) => break true,
                Err(e) => {
                    return Finding::warn(
                        format!("a fresh login could not be tried: {e}"),
                        "try again; look at Postgres's log",
                    );
                }
                // A replica may not have heard of it yet.
                Ok(_) if begun.elapsed() < patience => {
                    tokio::time::sleep(Duration::from_millis(250)).await;
                }
                Ok(_) => break false,
            }
        };
        let waited = begun.elapsed();
        let mend = "check revocation_statements of the role: they have to DROP ROLE \"{{name}}\" \
                    (on the primary, if this is a replica)";
        if !refused {
            return Finding::fail(format!("Postgres still takes {user}"), mend);
        }
        if waited > Duration::from_secs(1) {
            return Finding::warn(
                format!("{} refuses it after {} s only", self.server.shown(), waited.as_secs()),
                "is this a replica? Logins are dropped on the primary, and taken here until it has \
                 caught up: look at its lag",
            );
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

async fn is_encrypted(client: &Client) -> bool {
    let sql = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    client.query_one(sql, &[]).await.is_ok_and(|row| row.get(0))
}
