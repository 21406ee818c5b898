//! What can be typed. Each command's own arguments are in its module.

use clap::{ArgAction, Parser, Subcommand};

use crate::{completions, dev, doctor, exec, import, policy, watch};

/// Postgres logins on leases from Vault or OpenBao: checked, watched, and lent to commands.
#[derive(Debug, Parser)]
#[command(name = "leasehold", version, propagate_version = true)]
pub(crate) struct Cli {
    /// Tells more of what goes on, on stderr: the library's log from `info`, twice from `debug`.
    /// RUST_LOG (such as leasehold=debug) says it more exactly.
    #[arg(long, short, global = true, action = ArgAction::Count)]
    pub(crate) verbose: u8,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Walk the whole way of a login, say what is wrong on it and what to do, leave nothing behind.
    Doctor(doctor::Args),
    /// Print the policy that an application needs, or a role's definition.
    Policy(policy::Args),
    /// Run a command on a login that is renewed while it runs and revoked after it.
    Exec(exec::Args),
    /// Show one provider live: TTLs running down, renewals, rotations.
    Watch(watch::Args),
    /// Start OpenBao and Postgres on this machine, and print the environment to use them with.
    Dev(dev::Args),
    /// Move connection settings from an .env file into a KV engine (version 2).
    Import(import::Args),
    /// Print a completion script for a shell.
    Completions(completions::Args),
}
