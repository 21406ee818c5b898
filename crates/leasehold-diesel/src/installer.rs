//! What is set for a pool on a provider, whatever its kind.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use leasehold::CredentialProvider;
use leasehold::hook::Sampler;
use leasehold_tokio_postgres::hook::{Dial, Engine, EngineSettings};

/// Settings of a pool on a provider, each with a default. Of a pool made with deadpool it is
/// [`deadpool::Installer`](crate::deadpool::Installer), of one made with bb8
/// [`bb8::Installer`](crate::bb8::Installer).
#[must_use = "call connect() or connect_lazy()"]
pub struct Installer<P> {
    name: String,
    probe: Option<String>,
    connect_timeout: Duration,
    pub(crate) liveness: Option<Duration>,
    /// What is set for this kind of pool alone.
    #[cfg_attr(not(feature = "deadpool"), allow(dead_code, reason = "bb8's has nothing"))]
    pub(crate) pool: P,
}

impl<P: Default> Default for Installer<P> {
    fn default() -> Self {
        Self::new()
    }
}

impl<P: Default> Installer<P> {
    /// The defaults.
    pub fn new() -> Self {
        Self {
            name: "diesel".to_owned(),
            probe: None,
            connect_timeout: Duration::from_secs(5),
            liveness: Some(Sampler::DEFAULT_INTERVAL),
            pool: P::default(),
        }
    }
}

impl<P> Installer<P> {
    /// The pool's name in events, logs and health. Default: `diesel`.
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

    /// How often, while there is traffic, one connection is asked whether its role still exists
    /// when it is handed out: that is how a login revoked from outside is noticed, since pings and
    /// `SELECT 1` go on working. It costs that one borrower a round trip. `None` turns it off.
    /// Default: every 100 ms.
    pub fn liveness(mut self, every: impl Into<Option<Duration>>) -> Self {
        self.liveness = every.into();
        self
    }

    /// Bounds the connects that nobody borrows: the first one of `connect`, proofs of new logins,
    /// spares. Default: 5 s. Those of borrowers are bounded by the pool's own timeouts and by the
    /// configuration's connect timeout.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    pub(crate) fn engine(&self, provider: &CredentialProvider, dial: Box<dyn Dial>) -> Arc<Engine> {
        let settings = EngineSettings {
            name: self.name.clone(),
            probe: self.probe.clone(),
            warm: Vec::new(),
            connect_timeout: self.connect_timeout,
        };
        Arc::new(Engine::new(settings, dial, provider.current().clone()))
    }
}

impl<P> fmt::Debug for Installer<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Installer")
            .field("name", &self.name)
            .field("probe", &self.probe)
            .field("connect_timeout", &self.connect_timeout)
            .field("liveness", &self.liveness)
            .finish_non_exhaustive()
    }
}
