//! Where the server is and how to talk to it.

use std::fmt;
use std::time::Duration;

use leasehold::clock::Clock;
use leasehold::{ErrorKind, SourceError};
use zeroize::Zeroizing;

/// Everything but minting: these calls take milliseconds, and are safe to repeat.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// The server gives up on a mint after 90 s by itself. A client that gives up sooner may leave
/// behind a database role that has no lease, which nobody ever revokes.
const MINT_TIMEOUT: Duration = Duration::from_secs(120);

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
    pub(crate) address_from: &'static str,
    pub(crate) namespace: Option<String>,
    pub(crate) ca_pem: Option<Vec<u8>>,
    pub(crate) request_timeout: Duration,
    pub(crate) mint_timeout: Duration,
    pub(crate) clock: Clock,
    /// Further addresses of the cluster.
    pub(crate) redirect_to: Vec<String>,
}

impl VaultConfig {
    /// A server at `address`, such as `https://vault.internal:8200`. It is looked at when the
    /// session logs in.
    #[must_use]
    pub fn new(address: impl Into<String>) -> Self {
        Self {
            address: address.into(),
            address_from: "address",
            namespace: None,
            ca_pem: None,
            request_timeout: REQUEST_TIMEOUT,
            mint_timeout: MINT_TIMEOUT,
            clock: Clock::system(),
            redirect_to: Vec::new(),
        }
    }

    /// Reads `VAULT_ADDR`, `VAULT_NAMESPACE` and `VAULT_CACERT` (a file), or the same with `BAO_`
    /// in front, which win where both are set. An empty variable counts as not set.
    ///
    /// # Errors
    /// No address, or a certificate file that can't be read.
    pub fn from_env() -> Result<Self, ConfigError> {
        Self::from_variables(&|name| std::env::var(name).ok())
    }

    pub(crate) fn from_variables(
        read: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, ConfigError> {
        let Some((name, address)) = first_set(read, &["BAO_ADDR", "VAULT_ADDR"]) else {
            return Err(ConfigError::new(
                "VAULT_ADDR",
                "is not set, and neither is BAO_ADDR: set it to the server's address, such as \
                 https://vault.internal:8200",
            ));
        };
        let mut config = Self::new(address);
        config.address_from = name;
        if let Some((_, namespace)) = first_set(read, &["BAO_NAMESPACE", "VAULT_NAMESPACE"]) {
            config = config.namespace(namespace);
        }
        if let Some((name, path)) = first_set(read, &["BAO_CACERT", "VAULT_CACERT"]) {
            let pem = std::fs::read(&path).map_err(|e| {
                ConfigError::new(
                    name,
                    format!("names {path:?}, which can't be read ({e}): give a file in PEM form"),
                )
            })?;
            config = config.ca_pem(pem);
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
    #[must_use]
    pub fn ca_pem(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.ca_pem = Some(pem.into());
        self
    }

    /// How long each call but a mint may take. 10 s by default.
    #[must_use]
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.request_timeout = timeout;
        self
    }

    /// How long a mint may take. 120 s by default, which is longer than the server's own 90 s:
    /// a mint that its client gave up on can leave a database role that nobody revokes.
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
        // The address is shown once it has been checked to hold no password (`Api::new`).
        f.debug_struct("VaultConfig")
            .field("namespace", &self.namespace)
            .field("ca_pem", &self.ca_pem.as_ref().map(Vec::len))
            .field("request_timeout", &self.request_timeout)
            .field("mint_timeout", &self.mint_timeout)
            .field("redirect_to", &self.redirect_to.len())
            .finish_non_exhaustive()
    }
}

/// The first of `names` that is set to something.
pub(crate) fn first_set(
    read: &dyn Fn(&str) -> Option<String>,
    names: &[&'static str],
) -> Option<(&'static str, String)> {
    names.iter().find_map(|name| {
        // One of them is a token.
        let value = Zeroizing::new(read(name)?);
        let trimmed = value.trim();
        (!trimmed.is_empty()).then(|| (*name, trimmed.to_owned()))
    })
}

/// A setting that can't be worked with. Names the field or variable and says what to do; never
/// shows a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    setting: &'static str,
    problem: String,
}

impl ConfigError {
    pub(crate) fn new(setting: &'static str, problem: impl Into<String>) -> Self {
        let problem = problem.into();
        Self { setting, problem }
    }

    /// The field or environment variable at fault.
    #[must_use]
    pub fn setting(&self) -> &str {
        self.setting
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.setting, self.problem)
    }
}

impl std::error::Error for ConfigError {}

impl From<ConfigError> for SourceError {
    fn from(e: ConfigError) -> Self {
        Self::new(ErrorKind::Other, e.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(variables: &[(&str, &str)]) -> Result<VaultConfig, ConfigError> {
        VaultConfig::from_variables(&|name| {
            let (_, value) = variables.iter().find(|(n, _)| *n == name)?;
            Some((*value).to_owned())
        })
    }

    #[test]
    fn no_address_in_the_environment_names_the_variable() {
        for variables in [&[][..], &[("VAULT_ADDR", "  ")]] {
            let e = from(variables).unwrap_err();
            assert_eq!(e.setting(), "VAULT_ADDR");
            assert!(e.to_string().contains("BAO_ADDR"), "{e}");
        }
    }

    #[test]
    fn the_environment_is_trimmed_and_bao_wins() {
        let config = from(&[
            ("VAULT_ADDR", "http://a:1\n"),
            ("BAO_ADDR", " http://b:2 "),
            ("VAULT_NAMESPACE", "/team1/"),
        ])
        .unwrap();
        assert_eq!(config.address, "http://b:2");
        assert_eq!(config.address_from, "BAO_ADDR");
        assert_eq!(config.namespace.as_deref(), Some("team1"));
    }

    #[test]
    fn a_certificate_file_that_is_not_there_names_the_variable() {
        let e =
            from(&[("VAULT_ADDR", "https://a:1"), ("VAULT_CACERT", "/no/such.pem")]).unwrap_err();
        assert_eq!(e.setting(), "VAULT_CACERT");
        assert!(e.to_string().contains("/no/such.pem"), "{e}");
    }
}
