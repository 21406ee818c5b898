//! What is done to both. Short, a few seconds each.

use leasehold_sim::vault::{AppRole, Rights, Role};

use super::both::Step::{self, *};

/// Which servers a sequence needs for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Needs {
    Nothing,
    /// It stops, seals or throttles the Vault server.
    ItsVault,
    /// It stops Postgres.
    ItsPostgres,
}

#[derive(Clone, Debug)]
pub(crate) struct Sequence {
    pub(crate) name: &'static str,
    pub(crate) needs: Needs,
    pub(crate) role: Role,
    pub(crate) app: AppRole,
    pub(crate) steps: Vec<Step>,
}

const LONG: AppRole = AppRole::new(600, 1200);
const HOUR: Role = role(3600, 7200);

const fn role(default_ttl: u64, max_ttl: u64) -> Role {
    Role { default_ttl, max_ttl }
}

const fn rights(issue: bool, renew: bool, revoke: bool, lookup: bool) -> Rights {
    Rights { issue, renew, revoke, lookup }
}

fn on(needs: Needs, name: &'static str, role: Role, app: AppRole, steps: &[Step]) -> Sequence {
    Sequence { name, needs, role, app, steps: steps.to_vec() }
}

#[rustfmt::skip]
pub(crate) fn all() -> Vec<Sequence> {
    let any = |name, role, app, steps| on(Needs::Nothing, name, role, app, steps);
    let vault = |name, role, app, steps| on(Needs::ItsVault, name, role, app, steps);
    let postgres = |name, role, app, steps| on(Needs::ItsPostgres, name, role, app, steps);
    let batch = |token_ttl| AppRole { batch: true, ..AppRole::new(token_ttl, 0) };
    let periodic = |period| AppRole { period, ..AppRole::new(0, 0) };
    vec![
        any("the life of a lease", HOUR, LONG, &[
            Login, LookupToken(0), Issue(0), Lookup(0, 0), Renew(0, 0, 0), Lookup(0, 0),
            Revoke(0, 0), Revoke(0, 0), Lookup(0, 0), Renew(0, 0, 0), RevokeQueued(0, 0),
        ]),
        any("two leases of one token, revoked one by one", HOUR, LONG, &[
            Login, Issue(0), Issue(0), Revoke(0, 0), Renew(0, 1, 0), Lookup(0, 0), Revoke(0, 1),
        ]),
        any("renewals shrink towards the maximum TTL", role(3, 5), LONG, &[
            Login, Issue(0), At(1500), Renew(0, 0, 0), At(3200), Renew(0, 0, 0), Lookup(0, 0),
            RenewUntilRefused(0, 0, 0), Gone(0), Renew(0, 0, 0), Lookup(0, 0),
        ]),
        any("an increment shorter than what is left shortens the lease", HOUR, LONG, &[
            Login, Issue(0), Renew(0, 0, 2), Lookup(0, 0), Gone(0), Lookup(0, 0), Revoke(0, 0),
        ]),
        any("a soft revocation", HOUR, LONG, &[
            Login, Issue(0), Renew(0, 0, 1), Gone(0), Renew(0, 0, 1),
        ]),
        any("increments below, at and beyond the maximum", role(10, 30), LONG, &[
            Login, Issue(0), Renew(0, 0, 20), Renew(0, 0, 30), Renew(0, 0, 100), Renew(0, 0, 0),
            Lookup(0, 0),
        ]),
        any("a lease that nobody renews", role(2, 10), LONG, &[
            Login, Issue(0), Gone(0), Lookup(0, 0), Renew(0, 0, 0), Revoke(0, 0),
        ]),
        any("a default TTL above the maximum", role(60, 4), LONG, &[
            Login, Issue(0), Renew(0, 0, 60), RenewUntilRefused(0, 0, 60), Gone(0),
        ]),
        any("a role that says nothing", role(0, 0), LONG, &[
            Login, Issue(0), Renew(0, 0, 0), Renew(0, 0, 5_000_000), Revoke(0, 0),
        ]),
        any("a role's default TTL is changed between issue and renewal", HOUR, LONG, &[
            Login, Issue(0), SetRole(Some(role(5, 7200))), Lookup(0, 0), Renew(0, 0, 0),
            SetRole(Some(role(600, 7200))), Renew(0, 0, 0), Issue(0),
        ]),
        any("a role's maximum TTL is lowered between issue and renewal", HOUR, LONG, &[
            Login, Issue(0), At(1200), SetRole(Some(role(3600, 30))), Renew(0, 0, 0),
            SetRole(Some(role(3600, 1))), At(2200), Renew(0, 0, 0), Lookup(0, 0), Revoke(0, 0),
        ]),
        any("a role is deleted", HOUR, LONG, &[
            Login, Issue(0), Issue(0), SetRole(None), Renew(0, 0, 0), Issue(0), Lookup(0, 0),
            Revoke(0, 0), SetRole(Some(HOUR)), Renew(0, 1, 0),
        ]),
        any("a lease dies with its token", HOUR, AppRole::new(8, 8), &[
            Login, Issue(0), Renew(0, 0, 7200), Lookup(0, 0), TokenGone(0), Renew(0, 0, 0),
            Issue(0), LookupToken(0), RenewToken(0, 0), RevokeToken(0),
        ]),
        any("a token revokes itself", HOUR, LONG, &[
            Login, Issue(0), Issue(0), RevokeToken(0), RevokeToken(0), Renew(0, 0, 0), Login,
            Renew(1, 0, 0), Lookup(1, 1), Revoke(1, 1), Issue(1),
        ]),
        any("a person revokes a token", HOUR, LONG, &[
            Login, Issue(0), RevokeTokenByHand(0), Renew(0, 0, 0), Revoke(0, 0), Login, Issue(1),
        ]),
        any("a token's renewal may shorten it", HOUR, LONG, &[
            Login, Issue(0), RenewToken(0, 2), LookupToken(0), TokenGone(0), RenewToken(0, 0),
        ]),
        any("a token is renewed up to its maximum TTL", HOUR, AppRole::new(3, 5), &[
            Login, Issue(0), At(1500), RenewToken(0, 0), At(3200), RenewToken(0, 0),
            RenewToken(0, 100), RenewTokenUntilRefused(0, 0), TokenGone(0), RenewToken(0, 0),
        ]),
        any("an AppRole's token TTLs are changed", HOUR, LONG, &[
            Login, Issue(0), SetAppRole(Some(AppRole::new(20, 40))), LookupToken(0),
            RenewToken(0, 0), RenewToken(0, 100), SetAppRole(Some(AppRole::new(1, 1))), At(2300),
            RenewToken(0, 0), LookupToken(0), Renew(0, 0, 0),
        ]),
        any("an AppRole is deleted", HOUR, LONG, &[
            Login, Issue(0), SetAppRole(None), RenewToken(0, 0), Login, Renew(0, 0, 0), Issue(0),
            LookupToken(0), RevokeToken(0),
        ]),
        any("another token looks after a lease that dies with its own", HOUR, AppRole::new(8, 60), &[
            Login, Login, RenewToken(1, 60), Issue(0), Issue(1), Renew(1, 0, 7200), Lookup(1, 0),
            TokenGone(0), Renew(1, 0, 0), Renew(1, 1, 0), Revoke(1, 1),
        ]),
        any("a batch token cuts its leases", HOUR, batch(8), &[
            Login, Issue(0), At(1200), Renew(0, 0, 0), Renew(0, 0, 7200), Lookup(0, 0),
            RenewToken(0, 0), RevokeToken(0), RevokeTokenByHand(0), Gone(0), Renew(0, 0, 0),
        ]),
        any("a periodic token", HOUR, periodic(3), &[
            Login, Issue(0), At(1500), RenewToken(0, 0), RenewToken(0, 100), At(3700),
            RenewToken(0, 1), LookupToken(0), TokenGone(0), RenewToken(0, 0),
        ]),
        any("a root token", HOUR, LONG, &[
            Root, LookupToken(0), RenewToken(0, 0), Issue(0), Renew(0, 0, 0),
            SetRights(rights(false, false, false, false)), Renew(0, 0, 0), Revoke(0, 0),
        ]),
        any("a policy that allows less and less, and then all again", HOUR, LONG, &[
            Login, Issue(0), SetRights(rights(false, true, true, true)), Issue(0), Renew(0, 0, 0),
            SetRights(rights(false, false, true, true)), Renew(0, 0, 0),
            SetRights(rights(false, false, false, true)), Revoke(0, 0), RevokeQueued(0, 0),
            Lookup(0, 0), SetRights(rights(false, false, false, false)), Lookup(0, 0),
            RenewToken(0, 0), SetRights(Rights::ALL), Revoke(0, 0),
        ]),
        any("a person revokes leases, with and without force", HOUR, LONG, &[
            Login, Issue(0), Issue(0), RevokeByHand(0), RevokeByForce(1), Renew(0, 0, 0),
            Renew(0, 1, 0), Revoke(0, 1), RevokeByHand(0),
        ]),
        any("a role dropped in Postgres", HOUR, LONG, &[
            Login, Issue(0), DropPgRole(0), Renew(0, 0, 0), Lookup(0, 0), Revoke(0, 0),
            Lookup(0, 0),
        ]),
        any("a queued revocation", HOUR, LONG, &[
            Login, Issue(0), RevokeQueued(0, 0), RevokeQueued(0, 0), Renew(0, 0, 0),
        ]),
        any("a revocation that Postgres refuses changes nothing", HOUR, LONG, &[
            Login, Issue(0), RefuseDrops(0), Revoke(0, 0), Revoke(0, 0), Lookup(0, 0),
            Renew(0, 0, 60), Renew(0, 0, 0), RevokeByHand(0), AllowDrops(0), Revoke(0, 0),
        ]),
        any("a queued revocation that Postgres refuses", HOUR, LONG, &[
            Login, Issue(0), RefuseDrops(0), RevokeQueued(0, 0), Renew(0, 0, 0), Revoke(0, 0),
            Renew(0, 0, 0), AllowDrops(0), Revoke(0, 0),
        ]),
        any("an expired lease that Postgres keeps is ended by the server in the end",
            role(8, 60), LONG, &[
            Login, Issue(0), RefuseDrops(0), At(8600), Renew(0, 0, 0), Lookup(0, 0), AllowDrops(0),
            Gone(0), Renew(0, 0, 0),
        ]),
        any("force forgets a lease and leaves its role", HOUR, LONG, &[
            Login, Issue(0), RefuseDrops(0), RevokeByForce(0), Renew(0, 0, 0), Lookup(0, 0),
            Revoke(0, 0), AllowDrops(0),
        ]),
        any("a token ends while Postgres refuses to drop", HOUR, AppRole::new(8, 8), &[
            Login, Root, Issue(0), RefuseDrops(0), TokenGone(0), Renew(1, 0, 0), AllowDrops(0),
            Revoke(1, 0),
        ]),

        vault("nothing is done while sealed", HOUR, LONG, &[
            Login, Issue(0), Seal, Issue(0), Renew(0, 0, 0), Revoke(0, 0), Login, RenewToken(0, 0),
            Lookup(0, 0), Unseal, Renew(0, 0, 0), Revoke(0, 0),
        ]),
        vault("what ends while sealed ends at the unsealing", role(2, 60), LONG, &[
            Login, Issue(0), Seal, At(3500), Renew(0, 0, 0), Unseal, Renew(0, 0, 0), Lookup(0, 0),
        ]),
        vault("a token ends while sealed", HOUR, AppRole::new(8, 16), &[
            Login, Issue(0), Seal, At(9500), RenewToken(0, 0), Unseal, RenewToken(0, 0), Root,
            Renew(1, 0, 0),
        ]),
        vault("a restart loses nothing", HOUR, LONG, &[
            Login, Issue(0), StopVault, Issue(0), Renew(0, 0, 0), Revoke(0, 0), RenewToken(0, 0),
            Login, StartVault, Renew(0, 0, 0), RenewToken(0, 0), Issue(0), Revoke(0, 0),
        ]),
        vault("what ends while stopped ends at the start", role(2, 60), LONG, &[
            Login, Issue(0), StopVault, At(3500), StartVault, Renew(0, 0, 0), Lookup(0, 0),
        ]),
        vault("a leader steps down", HOUR, LONG, &[
            Login, Issue(0), Issue(0), Renew(0, 0, 60), LeaderStepsDown, Issue(0), Renew(0, 0, 0),
            Revoke(0, 0), RenewToken(0, 0), Login, AwaitLeader, Renew(0, 0, 0), Renew(0, 1, 0),
            Issue(0), Revoke(0, 0),
        ]),
        vault("a quota is used up", HOUR, LONG, &[
            Login, Issue(0), Throttle, Issue(0), Renew(0, 0, 0), Revoke(0, 0), RenewToken(0, 0),
            Login, Unthrottle, Renew(0, 0, 0), Revoke(0, 0),
        ]),
        vault("a lease ends under a quota all the same", role(2, 60), LONG, &[
            Login, Issue(0), Throttle, Renew(0, 0, 0), At(2500), Gone(0), Unthrottle,
            Renew(0, 0, 0),
        ]),

        postgres("nothing changes while Postgres is down", HOUR, LONG, &[
            Login, Issue(0), StopPostgres, Issue(0), Renew(0, 0, 0), Revoke(0, 0), Revoke(0, 0),
            Lookup(0, 0), RenewToken(0, 0), StartPostgres, Renew(0, 0, 0), Revoke(0, 0),
        ]),
        postgres("a lease ends while Postgres is down", role(2, 60), LONG, &[
            Login, Issue(0), StopPostgres, At(2600), Renew(0, 0, 0), Revoke(0, 0), Lookup(0, 0),
            StartPostgres, Renew(0, 0, 0), Revoke(0, 0), Renew(0, 0, 0),
        ]),
        postgres("a token ends while Postgres is down", HOUR, AppRole::new(8, 8), &[
            Login, Root, Issue(0), StopPostgres, TokenGone(0), Renew(1, 0, 0), StartPostgres,
            RevokeByHand(0), Renew(1, 0, 0),
        ]),
        postgres("a token is revoked while Postgres is down", HOUR, LONG, &[
            Login, Root, Issue(0), StopPostgres, RevokeToken(0), Renew(1, 0, 0), Lookup(1, 0),
            RevokeQueued(1, 0), StartPostgres, Revoke(1, 0), Lookup(1, 0),
        ]),
        postgres("force while Postgres is down", HOUR, LONG, &[
            Login, Issue(0), StopPostgres, RevokeByHand(0), RevokeByForce(0), Renew(0, 0, 0),
            StartPostgres, Revoke(0, 0),
        ]),
    ]
}
