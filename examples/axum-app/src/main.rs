//! The example service: settings from the environment, see the README.

use std::error::Error;
use std::io::{IsTerminal, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

use axum_app::{Config, Service};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tracing::info;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let outcome = match std::env::args().nth(1).as_deref() {
        None => serve(),
        Some("--healthcheck") => healthcheck(),
        Some(other) => Err(format!(
            "unknown argument {other:?}: this takes its settings from the environment, and no \
             argument but --healthcheck"
        )
        .into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("axum-app: {}", chain(&*error));
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn serve() -> Result<(), Box<dyn Error>> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stdout().is_terminal())
        .init();

    let config = Config::from_env()?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    // Bound first: a port that is taken should cost no login.
    let listener = TcpListener::bind(config.listen).await?;
    let service = Service::start(config).await?;
    info!("listening on http://{}", listener.local_addr()?);

    let stop = async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    };
    let report = service.serve(listener, stop).await?;
    if report.is_clean() { Ok(()) } else { Err(format!("left behind: {report}").into()) }
}

/// For container images that have no HTTP client: asks the service on `LISTEN` whether it is ready.
fn healthcheck() -> Result<(), Box<dyn Error>> {
    const PATIENCE: Duration = Duration::from_secs(2);
    let mut address: SocketAddr = Config::listen_from_env()?;
    if address.ip().is_unspecified() {
        address.set_ip(Ipv4Addr::LOCALHOST.into());
    }
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream
        .write_all(b"GET /health/ready HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let status = answer.lines().next().unwrap_or("no answer");
    if status.contains(" 200 ") { Ok(()) } else { Err(format!("not ready: {status}").into()) }
}

/// An error and what caused it, on one line.
fn chain(error: &dyn Error) -> String {
    let causes = std::iter::successors(error.source(), |e| (*e).source());
    causes.fold(error.to_string(), |line, cause| format!("{line}: {cause}"))
}
