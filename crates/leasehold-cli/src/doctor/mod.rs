//! `leasehold doctor`: walks the whole way that a login goes, says what is wrong on it and what to
//! do, and leaves nothing behind.

mod database;
mod journey;
mod lease;
mod orphans;
mod report;
mod rights;
mod steps;
mod times;
mod vault;

use std::process::ExitCode;
use std::time::Duration;

use crate::failure::Failure;
use crate::postgres::Place;
use crate::target::Target;

/// Holds an administrator's password.
pub(crate) const ADMIN_URL: &str = "LEASEHOLD_ADMIN_URL";

const LOOKED_AT: &str = "What is looked at";

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Makes one login and revokes it. A secret_id or wrapping token that is good for one use is used up.
Exit code: 0 if all is well (warnings allowed), 1 if a step failed or there are orphans, 2 if it could
not be tried as asked for, 3 if --orphans could not list them, 130 if it was told to stop.

Examples:
  leasehold doctor --role orders-rw
  leasehold doctor --role orders-rw --needs 'SELECT, INSERT ON public.orders' --grace 5s
  leasehold doctor --role orders-rw --json > doctor.json
  leasehold doctor --orphans")]
pub(crate) struct Args {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    place: Place,
    /// How long the application's drains may take [default: as the library, 30 s or a quarter of
    /// the TTL].
    #[arg(help_heading = LOOKED_AT, long, value_name = "TIME", value_parser = humantime::parse_duration)]
    grace: Option<Duration>,
    /// What the application has to be able to do, such as 'SELECT, INSERT ON public.orders'. Can be
    /// given several times.
    #[arg(help_heading = LOOKED_AT, long, value_name = "RIGHTS")]
    needs: Vec<String>,
    /// A statement that the application has to be able to run. It is rolled back.
    #[arg(help_heading = LOOKED_AT, long, value_name = "SQL")]
    probe: Option<String>,
    /// An administrator's Postgres URL, with user and password: sees for certain whether the role
    /// is gone, and is needed for --orphans.
    #[arg(help_heading = LOOKED_AT, long, value_name = "URL", env = ADMIN_URL, hide_env_values = true)]
    admin_url: Option<AdminUrl>,
    /// List Postgres roles that no lease owns, with the SQL to drop them. Needs --admin-url and a
    /// token that may list leases.
    #[arg(help_heading = LOOKED_AT, long, conflicts_with_all = ["grace", "needs", "probe"])]
    orphans: bool,
    /// One JSON object on stdout instead of lines.
    #[arg(help_heading = LOOKED_AT, long)]
    json: bool,
}

/// Kept out of every Debug: there is a password in it.
#[derive(Clone)]
struct AdminUrl(zeroize::Zeroizing<String>);

impl std::str::FromStr for AdminUrl {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(zeroize::Zeroizing::new(text.to_owned())))
    }
}

impl std::fmt::Debug for AdminUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AdminUrl([redacted])")
    }
}

pub(crate) async fn run(args: &Args) -> Result<ExitCode, Failure> {
    if args.orphans { orphans::run(args).await } else { journey::run(args).await }
}
