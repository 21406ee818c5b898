//! `leasehold doctor --orphans`.

use std::time::Duration;

use leasehold_testkit::{Catch, DatabaseSpec, RoleSpec};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::run::{Doctor, own_stack};

const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn roles_without_a_lease_are_listed_with_the_sql_that_drops_them() {
    let stack = own_stack().await;
    let spec = DatabaseSpec::new("orphans").role(RoleSpec::new("app")).role(RoleSpec::new("other"));
    let db = stack.database(spec).await.unwrap();
    let doctor = async || {
        let doctor = Doctor::of(&db).await.token(stack.root_token()).administrator(&db);
        doctor.arg("--orphans")
    };
    let listing = async || -> (Option<i32>, Value) {
        let said = doctor().await.arg("--json").run().await;
        (said.code, serde_json::from_str(&said.stdout).expect(&said.stderr))
    };

    let kept = [db.creds().await.unwrap(), db.creds_as(stack.root_token(), "other").await.unwrap()];
    let (code, json) = listing().await;
    assert_eq!((code, &json["roles"], &json["leases"]), (Some(0), &2.into(), &2.into()), "{json}");
    assert_eq!(json["orphans"].as_array().unwrap().len(), 0, "{json}");

    // As a process leaves one that dies in the middle of a mint: a role and no lease. An hour ago.
    let admin = db.admin().await.unwrap();
    let lost = "v-approle-app-abcdefghijklmnopqrst-1700000000";
    let sql = format!("CREATE ROLE \"{lost}\" LOGIN VALID UNTIL '2023-11-14 23:13:25+00'");
    admin.batch_execute(&sql).await.unwrap();
    // And one whose lease was forgotten: it can still log in.
    let forgotten = db.creds().await.unwrap();
    let prefix = format!("{}/creds/app", db.mount());
    stack.revoke_prefix(&prefix, false).await.unwrap();
    let recreate = format!(
        "CREATE ROLE \"{}\" LOGIN VALID UNTIL 'infinity'; CREATE TABLE mine (); \
         ALTER TABLE mine OWNER TO \"{}\"",
        forgotten.username, forgotten.username
    );
    admin.batch_execute(&recreate).await.unwrap();

    let (code, json) = listing().await;
    assert_eq!(code, Some(1), "{json}");
    let orphans = json["orphans"].as_array().unwrap();
    assert_eq!(orphans.len(), 2, "{json}");
    let of = |name: &str| orphans.iter().find(|o| o["role"] == name).expect("listed");
    assert_eq!((&of(lost)["past"], &of(lost)["certain"]), (&true.into(), &true.into()));
    assert_eq!(of(lost)["valid_until"], "2023-11-14T23:13:25Z");
    assert_eq!(of(&forgotten.username)["past"], false);
    // It is as young as a mint that is under way.
    assert_eq!(of(&forgotten.username)["certain"], false);

    // Nothing was dropped, and the SQL drops what it names and nothing else.
    for orphan in orphans {
        admin.batch_execute(orphan["sql"].as_str().unwrap()).await.unwrap();
    }
    let left = stack.pg_roles("v-").await.unwrap();
    assert_eq!(left, [kept[1].username.clone()]);
    let said = doctor().await.run().await;
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    assert!(said.stdout.contains("1 roles, 1 leases, 0 roles without a lease"), "{}", said.stdout);
    admin.query("SELECT FROM mine", &[]).await.expect("what it owned is kept");
}

#[tokio::test]
async fn a_name_with_sql_in_it_is_a_name() {
    let stack = own_stack().await;
    let db = stack.database("named").await.unwrap();
    let admin = db.admin().await.unwrap();
    let odd = "v-x\nDROP ROLE victim; --\u{1b}[2J-app-abcdef-1700000000";
    let sql = format!("CREATE ROLE victim; CREATE ROLE \"{odd}\" LOGIN");
    admin.batch_execute(&sql).await.unwrap();
    let doctor = Doctor::of(&db).await.token(stack.root_token()).administrator(&db);
    let said = doctor.arg("--orphans").run().await;
    assert_eq!(said.code, Some(1), "{}", said.stderr);
    assert!(!said.stdout.contains('\u{1b}'), "{:?}", said.stdout);
    for line in said.stdout.lines() {
        assert!(line.starts_with("-- ") || line.starts_with("DROP ROLE U&\"v-x"), "{line}");
    }
    admin.batch_execute(&said.stdout).await.unwrap();
    assert_eq!(stack.pg_roles("v-").await.unwrap(), Vec::<String>::new());
    assert_eq!(stack.pg_roles("victim").await.unwrap(), ["victim"]);
}

#[tokio::test]
async fn told_to_stop_it_gives_its_token_back_and_says_so() {
    let stack = own_stack().await;
    let db = stack.database("stopped").await.unwrap();
    let before = stack.token_accessors().await.unwrap().len();
    // While it logs in, and while it lists.
    for request in ["auth/approle/login", "sys/leases/lookup"] {
        let way = stack.vault_proxy().await.unwrap();
        let trap = way.trap(Catch::request(request));
        let doctor = Doctor::of(&db).await.administrator(&db).arg("--orphans");
        let doctor = doctor.env("VAULT_ADDR", format!("http://{}", way.address()));
        let mut child = doctor.command().spawn().unwrap();
        let pid = Pid::from_raw(child.id().unwrap().try_into().unwrap()).unwrap();
        tokio::time::timeout(PATIENCE, trap.caught()).await.unwrap();
        kill_process(pid, Signal::TERM).unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap()).lines();
        let heard = async {
            while let Some(line) = stderr.next_line().await.unwrap() {
                if line.contains("giving back what was made") {
                    return;
                }
            }
            panic!("{request}: it did not hear of it");
        };
        tokio::time::timeout(PATIENCE, heard).await.unwrap();
        trap.release();
        let status = tokio::time::timeout(PATIENCE, child.wait()).await.unwrap().unwrap();
        assert_eq!(status.code(), Some(130), "{request}");
        assert_eq!(stack.token_accessors().await.unwrap().len(), before, "{request}");
    }
}

#[tokio::test]
async fn without_the_rights_it_says_which() {
    let stack = leasehold_testkit::shared().await.unwrap();
    let db = stack.database("norights").await.unwrap();
    let said = Doctor::of(&db).await.arg("--orphans").run().await;
    assert_eq!(said.code, Some(2));
    assert!(said.stderr.contains("--admin-url"), "{}", said.stderr);
    let said = Doctor::of(&db).await.administrator(&db).arg("--orphans").run().await;
    assert_eq!(said.code, Some(3), "not as if there were some");
    assert!(said.stderr.contains("sys/leases/lookup"), "{}", said.stderr);
}
