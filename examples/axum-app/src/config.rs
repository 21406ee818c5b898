//! Settings, from the environment.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use leasehold_vault::{Auth, VaultConfig};

/// What the service has to know.
#[derive(Debug)]
pub struct Config {
    /// How to reach Vault or OpenBao.
    pub vault: VaultConfig,
    /// How to log in there.
    pub auth: Auth,
    /// Where the database engine is mounted.
    pub mount: String,
    /// The dynamic role to read logins of.
    pub role: String,
    /// Postgres's host.
    pub pg_host: String,
    /// Postgres's port.
    pub pg_port: u16,
    /// The database.
    pub pg_db: String,
    /// Where to serve.
    pub listen: SocketAddr,
    /// The pool's size.
    pub pool_size: u32,
}

impl Config {
    /// Reads `VAULT_ADDR` (with `VAULT_NAMESPACE`, `VAULT_CACERT`), `APPROLE_ROLE_ID` and
    /// `APPROLE_SECRET_ID` or else what [`Auth::from_env`] reads (`VAULT_TOKEN`,
    /// `VAULT_KUBERNETES_ROLE` and so on), `DB_MOUNT` (`database`), `ROLE`, `PG_HOST`,
    /// `PG_PORT` (5432), `PG_DB`, `LISTEN` (127.0.0.1:3000), `POOL_SIZE` (8).
    ///
    /// # Errors
    /// Names the variable that is missing or makes no sense, and says what it should be.
    pub fn from_env() -> Result<Self, ConfigError> {
        let vault = VaultConfig::from_env().map_err(|e| ConfigError(e.to_string()))?;
        let auth = match (variable("APPROLE_ROLE_ID"), variable("APPROLE_SECRET_ID")) {
            (Some(role_id), Some(secret_id)) => Auth::approle(role_id, secret_id),
            (None, None) => Auth::from_env().map_err(|e| {
                ConfigError(format!("{e} (or APPROLE_ROLE_ID and APPROLE_SECRET_ID)"))
            })?,
            (Some(_), None) => {
                return Err(ConfigError::new(
                    "APPROLE_SECRET_ID",
                    "is not set, but APPROLE_ROLE_ID is: an AppRole login needs both",
                ));
            }
            (None, Some(_)) => {
                return Err(ConfigError::new(
                    "APPROLE_ROLE_ID",
                    "is not set, but APPROLE_SECRET_ID is: an AppRole login needs both",
                ));
            }
        };
        Ok(Self {
            vault,
            auth,
            mount: variable("DB_MOUNT").unwrap_or_else(|| "database".to_owned()),
            role: required("ROLE", "the database engine's role to read logins of, such as app")?,
            pg_host: required("PG_HOST", "Postgres's host name or address")?,
            pg_port: parsed("PG_PORT", "5432", "a port number")?,
            pg_db: required("PG_DB", "the database to connect to")?,
            listen: Self::listen_from_env()?,
            pool_size: parsed("POOL_SIZE", "8", "the number of connections to open at most")?,
        })
    }

    /// `LISTEN` alone.
    ///
    /// # Errors
    /// It is no address.
    pub fn listen_from_env() -> Result<SocketAddr, ConfigError> {
        parsed("LISTEN", "127.0.0.1:3000", "an address and a port, such as 0.0.0.0:3000")
    }
}

/// Trimmed; an empty variable counts as not set.
fn variable(name: &str) -> Option<String> {
    let value = std::env::var(name).ok()?;
    let value = value.trim();
    (!value.is_empty()).then(|| value.to_owned())
}

fn required(name: &str, what: &str) -> Result<String, ConfigError> {
    variable(name).ok_or_else(|| ConfigError::new(name, format!("is not set: set it to {what}")))
}

fn parsed<T: FromStr>(name: &str, default: &str, what: &str) -> Result<T, ConfigError> {
    let value = variable(name).unwrap_or_else(|| default.to_owned());
    value.parse().map_err(|_| ConfigError::new(name, format!("is {value:?}: set it to {what}")))
}

/// A setting that is missing or makes no sense.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError(String);

impl ConfigError {
    fn new(name: &str, problem: impl fmt::Display) -> Self {
        Self(format!("{name} {problem}"))
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ConfigError {}
