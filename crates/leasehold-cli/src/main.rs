//! The command line of Leasehold. See `leasehold --help`.

#![forbid(unsafe_code)]

mod args;
mod completions;
mod doctor;
mod failure;
mod policy;
mod postgres;
mod target;
mod terminal;

use std::process::ExitCode;

use clap::Parser;

use crate::args::{Cli, Command};

#[tokio::main]
async fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Doctor(args) => doctor::run(&args).await,
        Command::Policy(args) => policy::run(&args),
        Command::Completions(args) => completions::run(&args),
    };
    match outcome {
        Ok(code) => code,
        Err(failure) => failure.report(),
    }
}
