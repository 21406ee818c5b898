//! The example itself, through rotations.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use leasehold::Rotator;
use leasehold_testkit::{AppRoleSpec, DatabaseSpec, RoleSpec, TestDb, shared};
use leasehold_vault::{Auth, Session, VaultConfig};
use sea_orm::EntityTrait;
use sea_orm_app::{account, connect, deposit};
use sqlx::postgres::PgConnectOptions;

/// A bound, never a measure.
const LIMIT: Duration = Duration::from_secs(60);

async fn database() -> TestDb {
    let role =
        RoleSpec::new("app").default_ttl(Duration::from_secs(6)).max_ttl(Duration::from_secs(6));
    let login = AppRoleSpec::new().token_ttl(Duration::from_secs(3600));
    let spec = DatabaseSpec::new("sea_orm").role(role).app_role(login).with_accounts();
    shared().await.unwrap().database(spec).await.unwrap()
}

async fn rotator(db: &TestDb) -> Rotator {
    let auth = Auth::approle(db.role_id(), db.secret_id().await.unwrap());
    let session = Session::login(VaultConfig::new(db.vault_addr()), auth).await.unwrap();
    Rotator::builder(session.dynamic_role(db.mount(), db.role())).start().await.unwrap()
}

fn base(db: &TestDb) -> PgConnectOptions {
    let place = PgConnectOptions::new_without_pgpass().host(db.pg_host()).port(db.pg_port());
    place.database(db.name())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_deposit_counts_through_rotations_and_nothing_is_left() {
    let db = database().await;
    let rotator = rotator(&db).await;
    let provider = rotator.provider();
    let orm = connect(&provider, 4, base(&db)).await.unwrap();
    let mut deposits = 0;
    let rotated = async {
        while provider.current().number() < 4 {
            let account = deposit(&orm, 7, 1).await.unwrap().unwrap();
            deposits += 1;
            assert_eq!(account.balance, deposits);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LIMIT, rotated).await.expect("three rotations");
    let account = account::Entity::find_by_id(7).one(&orm).await.unwrap().unwrap();
    assert_eq!((account.balance, account.note.as_str()), (deposits, "x"));
    assert!(deposit(&orm, -1, 1).await.unwrap().is_none());
    let report = rotator.shutdown(LIMIT).await;
    assert!(report.is_clean(), "{report}");
    assert_eq!(db.lease_count().await.unwrap(), 0);
    assert_eq!(db.logins().await.unwrap(), Vec::<String>::new());
}

/// The README says never to format them.
#[test]
fn i10_sea_orms_options_show_the_password_of_a_url() {
    let options = sea_orm::ConnectOptions::new("postgres://app:hunter2@db.internal/orders");
    assert!(format!("{options:?}").contains("hunter2"));
}
