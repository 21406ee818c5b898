//! Every way to log in, on a real server that speaks TLS under a CA of its own: each logs in,
//! renews its token, logs in anew, and carries a database lease through three rotations.
#![allow(unreachable_pub, reason = "one binary, many files")]

#[path = "../common/mod.rs"]
mod common;

mod approle;
mod cert;
mod custom;
mod jwt;
mod kit;
mod kubernetes;
mod token_file;
mod userpass;

type Test = (&'static str, fn());

macro_rules! tests {
    ($($test:path),* $(,)?) => {
        [$((stringify!($test), || alone($test()))),*]
    };
}

/// Each waits for tokens and leases most of the time, and the harness runs no more of them at once
/// than there are processors.
#[test]
fn all_these_at_once() {
    let tests: [Test; 18] = tests![
        approle::a_secret_id_given_as_such_carries_a_lease_through_three_rotations,
        approle::a_secret_id_in_a_file_is_read_anew_at_each_login,
        approle::a_role_that_binds_no_secret_id_is_logged_in_to_without_one,
        approle::a_wrapped_secret_id_is_unwrapped_once_and_kept_for_later_logins,
        approle::a_wrapped_secret_id_in_a_file_may_come_anew,
        approle::without_the_file_a_secret_id_that_was_unwrapped_goes_on_being_used,
        approle::a_stolen_wrapping_token_in_the_file_does_not_end_what_works,
        cert::a_client_certificate_carries_a_lease_through_three_rotations,
        custom::a_body_made_for_each_login_carries_a_lease_through_three_rotations,
        jwt::a_jwt_that_is_read_anew_carries_a_lease_through_three_rotations,
        kubernetes::a_service_account_carries_a_lease_through_three_rotations,
        userpass::a_user_carries_a_lease_through_three_rotations,
        token_file::a_given_periodic_token_carries_a_lease_through_three_rotations,
        token_file::tokens_that_can_not_be_renewed_are_used_as_they_are,
        token_file::the_tokens_of_a_file_carry_a_lease_through_three_rotations,
        token_file::i8_leases_move_to_a_files_next_token_before_the_old_one_ends,
        token_file::a_file_with_a_dead_token_is_lost_by_name_until_another_is_in_it,
        token_file::a_files_next_token_that_is_no_good_does_not_end_what_works,
    ];
    let threads = tests.map(|(name, test)| {
        let thread = std::thread::Builder::new().name(name.to_owned());
        (name, thread.spawn(test).expect("a thread"))
    });
    let failed: Vec<_> = threads
        .into_iter()
        .filter_map(|(name, thread)| thread.join().is_err().then_some(name))
        .collect();
    assert!(failed.is_empty(), "see above: {failed:#?}");
}

fn alone(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(test);
}
