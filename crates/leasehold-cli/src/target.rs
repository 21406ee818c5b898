//! Which server, which login, which role: the arguments that most commands share.

use std::path::PathBuf;

use leasehold_vault::Settings;

use crate::failure::Failure;

/// Where Vault is and how to log in there come from `VAULT_*` and `BAO_*` variables, or from a file
/// with the environment over it: what the library itself reads.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Where logins come from")]
pub(crate) struct Target {
    /// Settings file with a section `vault` (.toml, .yaml, .json, .ini); the environment wins.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Mount of the database engine [default: VAULT_MOUNT_PATH, else database].
    #[arg(long, value_name = "PATH")]
    pub(crate) mount: Option<String>,
    /// Role of the database engine [default: VAULT_DATABASE_ROLE].
    #[arg(long, value_name = "NAME")]
    pub(crate) role: Option<String>,
}

impl Target {
    pub(crate) fn settings(&self) -> Result<Settings, Failure> {
        Ok(match &self.config {
            Some(file) => Settings::from_file(file)?,
            None => Settings::from_env()?,
        })
    }

    pub(crate) fn mount(&self, settings: &Settings) -> String {
        let mount = self.mount.as_deref().or(settings.mount_path());
        mount.unwrap_or("database").to_owned()
    }

    pub(crate) fn role(&self, settings: &Settings) -> Result<String, Failure> {
        let role = self.role.as_deref().or(settings.database_role());
        role.map(str::to_owned)
            .ok_or_else(|| Failure::usage("no role: give --role NAME, or set VAULT_DATABASE_ROLE"))
    }
}
