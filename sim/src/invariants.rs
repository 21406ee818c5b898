//! What must never happen, whatever does. Each function states one thing; what it says is worked
//! out from the models and from what the machine was told, not from the machine's own sums.

use std::time::Duration;

use leasehold::Remains;
use leasehold::clock::Time;
use leasehold::simulation::{LoginId, Proofs, Stage, Terms, policy};

use crate::plan::{Source, TokenKind};
use crate::pool::{Conn, Mark, Pool};
use crate::postgres::Postgres;
use crate::vault::{LeaseState, TokenId};
use crate::world::{Drained, World};

/// The invariants of the design that this simulation states.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)]
pub enum Invariant {
    I1,
    I2,
    I3,
    I4,
    I5,
    I6,
    I7,
    I8,
    I9,
    I11,
    I12,
}

use Invariant as I;

/// How much two clocks that agree may differ: what is taken for slewing.
const SLACK: Duration = Duration::from_millis(60);

/// What a batch token is granted, and what is cut to its end, ends up to this much before what the
/// answer says: the token carries its times in whole seconds. The leeway has a second for it.
const TRUNCATED: Duration = Duration::from_secs(1);

/// All that can be said at any time.
pub fn after_each_step(world: &mut World) {
    i7_one_place_for_each_credential(world);
    i8_and_i12_no_longer_than_the_server_says(world);
    i11_something_is_due(world);
}

// ---- I1: new means current

/// Numbers rise by one.
pub fn i1_numbers_rise(world: &mut World, number: u64) {
    if number != world.published + 1 {
        let was = world.published;
        world.violate(I::I1, format!("publishes generation {number} after {was}"));
    }
}

/// What is dialled after a swap is dialled with the current generation.
pub fn i1_new_means_current(world: &mut World, dialled: u64) {
    if dialled != world.published {
        let current = world.published;
        world.violate(I::I1, format!("dials generation {dialled} while {current} is current"));
    }
}

/// A generation drains after another has taken its place, or in a shutdown.
pub fn i1_swap_before_drain(world: &mut World, number: u64) {
    if number >= world.published && world.stopping.is_none() {
        world.violate(I::I1, format!("drains generation {number}, which is still current"));
    }
}

// ---- I2: handed out means alive

/// Superseded connections are handed out during the roll only, which is short, and only while
/// their lease is certainly alive; none at all of a login that the machine was told is gone.
pub fn i2_handed_out_is_alive(world: &mut World, pool: usize, conn: Conn) {
    let now = world.clock();
    let Some(generation) = world.generations.get(&conn.generation).cloned() else {
        return world
            .violate(I::I2, format!("hands out a connection of generation {}", conn.generation));
    };
    if conn.mark == Mark::Current {
        if generation.dead && conn.generation == world.published {
            // Dialled since it was distrusted: it was let in, so that it is not so dead.
            return;
        }
        if conn.generation != world.pools[pool].installed {
            let number = conn.generation;
            world.violate(I::I2, format!("takes a connection of generation {number} for current"));
        }
        return;
    }
    let Some(superseded) = generation.superseded else { return };
    let number = conn.generation;
    if (superseded.gone || generation.told_gone) && generation.leased {
        world.violate(I::I2, format!("rolls generation {number}, which it was told is gone"));
    }
    let latest = superseded.at + longest_roll(world.plan.roll, &superseded.terms);
    if now > latest {
        world.violate(
            I::I2,
            format!("still rolls generation {number}, {:?} too late", now - latest),
        );
    }
    let end = (world.machine.logins())
        .find(|(_, l)| l.generation == Some(number))
        .and_then(|(_, l)| l.effective_end());
    if generation.leased && end.is_some_and(|end| end <= now) {
        world.violate(I::I2, format!("rolls generation {number}, whose lease is over"));
    }
}

/// What the documentation says of it.
fn longest_roll(asked: Option<Duration>, terms: &Terms) -> Duration {
    const DEFAULT: Duration = Duration::from_secs(15);
    let share = terms.ttl.map_or(Duration::MAX, |ttl| ttl / 16);
    match asked {
        Some(asked) if terms.clipped => asked.min(share),
        Some(asked) => asked,
        None => DEFAULT.min(share),
    }
}

// ---- I3: borrowed means safe

/// Connections are taken from borrowers at their deadline and not before.
pub fn i3_borrowed_is_safe(world: &mut World, number: u64, now: Time, taken: usize) {
    if taken == 0 {
        return;
    }
    let deadline = i3_deadline(world, number);
    if deadline.is_some_and(|deadline| now + SLACK < deadline) {
        world.violate(I::I3, format!("takes {taken} connections of generation {number} too early"));
    }
}

/// A drain gets its grace, unless its lease ends before, a shutdown wants it sooner, or too many
/// generations drain.
pub fn i3_deadline_is_kept(world: &mut World, number: u64) {
    let Some(deadline) = world.drains.get(&number).map(|drain| drain.deadline) else { return };
    if let Some(due) = i3_deadline(world, number)
        && deadline < due
    {
        world.violate(
            I::I3,
            format!("the drain of generation {number} ends {:?} early", due - deadline),
        );
    }
}

/// The oldest of too many that drain, which has to hurry.
#[must_use]
pub fn in_the_way(world: &World) -> Option<u64> {
    let stages = world.machine.logins().filter(|(stage, _)| matches!(stage, Stage::Draining(_)));
    let draining: Vec<u64> = stages.filter_map(|(_, login)| login.generation).collect();
    if draining.len() > policy::DRAINING_AT_ONCE { draining.into_iter().min() } else { None }
}

/// A drain whose lease ends before its time spends a quarter of it on the roll, at the most.
pub fn i3_the_roll_leaves_room(world: &mut World, number: u64) {
    let Some(drain) = world.drains.get(&number) else { return };
    let (roll_until, deadline) = (drain.roll_until, drain.deadline);
    let Some(superseded) = world.generations.get(&number).and_then(|g| g.superseded) else {
        return;
    };
    let (rolls, drains) = (roll_until - superseded.at, deadline - superseded.at);
    if drains < superseded.terms.drain() && rolls > drains / 4 {
        world.violate(
            I::I3,
            format!("the roll of generation {number} takes {rolls:?} of {drains:?}"),
        );
    }
}

fn i3_deadline(world: &World, number: u64) -> Option<Time> {
    let superseded = world.generations.get(&number)?.superseded?;
    if world.drains.get(&number).is_some_and(|drain| drain.hurried) {
        return None;
    }
    let terms = superseded.terms;
    let mut deadline = superseded.at + longest_roll(world.plan.roll, &terms) + terms.grace;
    let (_, login) = world.machine.logins().find(|(_, l)| l.generation == Some(number))?;
    if login.revocable
        && let Some(end) = login.effective_end()
    {
        let margin = (terms.grace / 4).min(Duration::from_secs(1));
        deadline = deadline.min(end.before(margin));
    }
    Some(world.stopping.map_or(deadline, |stop| deadline.min(stop)))
}

// ---- I4: drained, then revoked

/// A lease is revoked when nothing of its generation is left, or its deadline came.
pub fn i4_drained_then_revoked(world: &mut World, login: u64) {
    let of_it = world.generations.iter().find(|(_, g)| g.login == login);
    let Some((number, generation)) = of_it.map(|(n, g)| (*n, g.clone())) else { return };
    let left: usize = world.pools.iter().map(|pool| pool.count(number)).sum();
    match generation.drained {
        None => world.violate(I::I4, format!("revokes generation {number}, which is not drained")),
        Some(Drained::Clean) if left > 0 => {
            world.violate(I::I4, format!("revokes generation {number} under {left} connections"));
        }
        Some(_) => {}
    }
}

// ---- I5: proven, then swapped

/// A credential becomes current once it is proven, or where waiting is worse: at least one pool
/// has proven it and the others can't be reached; or the current login has no more time to give,
/// and not every pool refuses the new one. It is never over.
pub fn i5_proven_then_swapped(world: &mut World, login: u64) {
    let now = world.believed();
    let Some(proofs) = world.proofs.get(&login).copied() else {
        return world.violate(I::I5, format!("publishes login {login}, which nobody has tried"));
    };
    let candidate = world.machine.logins().find(|(_, l)| l.id == login).map(|(_, l)| l.clone());
    if candidate.is_some_and(|c| c.lost || c.effective_end().is_some_and(|end| end <= now)) {
        world.violate(I::I5, format!("publishes login {login}, which is over"));
    }
    let Proofs { proven, rejected, unreachable } = proofs;
    if rejected + unreachable == 0 || (rejected == 0 && proven > 0) {
        return;
    }
    // The machine has replaced it already, and drains it.
    let old = (world.machine.logins()).filter(|(stage, l)| {
        matches!(stage, Stage::Draining(_)) && l.generation == Some(world.published)
    });
    let old = old.map(|(_, l)| l.clone()).next();
    let urgent = old.is_none_or(|old| {
        let left = old.effective_end().map_or(Duration::MAX, |end| now.until(end));
        old.dead || old.lost || left <= old.terms.drain() + Duration::from_secs(1)
    });
    if !urgent || proofs.refused() {
        world.violate(I::I5, format!("publishes login {login}, proven as {proofs:?}"));
    }
}

// ---- I6: never worse than doing nothing

/// The connections of the current login are given up when a session has found its role gone, and
/// for no other reason.
pub fn i6_distrusted_for_a_reason(world: &mut World, number: u64) {
    let told = world.generations.get(&number).is_some_and(|g| g.told_gone);
    if !told {
        world
            .violate(I::I6, format!("gives up the connections of generation {number} for nothing"));
    }
}

/// In fair weather no current login comes to its end.
pub fn i6_none_expires_in_calm(world: &mut World, number: u64) {
    if world.calm && world.plan.token != TokenKind::Given && world.plan.source == Source::Dynamic {
        world.violate(I::I6, format!("generation {number} ended in fair weather"));
    }
}

/// Whether the service is served as it should be.
///
/// # Errors
/// What is wrong.
pub fn i6_is_served(world: &World) -> Result<(), String> {
    let Some(generation) = world.generations.get(&world.published) else {
        return Err("there is no current login".to_owned());
    };
    let Some((Stage::Current, login)) =
        world.machine.logins().find(|(_, l)| l.id == generation.login)
    else {
        return Err("the machine has no current login".to_owned());
    };
    if login.dead || login.lost || !login.proven {
        return Err(format!("the current login is known to be bad: {login:?}"));
    }
    if login.effective_end().is_some_and(|end| end <= world.believed()) {
        return Err("the current login is over".to_owned());
    }
    let lag = Duration::ZERO;
    if !world.postgres.lets_in(&world.vault, generation.secret, lag, world.real) {
        return Err("the current login is refused".to_owned());
    }
    if !Postgres::role_is_there(&world.vault, generation.secret) {
        return Err("the current role is gone".to_owned());
    }
    if let Some(held) = world.held.get(&generation.login)
        && let Some(lease) = held.lease
    {
        let live = world.vault.lease(lease).is_some_and(|l| l.state == LeaseState::Live);
        // Somebody may have taken the lease and left the role: that is found at its next renewal.
        if !live && !held.unsure {
            return Err("the current lease is not there".to_owned());
        }
    }
    Ok(())
}

// ---- I7: one fetch

/// At most two requests to mint are waited for, and they are as rare as the limiter has them: in
/// any stretch of two refills a burst, what is refilled, one for each generation that did its work,
/// and a burst for each time the source came back.
pub fn i7_one_fetch(world: &mut World, now: Time) {
    let waiting =
        world.unanswered.values().filter(|sent| now - **sent < policy::MINT_TIMEOUT).count();
    if waiting > policy::MINTS_IN_FLIGHT {
        world.violate(I::I7, format!("{waiting} requests to mint are in flight"));
    }
    if world.plan.source != Source::Dynamic {
        return;
    }
    let stretch = stretch(world);
    let from = now.before(stretch);
    while world.mints.front().is_some_and(|at| *at < from) {
        world.mints.pop_front();
    }
    while world.resets.front().is_some_and(|at| *at < from) {
        world.resets.pop_front();
    }
    // Those that followed a generation which did its work are free.
    let served = |g: &&crate::world::Generation| {
        g.superseded.is_some_and(|s| s.at >= from && (s.at - g.since) * 2 >= g.planned)
    };
    let free = 1 + world.generations.values().filter(served).count();
    let allowed = 2 + 2 + 1 + free + 3 * world.resets.len();
    if world.mints.len() > allowed {
        let mints = world.mints.len();
        world.violate(
            I::I7,
            format!("{mints} requests to mint within {stretch:?}, {allowed} allowed"),
        );
    }
}

/// What is looked at for how rare mints are.
pub(crate) fn stretch(world: &World) -> Duration {
    (world.shortest_ttl / 2).min(Duration::from_secs(30)).max(Duration::from_millis(500)) * 2
}

/// What the driver holds has one place in the machine, and the other way round.
fn i7_one_place_for_each_credential(world: &mut World) {
    if world.finished.is_some() {
        return;
    }
    let mut known = 0;
    let mut missing = None;
    for (_, login) in world.machine.logins() {
        known += 1;
        if !world.held.contains_key(&login.id) {
            missing = Some(login.id);
        }
    }
    if let Some(login) = missing {
        world.violate(I::I7, format!("the machine looks after login {login}, which nobody holds"));
    } else if known != world.held.len() {
        let held = world.held.len();
        world.violate(I::I7, format!("{held} credentials are held, the machine knows of {known}"));
    }
}

/// A credential is forgotten when its lease is gone, or over as far as the client can tell.
pub fn i7_every_credential_ends(world: &mut World, login: u64) {
    let Some(held) = world.held.get(&login) else { return };
    let Some(lease) = held.lease else { return };
    let Some(known) = world.vault.lease(lease) else { return };
    if known.state != LeaseState::Live || held.unsure {
        return;
    }
    let end = world.vault.effective_end(lease).unwrap_or(known.ends);
    // A server that is away ends nothing; with a clock that was set forward there is nothing to
    // know it by.
    if end > world.real + SLACK && !world.clock_forced {
        let left = world.real.until(end);
        world.violate(
            I::I7,
            format!("forgets login {login}, whose lease lives for another {left:?}"),
        );
    }
}

// ---- I8 and I12: time

/// The machine never takes a lease to be longer than the server has it, the end of its token
/// included, as far as the clocks let it know.
fn i8_and_i12_no_longer_than_the_server_says(world: &mut World) {
    if world.is_asleep() {
        return;
    }
    let now = world.clock();
    let ahead = world.ahead(now);
    let batch = world.plan.token == TokenKind::Batch;
    let truncated = if batch { TRUNCATED } else { Duration::ZERO };
    let mut wrong = None;
    for (stage, login) in world.machine.logins() {
        if stage == Stage::Retiring || login.lost || login.dead {
            continue;
        }
        let Some(held) = world.held.get(&login.id) else { continue };
        let Some(lease) = held.lease.and_then(|lease| Some((lease, world.vault.lease(lease)?)))
        else {
            continue;
        };
        let (id, lease) = lease;
        if lease.state != LeaseState::Live || world.misled_at.is_some_and(|at| at >= lease.issued) {
            continue;
        }
        let real = |end: Time| end.since_start().as_nanos() as i128 - ahead;
        let slack = (SLACK + truncated).as_nanos() as i128;
        // A renewal may shorten a lease by the second that the server cuts off; it is known with
        // the answer.
        let told = !held.unsure && !world.is_request_open(login.id);
        if let Some(end) = login.end
            && told
            && real(end) > lease.ends.since_start().as_nanos() as i128 + slack
        {
            wrong = Some((I::I12, login.id, end, lease.ends));
        }
        let token = world.vault.token(lease.token).map(|token| token.issued);
        let misled = world.misled_at.zip(token).is_some_and(|(at, issued)| at >= issued);
        if let (Some(end), Some(server)) = (login.effective_end(), world.vault.effective_end(id))
            && told
            && !misled
            && real(end) > server.since_start().as_nanos() as i128 + slack
        {
            wrong = Some((I::I8, login.id, end, server));
        }
    }
    if let Some((invariant, login, end, server)) = wrong {
        world.violate(invariant, format!("takes login {login} to be good until {end:?} (clock ahead {ahead} ns), the server until {server:?}"));
    }
}

// ---- I9: nothing left behind

/// A shutdown lets its drains come to their end, if there is time; each connection that it leaves
/// is one that could not be ended at the deadline, or its login is reported.
pub fn i9_nothing_is_left_in_pools(world: &mut World, remains: &[Remains]) {
    let running = world.drains.len();
    if running > 0 && world.stopping.is_some_and(|deadline| world.believed() < deadline) {
        world.violate(I::I9, format!("finishes while {running} drains run"));
    }
    let reported = |generation: u64| {
        let name = world.secret(generation).map(crate::world::username);
        remains.iter().any(|r| r.username == name && r.why.contains("connections"))
    };
    let left = |pool: &Pool| {
        let known = |n: u64| pool.overdue.contains(&n) || reported(n);
        pool.conns.iter().filter(|conn| !known(conn.generation)).count()
    };
    let left: usize = world.pools.iter().map(left).sum();
    if left > 0 {
        world.violate(I::I9, format!("{left} connections are left, and none is reported"));
    }
}

/// The report of a shutdown names every lease that is left, and none that is not.
///
/// `gone` are those whose leases had ended before the tokens were given back.
pub fn i9_the_report_is_exact(world: &mut World, tokens_left: &[TokenId], gone: &[LoginId]) {
    let remains = world.finished.clone().unwrap_or_default();
    let mints = remains.iter().filter(|r| r.username.is_none()).count();
    if mints != world.unanswered.len() {
        let open = world.unanswered.len();
        world.violate(I::I9, format!("{open} mints are unanswered, {mints} reported"));
    }
    let mut wrong = Vec::new();
    for (login, held) in &world.held {
        let Some(lease) = held.lease else { continue };
        let of_it = |r: &&Remains| r.username.as_deref() == Some(&held.username());
        let entry = remains.iter().find(of_it);
        let listed = entry.is_some();
        // Its connections are what is left of it.
        let over = entry.is_some_and(|r| r.ends_in == Some(Duration::ZERO));
        let known = world.vault.lease(lease).filter(|known| known.state == LeaseState::Live);
        // Its own token's end, which the session reports, is its end too.
        let with_token = known.is_some_and(|known| tokens_left.contains(&known.token));
        match known {
            Some(_) if !listed && !held.unsure && !with_token => {
                wrong.push((*login, "is left, and not reported"))
            }
            None if listed
                && !over
                && !held.unsure
                && !world.is_request_open(*login)
                && gone.contains(login) =>
            {
                wrong.push((*login, "is reported, and not there"));
            }
            _ => {}
        }
    }
    for (login, what) in wrong {
        world.violate(I::I9, format!("login {login} {what}: {remains:?}"));
    }
}

// ---- I11: never silent

/// While it is not finished, something is due, or an answer is under way.
fn i11_something_is_due(world: &mut World) {
    if world.finished.is_some() || world.machine.next_deadline().is_some() {
        return;
    }
    let waits = !world.unanswered.is_empty() || world.is_anything_under_way();
    // A login without an end needs nothing until there is news.
    let rests = world.plan.source != Source::Dynamic
        && world.published > 0
        && !world.machine.is_rotating()
        && world.stopping.is_none();
    let lasting = world.machine.logins().all(|(_, l)| l.effective_end().is_none());
    if !(waits || rests || (lasting && world.published > 0 && world.stopping.is_none())) {
        world.violate(I::I11, "nothing is due, and nothing is under way".to_owned());
    }
}

/// A timer that is due is not due again at once.
pub fn i11_no_spinning(world: &mut World, wakes: u32) {
    if wakes > 50 {
        world.violate(I::I11, "the driver spins".to_owned());
    }
}
