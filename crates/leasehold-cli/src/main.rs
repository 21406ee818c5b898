//! The command line of Leasehold. See `leasehold --help`.

#![forbid(unsafe_code)]

mod args;
mod child;
mod completions;
mod deadline;
mod dev;
mod doctor;
mod env_file;
mod environment;
mod exec;
mod failure;
#[cfg(test)]
mod help_tests;
mod import;
mod log;
mod policy;
mod postgres;
mod signals;
mod target;
mod terminal;
mod watch;

use std::process::ExitCode;

use clap::Parser;

use crate::args::{Cli, Command};

#[tokio::main]
async fn main() -> ExitCode {
    let Cli { verbose, command } = Cli::parse();
    log::start(verbose, &command);
    let outcome = match command {
        Command::Doctor(args) => doctor::run(&args).await,
        Command::Policy(args) => policy::run(&args),
        Command::Exec(args) => exec::run(args, verbose > 0).await,
        Command::Watch(args) => watch::run(args).await,
        Command::Dev(args) => dev::run(args).await,
        Command::Import(args) => import::run(args).await,
        Command::Completions(args) => completions::run(&args),
    };
    match outcome {
        Ok(code) => code,
        Err(failure) => failure.report(),
    }
}
