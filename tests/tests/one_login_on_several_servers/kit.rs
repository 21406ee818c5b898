//! Servers, pools on each of them, and what a rotator tells.

use std::time::Duration;

use deadpool_postgres::PoolBuilder;
use leasehold::{CredentialProvider, Event, HealthState, Rotator};
use leasehold_testkit::{
    AppRoleSpec, DatabaseSpec, FaultProxy, PostgresShutdown, Replica, RoleSpec, Stack, TestDb,
    eventually,
};
use leasehold_tests::{LONG, event, rotator, s};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use tokio::sync::broadcast;
use tokio_postgres::config::TargetSessionAttrs;
use tokio_postgres::{Client, NoTls};

use crate::load::Pool;

pub(crate) const SIZE: u32 = 4;

/// A primary and a replica, and a Vault server that reaches the one that can be written.
pub(crate) struct Servers {
    pub(crate) stack: Stack,
    pub(crate) replica: Replica,
    pub(crate) db: TestDb,
    /// An address that follows the primary, as a name or a proxy in front of a cluster does.
    pub(crate) primary: FaultProxy,
}

impl Servers {
    pub(crate) async fn start(name: &str, ttl: u64) -> Self {
        let stack = Stack::processes().await.unwrap();
        let primary = stack.postgres_proxy().await.unwrap();
        let role = RoleSpec::new("app").default_ttl(s(ttl)).max_ttl(s(3600));
        let spec = DatabaseSpec::new(name)
            .role(role)
            .app_role(AppRoleSpec::new().token_ttl(s(3600)))
            .postgres_at(primary.address())
            .with_accounts()
            .schema("create table written(id bigint primary key)");
        let db = stack.database(spec).await.unwrap();
        let replica = stack.postgres_replica().await.unwrap();
        Self { stack, replica, db, primary }
    }

    /// From here on nothing is acknowledged that the replica has not got.
    pub(crate) async fn synchronous(&self) {
        let admin = self.db.admin().await.unwrap();
        admin.batch_execute("alter system set synchronous_standby_names = '*'").await.unwrap();
        admin.batch_execute("select pg_reload_conf()").await.unwrap();
        eventually("the replica is a synchronous one", LONG, async || {
            let sql = "select count(*) from pg_stat_replication where sync_state = 'sync'";
            Ok(admin.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) == 1)
        })
        .await
        .unwrap();
    }

    /// A rotator whose drains wait so long for what is borrowed.
    pub(crate) async fn rotator(&self, grace: u64) -> Rotator {
        rotator(&self.db).await.grace(s(grace)).roll(s(1)).start().await.unwrap()
    }

    /// The primary dies, and the replica takes its place, for Vault too.
    pub(crate) async fn fail_over(&self) {
        self.stack.stop_postgres(PostgresShutdown::Immediate).await.unwrap();
        self.replica.promote().await.unwrap();
        self.primary.lead_to(self.replica.address());
    }

    pub(crate) async fn sqlx_on_primary(&self, provider: &CredentialProvider) -> Pool {
        self.sqlx(provider, "primary", self.primary.port()).await
    }

    pub(crate) async fn sqlx_on_replica(&self, provider: &CredentialProvider) -> Pool {
        self.sqlx(provider, "replica", self.replica.port()).await
    }

    async fn sqlx(&self, provider: &CredentialProvider, name: &str, port: u16) -> Pool {
        let installer = leasehold_sqlx::Installer::new().name(name).replica_lag(LONG);
        let base = PgConnectOptions::new_without_pgpass()
            .host("127.0.0.1")
            .port(port)
            .database(self.db.name());
        let options = PgPoolOptions::new().max_connections(SIZE);
        Pool::Sqlx(installer.connect(provider, options, base).await.unwrap(), provider.clone())
    }

    pub(crate) async fn deadpool_on_primary(&self, provider: &CredentialProvider) -> Pool {
        self.deadpool(provider, "primary", &[self.primary.port()], TargetSessionAttrs::Any).await
    }

    pub(crate) async fn deadpool_on_replica(&self, provider: &CredentialProvider) -> Pool {
        self.deadpool(provider, "replica", &[self.replica.port()], TargetSessionAttrs::Any).await
    }

    /// On whichever of both can be written. The replica first: it is asked, and passed over.
    pub(crate) async fn deadpool_on_both(&self, provider: &CredentialProvider) -> Pool {
        let ports = [self.replica.port(), self.db.pg_port()];
        self.deadpool(provider, "read-write", &ports, TargetSessionAttrs::ReadWrite).await
    }

    async fn deadpool(
        &self,
        provider: &CredentialProvider,
        name: &str,
        ports: &[u16],
        attrs: TargetSessionAttrs,
    ) -> Pool {
        let installer = leasehold_deadpool::Installer::new().name(name).replica_lag(LONG);
        let mut config = tokio_postgres::Config::new();
        config.dbname(self.db.name()).target_session_attrs(attrs).connect_timeout(s(2));
        for port in ports {
            config.host("127.0.0.1").port(*port);
        }
        let size = |b: PoolBuilder| b.max_size(SIZE as usize);
        Pool::Deadpool(installer.connect(provider, config, NoTls, size).await.unwrap())
    }

    /// What a login has open, by the word of either server that is there.
    pub(crate) async fn sessions(&self, user: &str) -> Vec<i64> {
        let mut counts = Vec::new();
        for server in [self.db.admin().await, self.replica.admin(self.db.name()).await] {
            let Ok(server) = server else { continue };
            // Sessions of a role that was dropped have its number and no name.
            let sql = "select count(*) from pg_stat_activity
                where backend_type = 'client backend'
                    and application_name <> 'leasehold control'
                    and (usename = $1 or (usename is null and datname = current_database()))";
            counts.push(server.query_one(sql, &[&user]).await.unwrap().get(0));
        }
        counts
    }

    /// Until no lease is left, and no login on the server that is written.
    pub(crate) async fn nothing_left(&self) {
        self.nothing_left_but(&[]).await;
    }

    /// The same, but for these logins.
    pub(crate) async fn nothing_left_but(&self, logins: &[&str]) {
        let writable = self.writable().await;
        eventually("no lease and no other login is left", LONG, async || {
            let sql = "select m.rolname::text from pg_auth_members a
                join pg_roles g on g.oid = a.roleid join pg_roles m on m.oid = a.member
                where g.rolname = $1::text";
            let rows = writable.query(sql, &[&self.db.name()]).await.unwrap();
            let left: Vec<&str> = rows.iter().map(|row| row.get(0)).collect();
            Ok(left == logins && self.db.lease_count().await? == 0)
        })
        .await
        .unwrap();
    }

    /// A superuser's connection to the server that is written.
    pub(crate) async fn writable(&self) -> Client {
        let mut config = tokio_postgres::Config::new();
        config.host("127.0.0.1").port(self.primary.port()).dbname(self.db.name());
        config.user(self.stack.superuser()).password(self.stack.superuser_password());
        let (client, connection) = config.connect(NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }
}

/// The events of a rotator, all of them, and where one was waited for.
pub(crate) struct Events {
    receiver: broadcast::Receiver<Event>,
    pub(crate) seen: Vec<Event>,
}

impl Events {
    pub(crate) fn of(provider: &CredentialProvider) -> Self {
        Self { receiver: provider.events(), seen: Vec::new() }
    }

    /// Waits for the first that `is` it.
    pub(crate) async fn wait(&mut self, is: impl Fn(&Event) -> bool) -> Event {
        let seen = &mut self.seen;
        let found = event(&mut self.receiver, |e| {
            seen.push(e.clone());
            is(e).then(|| e.clone())
        });
        found.await
    }

    pub(crate) async fn swapped(&mut self) -> u64 {
        match self.wait(|e| matches!(e, Event::Swapped { .. })).await {
            Event::Swapped { generation, .. } => generation,
            _ => unreachable!(),
        }
    }

    /// Waits until a superseded login is revoked.
    pub(crate) async fn revoked(&mut self, number: u64) {
        let is =
            |e: &Event| matches!(e, Event::Revoked { generation: Some(g), .. } if *g == number);
        self.wait(is).await;
    }

    /// A pool refused the candidate.
    pub(crate) async fn refused_by(&mut self, name: &str) {
        self.wait(|e| matches!(e, Event::ProofFailed { pool, rejected: true, .. } if pool == name))
            .await;
    }

    /// How many there were.
    pub(crate) fn count(&self, is: impl Fn(&Event) -> bool) -> usize {
        self.seen.iter().filter(|e| is(e)).count()
    }

    pub(crate) fn issued(&self) -> usize {
        self.count(|e| matches!(e, Event::Issued { .. }))
    }
}

/// Until all is well, on every pool.
pub(crate) async fn well(provider: &CredentialProvider) {
    let is_well = async || Ok(provider.health().state == HealthState::Ready);
    eventually("all is well", LONG, is_well).await.unwrap();
}

pub(crate) const LAG: Duration = Duration::from_secs(3);
