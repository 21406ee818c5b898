//! The steps of the way from an address to a revoked login, in their order.

use Step::*;

/// One thing that is looked at. The names that people and programs see are [`id`](Step::id)s, which
/// stay the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Address,
    Tls,
    Server,
    Login,
    Token,
    PolicyCreds,
    PolicyRenew,
    PolicyRevoke,
    PolicyToken,
    Engine,
    Role,
    PostgresAddress,
    Issue,
    Ttl,
    TokenLife,
    PostgresTls,
    PostgresLogin,
    Privileges,
    Obstacles,
    ValidUntil,
    Clocks,
    Renew,
    Revoke,
    Gone,
    SetRole,
    Logout,
}

/// All of them. Revoking and logging out come last and need only what they undo, so that whatever
/// fails before them nothing is left behind.
pub(super) const ALL: [Step; 26] = [
    Address,
    Tls,
    Server,
    Login,
    Token,
    PolicyCreds,
    PolicyRenew,
    PolicyRevoke,
    PolicyToken,
    Engine,
    Role,
    PostgresAddress,
    Issue,
    Ttl,
    TokenLife,
    PostgresTls,
    PostgresLogin,
    Privileges,
    Obstacles,
    ValidUntil,
    Clocks,
    Renew,
    Revoke,
    Gone,
    SetRole,
    Logout,
];

impl Step {
    pub(super) fn id(self) -> &'static str {
        match self {
            Address => "address",
            Tls => "tls",
            Server => "server",
            Login => "login",
            Token => "token",
            PolicyCreds => "policy-creds",
            PolicyRenew => "policy-renew",
            PolicyRevoke => "policy-revoke",
            PolicyToken => "policy-token",
            Engine => "engine",
            Role => "role",
            PostgresAddress => "postgres-address",
            Issue => "issue",
            Ttl => "ttl",
            TokenLife => "token-life",
            PostgresTls => "postgres-tls",
            PostgresLogin => "postgres-login",
            Privileges => "privileges",
            Obstacles => "obstacles",
            ValidUntil => "valid-until",
            Clocks => "clocks",
            Renew => "renew",
            Revoke => "revoke",
            Gone => "gone",
            SetRole => "set-role",
            Logout => "logout",
        }
    }

    pub(super) fn what(self) -> &'static str {
        match self {
            Address => "something listens at Vault's address",
            Tls => "the way to Vault is encrypted and its certificate trusted",
            Server => "it is Vault or OpenBao, initialised and unsealed",
            Login => "Vault lets this identity in",
            Token => "the token is of a kind that leases can live on",
            PolicyCreds => "the policy lets logins be issued",
            PolicyRenew => "the policy lets leases be renewed",
            PolicyRevoke => "the policy lets leases be revoked",
            PolicyToken => "the policy lets the token be renewed and given back",
            Engine => "a database engine is mounted there",
            Role => "the role's definition",
            PostgresAddress => "something listens at Postgres's address",
            Issue => "Vault makes a login",
            Ttl => "the lease is long enough for the grace",
            TokenLife => "the token lives as long as the lease",
            PostgresTls => "the way to Postgres is encrypted and its certificate trusted",
            PostgresLogin => "Postgres takes the login",
            Privileges => "the login may do what is needed",
            Obstacles => "nothing stands in the way of dropping the login",
            ValidUntil => "Postgres takes the login until the lease ends",
            Clocks => "the clocks agree",
            Renew => "the lease can be renewed",
            Revoke => "the lease can be revoked",
            Gone => "the revoked login is refused",
            SetRole => "a session has no rights once its login is revoked",
            Logout => "the token is given back",
        }
    }

    /// What has to have gone well before it makes sense.
    pub(super) fn needs(self) -> &'static [Self] {
        match self {
            Address | PostgresAddress => &[],
            Tls => &[Address],
            Server => &[Tls],
            Login => &[Server],
            Token | PolicyCreds | PolicyRenew | PolicyRevoke | PolicyToken | Logout => &[Login],
            Engine => &[PolicyCreds],
            Role => &[Engine],
            // A login that can't be tried is not made.
            Issue => &[PolicyCreds, Engine, Role, PostgresAddress],
            Ttl | TokenLife | Revoke => &[Issue],
            PostgresTls => &[Issue],
            PostgresLogin => &[PostgresTls],
            Privileges | Obstacles | ValidUntil | Clocks => &[PostgresLogin],
            Renew => &[Issue, PolicyRenew],
            Gone | SetRole => &[PostgresLogin, Revoke],
        }
    }

    /// It makes something, or gives something back: it is not broken off half-way.
    pub(super) fn is_whole(self) -> bool {
        matches!(self, Login | Issue | Revoke | Logout)
    }

    /// It gives something back: it is done even if everything else is broken off.
    pub(super) fn gives_back(self) -> bool {
        matches!(self, Revoke | Logout)
    }
}
