//! `cargo matrix`: a line per cell, and the figures as one JSON object on the last line of stdout.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use leasehold_drill::{AnyError, matrix};

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("matrix: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<bool, AnyError> {
    let report = matrix::run(&matrix::Args::parse()).await?;
    println!("{}", serde_json::to_string(&report)?);
    Ok(report.failed == 0)
}
