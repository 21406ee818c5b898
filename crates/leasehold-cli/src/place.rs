//! Where Postgres is.

/// A dynamic role knows who logs in, not where.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Where Postgres is")]
pub(crate) struct Place {
    /// Host name or address of Postgres.
    #[arg(long, value_name = "HOST", env = "PGHOST")]
    pub(crate) pg_host: Option<String>,
    /// Its port.
    #[arg(long, value_name = "PORT", env = "PGPORT")]
    pub(crate) pg_port: Option<u16>,
    /// The database.
    #[arg(long, value_name = "NAME", env = "PGDATABASE")]
    pub(crate) pg_database: Option<String>,
}
