//! Pools of diesel's connections.

use diesel::connection::{SimpleConnection, TransactionManager};
use diesel::prelude::*;
use diesel::sql_types::Text;
use leasehold::{Credential, CredentialSource, Issued, Lease, SourceError};
use leasehold_blocking::{DieselManager, Error, Installer, Rotator};
use r2d2::Pool;
use tokio_postgres::NoTls;

use crate::kit::{Events, Kit, LIMIT};

fn pool(kit: &Kit, rotator: &Rotator, max: u32) -> Pool<DieselManager> {
    let installer = Installer::diesel();
    installer.connect(&rotator.provider(), kit.config(), NoTls, |b| b.max_size(max)).unwrap()
}

fn who(conn: &mut PgConnection) -> String {
    diesel::select(diesel::dsl::sql::<Text>("session_user::text")).get_result(conn).unwrap()
}

#[test]
fn a_login_revoked_from_outside_is_replaced_before_anybody_fails() {
    let kit = Kit::new("bl_diesel_revoked");
    let rotator = kit.start();
    let provider = rotator.provider();
    let pool = pool(&kit, &rotator, 2);
    let user = provider.current().credential().username().to_owned();
    let mut events = Events::of(&provider);
    kit.wait(kit.db.drop_login(&user)).unwrap();
    // libpq tells of no SQLSTATE: that the login is refused is asked of the other driver.
    let mut conn = pool.get().unwrap();
    assert_ne!(who(&mut conn), user);
    events.swapped(&kit);
}

#[test]
fn a_connection_that_was_left_in_a_transaction_is_not_handed_out_again() {
    let kit = Kit::new("bl_diesel_open");
    let rotator = kit.start();
    let pool = pool(&kit, &rotator, 1);
    {
        let mut conn = pool.get().unwrap();
        let conn: &mut PgConnection = &mut conn;
        <PgConnection as Connection>::TransactionManager::begin_transaction(conn).unwrap();
    }
    let mut conn = pool.get().unwrap();
    conn.batch_execute("VACUUM accounts").expect("not in a transaction");
}

#[test]
fn a_connection_may_be_dropped_where_futures_are_polled() {
    let kit = Kit::new("bl_diesel_dropped");
    let rotator = kit.start();
    let provider = rotator.provider();
    let pool = pool(&kit, &rotator, 1);
    let mut events = Events::of(&provider);
    let conn = pool.get().unwrap();
    rotator.rotate();
    events.rolled(&kit);
    kit.wait(async { drop(conn) });
    events.drained(&kit);
    assert!(rotator.shutdown(LIMIT).unwrap().is_clean());
    kit.nothing_left();
}

#[test]
fn what_libpq_alone_refuses_is_told_in_its_words() {
    let kit = Kit::new("bl_diesel_libpq");
    let rotator = kit.start();
    let installer = Installer::diesel().libpq("channel_binding", "nonsense");
    let error =
        installer.connect(&rotator.provider(), kit.config(), NoTls, |b| b.max_size(1)).unwrap_err();
    let Error::Libpq { message, .. } = &error else { panic!("{error:?}") };
    assert!(message.contains("channel_binding"), "{message}");
}

/// Logins that only libpq can't be told.
#[derive(Debug)]
struct Wrong(&'static str);

impl CredentialSource for Wrong {
    async fn issue(&self) -> Result<Issued, SourceError> {
        Ok(Issued::new(Credential::new("nobody-of-that-name", self.0), Lease::endless()))
    }
}

#[test]
fn i10_no_error_shows_the_password() {
    let kit = Kit::new("bl_diesel_refused");
    for password in [r"s3cr3t' host='evil' \", "s3cr3t\0with a zero byte"] {
        let rotator = leasehold::Rotator::builder(Wrong(password));
        let rotator = Rotator::start(&kit.runtime, rotator).unwrap();
        let provider = rotator.provider();
        let lazy = Installer::diesel().connect_timeout(LIMIT);
        let lazy = lazy.connect_lazy(&provider, kit.config(), NoTls, |b| b.max_size(1)).unwrap();
        let told = lazy.get_timeout(LIMIT / 6).unwrap_err();
        assert!(told.to_string().contains("28P01"), "{told}");
        let shown = format!("{lazy:?} {told} {told:?}");
        assert!(!shown.contains("s3cr3t"), "{shown}");
    }
}
