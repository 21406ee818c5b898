//! A connection of our own making, counted from the dial to the close.

use std::time::Duration;

use leasehold::Credential;
use leasehold::hook::{BoxFuture, Ticket};
use tokio::task::{AbortHandle, JoinHandle};
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::{Client, Config, Error, Socket};

use crate::error::kind;
use crate::hosts;

/// How long a connection may take to say goodbye before it is cut.
const GOODBYE: Duration = Duration::from_secs(1);

/// What moves a connection's bytes; ends when it is closed.
pub(crate) type Driver = BoxFuture<'static, Result<(), Error>>;

/// Dials with a login, whatever the TLS connector is.
pub(crate) trait Dial: Send + Sync {
    /// `application` replaces the user's application name.
    fn dial<'a>(
        &'a self,
        login: &'a Credential,
        application: Option<&'a str>,
    ) -> BoxFuture<'a, Result<(Client, Driver), Error>>;
}

pub(crate) struct TlsDial<T> {
    pub(crate) config: Config,
    pub(crate) tls: T,
}

impl<T> Dial for TlsDial<T>
where
    T: MakeTlsConnect<Socket> + Clone + Send + Sync + 'static,
    T::Stream: Send + Sync,
    T::TlsConnect: Send + Sync,
    <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
{
    fn dial<'a>(
        &'a self,
        login: &'a Credential,
        application: Option<&'a str>,
    ) -> BoxFuture<'a, Result<(Client, Driver), Error>> {
        let mut config = match login.address() {
            Some(address) => hosts::elsewhere(&self.config, address),
            None => self.config.clone(),
        };
        config.user(login.username()).password(login.expose_password());
        if let Some(application) = application {
            config.application_name(application);
        }
        let tls = self.tls.clone();
        Box::pin(async move {
            let (client, connection) = hosts::connect(&config, tls).await?;
            Ok((client, Box::pin(connection) as Driver))
        })
    }
}

/// An open connection outside of the pool. Dropping it closes it.
pub(crate) struct Link {
    client: Client,
    task: Task,
    generation: u64,
}

impl Link {
    /// Runs the connection as a task. `ticket` goes with it, wherever the client ends up.
    pub(crate) fn spawn(
        (client, driver): (Client, Driver),
        ticket: Option<Ticket>,
        generation: u64,
    ) -> Self {
        let task = tokio::spawn(run(Wire { driver, _ticket: ticket }));
        Self { client, task: Task(Some(task)), generation }
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    pub(crate) fn abort_handle(&self) -> Option<AbortHandle> {
        self.task.0.as_ref().map(JoinHandle::abort_handle)
    }

    /// Says goodbye to Postgres, and returns when the socket is closed.
    pub(crate) async fn close(self) {
        let Self { client, mut task, .. } = self;
        drop(client);
        if let Some(handle) = &mut task.0 {
            // Late or panicked: cut by the drop of `task`.
            let _ = tokio::time::timeout(GOODBYE, handle).await;
        }
    }

    /// What deadpool wants. From here on it aborts the task when the client goes.
    pub(crate) fn into_parts(self) -> (Client, JoinHandle<()>) {
        let Self { client, mut task, .. } = self;
        let handle = task.0.take().unwrap_or_else(|| tokio::spawn(async {}));
        (client, handle)
    }
}

struct Task(Option<JoinHandle<()>>);

impl Drop for Task {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
    }
}

/// In this order, also when the task is aborted before its first poll: the ticket says that the
/// socket is closed, so the socket goes first.
struct Wire {
    driver: Driver,
    _ticket: Option<Ticket>,
}

async fn run(mut wire: Wire) {
    if let Err(error) = (&mut wire.driver).await {
        tracing::warn!(target: "leasehold", "connection ended: {}", kind(&error));
    }
}
