//! Connections without a pool.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use leasehold::CredentialProvider;
use leasehold::hook::{BoxFuture, Refusal, Verdict};
use tokio::sync::watch;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::{Client, Config, Socket};

use crate::control::works;
use crate::diagnosis::is_authentication;
use crate::engine::{Engine, EngineSettings, Pooled};
use crate::hook::attach;
use crate::link::{Link, Notifications, TlsDial};
use crate::{Error, Listener};

/// Settings of a [`Connector`], each with a default.
#[derive(Clone, Debug)]
#[must_use = "call connector()"]
pub struct Installer {
    name: String,
    probe: Option<String>,
    connect_timeout: Duration,
}

impl Default for Installer {
    fn default() -> Self {
        Self::new()
    }
}

impl Installer {
    /// The defaults.
    pub fn new() -> Self {
        Self {
            name: "tokio-postgres".to_owned(),
            probe: None,
            connect_timeout: Duration::from_secs(5),
        }
    }

    /// The name in events, logs and health, where it stands for a pool's. Default:
    /// `tokio-postgres`.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Statements that a new login must be able to run before it becomes current, such as
    /// `SELECT 1 FROM orders LIMIT 0`. Default: none, a login is proven when it opens a connection.
    pub fn probe(mut self, sql: impl Into<String>) -> Self {
        self.probe = Some(sql.into());
        self
    }

    /// Bounds every connect, those that prove a login included. Default: 5 s.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Attaches a connector to `provider`. Connects nowhere: call [`Connector::connect`] to see
    /// that it can.
    ///
    /// `config` keeps everything but user and password, which come from the provider; `tls` is any
    /// connector that tokio-postgres takes.
    ///
    /// # Errors
    /// [`Error::Stopped`].
    pub fn connector<T>(
        self,
        provider: &CredentialProvider,
        config: Config,
        tls: T,
    ) -> Result<Connector, Error>
    where
        T: MakeTlsConnect<Socket> + Clone + Send + Sync + 'static,
        T::Stream: Send + Sync,
        T::TlsConnect: Send + Sync,
        <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
    {
        let settings = EngineSettings {
            name: self.name,
            probe: self.probe,
            warm: Vec::new(),
            connect_timeout: self.connect_timeout,
        };
        let dial = Box::new(TlsDial::new(config, tls));
        let engine = Arc::new(Engine::new(settings, dial, provider.current().clone()));
        let open = Arc::new(Open::new(true));
        engine.set_pool(Unpooled(Arc::downgrade(&open)));
        attach(provider, &engine)?;
        Ok(Connector { inner: Arc::new(Inner { engine, provider: provider.clone(), open }) })
    }
}

/// Makes connections with the login that is current, and counts them until they are closed: no
/// login is revoked under one before its drain's deadline. Cheap to clone.
///
/// It is attached until its last clone and the last of its connections are gone.
#[derive(Clone)]
pub struct Connector {
    inner: Arc<Inner>,
}

struct Inner {
    engine: Arc<Engine>,
    provider: CredentialProvider,
    open: Arc<Open>,
}

/// Whether the rotator still feeds it.
type Open = watch::Sender<bool>;

impl Connector {
    /// A connector with the defaults of [`Installer`].
    ///
    /// # Errors
    /// [`Error::Stopped`].
    pub fn new<T>(provider: &CredentialProvider, config: Config, tls: T) -> Result<Self, Error>
    where
        T: MakeTlsConnect<Socket> + Clone + Send + Sync + 'static,
        T::Stream: Send + Sync,
        T::TlsConnect: Send + Sync,
        <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
    {
        Installer::new().connector(provider, config, tls)
    }

    /// Opens a connection with the current login. One that is refused is replaced as in a pool: who
    /// meets the refusal joins the refresh that runs, or is permitted now.
    ///
    /// Dropping the future closes what was opened.
    ///
    /// # Errors
    /// [`Error::LoginRefused`], [`Error::Unreachable`], [`Error::Timeout`], or
    /// [`Error::Stopped`] after a shutdown.
    pub async fn connect(&self) -> Result<Connection, Error> {
        self.within(async {
            let opened = self.inner.engine.connect_link(&self.inner.provider, |_| None).await;
            let link = opened.map_err(|e| Error::connect(self.name(), e))?;
            self.check(&link).await?;
            Ok(Connection { link, connector: self.clone() })
        })
        .await
    }

    /// Listens on `channels`, across rotations: see [`Listener`].
    ///
    /// # Errors
    /// As of [`connect`](Self::connect), and [`Error::Listen`].
    pub async fn listen<C: Into<String>>(
        &self,
        channels: impl IntoIterator<Item = C>,
    ) -> Result<Listener, Error> {
        let channels = channels.into_iter().map(Into::into).collect();
        Listener::start(self.clone(), channels).await
    }

    /// The name in events, logs and health.
    #[must_use]
    pub fn name(&self) -> &str {
        self.inner.engine.name()
    }

    /// A connection whose notifications go to `notifications`.
    pub(crate) async fn connect_listening(
        &self,
        notifications: Notifications,
    ) -> Result<Connection, Error> {
        let (engine, provider) = (&self.inner.engine, &self.inner.provider);
        self.within(async {
            let open = |admission| engine.open_listening(admission, notifications.clone());
            let opened = engine.connect(provider, |_| None, open, is_authentication).await;
            let link = opened.map_err(|e| Error::connect(self.name(), e))?;
            Ok(Connection { link, connector: self.clone() })
        })
        .await
    }

    async fn within(
        &self,
        connecting: impl Future<Output = Result<Connection, Error>>,
    ) -> Result<Connection, Error> {
        if !*self.inner.open.borrow() {
            return Err(Error::Stopped { name: self.name().to_owned() });
        }
        let after = self.inner.engine.connect_timeout();
        match tokio::time::timeout(after, connecting).await {
            Ok(connected) => connected,
            Err(_) => Err(Error::Timeout { name: self.name().to_owned(), after }),
        }
    }

    /// The first connection of a generation tells its role's OID, by which a drain finds sessions.
    async fn check(&self, link: &Link) -> Result<(), Error> {
        let engine = &self.inner.engine;
        if engine.oid(link.generation()).is_none() {
            let oid = works(link.client()).await.map_err(|e| Error::connect(self.name(), e))?;
            if let Some(oid) = oid {
                engine.remember_oid(link.generation(), oid);
            }
        }
        Ok(())
    }

    async fn until_superseded(&self, made: Instant) {
        let mut swaps = self.inner.provider.subscribe();
        let mut open = self.inner.open.subscribe();
        while *open.borrow_and_update() && self.inner.engine.judge(made) == Verdict::Current {
            tokio::select! {
                Ok(_) = swaps.changed() => {}
                // The sender is in `self`.
                Ok(()) = open.changed() => {}
                else => std::future::pending().await,
            }
        }
    }
}

/// The connector as its engine sees it: nothing is idle, so nothing can be replaced beforehand.
struct Unpooled(Weak<Open>);

impl Pooled for Unpooled {
    fn is_open(&self) -> bool {
        self.0.upgrade().is_some_and(|open| *open.borrow())
    }

    fn close(&self) {
        if let Some(open) = self.0.upgrade() {
            open.send_replace(false);
        }
    }

    fn max_size(&self) -> Option<usize> {
        None
    }

    fn size(&self) -> usize {
        0
    }

    fn idle(&self) -> usize {
        0
    }

    fn close_idle(&self, _: usize, _: &mut dyn FnMut(Instant) -> bool) -> usize {
        0
    }

    fn rolls(&self) -> bool {
        false
    }

    fn open_spare(&self) -> BoxFuture<'_, Result<bool, Refusal>> {
        Box::pin(std::future::ready(Ok(false)))
    }

    fn spare_waits(&self) -> bool {
        false
    }

    fn claim_spare(&self) -> bool {
        false
    }

    fn spares(&self) -> usize {
        0
    }

    fn adopt_spares(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }

    fn clear_spares(&self) {}
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector").field("engine", &self.inner.engine).finish_non_exhaustive()
    }
}

/// A connection of a [`Connector`]'s, which derefs to [`Client`]. Dropping it closes it.
///
/// It is yours to keep: nothing closes it before the deadline of its generation's drain, the roll
/// and the grace after the swap (45 s by default). Then Postgres ends its session, and the log names it.
/// What lives longer (an advisory lock, a cursor, a session with settings) waits for
/// [`superseded`](Self::superseded) beside its work, and moves to a new connection meanwhile.
pub struct Connection {
    link: Link,
    connector: Connector,
}

impl Connection {
    /// The generation whose login it has.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.link.generation()
    }

    /// A swap has made it one of an earlier generation: it is being drained.
    #[must_use]
    pub fn is_superseded(&self) -> bool {
        self.connector.inner.engine.judge(self.link.made()) != Verdict::Current
    }

    /// Resolves when a swap has superseded it, at once if one has already, and at the rotator's
    /// shutdown. Cancel safe.
    pub async fn superseded(&self) {
        self.connector.until_superseded(self.link.made()).await;
    }

    /// Says goodbye to Postgres, and returns when the socket is closed, after a second at most.
    /// Dropping it closes it too, without waiting.
    pub async fn close(self) {
        self.link.close().await;
    }
}

impl Deref for Connection {
    type Target = Client;

    fn deref(&self) -> &Client {
        self.link.client()
    }
}

impl DerefMut for Connection {
    fn deref_mut(&mut self) -> &mut Client {
        self.link.client_mut()
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("link", &self.link).finish_non_exhaustive()
    }
}
