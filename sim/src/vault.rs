//! A model of a Vault or OpenBao server with a database engine, an AppRole login and the Postgres
//! behind it: as much of them as a lease can notice.
//!
//! Pure: no I/O, no clock, no chance. Every call says what time it is on the server's clock, which
//! never runs backwards, and what falls due until then happens first. The same calls give the same
//! answers; the whole state can be cloned, compared and hashed.
//!
//! What it does is measured, not assumed: `tests/model_agrees_with_openbao.rs` runs the same
//! sequences against it and a real server.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use leasehold::ErrorKind;
use leasehold::clock::Time;

/// What a server grants where a role says nothing, and the most that it grants at all: 32 days.
const SYSTEM_MAX: u64 = 2_764_800;

/// Postgres accepts a login for this long after its lease ends.
pub const VALID_UNTIL_SLACK: Duration = Duration::from_secs(5);

/// Pauses between the server's own tries to end a lease; after the last of them it gives up.
/// The server draws each from a range; these are about the middles.
const REVOCATION_PAUSES: [u64; 5] = [15, 45, 60, 150, 390];

/// A token's number. Never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenId(pub u32);

/// A lease's number. Never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub u32);

/// A login's number: the role in Postgres that a lease stands for. Never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LoginId(pub u32);

/// A dynamic role of the database engine. In whole seconds, as the server counts; zero means the
/// server's own default of 32 days.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Role {
    /// `default_ttl`: what a lease is issued with, and renewed by where no increment is asked for.
    pub default_ttl: u64,
    /// `max_ttl`: no lease is renewed beyond it.
    pub max_ttl: u64,
}

/// An AppRole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AppRole {
    /// `token_ttl`, in seconds.
    pub token_ttl: u64,
    /// `token_max_ttl`, in seconds.
    pub token_max_ttl: u64,
    /// `token_period`, in seconds: if not zero, a token lives on for as long as it is renewed.
    pub period: u64,
    /// Batch tokens: can be neither renewed nor revoked, and cut their leases to their own end.
    pub batch: bool,
}

impl AppRole {
    /// Service tokens of `token_ttl`, renewable up to `token_max_ttl`.
    #[must_use]
    pub const fn new(token_ttl: u64, token_max_ttl: u64) -> Self {
        Self { token_ttl, token_max_ttl, period: 0, batch: false }
    }
}

/// What a policy allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rights {
    /// Read on `database/creds/...`.
    pub issue: bool,
    /// Update on `sys/leases/renew`.
    pub renew: bool,
    /// Update on `sys/leases/revoke`.
    pub revoke: bool,
    /// Update on `sys/leases/lookup`.
    pub lookup: bool,
}

impl Rights {
    /// All that a service needs.
    pub const ALL: Self = Self { issue: true, renew: true, revoke: true, lookup: true };
}

/// What is wrong with the server or the Postgres behind it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Weather {
    /// The process is not there, or the network between.
    pub down: bool,
    /// Sealed: nothing is served, and nothing is ended.
    pub sealed: bool,
    /// Between two leaders: standbys answer 500 or 307, nothing is ended.
    pub electing: bool,
    /// A rate-limit quota is used up.
    pub throttled: Option<Throttle>,
    /// Postgres can't be reached by the server.
    pub postgres_down: bool,
    /// Postgres refuses to drop roles: something depends on them (2BP01).
    pub drops_refused: bool,
}

/// A quota that is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Throttle {
    /// `Retry-After`, in seconds. By default servers send none.
    pub retry_after: Option<u64>,
}

impl Weather {
    /// The server answers requests and ends what is over.
    #[must_use]
    pub const fn serves(&self) -> bool {
        !(self.down || self.sealed || self.electing)
    }
}

/// Why a request was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// No connection.
    Down,
    /// 503.
    Sealed,
    /// 500 or 307: no active node is known.
    NoLeader,
    /// 429.
    Throttled(Option<u64>),
    /// 403, bare: the token is unknown, revoked or over.
    TokenDead,
    /// 403 of a live token.
    Denied,
    /// 400 on login.
    BadLogin,
    /// 400 on issue: `unknown role`.
    UnknownRole,
    /// 400 on renewal: the role that the lease is of was deleted.
    RoleGone,
    /// 500 on issue, 400 on renewal and revocation: what Postgres says, or that it is not there.
    Postgres,
    /// 400: `lease not found`; on lookup `invalid lease`.
    LeaseUnknown,
    /// 400: over, and not ended yet because that failed so far.
    LeaseExpired,
    /// 400: over, and the server has given up ending it.
    Irrevocable,
    /// 400: `past the max TTL, cannot renew`.
    PastMaxTtl,
    /// 500 on a token's renewal: the same of a token.
    TokenPastMaxTtl,
    /// 400: batch tokens.
    NotRenewable,
}

impl Refusal {
    /// What `leasehold-vault` makes of it.
    #[must_use]
    pub const fn kind(self) -> ErrorKind {
        match self {
            Self::Down => ErrorKind::Unreachable,
            Self::Sealed => ErrorKind::Sealed,
            Self::NoLeader | Self::Postgres | Self::TokenPastMaxTtl => ErrorKind::ServerFault,
            Self::Throttled(_) => ErrorKind::Throttled,
            Self::TokenDead => ErrorKind::TokenLost,
            Self::Denied | Self::BadLogin => ErrorKind::Denied,
            Self::UnknownRole | Self::RoleGone => ErrorKind::NotFound,
            Self::LeaseUnknown | Self::LeaseExpired | Self::Irrevocable => ErrorKind::LeaseLost,
            Self::PastMaxTtl | Self::NotRenewable => ErrorKind::NotRenewable,
        }
    }

    /// As the error of a source. [`Refusal::TokenDead`] is only an error where logging in anew does
    /// not help.
    #[must_use]
    pub fn error(self) -> leasehold::SourceError {
        let error = leasehold::SourceError::new(self.kind(), self.to_string());
        match self {
            Self::Throttled(Some(secs)) => error.retry_after(Duration::from_secs(secs)),
            _ => error,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What a token got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TokenGrant {
    /// Which.
    pub token: TokenId,
    /// `lease_duration`: seconds from now.
    pub ttl: u64,
}

/// What a lease got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LeaseGrant {
    /// Which.
    pub lease: LeaseId,
    /// Its role in Postgres.
    pub login: LoginId,
    /// `lease_duration`: seconds from now.
    pub ttl: u64,
}

/// A token that the server knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token {
    /// When it was made.
    pub issued: Time,
    /// When it ends unless it is renewed. `None`: a root token, never.
    pub ends: Option<Time>,
    /// Neither renewable nor revocable.
    pub batch: bool,
}

/// A lease that the server knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Lease {
    /// The role in Postgres.
    pub login: LoginId,
    /// The role definition that it is of.
    pub role: u8,
    /// The token that it dies with.
    pub token: TokenId,
    /// When it was issued.
    pub issued: Time,
    /// When it ends unless it is renewed, or dies with its token before.
    pub ends: Time,
    /// Where it stands.
    pub state: LeaseState,
}

/// Where a lease stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LeaseState {
    /// In force.
    Live,
    /// Over; ending its role in Postgres failed so far, and is tried again.
    Ending {
        /// Tries that failed.
        failed: u8,
        /// When the next one is.
        next: Time,
    },
    /// Over; the server has given up.
    Irrevocable,
}

/// A role in Postgres that the server made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PgRole {
    /// No login after it, whatever becomes of the lease.
    pub valid_until: Time,
    /// Nobody will ever drop it but a person: its lease was never stored, or was forgotten by
    /// force.
    pub orphan: bool,
}

/// The server, its tokens and leases, and the roles in Postgres.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Vault {
    now: Time,
    /// When something ends or is tried next, if the server serves.
    due: Option<Time>,
    weather: Weather,
    rights: Rights,
    app_role: Option<AppRole>,
    roles: Vec<Option<Role>>,
    tokens: BTreeMap<TokenId, Token>,
    leases: BTreeMap<LeaseId, Lease>,
    pg_roles: BTreeMap<LoginId, PgRole>,
    next_id: u32,
}

impl Vault {
    /// A healthy server with one role (number 0) and an AppRole, at time zero, which is a whole
    /// second on its clock.
    #[must_use]
    pub fn new(role: Role, app_role: AppRole) -> Self {
        Self {
            now: Time::ZERO,
            due: None,
            weather: Weather::default(),
            rights: Rights::ALL,
            app_role: Some(app_role),
            roles: vec![Some(role)],
            tokens: BTreeMap::new(),
            leases: BTreeMap::new(),
            pg_roles: BTreeMap::new(),
            next_id: 1,
        }
    }

    // ---- what a client asks

    /// `auth/approle/login`.
    ///
    /// # Errors
    /// What the server answers.
    pub fn login(&mut self, now: Time) -> Result<TokenGrant, Refusal> {
        self.serve(now)?;
        let app = self.app_role.ok_or(Refusal::BadLogin)?;
        let wanted = if app.period > 0 { app.period } else { or_system(app.token_ttl) };
        let ttl = self.granted(0, wanted, app.token_max_ttl, self.now).unwrap_or(wanted);
        let token = TokenId(self.id());
        // A batch token carries its times in itself, in whole seconds.
        let from = if app.batch { whole(self.now) } else { self.now };
        let ends = Some(from + Duration::from_secs(ttl));
        self.tokens.insert(token, Token { issued: self.now, ends, batch: app.batch });
        self.reckon();
        Ok(TokenGrant { token, ttl })
    }

    /// `auth/token/renew-self`. An increment of zero asks for the AppRole's `token_ttl`.
    ///
    /// # Errors
    /// What the server answers.
    pub fn renew_token(
        &mut self,
        now: Time,
        token: TokenId,
        increment: u64,
    ) -> Result<u64, Refusal> {
        let known = self.authorise(now, token, true)?;
        if known.batch || known.ends.is_none() {
            return Err(Refusal::NotRenewable);
        }
        // An AppRole that was deleted reads as one that does not exist during renewal.
        let app = self.app_role.ok_or(Refusal::NotRenewable)?;
        let ttl = if app.period > 0 {
            app.period
        } else {
            self.granted(increment, app.token_ttl, app.token_max_ttl, known.issued)
                .ok_or(Refusal::TokenPastMaxTtl)?
        };
        let ends = self.now + Duration::from_secs(ttl);
        if let Some(known) = self.tokens.get_mut(&token) {
            known.ends = Some(ends);
        }
        self.reckon();
        Ok(ttl)
    }

    /// `auth/token/revoke-self`: its leases die with it.
    ///
    /// # Errors
    /// What the server answers.
    pub fn revoke_token(&mut self, now: Time, token: TokenId) -> Result<(), Refusal> {
        let known = self.authorise(now, token, true)?;
        if known.batch {
            return Err(Refusal::NotRenewable);
        }
        self.end_token(token);
        self.settle();
        Ok(())
    }

    /// `auth/token/lookup-self`: whole seconds that are left, `None` for a token without an end.
    ///
    /// # Errors
    /// What the server answers.
    pub fn lookup_token(&mut self, now: Time, token: TokenId) -> Result<Option<u64>, Refusal> {
        let known = self.authorise(now, token, true)?;
        Ok(known.ends.map(|ends| self.now.until(ends).as_secs()))
    }

    /// `database/creds/ROLE`.
    ///
    /// # Errors
    /// What the server answers.
    pub fn issue(&mut self, now: Time, token: TokenId, role: u8) -> Result<LeaseGrant, Refusal> {
        let known = self.authorise(now, token, self.rights.issue)?;
        let definition = self.role(role).ok_or(Refusal::UnknownRole)?;
        if self.weather.postgres_down {
            return Err(Refusal::Postgres);
        }
        let wanted = or_system(definition.default_ttl);
        let full = self.granted(0, wanted, definition.max_ttl, self.now).unwrap_or(wanted);
        // A cut one is rounded at issue, and cut off at renewal.
        let half = Duration::from_millis(500);
        let (ttl, ends) = self.cut_to(known, full, half);
        let (lease, login) = (LeaseId(self.id()), LoginId(self.id()));
        let valid_until = self.now + Duration::from_secs(full) + VALID_UNTIL_SLACK;
        self.pg_roles.insert(login, PgRole { valid_until, orphan: false });
        let state = LeaseState::Live;
        self.leases.insert(lease, Lease { login, role, token, issued: self.now, ends, state });
        self.reckon();
        Ok(LeaseGrant { lease, login, ttl })
    }

    /// As [`issue`](Self::issue), cut off by the client between the making of the role and the
    /// storing of its lease: a role that nobody drops.
    ///
    /// # Errors
    /// What the server would have answered, had anybody listened.
    pub fn issue_cut(&mut self, now: Time, token: TokenId, role: u8) -> Result<LoginId, Refusal> {
        let LeaseGrant { lease, login, .. } = self.issue(now, token, role)?;
        self.leases.remove(&lease);
        if let Some(made) = self.pg_roles.get_mut(&login) {
            made.orphan = true;
        }
        self.reckon();
        Ok(login)
    }

    /// `sys/leases/renew`: seconds granted from now. An increment of zero asks for the role's
    /// `default_ttl`; one that is shorter than what is left shortens the lease.
    ///
    /// # Errors
    /// What the server answers.
    pub fn renew(
        &mut self,
        now: Time,
        token: TokenId,
        lease: LeaseId,
        increment: u64,
    ) -> Result<u64, Refusal> {
        self.authorise(now, token, self.rights.renew)?;
        let held = *self.leases.get(&lease).ok_or(Refusal::LeaseUnknown)?;
        match held.state {
            LeaseState::Live => {}
            LeaseState::Ending { .. } => return Err(Refusal::LeaseExpired),
            LeaseState::Irrevocable => return Err(Refusal::Irrevocable),
        }
        let role = self.role(held.role).ok_or(Refusal::RoleGone)?;
        let full = self
            .granted(increment, role.default_ttl, role.max_ttl, held.issued)
            .ok_or(Refusal::PastMaxTtl)?;
        if self.weather.postgres_down || !self.pg_roles.contains_key(&held.login) {
            return Err(Refusal::Postgres);
        }
        // Whoever renews, it is the token that issued it which counts.
        let creator = *self.tokens.get(&held.token).ok_or(Refusal::LeaseExpired)?;
        let (ttl, ends) = self.cut_to(creator, full, Duration::ZERO);
        if let Some(made) = self.pg_roles.get_mut(&held.login) {
            made.valid_until = self.now + Duration::from_secs(full) + VALID_UNTIL_SLACK;
        }
        if let Some(held) = self.leases.get_mut(&lease) {
            held.ends = ends;
        }
        self.reckon();
        Ok(ttl)
    }

    /// `sys/leases/revoke`, `sync` as by default: done when it is answered. Unknown leases are
    /// revoked successfully. A refusal changes nothing.
    ///
    /// # Errors
    /// What the server answers.
    pub fn revoke(&mut self, now: Time, token: TokenId, lease: LeaseId) -> Result<(), Refusal> {
        self.authorise(now, token, self.rights.revoke)?;
        self.revoke_sync(lease)
    }

    /// `sys/leases/revoke` with `sync=false`: the lease is over, and the server goes on trying.
    ///
    /// # Errors
    /// What the server answers.
    pub fn revoke_queued(
        &mut self,
        now: Time,
        token: TokenId,
        lease: LeaseId,
    ) -> Result<(), Refusal> {
        self.authorise(now, token, self.rights.revoke)?;
        self.end_lease(lease);
        self.settle();
        Ok(())
    }

    /// `sys/leases/lookup`: whole seconds that are left; below zero for one that is over and not
    /// ended yet.
    ///
    /// # Errors
    /// What the server answers.
    pub fn lookup(&mut self, now: Time, token: TokenId, lease: LeaseId) -> Result<i64, Refusal> {
        self.authorise(now, token, self.rights.lookup)?;
        let held = self.leases.get(&lease).ok_or(Refusal::LeaseUnknown)?;
        let left = self.now.until(held.ends).as_secs().cast_signed();
        let over = (self.now - held.ends).as_secs().cast_signed();
        Ok(left - over)
    }

    // ---- what people do

    /// Changes the weather. When the server comes back, it ends what was over meanwhile.
    pub fn set_weather(&mut self, now: Time, weather: Weather) {
        self.advance(now);
        self.weather = weather;
        self.settle();
    }

    /// Changes the policy, at once and for live tokens too.
    pub fn set_rights(&mut self, now: Time, rights: Rights) {
        self.advance(now);
        self.rights = rights;
    }

    /// Writes, changes or deletes role number `role`. Leases keep their time until they are renewed.
    pub fn set_role(&mut self, now: Time, role: u8, definition: Option<Role>) {
        self.advance(now);
        let at = usize::from(role);
        if self.roles.len() <= at {
            self.roles.resize(at + 1, None);
        }
        self.roles[at] = definition;
    }

    /// Changes or deletes the AppRole. Tokens keep their time until they are renewed.
    pub fn set_app_role(&mut self, now: Time, app_role: Option<AppRole>) {
        self.advance(now);
        self.app_role = app_role;
    }

    /// A token that never ends.
    pub fn root_token(&mut self, now: Time) -> TokenId {
        self.advance(now);
        let token = TokenId(self.id());
        self.tokens.insert(token, Token { issued: self.now, ends: None, batch: false });
        token
    }

    /// An operator revokes a lease. Refused while Postgres is; says whether it was done.
    pub fn revoke_by_hand(&mut self, now: Time, lease: LeaseId) -> bool {
        self.advance(now);
        self.weather.serves() && self.revoke_sync(lease).is_ok()
    }

    /// An operator revokes a lease by force: it is forgotten even if its role stays in Postgres.
    pub fn revoke_by_force(&mut self, now: Time, lease: LeaseId) -> bool {
        self.advance(now);
        if !self.weather.serves() {
            return false;
        }
        if self.revoke_sync(lease).is_err()
            && let Some(held) = self.leases.remove(&lease)
            && let Some(made) = self.pg_roles.get_mut(&held.login)
        {
            made.orphan = true;
        }
        self.reckon();
        true
    }

    /// An operator revokes a token, by its accessor.
    pub fn revoke_token_by_hand(&mut self, now: Time, token: TokenId) -> bool {
        self.advance(now);
        let known = self.tokens.get(&token).is_some_and(|known| !known.batch);
        if !self.weather.serves() || !known {
            return false;
        }
        self.end_token(token);
        self.settle();
        true
    }

    /// An operator drops a role in Postgres. The lease stays.
    pub fn drop_pg_role(&mut self, now: Time, login: LoginId) -> bool {
        self.advance(now);
        self.pg_roles.remove(&login).is_some()
    }

    /// Lets the time pass.
    pub fn advance(&mut self, now: Time) {
        while let Some(due) = self.due.filter(|due| *due <= now) {
            self.now = self.now.max(due);
            self.settle();
        }
        self.now = self.now.max(now);
    }

    // ---- how things stand

    /// The time until which everything has happened.
    #[must_use]
    pub fn now(&self) -> Time {
        self.now
    }

    /// When something happens next by itself.
    #[must_use]
    pub fn next_due(&self) -> Option<Time> {
        self.due
    }

    /// The weather.
    #[must_use]
    pub fn weather(&self) -> Weather {
        self.weather
    }

    /// The policy.
    #[must_use]
    pub fn rights(&self) -> Rights {
        self.rights
    }

    /// Role number `role`, if there is one.
    #[must_use]
    pub fn role(&self, role: u8) -> Option<Role> {
        self.roles.get(usize::from(role)).copied().flatten()
    }

    /// All tokens that are alive.
    pub fn tokens(&self) -> impl Iterator<Item = (TokenId, Token)> + '_ {
        self.tokens.iter().map(|(id, token)| (*id, *token))
    }

    /// A token, if it is alive. One that ended while nothing is served counts as alive until the
    /// server comes back, though no request of it would be.
    #[must_use]
    pub fn token(&self, token: TokenId) -> Option<Token> {
        self.tokens.get(&token).copied()
    }

    /// All leases that the server knows, those that are over and not ended included.
    pub fn leases(&self) -> impl Iterator<Item = (LeaseId, Lease)> + '_ {
        self.leases.iter().map(|(id, lease)| (*id, *lease))
    }

    /// A lease, if the server knows it.
    #[must_use]
    pub fn lease(&self, lease: LeaseId) -> Option<Lease> {
        self.leases.get(&lease).copied()
    }

    /// When a lease ends, its token's end included, if nobody renews either.
    #[must_use]
    pub fn effective_end(&self, lease: LeaseId) -> Option<Time> {
        let lease = self.leases.get(&lease)?;
        let token = self.tokens.get(&lease.token).and_then(|token| token.ends);
        Some(token.map_or(lease.ends, |ends| ends.min(lease.ends)))
    }

    /// All roles that are in Postgres.
    pub fn pg_roles(&self) -> impl Iterator<Item = (LoginId, PgRole)> + '_ {
        self.pg_roles.iter().map(|(id, role)| (*id, *role))
    }

    /// A role, if it is in Postgres.
    #[must_use]
    pub fn pg_role(&self, login: LoginId) -> Option<PgRole> {
        self.pg_roles.get(&login).copied()
    }

    /// Postgres would let it in at `now`, if it can be reached. Lets no time pass: advance first.
    #[must_use]
    pub fn login_works(&self, now: Time, login: LoginId) -> bool {
        self.pg_roles.get(&login).is_some_and(|role| now < role.valid_until)
    }

    /// The number of the token that is made next, or of the lease, whose login has the one after.
    #[must_use]
    pub fn peek_id(&self) -> u32 {
        self.next_id
    }

    /// Gives numbers above `known` only, and above all that it knows itself.
    pub(crate) fn renumber(&mut self, known: u32) {
        let tokens = self.tokens.keys().map(|id| id.0);
        let leases = self.leases.keys().map(|id| id.0);
        let logins = self.pg_roles.keys().map(|id| id.0);
        let last = tokens.chain(leases).chain(logins).max().unwrap_or(0);
        self.next_id = last.max(known) + 1;
    }

    // ---- how it works inside

    fn id(&mut self) -> u32 {
        let id = self.next_id;
        self.next_id += 1;
        id
    }

    /// What every request meets first.
    fn serve(&mut self, now: Time) -> Result<(), Refusal> {
        self.advance(now);
        match self.weather {
            Weather { down: true, .. } => Err(Refusal::Down),
            Weather { sealed: true, .. } => Err(Refusal::Sealed),
            Weather { electing: true, .. } => Err(Refusal::NoLeader),
            Weather { throttled: Some(quota), .. } => Err(Refusal::Throttled(quota.retry_after)),
            _ => Ok(()),
        }
    }

    fn authorise(&mut self, now: Time, token: TokenId, right: bool) -> Result<Token, Refusal> {
        self.serve(now)?;
        let known = *self.tokens.get(&token).ok_or(Refusal::TokenDead)?;
        // A root token needs no policy.
        if right || known.ends.is_none() { Ok(known) } else { Err(Refusal::Denied) }
    }

    /// The server's arithmetic: times are cut to whole seconds before they are compared, so that
    /// the last second before the maximum may be refused, and what is granted may end up to a
    /// second after it.
    fn granted(&self, increment: u64, default: u64, max: u64, issued: Time) -> Option<u64> {
        let max = if max == 0 { SYSTEM_MAX } else { max.min(SYSTEM_MAX) };
        let wanted = if increment > 0 { increment } else { or_system(default) };
        let since = self.now.since_start().as_secs() - issued.since_start().as_secs();
        let left = max.saturating_sub(since);
        (left > 0).then_some(wanted.min(left))
    }

    /// What is said to be granted, and when it ends. Only batch tokens cut what they issue, to their
    /// own end; a lease of any other dies with its token all the same, and no answer says so.
    fn cut_to(&self, token: Token, ttl: u64, round: Duration) -> (u64, Time) {
        let full = self.now + Duration::from_secs(ttl);
        match token.ends {
            Some(ends) if token.batch && ends < full => {
                ((self.now.until(ends) + round).as_secs(), ends)
            }
            _ => (ttl, full),
        }
    }

    fn revoke_sync(&mut self, lease: LeaseId) -> Result<(), Refusal> {
        let Some(held) = self.leases.get(&lease) else {
            return Ok(());
        };
        let login = held.login;
        if !self.drop_role(login) {
            return Err(Refusal::Postgres);
        }
        self.leases.remove(&lease);
        self.reckon();
        Ok(())
    }

    /// A role that is not there any more is dropped successfully.
    fn drop_role(&mut self, login: LoginId) -> bool {
        let done = !self.weather.postgres_down && !self.weather.drops_refused;
        if done {
            self.pg_roles.remove(&login);
        }
        done
    }

    fn end_lease(&mut self, lease: LeaseId) {
        let now = self.now;
        if let Some(held) = self.leases.get_mut(&lease)
            && held.state == LeaseState::Live
        {
            held.ends = held.ends.min(now);
            held.state = LeaseState::Ending { failed: 0, next: now };
        }
    }

    fn end_token(&mut self, token: TokenId) {
        self.tokens.remove(&token);
        let of_it = self.leases.iter().filter(|(_, lease)| lease.token == token);
        for lease in of_it.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.end_lease(lease);
        }
    }

    /// Ends what is over by now, as far as that is possible.
    fn settle(&mut self) {
        if self.weather.serves() {
            let now = self.now;
            let over = |token: &Token| token.ends.is_some_and(|ends| ends <= now);
            let tokens = self.tokens.iter().filter(|(_, token)| over(token));
            for token in tokens.map(|(id, _)| *id).collect::<Vec<_>>() {
                self.end_token(token);
            }
            let leases = self.leases.iter().filter(|(_, lease)| match lease.state {
                LeaseState::Live => lease.ends <= now,
                LeaseState::Ending { next, .. } => next <= now,
                LeaseState::Irrevocable => false,
            });
            for lease in leases.map(|(id, _)| *id).collect::<Vec<_>>() {
                self.end_lease(lease);
                self.try_ending(lease);
            }
        }
        self.reckon();
    }

    fn try_ending(&mut self, lease: LeaseId) {
        let Some(Lease { login, state: LeaseState::Ending { failed, .. }, .. }) =
            self.leases.get(&lease).copied()
        else {
            return;
        };
        if self.drop_role(login) {
            self.leases.remove(&lease);
            return;
        }
        let pause = REVOCATION_PAUSES.get(usize::from(failed));
        let state = match pause {
            Some(secs) => {
                let next = self.now + Duration::from_secs(*secs);
                LeaseState::Ending { failed: failed + 1, next }
            }
            None => LeaseState::Irrevocable,
        };
        if let Some(held) = self.leases.get_mut(&lease) {
            held.state = state;
        }
    }

    fn reckon(&mut self) {
        self.due = None;
        if !self.weather.serves() {
            return;
        }
        let tokens = self.tokens.values().filter_map(|token| token.ends);
        let leases = self.leases.values().filter_map(|lease| match lease.state {
            LeaseState::Live => Some(lease.ends),
            LeaseState::Ending { next, .. } => Some(next),
            LeaseState::Irrevocable => None,
        });
        self.due = tokens.chain(leases).min();
    }
}

fn whole(at: Time) -> Time {
    Time::from_start(Duration::from_secs(at.since_start().as_secs()))
}

fn or_system(ttl: u64) -> u64 {
    if ttl == 0 { SYSTEM_MAX } else { ttl }
}

#[cfg(test)]
mod tests;
