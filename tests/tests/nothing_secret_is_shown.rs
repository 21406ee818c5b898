//! I10: a rotation with both hooks, and what goes wrong with them, with all logs at TRACE, all
//! public types formatted, and all errors told with their causes: held against the list of secrets
//! that the Vault server itself issued. A program of its own, as it hears all that is logged.

#![allow(clippy::unwrap_used)]

use std::fmt::Debug;
use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use leasehold::{
    Chain, Credential, CredentialSource, FileSource, FnSource, Issued, Lease, Rotator, SourceError,
    StaticSource, once,
};
use leasehold_testkit::Stack;
use leasehold_tests::*;
use leasehold_vault::{Auth, SecretId, Session, VaultConfig};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use tokio_postgres::NoTls;

/// Everything shown so far: log lines, Debug and Display output.
#[derive(Clone, Default)]
struct Shown(Arc<Mutex<Vec<u8>>>);

impl Write for Shown {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Shown {
    fn value(&self, value: &dyn Debug) {
        writeln!(self.clone(), "shown: {value:?} {value:#?}").unwrap();
    }

    /// With all that lies beneath, in both forms.
    fn error(&self, error: &(dyn std::error::Error + 'static)) {
        let mut next = Some(error);
        while let Some(error) = next {
            writeln!(self.clone(), "error: {error} {error:?} {error:#?}").unwrap();
            next = error.source();
        }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

/// As text, as a list of bytes, percent-encoded, and in base64.
fn spellings(secret: &str) -> Vec<String> {
    let bytes: Vec<_> = secret.bytes().map(|byte| byte.to_string()).collect();
    let encoded = secret.replace('%', "%25").replace('/', "%2F").replace('@', "%40");
    let mut all = vec![secret.to_owned(), bytes.join(", "), encoded];
    // Of `user:secret` too, whoever the user is: what is before it moves it by none to two bytes,
    // and shares a character with it. So does what comes after.
    for before in 0..3 {
        let bytes = [&[0; 2][..before], secret.as_bytes()].concat();
        let whole = (before * 8).div_ceil(6)..bytes.len() * 8 / 6;
        for alphabet in [STANDARD_NO_PAD, URL_SAFE_NO_PAD] {
            all.push(alphabet.encode(&bytes)[whole.clone()].to_owned());
        }
    }
    all
}

#[test]
fn a_secret_is_known_in_base64_alone_and_after_a_user() {
    let secret = "o>e?5e4dc3b2\u{ff}~";
    for before in ["", "a:", "ab:", "app:", "user:"] {
        for after in ["", "\n", "@x"] {
            let text = format!("{before}{secret}{after}");
            for shown in [STANDARD.encode(&text), URL_SAFE.encode(&text)] {
                assert!(spellings(secret).iter().any(|s| shown.contains(s)), "{text:?}: {shown}");
            }
            let other = STANDARD.encode(format!("{before}another-one-5e4dc3{after}"));
            assert!(!spellings(secret).iter().any(|s| other.contains(s)), "{other}");
        }
    }
}

#[tokio::test]
async fn i10_no_secret_is_in_logs_debug_output_errors_or_panics_of_both_hooks() {
    let shown = Shown::default();
    let to = shown.clone();
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(move || to.clone())
        .init();
    let to = shown.clone();
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        writeln!(to.clone(), "panic: {info}").unwrap();
        usual(info);
    }));

    let stack = Stack::builder().audit_raw().start().await.unwrap();
    let db = database(&stack, "shown", 3600, 7200).await;
    let mut secrets: Vec<String> = Vec::new();
    let mut made_up = |name: &str| {
        let secret = format!("made-up-{name}-5e4dc3b2a1");
        secrets.push(secret.clone());
        secret
    };

    // A rotation from the login to the shutdown, with both pools.
    let secret_id = db.secret_id().await.unwrap();
    let auth = Auth::approle(db.role_id(), secret_id.as_str());
    let config = VaultConfig::new(db.vault_addr());
    shown.value(&(&auth, &config));
    let session = Session::login(config, auth).await.unwrap();
    let source = session.dynamic_role(db.mount(), db.role());
    shown.value(&(&session, &source, session.token_state(), session.calls()));
    let patience = Duration::from_secs(60);
    let to = shown.clone();
    let builder = Rotator::builder(source).start_timeout(patience).observer(move |event| {
        writeln!(to.clone(), "event: {}", serde_json::to_string(event).unwrap()).unwrap();
    });
    shown.value(&builder);
    let rotator = builder.start().await.unwrap();
    let provider = rotator.provider();
    let mut events = provider.events();
    let mut subscription = provider.subscribe();
    shown.value(&subscription.latest());
    shown.value(&(&rotator, &provider, &subscription));
    shown.value(&provider.current().credential());
    shown.value(&provider.current().lease());
    let base = PgConnectOptions::new_without_pgpass();
    let base = base.host(db.pg_host()).port(db.pg_port()).database(db.name());
    let installer = leasehold_sqlx::Installer::new().connect_timeout(patience);
    shown.value(&installer);
    let options = PgPoolOptions::new().max_connections(2).acquire_timeout(patience);
    let (hooks, _) = installer.clone().hooks(&provider, options.clone());
    shown.value(&hooks);
    let sqlx = installer.connect(&provider, options.clone(), base.clone()).await.unwrap();
    let installer = leasehold_deadpool::Installer::new().connect_timeout(patience);
    shown.value(&installer);
    let deadpool =
        installer.connect(&provider, db.pg_config(), NoTls, |b| b.max_size(2)).await.unwrap();
    let pooled = deadpool.get().await.unwrap();
    shown.value(&(&sqlx, &deadpool, &*pooled));
    drop(pooled);
    rotator.rotate();
    let refreshed = provider.refused(1).await;
    shown.value(&refreshed);
    revoked(&mut events, 1).await;
    sqlx::query("SELECT v FROM accounts").execute(&sqlx).await.unwrap();
    deadpool.get().await.unwrap().query("SELECT v FROM accounts", &[]).await.unwrap();
    shown.value(&provider.health());
    shown.value(&serde_json::to_string(&provider.health()).unwrap());

    // What Postgres refuses, through each hook: the login behind their backs, and a query.
    let error = sqlx::query("SELECT 1 FROM nowhere").execute(&sqlx).await.unwrap_err();
    leasehold_sqlx::report(&provider, &error);
    shown.error(&error);
    let error =
        deadpool.get().await.unwrap().query("SELECT 1 FROM nowhere", &[]).await.unwrap_err();
    shown.error(&error);
    let refused = Rotator::builder(StaticSource::new("nobody", made_up("wrong-password")));
    let refused = refused.start().await.unwrap();
    let error = leasehold_sqlx::connect(&refused.provider(), options.clone(), base.clone()).await;
    shown.error(&error.unwrap_err());
    let config = db.pg_config();
    let error = leasehold_deadpool::connect(&refused.provider(), config, NoTls, |b| b).await;
    shown.error(&error.map(drop).unwrap_err());
    let nobodys = refused.provider();
    let lazy = leasehold_sqlx::connect_lazy(&nobodys, options.clone(), base.clone()).unwrap();
    shown.error(&leasehold_sqlx::acquire(&lazy, &nobodys).await.unwrap_err());
    // TLS where there is none, and nobody at the door.
    let tls = base.clone().ssl_mode(sqlx::postgres::PgSslMode::Require);
    let error = leasehold_sqlx::connect(&provider, options.clone(), tls).await;
    shown.error(&error.unwrap_err());
    let short = PgPoolOptions::new().acquire_timeout(Duration::from_secs(1));
    let error = leasehold_sqlx::connect(&provider, short, base.clone().port(1)).await;
    shown.error(&error.unwrap_err());
    let mut nobody = db.pg_config();
    nobody.port(1);
    let error = leasehold_deadpool::connect(&provider, nobody, NoTls, |b| b).await;
    shown.error(&error.map(drop).unwrap_err());

    // Sources and logins that hold secrets of their own, and a source that panics with one.
    let password = made_up("password");
    let url = format!("postgres://app:{password}@localhost/db");
    let credential = Credential::from_url(&url).unwrap();
    shown.value(&(&credential, &Issued::new(credential.clone(), Lease::endless())));
    shown.error(&Credential::from_url(&format!("postgres://app:{password}@[x/db")).unwrap_err());
    shown.error(&Credential::from_url(&format!("https://app:{password}@x/db")).unwrap_err());
    let fixed = || StaticSource::new("app", password.as_str());
    let chain = Chain::new(FileSource::new("/nowhere/at/all"), fixed());
    shown.value(&(&fixed(), &chain, chain.issue().await.unwrap()));
    let login = once(fixed()).await.unwrap();
    shown.value(&login);
    shown.value(&login.end().await);
    let spills = made_up("in-a-panic");
    let source = FnSource::new("panics", move || {
        let spills = spills.clone();
        async move {
            // What the source shows by its own panic is its own doing, not what is made of it.
            std::panic::resume_unwind(Box::new(spills));
            #[allow(unreachable_code)]
            Err(SourceError::unreachable("never"))
        }
    });
    shown.value(&source);
    shown.error(&Rotator::builder(source).start().await.unwrap_err());
    for text in [r#"{"username":"app","password":"SECRET""#, "SECRET", "PGPASSWORD=SECRET\nx"] {
        let path = std::env::temp_dir().join(format!("leasehold-shown-{}", std::process::id()));
        std::fs::write(&path, text.replace("SECRET", &password)).unwrap();
        shown.error(&FileSource::new(&path).issue().await.unwrap_err());
        std::fs::remove_file(&path).unwrap();
    }

    // Ways to log in, and settings, with secrets where they belong and where they do not.
    for auth in [
        Auth::token(made_up("token")),
        Auth::approle("role", SecretId::wrapped(made_up("wrapping-token"))),
        Auth::userpass("app", made_up("userpass")),
    ] {
        shown.value(&auth);
        let here = VaultConfig::new(db.vault_addr());
        shown.error(&Session::login(here, auth).await.unwrap_err());
    }
    let address = format!("http://app:{}@127.0.0.1:8200", made_up("in-the-address"));
    let config = VaultConfig::new(address);
    shown.value(&config);
    let token = || Auth::token("not-a-token-at-all");
    shown.error(&Session::login(config, token()).await.unwrap_err());
    let proxy = format!("http://app:{}@127.0.0.1:1", made_up("of-the-proxy"));
    let config = VaultConfig::new("http://vault.invalid:8200").proxy(proxy);
    shown.value(&config);
    shown.error(&Session::login(config, token()).await.unwrap_err());

    assert!(rotator.shutdown(Duration::from_secs(10)).await.is_clean());
    let _ = refused.shutdown(Duration::from_secs(1)).await;

    secrets.extend(stack.secrets_issued().await.unwrap());
    let text = shown.text();
    for heard in ["shown: ", "error: ", "sqlx", "tokio_postgres", "hyper", "credential issued"] {
        assert!(text.contains(heard), "it listens: nothing of {heard:?}");
    }
    assert!(secrets.iter().any(|s| s.starts_with("s.")), "tokens of the server's own list");
    let mut found = Vec::new();
    for secret in secrets.iter().filter(|secret| secret.len() >= 6) {
        for spelling in spellings(secret) {
            found.extend(text.lines().filter(|line| line.contains(&spelling)).take(3));
        }
    }
    assert!(found.is_empty(), "secrets are shown:\n{}", found.join("\n"));
}
