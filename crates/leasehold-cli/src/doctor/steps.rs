//! The steps of the way from an address to a revoked login, in their order.

use Step::*;

macro_rules! steps {
    ($($step:ident = $id:literal: $what:literal,)*) => {
        /// One thing that is looked at.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Step {
            $($step,)*
        }

        /// All of them, in their order.
        pub(super) const ALL: &[Step] = &[$($step,)*];

        impl Step {
            /// The name that people and programs see, which stays the same.
            pub(super) fn id(self) -> &'static str {
                match self {
                    $($step => $id,)*
                }
            }

            pub(super) fn what(self) -> &'static str {
                match self {
                    $($step => $what,)*
                }
            }
        }
    };
}

// Revoking and logging out come last and need only what they undo, so that whatever fails before
// them nothing is left behind.
steps! {
    Address = "address": "something listens at Vault's address",
    Tls = "tls": "the way to Vault is encrypted and its certificate trusted",
    Server = "server": "it is Vault or OpenBao, initialised and unsealed",
    Login = "login": "Vault lets this identity in",
    Token = "token": "the token is of a kind that leases can live on",
    PolicyCreds = "policy-creds": "the policy lets logins be issued",
    PolicyRenew = "policy-renew": "the policy lets leases be renewed",
    PolicyRevoke = "policy-revoke": "the policy lets leases be revoked",
    PolicyToken = "policy-token": "the policy lets the token be renewed and given back",
    Engine = "engine": "a database engine is mounted there",
    Role = "role": "the role's definition",
    PostgresAddress = "postgres-address": "something listens at Postgres's address",
    Issue = "issue": "Vault makes a login",
    Ttl = "ttl": "the lease is long enough for the grace",
    TokenLife = "token-life": "the token lives as long as the lease",
    PostgresTls = "postgres-tls": "the way to Postgres is encrypted and its certificate trusted",
    PostgresLogin = "postgres-login": "Postgres takes the login",
    Privileges = "privileges": "the login may do what is needed",
    Obstacles = "obstacles": "nothing stands in the way of dropping the login",
    ValidUntil = "valid-until": "Postgres takes the login until the lease ends",
    Clocks = "clocks": "the clocks agree",
    Renew = "renew": "the lease can be renewed",
    Revoke = "revoke": "the lease can be revoked",
    Gone = "gone": "the revoked login is refused",
    SetRole = "set-role": "a session has no rights once its login is revoked",
    Logout = "logout": "the token is given back",
}

impl Step {
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
