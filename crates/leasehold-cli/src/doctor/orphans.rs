//! `leasehold doctor --orphans`: Postgres roles that no lease owns.
//!
//! A lease does not say which role it made. It says when it was made and when it ends, and the role
//! tells both too: the one in the end of its name, the other, and 5 s, in `VALID UNTIL`. So each
//! lease is matched with the role that fits both its name and one of its times. Nothing is dropped
//! here.

use std::collections::BTreeMap;
use std::process::ExitCode;

use leasehold_vault::{Session, inspect};
use serde::Serialize;
use tokio_postgres::Client;

use super::Args;
use super::journey::{administrator, signals, stopped_by, told_if_slow};
use super::report::print_json;
use crate::failure::Failure;
use crate::postgres::said;
use crate::terminal::{print_styled, tell};

/// VALID UNTIL is the lease's end and so much.
const GRACE: f64 = 5.0;

/// Vault's whole seconds, and what lies between its looks at the clock.
const TOLERANCE: f64 = 3.0;

/// A role comes before its lease; a mint takes 90 s at the most.
const BEING_MADE: f64 = 120.0;

/// A lease, as far as it says anything of its role.
#[derive(Clone, Debug)]
struct Lease {
    /// Of the database engine.
    role: String,
    issued: f64,
    ends: f64,
}

/// A Postgres role whose name is of the form that Vault gives.
#[derive(Clone, Debug, PartialEq)]
struct Login {
    name: String,
    valid_until: Option<f64>,
    shown: Option<String>,
    sessions: i64,
    owns: bool,
}

/// A role without a lease. Its fields are documented in `docs/doctor.md`, and stay.
#[derive(Serialize)]
struct Orphan {
    role: String,
    valid_until: Option<String>,
    /// Nobody can log in with it any more.
    past: bool,
    /// False where another role fits the same lease as well, or where it may still be being made.
    certain: bool,
    /// It may still be being made.
    #[serde(skip)]
    fresh: bool,
    sessions: i64,
    sql: String,
}

#[derive(Serialize)]
struct Listing {
    version: u32,
    roles: usize,
    leases: usize,
    orphans: Vec<Orphan>,
}

/// There are some; what else goes wrong has to be told from it.
const THERE_ARE: u8 = 1;
const NOT_LISTED: u8 = 3;
const STOPPED: u8 = 130;

pub(super) async fn run(args: &Args) -> Result<ExitCode, Failure> {
    // Before anything is made that a signal would leave behind.
    let stop = signals()?;
    let failed = |failure: Failure| failure.with_code(NOT_LISTED);
    let settings = args.target.settings()?;
    let url = args.admin_url.as_ref().ok_or_else(|| {
        Failure::usage("--orphans needs an administrator's --admin-url (or LEASEHOLD_ADMIN_URL)")
    })?;
    let (server, admin) = administrator(&url.0)?;
    let client = server.connect(&admin.user, &admin.password).await;
    let client = client.map_err(|e| failed(Failure::new(format!("{}: {e}", server.shown()))))?;
    let session = Session::login(settings.config()?, settings.auth()?).await;
    let session = session.map_err(|e| failed(Failure::of("logging in to Vault", &e)))?;
    let listing = told_if_slow("listing roles and leases", list(&client, &session));
    let listing = tokio::select! {
        biased;
        () = stopped_by(stop) => Err(Failure::new("it was told to stop").with_code(STOPPED)),
        listing = listing => listing.map_err(failed),
    };
    for left in session.close().await {
        tell(&left);
    }
    let listing = listing?;
    if args.json {
        print_json(&listing)?;
    } else {
        print_styled(&text(&listing))?;
    }
    Ok(if listing.orphans.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(THERE_ARE) })
}

async fn list(client: &Client, session: &Session) -> Result<Listing, Failure> {
    // Roles first: what is made meanwhile has a lease and is not in the list. Those that go
    // meanwhile are not in the second one.
    let before = logins(client).await?;
    let leases = leases(client, session).await?;
    let mut logins = logins(client).await?;
    logins.retain(|login| before.iter().any(|b| b.name == login.name));
    let row = client.query_one("SELECT extract(epoch FROM now())::float8", &[]).await;
    let now = row.map_err(|e| postgres("asking for the time", &e))?.get(0);
    let (roles, leases_found) = (logins.len(), leases.len());
    let orphans = orphans(logins, &leases, now);
    Ok(Listing { version: 1, roles, leases: leases_found, orphans })
}

fn postgres(doing: &str, e: &tokio_postgres::Error) -> Failure {
    Failure::new(format!("{doing} in Postgres: {}", said(e)))
}

async fn logins(client: &Client) -> Result<Vec<Login>, Failure> {
    let sql = "SELECT r.rolname::text, extract(epoch FROM r.rolvaliduntil)::float8, \
             to_char(r.rolvaliduntil AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'), \
             (SELECT count(*) FROM pg_stat_activity a WHERE a.usesysid = r.oid), \
             EXISTS (SELECT FROM pg_shdepend d WHERE d.refobjid = r.oid \
                 AND d.refclassid = 'pg_authid'::regclass AND d.classid <> 'pg_auth_members'::regclass) \
         FROM pg_roles r WHERE r.rolcanlogin AND r.rolname ~ '^v-.*-[0-9]{9,}$' ORDER BY 1";
    let rows = client.query(sql, &[]).await.map_err(|e| postgres("listing roles", &e))?;
    let login = |row: &tokio_postgres::Row| Login {
        name: row.get(0),
        valid_until: row.get::<_, Option<f64>>(1).filter(|t| t.is_finite()),
        shown: row.get(2),
        sessions: row.get(3),
        owns: row.get(4),
    };
    Ok(rows.iter().map(login).collect())
}

/// All leases of the namespace that a database engine's `creds` made. Other engines have a `creds`
/// too, and what one of them made owns no role.
async fn leases(client: &Client, session: &Session) -> Result<Vec<Lease>, Failure> {
    let failed = |e| {
        Failure::of(
            "listing leases (it needs `list` and `sudo` on sys/leases/lookup/*, \
                                  and `update` on sys/leases/lookup)",
            &e,
        )
    };
    let (mut roles, mut issued, mut ends) = (Vec::new(), Vec::new(), Vec::new());
    let mut folders = vec![String::new()];
    let mut databases = BTreeMap::new();
    while let Some(folder) = folders.pop() {
        for key in inspect::leases(session, &folder).await.map_err(failed)? {
            let path = format!("{folder}{key}");
            if path.ends_with('/') {
                // What logged in has leases of its own.
                if path != "auth/" {
                    folders.push(path);
                }
                continue;
            }
            let Some((mount, role)) = folder.trim_end_matches('/').rsplit_once("/creds/") else {
                continue;
            };
            if !databases.contains_key(mount) {
                let kind = inspect::mounted(session, mount).await.map(|found| found.kind);
                // One that can't be looked at may be one: better a role too few in the list.
                databases.insert(mount.to_owned(), kind.map_or(true, |kind| kind == "database"));
            }
            if !databases[mount] {
                continue;
            }
            if let Some(lease) = inspect::lease(session, &path).await.map_err(failed)? {
                let text = |name: &str| lease[name].as_str().map(str::to_owned);
                if let (Some(from), Some(to)) = (text("issue_time"), text("expire_time")) {
                    roles.push(role.to_owned());
                    issued.push(from);
                    ends.push(to);
                }
            }
        }
    }
    // Postgres reads times in every form that Vault writes.
    let sql = "SELECT extract(epoch FROM i::timestamptz)::float8, \
             extract(epoch FROM e::timestamptz)::float8 \
         FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS t (i, e, n) ORDER BY n";
    let rows = client.query(sql, &[&issued, &ends]).await;
    let rows = rows.map_err(|e| postgres("reading the leases' times", &e))?;
    let lease = |(role, row): (String, &tokio_postgres::Row)| Lease {
        role,
        issued: row.get(0),
        ends: row.get(1),
    };
    Ok(roles.into_iter().zip(&rows).map(lease).collect())
}

/// What the name of a role says.
struct Named<'a> {
    /// `v-DISPLAY-ROLE`, the last two cut to 8.
    rest: &'a str,
    made: f64,
}

impl<'a> Named<'a> {
    fn parse(name: &'a str) -> Option<Self> {
        let (rest, made) = name.rsplit_once('-')?;
        let (rest, _random) = rest.rsplit_once('-')?;
        Some(Self { rest, made: made.parse().ok()? })
    }
}

/// How well they fit, in seconds; `None` if they can't belong together.
fn distance(named: &Named<'_>, valid_until: Option<f64>, lease: &Lease) -> Option<f64> {
    if !named.rest.strip_suffix(short(&lease.role))?.ends_with('-') {
        return None;
    }
    let by_start = (lease.issued - named.made).abs();
    let by_end = valid_until.map_or(f64::INFINITY, |until| (until - GRACE - lease.ends).abs());
    let best = by_start.min(by_end);
    // Of two that end together, the one that was made at the time.
    (best <= TOLERANCE).then(|| best + by_start.min(60.0) / 1000.0)
}

/// As much of a role's name as Vault puts into those of its logins.
fn short(role: &str) -> &str {
    role.char_indices().nth(8).map_or(role, |(end, _)| &role[..end])
}

fn orphans(logins: Vec<Login>, leases: &[Lease], now: f64) -> Vec<Orphan> {
    let mut fits: Vec<(f64, usize, usize)> = Vec::new();
    for (i, login) in logins.iter().enumerate() {
        let Some(named) = Named::parse(&login.name) else { continue };
        for (j, lease) in leases.iter().enumerate() {
            fits.extend(distance(&named, login.valid_until, lease).map(|far| (far, i, j)));
        }
    }
    fits.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (mut owned, mut taken) = (vec![false; logins.len()], vec![false; leases.len()]);
    for (_, i, j) in &fits {
        if !owned[*i] && !taken[*j] {
            (owned[*i], taken[*j]) = (true, true);
        }
    }
    let orphan = |(i, login): (usize, Login)| {
        let fresh = Named::parse(&login.name).is_some_and(|named| now - named.made < BEING_MADE);
        Orphan {
            past: login.valid_until.is_some_and(|until| until < now),
            fresh,
            certain: !fresh && !fits.iter().any(|(_, other, _)| *other == i),
            sql: drop_sql(&login),
            valid_until: login.shown,
            sessions: login.sessions,
            role: login.name,
        }
    };
    logins.into_iter().enumerate().filter(|(i, _)| !owned[*i]).map(orphan).collect()
}

fn drop_sql(login: &Login) -> String {
    let name = quoted(&login.name, '"');
    let mut sql = String::new();
    if login.sessions > 0 {
        let text = quoted(&login.name, '\'');
        sql += &format!(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = {text}; "
        );
    }
    if login.owns {
        // Of each database in which it owns something; what it owns is not thrown away.
        sql += &format!("REASSIGN OWNED BY {name} TO CURRENT_USER; DROP OWNED BY {name}; ");
    }
    sql + &format!("DROP ROLE {name};")
}

/// A name as it stands in SQL, between such quotes. On one line, and without what would do
/// something to a terminal, whatever somebody has called a role.
fn quoted(name: &str, quote: char) -> String {
    let shown = |c: char| c.escape_debug().len() == 1 || matches!(c, '"' | '\'');
    let plain = name.chars().all(|c| shown(c) || c == '\\');
    let mut text = String::from(if plain { "" } else { "U&" });
    text.push(quote);
    for c in name.chars() {
        match c {
            _ if c == quote => text.extend([c, c]),
            _ if plain || shown(c) => text.push(c),
            _ => text += &format!("\\+{:06X}", u32::from(c)),
        }
    }
    text.push(quote);
    text
}

fn text(listing: &Listing) -> String {
    let Listing { roles, leases, orphans, .. } = listing;
    let mut text = String::new();
    for orphan in orphans {
        let until = orphan.valid_until.as_deref().unwrap_or("without VALID UNTIL");
        let state = if orphan.past { "past" } else { "can still log in" };
        let sure = match (orphan.certain, orphan.fresh) {
            (true, _) => "",
            (false, true) => " -- not certain: look again in two minutes",
            (false, false) => " -- not certain: one of several that fit a lease; see whose it is",
        };
        text += &format!(
            "-- {}: {until} ({state}), {} sessions{sure}\n{}\n",
            orphan.role.escape_debug(),
            orphan.sessions,
            orphan.sql
        );
    }
    text + &format!("-- {roles} roles, {leases} leases, {} roles without a lease\n", orphans.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login(name: &str, valid_until: Option<f64>) -> Login {
        Login { name: name.into(), valid_until, shown: None, sessions: 0, owns: false }
    }

    fn lease(role: &str, issued: f64, ends: f64) -> Lease {
        Lease { role: role.into(), issued, ends }
    }

    #[test]
    fn a_lease_owns_the_role_that_fits_its_times_and_only_one() {
        let logins = vec![
            login("v-approle-orders-r-AAAAAAAAAAAAAAAAAAAA-1000000000", Some(1000003605.0)),
            // Renewed since: its start still fits.
            login("v-approle-orders-r-BBBBBBBBBBBBBBBBBBBB-1000000100", Some(1000009105.0)),
            // Of another role, at the very same times.
            login("v-approle-reports-CCCCCCCCCCCCCCCCCCCC-1000000000", Some(1000003605.0)),
            // Two in one second, and one lease.
            login("v-approle-orders-r-DDDDDDDDDDDDDDDDDDDD-1000000200", Some(1000003805.0)),
            login("v-approle-orders-r-EEEEEEEEEEEEEEEEEEEE-1000000200", Some(1000003805.0)),
        ];
        let leases = [
            lease("orders-rw", 1000000000.4, 1000003600.4),
            lease("orders-rw", 1000000100.4, 1000009100.0),
            lease("orders-rw", 1000000200.1, 1000003800.1),
        ];
        let found = orphans(logins, &leases, 1000005000.0);
        let names: Vec<_> = found.iter().map(|o| (&o.role[10..20], o.past, o.certain)).collect();
        assert_eq!(names, [("reports-CC", true, true), ("orders-r-E", true, false)]);
    }

    #[test]
    fn a_role_that_may_still_be_being_made_is_not_certain() {
        let name = "v-token-app-AAAAAAAAAAAAAAAAAAAA-1000000000";
        let found = orphans(vec![login(name, None)], &[], 1000000060.0);
        assert!(!found[0].certain && !found[0].past);
        assert!(orphans(vec![login(name, None)], &[], 1000000600.0)[0].certain);
    }

    #[test]
    fn the_sql_quotes_names_and_keeps_what_a_role_owns() {
        let mut odd = login("v-a\"b'c-app-x-1000000000", None);
        (odd.sessions, odd.owns) = (1, true);
        let sql = drop_sql(&odd);
        assert!(sql.contains("usename = 'v-a\"b''c-app-x-1000000000'"), "{sql}");
        assert!(sql.ends_with("DROP ROLE \"v-a\"\"b'c-app-x-1000000000\";"), "{sql}");
        assert!(sql.contains("REASSIGN OWNED BY"), "{sql}");
    }

    #[test]
    fn a_name_does_nothing_but_name() {
        assert_eq!(quoted("a\\b é", '"'), "\"a\\b é\"");
        let odd = quoted("a\nb\u{1b}\\'", '\'');
        assert_eq!(odd, r"U&'a\+00000Ab\+00001B\+00005C'''");
    }

    #[test]
    fn why_it_is_not_certain_is_told() {
        let young = "v-token-app-AAAAAAAAAAAAAAAAAAAA-1000000000";
        let twin = "v-token-app-BBBBBBBBBBBBBBBBBBBB-1000000000";
        let told = |logins: Vec<Login>, leases: &[Lease], now| {
            let orphans = orphans(logins, leases, now);
            text(&Listing { version: 1, roles: 0, leases: 0, orphans })
        };
        let fresh = told(vec![login(young, None)], &[], 1000000060.0);
        assert!(fresh.contains("two minutes"), "{fresh}");
        let one = [lease("app", 1000000000.0, 1000003600.0)];
        let twins = told(vec![login(young, None), login(twin, None)], &one, 1000000600.0);
        assert!(twins.contains("one of several") && !twins.contains("two minutes"), "{twins}");
    }
}
