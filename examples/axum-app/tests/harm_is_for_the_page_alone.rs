//! The demo's buttons, pressed without a browser.
#![allow(clippy::unwrap_used)]

mod common;

use std::cell::Cell;
use std::process::Command;

use axum::http::StatusCode;
use common::program::Program;
use common::stream::{Stream, ask, send};
use common::{database, until};
use leasehold_testkit::{TokenSpec, shared};
use rustix::process::Signal;

const DEMO: &str = env!("CARGO_BIN_EXE_demo");

/// Of logins that live for so long that no rotation is due.
fn long_lives() -> Command {
    let mut command = Command::new(DEMO);
    command.args(["--lives", "1h"]);
    command
}

async fn demo(mut command: Command) -> (Program, String) {
    let start = move || {
        let mut demo = Program::start(&mut command);
        demo.wait_for("the page is at");
        let url = demo.url();
        (demo, url)
    };
    tokio::task::spawn_blocking(start).await.unwrap()
}

async fn end(mut demo: Program) -> (std::process::ExitStatus, String) {
    demo.signal(Signal::INT);
    tokio::task::spawn_blocking(move || (demo.end(), demo.said())).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_press_needs_the_page_and_what_fails_from_it_is_told_apart() {
    let (demo, url) = demo(long_lives()).await;
    let mut stream = Stream::of(send(&url, "GET", "/events", &[]).await);
    let (_, hello) = stream.next().await.unwrap();
    let token = hello["buttons"]["token"].as_str().unwrap().to_owned();
    let token = ("x-harm-token", &*token);
    let revoke = "/harm/revoke-lease";

    // From elsewhere: no token, another site, a name of theirs for our address, a link.
    for headers in [
        &[][..],
        &[("origin", "http://evil.example"), token][..],
        &[("host", "evil.example"), ("origin", "http://evil.example"), token][..],
    ] {
        let (status, said) = ask(&url, "POST", revoke, headers).await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{headers:?}: {said}");
    }
    let (status, _) = ask(&url, "GET", revoke, &[token]).await;
    assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
    let (status, _) = ask(&url, "POST", "/harm/format-disk", &[token]).await;
    assert_eq!(status, StatusCode::NOT_FOUND);

    // From the page.
    let (status, said) = ask(&url, "POST", revoke, &[("origin", &url), token]).await;
    assert_eq!(status, StatusCode::OK, "{said}");
    assert_eq!(said["done"], "You revoked the lease from outside.");
    stream.until("entry", |e| (e["kind"] == "harm").then_some(())).await;
    let reason = stream
        .until("lane", |l| {
            (l["stage"] == "current" && l["generation"] != 1).then(|| l["reason"].clone())
        })
        .await;
    assert!(
        ["session_revoked", "login_rejected", "lease_lost"].iter().any(|r| reason == *r),
        "{reason}"
    );

    let (status, said) = end(demo).await;
    assert!(status.success(), "{status}\n{said}");
    assert!(said.contains("after you revoked the lease from outside: "), "{said}");
    assert!(said.contains("nothing is left"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_harm_is_survived_and_mended() {
    let (demo, url) = demo(long_lives()).await;
    let mut stream = Stream::of(send(&url, "GET", "/events", &[]).await);
    let (_, hello) = stream.next().await.unwrap();
    let token = hello["buttons"]["token"].as_str().unwrap().to_owned();
    let press = async |deed: &str| {
        let path = format!("/harm/{deed}");
        let (status, said) = ask(&url, "POST", &path, &[("x-harm-token", &token)]).await;
        assert_eq!(status, StatusCode::OK, "{deed}: {said}");
    };
    // What lasts: the page says so, and is well again once it is mended.
    for deed in ["seal-vault", "pause-vault"] {
        press(deed).await;
        let away = |s: &serde_json::Value| {
            let vault = &s["vault"];
            (vault["sealed"] == true || vault["reachable"] == false).then_some(())
        };
        stream.until("sample", away).await;
        press("mend").await;
        stream.until("sample", |s| (s["vault"]["sealed"] == false).then_some(())).await;
    }
    // What is over at once: queries are answered again, by another login or the same.
    let generation = Cell::new(1);
    for deed in ["drop-role", "kill-token", "restart-postgres"] {
        press(deed).await;
        if deed != "restart-postgres" {
            // None is due: another one is the deed's.
            let another = |l: &serde_json::Value| {
                let number = l["generation"].as_u64()?;
                (l["stage"] == "current" && number > generation.get()).then_some(number)
            };
            generation.set(stream.until("lane", another).await);
        }
        let (_, health) = until("it is ready", async || {
            let answer = ask(&url, "GET", "/health/ready", &[]).await;
            let state = &answer.1["credentials"]["state"];
            (answer.0 == StatusCode::OK && state == "ready").then_some(answer)
        })
        .await;
        until("queries are answered", async || {
            (ask(&url, "GET", "/accounts/1", &[]).await.0 == StatusCode::OK).then_some(())
        })
        .await;
        assert!(health["vault"]["token"]["lost"].is_null(), "{deed}: {health}");
    }
    // Left broken: the demo mends what it judges.
    press("seal-vault").await;
    let (status, said) = end(demo).await;
    assert!(status.success(), "{status}\n{said}");
    for deed in ["sealed Vault", "paused Vault", "dropped the role", "killed the token"] {
        assert!(said.contains(&format!("after you {deed}: ")), "{deed}\n{said}");
    }
    assert!(said.contains("nothing is left"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn on_servers_of_others_there_are_no_buttons() {
    let db = database(shared().await.unwrap(), "others", 60, 600).await;
    let mut command = Command::new(DEMO);
    command
        .env_clear()
        .env("VAULT_ADDR", db.vault_addr())
        .env("VAULT_TOKEN", db.token(TokenSpec::new()).await.unwrap().token)
        .env("DB_MOUNT", db.mount())
        .env("ROLE", db.role())
        .env("PG_HOST", db.pg_host())
        .env("PG_PORT", db.pg_port().to_string())
        .env("PG_DB", db.name())
        .arg("--external");
    let (demo, url) = demo(command).await;
    let mut stream = Stream::of(send(&url, "GET", "/events", &[]).await);
    let (_, hello) = stream.next().await.unwrap();
    assert!(hello["buttons"].is_null(), "{hello}");
    let (status, _) = ask(&url, "POST", "/harm/seal-vault", &[]).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    let (status, said) = end(demo).await;
    assert!(status.success(), "{status}\n{said}");
}
