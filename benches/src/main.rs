//! `cargo drill`: progress on stderr, the figures as one JSON object on the last line of stdout.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use leasehold_drill::{AnyError, Args, outcome};

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("off"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let done = drill(&args).await;
    if matches!(done, Ok(false)) {
        eprintln!("something was left after the shutdown, or failed without a fault");
    }
    outcome::exit("drill", done)
}

async fn drill(args: &Args) -> Result<bool, AnyError> {
    let report = leasehold_drill::run(args).await?;
    println!("{}", serde_json::to_string(&report)?);
    Ok(report.nothing_left() && report.unexplained == 0)
}
