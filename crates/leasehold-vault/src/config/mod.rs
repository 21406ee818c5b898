//! Where the server is and how to talk to it.

mod error;
#[cfg(feature = "config-file")]
mod file;
mod methods;
mod parse;
mod settings;
mod values;

use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use leasehold::clock::Clock;
use zeroize::Zeroizing;

pub use error::ConfigError;
pub use settings::Settings;
use values::{Value, Values};

use crate::lanes;
use crate::limit::RateLimit;
use crate::mint_time;

/// Everything but minting: these calls take milliseconds, and are safe to repeat.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// The server gives up on a mint after 90 s by itself. A client that gives up sooner may leave
/// behind a database role that has no lease, which nobody ever revokes.
const MINT_TIMEOUT: Duration = mint_time::MOST;

pub(crate) const MINT_TIMEOUT_TOO_LONG: &str =
    "is above 120 s: a rotator takes a mint that is older for lost, and asks for another";

/// Answers are a few hundred bytes. Whatever is longer is not from the server we talk to.
const MAX_RESPONSE: usize = 1024 * 1024;

/// How to reach a Vault or OpenBao server.
///
/// ```
/// use std::time::Duration;
/// use leasehold_vault::VaultConfig;
///
/// let config = VaultConfig::new("http://127.0.0.1:8200")
///     .namespace("team1")
///     .request_timeout(Duration::from_secs(5));
/// ```
#[derive(Clone)]
pub struct VaultConfig {
    pub(crate) address: String,
    /// What to call the address in an error: the field, or the variable it came from.
    pub(crate) address_from: Cow<'static, str>,
    pub(crate) namespace: Option<String>,
    pub(crate) ca: Option<Ca>,
    pub(crate) client: Option<ClientCertificate>,
    /// With the name of the setting, as all that can be found wrong later.
    pub(crate) tls_server_name: Option<(Cow<'static, str>, String)>,
    pub(crate) skip_verify: bool,
    pub(crate) proxy: Option<(Cow<'static, str>, Zeroizing<String>)>,
    pub(crate) rate_limit: Option<RateLimit>,
    pub(crate) max_in_flight: usize,
    pub(crate) max_response: usize,
    pub(crate) request_timeout: Duration,
    pub(crate) mint_timeout: Duration,
    pub(crate) clock: Clock,
    pub(crate) name: Option<String>,
    /// Further addresses of the cluster.
    pub(crate) redirect_to: Vec<String>,
}

/// Whom to trust.
#[derive(Clone)]
pub(crate) enum Ca {
    Pem { setting: Cow<'static, str>, pem: Vec<u8> },
    Dir { setting: Cow<'static, str>, path: PathBuf },
}

/// What this client shows.
#[derive(Clone)]
pub(crate) struct ClientCertificate {
    /// What to call the certificate and the key in an error.
    pub(crate) settings: (Cow<'static, str>, Cow<'static, str>),
    pub(crate) cert: Vec<u8>,
    pub(crate) key: Zeroizing<Vec<u8>>,
}

impl VaultConfig {
    /// A server at `address`, such as `https://vault.internal:8200`. It is looked at when the
    /// session logs in.
    #[must_use]
    pub fn new(address: impl Into<String>) -> Self {
        Self {
            address: address.into(),
            address_from: "address".into(),
            namespace: None,
            ca: None,
            client: None,
            tls_server_name: None,
            skip_verify: false,
            proxy: None,
            rate_limit: None,
            max_in_flight: lanes::USUAL,
            max_response: MAX_RESPONSE,
            request_timeout: REQUEST_TIMEOUT,
            mint_timeout: MINT_TIMEOUT,
            clock: Clock::system(),
            name: None,
            redirect_to: Vec::new(),
        }
    }

    /// Reads the environment: `VAULT_ADDR`, `VAULT_NAMESPACE`, `VAULT_CACERT`, and the rest of the
    /// table at [`Settings`], as far as it is about the server and how to talk to it. `BAO_` in
    /// front wins over `VAULT_`. An empty variable counts as not set.
    ///
    /// # Errors
    /// No address, a value that can't be read as what it stands for, a file that can't be read,
    /// a mint timeout above 120 s, half of a client certificate, a TLS server name together with a proxy, or a `VAULT__` or
    /// `BAO__` variable that is unknown.
    pub fn from_env() -> Result<Self, ConfigError> {
        let mut values = Values::default();
        values.add_environment()?;
        Self::from_values(&values)
    }

    fn from_values(values: &Values) -> Result<Self, ConfigError> {
        let Some(address) = values.get("addr") else {
            return Err(ConfigError::new(
                "VAULT_ADDR",
                "is not set, and neither is BAO_ADDR: set it to the server's address, such as \
                 https://vault.internal:8200",
            ));
        };
        let mut config = Self::new(address.text.as_str());
        config.address_from = address.name().to_owned().into();
        if let Some(namespace) = values.text("namespace") {
            config = config.namespace(namespace);
        }
        let named = |value: &Value| Cow::from(value.name().to_owned());
        // The file wins, as with the server's own client.
        config.ca = match (values.get("cacert"), values.get("capath")) {
            (Some(file), _) => {
                Some(Ca::Pem { setting: named(file), pem: file.read_file()?.to_vec() })
            }
            (None, Some(dir)) => {
                Some(Ca::Dir { setting: named(dir), path: PathBuf::from(dir.text.as_str()) })
            }
            (None, None) => None,
        };
        config.client = match (values.get("client_cert"), values.get("client_key")) {
            (Some(cert), Some(key)) => Some(ClientCertificate {
                settings: (named(cert), named(key)),
                cert: cert.read_file()?.to_vec(),
                key: key.read_file()?,
            }),
            (None, None) => None,
            (Some(one), None) | (None, Some(one)) => {
                return Err(one.error(
                    "is set alone: a client certificate needs VAULT_CLIENT_CERT and \
                     VAULT_CLIENT_KEY",
                ));
            }
        };
        config.tls_server_name =
            values.get("tls_server_name").map(|v| (named(v), v.text.as_str().to_owned()));
        config.skip_verify = values.flag("skip_verify")?.unwrap_or(false);
        let proxy = values.get("proxy_addr").or_else(|| values.get("http_proxy"));
        config.proxy = proxy.map(|v| (named(v), v.text.clone()));
        if let Some(addresses) = values.text("redirect_to") {
            config.redirect_to = addresses.split(',').map(|a| a.trim().to_owned()).collect();
        }
        if let Some(timeout) = values.duration("client_timeout")? {
            config.request_timeout = timeout;
        }
        if let (Some(value), Some(timeout)) =
            (values.get("mint_timeout"), values.duration("mint_timeout")?)
        {
            if timeout > mint_time::MOST {
                return Err(value.error(MINT_TIMEOUT_TOO_LONG));
            }
            config.mint_timeout = timeout;
        }
        config.rate_limit = values.rate("rate_limit")?;
        if let Some(most) = values.count("max_in_flight")? {
            config.max_in_flight = most;
        }
        if let Some(most) = values.size("max_response")? {
            config.max_response = most;
        }
        Ok(config)
    }

    /// The namespace that every path is in. Slashes at the ends do not matter; empty is the root.
    #[must_use]
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        let namespace = namespace.into();
        let trimmed = namespace.trim().trim_matches('/');
        self.namespace = (!trimmed.is_empty()).then(|| trimmed.to_owned());
        self
    }

    /// The only certificate authorities to trust, in PEM form. Without it: those of the system.
    /// Replaces [`ca_path`](Self::ca_path).
    #[must_use]
    pub fn ca_pem(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.ca = Some(Ca::Pem { setting: "ca_pem".into(), pem: pem.into() });
        self
    }

    /// A directory whose files hold the only certificate authorities to trust, in PEM form. Files
    /// without a certificate do not matter; not a single one in all of them is an error. Read when
    /// the session logs in. Replaces [`ca_pem`](Self::ca_pem).
    #[must_use]
    pub fn ca_path(mut self, directory: impl Into<PathBuf>) -> Self {
        self.ca = Some(Ca::Dir { setting: "ca_path".into(), path: directory.into() });
        self
    }

    /// The certificate that this client shows, with those that lead to its authority behind it,
    /// and its private key, both in PEM form. A server may ask for it on every connection; the
    /// auth method `cert` logs in by it.
    #[must_use]
    pub fn client_certificate(
        mut self,
        cert_pem: impl Into<Vec<u8>>,
        key_pem: impl Into<Vec<u8>>,
    ) -> Self {
        self.client = Some(ClientCertificate {
            settings: ("client_certificate".into(), "client_certificate".into()),
            cert: cert_pem.into(),
            key: Zeroizing::new(key_pem.into()),
        });
        self
    }

    /// The name that the server's certificate is for, and that is asked for in the TLS handshake
    /// (SNI), where it is another than the address's host: behind a tunnel, or for an IP address.
    /// A DNS name. Neither a proxy nor [`redirect_to`](Self::redirect_to) can be used with it, and
    /// the system's proxies are not.
    #[must_use]
    pub fn tls_server_name(mut self, name: impl Into<String>) -> Self {
        self.tls_server_name = Some(("tls_server_name".into(), name.into()));
        self
    }

    /// Trust whatever certificate the server shows. **Whoever stands in between can read and
    /// change everything**, tokens and logins first; each login of a session warns of it.
    #[must_use]
    pub fn skip_verify(mut self, skip: bool) -> Self {
        self.skip_verify = skip;
        self
    }

    /// Send all requests through this HTTP proxy, such as `http://proxy.internal:3128`, with user
    /// name and password in the URL if it wants them. Without it: the system's (`HTTPS_PROXY` and
    /// so on), but not to a loopback address.
    #[must_use]
    pub fn proxy(mut self, url: impl Into<String>) -> Self {
        self.proxy = Some(("proxy".into(), Zeroizing::new(url.into())));
        self
    }

    /// At most this many requests a second, and at most `burst` at once after a pause. Those that
    /// come too soon wait, before their timeout begins to run. [`health`](crate::Session::health)
    /// is not counted; logins and calls about the session's own token are, and do not wait. Without
    /// it there is no limit; a session sends a few requests an hour.
    ///
    /// A rate that is not a number or less than one an hour, and a burst of 0, set no limit.
    #[must_use]
    pub fn rate_limit(mut self, per_second: f64, burst: u32) -> Self {
        self.rate_limit = RateLimit::new(per_second, Some(burst));
        self
    }

    /// At most this many requests that are not answered yet, 16 by default, so that a process with
    /// very many roles neither opens as many connections when it starts nor when it ends. Requests
    /// for logins are counted apart from renewals and revocations, which never wait behind them, and
    /// what is only read apart from both: of that there may be four times as many. Logins of the
    /// session and calls about its own token are not counted. The rest waits in order, before its timeout begins to run: a mint for 25 s at most, and then it is
    /// [`Throttled`](leasehold::ErrorKind::Throttled). One that gets no answer for 10 s does not
    /// count any more, so that a database that hangs holds up its own roles alone.
    ///
    /// 0 counts as 1.
    #[must_use]
    pub fn max_in_flight(mut self, most: usize) -> Self {
        self.max_in_flight = most;
        self
    }

    /// The longest answer that is taken, in bytes. 1 MiB by default; what this crate asks for is
    /// answered in a few hundred bytes, and a longer answer comes from something else.
    #[must_use]
    pub fn max_response(mut self, bytes: usize) -> Self {
        self.max_response = bytes;
        self
    }

    /// How long each call but a mint may take. 10 s by default.
    #[must_use]
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.request_timeout = timeout;
        self
    }

    /// How long a mint may take. 120 s by default and at most, which is longer than the server's
    /// own 90 s: a mint that its client gave up on can leave a database role that nobody revokes.
    /// It gets less, but never less than 95 s, where it had to wait for a token: a rotator takes
    /// one that is older than 120 s for lost, and asks for another.
    #[must_use]
    pub fn mint_timeout(mut self, timeout: Duration) -> Self {
        self.mint_timeout = timeout;
        self
    }

    /// A further address of the same cluster, such as `https://vault-2.internal:8200`, to which a
    /// redirect may lead. Can be given several times; none by default.
    ///
    /// A standby that can't pass a request on answers 307 with the address of the active node. The
    /// request then goes there with its method, body and token only if scheme, host and port are
    /// those of the session's own address or of one given here. Anywhere else it stops, as an
    /// error that names the host.
    #[must_use]
    pub fn redirect_to(mut self, address: impl Into<String>) -> Self {
        self.redirect_to.push(address.into());
        self
    }

    /// What tells this session from others in one process: the label `session` of its metrics.
    /// Default: the address, the namespace if there is one, and how it logs in, such as
    /// `auth/approle/login`. Sessions of one name share their series: give each a name where two
    /// log in the same way. One of few, fixed names: each makes time series of its own.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// The clock that tokens are judged on. It must be the one of the rotators that use the
    /// session; [`Clock::system`] is, unless a test says otherwise.
    #[must_use]
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }
}

impl fmt::Debug for VaultConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The address is shown once it has been checked to hold no password (`Api::new`); a
        // proxy's may hold one.
        f.debug_struct("VaultConfig")
            .field("namespace", &self.namespace)
            .field("own_ca", &self.ca.is_some())
            .field("client_certificate", &self.client.is_some())
            .field("tls_server_name", &self.tls_server_name.as_ref().map(|(_, name)| name))
            .field("skip_verify", &self.skip_verify)
            .field("proxy", &self.proxy.is_some())
            .field("rate_limit", &self.rate_limit)
            .field("max_in_flight", &self.max_in_flight)
            .field("max_response", &self.max_response)
            .field("request_timeout", &self.request_timeout)
            .field("mint_timeout", &self.mint_timeout)
            .field("redirect_to", &self.redirect_to.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
