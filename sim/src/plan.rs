//! What is to happen in one history, as data: it can be shrunk, printed and run again.
//!
//! Everything is decoded from numbers below [`FULL`], in which 0 is the plainest choice: proptest
//! draws the numbers from the history's seed, and shrinks them towards 0 when a history fails.

use std::time::Duration;

use proptest::prelude::*;

/// Numbers are drawn from `0..FULL`.
pub const FULL: u32 = 1_000_000;

/// One history's plan.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Decides the machine's jitter and the borrowers' moves.
    pub seed: u64,
    /// What the source gives.
    pub source: Source,
    /// What it authenticates with.
    pub token: TokenKind,
    /// The role's default TTL and maximum TTL, in seconds. Of a static role: its period.
    pub ttl: u64,
    /// See `ttl`.
    pub max_ttl: u64,
    /// The token's, in seconds.
    pub token_ttl: u64,
    /// See `token_ttl`.
    pub token_max_ttl: u64,
    /// As the user set it.
    pub grace: Option<Duration>,
    /// As the user set it.
    pub roll: Option<Duration>,
    /// Attached right after the start.
    pub pools: Vec<PoolPlan>,
    /// How long there may be weather.
    pub storm: Duration,
    /// What happens when.
    pub weather: Vec<(Duration, Weather)>,
    /// What becomes of each request, in the order in which they are sent; prompt after the last.
    pub fates: Vec<Fate>,
    /// When the service is shut down; `None`: after the weather has cleared up.
    pub shutdown: Option<Duration>,
    /// The time that a shutdown gives to borrowed connections.
    pub drain: Duration,
}

/// What the source gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Logins on leases.
    Dynamic,
    /// One login without a lease, whose password changes each period.
    Static {
        /// The time to the next change is told as a TTL.
        tells_ttl: bool,
    },
}

/// What the source authenticates with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TokenKind {
    /// Log in anew at any time.
    AppRole,
    /// The same, with batch tokens.
    Batch,
    /// A token that never ends.
    Root,
    /// A token that somebody gave, renewed while that is possible.
    Given,
}

/// A pool.
#[derive(Clone, Copy, Debug)]
pub struct PoolPlan {
    /// As deadpool does it, or as sqlx does.
    pub aborts: bool,
    /// Connections at most.
    pub max: usize,
    /// How far its server lags behind the one on which roles are made.
    pub lag: Duration,
}

/// What happens around us.
#[derive(Clone, Copy, Debug)]
pub enum Weather {
    /// Vault can't be reached.
    Down(Duration),
    /// Vault is sealed.
    Sealed(Duration),
    /// Vault has no leader.
    Electing(Duration),
    /// A quota is used up.
    Throttled(Duration, Option<u64>),
    /// Postgres is restarted: sessions end, nobody gets in.
    PostgresRestart(Duration),
    /// Vault can't reach Postgres.
    PostgresFarFromVault(Duration),
    /// Roles can't be dropped.
    DropsRefused(Duration),
    /// The pools talk to a replica that learns of roles late.
    Failover(Duration, Duration),
    /// 53300.
    Full(Duration),
    /// The policy is wrong: issuing, renewing, revoking.
    Denied(Duration, [bool; 3]),
    /// The role's definition is gone.
    RoleDeleted(Duration),
    /// The role's TTLs change to this part of what they were, in per cent.
    RoleChanged(u64),
    /// Logging in is refused.
    AppRoleDeleted(Duration),
    /// Somebody revokes the current lease.
    LeaseRevoked,
    /// Somebody revokes it by force.
    LeaseForced,
    /// Somebody revokes the token of the current lease.
    TokenRevoked,
    /// Somebody drops the current role in Postgres.
    RoleDropped,
    /// The wall clock jumps forward.
    Forward(Duration),
    /// The wall clock is set back.
    Back(Duration),
    /// The machine is suspended.
    Suspended(Duration),
    /// A pool is attached.
    Attach(PoolPlan),
    /// The user closes a pool.
    Close(usize),
    /// A borrower keeps a connection for ever.
    Hold(usize),
    /// Somebody asks for a rotation.
    Rotate,
    /// Something is reported of the current login: suspected, rejected, revoked. It may be wrong.
    Report(u8),
    /// The source says that it has news.
    News,
    /// The password of the static role changes out of turn.
    PasswordChanged,
    /// Borrowers come.
    Rush,
}

impl Weather {
    /// Its name in counts.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Down(_) => "vault_down",
            Self::Sealed(_) => "sealed",
            Self::Electing(_) => "leader_change",
            Self::Throttled(..) => "throttled",
            Self::PostgresRestart(_) => "postgres_restart",
            Self::PostgresFarFromVault(_) => "postgres_far_from_vault",
            Self::DropsRefused(_) => "drops_refused",
            Self::Failover(..) => "failover_to_lagging_replica",
            Self::Full(_) => "postgres_full",
            Self::Denied(..) => "denied",
            Self::RoleDeleted(_) => "role_deleted",
            Self::RoleChanged(_) => "role_changed",
            Self::AppRoleDeleted(_) => "login_refused",
            Self::LeaseRevoked => "lease_revoked_by_hand",
            Self::LeaseForced => "lease_revoked_by_force",
            Self::TokenRevoked => "token_revoked_by_hand",
            Self::RoleDropped => "role_dropped_by_hand",
            Self::Forward(_) => "clock_forward",
            Self::Back(_) => "clock_back",
            Self::Suspended(_) => "suspended",
            Self::Attach(_) => "pool_attached",
            Self::Close(_) => "pool_closed",
            Self::Hold(_) => "held_for_ever",
            Self::Rotate => "rotate_requested",
            Self::Report(_) => "reported",
            Self::News => "news",
            Self::PasswordChanged => "password_changed",
            Self::Rush => "rush",
        }
    }
}

/// What becomes of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fate {
    /// On the way there.
    pub there: Duration,
    /// On the way back.
    pub back: Duration,
    /// What is special about it.
    pub kind: FateKind,
}

/// See [`Fate`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FateKind {
    /// Nothing.
    Prompt,
    /// It takes its time.
    Slow,
    /// It never arrives.
    LostBefore,
    /// Its answer never arrives.
    LostAfter,
    /// It arrives twice, or its answer does.
    Twice,
    /// It takes minutes.
    Late,
    /// Nobody ever hears of it again, not even of its failure.
    Never,
    /// It is cut off while it is carried out.
    Cut,
}

impl FateKind {
    /// Its name in counts.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Prompt => "prompt",
            Self::Slow => "slow_reply",
            Self::LostBefore => "lost_request",
            Self::LostAfter => "lost_reply",
            Self::Twice => "duplicated",
            Self::Late => "late_reply",
            Self::Never => "never_answered",
            Self::Cut => "cut_off",
        }
    }
}

impl Fate {
    /// Answered at once.
    pub const PROMPT: Self = Self {
        there: Duration::from_millis(2),
        back: Duration::from_millis(3),
        kind: FateKind::Prompt,
    };

    fn decode(n: u32) -> Self {
        let part = |from: u32, to: u32| f64::from(n - from) / f64::from(to - from);
        let split = |kind, total: Duration| {
            let there = total.mul_f64(f64::from(n % 97) / 97.0);
            Self { there, back: total - there, kind }
        };
        match n {
            0 => Self::PROMPT,
            1..600_000 => split(FateKind::Prompt, Duration::from_millis(u64::from(n % 60))),
            600_000..760_000 => {
                split(FateKind::Slow, log_scale(part(600_000, 760_000), 0.05, 30.0))
            }
            760_000..820_000 => split(FateKind::LostBefore, Duration::from_secs(10)),
            820_000..890_000 => split(FateKind::LostAfter, Duration::from_secs(10)),
            890_000..920_000 => split(FateKind::Twice, Duration::from_millis(5)),
            920_000..970_000 => {
                split(FateKind::Late, log_scale(part(920_000, 970_000), 10.0, 400.0))
            }
            970_000..980_000 => split(FateKind::Never, Duration::from_secs(1)),
            _ => split(FateKind::Cut, Duration::from_secs(2)),
        }
    }
}

fn log_scale(part: f64, from: f64, to: f64) -> Duration {
    Duration::from_secs_f64(from * (to / from).powf(part))
}

fn part(n: u32) -> f64 {
    f64::from(n) / f64::from(FULL)
}

fn pick(n: u32, of: u32) -> u32 {
    (u64::from(n) * u64::from(of) / u64::from(FULL)) as u32
}

impl Weather {
    fn decode(kind: u32, a: u32, b: u32, storm: Duration, ttl: u64) -> Self {
        // Short ones are as likely as long ones, up to a third of the history. Where requests are
        // repeated all the time, half a day shows as much as a month.
        let long = log_scale(part(a), 0.05, (storm.as_secs_f64() / 3.0).max(1.0));
        let lasting = long.min(Duration::from_secs(43_200));
        match pick(kind, 30) {
            0 => Self::Rush,
            1 => Self::Rotate,
            2 => Self::Down(lasting),
            3 => Self::Sealed(lasting),
            4 => Self::Electing(lasting),
            5 => Self::Throttled(lasting, (b.is_multiple_of(2)).then_some(u64::from(b % 60))),
            6 => Self::PostgresRestart(lasting.min(Duration::from_secs(600))),
            7 => Self::PostgresFarFromVault(lasting),
            8 => Self::DropsRefused(lasting),
            9 => Self::Failover(lasting, log_scale(part(b), 0.05, 120.0)),
            10 => Self::Full(lasting),
            11 | 12 => Self::Denied(lasting, [b % 4 == 1, b % 4 == 2, b % 4 >= 2]),
            13 => Self::RoleDeleted(lasting),
            14 => Self::RoleChanged(u64::from(pick(b, 200)) + 20),
            15 => Self::AppRoleDeleted(lasting),
            16 => Self::LeaseRevoked,
            17 => Self::LeaseForced,
            18 => Self::TokenRevoked,
            19 => Self::RoleDropped,
            20 => Self::Forward(long),
            21 => Self::Back(long),
            22 => Self::Suspended(long),
            23 => Self::Attach(PoolPlan::decode(b, ttl)),
            24 => Self::Close(b as usize % 4),
            25 => Self::Hold(b as usize % 4),
            26 | 27 => Self::Report((b % 3) as u8),
            28 => Self::News,
            _ => Self::PasswordChanged,
        }
    }
}

impl Weather {
    fn is_by_hand(&self) -> bool {
        matches!(self, Self::LeaseRevoked | Self::RoleDropped | Self::Rotate | Self::Report(_))
    }
}

impl PoolPlan {
    fn decode(n: u32, ttl: u64) -> Self {
        // One that lags by half of a login's life is of no use with such logins.
        let most = (ttl as f64 / 8.0).min(5.0);
        let lag =
            if n.is_multiple_of(3) { log_scale(part(n), 0.001, most) } else { Duration::ZERO };
        Self { aborts: n % 2 == 1, max: 1 + pick(n, 4) as usize, lag }
    }
}

const HEAD: usize = 18;

impl Plan {
    /// Plans as proptest draws and shrinks them.
    pub fn strategy() -> impl Strategy<Value = Self> {
        let head = proptest::collection::vec(0..FULL, HEAD);
        let weather = proptest::collection::vec((0..FULL, 0..FULL, 0..FULL, 0..FULL), 0..24);
        let fates = proptest::collection::vec(0..FULL, 0..100);
        (head, weather, fates, any::<u64>())
            .prop_map(|(h, w, f, seed)| Self::decode(&h, &w, &f, seed))
    }

    fn decode(h: &[u32], weather: &[(u32, u32, u32, u32)], fates: &[u32], seed: u64) -> Self {
        // Seconds to a week, each scale as likely as the others.
        let ttl = log_scale(part(h[0]), 4.0, 604_800.0).as_secs();
        let source = match pick(h[1], 5) {
            0..=3 => Source::Dynamic,
            _ => Source::Static { tells_ttl: h[1].is_multiple_of(2) },
        };
        let max_ttl = (ttl as f64 * (1.0 + 12.0 * part(h[2]).powi(2))) as u64;
        let token = match pick(h[3], 10) {
            0..=5 => TokenKind::AppRole,
            6 => TokenKind::Batch,
            7..=8 => TokenKind::Root,
            _ => TokenKind::Given,
        };
        // From a third of the lease's TTL up to thirty times as much.
        let token_ttl = ((ttl as f64 * 0.33 * 90f64.powf(part(h[4]))) as u64).max(4);
        let token_max_ttl = token_ttl + (token_ttl as f64 * 10.0 * part(h[5])) as u64;
        let grace = (pick(h[6], 4) == 3).then(|| log_scale(part(h[7]), 0.5, 120.0));
        let roll = (pick(h[8], 4) == 3).then(|| log_scale(part(h[9]), 0.01, 10.0));
        let pools = (0..pick(h[10], 4))
            .map(|i| PoolPlan::decode(h[11 + i as usize], ttl.min(token_ttl)))
            .collect();
        let lives = 2.0 + 9.0 * part(h[14]);
        let storm = Duration::from_secs_f64(ttl as f64 * lives);
        let fair = pick(h[15], 10) == 9;
        let mut happens = Vec::new();
        for (at, kind, a, b) in weather.iter().filter(|_| !fair) {
            let at = storm.mul_f64(part(*at));
            let what = Weather::decode(*kind, *a, *b, storm, ttl.min(token_ttl));
            // What people do once they often do again a moment later.
            let times = if what.is_by_hand() && b % 3 == 2 { 1 + a % 16 } else { 1 };
            let pause = Duration::from_millis(u64::from(200 + b % 3000));
            happens.extend((0..times).map(|n| (at + pause * n, what)));
        }
        let mut weather = happens;
        weather.sort_by_key(|(at, _)| *at);
        let fates = fates.iter().filter(|_| !fair).map(|n| Fate::decode(*n)).collect();
        let shutdown = (pick(h[16], 3) == 2)
            .then(|| storm.mul_f64(f64::from(h[16] % 1000) / 1000.0).max(Duration::from_millis(1)));
        let drain =
            if h[17] == 0 { Duration::from_secs(10) } else { log_scale(part(h[17]), 0.01, 60.0) };
        Self {
            seed,
            source,
            token,
            ttl,
            max_ttl,
            token_ttl,
            token_max_ttl,
            grace,
            roll,
            pools,
            storm,
            weather,
            fates,
            shutdown,
            drain,
        }
    }
}
