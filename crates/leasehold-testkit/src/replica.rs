//! A second Postgres that follows the first.

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use tokio_postgres::Client;

use crate::postgres::{PostgresServer, PostgresShutdown, SUPERUSER};
use crate::process::START_TIMEOUT;
use crate::processes::read;
use crate::{Error, Result, Stack, eventually};

/// A streaming replica of a stack's Postgres, made by [`Stack::postgres_replica`]: a hot standby,
/// which can be read, lag, be cut off, stopped, and promoted.
///
/// A cheap handle that keeps the stack alive. What [`Stack`] and [`TestDb`](crate::TestDb) do, they
/// do to the server that the stack began with, also when this one was promoted in its place.
#[derive(Clone)]
pub struct Replica {
    stack: Stack,
    number: usize,
    port: u16,
}

impl fmt::Debug for Replica {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replica").field("address", &self.address()).finish_non_exhaustive()
    }
}

impl Stack {
    /// Starts a replica of this stack's Postgres on a free port of 127.0.0.1, and returns once it
    /// has what the primary had when it was asked for. Takes less than a second. It streams by a
    /// replication slot, so that it finds all that it lacks after a stop. Replication is
    /// asynchronous, as by default; `alter system set synchronous_standby_names = '*'` makes commits
    /// wait for it from the next `pg_reload_conf()` on, and is not to be set before this call: the
    /// replica would have it too.
    ///
    /// ```no_run
    /// # async fn f(stack: leasehold_testkit::Stack) -> leasehold_testkit::Result<()> {
    /// use std::time::Duration;
    /// use leasehold_testkit::PostgresShutdown;
    ///
    /// let replica = stack.postgres_replica().await?;
    /// replica.set_apply_delay(Duration::from_secs(3)).await?; // from now on it lags
    /// replica.caught_up().await?; // with what the primary has now
    ///
    /// stack.stop_postgres(PostgresShutdown::Immediate).await?; // the primary dies,
    /// replica.promote().await?; // and this one takes its place
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`Error::Unsupported`] with containers.
    pub async fn postgres_replica(&self) -> Result<Replica> {
        self.inner.servers.processes("a replica of Postgres")?;
        let primary = self.connect_as(SUPERUSER, self.superuser_password(), "postgres").await?;
        let version: String = asked(&primary, "show server_version_num").await?;
        // Renamed in Postgres 15.
        let (begin, end) = match version.as_str() >= "150000" {
            true => ("pg_backup_start('leasehold', true)", "pg_backup_stop(false)"),
            false => ("pg_start_backup('leasehold', true, false)", "pg_stop_backup(false, false)"),
        };
        let slot = slot();
        let reserve = format!("select pg_create_physical_replication_slot('{slot}', true)::text");
        asked::<String>(&primary, &reserve).await?;
        asked::<String>(&primary, &format!("select {begin}::text")).await?;
        let name = slot.clone();
        let copy = self.on_processes("copying Postgres", move |p| p.pg().copy(&name)).await?;
        let label = asked::<String>(&primary, &format!("select labelfile from {end}")).await?;
        let settings =
            format!("primary_slot_name = '{slot}'\nprimary_conninfo = '{}'", self.conninfo(&slot));
        let (number, port) = self
            .on_processes("starting a replica", move |p| {
                let mut copy: PostgresServer = copy;
                copy.follow(&label, &settings)?;
                let mut replicas = p.replicas();
                let port = copy.port;
                replicas.push(copy);
                Ok((replicas.len() - 1, port))
            })
            .await?;
        let replica = Replica { stack: self.clone(), number, port };
        replica.caught_up().await?;
        Ok(replica)
    }

    /// The way from a replica to its primary. The password is made by us: nothing to be quoted.
    fn conninfo(&self, name: &str) -> String {
        format!(
            "host={} port={} user={SUPERUSER} password={} application_name={name}",
            self.pg_host(),
            self.pg_port(),
            self.superuser_password()
        )
    }
}

impl Replica {
    /// Its host.
    #[must_use]
    pub fn host(&self) -> &str {
        self.stack.pg_host()
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `host:port`.
    #[must_use]
    pub fn address(&self) -> String {
        format!("{}:{}", self.host(), self.port)
    }

    /// A connection to a database on it, driven by the current runtime.
    pub async fn connect(&self, username: &str, password: &str, database: &str) -> Result<Client> {
        self.stack.inner.ends.connect_at(self.port, username, password, database).await
    }

    /// A superuser's connection to a database on it.
    pub async fn admin(&self, database: &str) -> Result<Client> {
        self.connect(SUPERUSER, self.stack.superuser_password(), database).await
    }

    /// How long it keeps a commit of the primary to itself before it shows it
    /// (`recovery_min_apply_delay`), from now on, that of commits which wait already included. It
    /// is received at once all the same, so that a promotion loses nothing by it. Zero, as it
    /// begins, is no delay.
    pub async fn set_apply_delay(&self, delay: Duration) -> Result<()> {
        let delay = format!("{}ms", delay.as_millis());
        self.set("recovery_min_apply_delay", &delay).await
    }

    /// It receives nothing more from the primary, and keeps what it has.
    pub async fn cut_off(&self) -> Result<()> {
        self.set("primary_conninfo", "").await?;
        let replica = self.admin("postgres").await?;
        eventually("the replica is cut off", START_TIMEOUT, async || {
            let sql = "select count(*) from pg_stat_wal_receiver";
            Ok(asked::<i64>(&replica, sql).await? == 0)
        })
        .await
    }

    /// Waits until it shows all that the primary has now. Fails after a minute.
    pub async fn caught_up(&self) -> Result<()> {
        let password = self.stack.superuser_password();
        let primary = self.stack.connect_as(SUPERUSER, password, "postgres").await?;
        let wanted = asked::<String>(&primary, "select pg_current_wal_lsn()::text").await?;
        let replica = self.admin("postgres").await?;
        let sql = format!("select coalesce(pg_last_wal_replay_lsn() >= '{wanted}', false)");
        eventually("the replica has caught up", START_TIMEOUT, async || asked(&replica, &sql).await)
            .await
    }

    /// Makes a primary of it, and returns once it can be written. Sessions on it go on. The server
    /// that it followed should be dead: nobody fences it.
    pub async fn promote(&self) -> Result<()> {
        let replica = self.admin("postgres").await?;
        asked::<bool>(&replica, "select pg_promote(false)").await?;
        eventually("the replica is promoted", START_TIMEOUT, async || {
            asked(&replica, "select not pg_is_in_recovery()").await
        })
        .await
    }

    /// Stops it and waits for its end. Does nothing if it is stopped.
    pub async fn stop(&self, how: PostgresShutdown) -> Result<()> {
        self.with(move |server| server.end(how.signal())).await
    }

    /// Starts it where it was, and waits until it serves. Does nothing if it runs.
    pub async fn start(&self) -> Result<()> {
        self.with(|server| server.start_again().map(drop)).await
    }

    /// Its log, from its first start on.
    pub async fn log(&self) -> Result<String> {
        self.with(|server| read(server.log())).await
    }

    async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut PostgresServer) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let number = self.number;
        self.stack.on_processes("a replica", move |p| work(&mut p.replicas()[number])).await
    }

    /// A setting of its own, in force when this returns.
    async fn set(&self, name: &str, value: &str) -> Result<()> {
        let replica = self.admin("postgres").await?;
        let loaded: String = asked(&replica, "select pg_conf_load_time()::text").await?;
        let sql = format!("alter system set {name} = '{value}'");
        replica.batch_execute(&sql).await.map_err(Error::postgres(sql.clone()))?;
        asked::<bool>(&replica, "select pg_reload_conf()").await?;
        // All processes are told at once, and this session's knows when it has heard.
        let heard = format!("select pg_conf_load_time()::text <> '{loaded}'");
        eventually(&sql, START_TIMEOUT, async || asked(&replica, &heard).await).await
    }
}

/// A name that no other replica has: of its slot, its folder and its log.
fn slot() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("replica_{}", NEXT.fetch_add(1, Relaxed))
}

/// The one value of a query.
async fn asked<T>(client: &Client, sql: &str) -> Result<T>
where
    T: for<'a> tokio_postgres::types::FromSql<'a>,
{
    let row = client.query_one(sql, &[]).await.map_err(Error::postgres(sql))?;
    row.try_get(0).map_err(Error::postgres(sql))
}
