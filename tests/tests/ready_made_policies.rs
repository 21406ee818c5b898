//! The files of `deploy/vault` as they stand: with them everything works, and each rule that is
//! taken out is named by its lack, with what then happens.

#![allow(clippy::unwrap_used)]

use std::sync::{Arc, Mutex};

use leasehold::{CredentialSource, ErrorKind, Event, Rotator};
use leasehold_testkit::eventually;
use leasehold_tests::ready_made::*;
use leasehold_tests::*;
use leasehold_vault::transit::TransitErrorKind;
use leasehold_vault::{Auth, DynamicRole, Missing, Session, VaultConfig};
use serde_json::{Value, json};

const ROLE: &str = "orders-rw";
const CREDS: &str = "database/creds/orders-rw";
const RENEW: &str = "sys/leases/renew";
const REVOKE: &str = "sys/leases/revoke";
const STATIC: &str = "database/static-creds/orders-static";
const KV: &str = "kv/orders/db";
const TOKEN_LOOKUP: &str = "auth/token/lookup-self";
const TOKEN_RENEW: &str = "auth/token/renew-self";
const TOKEN_REVOKE: &str = "auth/token/revoke-self";
const ASK: &str = "sys/capabilities-self";

/// What is logged at WARN on this thread, which a test's tasks all run on.
#[derive(Clone, Default)]
struct Warnings(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Warnings {
    fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(text);
        Ok(text.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Warnings {
    fn listen() -> (Self, tracing::subscriber::DefaultGuard) {
        let warnings = Self::default();
        let writer = warnings.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::WARN)
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        (warnings, tracing::subscriber::set_default(subscriber))
    }

    /// The lines so far about what a policy does not give.
    fn about_rights(&self) -> Vec<String> {
        let text = String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned();
        text.lines().filter(|l| l.contains("the policy does not give")).map(str::to_owned).collect()
    }
}

async fn source(world: &ReadyMade, policy: &str, token_ttl: &str) -> (Session, DynamicRole) {
    let who = world.with_policy(policy, token_ttl).await;
    let session = world.session(&who).await;
    let source = session.dynamic_role("database", ROLE);
    (session, source)
}

async fn missing_without(world: &ReadyMade, path: &str) -> Vec<Missing> {
    let (session, source) = source(world, &without(DYNAMIC_ROLE, path), "1h").await;
    let missing = source.privileges().await.unwrap();
    session.close().await;
    missing
}

#[tokio::test]
async fn with_the_files_as_they_stand_a_service_lives_and_ends_and_nothing_is_missing() {
    let (warnings, _listening) = Warnings::listen();
    let world = ready_made().await;
    let session = world.session(&world.orders().await).await;
    let source = session.dynamic_role("database", ROLE);
    assert_eq!(source.privileges().await.unwrap(), []);
    let rotator = Rotator::builder(source).start().await.unwrap();
    let provider = rotator.provider();
    let pool = leasehold_sqlx::connect(
        &provider,
        sqlx::postgres::PgPoolOptions::new().max_connections(2),
        world.sqlx_base(),
    )
    .await
    .unwrap();
    let mut events = provider.events();
    for generation in 2..=3 {
        sqlx::query("UPDATE orders.accounts SET v = v + 1").execute(&pool).await.unwrap();
        rotator.rotate();
        revoked(&mut events, generation - 1).await;
    }
    assert_eq!(session.calls().privileges, 2, "one for the question above, one at the start");
    let report = rotator.shutdown(s(10)).await;
    assert!(report.is_clean(), "{report}");
    assert_eq!(warnings.about_rights(), [""; 0]);
    assert!(!session.token_state().lost.unwrap().is_empty(), "closed, its token given back");
}

#[tokio::test]
async fn each_rule_of_the_dynamic_role_is_named_when_it_is_not_there() {
    let world = ready_made().await;
    let rules = paths(DYNAMIC_ROLE);
    assert_eq!(rules, [CREDS, RENEW, REVOKE, TOKEN_LOOKUP, TOKEN_RENEW, TOKEN_REVOKE, ASK]);
    for path in rules {
        let (warnings, _listening) = Warnings::listen();
        let (session, source) = source(world, &without(DYNAMIC_ROLE, path), "1h").await;
        let issued = source.issue().await;
        assert_eq!(issued.is_err(), path == CREDS, "{path}");
        eventually("asked once", LONG, async || Ok(session.calls().privileges == 1)).await.unwrap();
        let missing = source.privileges().await.unwrap();
        if path == TOKEN_LOOKUP {
            assert_eq!(missing, [], "made no use of where one logs in");
            continue;
        }
        let [missing] = &missing[..] else { panic!("{path}: {missing:?}") };
        let capability = if path == CREDS { "read" } else { "update" };
        assert_eq!((missing.path.as_str(), missing.capability), (path, capability));
        eventually("told", LONG, async || Ok(!warnings.about_rights().is_empty())).await.unwrap();
        // A second login is issued with no further word.
        let _ = source.issue().await;
        let [line] = &warnings.about_rights()[..] else { panic!("{:?}", warnings.about_rights()) };
        assert!(line.contains(&missing.to_string()) && line.contains(CREDS), "{line}");
        session.close().await;
    }
}

#[tokio::test]
async fn what_is_predicted_for_each_rule_that_is_not_there_comes_true() {
    let world = ready_made().await;
    let only = |path| async move {
        let [missing] = &missing_without(world, path).await[..] else { panic!("{path}") };
        missing.consequence
    };

    assert!(only(CREDS).await.contains("no login can be issued"));
    let (_session, refused) = source(world, &without(DYNAMIC_ROLE, CREDS), "1h").await;
    assert_eq!(refused.issue().await.unwrap_err().kind(), ErrorKind::Denied);

    assert!(only(TOKEN_RENEW).await.contains("logs in anew"));
    let (session, _source) = source(world, &without(DYNAMIC_ROLE, TOKEN_RENEW), "3s").await;
    eventually("a second login", LONG, async || Ok(session.token_state().login == 2))
        .await
        .unwrap();
    assert!(session.token_state().lost.is_none());
    session.close().await;

    assert!(only(TOKEN_REVOKE).await.contains("ends by its TTL"));
    let (session, _source) = source(world, &without(DYNAMIC_ROLE, TOKEN_REVOKE), "1h").await;
    let left = session.close().await;
    assert!(left.len() == 1 && left[0].contains("ends in"), "{left:?}");

    assert!(only(ASK).await.contains("shows only when"));

    // Logging in needs no lookup; a token that was given is looked up.
    let who = world.with_policy(&without(DYNAMIC_ROLE, TOKEN_LOOKUP), "1h").await;
    let auth = Auth::token(world.token(&who).await);
    let config = VaultConfig::new(world.stack.vault_addr());
    let e = Session::login(config, auth).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Denied);
    assert!(e.to_string().contains(TOKEN_LOOKUP), "{e}");
}

#[tokio::test]
async fn without_the_right_to_renew_leases_logins_are_rotated_before_they_end() {
    let world = ready_made().await;
    let missing = missing_without(world, RENEW).await;
    assert!(missing[0].consequence.contains("rotated before its TTL ends"), "{missing:?}");
    // A role of its own with the statements of the ready-made one, and a life of seconds.
    let mut role: Value =
        serde_json::from_str(include_str!("../../deploy/vault/roles/orders-rw.json")).unwrap();
    (role["default_ttl"], role["max_ttl"]) = (json!("4s"), json!("1h"));
    world.vault("POST", "database/config/orders", json!({ "allowed_roles": "*" })).await;
    world.vault("POST", "database/roles/brief", role).await;
    let policy = without(DYNAMIC_ROLE, RENEW).replace("creds/orders-rw", "creds/brief");
    let who = world.with_policy(&policy, "1h").await;
    let session = world.session(&who).await;
    let builder = Rotator::builder(session.dynamic_role("database", "brief"));
    let rotator = builder.start().await.unwrap();
    let mut events = rotator.provider().events();
    for generation in 2..=3 {
        assert_eq!(swapped(&mut events).await.0, generation);
    }
    assert!(session.calls().renew <= 3, "each login is asked for once: {:?}", session.calls());
    assert!(rotator.shutdown(s(10)).await.is_clean());
}

#[tokio::test]
async fn a_token_that_was_given_is_judged_by_what_is_done_with_it() {
    let world = ready_made().await;
    let policy = without(&without(DYNAMIC_ROLE, TOKEN_REVOKE), TOKEN_RENEW);
    let who = world.with_policy(&policy, "1h").await;
    let by = |token: String| async move {
        let config = VaultConfig::new(world.stack.vault_addr());
        let session = Session::login(config, Auth::token(token)).await.unwrap();
        session.dynamic_role("database", ROLE).privileges().await.unwrap()
    };
    let missing = by(world.token(&who).await).await;
    let [missing] = &missing[..] else { panic!("never revoked by us: {missing:?}") };
    assert_eq!(missing.path, TOKEN_RENEW);
    assert!(missing.consequence.contains("end with it"), "no other is to be had: {missing}");

    let fixed = json!({
        "policies": [who.name], "no_default_policy": true, "renewable": false, "ttl": "1h",
    });
    let reply = world.vault("POST", "auth/token/create", fixed).await;
    let token = reply["auth"]["client_token"].as_str().unwrap().to_owned();
    assert_eq!(by(token).await, [], "not renewable: not renewed");
    assert_eq!(by(world.stack.root_token().to_owned()).await, [], "root may do everything");
}

#[tokio::test]
async fn rights_are_those_of_the_namespace() {
    let world = ready_made().await;
    world.vault("POST", "sys/namespaces/team", json!({})).await;
    let within = |policy: &'static str, name: &'static str| async move {
        let url = |path: &str| format!("team/{path}");
        let body = json!({ "policy": policy });
        world.vault("PUT", &url(&format!("sys/policies/acl/{name}")), body).await;
        let body = json!({ "policies": [name], "no_default_policy": true, "ttl": "1h" });
        let reply = world.vault("POST", &url("auth/token/create-orphan"), body).await;
        let token = reply["auth"]["client_token"].as_str().unwrap().to_owned();
        let config = VaultConfig::new(world.stack.vault_addr()).namespace("team");
        let session = Session::login(config, Auth::token(token)).await.unwrap();
        session.dynamic_role("database", ROLE).privileges().await.unwrap()
    };
    assert_eq!(within(DYNAMIC_ROLE, "orders").await, []);
    let missing = within(KV1, "other").await;
    let missing: Vec<&str> = missing.iter().map(|m| m.path.as_str()).collect();
    assert_eq!(missing, [CREDS, RENEW, REVOKE]);
}

/// Logs in and reads with each policy as it stands and without each of its rules, and compares
/// what the source says of them.
async fn missing_of_the_others(world: &ReadyMade, policy: &str, rules: Vec<&str>) {
    let ask = async |policy: &str| -> (Vec<Missing>, Result<(), ErrorKind>) {
        let session = world.session(&world.with_policy(policy, "1h").await).await;
        macro_rules! of {
            ($source:expr) => {{
                let source = $source;
                let missing = source.privileges().await.unwrap();
                (missing, source.issue().await.map(drop).map_err(|e| e.kind()))
            }};
        }
        // By its own text, so that a policy is tried with the source it is for.
        match rules[0] {
            STATIC => of!(session.static_role("database", "orders-static")),
            KV => of!(session.kv1("kv", "orders/db")),
            _ => of!(session.kv2("secret", "orders/db")),
        }
    };
    let (missing, read) = ask(policy).await;
    assert_eq!((missing, read), (vec![], Ok(())), "{}", rules[0]);
    for rule in &rules {
        let (missing, read) = ask(&without(policy, rule)).await;
        let paths: Vec<&str> = missing.iter().map(|m| m.path.as_str()).collect();
        let expected = if *rule == TOKEN_LOOKUP { &[][..] } else { &[*rule][..] };
        assert_eq!(paths, expected);
        assert_eq!(read.is_ok(), *rule != rules[0], "{rule}: what the others are for is optional");
    }
}

/// The rules that are about the token are the same in all files, and tested above.
#[tokio::test]
async fn the_other_policies_let_in_what_they_name_and_nothing_else() {
    let world = ready_made().await;
    let admin = world.admin().await;
    admin.batch_execute("CREATE ROLE orders_static LOGIN IN ROLE orders_rw").await.unwrap();
    // To change a password Vault's role needs a right on it from Postgres 16 on.
    admin.batch_execute("GRANT orders_static TO vaultadmin WITH ADMIN OPTION").await.unwrap();
    let role = json!({ "db_name": "orders", "username": "orders_static", "rotation_period": 3600 });
    world.vault("POST", "database/config/orders", json!({ "allowed_roles": "*" })).await;
    world.vault("POST", "database/static-roles/orders-static", role).await;
    let login = json!({ "username": "u", "password": "p" });
    world.vault("POST", "sys/mounts/kv", json!({ "type": "kv" })).await;
    world.vault("POST", "kv/orders/db", login.clone()).await;
    // A dev server mounts version 2 at "secret" by itself.
    let mounted = json!({ "type": "kv", "options": { "version": "2" } });
    let (status, reply) =
        world.stack.vault_request("POST", "sys/mounts/secret", Some(mounted)).await.unwrap();
    assert!(status < 300 || reply.to_string().contains("already in use"), "{reply}");
    world.vault("POST", "secret/data/orders/db", json!({ "data": login })).await;

    let own = [TOKEN_LOOKUP, TOKEN_RENEW, TOKEN_REVOKE, ASK];
    for policy in [STATIC_ROLE, KV1, KV2] {
        let all = paths(policy);
        let (reads, rest) = all.split_at(all.len() - own.len());
        assert_eq!(rest, own);
        assert!(!reads.is_empty());
        let whole = world.token(&world.with_policy(policy, "1h").await).await;
        for path in reads {
            let less = without(policy, path);
            let less = world.token(&world.with_policy(&less, "1h").await).await;
            for other in reads {
                let ask = |token| world.stack.vault_request_as(token, "GET", other, None);
                let (status, reply) = ask(&whole).await.unwrap();
                assert_eq!(status, 200, "{other}: {reply}");
                let expected = if other == path { 403 } else { 200 };
                assert_eq!(ask(&less).await.unwrap().0, expected, "{other} without {path}");
            }
        }
        missing_of_the_others(world, policy, all).await;
    }
}

#[tokio::test]
async fn each_rule_for_transit_lets_in_one_thing_and_no_other() {
    let world = ready_made().await;
    world.vault("POST", "sys/mounts/transit", json!({ "type": "transit" })).await;
    world.vault("POST", "transit/keys/orders", json!({})).await;
    world.vault("POST", "transit/keys/invoices", json!({ "type": "ed25519" })).await;
    let whole = world.session(&world.with_policy(TRANSIT, "1h").await).await;
    let keys = |session: &Session| {
        let transit = session.transit("transit");
        (transit.key("orders"), transit.key("invoices"))
    };
    let (orders, invoices) = keys(&whole);
    let stored = orders.encrypt("plain").await.unwrap();
    let hmac = orders.hmac("text").await.unwrap();
    let signature = invoices.sign("text").await.unwrap();
    // Each of them done, by the path that it takes.
    let refused = async |policy: &str| -> Vec<&str> {
        let session = world.session(&world.with_policy(policy, "1h").await).await;
        let (orders, invoices) = keys(&session);
        let done = [
            ("transit/encrypt/orders", orders.encrypt("plain").await.err()),
            ("transit/decrypt/orders", orders.decrypt(&stored).await.err()),
            ("transit/rewrap/orders", orders.rewrap(&stored).await.err()),
            ("transit/hmac/orders", orders.hmac("text").await.err()),
            ("transit/verify/orders", orders.verify_hmac("text", &hmac).await.err()),
            ("transit/sign/invoices", invoices.sign("text").await.err()),
            ("transit/verify/invoices", invoices.verify("text", &signature).await.err()),
        ];
        session.close().await;
        let mut refused = Vec::new();
        for (path, e) in done {
            let Some(e) = e else { continue };
            assert_eq!(e.kind(), TransitErrorKind::Denied, "{e}");
            assert!(e.to_string().contains(&format!("grant `update` on {path}")), "{e}");
            refused.push(path);
        }
        refused
    };
    assert_eq!(refused(TRANSIT).await, [""; 0]);
    let rules = paths(TRANSIT);
    assert_eq!(refused("# nothing").await, rules);
    for rule in rules {
        assert_eq!(refused(&without(TRANSIT, rule)).await, [rule]);
    }
    let unknown = whole.transit("transit").key("order").encrypt("plain").await.unwrap_err();
    assert_eq!(unknown.kind(), TransitErrorKind::Denied, "no key is made by a slip: {unknown}");
    whole.close().await;
}

#[tokio::test]
async fn events_and_report_say_what_a_refused_revocation_came_to() {
    // With neither right, and a token that is not ours to revoke.
    let world = ready_made().await;
    let policy = without(&without(DYNAMIC_ROLE, REVOKE), RENEW);
    let who = world.with_policy(&policy, "1h").await;
    let auth = Auth::token(world.token(&who).await);
    let session = Session::login(VaultConfig::new(world.stack.vault_addr()), auth).await.unwrap();
    let source = session.dynamic_role("database", ROLE);
    let missing = source.privileges().await.unwrap();
    assert_eq!(missing.len(), 2, "{missing:?}");
    assert!(missing[1].consequence.contains("left to its TTL"), "{missing:?}");
    let rotator = Rotator::builder(source).start().await.unwrap();
    let mut events = rotator.provider().events();
    rotator.rotate();
    let told = event(&mut events, |e| match e {
        Event::RevokeFailed { retry_in: None, .. } => Some(e.to_string()),
        _ => None,
    });
    let told = told.await;
    assert!(told.contains(RENEW) && told.ends_with("left to its TTL"), "{told}");
    let report = rotator.shutdown(LONG).await;
    assert_eq!(report.remains.len(), 2, "both logins: {report}");
    for left in &report.remains {
        assert!(left.why.contains("grant `update` on sys/leases/renew"), "{left}");
        assert!(left.ends_in.is_some_and(|end| end <= s(3600) && end > s(3000)), "{left}");
    }
}
