//! The two sides: a pool with a login that stays, and one on a provider, alike in all else.

use std::time::Duration;

use deadpool_postgres::{ManagerConfig, PoolBuilder, Runtime};
use leasehold::{CredentialProvider, Event, Rotator};
use leasehold_drill::AnyError;
use leasehold_testkit::{AppRoleSpec, Creds, DatabaseSpec, RoleSpec, Stack, TestDb};
use leasehold_vault::{Auth, Session, VaultConfig};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use tokio_postgres::NoTls;

/// Connections in each pool.
pub(crate) const SIZE: usize = 16;

/// Long enough that nothing is renewed or rotated while something is measured.
const TTL: Duration = Duration::from_secs(24 * 3600);

/// For what may take long on a machine that does too much at once.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

const SELECT: &str = "SELECT 1";

/// Both have the same servers, and logins of the same role.
pub(crate) struct Servers {
    pub(crate) db: TestDb,
    /// The login that stays.
    plain: Creds,
}

/// The plain pool and the hooked one.
pub(crate) struct Pair {
    pub(crate) pools: [AnyPool; 2],
    rotator: Rotator,
}

impl Servers {
    pub(crate) async fn start() -> Result<Self, AnyError> {
        eprintln!("starting OpenBao and Postgres");
        let stack = Stack::start().await?;
        let role = RoleSpec::new("app").default_ttl(TTL).max_ttl(TTL);
        let token = AppRoleSpec::new().token_ttl(TTL).token_max_ttl(TTL);
        let db = stack.database(DatabaseSpec::new("overhead").role(role).app_role(token)).await?;
        let plain = db.creds().await?;
        Ok(Self { db, plain })
    }

    /// On a session of its own, which it ends with itself.
    pub(crate) async fn rotator(&self) -> Result<Rotator, AnyError> {
        let auth = Auth::approle(self.db.role_id(), self.db.secret_id().await?);
        let session = Session::login(VaultConfig::new(self.db.vault_addr()), auth).await?;
        let source = session.dynamic_role(self.db.mount(), self.db.role());
        Ok(Rotator::builder(source).start_timeout(PATIENCE).start().await?)
    }

    /// Both pools full, and the hooked one through a rotation, as a process is nearly always. On a
    /// rotator of its own, which rotates twice when asked to, and then every half minute.
    pub(crate) async fn pair(&self, kind: Kind, size: usize) -> Result<Pair, AnyError> {
        let rotator = self.rotator().await?;
        let provider = rotator.provider();
        let place = self.db.pg_config();
        let (plain, hooked) = match kind {
            Kind::Sqlx => {
                let base = PgConnectOptions::new_without_pgpass()
                    .host(self.db.pg_host())
                    .port(self.db.pg_port())
                    .database(self.db.name());
                let login = base.clone().username(&self.plain.username);
                let login = login.password(&self.plain.password);
                let plain = sqlx_options(size).connect_with(login).await?;
                let installer = leasehold_sqlx::Installer::new().connect_timeout(PATIENCE);
                let hooked = installer.connect(&provider, sqlx_options(size), base).await?;
                (AnyPool::Sqlx(plain), AnyPool::Sqlx(hooked))
            }
            Kind::Deadpool => {
                let mut login = place.clone();
                login.user(&self.plain.username).password(&self.plain.password);
                let plain = plain_deadpool(login, size)?;
                let build = |builder: PoolBuilder| builder.max_size(size);
                let installer = leasehold_deadpool::Installer::new().connect_timeout(PATIENCE);
                let hooked = installer.connect(&provider, place, NoTls, build).await?;
                (AnyPool::Deadpool(plain), AnyPool::Deadpool(hooked))
            }
        };
        hooked.fill().await?;
        rotate(&rotator).await?;
        hooked.fill().await?;
        plain.fill().await?;
        Ok(Pair { pools: [plain, hooked], rotator })
    }
}

impl Pair {
    pub(crate) async fn end(self) {
        for pool in self.pools {
            pool.close().await;
        }
        end(&self.rotator).await;
    }
}

/// Its servers go next: that something is left is not the matter of this program.
pub(crate) async fn end(rotator: &Rotator) {
    let left = rotator.shutdown(Duration::from_secs(5)).await;
    if !left.is_clean() {
        eprintln!("shutdown: {left}");
    }
}

pub(crate) fn sqlx_options(size: usize) -> PgPoolOptions {
    let size = u32::try_from(size).unwrap_or(u32::MAX);
    PgPoolOptions::new().max_connections(size).acquire_timeout(PATIENCE)
}

pub(crate) fn plain_deadpool(
    login: tokio_postgres::Config,
    size: usize,
) -> Result<deadpool_postgres::Pool, AnyError> {
    let manager = deadpool_postgres::Manager::from_config(login, NoTls, ManagerConfig::default());
    let builder = deadpool_postgres::Pool::builder(manager);
    Ok(builder.runtime(Runtime::Tokio1).max_size(size).build()?)
}

/// Rotates, and waits until the login before has been drained.
pub(crate) async fn rotate(rotator: &Rotator) -> Result<(), AnyError> {
    let provider: CredentialProvider = rotator.provider();
    let before = provider.current().number();
    let mut events = provider.events();
    rotator.rotate();
    let drained = async {
        loop {
            match events.recv().await? {
                Event::Drained { generation, .. } if generation == before => return Ok(()),
                Event::IssueFailed { error, .. } => return Err(AnyError::from(error)),
                _ => {}
            }
        }
    };
    tokio::time::timeout(PATIENCE, drained).await?
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Sqlx,
    Deadpool,
}

impl Kind {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Sqlx => "sqlx",
            Self::Deadpool => "deadpool",
        }
    }
}

#[derive(Clone)]
pub(crate) enum AnyPool {
    Sqlx(sqlx::PgPool),
    Deadpool(deadpool_postgres::Pool),
}

impl AnyPool {
    /// Takes a connection and lets it go, as a user does, and runs a statement on it if asked to.
    pub(crate) async fn use_one(&self, select: bool) -> Result<(), AnyError> {
        match self {
            Self::Sqlx(pool) => {
                let mut conn = pool.acquire().await?;
                if select {
                    sqlx::query(SELECT).fetch_one(&mut *conn).await?;
                }
            }
            Self::Deadpool(pool) => {
                let conn = pool.get().await?;
                if select {
                    let statement = conn.prepare_cached(SELECT).await?;
                    conn.query_one(&statement, &[]).await?;
                }
            }
        }
        Ok(())
    }

    /// Opens all the connections there may be, and prepares the statement on each.
    pub(crate) async fn fill(&self) -> Result<(), AnyError> {
        match self {
            Self::Sqlx(pool) => {
                let mut all = Vec::new();
                for _ in 0..pool.options().get_max_connections() {
                    let mut conn = pool.acquire().await?;
                    sqlx::query(SELECT).fetch_one(&mut *conn).await?;
                    all.push(conn);
                }
            }
            Self::Deadpool(pool) => {
                let mut all = Vec::new();
                for _ in 0..pool.status().max_size {
                    let conn = pool.get().await?;
                    let statement = conn.prepare_cached(SELECT).await?;
                    conn.query_one(&statement, &[]).await?;
                    all.push(conn);
                }
            }
        }
        self.settle().await
    }

    /// Waits until all connections are back: with sqlx that is the work of tasks which outlive
    /// their borrowers, and would be in the way of what is measured next.
    pub(crate) async fn settle(&self) -> Result<(), AnyError> {
        let Self::Sqlx(pool) = self else { return Ok(()) };
        let back = async {
            while pool.num_idle() < pool.size() as usize {
                tokio::task::yield_now().await;
            }
        };
        Ok(tokio::time::timeout(PATIENCE, back).await?)
    }

    pub(crate) async fn close(self) {
        match self {
            Self::Sqlx(pool) => pool.close().await,
            Self::Deadpool(pool) => pool.close(),
        }
    }
}
