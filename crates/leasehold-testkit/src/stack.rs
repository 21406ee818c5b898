//! Both servers, started by one call.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio_postgres::{Client, NoTls};

use crate::backend::{Backend, Deed, Plan, Server, Servers, secret};
use crate::bao::{Extras, Storage};
use crate::postgres::SUPERUSER;
use crate::process::START_TIMEOUT;
use crate::processes::Processes;
use crate::programs::Search;
use crate::spec::seconds;
#[cfg(feature = "tls")]
pub(crate) use crate::tls::Authority;
use crate::{Error, FaultProxy, Result, http};

/// A real OpenBao (or Vault) and a real Postgres on free ports of 127.0.0.1, as child processes or
/// as containers ([`Backend`]).
///
/// A cheap handle: clones share the servers, which end with the last handle (a [`TestDb`] is one
/// too), with [`Stack::shutdown`], or with this process, however it ends. Dropping the last handle
/// blocks for about a tenth of a second.
///
/// After the start there is nothing but the servers. [`Stack::database`] makes what one test needs.
///
/// ```no_run
/// # async fn f() -> leasehold_testkit::Result<()> {
/// use std::time::Duration;
/// use leasehold_testkit::{DatabaseSpec, RoleSpec, Stack};
///
/// let stack = Stack::start().await?;
/// let role = RoleSpec::new("app").default_ttl(Duration::from_secs(4)).max_ttl(Duration::from_secs(8));
/// let db = stack.database(DatabaseSpec::new("orders").role(role).with_accounts()).await?;
/// let login = db.creds().await?;
/// let client = db.connect(&login.username, &login.password).await?;
/// client.execute("update accounts set v = v + 1 where id = 7", &[]).await.expect("granted");
/// # Ok(()) }
/// ```
///
/// [`TestDb`]: crate::TestDb
#[derive(Clone)]
pub struct Stack {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) ends: Endpoints,
    pub(crate) servers: Servers,
    pub(crate) storage: Storage,
    pub(crate) audits: bool,
    /// Raft: what the initialisation returned.
    pub(crate) unseal_key: Option<String>,
}

/// How to reach the servers.
pub(crate) struct Endpoints {
    /// `host:port`
    pub(crate) vault: String,
    /// The same server's `host:port` with TLS.
    pub(crate) vault_tls: Option<String>,
    pub(crate) root_token: String,
    pub(crate) pg_host: String,
    pub(crate) pg_port: u16,
    /// `host:port` of Postgres as the Vault server sees it.
    pub(crate) pg_for_vault: String,
    pub(crate) pg_password: String,
    pub(crate) authority: Option<Authority>,
}

impl Endpoints {
    pub(crate) async fn connect(&self, user: &str, password: &str, db: &str) -> Result<Client> {
        self.connect_at(self.pg_port, user, password, db).await
    }

    /// To another Postgres on the same host.
    pub(crate) async fn connect_at(
        &self,
        port: u16,
        user: &str,
        password: &str,
        db: &str,
    ) -> Result<Client> {
        let (client, connection) = tokio_postgres::Config::new()
            .host(&self.pg_host)
            .port(port)
            .user(user)
            .password(password)
            .dbname(db)
            .application_name("leasehold-testkit")
            .connect(NoTls)
            .await
            .map_err(Error::postgres(format!("logging in as {user} to database {db}")))?;
        // Ends with the client, or with an error that the client reports as well.
        tokio::spawn(connection);
        Ok(client)
    }
}

impl fmt::Debug for Stack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let e = &self.inner.ends;
        f.debug_struct("Stack")
            .field("vault", &e.vault)
            .field("postgres", &format_args!("{}:{}", e.pg_host, e.pg_port))
            .finish_non_exhaustive()
    }
}

/// What to start, and how to get it. Made by [`Stack::builder`].
#[derive(Clone, Debug, Default)]
#[must_use = "a builder does nothing until `start`"]
pub struct StackBuilder {
    storage: Storage,
    tls: bool,
    vault_tls: Vec<String>,
    audit_raw: bool,
    postgres_settings: Vec<(String, String)>,
    search: Search,
    backend: Option<Backend>,
    vault_image: Option<String>,
    postgres_image: Option<String>,
}

impl StackBuilder {
    /// What the servers run as. Without this call `LEASEHOLD_TESTKIT_BACKEND` decides
    /// ([`Backend::from_env`]), and without that they are processes.
    pub fn backend(mut self, backend: Backend) -> Self {
        self.backend = Some(backend);
        self
    }

    /// The image of the Vault server, as `name:tag` or by digest: `openbao/openbao` or
    /// `hashicorp/vault`, or one that starts as they do. Heeded by containers only. Without this
    /// call: `LEASEHOLD_BAO_IMAGE`, else `openbao/openbao:2.7.2`.
    pub fn vault_image(mut self, image: impl Into<String>) -> Self {
        self.vault_image = Some(image.into());
        self
    }

    /// The image of Postgres: the official one, or one that starts as it does. Heeded by
    /// containers only. Without this call: `LEASEHOLD_POSTGRES_IMAGE`, else `postgres:18`.
    pub fn postgres_image(mut self, image: impl Into<String>) -> Self {
        self.postgres_image = Some(image.into());
        self
    }

    /// What the Vault server keeps its data in. Default: [`Storage::Dev`].
    pub fn storage(mut self, storage: Storage) -> Self {
        self.storage = storage;
        self
    }

    /// Postgres with TLS, under a CA of its own ([`Stack::ca_pem`]) with a certificate for
    /// `localhost` and 127.0.0.1. Connections without TLS are still let in. Needs the feature
    /// `tls`, and processes.
    pub fn postgres_tls(mut self, on: bool) -> Self {
        self.tls = on;
        self
    }

    /// The Vault server with TLS ([`Stack::vault_addr`] is `https://` then), under a CA of its own
    /// ([`Stack::ca_pem`]) with a certificate for `localhost` and 127.0.0.1. Clients may show a
    /// certificate (`Stack::client_certificate`), and need not. Needs the feature
    /// `tls`.
    pub fn vault_tls(self) -> Self {
        self.vault_tls_for(["localhost", "127.0.0.1"])
    }

    /// The same with a certificate for other names.
    pub fn vault_tls_for<S: Into<String>>(mut self, names: impl IntoIterator<Item = S>) -> Self {
        self.vault_tls = names.into_iter().map(Into::into).collect();
        self
    }

    /// Keeps each request and answer of the Vault server, with all secrets in clear, for
    /// [`Stack::secrets_issued`].
    pub fn audit_raw(mut self) -> Self {
        self.audit_raw = true;
        self
    }

    /// A setting for Postgres's command line, as in `postgresql.conf`. The last one counts.
    pub fn postgres_setting(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.postgres_settings.push((key.into(), value.into()));
        self
    }

    /// Whether servers that are not installed may be fetched with pip. Without this call the
    /// variable `LEASEHOLD_TESTKIT_DOWNLOAD` decides, and without that nothing is fetched.
    pub fn download(mut self, allowed: bool) -> Self {
        self.search.download = Some(allowed);
        self
    }

    /// Where fetched servers are kept. Without this call: `LEASEHOLD_TESTKIT_CACHE`, else the
    /// build's target folder, else the user's cache folder.
    pub fn cache_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.search.cache_dir = Some(dir.into());
        self
    }

    /// Finds or fetches what the servers run from, starts both and waits until they are ready.
    ///
    /// Given up halfway, it ends in the background, and the servers with it.
    pub async fn start(self) -> Result<Stack> {
        let backend = self.backend.map_or_else(Backend::from_env, Ok)?;
        let tls = self.tls || !self.vault_tls.is_empty();
        let authority = if tls { Some(Authority::new()?) } else { None };
        let mut postgres_certificate = None;
        let mut extras = Extras { tls: None, audit_raw: self.audit_raw };
        if let Some(ca) = &authority {
            if self.tls {
                postgres_certificate = Some(ca.server(&["localhost".into(), "127.0.0.1".into()])?);
            }
            if !self.vault_tls.is_empty() {
                extras.tls = Some(ca.server(&self.vault_tls)?);
            }
        }
        let plan = Plan {
            storage: self.storage,
            extras,
            postgres_certificate,
            postgres_settings: self.postgres_settings,
            authority,
            secret: secret()?,
            root: secret()?,
        };
        let (storage, audits) = (plan.storage, plan.extras.audit_raw);
        let (servers, mut ends) = match backend {
            Backend::Processes => start_processes(self.search, plan).await?,
            #[cfg(feature = "containers")]
            Backend::Containers => {
                crate::containers::start(plan, self.vault_image, self.postgres_image).await?
            }
            #[cfg(not(feature = "containers"))]
            Backend::Containers => {
                return Err(Error::Unsupported(
                    "containers were asked for (LEASEHOLD_TESTKIT_BACKEND, or a builder) and need \
                     the feature `containers` of leasehold-testkit"
                        .into(),
                ));
            }
        };
        let mut unseal_key = None;
        if storage == Storage::Raft {
            let (root_token, key) = initialise(&ends.vault).await?;
            ends.root_token = root_token;
            unseal_key = Some(key);
        }
        wait_active(&ends.vault).await?;
        let inner = Inner { ends, servers, storage, audits, unseal_key };
        let stack = Stack { inner: Arc::new(inner) };
        stack.have_it_audit().await?;
        Ok(stack)
    }
}

async fn start_processes(search: Search, plan: Plan) -> Result<(Servers, Endpoints)> {
    blocking(move || {
        let programs = search.run(plan.postgres_certificate.is_some())?;
        let processes = Processes::start(&plan, &programs)?;
        let ends = processes.endpoints(plan);
        Ok((Servers::Processes(Box::new(processes)), ends))
    })
    .await
}

impl Stack {
    /// A dev server and a Postgres, both with the defaults, on the backend that the environment
    /// names ([`Backend::from_env`]): processes, if it says nothing.
    pub async fn start() -> Result<Self> {
        Self::builder().start().await
    }

    /// The same as child processes, whatever the environment says.
    pub async fn processes() -> Result<Self> {
        Self::builder().backend(Backend::Processes).start().await
    }

    /// The same as Docker containers, whatever the environment says about that. Images:
    /// [`StackBuilder::vault_image`] and [`StackBuilder::postgres_image`].
    ///
    /// All that a stack of processes can do is possible, but for [`Stack::dir`],
    /// [`Stack::vault_program`], [`StackBuilder::postgres_tls`] and a
    /// [`DatabaseSpec::postgres_at`](crate::DatabaseSpec::postgres_at) on this machine's loopback.
    /// An error says so.
    ///
    /// # Errors
    /// If no Docker engine can be reached, or an image is neither there nor to be had.
    #[cfg(feature = "containers")]
    pub async fn containers() -> Result<Self> {
        Self::builder().backend(Backend::Containers).start().await
    }

    /// For everything that differs from the defaults.
    pub fn builder() -> StackBuilder {
        StackBuilder::default()
    }

    /// The Vault server's address, `http://127.0.0.1:PORT`, or `https://` if it was started with
    /// TLS.
    #[must_use]
    pub fn vault_addr(&self) -> String {
        match &self.inner.ends.vault_tls {
            Some(tls) => format!("https://{tls}"),
            None => format!("http://{}", self.inner.ends.vault),
        }
    }

    /// A token that may do everything.
    #[must_use]
    pub fn root_token(&self) -> &str {
        &self.inner.ends.root_token
    }

    /// Postgres's host.
    #[must_use]
    pub fn pg_host(&self) -> &str {
        &self.inner.ends.pg_host
    }

    /// Postgres's port.
    #[must_use]
    pub fn pg_port(&self) -> u16 {
        self.inner.ends.pg_port
    }

    /// Postgres's superuser.
    #[must_use]
    pub fn superuser(&self) -> &str {
        SUPERUSER
    }

    /// The superuser's password.
    #[must_use]
    pub fn superuser_password(&self) -> &str {
        &self.inner.ends.pg_password
    }

    /// The CA of the servers' certificates, as PEM, if one of them was started with TLS.
    #[must_use]
    pub fn ca_pem(&self) -> Option<&str> {
        self.inner.ends.authority.as_ref().map(Authority::pem)
    }

    /// A certificate of the stack's CA for a client of this name.
    #[cfg(feature = "tls")]
    pub fn client_certificate(&self, common_name: &str) -> Result<crate::ClientCertificate> {
        match &self.inner.ends.authority {
            Some(ca) => ca.client(common_name),
            None => Err(Error::Unsupported(
                "there is no CA: start the stack with vault_tls() or postgres_tls(true)".into(),
            )),
        }
    }

    /// A proxy before the Vault server, to break the way to it: [`FaultProxy::address`] in place of
    /// what [`vault_addr`](Self::vault_addr) says after `://`. What this crate itself asks of the
    /// server goes past it.
    ///
    /// [`FaultProxy::address`]: crate::FaultProxy::address
    pub async fn vault_proxy(&self) -> Result<FaultProxy> {
        let ends = &self.inner.ends;
        FaultProxy::before(ends.vault_tls.as_ref().unwrap_or(&ends.vault)).await
    }

    /// A proxy before Postgres, to break the way to it. [`DatabaseSpec::postgres_at`] leads the
    /// Vault server there too.
    ///
    /// [`DatabaseSpec::postgres_at`]: crate::DatabaseSpec::postgres_at
    pub async fn postgres_proxy(&self) -> Result<FaultProxy> {
        FaultProxy::before(format!("{}:{}", self.pg_host(), self.pg_port())).await
    }

    /// The folder with the servers' data and logs (`bao.log`, `pg.log`). It goes with the stack.
    /// `None` for containers.
    #[must_use]
    pub fn dir(&self) -> Option<&Path> {
        self.inner.servers.processes("a folder").ok().map(|p| p.dir.as_path())
    }

    /// Ends both servers and removes what was theirs, whoever still holds a handle.
    pub async fn shutdown(&self) -> Result<()> {
        #[cfg(feature = "containers")]
        if let Servers::Containers(c) = &self.inner.servers {
            return c.end().await;
        }
        self.on_processes("shutting down", |p| {
            p.end();
            Ok(())
        })
        .await
    }

    /// Any request to the Vault server with the root token: method (`LIST` too), path below
    /// `/v1/`, body. Returns status and body (`Null` if empty), error statuses included.
    pub async fn vault_request(
        &self,
        method: &str,
        path: &str,
        body: Option<Value>,
    ) -> Result<(u16, Value)> {
        self.vault_request_as(self.root_token(), method, path, body).await
    }

    /// The same with another token, or with none: `""`.
    pub async fn vault_request_as(
        &self,
        token: &str,
        method: &str,
        path: &str,
        body: Option<Value>,
    ) -> Result<(u16, Value)> {
        http::request(&self.inner.ends.vault, token, method, path, body.as_ref()).await
    }

    /// Any request with the root token whose answer is put behind a wrapping token, which lives
    /// for `ttl` (whole seconds) and is used once. Returns the wrapping token.
    pub async fn vault_request_wrapped(
        &self,
        method: &str,
        path: &str,
        body: Option<Value>,
        ttl: Duration,
    ) -> Result<String> {
        let ttl = format!("{}s", seconds("ttl", ttl)?);
        let headers = [("X-Vault-Token", self.root_token()), ("X-Vault-Wrap-TTL", &ttl)];
        let (vault, body) = (&self.inner.ends.vault, body.as_ref());
        let reply = http::request_within(http::LIMIT, vault, &headers, method, path, body).await?;
        let reply = http::ok(method, path, reply)?;
        let token = reply["wrap_info"]["token"].as_str();
        token.map(str::to_owned).ok_or_else(|| Error::Server {
            server: "OpenBao",
            detail: format!("{method} {path} answered without a wrapping token"),
        })
    }

    /// A request of ours that has to succeed.
    pub(crate) async fn vault(&self, method: &str, path: &str, body: Value) -> Result<Value> {
        let body = (!body.is_null()).then_some(body);
        http::ok(method, path, self.vault_request(method, path, body).await?)
    }

    /// Whether there was anything to do.
    pub(crate) async fn carry_out(&self, deed: Deed) -> Result<bool> {
        #[cfg(feature = "containers")]
        if let Servers::Containers(c) = &self.inner.servers {
            return c.carry_out(deed, &self.inner.ends).await;
        }
        self.on_processes("this", move |p| p.carry_out(deed)).await
    }

    /// What a server has written since its first start.
    pub(crate) async fn log_of(&self, server: Server) -> Result<String> {
        #[cfg(feature = "containers")]
        if let Servers::Containers(c) = &self.inner.servers {
            return c.log(server).await;
        }
        self.on_processes("reading a log", move |p| p.log(server)).await
    }

    /// Runs blocking work on the processes, off the runtime's threads.
    pub(crate) async fn on_processes<T: Send + 'static>(
        &self,
        doing: &'static str,
        work: impl FnOnce(&Processes) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.inner.servers.processes(doing)?;
        let inner = Arc::clone(&self.inner);
        blocking(move || work(inner.servers.processes(doing)?)).await
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(e) => match e.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(e) => Err(Error::io("the runtime is shutting down")(std::io::Error::other(e))),
        },
    }
}

/// One key share, kept by us: the root token and the key.
async fn initialise(vault: &str) -> Result<(String, String)> {
    let body = json!({ "secret_shares": 1, "secret_threshold": 1 });
    let reply = http::request(vault, "", "PUT", "sys/init", Some(&body)).await?;
    let init = http::ok("PUT", "sys/init", reply)?;
    let text = |v: &Value| v.as_str().map(str::to_owned);
    let (Some(key), Some(root)) = (text(&init["keys_base64"][0]), text(&init["root_token"])) else {
        return Err(Error::Server {
            server: "OpenBao",
            detail: "sys/init answered without a key or a root token".into(),
        });
    };
    unseal(vault, &key).await?;
    Ok((root, key))
}

/// Unseals it and waits until it serves.
pub(crate) async fn unseal(vault: &str, key: &str) -> Result<()> {
    let body = json!({ "key": key });
    let reply = http::request(vault, "", "PUT", "sys/unseal", Some(&body)).await?;
    http::ok("PUT", "sys/unseal", reply)?;
    wait_active(vault).await
}

/// An unsealed raft node answers 429 (standby) for a moment before it leads.
pub(crate) async fn wait_active(vault: &str) -> Result<()> {
    let begun = Instant::now();
    loop {
        let limit = Duration::from_secs(2);
        let health = http::request_within(limit, vault, &[], "GET", "sys/health", None).await;
        if matches!(health, Ok((200, _))) {
            return Ok(());
        }
        if begun.elapsed() > START_TIMEOUT {
            let last = match health {
                Ok((status, _)) => format!("sys/health says {status}"),
                Err(e) => e.to_string(),
            };
            let what = format!("the Vault server is unsealed and active ({last})");
            return Err(Error::Timeout { what, after: START_TIMEOUT });
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Without the feature nothing can be signed.
#[cfg(not(feature = "tls"))]
#[derive(Debug)]
pub(crate) enum Authority {}

#[cfg(not(feature = "tls"))]
impl Authority {
    fn new() -> Result<Self> {
        Err(Error::Unsupported(
            "TLS needs the feature `tls` of leasehold-testkit, to make certificates".into(),
        ))
    }

    fn pem(&self) -> &str {
        match *self {}
    }

    fn server(&self, _: &[String]) -> Result<crate::postgres::Certificate> {
        match *self {}
    }
}
