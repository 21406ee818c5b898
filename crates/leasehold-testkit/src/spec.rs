//! What a test wants: a database, roles on it, and the right to use them.

use std::time::Duration;

use crate::{Error, Result, TestDb};

/// A Postgres database, a database engine mount, roles, a policy and an AppRole, for one test.
///
/// `{{group}}` in SQL given here stands for the group role that owns the rights. The logins are
/// made its members. Rights granted to the logins themselves would stand in the way of their
/// revocation.
#[derive(Clone, Debug)]
#[must_use]
pub struct DatabaseSpec {
    pub(crate) name: String,
    pub(crate) exact_name: bool,
    pub(crate) roles: Vec<RoleSpec>,
    pub(crate) app_role: AppRoleSpec,
    pub(crate) schema: Vec<String>,
    pub(crate) accounts: bool,
    pub(crate) mount: Option<TestDb>,
    pub(crate) mount_path: Option<String>,
    pub(crate) namespace: Option<String>,
    pub(crate) postgres_at: Option<String>,
}

impl DatabaseSpec {
    /// Names are made unique, so any short word will do.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            exact_name: false,
            roles: Vec::new(),
            app_role: AppRoleSpec::default(),
            schema: Vec::new(),
            accounts: false,
            mount: None,
            mount_path: None,
            namespace: None,
            postgres_at: None,
        }
    }

    /// The name as it is, in place of one made unique: nobody else can have it in that stack. At
    /// most 48 small letters, digits and underscores.
    pub fn exact_name(mut self) -> Self {
        self.exact_name = true;
        self
    }

    /// Adds a role. Without any, there is one named `app` with [`RoleSpec`]'s defaults.
    pub fn role(mut self, role: RoleSpec) -> Self {
        self.roles.push(role);
        self
    }

    /// What logs in, and what its tokens are like.
    pub fn app_role(mut self, app_role: AppRoleSpec) -> Self {
        self.app_role = app_role;
        self
    }

    /// SQL to run as superuser in the new database. Its tables and sequences of schema `public`
    /// are granted to the group afterwards.
    pub fn schema(mut self, sql: impl Into<String>) -> Self {
        self.schema.push(sql.into());
        self
    }

    /// The table `accounts(id int primary key, v bigint not null default 0, note text not null
    /// default 'x')` with ids 0 to 9999.
    pub fn with_accounts(mut self) -> Self {
        self.accounts = true;
        self
    }

    /// The mount's path, in place of a unique one: nobody else can have it in that namespace.
    pub fn mounted_at(mut self, path: impl Into<String>) -> Self {
        self.mount_path = Some(path.into());
        self
    }

    /// Puts mount, policy and AppRole into a namespace, which is made if it does not exist. A
    /// plain name, not nested. What [`TestDb`] does is done in there; of [`Stack`](crate::Stack)'s
    /// own calls those with a path can be led there by the name in front, as in
    /// `team1/sys/mounts`.
    pub fn namespace(mut self, name: impl Into<String>) -> Self {
        self.namespace = Some(name.into());
        self
    }

    /// Where the Vault server is to reach Postgres, a `host:port`: that of a
    /// [`FaultProxy`](crate::FaultProxy), to break the way between the two. A server in a container
    /// can't be led to a proxy on this machine's loopback.
    pub fn postgres_at(mut self, address: impl Into<String>) -> Self {
        self.postgres_at = Some(address.into());
        self
    }

    /// Puts connection and roles on the mount of another database. Role names must differ then.
    pub fn on_mount_of(mut self, other: &TestDb) -> Self {
        self.mount = Some(other.clone());
        self
    }
}

impl From<&str> for DatabaseSpec {
    fn from(name: &str) -> Self {
        Self::new(name)
    }
}

/// A dynamic role of the database engine.
#[derive(Clone, Debug)]
#[must_use]
pub struct RoleSpec {
    pub(crate) name: String,
    pub(crate) default_ttl: Duration,
    pub(crate) max_ttl: Duration,
    pub(crate) creation: Vec<String>,
    pub(crate) revocation: Vec<String>,
    pub(crate) renew: Vec<String>,
}

impl RoleSpec {
    /// TTL 1 minute, max TTL 10 minutes, logins that are members of the group.
    pub fn new(name: impl Into<String>) -> Self {
        let creation = r#"CREATE ROLE "{{name}}" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}' IN ROLE "{{group}}""#;
        Self {
            name: name.into(),
            default_ttl: Duration::from_secs(60),
            max_ttl: Duration::from_secs(600),
            creation: vec![creation.into()],
            revocation: vec![r#"DROP ROLE IF EXISTS "{{name}}""#.into()],
            renew: Vec::new(),
        }
    }

    /// A lease's TTL: whole seconds. 0 is the server's default (32 days).
    pub fn default_ttl(mut self, ttl: Duration) -> Self {
        self.default_ttl = ttl;
        self
    }

    /// How far renewals can take it: whole seconds.
    pub fn max_ttl(mut self, ttl: Duration) -> Self {
        self.max_ttl = ttl;
        self
    }

    /// SQL that makes a login, in place of the default.
    pub fn creation<S: Into<String>>(mut self, sql: impl IntoIterator<Item = S>) -> Self {
        self.creation = sql.into_iter().map(Into::into).collect();
        self
    }

    /// SQL that removes a login, in place of `DROP ROLE IF EXISTS`. None at all: the server's own.
    pub fn revocation<S: Into<String>>(mut self, sql: impl IntoIterator<Item = S>) -> Self {
        self.revocation = sql.into_iter().map(Into::into).collect();
        self
    }

    /// Revocation that ends the login's sessions and drops what they own, instead of leaving
    /// sessions behind that have no role any more.
    pub fn terminating_revocation(self) -> Self {
        self.revocation([
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{{name}}'",
            r#"DROP OWNED BY "{{name}}""#,
            r#"DROP ROLE IF EXISTS "{{name}}""#,
        ])
    }

    /// SQL that renews a login, in place of the server's own `ALTER ROLE ... VALID UNTIL`.
    pub fn renew<S: Into<String>>(mut self, sql: impl IntoIterator<Item = S>) -> Self {
        self.renew = sql.into_iter().map(Into::into).collect();
        self
    }
}

/// The AppRole of a database, and what its tokens may do.
///
/// By default its policy is the least that a lease manager needs, `deploy/vault/dynamic-role.hcl`
/// of Leasehold's repository: read credentials of the roles, renew and revoke leases, and what
/// concerns the token itself.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct AppRoleSpec {
    pub(crate) token_ttl: Option<Duration>,
    pub(crate) token_max_ttl: Option<Duration>,
    pub(crate) token_period: Option<Duration>,
    pub(crate) token_num_uses: Option<u32>,
    pub(crate) token_type: Option<String>,
    pub(crate) secret_id_num_uses: Option<u32>,
    pub(crate) secret_id_ttl: Option<Duration>,
    pub(crate) no_default_policy: bool,
    pub(crate) extra_policy: String,
    pub(crate) policy: Option<String>,
}

impl AppRoleSpec {
    /// Tokens with the server's default life.
    pub fn new() -> Self {
        Self::default()
    }

    /// A token's TTL.
    pub fn token_ttl(mut self, ttl: Duration) -> Self {
        self.token_ttl = Some(ttl);
        self
    }

    /// A token's max TTL.
    pub fn token_max_ttl(mut self, ttl: Duration) -> Self {
        self.token_max_ttl = Some(ttl);
        self
    }

    /// Periodic tokens.
    pub fn token_period(mut self, period: Duration) -> Self {
        self.token_period = Some(period);
        self
    }

    /// Tokens that are used up.
    pub fn token_num_uses(mut self, uses: u32) -> Self {
        self.token_num_uses = Some(uses);
        self
    }

    /// Batch tokens.
    pub fn batch_tokens(mut self) -> Self {
        self.token_type = Some("batch".into());
        self
    }

    /// How often a secret_id can be used. 0, the default: without limit.
    pub fn secret_id_num_uses(mut self, uses: u32) -> Self {
        self.secret_id_num_uses = Some(uses);
        self
    }

    /// How long a secret_id can be used.
    pub fn secret_id_ttl(mut self, ttl: Duration) -> Self {
        self.secret_id_ttl = Some(ttl);
        self
    }

    /// Without the server's `default` policy. What tokens need for themselves is part of ours.
    pub fn no_default_policy(mut self) -> Self {
        self.no_default_policy = true;
        self
    }

    /// More policy, in the server's language. `{{mount}}` stands for the mount's path.
    pub fn extra_policy(mut self, hcl: impl AsRef<str>) -> Self {
        self.extra_policy.push_str(hcl.as_ref());
        self.extra_policy.push('\n');
        self
    }

    /// This policy in place of the least one. `{{mount}}` stands for the mount's path. May be
    /// empty: tokens with no rights.
    pub fn policy(mut self, hcl: impl Into<String>) -> Self {
        self.policy = Some(hcl.into());
        self
    }
}

/// A token made by the administrator.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct TokenSpec {
    pub(crate) ttl: Option<Duration>,
    pub(crate) explicit_max_ttl: Option<Duration>,
    pub(crate) period: Option<Duration>,
    pub(crate) num_uses: Option<u32>,
    pub(crate) batch: bool,
    pub(crate) not_renewable: bool,
    pub(crate) no_default_policy: bool,
    pub(crate) policies: Option<Vec<String>>,
    pub(crate) parent: Option<String>,
}

impl TokenSpec {
    /// A renewable orphan with the database's policy and the server's default life.
    pub fn new() -> Self {
        Self::default()
    }

    /// Its TTL.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// Its end, whatever is renewed.
    pub fn explicit_max_ttl(mut self, ttl: Duration) -> Self {
        self.explicit_max_ttl = Some(ttl);
        self
    }

    /// A periodic token.
    pub fn period(mut self, period: Duration) -> Self {
        self.period = Some(period);
        self
    }

    /// A token that is used up.
    pub fn num_uses(mut self, uses: u32) -> Self {
        self.num_uses = Some(uses);
        self
    }

    /// A batch token. Needs a TTL, and is never renewable.
    pub fn batch(mut self) -> Self {
        self.batch = true;
        self
    }

    /// A token that cannot be renewed.
    pub fn not_renewable(mut self) -> Self {
        self.not_renewable = true;
        self
    }

    /// Without the server's `default` policy.
    pub fn no_default_policy(mut self) -> Self {
        self.no_default_policy = true;
        self
    }

    /// These policies in place of the database's.
    pub fn policies<S: Into<String>>(mut self, names: impl IntoIterator<Item = S>) -> Self {
        self.policies = Some(names.into_iter().map(Into::into).collect());
        self
    }

    /// A child of this token (which must be allowed to make children), in place of an orphan.
    pub fn child_of(mut self, token: impl Into<String>) -> Self {
        self.parent = Some(token.into());
        self
    }
}

/// The server's TTLs are whole seconds; a fraction would be cut without a word.
pub(crate) fn seconds(what: &str, ttl: Duration) -> Result<u64> {
    if ttl.subsec_nanos() != 0 {
        return Err(Error::BadSpec(format!(
            "{what} is {ttl:?}: the server knows whole seconds only"
        )));
    }
    Ok(ttl.as_secs())
}
