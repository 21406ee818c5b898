//! The servers that the drill runs on: its own, or somebody's.

use std::time::{Duration, Instant, SystemTime};

use leasehold_testkit::{
    AppRoleSpec, DatabaseSpec, LoginRecord, PostgresShutdown, RoleSpec, Stack, Storage, TestDb,
};
use leasehold_vault::{Auth, Session, VaultConfig};

use crate::args::{Args, Fault, FaultKind};
use crate::pools::Place;
use crate::{AnyError, fail};

/// Where Vault and Postgres are, and what may be done to them.
pub(crate) struct World {
    pub(crate) session: Session,
    pub(crate) mount: String,
    pub(crate) role: String,
    pub(crate) place: Place,
    /// Admin's view; `None` on servers that are not ours.
    own: Option<Own>,
}

struct Own {
    stack: Stack,
    db: TestDb,
}

impl World {
    pub(crate) async fn new(args: &Args) -> Result<Self, AnyError> {
        if args.external { Self::external().await } else { Self::embedded(args).await }
    }

    async fn embedded(args: &Args) -> Result<Self, AnyError> {
        eprintln!("starting OpenBao and Postgres");
        // What is stopped has to find its leases again.
        let stack = Stack::builder().storage(Storage::Raft).start().await?;
        let role = RoleSpec::new("app")
            .default_ttl(Duration::from_secs(args.ttl))
            .max_ttl(Duration::from_secs(args.max_ttl()));
        let login = AppRoleSpec::new()
            .token_ttl(Duration::from_secs(args.token_ttl))
            .token_max_ttl(Duration::from_secs(args.token_max_ttl));
        let spec = DatabaseSpec::new("drill").role(role).app_role(login).with_accounts();
        let db = stack.database(spec).await?;
        let auth = Auth::approle(db.role_id(), db.secret_id().await?);
        Ok(Self {
            session: Session::login(VaultConfig::new(stack.vault_addr()), auth).await?,
            mount: db.mount().to_owned(),
            role: db.role().to_owned(),
            place: Place {
                host: db.pg_host().to_owned(),
                port: db.pg_port(),
                database: db.name().to_owned(),
            },
            own: Some(Own { stack, db }),
        })
    }

    async fn external() -> Result<Self, AnyError> {
        let var = |name: &str| {
            std::env::var(name).map_err(|_| fail(format!("--external needs {name} to be set")))
        };
        let auth = match std::env::var("VAULT_TOKEN") {
            Ok(token) => Auth::token(token),
            Err(_) => Auth::approle(var("APPROLE_ROLE_ID")?, var("APPROLE_SECRET_ID")?),
        };
        let port = var("PG_PORT")?;
        Ok(Self {
            session: Session::login(VaultConfig::new(var("VAULT_ADDR")?), auth).await?,
            mount: var("DB_MOUNT")?,
            role: var("ROLE")?,
            place: Place {
                host: var("PG_HOST")?,
                port: port.parse().map_err(|_| fail(format!("PG_PORT: {port:?} is no port")))?,
                database: var("PG_DB")?,
            },
            own: None,
        })
    }

    pub(crate) fn is_own(&self) -> bool {
        self.own.is_some()
    }

    /// Does the harm, and returns when its cause is over, with the instants between which it lasted
    /// for certain: what comes back is not back yet at the second.
    pub(crate) async fn harm(&self, fault: Fault) -> Result<(Instant, Instant), AnyError> {
        let began = Instant::now();
        let Own { stack, db } =
            self.own.as_ref().ok_or("faults need servers of our own: leave out --external")?;
        begin(fault.kind, stack, db).await?;
        if !fault.kind.is_outage() {
            return Ok((began, began));
        }
        tokio::time::sleep(fault.lasts).await;
        let until = Instant::now();
        end(fault.kind, stack).await?;
        Ok((began, until))
    }

    /// Leases, roles and sessions that are left; `None` where we may not look.
    pub(crate) async fn left(&self) -> Result<Option<Left>, AnyError> {
        match &self.own {
            Some(own) => Ok(Some(left(&own.db).await?)),
            None => Ok(None),
        }
    }

    /// Postgres's own record of every connection.
    pub(crate) async fn logins(&self) -> Result<Option<Vec<LoginRecord>>, AnyError> {
        match &self.own {
            Some(own) => Ok(Some(own.stack.login_records().await?)),
            None => Ok(None),
        }
    }
}

/// Breaks something as an administrator can. What lasts, lasts until [`end`].
pub(crate) async fn begin(kind: FaultKind, stack: &Stack, db: &TestDb) -> Result<(), AnyError> {
    match kind {
        FaultKind::VaultPause => stack.pause_vault().await?,
        FaultKind::VaultStop => stack.stop_vault().await?,
        FaultKind::VaultSeal => stack.seal_vault().await?,
        FaultKind::LeaseRevoke => db.revoke_all(false).await?,
        FaultKind::TokenRevoke => {
            for accessor in tokens(stack, db).await? {
                stack.revoke_accessor(&accessor).await?;
            }
        }
        FaultKind::PgRestart => stack.restart_postgres(PostgresShutdown::Fast).await?,
    }
    Ok(())
}

/// Mends it.
pub(crate) async fn end(kind: FaultKind, stack: &Stack) -> Result<(), AnyError> {
    match kind {
        FaultKind::VaultPause => stack.resume_vault().await?,
        FaultKind::VaultStop => stack.start_vault().await?,
        FaultKind::VaultSeal => stack.unseal_vault().await?,
        FaultKind::LeaseRevoke | FaultKind::TokenRevoke | FaultKind::PgRestart => {}
    }
    Ok(())
}

/// Accessors of the tokens that the database's AppRole has.
pub(crate) async fn tokens(stack: &Stack, db: &TestDb) -> Result<Vec<String>, AnyError> {
    let mut own = Vec::new();
    for accessor in stack.token_accessors().await? {
        let body = serde_json::json!({ "accessor": accessor });
        let (_, seen) =
            stack.vault_request("POST", "auth/token/lookup-accessor", Some(body)).await?;
        if seen["data"]["meta"]["role_name"] == db.name() {
            own.push(accessor);
        }
    }
    Ok(own)
}

/// Lets everybody in by MD5, which is one round of it: a SCRAM login costs some ten milliseconds of
/// CPU in a build that is not optimised. With some dozen pools on one busy machine a login then
/// takes longer than its lease, and all that is seen is a machine that is too slow. All else is as
/// ever.
///
/// # Errors
/// When the servers' folder or Postgres can't be reached.
pub async fn cheap_logins(stack: &Stack) -> Result<(), AnyError> {
    let rules = stack.dir().ok_or("no folder")?.join("pg/data/pg_hba.conf");
    let text = std::fs::read_to_string(&rules)?;
    std::fs::write(&rules, text.replace("scram-sha-256", "md5"))?;
    let mut config = tokio_postgres::Config::new();
    config.host(stack.pg_host()).port(stack.pg_port()).dbname("postgres");
    config.user(stack.superuser()).password(stack.superuser_password());
    let (client, connection) = config.connect(tokio_postgres::NoTls).await?;
    let connection = tokio::spawn(connection);
    client.batch_execute("ALTER SYSTEM SET password_encryption = 'md5'").await?;
    client.batch_execute("SELECT pg_reload_conf()").await?;
    drop(client);
    Ok(connection.await??)
}

/// What one database has on the servers.
pub(crate) struct Left {
    pub(crate) leases: usize,
    pub(crate) roles: usize,
    pub(crate) sessions: usize,
}

/// Looks, after a moment for the servers' ends of sockets, which go after ours.
pub(crate) async fn left(db: &TestDb) -> Result<Left, AnyError> {
    let mut sessions = db.sessions().await?;
    for _ in 0..100 {
        if sessions.is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        sessions = db.sessions().await?;
    }
    Ok(Left {
        leases: db.lease_count().await?,
        roles: db.logins().await?.len(),
        sessions: sessions.len(),
    })
}

/// Unix seconds with a fraction, as Postgres's log has them.
pub(crate) fn unix_now() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
