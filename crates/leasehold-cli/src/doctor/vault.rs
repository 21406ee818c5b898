//! The way to Vault: address, TLS, server, identity, token, policy, engine and role.

use std::time::{Duration, SystemTime};

use leasehold::ErrorKind;
use leasehold_vault::{Session, inspect};
use serde_json::Value;

use super::journey::Journey;
use super::report::Finding;
use crate::postgres::reach;

impl Journey {
    pub(super) async fn address(&self) -> Finding {
        let way = &self.way;
        if let Some(proxy) = &way.proxy {
            return Finding::unknown(format!("requests go through the proxy {proxy}"));
        }
        let scheme = if way.https { "https" } else { "http" };
        let shown = format!("{scheme}://{}:{}", way.host, way.port);
        match reach(&way.host, way.port).await {
            Ok(found) => Finding::ok(format!("{shown}: {found} answers")),
            Err(_) if !way.loopback && system_proxy() => Finding::unknown(format!(
                "{shown} can't be reached from here, and the environment names a proxy"
            )),
            Err(why) => Finding::fail(
                format!("{shown}: {why}"),
                "check host and port in VAULT_ADDR, that the server runs, and that no firewall is \
                 in between",
            ),
        }
    }

    pub(super) async fn tls(&mut self) -> Finding {
        let look = match inspect::look(&self.config).await {
            Ok(look) => look,
            Err(e) => return Finding::fail(e.to_string(), "correct that setting"),
        };
        let error = look.health.error.clone().unwrap_or_default();
        self.vault_ahead = look.date.map(|date| seconds_ahead(date, SystemTime::now()));
        let no_connection = look.no_connection;
        self.look = Some(look);
        let way = &self.way;
        if way.https && no_connection {
            // The library's own words end in what to do.
            let (detail, mend) = apart(&error);
            return Finding::fail(detail, mend);
        }
        if no_connection {
            return Finding::fail(error, "check VAULT_ADDR and the proxy, if there is one");
        }
        match (way.https, way.unverified, way.loopback) {
            (true, false, _) => Finding::ok("https, and the certificate is trusted"),
            (true, true, _) => Finding::warn(
                "https, but the certificate is not looked at: anybody can stand in between",
                "take VAULT_SKIP_VERIFY away, and name the authority in VAULT_CACERT",
            ),
            (false, _, true) => Finding::ok("plain http, within this machine"),
            (false, _, false) => Finding::warn(
                "plain http to another machine: tokens and logins can be read on the way",
                "use https:// in VAULT_ADDR",
            ),
        }
    }

    pub(super) fn server(&self) -> Finding {
        let health = &self.look.as_ref().expect("`server` needs `tls`").health;
        if let Some(error) = &health.error {
            let mend = if self.way.https {
                "VAULT_ADDR leads to something that is no Vault: check host and port, and what \
                 stands in between"
            } else {
                "VAULT_ADDR leads to something that is no Vault, or that wants https://: check \
                 scheme, host and port"
            };
            return Finding::fail(error, mend);
        }
        if health.initialized == Some(false) {
            return Finding::fail(
                "the server is not initialised",
                "initialise it (bao operator init), then unseal it",
            );
        }
        if health.sealed == Some(true) {
            return Finding::fail(
                "the server is sealed: it serves nothing",
                "unseal it (bao operator unseal), and look why it was sealed or restarted",
            );
        }
        let version = health.version.as_deref().unwrap_or("unknown");
        let standby = health.standby == Some(true);
        let standby = if standby { ", a standby that passes requests on" } else { "" };
        Finding::ok(format!("version {version}, unsealed{standby}"))
    }

    pub(super) async fn login(&mut self) -> Finding {
        let auth = self.auth.take().expect("logs in once");
        // What it is, without what it holds.
        let by = format!("{auth:?}");
        let by = by.trim_start_matches("Auth(").trim_end_matches(')').to_owned();
        match Session::login(self.config.clone(), auth).await {
            Ok(session) => {
                self.source = Some(session.dynamic_role(&self.mount, &self.role));
                self.session = Some(session);
                Finding::ok(format!("by {by}"))
            }
            Err(e) => {
                let text = e.to_string();
                let mend = match e.kind() {
                    _ if text.contains("limited in its uses") => {
                        "set token_num_uses=0 on the role that Vault logs it in by, or give a \
                         token without -use-limit"
                    }
                    ErrorKind::Denied if text.contains("role_id") => {
                        "check VAULT_ROLE_ID and VAULT_SECRET_ID: wrong, used up or expired; make \
                         a fresh one with: bao write -f auth/approle/role/NAME/secret-id"
                    }
                    ErrorKind::TokenLost => "the token is dead or mistyped: give a new one",
                    ErrorKind::NotFound => "check VAULT_AUTH_MOUNT and VAULT_NAMESPACE",
                    _ => {
                        "check how to log in (VAULT_TOKEN, VAULT_ROLE_ID …), VAULT_AUTH_MOUNT \
                          and VAULT_NAMESPACE"
                    }
                };
                Finding::fail(format!("by {by}: {text}"), mend)
            }
        }
    }

    pub(super) async fn token(&self) -> Finding {
        let session = self.session();
        let look = match inspect::token(session).await {
            Ok(look) => look,
            Err(e) if e.kind() == ErrorKind::Denied => {
                let state = session.token_state();
                let left = state
                    .remaining
                    .map_or("does not end".to_owned(), |left| format!("ends in {}", short(left)));
                return Finding::unknown(format!("it may not look itself up; it {left}"));
            }
            Err(e) => return Finding::fail_and_go_on(e.to_string(), "look at the server's log"),
        };
        let ends = match (look.ttl, look.period) {
            (0, 0) => "does not end".to_owned(),
            (_, 0) => format!("ends in {}", short(Duration::from_secs(look.ttl))),
            (_, period) => format!("periodic, {}", short(Duration::from_secs(period))),
        };
        let renewable = if look.renewable { "renewable" } else { "not renewable" };
        let policies = look.policies.join(", ");
        let detail = format!("a {} token, {renewable}, {ends}; policies: {policies}", look.kind);
        if look.kind == "batch" {
            return Finding::warn(
                format!(
                    "{detail}. Batch tokens can be neither renewed nor revoked: all logins end \
                         with it, and a shutdown can't give it back"
                ),
                "use service tokens: token_type=service on the role that Vault logs it in by",
            );
        }
        if look.policies.iter().any(|policy| policy == "root") {
            return Finding::warn(
                format!("{detail}. It may do everything"),
                "give the application an identity of its own with the policy that `leasehold \
                 policy` prints",
            );
        }
        Finding::ok(detail)
    }

    pub(super) async fn policy_creds(&mut self) -> Finding {
        let path = self.path();
        self.missing = match self.source().privileges().await {
            Ok(missing) => missing,
            Err(e) => return Finding::fail(e.to_string(), "try again; look at the server's log"),
        };
        if let Some(asking) = self.missing.iter().find(|m| m.path == "sys/capabilities-self") {
            return Finding::warn(
                asking.to_string(),
                "add to the policy: path \"sys/capabilities-self\" { capabilities = [\"update\"] }",
            );
        }
        self.may_ask = true;
        let Some(creds) = self.missing.iter().find(|m| m.path == path) else {
            return Finding::ok(format!("`read` on {path}"));
        };
        // Whoever may do anything below a mount may see what it is.
        let hint = match inspect::mounted(self.session(), &self.mount).await.map(|found| found.kind)
        {
            Ok(kind) => format!(
                "\n(a {kind} engine is mounted at {}/: is the role's name right?)",
                self.mount
            ),
            Err(e) if matches!(e.kind(), ErrorKind::Denied | ErrorKind::NotFound) => {
                format!("\n(nothing below {}/ is allowed: is the mount's name right?)", self.mount)
            }
            // It says nothing of the mount.
            Err(_) => String::new(),
        };
        Finding::fail(creds.to_string(), format!("{}{hint}", line_for(&path, "read")))
    }

    /// What is missing of the rights below `path`.
    pub(super) fn policy(&self, path: &str) -> Finding {
        if !self.may_ask {
            return Finding::unknown("the policy does not let it be asked");
        }
        let lacking: Vec<_> = self.missing.iter().filter(|m| m.path.starts_with(path)).collect();
        if lacking.is_empty() {
            return Finding::ok(format!("what is needed on {}", path.trim_end_matches('/')));
        }
        let join = |parts: Vec<String>| parts.join("\n");
        Finding::fail(
            join(lacking.iter().map(ToString::to_string).collect()),
            join(lacking.iter().map(|m| line_for(&m.path, m.capability)).collect()),
        )
    }

    pub(super) async fn engine(&self) -> Finding {
        let mount = &self.mount;
        match inspect::mounted(self.session(), mount).await.map(|found| found.kind) {
            Ok(kind) if kind == "database" => Finding::ok(format!("at {mount}/")),
            Ok(kind) => Finding::fail(
                format!("the engine at {mount}/ is of the type {kind}"),
                "give the mount of a database engine: --mount, or VAULT_MOUNT_PATH",
            ),
            // The policy gives something below it, so that an engine would be seen.
            Err(e)
                if matches!(e.kind(), ErrorKind::Denied | ErrorKind::NotFound) && self.may_ask =>
            {
                Finding::fail(
                    format!("nothing is mounted at {mount}/"),
                    "correct the mount (--mount, or VAULT_MOUNT_PATH) or the namespace \
                     (VAULT_NAMESPACE), or enable the engine: bao secrets enable database",
                )
            }
            Err(e) => Finding::unknown(e.to_string()),
        }
    }

    pub(super) async fn role_definition(&mut self) -> Finding {
        let path = format!("{}/roles/{}", self.mount, self.role);
        let role = match inspect::read::<Value>(self.session(), &path).await {
            Ok(role) => role,
            Err(e) if e.kind() == ErrorKind::NotFound => {
                return Finding::fail(
                    format!("there is no role {path}"),
                    "correct the role (--role, or VAULT_DATABASE_ROLE), or create it: `leasehold \
                     policy --role-definition` prints one",
                );
            }
            Err(e) if e.kind() != ErrorKind::Denied => {
                return Finding::unknown(format!("{path} could not be read: {e}"));
            }
            Err(_) => {
                return Finding::unknown(format!(
                    "its token may not read {path}, and need not: what it makes is looked at"
                ));
            }
        };
        let ttl = |name| role[name].as_u64().map(Duration::from_secs).filter(|t| !t.is_zero());
        self.max_ttl = ttl("max_ttl");
        let told = |t: Option<Duration>| t.map_or("the server's".to_owned(), short);
        let detail = format!("TTL {}, max TTL {}", told(ttl("default_ttl")), told(ttl("max_ttl")));
        let statements = |name: &str| -> String {
            let list = role[name].as_array().map(Vec::as_slice).unwrap_or_default();
            list.iter().filter_map(Value::as_str).collect::<Vec<_>>().join("; ")
        };
        let creation = statements("creation_statements");
        if creation.trim().is_empty() {
            return Finding::fail(
                format!("{detail}; it has no creation statements"),
                "write the role anew: `leasehold policy --role-definition` prints one",
            );
        }
        if !creation.contains("{{expiration}}") {
            return Finding::warn(
                format!("{detail}; its creation statements set no VALID UNTIL"),
                "add VALID UNTIL '{{expiration}}' to its CREATE ROLE: it keeps a login from being \
                 used when Vault could not revoke it in time",
            );
        }
        Finding::ok(detail)
    }

    pub(super) async fn logout(&mut self) -> Finding {
        self.issued = None;
        let Some(session) = self.session.take() else { return Finding::ok("") };
        self.source = None;
        let left = session.close().await;
        if left.is_empty() {
            return Finding::ok("nothing is left of what was logged in for");
        }
        Finding::warn(left.join("\n"), "nothing to do now: it ends by its TTL, with its leases")
    }
}

/// A line of policy.
fn line_for(path: &str, capability: &str) -> String {
    format!("add to the policy: path \"{path}\" {{ capabilities = [\"{capability}\"] }}")
}

/// An error of the library's ends in what to do, behind a colon: what is wrong, and that.
fn apart(error: &str) -> (&str, &str) {
    match error.rfind("): ") {
        Some(at) => (&error[..=at], &error[at + 3..]),
        None => (error, "check VAULT_ADDR and the server"),
    }
}

/// Whether the environment sends requests through a proxy.
fn system_proxy() -> bool {
    ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"]
        .iter()
        .any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()))
}

/// How far a clock is before another.
pub(super) fn seconds_ahead(theirs: SystemTime, ours: SystemTime) -> f64 {
    match theirs.duration_since(ours) {
        Ok(ahead) => ahead.as_secs_f64(),
        Err(behind) => -behind.duration().as_secs_f64(),
    }
}

/// A time for people: its two largest units.
pub(super) fn short(time: Duration) -> String {
    let seconds = time.as_secs();
    let units = [("d", seconds / 86400), ("h", seconds / 3600 % 24), ("m", seconds / 60 % 60)];
    let all = units.into_iter().chain([("s", seconds % 60)]);
    let from_first = all.skip_while(|(_, n)| *n == 0).take(2).filter(|(_, n)| *n > 0);
    let text: Vec<String> = from_first.map(|(unit, n)| format!("{n}{unit}")).collect();
    if text.is_empty() { "0s".to_owned() } else { text.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_told_in_two_units() {
        let told = |seconds| short(Duration::from_secs(seconds));
        assert_eq!([told(0), told(59), told(3600), told(3725)], ["0s", "59s", "1h", "1h 2m"]);
        assert_eq!([told(86405), told(2764799)], ["1d", "31d 23h"]);
    }

    #[test]
    fn an_error_is_taken_apart_before_what_to_do() {
        let error = "asking for sys/health: no TLS with https://v (bad): check the clock";
        assert_eq!(
            apart(error),
            ("asking for sys/health: no TLS with https://v (bad)", "check the clock")
        );
    }
}
