//! A connection of our own making, counted from the dial to the close.

use std::fmt;
use std::future::poll_fn;
use std::time::{Duration, Instant};

use leasehold::hook::{BoxFuture, Ticket};
use leasehold::{Address, Credential};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::{AbortHandle, JoinHandle};
use tokio_postgres::config::Host;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::{AsyncMessage, Client, Config, Connection, Error, Notification, Socket};

use crate::diagnosis::kind;

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
            let (client, connection) = config.connect(tls).await?;
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
        Some(address) => elsewhere(base, address),
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

/// `base`, connecting to `address`; what that does not say stays. `Config` can only add hosts and
/// ports, so that one with others is made from the start.
fn elsewhere(base: &Config, address: &Address) -> Config {
    let mut config = if address.host.is_some() || address.port.is_some() {
        let mut config = other_than_hosts(base);
        match &address.host {
            Some(host) => drop(config.host(host)),
            None => {
                for host in base.get_hosts() {
                    match host {
                        Host::Tcp(name) => config.host(name),
                        #[cfg(unix)]
                        Host::Unix(path) => config.host_path(path),
                    };
                }
                for ip in base.get_hostaddrs() {
                    config.hostaddr(*ip);
                }
            }
        }
        // Several ports belong to as many hosts, which may be others now.
        match (address.port, base.get_ports()) {
            (Some(port), _) => drop(config.port(port)),
            (None, [port]) => drop(config.port(*port)),
            (None, _) => {}
        }
        config
    } else {
        base.clone()
    };
    if let Some(database) = &address.database {
        config.dbname(database);
    }
    config
}

fn other_than_hosts(base: &Config) -> Config {
    let mut config = Config::new();
    config
        .ssl_mode(base.get_ssl_mode())
        .ssl_negotiation(base.get_ssl_negotiation())
        .keepalives(base.get_keepalives())
        .keepalives_idle(base.get_keepalives_idle())
        .target_session_attrs(base.get_target_session_attrs())
        .channel_binding(base.get_channel_binding())
        .load_balance_hosts(base.get_load_balance_hosts());
    if let Some(name) = base.get_dbname() {
        config.dbname(name);
    }
    if let Some(options) = base.get_options() {
        config.options(options);
    }
    if let Some(name) = base.get_application_name() {
        config.application_name(name);
    }
    if let Some(timeout) = base.get_connect_timeout() {
        config.connect_timeout(*timeout);
    }
    if let Some(timeout) = base.get_tcp_user_timeout() {
        config.tcp_user_timeout(*timeout);
    }
    if let Some(interval) = base.get_keepalives_interval() {
        config.keepalives_interval(interval);
    }
    if let Some(retries) = base.get_keepalives_retries() {
        config.keepalives_retries(retries);
    }
    config
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_takes_the_place_of_the_hosts_and_leaves_the_rest() {
        let base = "host=a,b port=1,2 dbname=mine application_name=app connect_timeout=3 \
                    sslmode=require keepalives_interval=4 target_session_attrs=read-write";
        let base: Config = base.parse().unwrap();
        let moved = elsewhere(&base, &Address::new().host("c").port(5).database("yours"));
        let wanted = "host=c port=5 dbname=yours application_name=app connect_timeout=3 \
                      sslmode=require keepalives_interval=4 target_session_attrs=read-write";
        assert_eq!(moved, wanted.parse().unwrap());
        let same = elsewhere(&base, &Address::new().database("mine"));
        assert_eq!(same, base);
        let port = elsewhere(&base, &Address::new().port(6));
        assert_eq!((port.get_hosts(), port.get_ports()), (base.get_hosts(), &[6][..]));
    }
}
