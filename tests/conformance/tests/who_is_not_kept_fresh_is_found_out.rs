//! The suite fails who does not keep the promises: here connections that use the current login, and
//! of which no rotator knows.

use std::panic::{AssertUnwindSafe, catch_unwind};

use leasehold::CredentialProvider;
use leasehold_conformance::{self as suite, Connection, Failure, Place, Subject};
use tokio_postgres::{Client, Config, NoTls};

#[derive(Clone)]
struct ByHand;

impl Subject for ByHand {
    type Pool = (CredentialProvider, Config);
    type Connection = Dialled;

    async fn connect(
        &self,
        provider: &CredentialProvider,
        place: &Place,
    ) -> Result<Self::Pool, Failure> {
        let mut config = Config::new();
        config.host(&place.host).port(place.port).dbname(&place.database);
        config.application_name(place.application);
        Ok((provider.clone(), config))
    }

    async fn borrow(&self, (provider, config): &Self::Pool) -> Result<Dialled, Failure> {
        let mut config = config.clone();
        let generation = provider.current().clone();
        let login = generation.credential();
        config.user(login.username()).password(login.expose_password());
        let (client, connection) = config.connect(NoTls).await?;
        tokio::spawn(connection);
        Ok(Dialled(client))
    }
}

struct Dialled(Client);

impl Connection for Dialled {
    async fn execute(&mut self, sql: &str) -> Result<(), Failure> {
        Ok(self.0.batch_execute(sql).await?)
    }

    async fn text(&mut self, sql: &str) -> Result<String, Failure> {
        Ok(self.0.query_one(sql, &[]).await?.try_get(0)?)
    }
}

fn fails(behaviour: impl Future<Output = ()>) -> bool {
    catch_unwind(AssertUnwindSafe(|| suite::run(behaviour))).is_err()
}

#[test]
fn i1_a_connect_in_flight() {
    assert!(fails(suite::i1_a_connect_in_flight_at_the_swap_is_counted_and_drained(ByHand)));
}

#[test]
fn i2_what_comes_back() {
    assert!(fails(suite::i2_what_comes_back_after_the_roll_is_never_handed_out_again(ByHand)));
}

#[test]
fn i3_what_is_borrowed() {
    assert!(fails(suite::i3_a_borrowed_connection_is_not_closed_before_the_deadline(ByHand)));
    let long = suite::i3_a_long_transaction_outlives_the_roll_and_is_served_to_its_commit(ByHand);
    assert!(fails(long));
}

#[test]
fn i4_sessions_that_are_left() {
    let foreign = suite::i4_a_lease_is_revoked_when_the_server_shows_no_session_of_its_login;
    assert!(fails(foreign(ByHand)));
    assert!(fails(suite::i4_a_transaction_past_the_deadline_is_ended_and_named(ByHand)));
    assert!(fails(suite::i1_i2_i4_ten_rotations_under_load_fail_nothing(ByHand)));
}

#[test]
fn i5_logins_that_are_not_proven() {
    assert!(fails(suite::i5_a_login_that_is_refused_does_not_become_current(ByHand)));
    assert!(fails(suite::i5_a_login_whose_probe_fails_does_not_become_current(ByHand)));
}

#[test]
fn i9_who_is_still_at_work() {
    assert!(fails(suite::i9_a_shutdown_waits_for_borrowers_and_leaves_nothing(ByHand)));
}
