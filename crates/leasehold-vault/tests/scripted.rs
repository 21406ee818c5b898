//! Against a server that does what no healthy one would: every fault on the wire, and what the
//! session makes of it.

mod common;

use std::time::Duration;

use common::answers::BARE;
use common::script::{Reply, Script};
use common::sim::{FIRST_TOKEN, GoodVault, ISSUE, LOGIN, Sim};
use leasehold::clock::Clock;
use leasehold::{CredentialSource, ErrorKind, Lease, RevokeMode, SourceError};
use leasehold_vault::{Auth, Session, VaultConfig};
use tokio::io::AsyncWriteExt;

const SECRET_ID: &str = "secret-id-that-must-not-leak";
const TOKEN: &str = "s.token-that-must-not-leak";

fn config(script: &Script) -> VaultConfig {
    VaultConfig::new(script.address()).request_timeout(Duration::from_millis(600))
}

async fn login(script: &Script) -> Result<Session, SourceError> {
    Session::login(config(script), Auth::approle("role", SECRET_ID)).await
}

fn login_answer(token: &str, ttl: u64) -> Reply {
    Reply::json(
        200,
        format!(
            r#"{{"auth":{{"client_token":"{token}","lease_duration":{ttl},"renewable":true,
               "token_type":"service","num_uses":0}}}}"#
        ),
    )
}

fn creds_answer() -> Reply {
    Reply::json(
        200,
        r#"{"lease_id":"database/creds/app/abc","renewable":true,"lease_duration":60,
           "data":{"username":"v-app-1","password":"pw-that-must-not-leak"}}"#,
    )
}

/// A session whose next answers are `then`.
async fn session(then: Vec<Reply>) -> (Script, Session) {
    let script = Script::start().await;
    script.answer("auth/approle/login", login_answer(TOKEN, 3600));
    for reply in then {
        script.answer("database/creds/app", reply);
    }
    let session = login(&script).await.expect("login");
    (script, session)
}

async fn issue_fails(reply: Reply) -> SourceError {
    let (_script, session) = session(vec![reply]).await;
    let source = session.dynamic_role("database", "app");
    let e = source.issue().await.expect_err("a fault");
    let shown = format!("{e} {e:?}");
    assert!(shown.contains("database/creds/app"), "{shown}");
    assert!(!shown.contains("must-not-leak"), "{shown}");
    e
}

#[tokio::test]
async fn a_malformed_answer_is_called_that_and_never_repeated() {
    for body in [
        "",
        "not json",
        "[]",
        "{}",
        r#"{"lease_duration":60,"data":{"username":"u","password":"pw-that-must-not-leak"}}"#,
        r#"{"lease_id":"database/creds/app/x","lease_duration":60,"data":{"username":"u"}}"#,
        r#"{"lease_id":"database/creds/app/x","lease_duration":"pw-that-must-not-leak"}"#,
        r#"{"lease_id":"database/creds/app/x","lease_duration":-4,"data":null}"#,
    ] {
        let e = issue_fails(Reply::json(200, body)).await;
        assert_eq!(e.kind(), ErrorKind::Malformed, "{body}: {e}");
    }
}

#[tokio::test]
async fn a_lease_of_zero_seconds_is_malformed_and_given_back() {
    let body = r#"{"lease_id":"database/creds/app/zero","renewable":true,"lease_duration":0,
                   "data":{"username":"u","password":"pw-that-must-not-leak"}}"#;
    let (script, session) = session(vec![Reply::json(200, body)]).await;
    let source = session.dynamic_role("database", "app");
    let e = source.issue().await.expect_err("a fault");
    assert_eq!(e.kind(), ErrorKind::Malformed);
    assert!(e.to_string().contains("lease_duration"), "{e}");
    let sent = script.requests("sys/leases/revoke");
    assert_eq!(sent.len(), 1);
    assert!(sent[0].contains("database/creds/app/zero"), "{}", sent[0]);
}

/// They go into logs, and into a startup message whose fields end at a NUL.
#[tokio::test]
async fn a_login_with_control_characters_is_malformed_and_given_back() {
    for (username, password, named) in [
        (r"v-app\nERROR forged", "pw-that-must-not-leak", "username"),
        (r"v-app\u0000options", "pw-that-must-not-leak", "username"),
        ("v-app", r"pw-that-must-not-leak\u0000", "password"),
    ] {
        let body = format!(
            r#"{{"lease_id":"database/creds/app/odd","renewable":true,"lease_duration":60,
                "data":{{"username":"{username}","password":"{password}"}}}}"#
        );
        let (script, session) = session(vec![Reply::json(200, body)]).await;
        let e = session.dynamic_role("database", "app").issue().await.expect_err("a fault");
        assert_eq!(e.kind(), ErrorKind::Malformed);
        let shown = format!("{e} {e:?}");
        assert!(shown.contains(named) && !shown.contains("must-not-leak"), "{shown}");
        assert_eq!(script.requests("sys/leases/revoke").len(), 1, "{named}");

        let body = format!(r#"{{"data":{{"username":"{username}","password":"{password}"}}}}"#);
        script.answer("database/static-creds/app", Reply::json(200, body));
        let e = session.static_role("database", "app").issue().await.expect_err("a fault");
        assert_eq!(e.kind(), ErrorKind::Malformed);
        assert!(e.to_string().contains(named), "{e}");
    }
}

/// Quotes, SQL and odd bytes are a driver's business, which sends them as values.
#[tokio::test]
async fn an_odd_login_is_taken_as_it_is() {
    let body = r#"{"lease_id":"../../sys/seal?x","renewable":true,"lease_duration":60,
        "data":{"username":"o'x\"; DROP ROLE app; --","password":" p\n\"'\\é "}}"#;
    let (script, session) = session(vec![Reply::json(200, body)]).await;
    script.answer("sys/leases/revoke", Reply::json(204, ""));
    let source = session.dynamic_role("database", "app");
    let issued = source.issue().await.expect("issued");
    assert_eq!(issued.credential.username(), "o'x\"; DROP ROLE app; --");
    assert_eq!(issued.credential.expose_password(), " p\n\"'\\é ");
    // A lease id is a value in a body and never part of a path.
    source.revoke(&issued.lease, RevokeMode::Sync).await.expect("revoked");
    assert!(script.requests("sys/leases/revoke")[0].contains(r#""lease_id":"../../sys/seal?x""#));
    assert!(script.trace().iter().all(|(_, path)| !path.contains("seal")));
}

#[tokio::test]
async fn absurd_times_are_neither_a_panic_nor_a_loop() {
    for (seconds, kind) in [
        ("18446744073709551615", None),
        ("9223372036854775807", None),
        ("3155760000", None),
        ("0", Some(ErrorKind::Malformed)),
        ("-1", Some(ErrorKind::Malformed)),
        ("1.5", Some(ErrorKind::Malformed)),
        ("1e300", Some(ErrorKind::Malformed)),
        ("18446744073709551616", Some(ErrorKind::Malformed)),
    ] {
        let login = |text: &str| {
            format!(
                r#"{{"auth":{{"client_token":"{TOKEN}","lease_duration":{text},
                   "renewable":true,"token_type":"service"}}}}"#
            )
        };
        let script = Script::start().await;
        script.answer("auth/approle/login", Reply::json(200, login(seconds)));
        let outcome = login_kind(&script).await;
        assert_eq!(outcome, kind, "a token of {seconds}");

        script.answer("auth/approle/login", Reply::json(200, login("3600")));
        let session = self::login(&script).await.expect("login");
        let creds = format!(
            r#"{{"lease_id":"database/creds/app/abc","renewable":true,"lease_duration":{seconds},
               "data":{{"username":"u","password":"pw-that-must-not-leak"}}}}"#
        );
        script.answer("database/creds/app", Reply::json(200, creds));
        let renewed = format!(r#"{{"lease_duration":{seconds}}}"#);
        script.answer("sys/leases/renew", Reply::json(200, renewed));
        let source = session.dynamic_role("database", "app");
        match source.issue().await {
            Ok(issued) => {
                assert_eq!(kind, None, "a lease of {seconds}");
                let granted = source.renew(&issued.lease, Duration::MAX).await.expect("renewed");
                assert_eq!(Some(granted), issued.lease.ttl);
            }
            Err(e) => assert_eq!(Some(e.kind()), kind, "a lease of {seconds}: {e}"),
        }
        // What drives leases by such numbers.
        let rotator =
            leasehold::Rotator::builder(source).start_timeout(Duration::from_secs(1)).start().await;
        if let Ok(rotator) = rotator {
            script.answer("sys/leases/revoke", Reply::json(204, ""));
            rotator.shutdown(Duration::from_secs(5)).await;
        }
    }
}

async fn login_kind(script: &Script) -> Option<ErrorKind> {
    login(script).await.err().map(|e| e.kind())
}

#[tokio::test]
async fn i10_a_server_that_says_our_secrets_back_does_not_get_them_into_an_error() {
    let script = Script::start().await;
    let echo = |request: &str| {
        let said = request.replace(['"', '\\', '\r', '\n', '{', '}'], " ");
        Reply::json(400, format!(r#"{{"errors":["not this: {said}"]}}"#))
    };
    script.answer_with("auth/approle/login", echo);
    let e = login(&script).await.expect_err("refused");
    let shown = format!("{e} {e:?}");
    assert!(shown.contains("[redacted]") && !shown.contains("must-not-leak"), "{shown}");

    script.answer("auth/approle/login", login_answer(TOKEN, 3600));
    script.answer_with("database/creds/app", echo);
    let session = login(&script).await.expect("login");
    let e = session.dynamic_role("database", "app").issue().await.expect_err("refused");
    let shown = format!("{e} {e:?}");
    assert!(shown.contains("[redacted]") && !shown.contains("must-not-leak"), "{shown}");
}

#[tokio::test]
async fn an_answer_that_breaks_off_leaves_the_outcome_unknown() {
    let e = issue_fails(Reply::json(200, r#"{"lease_id":"database"#).cut_short()).await;
    assert_eq!(e.kind(), ErrorKind::Timeout);
    assert!(e.to_string().contains("may have been made"), "{e}");
    assert!(e.is_transient());
}

#[tokio::test]
async fn a_connection_closed_without_an_answer_leaves_the_outcome_unknown() {
    let e = issue_fails(Reply::hang_up()).await;
    assert_eq!(e.kind(), ErrorKind::Timeout, "{e}");
}

#[tokio::test]
async fn a_slow_body_is_bounded_by_the_timeout() {
    let (script, session) = session(vec![]).await;
    let slow = Reply::json(200, r#"{"lease_duration":60}"#).stalled();
    script.answer("sys/leases/renew", slow);
    let source = session.dynamic_role("database", "app");
    let lease = Lease::renewable("database/creds/app/abc", Duration::from_secs(60));
    let began = std::time::Instant::now();
    let e = source.renew(&lease, Duration::from_secs(60)).await.expect_err("a fault");
    assert_eq!(e.kind(), ErrorKind::Timeout);
    assert!(began.elapsed() < Duration::from_secs(60));
}

#[tokio::test]
async fn an_oversize_answer_is_refused() {
    for declared in [true, false] {
        let body = format!("{}{{}}", " ".repeat(3 * 1024 * 1024));
        let reply = Reply::json(200, body);
        let reply = if declared { reply } else { reply.undeclared() };
        let e = issue_fails(reply).await;
        assert_eq!(e.kind(), ErrorKind::Malformed);
        assert!(e.to_string().contains("1 MiB"), "{e}");
    }
}

#[tokio::test]
async fn i10_a_redirect_to_another_host_never_carries_the_token() {
    for status in [301, 302, 307, 308] {
        let other = Script::start().await;
        // The same machine, yet another origin: another port.
        let to = format!("{}/v1/database/creds/app", other.address());
        let e = issue_fails(Reply::json(status, "").header("location", &to)).await;
        let expected = if status == 307 { ErrorKind::ServerFault } else { ErrorKind::Other };
        assert_eq!(e.kind(), expected, "{e}");
        assert!(e.to_string().contains(&other.address()), "{e}");
        assert_eq!(other.all_requests(), 0, "nothing is sent to the other host");
    }
}

#[tokio::test]
async fn a_redirect_to_a_configured_host_carries_method_body_and_token() {
    let (standby, active, stranger) =
        (Script::start().await, Script::start().await, Script::start().await);
    let to = |script: &Script, path: &str| format!("{}/v1/{path}", script.address());
    for status in [307, 308] {
        for path in ["auth/approle/login", "sys/leases/renew"] {
            let reply = Reply::json(status, "").header("location", &to(&active, path));
            standby.answer(path, reply);
        }
    }
    active.answer("auth/approle/login", login_answer(TOKEN, 3600));
    active.answer("sys/leases/renew", Reply::json(200, r#"{"lease_duration":42}"#));
    // The way back is open too, a third host's is not.
    let back = Reply::json(307, "").header("location", &to(&standby, "database/creds/app"));
    active.answer("database/creds/app", back);
    let away = Reply::json(307, "").header("location", &to(&stranger, "database/creds/app"));
    standby.answer("database/creds/app", creds_answer());
    standby.answer("database/creds/app", away);

    let config = config(&standby).redirect_to(format!("{}/", active.address()));
    let session = Session::login(config, Auth::approle("role", SECRET_ID)).await.expect("login");
    let sent = active.requests("auth/approle/login");
    assert!(sent[0].starts_with("POST ") && sent[0].contains(SECRET_ID), "{}", sent[0]);

    let source = session.dynamic_role("database", "app");
    let lease = Lease::renewable("database/creds/app/abc", Duration::from_secs(60));
    source.renew(&lease, Duration::from_secs(42)).await.expect("followed");
    let sent = active.requests("sys/leases/renew");
    assert!(sent[0].starts_with("POST ") && sent[0].contains(TOKEN), "{}", sent[0]);
    assert!(sent[0].ends_with(r#"{"lease_id":"database/creds/app/abc","increment":42}"#));

    source.issue().await.expect("the first is served where it was asked");
    let e = source.issue().await.expect_err("a stranger");
    assert_eq!(e.kind(), ErrorKind::ServerFault, "{e}");
    assert!(e.to_string().contains(&stranger.address()), "{e}");
    assert!(e.to_string().contains("redirect_to"), "{e}");
    assert_eq!(stranger.all_requests(), 0, "nothing is sent to it");
}

#[tokio::test]
async fn a_redirect_within_the_server_keeps_method_and_body() {
    let (script, session) = session(vec![]).await;
    let there = Reply::json(307, "").header("location", "/v1/moved");
    script.answer("sys/leases/renew", there);
    script.answer("moved", Reply::json(200, r#"{"lease_duration":42}"#));
    let source = session.dynamic_role("database", "app");
    let lease = Lease::renewable("database/creds/app/abc", Duration::from_secs(60));
    let granted = source.renew(&lease, Duration::from_millis(41_001)).await.expect("followed");
    assert_eq!(granted, Duration::from_secs(42));
    let sent = script.requests("moved");
    assert!(sent[0].starts_with("POST "), "{}", sent[0]);
    assert!(sent[0].contains(TOKEN), "{}", sent[0]);
    assert!(sent[0].ends_with(r#"{"lease_id":"database/creds/app/abc","increment":42}"#));
}

#[tokio::test]
async fn a_redirect_loop_ends() {
    let loops = Reply::json(307, "").header("location", "/v1/database/creds/app");
    let e = issue_fails(loops).await;
    assert_eq!(e.kind(), ErrorKind::ServerFault);
}

#[tokio::test]
async fn a_rate_limit_says_when_to_come_back() {
    let reply = Reply::json(429, r#"{"errors":["rate limit quota exceeded"]}"#);
    let e = issue_fails(reply.header("retry-after", "9")).await;
    assert_eq!(e.kind(), ErrorKind::Throttled);
    assert_eq!(e.server_retry_after(), Some(Duration::from_secs(9)));
}

#[tokio::test]
async fn a_rate_limit_may_name_a_date_or_nothing() {
    let quota = || Reply::json(429, r#"{"errors":["rate limit quota exceeded"]}"#);
    let e = issue_fails(quota()).await;
    assert_eq!((e.kind(), e.server_retry_after()), (ErrorKind::Throttled, None));
    let e = issue_fails(quota().header("retry-after", "tomorrow")).await;
    assert_eq!((e.kind(), e.server_retry_after()), (ErrorKind::Throttled, None));

    // On the session's wall clock.
    let script = Script::start().await;
    script.answer("auth/approle/login", login_answer(TOKEN, 3600));
    let date = "Sun, 06 Nov 1994 08:50:07 GMT";
    script.answer("database/creds/app", quota().header("retry-after", date));
    let now = std::time::UNIX_EPOCH + Duration::from_secs(784_111_777);
    let config = config(&script).clock(Clock::with_wall(move || now));
    let session = Session::login(config, Auth::approle("role", SECRET_ID)).await.expect("login");
    let e = session.dynamic_role("database", "app").issue().await.expect_err("throttled");
    assert_eq!(e.server_retry_after(), Some(Duration::from_secs(30)), "{e}");
}

#[tokio::test]
async fn an_answer_that_drips_is_bounded_as_a_whole() {
    let (script, session) = session(vec![]).await;
    // Each byte comes well within any timeout for a single read.
    script.answer("sys/leases/renew", Reply::json(200, "{").dripping());
    let source = session.dynamic_role("database", "app");
    let lease = Lease::renewable("database/creds/app/abc", Duration::from_secs(60));
    let renew = source.renew(&lease, Duration::from_secs(60));
    let e = tokio::time::timeout(Duration::from_secs(60), renew).await.expect("bounded");
    assert_eq!(e.expect_err("a fault").kind(), ErrorKind::Timeout);
}

#[tokio::test]
async fn a_connection_that_is_reset_leaves_the_outcome_unknown() {
    let e = issue_fails(Reply::reset()).await;
    assert_eq!(e.kind(), ErrorKind::Timeout, "{e}");
    assert!(e.to_string().contains("may have been made"), "{e}");
}

#[tokio::test]
async fn a_name_that_does_not_resolve_is_told_from_a_server_that_is_down() {
    // Longer than any label may be: no resolver asks the network about it.
    let address = format!("http://{}.invalid:8200", "a".repeat(70));
    let login = Session::login(VaultConfig::new(&*address), Auth::approle("role", SECRET_ID));
    let e = login.await.expect_err("no such name");
    assert_eq!(e.kind(), ErrorKind::Unreachable, "{e}");
    assert!(e.to_string().contains("can't be resolved"), "{e}");
    assert!(e.to_string().contains(&address), "{e}");
}

#[tokio::test]
async fn a_wrong_certificate_says_what_to_do() {
    let auth = || Auth::approle("role", SECRET_ID);
    let (script, ca) = Script::start_tls().await;
    let (_other, another_ca) = Script::start_tls().await;
    // It is for 127.0.0.1 alone.
    let by_name = script.address().replace("127.0.0.1", "localhost");
    let by_address = script.address();
    // As Go's server does: it answers what it can't read.
    let plain = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let not_tls = format!("https://{}", plain.local_addr().expect("bound"));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = plain.accept().await {
            let _ = stream.write_all(b"HTTP/1.0 400 Bad Request\r\n\r\n").await;
        }
    });
    for (address, ca, words) in [
        (by_address, &another_ca, "VAULT_CACERT"),
        (by_name, &ca, "for another name"),
        (not_tls, &ca, "scheme and port"),
    ] {
        let config = VaultConfig::new(&*address).ca_pem(ca.as_bytes());
        let e = Session::login(config, auth()).await.expect_err("no trust");
        assert_eq!(e.kind(), ErrorKind::Unreachable, "{e}");
        assert!(e.to_string().contains(words), "{e}");
        assert!(e.to_string().contains(&address), "{e}");
    }
    assert_eq!(script.all_requests(), 0, "no secret_id goes to a server that is not trusted");
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named_quickly() {
    let nobody = "http://127.0.0.1:9";
    let began = std::time::Instant::now();
    let e = Session::login(VaultConfig::new(nobody), Auth::approle("role", SECRET_ID))
        .await
        .expect_err("nobody there");
    assert_eq!(e.kind(), ErrorKind::Unreachable);
    assert!(e.to_string().contains(nobody), "{e}");
    assert!(e.to_string().contains("VAULT_ADDR"), "{e}");
    assert!(began.elapsed() < Duration::from_secs(60));
}

#[tokio::test]
async fn a_server_that_never_answers_is_given_up_on_in_time() {
    let script = Script::start().await;
    script.answer("auth/approle/login", Reply::silence());
    let e = login(&script).await.expect_err("no answer");
    assert_eq!(e.kind(), ErrorKind::Timeout, "{e}");
}

#[tokio::test]
async fn over_tls_only_the_given_authority_is_trusted() {
    let (script, ca) = Script::start_tls().await;
    script.answer("auth/approle/login", login_answer(TOKEN, 3600));
    let auth = || Auth::approle("role", SECRET_ID);
    let config = VaultConfig::new(script.address());
    Session::login(config.clone().ca_pem(ca), auth()).await.expect("trusted");
    assert_eq!(script.all_requests(), 1);

    let (_, another_ca) = Script::start_tls().await;
    for config in [config.clone(), config.ca_pem(another_ca)] {
        let e = Session::login(config, auth()).await.expect_err("not trusted");
        assert_eq!(e.kind(), ErrorKind::Unreachable, "{e}");
        assert!(e.to_string().contains("certificate"), "{e}");
    }
    assert_eq!(script.all_requests(), 1, "no secret_id goes to a server that is not trusted");
}

#[tokio::test]
async fn a_server_that_speaks_no_tls_is_named() {
    let script = Script::start().await;
    let address = script.address().replace("http:", "https:");
    let config = VaultConfig::new(address.as_str()).request_timeout(Duration::from_millis(600));
    let login = Session::login(config, Auth::approle("role", SECRET_ID));
    let e = login.await.expect_err("no TLS there");
    assert_eq!(e.kind(), ErrorKind::Unreachable, "{e}");
    assert!(e.to_string().contains(&address), "{e}");
    assert_eq!(script.all_requests(), 0);
}

#[tokio::test]
async fn settings_that_can_not_work_are_named() {
    let namespace = VaultConfig::new("http://127.0.0.1:1").namespace("a b");
    let ca = VaultConfig::new("https://127.0.0.1:1").ca_pem(*b"no pem");
    for (config, words) in [
        (VaultConfig::new(""), "is empty"),
        (VaultConfig::new("vault.internal"), "is not a URL"),
        (VaultConfig::new("localhost:8200"), "write https:// in front"),
        (VaultConfig::new("ftp://vault:8200"), "use https://"),
        (VaultConfig::new("http://u:pw-that-must-not-leak@v:1"), "user name or password"),
        (VaultConfig::new("http://v:1/?x=1"), "query"),
        (namespace, "namespace"),
        (VaultConfig::new("https://v:1").redirect_to("http://v-2:1"), "use https:// for all"),
        (VaultConfig::new("https://v:1").redirect_to("v-2"), "redirect_to"),
        (ca, "ca_pem"),
    ] {
        let e = Session::login(config, Auth::token("t")).await.expect_err(words);
        assert!(e.to_string().contains(words), "{e}");
        assert!(!e.is_transient());
        assert!(!format!("{e:?}").contains("must-not-leak"));
    }
    for auth in [Auth::token(" \n"), Auth::token("a\u{e4}b")] {
        let e = Session::login(VaultConfig::new("http://127.0.0.1:1"), auth).await;
        assert!(e.expect_err("no token").to_string().contains("auth.token"));
    }
}

#[tokio::test]
async fn an_api_below_a_path_and_a_namespace_are_reached() {
    let script = Script::start().await;
    script.answer("auth/approle/login", login_answer(TOKEN, 3600));
    script.answer("team/db/creds/app", creds_answer());
    let config = VaultConfig::new(format!("{}/behind/a/proxy/", script.address()));
    let auth = Auth::approle("role", SECRET_ID);
    let session = Session::login(config.namespace("/team1/"), auth).await.expect("login");
    let issued = session.dynamic_role("/team/db/", "app").issue().await.expect("issue");
    assert_eq!(issued.credential.username(), "v-app-1");
    let sent = script.requests("team/db/creds/app");
    assert!(sent[0].starts_with("GET /behind/a/proxy/v1/team/db/creds/app "), "{}", sent[0]);
    assert!(sent[0].contains("x-vault-namespace: team1\r\n"), "{}", sent[0]);
}

#[tokio::test]
async fn i7_many_calls_that_find_the_token_dead_share_one_login() {
    let (script, session) = session(vec![]).await;
    script.answer("auth/approle/login", login_answer("s.second", 3600));
    script.answer_with("database/creds/app", |request| {
        if request.contains("s.second") {
            creds_answer()
        } else {
            Reply::json(403, r#"{"errors":["permission denied"]}"#)
        }
    });
    let source = std::sync::Arc::new(session.dynamic_role("database", "app"));
    let calls: Vec<_> = (0..20)
        .map(|_| {
            tokio::spawn({
                let source = source.clone();
                async move { source.issue().await }
            })
        })
        .collect();
    for call in calls {
        call.await.expect("join").expect("issued with the second token");
    }
    let counts = session.calls();
    assert_eq!(counts.login, 2, "{counts:?}");
    assert_eq!(counts.issue, 40, "{counts:?}");
}

#[tokio::test]
async fn a_token_that_is_dead_again_at_once_is_lost_and_not_retried_for_ever() {
    let dead = Reply::json(403, r#"{"errors":["permission denied"]}"#);
    let (_script, session) = session(vec![dead]).await;
    let source = session.dynamic_role("database", "app");
    let e = source.issue().await.expect_err("dead twice");
    assert_eq!(e.kind(), ErrorKind::TokenLost);
    let counts = session.calls();
    assert_eq!((counts.login, counts.issue), (2, 2), "{counts:?}");
}

#[tokio::test]
async fn i6_a_server_that_is_down_when_the_token_dies_is_a_passing_fault() {
    let dead = Reply::json(403, r#"{"errors":["permission denied"]}"#);
    let (script, session) = session(vec![dead]).await;
    let sealed = Reply::json(503, r#"{"errors":["Vault is sealed"]}"#);
    script.answer("auth/approle/login", sealed);
    let source = session.dynamic_role("database", "app");
    let e = source.issue().await.expect_err("sealed");
    assert_eq!(e.kind(), ErrorKind::Sealed, "{e}");
    // And it comes back by itself, without anybody asking.
    script.answer("auth/approle/login", login_answer("s.second", 3600));
    common::until(|| session.token_state().lost.is_none()).await;
    assert_eq!(session.token_state().login, 2);
}

#[tokio::test]
async fn a_login_refused_for_good_is_not_hammered() {
    let dead = Reply::json(403, r#"{"errors":["permission denied"]}"#);
    let (script, session) = session(vec![dead]).await;
    let refused = Reply::json(400, r#"{"errors":["invalid role or secret ID"]}"#);
    script.answer("auth/approle/login", refused);
    let source = session.dynamic_role("database", "app");
    for _ in 0..50 {
        let e = source.issue().await.expect_err("refused");
        assert_eq!(e.kind(), ErrorKind::TokenLost, "{e}");
        assert!(e.to_string().contains("check role_id and secret_id"), "{e}");
    }
    assert_eq!(session.calls().login, 2);
    let lost = session.token_state().lost.expect("lost");
    assert!(lost.contains("secret_id"), "{lost}");
}

#[tokio::test]
async fn revoking_asks_for_the_mode_that_is_wanted() {
    let (script, session) = session(vec![]).await;
    script.answer("sys/leases/revoke", Reply::json(204, ""));
    let source = session.dynamic_role("database", "app");
    let lease = Lease::renewable("database/creds/app/abc", Duration::from_secs(60));
    source.revoke(&lease, RevokeMode::Sync).await.expect("revoked");
    source.revoke(&lease, RevokeMode::Queued).await.expect("queued");
    source.revoke(&Lease::endless(), RevokeMode::Sync).await.expect("nothing to revoke");
    let sent = script.requests("sys/leases/revoke");
    assert!(sent[0].ends_with(r#"{"lease_id":"database/creds/app/abc","sync":true}"#));
    assert!(sent[1].ends_with(r#"{"lease_id":"database/creds/app/abc","sync":false}"#));
    assert_eq!(sent.len(), 2);
}

#[tokio::test]
async fn i9_a_login_whose_caller_went_away_gives_its_token_back() {
    let script = Script::start().await;
    script
        .answer("auth/approle/login", login_answer(TOKEN, 3600).after(Duration::from_millis(200)));
    let cut = tokio::time::timeout(Duration::from_millis(50), login(&script)).await;
    assert!(cut.is_err(), "cancelled");
    common::until(|| !script.requests("auth/token/revoke-self").is_empty()).await;
    assert!(script.requests("auth/token/revoke-self")[0].contains(TOKEN));
}

#[tokio::test]
async fn health_tells_a_quota_from_a_standby() {
    let (script, session) = session(vec![]).await;
    let standby = r#"{"initialized":true,"sealed":false,"standby":true,"version":"2.7.2"}"#;
    script.answer("sys/health", Reply::json(429, standby));
    let health = session.health().await;
    assert_eq!((health.standby, health.sealed), (Some(true), Some(false)));
    assert_eq!(health.version.as_deref(), Some("2.7.2"));
    let quota = r#"{"errors":["request path \"sys/health\": rate limit quota exceeded"]}"#;
    script.answer("sys/health", Reply::json(429, quota));
    let health = session.health().await;
    assert!(health.reachable && health.standby.is_none() && health.error.is_some());
    assert!(script.requests("sys/health").iter().all(|r| !r.contains(TOKEN)));
}

/// Time, a good server, and a session on it whose logins may take a minute.
async fn patient(change: impl FnOnce(VaultConfig) -> VaultConfig) -> (Sim, GoodVault, Session) {
    let s = Duration::from_secs;
    let sim = Sim::start();
    let vault = GoodVault::start(s(3600), s(100_000), s(36_000)).await;
    let config = VaultConfig::new(vault.script.address()).request_timeout(s(60)).clock(sim.clock());
    let auth = Auth::approle("role", SECRET_ID);
    let session = sim.finish(Session::login(change(config), auth)).await.expect("login");
    sim.watch(&session);
    (sim, vault, session)
}

#[tokio::test(start_paused = true)]
async fn i7_a_login_that_hangs_does_not_keep_a_mint_waiting() {
    let (sim, vault, session) = patient(|config| config).await;
    vault.fail_with(ISSUE, Reply::json(403, BARE), FIRST_TOKEN);
    vault.fail(LOGIN, Reply::silence());
    let source = session.dynamic_role("database", "app");
    let began = sim.elapsed();
    let e = sim.finish(source.issue()).await.expect_err("no token");
    let took = (sim.elapsed() - began).as_secs();
    assert!((25..27).contains(&took), "{took} s: {e}");
    assert_eq!(e.kind(), ErrorKind::Timeout, "{e}");
    assert!(e.to_string().contains("still logging in"), "{e}");
    assert!(!e.may_have_issued(), "nothing was asked for");
    let e = sim.finish(source.issue()).await.expect_err("no token yet");
    assert!(!e.may_have_issued() && e.is_transient(), "{e}");
    assert_eq!((vault.asked(ISSUE), vault.asked(LOGIN)), (1, 2), "one login for all who wait");

    // It goes on with nobody waiting for it.
    vault.mend();
    sim.until(Duration::from_secs(120), || session.token_state().login == 2).await;
    sim.finish(source.issue()).await.expect("issued with the next token");
}

#[tokio::test(start_paused = true)]
async fn i7_a_mint_that_waited_for_its_token_still_ends_within_two_minutes() {
    let (sim, vault, session) = patient(|config| config).await;
    vault.fail_with(ISSUE, Reply::json(403, BARE), FIRST_TOKEN);
    vault.fail(ISSUE, Reply::silence());
    vault.fail(LOGIN, login_answer("s.second", 36_000).after(Duration::from_secs(20)));
    let source = session.dynamic_role("database", "app");
    let began = sim.elapsed();
    let e = sim.finish(source.issue()).await.expect_err("no answer");
    let took = (sim.elapsed() - began).as_secs();
    assert!((119..=120).contains(&took), "{took} s: {e}");
    assert!(e.kind() == ErrorKind::Timeout && e.may_have_issued(), "{e}");
    assert_eq!((vault.asked(ISSUE), vault.asked(LOGIN)), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn i7_a_token_found_dead_late_is_not_followed_by_a_second_mint() {
    let (sim, vault, session) = patient(|config| config).await;
    let dead = Reply::json(403, BARE);
    vault.fail_with(ISSUE, dead.clone().after(Duration::from_secs(30)), FIRST_TOKEN);
    let source = session.dynamic_role("database", "app");
    let e = sim.finish(source.issue()).await.expect_err("dead");
    assert!(!e.may_have_issued(), "{e}");
    assert!(e.is_transient(), "another token is on its way: {e}");
    assert_eq!(vault.asked(ISSUE), 1, "{e}");
    sim.until(Duration::from_secs(10), || session.token_state().login == 2).await;

    // Dead in time: one more try, and no third.
    vault.fail(ISSUE, dead);
    let e = sim.finish(source.issue()).await.expect_err("dead twice");
    assert_eq!(e.kind(), ErrorKind::TokenLost, "{e}");
    assert_eq!((vault.asked(ISSUE), vault.asked(LOGIN)), (3, 3), "{e}");
}

#[tokio::test(start_paused = true)]
async fn i7_a_rate_limit_holds_no_mint_back_for_longer_than_a_mint_may_take() {
    let (sim, vault, session) = patient(|config| config.rate_limit(0.02, 1)).await;
    let source = session.dynamic_role("database", "app");
    let e = sim.finish(source.issue()).await.expect_err("too soon");
    assert_eq!(e.kind(), ErrorKind::Throttled, "{e}");
    assert!(e.to_string().contains("rate_limit"), "{e}");
    assert_eq!(vault.asked(ISSUE), 0);
    let after = e.server_retry_after().expect("says when");
    sim.pass(after).await;
    sim.finish(source.issue()).await.expect("its turn came, as none was used up in vain");
}
