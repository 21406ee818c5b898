//! `leasehold doctor --orphans`.

use leasehold_testkit::{DatabaseSpec, RoleSpec};
use serde_json::Value;

use crate::run::{Doctor, own_stack};

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
async fn without_the_rights_it_says_which() {
    let stack = leasehold_testkit::shared().await.unwrap();
    let db = stack.database("norights").await.unwrap();
    let said = Doctor::of(&db).await.arg("--orphans").run().await;
    assert_eq!(said.code, Some(2));
    assert!(said.stderr.contains("--admin-url"), "{}", said.stderr);
    let said = Doctor::of(&db).await.administrator(&db).arg("--orphans").run().await;
    assert_eq!(said.code, Some(1));
    assert!(said.stderr.contains("sys/leases/lookup"), "{}", said.stderr);
}
