//! The service: started, served, ended in order.

use std::fmt;
use std::time::Duration;

use axum::Router;
use axum::extract::FromRef;
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};
use leasehold::{CredentialProvider, Rotator, RotatorBuilder, ShutdownReport, SourceError};
use leasehold_vault::Session;
use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{info, warn};

use crate::health::Probe;
use crate::page::{self, Board, Page};
use crate::{Config, accounts, health};

/// How long requests get to finish once the service is told to stop.
const FINISH_WITHIN: Duration = Duration::from_secs(20);
/// How long connections that are still borrowed then get to come back. Short, since no request is
/// left.
const DRAIN_WITHIN: Duration = Duration::from_secs(5);

/// What handlers get. The pool is sqlx's own; only the probes see more.
#[derive(Clone, Debug)]
struct AppState {
    pool: PgPool,
    probe: Probe,
}

impl FromRef<AppState> for PgPool {
    fn from_ref(state: &AppState) -> Self {
        state.pool.clone()
    }
}

impl FromRef<AppState> for Probe {
    fn from_ref(state: &AppState) -> Self {
        state.probe.clone()
    }
}

/// The running service. Owns the rotator, so that there is one place that ends it.
#[derive(Debug)]
#[must_use = "dropping it leaves the login to its TTL; end it with `serve` or `shutdown`"]
pub struct Service {
    rotator: Rotator,
    state: AppState,
    board: Board,
    /// Watches for the page; ends with this.
    watching: JoinSet<()>,
    /// Routes that are not the service's own.
    more: Router,
}

impl Service {
    /// Logs in to Vault, gets the first Postgres login and opens the pool.
    ///
    /// # Errors
    /// [`StartError`]. Nothing is left behind then.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        Self::start_with(config, |builder| builder).await
    }

    /// The same, with settings of the rotator.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn start_with(
        config: Config,
        settings: impl FnOnce(RotatorBuilder) -> RotatorBuilder,
    ) -> Result<Self, StartError> {
        crate::metrics::install();
        let session = Session::login(config.vault, config.auth).await.map_err(StartError::Login)?;
        let source = session.dynamic_role(config.mount, config.role);
        let board = Board::new();
        let observed = board.clone();
        let builder = Rotator::builder(source).observer(move |event| observed.event(event));
        let rotator = match settings(builder).start().await {
            Ok(rotator) => rotator,
            Err(error) => {
                session.close().await;
                return Err(StartError::Credentials(error));
            }
        };
        let provider = rotator.provider();

        // No user and no password: those come from the provider.
        let connect = PgConnectOptions::new_without_pgpass()
            .host(&config.pg_host)
            .port(config.pg_port)
            .database(&config.pg_db)
            .application_name("axum-app");
        let options = PgPoolOptions::new()
            .max_connections(config.pool_size)
            // Longer than a hook waits for fresh credentials.
            .acquire_timeout(Duration::from_secs(10));
        let pool = match leasehold_sqlx::connect(&provider, options, connect).await {
            Ok(pool) => pool,
            Err(error) => {
                rotator.shutdown(Duration::ZERO).await;
                return Err(StartError::Pool(error));
            }
        };

        let probe = Probe::new(provider, session);
        let mut watching = JoinSet::new();
        watching.spawn(page::sample(board.clone(), probe.clone(), pool.clone()));
        let state = AppState { pool, probe };
        Ok(Self { rotator, state, board, watching, more: Router::new() })
    }

    /// The routes.
    pub fn router(&self) -> Router {
        Router::new()
            .route("/accounts", get(accounts::list))
            .route("/accounts/{id}", get(accounts::show))
            .route("/accounts/{id}/deposit", post(accounts::deposit))
            // The routes above, which are what the pool is for; those below are not measured.
            .route_layer(from_fn_with_state(self.board.traffic(), page::measure))
            .route("/health/live", get(health::live))
            .route("/metrics", get(crate::metrics::show))
            .route("/health/ready", get(health::ready))
            .merge(page::routes(self.board.clone()))
            .with_state(self.state.clone())
            .merge(self.more.clone())
    }

    /// Serves these as well.
    pub fn with_routes(mut self, more: Router) -> Self {
        self.more = self.more.merge(more);
        self
    }

    /// The page at `/`, to write into its log.
    #[must_use]
    pub fn page(&self) -> Page {
        Page(self.board.clone())
    }

    /// How the credentials stand.
    #[must_use]
    pub fn provider(&self) -> CredentialProvider {
        self.rotator.provider()
    }

    /// Serves until `stop`, then ends in order: no new connections, requests finish, connections
    /// to Postgres close, logins are revoked.
    ///
    /// # Errors
    /// The listener fails. The service is shut down in that case too.
    pub async fn serve(
        self,
        listener: TcpListener,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> std::io::Result<ShutdownReport> {
        let (stopping, stopped) = watch::channel(());
        let (mut late, router) = (stopped.clone(), self.router());
        let board = self.board.clone();
        let server = axum::serve(listener, router).with_graceful_shutdown(async move {
            stop.await;
            info!("stopping: requests finish first");
            board.close();
            drop((stopping, stopped));
        });
        let served = tokio::select! {
            served = server => served,
            () = async {
                // Ends when the sender is dropped, above.
                while late.changed().await.is_ok() {}
                tokio::time::sleep(FINISH_WITHIN).await;
            } => {
                warn!("requests still run {FINISH_WITHIN:?} after the stop; going on without them");
                Ok(())
            }
        };
        let report = self.shutdown().await;
        served.map(|()| report)
    }

    /// Closes the pool, waits for borrowed connections, revokes every login and the token.
    pub async fn shutdown(mut self) -> ShutdownReport {
        self.board.close();
        self.watching.shutdown().await;
        let report = self.rotator.shutdown(DRAIN_WITHIN).await;
        if report.is_clean() {
            info!("shut down: {report}");
        } else {
            warn!("shut down, but something is left: {report}");
        }
        report
    }
}

/// Why the service could not be started. What was made by then has been given back.
#[derive(Debug)]
#[non_exhaustive]
pub enum StartError {
    /// Vault let us not in.
    Login(SourceError),
    /// There was no Postgres login to be had.
    Credentials(leasehold::StartError),
    /// Postgres could not be reached with it.
    Pool(leasehold_sqlx::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Login(_) => "logging in to Vault",
            Self::Credentials(_) => "getting the first Postgres login",
            Self::Pool(_) => "opening the pool",
        })
    }
}

impl std::error::Error for StartError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(match self {
            Self::Login(e) => e,
            Self::Credentials(e) => e,
            Self::Pool(e) => e,
        })
    }
}
