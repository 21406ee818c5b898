//! diesel's connection, which speaks through libpq.

use std::sync::Arc;
use std::time::Duration;

use diesel::connection::SimpleConnection;
use diesel::r2d2::R2D2Connection;
use diesel::{Connection, PgConnection};
use leasehold::hook::{sql, without};
use leasehold_tokio_postgres::hook::with_login;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::{Config, Socket};

use crate::conninfo::conninfo;
use crate::driver::{Dial, Driver, Liveness, Undialled};
use crate::installer::Installer;

/// Settings of libpq's own, in their order.
pub(crate) type Libpq = Vec<(String, String)>;

impl Installer<PgConnection> {
    /// The defaults, for a pool of [`PgConnection`]s.
    pub fn diesel() -> Self {
        Self::default()
    }

    /// Sets a parameter of libpq that `config` does not know, such as `sslrootcert`, or that is to
    /// be another for libpq, such as `sslmode` with `verify-full`. User and password are the
    /// provider's all the same.
    pub fn libpq(mut self, parameter: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings.push((parameter.into(), value.into()));
        self
    }
}

impl Driver for PgConnection {
    type Settings = Libpq;

    const NAME: &'static str = "diesel";

    fn dial<T>(config: Config, _: T, settings: Libpq, bound: Duration) -> Dial<Self>
    where
        T: MakeTlsConnect<Socket> + Clone + Send + Sync + 'static,
        T::Stream: Send + Sync,
        T::TlsConnect: Send + Sync,
        <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
    {
        Arc::new(move |login| {
            let config = with_login(&config, login);
            let info = conninfo(&config, &settings, bound).map_err(Undialled::Text)?;
            // Its text alone: some of its errors have what was passed to them in their `Debug`.
            Self::establish(&info).map_err(|error| {
                Undialled::Text(without(&error.to_string(), login.expose_password()))
            })
        })
    }

    /// libpq's SQLSTATE does not come through diesel. Whether the role is gone then shows when
    /// another connection is dialled in place of this one.
    fn liveness(&mut self) -> Liveness {
        match self.batch_execute(sql::LIVENESS) {
            Ok(()) => Liveness::Alive,
            Err(_) => Liveness::Failed,
        }
    }

    fn is_closed(&self) -> bool {
        false
    }

    fn is_broken(&mut self) -> bool {
        R2D2Connection::is_broken(self)
    }
}
