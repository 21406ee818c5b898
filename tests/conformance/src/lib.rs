//! What a hook promises, on real servers: written once, run by every hook crate.
//!
//! A hook crate says how a pool of its kind is built, borrowed from and spoken to, which is a
//! [`Subject`], and names it in its own `tests/conformance.rs`:
//!
//! ```
//! use leasehold::CredentialProvider;
//! use leasehold_conformance::{Connection, Failure, Place, Subject};
//!
//! #[derive(Clone)]
//! struct Mine {
//!     max: usize,
//! }
//!
//! impl Subject for Mine {
//!     type Pool = MyPool;
//!     type Connection = Borrowed;
//!
//!     fn max_connections(&self) -> Option<usize> {
//!         Some(self.max)
//!     }
//!
//!     async fn connect(&self, on: &CredentialProvider, at: &Place) -> Result<MyPool, Failure> {
//!         Ok(MyPool::keep_fresh(on, &at.host, at.port, &at.database, at.probe, self.max).await?)
//!     }
//!
//!     async fn borrow(&self, pool: &MyPool) -> Result<Borrowed, Failure> {
//!         Ok(Borrowed(pool.get().await?))
//!     }
//! }
//!
//! struct Borrowed(MyConnection);
//!
//! impl Connection for Borrowed {
//!     async fn execute(&mut self, sql: &str) -> Result<(), Failure> {
//!         Ok(self.0.run(sql).await?)
//!     }
//!
//!     async fn text(&mut self, sql: &str) -> Result<String, Failure> {
//!         Ok(self.0.ask(sql).await?)
//!     }
//! }
//!
//! leasehold_conformance::conforms! {
//!     a_pool_of_eight: Mine { max: 8 },
//!     a_pool_of_two: Mine { max: 2 },
//! }
//! # #[derive(Clone)]
//! # struct MyPool;
//! # impl MyPool {
//! #     async fn keep_fresh(
//! #         _: &CredentialProvider, _: &str, _: u16, _: &str, _: &str, _: usize,
//! #     ) -> std::io::Result<Self> { Ok(Self) }
//! #     async fn get(&self) -> std::io::Result<MyConnection> { Ok(MyConnection) }
//! # }
//! # struct MyConnection;
//! # impl MyConnection {
//! #     async fn run(&mut self, _: &str) -> std::io::Result<()> { Ok(()) }
//! #     async fn ask(&mut self, _: &str) -> std::io::Result<String> { Ok(String::new()) }
//! # }
//! ```
//!
//! [`conforms!`] makes a module of tests for each, one for each behaviour. How a pool is set up (its
//! maximum, what is done at check-out) is a field of the subject, and no matter of the suite.
//!
//! Where calls block, they go through [`Blocking`]. Where there is no pool at all, `Pool` is whatever
//! dials, `borrow` dials, and [`Subject::max_connections`] stays `None`.

#![forbid(unsafe_code)]
#![allow(clippy::missing_panics_doc, clippy::unwrap_used, reason = "a test suite panics")]

mod blocking;
mod borrowed;
mod current;
mod handed_out;
mod judge;
mod load;
mod proven;
mod revoked;
mod rotations;
mod scene;
mod shutdown;
mod source;
mod story;
mod subject;

pub use blocking::Blocking;
pub use borrowed::{
    i3_a_borrowed_connection_is_not_closed_before_the_deadline,
    i3_a_long_transaction_outlives_the_roll_and_is_served_to_its_commit,
    i4_a_transaction_past_the_deadline_is_ended_and_named,
};
pub use current::{
    i1_a_connect_after_the_swap_uses_the_new_login,
    i1_a_connect_in_flight_at_the_swap_is_counted_and_drained,
};
pub use handed_out::i2_what_comes_back_after_the_roll_is_never_handed_out_again;
pub use proven::{
    i5_a_login_that_is_refused_does_not_become_current,
    i5_a_login_whose_probe_fails_does_not_become_current,
};
pub use revoked::{
    a_login_revoked_from_outside_under_load_is_replaced_once,
    i4_a_lease_is_revoked_when_the_server_shows_no_session_of_its_login,
};
pub use rotations::i1_i2_i4_ten_rotations_under_load_fail_nothing;
pub use shutdown::i9_a_shutdown_waits_for_borrowers_and_leaves_nothing;
pub use subject::{Connection, Failure, Place, Subject};

/// A module of tests for each subject: one for each behaviour. See the [crate].
#[macro_export]
macro_rules! conforms {
    ($($name:ident: $subject:expr),+ $(,)?) => {$(
        mod $name {
            #[allow(unused_imports)]
            use super::*;

            $crate::conforms! { @each ($subject)
                a_login_revoked_from_outside_under_load_is_replaced_once
                i1_a_connect_after_the_swap_uses_the_new_login
                i1_a_connect_in_flight_at_the_swap_is_counted_and_drained
                i1_i2_i4_ten_rotations_under_load_fail_nothing
                i2_what_comes_back_after_the_roll_is_never_handed_out_again
                i3_a_borrowed_connection_is_not_closed_before_the_deadline
                i3_a_long_transaction_outlives_the_roll_and_is_served_to_its_commit
                i4_a_lease_is_revoked_when_the_server_shows_no_session_of_its_login
                i4_a_transaction_past_the_deadline_is_ended_and_named
                i5_a_login_that_is_refused_does_not_become_current
                i5_a_login_whose_probe_fails_does_not_become_current
                i9_a_shutdown_waits_for_borrowers_and_leaves_nothing
            }
        }
    )+};
    (@each $subject:tt $($behaviour:ident)+) => {$(
        #[test]
        fn $behaviour() {
            $crate::run($crate::$behaviour($subject));
        }
    )+};
}

/// Runs one behaviour to its end, on a runtime as a service has it.
pub fn run(behaviour: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.expect("a runtime").block_on(behaviour);
}
