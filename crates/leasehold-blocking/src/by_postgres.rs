//! The blocking client of the crate `postgres`.

use std::sync::Arc;
use std::time::Duration;

use leasehold::hook::sql;
use leasehold_tokio_postgres::hook::{sqlstate, with_login};
use postgres::Client;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::{Config, Socket};

use crate::driver::{Dial, Driver, Liveness, Undialled};

impl Driver for Client {
    type Settings = ();

    const NAME: &'static str = "r2d2";

    fn dial<T>(config: Config, tls: T, (): (), _: Duration) -> Dial<Self>
    where
        T: MakeTlsConnect<Socket> + Clone + Send + Sync + 'static,
        T::Stream: Send + Sync,
        T::TlsConnect: Send + Sync,
        <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
    {
        Arc::new(move |login| {
            let config = postgres::Config::from(with_login(&config, login));
            config.connect(tls.clone()).map_err(Undialled::Postgres)
        })
    }

    fn liveness(&mut self) -> Liveness {
        match self.simple_query(sql::LIVENESS) {
            Ok(_) => Liveness::Alive,
            Err(error) if sqlstate(&error) == Some(sql::ROLE_GONE) => Liveness::RoleGone,
            Err(_) => Liveness::Failed,
        }
    }

    fn is_closed(&self) -> bool {
        self.is_closed()
    }

    fn is_broken(&mut self) -> bool {
        self.is_closed()
    }
}
