//! The manual's SQL on a real Postgres, and the names that it gives to what a reader will see.

use leasehold_testkit::{DatabaseSpec, RoleSpec, Stack};

use crate::pages::{all, page};
use crate::{none, repository};

#[tokio::test]
async fn logins_have_the_rights_of_their_group() {
    let [group, creation, revocation] =
        page("crates/leasehold/manual/operations.md").run("logins_have_the_rights_of_their_group");
    let stack = Stack::start().await.unwrap();
    let role = RoleSpec::new("app").creation([&creation.text]).revocation([&revocation.text]);
    let db = stack.database(DatabaseSpec::new("shop").with_accounts().role(role)).await.unwrap();
    let admin = db.admin().await.unwrap();
    admin.batch_execute(&group.text).await.unwrap();
    admin.batch_execute("CREATE TABLE later (id int)").await.unwrap();

    let login = db.creds().await.unwrap();
    let client = db.connect(&login.username, &login.password).await.unwrap();
    client.execute("UPDATE accounts SET v = v + 1 WHERE id = 7", &[]).await.unwrap();
    client.execute("INSERT INTO later VALUES (1)", &[]).await.unwrap();
    assert!(client.batch_execute("DROP TABLE later").await.is_err(), "it is not the owner");
    drop(client);
    stack.revoke_lease(&login.lease_id).await.unwrap();
    assert!(db.logins().await.unwrap().is_empty());
}

/// `HealthState::Expired` and the like, in whichever page.
#[test]
fn every_variant_that_is_named_exists() {
    let kinds = [
        ("Event", "crates/leasehold/src/event/mod.rs"),
        ("Reason", "crates/leasehold/src/event/mod.rs"),
        ("HealthState", "crates/leasehold/src/health.rs"),
        ("ErrorKind", "crates/leasehold/src/source.rs"),
    ];
    let (mut problems, mut seen) = (Vec::new(), 0);
    for page in all() {
        for (line, span) in &page.spans {
            for (kind, file) in kinds {
                let Some(name) = span.strip_prefix(kind).and_then(|s| s.strip_prefix("::")) else {
                    continue;
                };
                seen += 1;
                let text = repository::read(file);
                let (_, body) = text.split_once(&format!("pub enum {kind} {{")).unwrap();
                let body = body.split("\n}").next().unwrap();
                if ![" {", ",", "("].iter().any(|end| body.contains(&format!("\n    {name}{end}")))
                {
                    problems.push(format!("{}:{line}: {span}", page.path));
                }
            }
        }
    }
    assert!(seen > 10, "the manual names some: {seen}");
    none(problems);
}
