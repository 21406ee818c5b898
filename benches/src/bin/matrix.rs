//! `cargo matrix`: a line per cell, and the figures as one JSON object on the last line of stdout.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use leasehold_drill::{AnyError, matrix, outcome};

#[tokio::main]
async fn main() -> ExitCode {
    outcome::exit("matrix", run().await)
}

async fn run() -> Result<bool, AnyError> {
    let report = matrix::run(&matrix::Args::parse()).await?;
    println!("{}", serde_json::to_string(&report)?);
    Ok(report.failed == 0)
}
