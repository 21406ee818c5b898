//! What the agreement with a real server can't wait for, or would not notice.

#![allow(clippy::unwrap_used)]

use super::*;

fn at(ms: u64) -> Time {
    Time::from_start(Duration::from_millis(ms))
}

fn vault() -> (Vault, TokenId) {
    let role = Role { default_ttl: 6, max_ttl: 12 };
    let mut vault = Vault::new(role, AppRole::new(60, 120));
    let token = vault.login(Time::ZERO).unwrap().token;
    (vault, token)
}

#[test]
fn renewals_shrink_towards_the_maximum_and_stop_within_its_last_second() {
    let (mut vault, token) = vault();
    let lease = vault.issue(at(700), token, 0).unwrap().lease;
    assert_eq!(vault.renew(at(5000), token, lease, 0), Ok(6));
    assert_eq!(vault.renew(at(8100), token, lease, 0), Ok(4));
    assert_eq!(vault.renew(at(11_900), token, lease, 0), Ok(1));
    assert_eq!(vault.renew(at(12_100), token, lease, 0), Err(Refusal::PastMaxTtl));
    assert_eq!(vault.renew(at(13_000), token, lease, 0), Err(Refusal::LeaseUnknown));
}

#[test]
fn what_ends_while_sealed_ends_at_the_unsealing() {
    let (mut vault, token) = vault();
    let LeaseGrant { lease, login, .. } = vault.issue(at(0), token, 0).unwrap();
    vault.set_weather(at(1000), Weather { sealed: true, ..Weather::default() });
    assert_eq!(vault.renew(at(2000), token, lease, 0), Err(Refusal::Sealed));
    vault.advance(at(10_000));
    assert!(vault.lease(lease).is_some());
    assert!(vault.login_works(at(10_000), login), "five seconds longer than the lease");
    assert!(!vault.login_works(at(11_000), login));
    vault.set_weather(at(20_000), Weather::default());
    assert!(vault.lease(lease).is_none());
    assert!(vault.pg_role(login).is_none());
}

#[test]
fn an_expired_lease_is_given_up_after_six_failures_and_a_person_can_still_end_it() {
    let (mut vault, token) = vault();
    let LeaseGrant { lease, login, .. } = vault.issue(at(0), token, 0).unwrap();
    vault.set_weather(at(0), Weather { postgres_down: true, ..Weather::default() });
    let root = vault.root_token(at(0));
    assert_eq!(vault.renew(at(7000), root, lease, 0), Err(Refusal::LeaseExpired));
    vault.advance(at(900_000));
    assert_eq!(vault.lease(lease).unwrap().state, LeaseState::Irrevocable);
    assert_eq!(vault.renew(at(900_000), root, lease, 0), Err(Refusal::Irrevocable));
    vault.set_weather(at(900_000), Weather::default());
    assert!(vault.pg_role(login).is_some());
    assert!(vault.revoke_by_hand(at(900_000), lease));
    assert!(vault.pg_role(login).is_none());
}

#[test]
fn leases_die_with_their_token_whoever_renews_them() {
    let (mut vault, token) = vault();
    let root = vault.root_token(at(0));
    vault.set_role(at(0), 0, Some(Role { default_ttl: 3600, max_ttl: 7200 }));
    let LeaseGrant { lease, login, ttl } = vault.issue(at(0), token, 0).unwrap();
    assert_eq!(ttl, 3600);
    assert_eq!(vault.renew(at(1000), root, lease, 7000), Ok(7000));
    assert_eq!(vault.effective_end(lease), Some(at(60_000)));
    vault.advance(at(60_000));
    assert!(vault.lease(lease).is_none() && vault.pg_role(login).is_none());
    assert_eq!(vault.renew_token(at(60_000), token, 0), Err(Refusal::TokenDead));
}

#[test]
fn a_cut_mint_leaves_a_role_that_nobody_drops() {
    let (mut vault, token) = vault();
    let login = vault.issue_cut(at(0), token, 0).unwrap();
    vault.advance(at(3_600_000));
    assert_eq!(vault.leases().count(), 0);
    assert!(vault.pg_role(login).unwrap().orphan);
    assert!(!vault.login_works(at(11_000), login));
}
