//! A connection of our own making, counted from the dial to the close.

use std::fmt;
use std::future::poll_fn;
use std::time::{Duration, Instant};

use leasehold::Credential;
use leasehold::hook::{BoxFuture, Ticket};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::{AbortHandle, JoinHandle};
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::{AsyncMessage, Client, Config, Connection, Error, Notification, Socket};

use crate::diagnosis::kind;
use crate::hosts;

/// How long a connection may take to say goodbye before it is cut.
const GOODBYE: Duration = Duration::from_secs(1);

/// What moves a connection's bytes; ends when it is closed.
pub type Driver = BoxFuture<'static, Result<(), Error>>;

/// Where the notifications of a connection go. Unbounded: a full channel would hold up the very
/// queries that are to make room in it.
pub type Notifications = UnboundedSender<Notification>;

/// Dials with a login, whatever the TLS connector is.
pub trait Dial: Send + Sync {
    /// Opens a connection. `application` replaces the user's application name; what the server
    /// tells of `LISTEN` goes to `notifications`, if they are wanted.
    ///
    /// # Errors
    /// What the driver says.
    fn dial<'a>(
        &'a self,
        login: &'a Credential,
        application: Option<&'a str>,
        notifications: Option<Notifications>,
    ) -> BoxFuture<'a, Result<(Client, Driver), Error>>;
}

/// Dials with a configuration of the driver's, of which user and password are replaced, and any TLS
/// connector.
pub struct TlsDial<T> {
    config: Config,
    tls: T,
}

impl<T> TlsDial<T> {
    /// `config` keeps everything but user and password.
    pub fn new(config: Config, tls: T) -> Self {
        Self { config, tls }
    }
}

impl<T> fmt::Debug for TlsDial<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsDial").finish_non_exhaustive()
    }
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
        notifications: Option<Notifications>,
    ) -> BoxFuture<'a, Result<(Client, Driver), Error>> {
        let mut config = with_login(&self.config, login);
        if let Some(application) = application {
            config.application_name(application);
        }
        let tls = self.tls.clone();
        Box::pin(async move {
            let (client, connection) = hosts::connect(&config, tls).await?;
            let driver: Driver = match notifications {
                None => Box::pin(connection),
                Some(notifications) => Box::pin(listen(connection, notifications)),
            };
            Ok((client, driver))
        })
    }
}

/// `base` with a login's user and password, and its address where it has one.
#[must_use]
pub fn with_login(base: &Config, login: &Credential) -> Config {
    let mut config = match login.address() {
        Some(address) => hosts::elsewhere(base, address),
        None => base.clone(),
    };
    config.user(login.username()).password(login.expose_password());
    config
}

/// Runs a connection, and passes on what it is notified of.
async fn listen<S, T>(
    mut connection: Connection<S, T>,
    notifications: Notifications,
) -> Result<(), Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    loop {
        match poll_fn(|cx| connection.poll_message(cx)).await {
            Some(Ok(AsyncMessage::Notification(notification))) => {
                // Nobody listens any more: the connection ends with its client.
                let _ = notifications.send(notification);
            }
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(error),
            None => return Ok(()),
        }
    }
}

/// An open connection, counted until its socket is closed. Dropping it closes it.
pub struct Link {
    client: Client,
    task: Task,
    generation: u64,
    made: Instant,
}

impl Link {
    /// Runs the connection as a task. `ticket` goes with it, wherever the client ends up.
    pub(crate) fn spawn(
        (client, driver): (Client, Driver),
        ticket: Option<Ticket>,
        generation: u64,
        made: Instant,
    ) -> Self {
        let task = tokio::spawn(run(Wire { driver, _ticket: ticket }));
        Self { client, task: Task(Some(task)), generation, made }
    }

    /// The driver's own client.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The driver's own client, for what needs it exclusively: transactions.
    pub fn client_mut(&mut self) -> &mut Client {
        &mut self.client
    }

    /// The generation whose login it has.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// When it was admitted, in the order of swaps: before one it belongs to what that supersedes.
    #[must_use]
    pub fn made(&self) -> Instant {
        self.made
    }

    pub(crate) fn abort_handle(&self) -> Option<AbortHandle> {
        self.task.0.as_ref().map(JoinHandle::abort_handle)
    }

    /// Says goodbye to Postgres, and returns when the socket is closed.
    pub async fn close(self) {
        let Self { client, mut task, .. } = self;
        drop(client);
        if let Some(handle) = &mut task.0 {
            // Late or panicked: cut by the drop of `task`.
            let _ = tokio::time::timeout(GOODBYE, handle).await;
        }
    }

    /// The client and the task that runs it, for who ends that task when the client goes.
    #[must_use]
    pub fn into_parts(self) -> (Client, JoinHandle<()>) {
        let Self { client, mut task, .. } = self;
        let handle = task.0.take().unwrap_or_else(|| tokio::spawn(async {}));
        (client, handle)
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("generation", &self.generation).finish_non_exhaustive()
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
