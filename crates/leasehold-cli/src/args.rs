//! What can be typed. Each command's own arguments are in its module.

use clap::{Parser, Subcommand};

use crate::completions;

/// Postgres logins on leases from Vault or OpenBao: checked, watched, and lent to commands.
#[derive(Debug, Parser)]
#[command(name = "leasehold", version, propagate_version = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Print a completion script for a shell.
    Completions(completions::Args),
}
