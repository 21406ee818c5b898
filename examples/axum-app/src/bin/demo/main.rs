//! `cargo demo`: the example service under load on logins that live for seconds, told line by
//! line.

mod args;
mod buttons;
mod console;
mod harm;
mod load;
mod place;
mod run;
#[cfg(feature = "browser")]
mod screenshot;
mod stop;
mod tally;

use std::error::Error;
use std::io::IsTerminal;
use std::process::ExitCode;

use console::{Console, Tint};

#[tokio::main]
async fn main() -> ExitCode {
    let args = args::parse();
    if std::env::var_os("RUST_LOG").is_some() {
        // The log proper, for the curious. On stderr, so that it can be told from the demo's lines.
        tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .with_writer(std::io::stderr)
            .with_ansi(std::io::stderr().is_terminal())
            .init();
    }
    let console = Console::start();
    let problems = match run::demo(&args, &console).await {
        Ok(problems) => problems,
        Err(error) => vec![chain(&*error)],
    };
    for problem in &problems {
        console.line(Tint::Bad, format!("FAILED: {problem}"));
    }
    console.flush().await;
    if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// An error and what caused it, on one line.
fn chain(error: &dyn Error) -> String {
    let causes = std::iter::successors(error.source(), |e| (*e).source());
    causes.fold(error.to_string(), |line, cause| format!("{line}: {cause}"))
}
