//! `leasehold exec`.

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use leasehold::{Kept, KeptUntil, Once};
use leasehold_vault::{Auth, Session, VaultConfig};

use crate::child::{self, Running};
use crate::environment::{self, BaseUrl};
use crate::failure::Failure;
use crate::postgres::{Place, Server};
use crate::signals::Signals;
use crate::target::Target;
use crate::terminal::tell;

/// Logs in to Vault, issues one login, and runs the command with PGUSER and PGPASSWORD set (and
/// PGHOST, PGPORT, PGDATABASE and PGSSLMODE, where a URL says where Postgres is). While the command runs, the lease and our token are
/// renewed; when it has ended, they are revoked.
///
/// With --verbose it tells on stderr what is issued, renewed and revoked.
///
/// A running program's environment can't be changed, so the login can't be replaced: the command
/// should be done, or have its connections open, before the role's max TTL. A warning tells the
/// time that is left, as soon as the server lets it be known.
///
/// TERM, INT, HUP, QUIT, USR1, USR2 and WINCH are passed on to the command, unless it has them from
/// the terminal already. The command decides when it ends; asked to end a second time, it is
/// killed after --kill-after. What the terminal made does not count.
///
/// The exit code is the command's own; 128 + n if signal n ended it, 127 if it was not found, 126
/// if it could not be run, 125 if there was no login for it.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    place: Place,
    /// Sets this variable to a connection URL too: that of --database-url, else the one that it
    /// holds already, else one made of where Postgres is.
    #[arg(long, value_name = "NAME")]
    url_var: Option<String>,
    /// Leaves VAULT_*, BAO_*, *SECRET_ID and *SECRET_ID_FILE in the command's environment. They are
    /// taken out of it by default: it has a login, and needs no way to others.
    #[arg(long)]
    keep_vault_env: bool,
    /// How long a command that was asked to end twice may take before it is killed.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = humantime::parse_duration)]
    kill_after: Duration,
    /// The command and its arguments.
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "CMD"
    )]
    command: Vec<OsString>,
}

const EXAMPLES: &str = "\
Examples:
  leasehold exec --role orders --database-url postgres://db.internal/orders -- psql
  leasehold exec --role migrator --url-var DATABASE_URL -- sqlx migrate run
  leasehold exec --config vault.toml --kill-after 1m -- pg_dump -f orders.sql";

pub(crate) async fn run(args: Args, verbose: bool) -> Result<ExitCode, Failure> {
    // Before anything is made that a signal would leave behind.
    let mut signals = Signals::listen()?;
    let ours = |failure: Failure| failure.with_code(child::OURS);
    let Asked { config, auth, mount, role, server, url } = Asked::of(&args).map_err(ours)?;

    let ending = "ending, once the login that is being asked for was given back";
    let gave_up = || ours(Failure::new("gave up: a login or token may be left, until its TTL"));
    let login = Session::login(config, auth);
    let (session, caught) = signals.through(login, ending).await.ok_or_else(gave_up)?;
    let session = session.map_err(|e| ours(Failure::of("logging in to Vault", &e)))?;
    if let Some(caught) = caught {
        tell_left(&session.close().await.join("; "));
        return Ok(caught.exit_code().into());
    }
    let source = session.dynamic_role(&mount, &role);
    let issued = signals.through(leasehold::once(source), ending).await.ok_or_else(gave_up)?;
    let (login, caught) = issued;
    // The source has closed the session with it.
    let login = login.map_err(|e| ours(Failure::of("issuing a login", &e)))?;
    if verbose {
        tell(&format!("issued {} {}", login.credential().username(), for_how_long(&login)));
    }
    if let Some(caught) = caught {
        end(login, &mut signals, verbose).await;
        return Ok(caught.exit_code().into());
    }
    let (outcome, login) =
        on(login, &args, verbose, server.as_ref(), url.as_ref(), &mut signals).await;
    end(login, &mut signals, verbose).await;
    outcome.map(ExitCode::from)
}

/// What the arguments and the environment say.
struct Asked {
    config: VaultConfig,
    auth: Auth,
    mount: String,
    role: String,
    /// Where a URL says it: variables say it to the command themselves.
    server: Option<Server>,
    url: Option<BaseUrl>,
}

impl Asked {
    fn of(args: &Args) -> Result<Self, Failure> {
        let settings = args.target.settings()?;
        let url = args.url_var.as_ref().map(|name| BaseUrl::find(name, &args.place));
        Ok(Self {
            config: settings.config()?,
            auth: settings.auth()?,
            mount: args.target.mount(&settings),
            role: args.target.role(&settings)?,
            server: args.place.url().map(|_| args.place.server()).transpose()?,
            url: url.transpose()?,
        })
    }
}

/// Runs the command on the login, which comes back whatever happens.
async fn on(
    mut login: Once,
    args: &Args,
    verbose: bool,
    server: Option<&Server>,
    url: Option<&BaseUrl>,
    signals: &mut Signals,
) -> (Result<u8, Failure>, Once) {
    let mut command = child::command(&args.command);
    environment::remove_other_ways(&mut command, args.keep_vault_env);
    environment::set_login(&mut command, login.credential(), server);
    if let (Some(name), Some(url)) = (&args.url_var, url) {
        match url.with(login.credential()) {
            Ok(url) => drop(command.env(name, &**url)),
            Err(failure) => return (Err(failure.with_code(child::OURS)), login),
        }
    }
    // One from the terminal has gone to no command yet.
    if let Some(caught) = signals.pending() {
        return (Ok(caught.exit_code()), login);
    }
    let mut running = match Running::start(command, &args.command[0], args.kill_after) {
        Ok(running) => running,
        Err(why) => return (Err(Failure::new(why.message).with_code(why.code)), login),
    };
    let status = {
        let mut keeping = std::pin::pin!(login.keep(|what| tell_of(&what, verbose)));
        let mut over = false;
        loop {
            tokio::select! {
                status = running.wait(signals) => break status,
                () = &mut keeping, if !over => {
                    over = true;
                    tell("the login has ended before the command: Postgres accepts it no more");
                }
            }
        }
    };
    let code = status.map(child::code).map_err(|e| Failure::of("waiting for the command", &e));
    (code, login)
}

/// Gives everything back, and says what could not be.
async fn end(login: Once, signals: &mut Signals, verbose: bool) {
    let username = login.credential().username().to_owned();
    let notice = "the login is being revoked";
    match signals.through(login.end(), notice).await {
        Some((report, _)) if report.is_clean() => {
            if verbose {
                tell(&format!("revoked {username}: nothing is left"));
            }
        }
        Some((report, _)) => tell_left(&report.to_string()),
        None => {
            tell_left(&format!("{username}, whose revocation was given up, until its TTL ends"))
        }
    }
}

fn tell_left(what: &str) {
    if !what.is_empty() {
        tell(&format!("left behind: {what}"));
    }
}

fn tell_of(what: &Kept, verbose: bool) {
    match what {
        Kept::Renewed { granted } if verbose => tell(&format!("renewed for {granted:.0?}")),
        Kept::RenewFailed { error, retry_in: Some(pause) } => {
            tell(&format!("renewal failed: {error}; again in {pause:.1?}"));
        }
        Kept::RenewFailed { error, .. } => tell(&format!("not renewed any more: {error}")),
        Kept::Last { ends_in, by } => {
            let (what, mend) = until(*by);
            tell(&format!(
                "the login ends in {ends_in:.0?}, {what}, and a running command can't be given \
                 another: what takes longer needs {mend}"
            ));
        }
        _ => {}
    }
}

/// What sets the end of the login, and what would move it.
fn until(by: KeptUntil) -> (&'static str, &'static str) {
    match by {
        KeptUntil::Token => ("with the token it was made by", "a token that lives longer"),
        KeptUntil::NotRenewable => {
            ("as it can't be renewed", "a role whose leases are renewable, or a longer default_ttl")
        }
        KeptUntil::Refused => (
            "as renewing it was refused",
            "`update` on sys/leases/renew in the policy, or what the refusal names",
        ),
        _ => ("at its max TTL", "a longer max_ttl of the role"),
    }
}

fn for_how_long(login: &Once) -> String {
    login.remaining().map_or_else(|| "without end".to_owned(), |left| format!("for {left:.0?}"))
}
