//! A login's life at Vault: issued, renewed, revoked; how long, and what bounds it.

use std::time::{Duration, SystemTime};

use leasehold::{CredentialSource, ErrorKind, RevokeMode, SourceError};
use leasehold_vault::inspect;

use super::journey::Journey;
use super::report::Finding;
use super::vault::short;

/// Asked for beyond the TTL, so that a `VALID UNTIL` that does not move is seen to stay.
const MORE: Duration = Duration::from_secs(30);

/// What the server's whole seconds and the way there take.
const ROUNDING: Duration = Duration::from_secs(2);

impl Journey {
    pub(super) async fn issue(&mut self) -> Finding {
        let issued = self.source().issue().await;
        self.issued_at = SystemTime::now();
        match issued {
            Ok(issued) => {
                let (user, ttl) = (issued.credential.username(), issued.lease.ttl);
                let ttl = ttl.map_or("without end".to_owned(), short);
                let detail = format!("{user}, for {ttl}");
                self.issued = Some(issued);
                Finding::ok(detail)
            }
            Err(e) => Finding::fail(e.to_string(), self.mend_of_issue(&e)),
        }
    }

    fn mend_of_issue(&self, e: &SourceError) -> String {
        let (mount, role, text) = (&self.mount, &self.role, e.to_string());
        let connection = "the connection_url, username and password of its connection (bao read \
                          MOUNT/config/NAME; the name is db_name of the role)";
        let connection = connection.replace("MOUNT", mount);
        match e.kind() {
            ErrorKind::NotFound if text.contains("unknown role") => format!(
                "correct the role (--role, or VAULT_DATABASE_ROLE), or create {mount}/roles/{role}"
            ),
            ErrorKind::Denied if text.contains("allowed_roles") => {
                format!("add {role} to allowed_roles of the database connection")
            }
            _ if text.contains("failed to connect")
                || text.contains("password authentication failed")
                || text.contains("dial ")
                || text.contains("unable to start transaction") =>
            {
                format!("Vault itself does not get into Postgres: check {connection}")
            }
            _ if text.contains("SQLSTATE") => format!(
                "Postgres refuses the creation_statements of {mount}/roles/{role}: correct them, \
                 and run them by hand as the user that Vault connects as"
            ),
            _ => format!("look at Vault's log; check {connection}"),
        }
    }

    pub(super) fn ttl(&self) -> Finding {
        let Some(ttl) = self.issued().lease.ttl else {
            return Finding::ok("the lease does not end");
        };
        let (fits, leeway) = leasehold::plan(self.grace, ttl);
        // What is granted is at most the maximum, so that a short one shows here.
        let max = self.max_ttl.map(|max| format!(", max TTL {}", short(max))).unwrap_or_default();
        match fits {
            Some(grace) => Finding::ok(format!(
                "TTL {}{max}: rotated {} before its end, borrowed connections get {} to come back",
                humantime::format_duration(ttl),
                humantime::format_duration(leeway),
                humantime::format_duration(grace),
            )),
            None => {
                // What a longer TTL takes at the most: a roll of 15 s, 5 s for the rotation, and 1 s.
                let beside = Duration::from_secs(21);
                let least = self.grace.map_or(leeway * 2, |grace| grace.saturating_add(beside));
                Finding::fail_and_go_on(
                    format!(
                        "TTL {}{max}: a rotation would have to begin {} before the end",
                        humantime::format_duration(ttl),
                        humantime::format_duration(leeway),
                    ),
                    format!(
                        "raise default_ttl and max_ttl of {}/roles/{} (above {}), or lower --grace",
                        self.mount,
                        self.role,
                        short(least)
                    ),
                )
            }
        }
    }

    pub(super) async fn token_life(&self) -> Finding {
        let session = self.session();
        let Some(ttl) = self.issued().lease.ttl else {
            return Finding::ok("the lease does not end");
        };
        let state = session.token_state();
        let Some(left) = state.remaining else { return Finding::ok("the token does not end") };
        let (life, how) = if state.renewing {
            match inspect::renew_token(session, ttl.max(left)).await {
                Ok(granted) => (granted, "renewed, it ends in"),
                Err(_) => (left, "it is not renewed, and ends in"),
            }
        } else {
            (left, "it can't be renewed, and ends in")
        };
        let detail = format!("{how} {}; the lease in {}", short(life), short(ttl));
        if life + ROUNDING >= ttl {
            return Finding::ok(detail);
        }
        let detail = format!("{detail}. A lease dies with its token, and nothing in it says so");
        if !inspect::can_log_in_anew(session) {
            return Finding::fail_and_go_on(
                detail,
                "give a token that lives longer or is renewable (a periodic one: bao token create \
                 -orphan -period=1h), or a way to log in anew, such as AppRole",
            );
        }
        let mend = "raise token_ttl and token_max_ttl (or set token_period) of the role that Vault \
                    logs it in by, above the TTL of the database role";
        match leasehold::plan(self.grace, life) {
            (Some(_), _) => Finding::warn(format!("{detail}: it is rotated before that"), mend),
            (None, _) => Finding::fail_and_go_on(detail, mend),
        }
    }

    pub(super) async fn renew(&mut self) -> Finding {
        let lease = self.issued().lease.clone();
        let Some(ttl) = lease.ttl else { return Finding::ok("it does not end") };
        let path = self.path();
        let granted = match self.source().renew(&lease, ttl + MORE).await {
            Ok(granted) => granted,
            Err(e) => {
                let mend = match e.kind() {
                    ErrorKind::LeaseLost => "somebody revokes leases: look who (audit log)",
                    ErrorKind::Denied => "give `update` on sys/leases/renew",
                    _ => "check renew_statements of the role, and that Vault reaches Postgres",
                };
                return Finding::fail_and_go_on(format!("{path}: {e}"), mend);
            }
        };
        if granted + ROUNDING < ttl + MORE {
            return Finding::warn(
                format!(
                    "{} granted of the {} asked for: its end can't be moved by more",
                    short(granted),
                    short(ttl + MORE)
                ),
                "raise max_ttl of the role above its default_ttl, and the token's life: until then \
                 each login is rotated instead of renewed",
            );
        }
        if let Some(left) = self.valid_for().await
            && left + ROUNDING.as_secs_f64() < granted.as_secs_f64()
        {
            return Finding::fail_and_go_on(
                format!(
                    "renewed for {}, but VALID UNTIL stays at {left:.0} s from now",
                    short(granted)
                ),
                "take renew_statements away from the role, or have them set VALID UNTIL \
                 '{{expiration}}'",
            );
        }
        Finding::ok(format!("for {} more", short(granted)))
    }

    pub(super) async fn revoke(&mut self) -> Finding {
        let lease = self.issued().lease.clone();
        let source = self.source();
        let mut last = None;
        // Two revocations that meet, and locks, pass.
        for _ in 0..3 {
            match source.revoke(&lease, RevokeMode::Sync).await {
                Ok(()) => return Finding::ok("and it was"),
                Err(e) => last = Some(e),
            }
            if !last.as_ref().is_some_and(SourceError::is_transient) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let e = last.expect("tried at least once");
        // What the library does about it: the login ends within seconds.
        let cut = source.renew(&lease, Duration::from_secs(1)).await;
        let user = self.issued().credential.username();
        let left = match cut {
            Ok(_) => format!("The login {user} was cut short to a second instead"),
            Err(_) => format!("The login {user} is left to the end of its token or TTL"),
        };
        let detail = format!("{e}. {left}");
        if e.kind() == ErrorKind::Denied {
            return Finding::fail(
                detail,
                "add to the policy: path \"sys/leases/revoke\" { capabilities = [\"update\"] }",
            );
        }
        let text = e.to_string();
        if text.contains("2BP01") || text.contains("depend on it") {
            let on = match self.obstacles.is_empty() {
                true => String::new(),
                false => format!(" ({})", self.obstacles.join("; ")),
            };
            return Finding::fail(
                format!("{detail}. Vault tries for ten minutes and then gives the lease up"),
                format!(
                    "the login owns something, or holds rights of its own{on}: give rights to a \
                     group, and the login membership of it (IN ROLE), never CREATE; as an \
                     administrator: REASSIGN OWNED BY \"{user}\" TO …; DROP OWNED BY \"{user}\"; \
                     DROP ROLE \"{user}\""
                ),
            );
        }
        Finding::fail(
            detail,
            format!(
                "check revocation_statements of {}/roles/{}, and that Vault reaches Postgres",
                self.mount, self.role
            ),
        )
    }
}
