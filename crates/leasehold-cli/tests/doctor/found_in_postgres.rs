//! Set-ups that are broken in Postgres, or on the way there.

use std::time::Duration;

use leasehold_testkit::{
    DatabaseSpec, Direction, PostgresShutdown, RoleSpec, Stack, Toxic, eventually,
};

use crate::run::{Doctor, assert_nothing_left, created_by, database, own_stack, with_table};

const MEMBER: &str = r#"CREATE ROLE "{{name}}" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}' IN ROLE "{{group}}""#;

#[tokio::test]
async fn postgres_is_down() {
    let stack = own_stack().await;
    let db = stack.database("down").await.unwrap();
    let doctor = Doctor::of(&db).await;
    stack.stop_postgres(PostgresShutdown::Fast).await.unwrap();
    let report = doctor.fails_at("postgres-address", "PGPORT").await;
    report.is("issue", "skipped");
    report.is("logout", "ok");
}

#[tokio::test]
async fn vault_does_not_reach_postgres() {
    let stack = leasehold_testkit::shared().await.unwrap();
    let proxy = stack.postgres_proxy().await.unwrap();
    let db = database(DatabaseSpec::new("cut").postgres_at(proxy.address())).await;
    proxy.inject(Direction::Both, Toxic::Refuse).await;
    let report = Doctor::of(&db).await.fails_at("issue", "connection_url").await;
    report.is("postgres-address", "ok");
}

#[tokio::test]
async fn vault_has_an_old_password() {
    let stack = own_stack().await;
    let db = stack.database("rotated").await.unwrap();
    let doctor = Doctor::of(&db).await;
    let admin = db.admin().await.unwrap();
    let sql = format!("ALTER ROLE {} PASSWORD 'another'", stack.superuser());
    admin.batch_execute(&sql).await.unwrap();
    // The engine may keep a connection open, which still works.
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
         WHERE usename = current_user AND pid <> pg_backend_pid()";
    admin.execute(end, &[]).await.unwrap();
    doctor.fails_at("issue", "password").await;
}

#[tokio::test]
async fn a_database_that_does_not_exist() {
    let db = database("nodb").await;
    let doctor = Doctor::of(&db).await.env("PGDATABASE", "elsewhere");
    doctor.fails_at("postgres-login", "PGDATABASE").await;
    assert_nothing_left(&db).await;
}

#[tokio::test]
async fn vault_makes_its_logins_on_another_server() {
    let (one, other) = (own_stack().await, leasehold_testkit::shared().await.unwrap());
    let role = RoleSpec::new("app").default_ttl(Duration::from_secs(6));
    let db = one.database(DatabaseSpec::new("other").role(role)).await.unwrap();
    let theirs = other.database("other").await.unwrap();
    let doctor = Doctor::of(&db).await.env("PGPORT", theirs.pg_port().to_string());
    let doctor = doctor.env("PGDATABASE", theirs.name());
    let said = doctor.fails_at("postgres-login", "connection_url").await;
    let step = said.step("postgres-login");
    assert!(step["detail"].as_str().unwrap().contains("28P01"), "{step}");
    assert!(step["mend"].as_str().unwrap().contains("--admin-url tells which"), "{step}");
    let doctor = Doctor::of(&db).await.env("PGPORT", theirs.pg_port().to_string());
    let doctor = doctor.env("PGDATABASE", theirs.name()).administrator(&theirs);
    let said = doctor.fails_at("postgres-login", "connection_url").await;
    let step = said.step("postgres-login");
    assert!(!step["mend"].as_str().unwrap().contains("one of"), "{step}");
    assert_nothing_left(&db).await;
}

#[tokio::test]
async fn creation_statements_that_fail() {
    let db = created_by("create", &[&MEMBER.replace("{{group}}", "no_such_group")]).await;
    let report = Doctor::of(&db).await.fails_at("issue", "creation_statements").await;
    assert!(report.step("issue")["detail"].as_str().unwrap().contains("no_such_group"));
    assert_nothing_left(&db).await;
}

#[tokio::test]
async fn a_login_that_lacks_a_right() {
    let bare = MEMBER.split(" IN ROLE").next().unwrap();
    let db = created_by("nogrant", &[bare]).await;
    let needs = "--needs=SELECT, UPDATE ON public.accounts";
    let doctor = || Doctor::of(&db);
    let report = doctor().await.arg(needs).fails_at("privileges", "GRANT SELECT ON").await;
    report.is("revoke", "ok");
    let probe = "--probe=SELECT v FROM accounts WHERE id = 1";
    let report = doctor().await.arg(probe).fails_at("privileges", "grant").await;
    assert!(report.step("privileges")["detail"].as_str().unwrap().contains("42501"));
    // Asked for nothing, it says that there is nothing.
    doctor().await.report().await.is("privileges", "warn");
    doctor().await.arg("--needs=SELECT ON nowhere").fails_at("privileges", "--needs").await;
    assert_eq!(db.leases().await.unwrap().len(), 0);

    let db = created_by("granted", &[MEMBER]).await;
    let doctor = Doctor::of(&db).await.arg(needs).arg("--probe=UPDATE accounts SET v = 7");
    doctor.report().await.is("privileges", "ok");
    let admin = db.admin().await.unwrap();
    let changed = admin.query_one("SELECT count(*) FROM accounts WHERE v = 7", &[]).await.unwrap();
    assert_eq!(changed.get::<_, i64>(0), 0, "the probe is rolled back");
    assert_nothing_left(&db).await;
}

#[tokio::test]
async fn set_role_in_creation_statements() {
    let set_role = r#"ALTER ROLE "{{name}}" SET ROLE "{{group}}""#;
    let db = created_by("setrole", &[MEMBER, set_role]).await;
    let report = Doctor::of(&db).await.fails_at("set-role", "SET ROLE").await;
    assert!(report.step("set-role")["detail"].as_str().unwrap().contains(db.name()));
    assert_nothing_left(&db).await;

    // Where the revocation ends sessions first there is less to fear.
    let role = RoleSpec::new("app").creation([MEMBER, set_role]).terminating_revocation();
    let db = database(DatabaseSpec::new("setended").role(role)).await;
    let report = Doctor::of(&db).await.report().await;
    report.is("set-role", "warn");
    assert_eq!(report.code, Some(0));
}

#[tokio::test]
async fn a_revocation_that_is_blocked() {
    let create = r#"GRANT CREATE ON SCHEMA public TO "{{name}}""#;
    let db = created_by("blocked", &[MEMBER, create]).await;
    let report = Doctor::of(&db).await.fails_at("revoke", "DROP OWNED BY").await;
    let obstacle = report.is("obstacles", "warn")["detail"].as_str().unwrap().to_owned();
    assert!(obstacle.contains("right of its own on schema public"), "{obstacle}");
    let detail = report.step("revoke")["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("cut short"), "{detail}");
    report.is("logout", "ok");
}

#[tokio::test]
async fn a_login_that_owns_something_or_may_come_to() {
    let owns = [MEMBER, "CREATE TABLE mine ()", r#"ALTER TABLE mine OWNER TO "{{name}}""#];
    let db = created_by("owns", &owns).await;
    let report = Doctor::of(&db).await.fails_at("revoke", "owns table mine").await;
    report.is("obstacles", "warn");

    let db = created_by("creates", &[MEMBER]).await;
    let sql = format!("GRANT CREATE ON SCHEMA public TO \"{}\"", db.name());
    db.admin().await.unwrap().batch_execute(&sql).await.unwrap();
    let report = Doctor::of(&db).await.report().await;
    let mend = report.is("obstacles", "warn")["mend"].as_str().unwrap();
    assert!(mend.contains("REVOKE CREATE"), "{mend}");
    report.is("revoke", "ok");
    assert_nothing_left(&db).await;
}

#[tokio::test]
async fn no_valid_until() {
    let forever = MEMBER.replace(" VALID UNTIL '{{expiration}}'", "");
    let db = created_by("forever", &[&forever]).await;
    let report = Doctor::of(&db).await.report().await;
    report.is("valid-until", "warn");
    assert_nothing_left(&db).await;
    let past = MEMBER.replace("{{expiration}}", "2999-01-01 00:00:00+00");
    let db = created_by("late", &[&past]).await;
    Doctor::of(&db).await.report().await.is("valid-until", "warn");
}

#[tokio::test]
async fn a_valid_until_that_is_over_or_comes_too_soon() {
    let role = |sql: &str| RoleSpec::new("app").creation([sql]).default_ttl(Duration::from_secs(8));
    let past = MEMBER.replace("{{expiration}}", "2020-01-01 00:00:00+00");
    let db = database(DatabaseSpec::new("past").role(role(&past))).await;
    let doctor = Doctor::of(&db).await.administrator(&db);
    doctor.fails_at("postgres-login", "VALID UNTIL").await;
    // As a time zone that is dropped makes it.
    let soon = r#"DO $$ BEGIN
        EXECUTE format('ALTER ROLE "{{name}}" VALID UNTIL %L', now() + interval '30 seconds');
    END $$"#;
    let db = created_by("soon", &[MEMBER, soon]).await;
    Doctor::of(&db).await.fails_at("valid-until", "NTP").await;
    assert_nothing_left(&db).await;
}

#[tokio::test]
async fn renew_statements_that_renew_nothing() {
    let role = RoleSpec::new("app").renew(["SELECT 1"]);
    let db = database(DatabaseSpec::new("norenew").role(role)).await;
    Doctor::of(&db).await.fails_at("renew", "renew_statements").await;
    let role = RoleSpec::new("app").renew(["SELECT nonsense"]);
    let db = database(DatabaseSpec::new("badrenew").role(role)).await;
    Doctor::of(&db).await.fails_at("renew", "renew_statements").await;
    assert_nothing_left(&db).await;
}

#[tokio::test]
async fn renewals_that_move_nothing() {
    let minute = Duration::from_secs(60);
    let role = RoleSpec::new("app").default_ttl(minute).max_ttl(minute);
    let db = database(DatabaseSpec::new("equal").role(role)).await;
    let report = Doctor::of(&db).await.report().await;
    let mend = report.is("renew", "warn")["mend"].as_str().unwrap().to_owned();
    assert!(mend.contains("max_ttl"), "{mend}");
    assert_nothing_left(&db).await;
}

#[tokio::test]
async fn a_login_that_goes_late_is_waited_for() {
    // As on a replica that lags: it is taken for a while after its revocation.
    let role = RoleSpec::new("app").revocation(["SELECT 1"]);
    let db = database(DatabaseSpec::new("goeslate").role(role)).await;
    let doctor = Doctor::of(&db).await;
    let admin = db.admin().await.unwrap();
    let goes_late = async {
        let mut name = String::new();
        eventually("it was taken some times", Duration::from_secs(60), async || {
            name = db.logins().await?.pop().unwrap_or_default();
            let taken = format!("connection authorized: user={name} ");
            Ok(!name.is_empty() && db.stack().postgres_log().await?.matches(&taken).count() > 7)
        })
        .await
        .unwrap();
        admin.batch_execute(&format!("ALTER ROLE \"{name}\" NOLOGIN")).await.unwrap();
    };
    let (report, ()) = tokio::join!(doctor.report(), goes_late);
    let mend = report.is("gone", "warn")["mend"].as_str().unwrap().to_owned();
    assert!(mend.contains("replica"), "{mend}");
}

#[tokio::test]
async fn revocation_statements_that_drop_nothing() {
    let role = RoleSpec::new("app").revocation(["SELECT 1"]);
    let db = database(DatabaseSpec::new("nodrop").role(role)).await;
    Doctor::of(&db).await.fails_at("gone", "DROP ROLE").await;
    let role = RoleSpec::new("app").revocation([r#"ALTER ROLE "{{name}}" NOLOGIN"#]);
    let db = database(DatabaseSpec::new("nologin").role(role)).await;
    // Refused it is; only an administrator sees that it is still there.
    assert_eq!(Doctor::of(&db).await.report().await.is("gone", "ok")["id"], "gone");
    Doctor::of(&db).await.administrator(&db).fails_at("gone", "DROP ROLE").await;
}

#[tokio::test]
async fn tls_that_is_not_trusted_or_not_there() {
    let stack = Stack::builder().postgres_tls(true).start().await.unwrap();
    let db = stack.database(with_table("pgtls")).await.unwrap();
    let doctor = async |mode: &str| Doctor::of(&db).await.env("PGSSLMODE", mode);
    doctor("verify-full").await.fails_at("postgres-tls", "PGSSLROOTCERT").await;
    let ca = stack.dir().unwrap().join("ca.pem");
    std::fs::write(&ca, stack.ca_pem().unwrap()).unwrap();
    let ca = ca.to_str().unwrap();
    for (mode, root, encrypted) in [
        ("verify-full", Some(ca), true),
        ("verify-ca", Some(ca), true),
        ("require", None, true),
        ("prefer", None, true),
        ("disable", None, false),
    ] {
        let mut doctor = doctor(mode).await;
        if let Some(root) = root {
            doctor = doctor.env("PGSSLROOTCERT", root);
        }
        let report = doctor.report().await;
        let detail = report.is("postgres-tls", "ok")["detail"].as_str().unwrap().to_owned();
        assert_eq!(detail.contains("with TLS"), encrypted, "{mode}: {detail}");
        assert_eq!(report.json["status"], "ok", "{}", report.text());
    }
    assert_nothing_left(&db).await;

    // Over a network, that nobody looks at the certificate matters: by an address that is not known
    // to be of this machine, though Linux takes it for that.
    for (mode, status) in [("require", "warn"), ("prefer", "warn")] {
        let report = doctor(mode).await.env("PGHOST", "0.0.0.0").report().await;
        let mend = report.is("postgres-tls", status)["mend"].as_str().unwrap().to_owned();
        assert!(mend.contains("verify-full"), "{mend}");
    }
    let looked_at = doctor("require").await.env("PGHOST", "0.0.0.0").env("PGSSLROOTCERT", "system");
    looked_at.fails_at("postgres-tls", "PGSSLROOTCERT").await;

    // Another's authority, and a server without TLS.
    let other = Stack::builder().postgres_tls(true).start().await.unwrap();
    let theirs = stack.dir().unwrap().join("other.pem");
    std::fs::write(&theirs, other.ca_pem().unwrap()).unwrap();
    let wrong = doctor("require").await.env("PGSSLROOTCERT", theirs.to_str().unwrap());
    wrong.fails_at("postgres-tls", "PGSSLROOTCERT").await;
    let db = database("notls").await;
    let wanting = Doctor::of(&db).await.env("PGSSLMODE", "require");
    wanting.fails_at("postgres-tls", "ssl=on").await;
    assert_nothing_left(&db).await;
}

#[tokio::test]
async fn a_url_in_place_of_variables() {
    let db = database("url").await;
    let place = format!("{}:{}/{}", db.pg_host(), db.pg_port(), db.name());
    let url = format!("postgres://someone:topsecret@{place}?sslmode=disable");
    let said =
        Doctor::of(&db).await.env("PGDATABASE", "wrong").env("DATABASE_URL", url).run().await;
    assert_eq!(said.code, Some(0), "{}\n{}", said.stdout, said.stderr);
    assert!(!said.stdout.contains("topsecret") && !said.stderr.contains("topsecret"));
    let help = Doctor::of(&db).await.env("DATABASE_URL", "postgres://a:topsecret@b/c");
    let help = help.arg("--help").run().await;
    assert!(!help.stdout.contains("topsecret"), "{}", help.stdout);
}

#[tokio::test]
async fn a_login_that_is_known_late_is_waited_for() {
    // As on a replica that lags: the login is refused for a while.
    let db = created_by("late", &[&MEMBER.replace(" LOGIN ", " NOLOGIN ")]).await;
    let doctor = Doctor::of(&db).await;
    let admin = db.admin().await.unwrap();
    let known_late = async {
        let mut name = String::new();
        eventually("it was refused some times", Duration::from_secs(60), async || {
            name = db.logins().await?.pop().unwrap_or_default();
            let refused = format!("role \"{name}\" is not permitted to log in");
            Ok(!name.is_empty() && db.stack().postgres_log().await?.matches(&refused).count() > 5)
        })
        .await
        .unwrap();
        admin.batch_execute(&format!("ALTER ROLE \"{name}\" LOGIN")).await.unwrap();
    };
    let (report, ()) = tokio::join!(doctor.report(), known_late);
    let mend = report.is("postgres-login", "warn")["mend"].as_str().unwrap().to_owned();
    assert!(mend.contains("replica"), "{mend}");
    assert_nothing_left(&db).await;
}
