//! `cargo rotation`: a table, and the figures as one JSON object on the last line of stdout.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use leasehold_drill::{AnyError, outcome, rotation};

#[tokio::main]
async fn main() -> ExitCode {
    outcome::exit("rotation", run().await)
}

async fn run() -> Result<bool, AnyError> {
    let report = rotation::run(&rotation::Args::parse()).await?;
    println!("{}", report.table()?);
    println!("{}", serde_json::to_string(&report)?);
    Ok(report.is_good())
}
