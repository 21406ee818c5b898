//! Nothing secret in any log, whatever happens. A file of its own: it listens to everything that
//! this process logs, at the finest level.

mod common;

use std::time::Duration;

use common::capture::Capture;
use common::script::{Reply, Script};
use common::{approle, config, database_with, within};
use leasehold::{CredentialSource, RevokeMode};
use leasehold_testkit::{AppRoleSpec, TokenSpec};
use leasehold_vault::{Auth, Session, VaultConfig};

const S: Duration = Duration::from_secs(1);

/// Tokens that the server made while we did not look have this form.
fn token_in(text: &str) -> Option<&str> {
    let starts = ["s.", "b.", "hvs.", "hvb."];
    let is_token = |word: &&str| {
        let rest = starts.iter().find_map(|start| word.strip_prefix(start));
        rest.is_some_and(|r| r.len() >= 20 && r.bytes().all(|b| b.is_ascii_alphanumeric()))
    };
    let apart = |c: char| !(c.is_ascii_alphanumeric() || c == '.' || c == '_' || c == '-');
    text.split(apart).find(is_token)
}

#[tokio::test]
async fn i10_no_secret_is_in_any_log_or_debug_output() {
    let log = Capture::global();
    let tokens = AppRoleSpec::new().token_ttl(2 * S).token_max_ttl(4 * S);
    let db = database_with(tokens).await;
    let mut secrets = vec![];
    let mut shown = String::new();

    // All that is usual: logins, renewals, a retired token, leases, the end.
    let secret_id = db.secret_id().await.expect("secret_id");
    let auth = Auth::approle(db.role_id(), secret_id.as_str());
    shown += &format!("{auth:?} {:?}", config(&db));
    secrets.push(secret_id);
    let session = Session::login(config(&db), auth).await.expect("login");
    let source = session.dynamic_role(db.mount(), db.role());
    let issued = source.issue().await.expect("issue");
    secrets.push(issued.credential.expose_password().to_owned());
    shown += &format!("{session:?} {source:?} {issued:?} {:?}", session.token_state());
    within(6 * S, || session.token_state().login == 2).await;
    source.renew(&issued.lease, 30 * S).await.expect("renew");
    source.revoke(&issued.lease, RevokeMode::Sync).await.expect("revoke");
    drop(issued);
    shown += &format!("{:?}", session.health().await);
    shown += &source.close().await.join(" ");

    // And what fails: a wrong secret_id, a dead token, one without rights.
    let wrong = "11111111-2222-3333-4444-wrongsecret";
    let auth = Auth::approle(db.role_id(), wrong);
    let e = Session::login(config(&db), auth).await.expect_err("refused");
    shown += &format!("{e} {e:?}");
    secrets.push(wrong.to_owned());
    let spec = TokenSpec::new().ttl(60 * S).policies(["default"]);
    let token = db.token(spec).await.expect("token").token;
    assert!(token_in(&format!("token={token};")).is_some(), "the search knows their form");
    let session = Session::login(config(&db), Auth::token(token.as_str())).await.expect("login");
    let source = session.dynamic_role(db.mount(), db.role());
    let e = source.issue().await.expect_err("no right");
    shown += &format!("{e} {e:?}");
    db.stack().revoke_token(&token).await.expect("revoke");
    let e = source.issue().await.expect_err("dead");
    shown += &format!("{e} {e:?} {session:?}");
    let e = Session::login(config(&db), Auth::token(token.as_str())).await.expect_err("dead");
    shown += &format!("{e} {e:?}");
    secrets.push(token);

    // And a server that answers with secrets where none belong.
    let script = Script::start().await;
    let spilt = "spilt-secret-of-a-broken-answer";
    for path in ["auth/token/lookup-self", "sys/health"] {
        script.answer(path, Reply::json(200, format!(r#"{{"data":{{"ttl":"{spilt}"}}}}"#)));
    }
    let auth = Auth::token("s.notmuchofatoken");
    let e = Session::login(VaultConfig::new(script.address()), auth).await.expect_err("broken");
    shown += &format!("{e} {e:?}");
    script.answer("auth/approle/login", Reply::json(500, format!("<p>{spilt}</p>")));
    let auth = approle(&db).await;
    let e = Session::login(VaultConfig::new(script.address()), auth).await.expect_err("broken");
    shown += &format!("{e} {e:?}");
    secrets.push(spilt.to_owned());

    let text = log.text();
    for heard in ["logged in", "token renewed", "auth/approle/login", "credential issued", "hyper"]
    {
        assert!(text.contains(heard), "it listens: no {heard:?}");
    }
    for secret in &secrets {
        for (place, text) in [("log", &text), ("output", &shown)] {
            let line = text.lines().find(|line| line.contains(secret.as_str()));
            assert!(line.is_none(), "{secret:?} in the {place}: {line:?}");
        }
    }
    assert_eq!(token_in(&shown), None);
    assert_eq!(token_in(&text), None);
}

/// The check that each test of this crate ends with, made to fail on purpose: in a log of its own,
/// which the other tests are not held against.
#[tokio::test]
async fn i10_a_secret_that_is_logged_is_found_by_the_servers_own_list() {
    let db = database_with(AppRoleSpec::new()).await;
    let secret_id = db.secret_id().await.expect("secret_id");
    let auth = Auth::approle(db.role_id(), secret_id.as_str());
    let session = Session::login(config(&db), auth).await.expect("login");
    let issued = session.dynamic_role(db.mount(), db.role()).issue().await.expect("issue");
    let password = issued.credential.expose_password().to_owned();
    let secrets = db.stack().secrets_issued().await.expect("the server's list");
    for known in [&secret_id, &password, &db.stack().root_token().to_owned()] {
        assert!(secrets.contains(known), "the server's list is whole");
    }
    let of_sessions = |s: &&String| s.starts_with("s.") && s.len() > 20;
    assert!(secrets.iter().any(|s| of_sessions(&s)), "tokens of logins too");

    let log = Capture::default();
    let _to_it = tracing::subscriber::set_default(log.subscriber());
    tracing::info!(username = issued.credential.username(), "harmless");
    assert_eq!(log.lines_with(&secrets), Vec::<String>::new());
    tracing::trace!(bytes = ?password.as_bytes(), "as a library may show a buffer");
    let found = log.lines_with(&secrets);
    assert!(found.len() == 1 && found[0].contains("show a buffer"), "{found:?}");
    drop(tracing::debug_span!("a span", token = %secrets[0]));
    let found = log.lines_with(&secrets);
    assert!(found.iter().any(|line| line.contains("a span")), "{found:?}");
    log::trace!("by another crate's logger: {secret_id}");
    let found = log.lines_with(&secrets);
    assert!(found.iter().any(|line| line.contains("another crate's")), "{found:?}");
}
