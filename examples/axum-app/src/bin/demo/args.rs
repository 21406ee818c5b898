//! The command line.

use std::ffi::OsString;
use std::time::Duration;

use clap::Parser;

/// Starts OpenBao and Postgres, runs the example service on them under a small load, with database
/// logins that live for some seconds, and tells what happens. Ctrl-C ends it in order.
#[derive(Debug, Parser)]
#[command(name = "cargo demo --", bin_name = "cargo demo --", version, after_help = AFTER_HELP)]
pub(crate) struct Args {
    /// End by itself after this time, such as 20s or 1m30s. The exit code is 0 only if no query
    /// failed, nothing was left behind and, where it was longer than a login lives, a rotation occurred
    #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
    pub(crate) run_for: Option<Duration>,

    /// Use a Vault or OpenBao and a Postgres that are there already
    #[arg(long)]
    pub(crate) external: bool,

    /// How long a login lives with all its renewals, on the demo's own servers; without one half of
    /// that
    #[arg(long, value_name = "DURATION", default_value = "12s", value_parser = lives)]
    pub(crate) lives: Duration,

    /// Clients that send requests, one at a time each
    #[arg(long, value_name = "N", default_value_t = 6,
          value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) workers: u16,

    /// Write page-light.png and page-dark.png into this directory, and end
    #[cfg(feature = "browser")]
    #[arg(long, value_name = "DIRECTORY")]
    pub(crate) screenshot: Option<std::path::PathBuf>,
}

const AFTER_HELP: &str = "\
With --external, settings come from the environment: VAULT_ADDR; VAULT_TOKEN, or APPROLE_ROLE_ID
and APPROLE_SECRET_ID; DB_MOUNT (database), ROLE, PG_HOST, PG_PORT (5432), PG_DB. The table
accounts of examples/axum-app/schema.sql must be there.

NO_COLOR=1 turns colours off, RUST_LOG=debug adds the log on stderr.";

/// Reads the arguments of this process; exits with a message where they make no sense.
pub(crate) fn parse() -> Args {
    Args::parse_from(without_separator(std::env::args_os().collect()))
}

/// `cargo demo -- --for 20s` is what one types. A cargo alias that ends in `--` hands on the one
/// typed as well; nothing here takes positional arguments, so it is dropped.
fn without_separator(mut args: Vec<OsString>) -> Vec<OsString> {
    if args.get(1).is_some_and(|a| a == "--") {
        args.remove(1);
    }
    args
}

fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(Duration::ZERO) => Err("must be more than zero".to_owned()),
        Ok(duration) => Ok(duration),
        Err(e) => Err(format!("{e}; write it as 20s or 1m30s")),
    }
}

/// Shorter, and nobody could follow it.
fn lives(text: &str) -> Result<Duration, String> {
    let lives = duration(text)?;
    if lives < Duration::from_secs(4) {
        return Err("must be 4s or more".to_owned());
    }
    Ok(lives)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(args: &[&str]) -> Result<Args, clap::Error> {
        let args = ["demo"].iter().chain(args).map(OsString::from).collect();
        Args::try_parse_from(without_separator(args))
    }

    #[test]
    fn durations_are_read_with_or_without_the_separator() {
        assert_eq!(parsed(&["--for", "20s"]).unwrap().run_for, Some(Duration::from_secs(20)));
        let args = parsed(&["--", "--for", "1m30s", "--external"]).unwrap();
        assert_eq!(args.run_for, Some(Duration::from_secs(90)));
        assert!(args.external);
        assert_eq!(parsed(&[]).unwrap().run_for, None);
    }

    #[test]
    fn nonsense_is_refused_with_a_hint() {
        for (args, hint) in [
            (&["--for", "soon"][..], "20s or 1m30s"),
            (&["--for", "0s"], "more than zero"),
            (&["--for"], "DURATION"),
            (&["--lives", "1s"], "4s or more"),
            (&["--workers", "0"], "1..=256"),
            (&["--nonsense"], "--nonsense"),
        ] {
            let text = parsed(args).unwrap_err().to_string();
            assert!(text.contains(hint), "{args:?}: {text}");
        }
    }
}
