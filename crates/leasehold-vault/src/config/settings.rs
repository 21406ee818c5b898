//! Everything that an operator sets, in one value.

use std::fmt;
#[cfg(feature = "config-file")]
use std::path::Path;

use super::values::Values;
use super::{ConfigError, VaultConfig};
use crate::auth::Auth;

#[doc = include_str!("settings.md")]
#[derive(Clone)]
pub struct Settings {
    values: Values,
    enabled: bool,
    kv_version: Option<u8>,
}

impl Settings {
    /// From the environment alone.
    ///
    /// # Errors
    /// A value that can't be read as what it stands for, or a `VAULT__` or `BAO__` variable that
    /// is unknown. What is missing, and what contradicts, is told by [`config`](Self::config) and
    /// [`auth`](Self::auth), which a program that is not [`enabled`](Self::enabled) does not call.
    pub fn from_env() -> Result<Self, ConfigError> {
        let mut values = Values::default();
        values.add_environment()?;
        Self::new(values)
    }

    /// From the section `vault` of a file, and from the environment, which wins. The ending says
    /// what is in it: `.toml`, `.yaml`, `.yml`, `.json` or `.ini`. The rest of the file is not
    /// looked at.
    ///
    /// # Errors
    /// As [`from_env`](Self::from_env); and a file that can't be read, is not well-formed, or has
    /// an unknown key in that section.
    #[cfg(feature = "config-file")]
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, ConfigError> {
        let mut values = Values::default();
        super::file::add(&mut values, path.as_ref())?;
        values.add_environment()?;
        Self::new(values)
    }

    /// From a text of one of the kinds of files, and variables that are not the process's own.
    #[cfg(feature = "fuzzing")]
    pub(crate) fn from_given(
        file: Option<(u8, &str)>,
        variables: &[(String, String)],
    ) -> Result<Self, ConfigError> {
        let mut values = Values::default();
        if let Some((kind, text)) = file {
            super::file::add_any(&mut values, kind, text)?;
        }
        for (name, text) in variables {
            values.add_variable(name, text.clone())?;
        }
        Self::new(values)
    }

    pub(super) fn new(values: Values) -> Result<Self, ConfigError> {
        values.check()?;
        let enabled = values.flag("enabled")?.unwrap_or(true);
        let kv_version = values.kv_version()?;
        Ok(Self { values, enabled, kv_version })
    }

    /// Whether the program is to use Vault at all (`VAULT_ENABLED`). True unless said otherwise;
    /// what happens if not is the program's business.
    #[must_use]
    pub fn enabled(&self) -> bool {
        self.enabled
    }

    /// Where the server is and how to talk to it. Reads the certificate files.
    ///
    /// # Errors
    /// No address, a file that can't be read, half of a client certificate, a TLS server name
    /// together with a proxy.
    pub fn config(&self) -> Result<VaultConfig, ConfigError> {
        VaultConfig::from_values(&self.values)
    }

    /// How to log in.
    ///
    /// # Errors
    /// No method, half of one, or two.
    pub fn auth(&self) -> Result<Auth, ConfigError> {
        super::methods::auth(&self.values)
    }

    /// Where the engine is mounted that the logins come from (`VAULT_MOUNT_PATH`), such as
    /// `database`.
    #[must_use]
    pub fn mount_path(&self) -> Option<&str> {
        self.values.text("mount_path")
    }

    /// The role of the database engine (`VAULT_DATABASE_ROLE`).
    #[must_use]
    pub fn database_role(&self) -> Option<&str> {
        self.values.text("database_role")
    }

    /// The version of the key/value engine at [`mount_path`](Self::mount_path), 1 or 2
    /// (`VAULT_KV_VERSION`).
    #[must_use]
    pub fn kv_version(&self) -> Option<u8> {
        self.kv_version
    }

    /// The path of a secret below that mount (`VAULT_SECRET_PATH`), such as `apps/orders/db`.
    #[must_use]
    pub fn secret_path(&self) -> Option<&str> {
        self.values.text("secret_path")
    }
}

/// Shows what is set, not what it is set to.
impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("enabled", &self.enabled)
            .field("set", &self.values)
            .finish_non_exhaustive()
    }
}
