//! `leasehold watch`.

mod lines;
mod rehearsal;
mod screen;

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use leasehold::{CredentialProvider, Event, Health, Rotator, ShutdownReport};
use leasehold_vault::{Session, TokenState};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};

use crate::deadline;
use crate::failure::Failure;
use crate::postgres::{Place, Server};
use crate::signals::Signals;
use crate::target::Target;
use lines::Lines;
use rehearsal::{Queries, Rehearsal};
use screen::{Key, Screen};

/// Runs one provider as a service would, and shows what it does: the time left on lease and token,
/// generations, renewals, rotations, and every event. Told where Postgres is, it keeps a real pool
/// of two connections on it and queries it four times a second, so that it rehearses what the
/// service will do.
///
/// On a terminal the screen is redrawn in place; r asks for a rotation, q or Ctrl-C ends it. Else
/// there is one line per event.
///
/// At the end connections are drained and the lease and our token revoked. The exit code is 0 if
/// no query failed and nothing is left.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    place: Place,
    /// How long a drain may take, as the service has it [default: 30s, or a quarter of the TTL].
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    grace: Option<Duration>,
    /// Ends by itself after this time.
    #[arg(long = "for", value_name = "TIME", value_parser = humantime::parse_duration)]
    run_for: Option<Duration>,
    /// One JSON object per line, on a terminal too: time, event, its text, and the health.
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  leasehold watch --role orders
  leasehold watch --role orders --database-url postgres://db.internal/orders --for 30m
  leasehold watch --config vault.toml --json | tee events.jsonl";

/// Often enough for a countdown with tenths.
const REDRAW: Duration = Duration::from_millis(200);
/// For connections of ours, each of which is back in milliseconds.
const DRAIN: Duration = Duration::from_secs(10);

/// How things stand, to be shown.
pub(crate) struct Now<'a> {
    since_start: Duration,
    source: &'a str,
    health: Health,
    token: TokenState,
    queries: Option<Queries>,
}

/// Where it is shown.
enum View {
    Screen(Box<Screen>),
    Lines(Lines),
}

impl View {
    fn of(args: &Args) -> Result<Self, Failure> {
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let both = std::io::stdout().is_terminal() && std::io::stdin().is_terminal();
        if args.json || dumb || !both {
            return Ok(Self::Lines(Lines { json: args.json }));
        }
        Ok(Self::Screen(Box::new(Screen::open()?)))
    }

    fn event(&mut self, event: &Event, now: &Now<'_>) {
        match self {
            Self::Screen(screen) => screen.event(event, now),
            Self::Lines(lines) => lines.event(event, now),
        }
    }

    fn draw(&mut self, now: &Now<'_>) {
        if let Self::Screen(screen) = self {
            screen.draw(now);
        }
    }

    async fn key(&mut self) -> Key {
        match self {
            Self::Screen(screen) => screen.key().await,
            Self::Lines(_) => std::future::pending().await,
        }
    }
}

pub(crate) async fn run(args: Args) -> Result<ExitCode, Failure> {
    let mut signals = Signals::listen()?;
    let settings = args.target.settings()?;
    let (config, auth) = (settings.config()?, settings.auth()?);
    let (mount, role) = (args.target.mount(&settings), args.target.role(&settings)?);
    let server = args.place.server_if_told()?;

    let notice = "ending, once what is being asked for was given back";
    let gave_up = || Failure::new("gave up: a login or token may be left, until its TTL");
    let login = Session::login(config, auth);
    let (session, caught) = signals.through(login, notice).await.ok_or_else(gave_up)?;
    let session = session.map_err(|e| Failure::of("logging in to Vault", &e))?;
    if let Some(caught) = caught {
        session.close().await;
        return Ok(caught.exit_code().into());
    }
    let (told, events) = mpsc::unbounded_channel();
    let mut builder = Rotator::builder(session.dynamic_role(&mount, &role))
        .observer(move |event| drop(told.send(event.clone())));
    if let Some(grace) = args.grace {
        builder = builder.grace(grace);
    }
    let started = signals.through(builder.start(), notice).await.ok_or_else(gave_up)?;
    let (rotator, caught) = started;
    let rotator = match rotator {
        Ok(rotator) => rotator,
        Err(error) => {
            // What was made is given back, but we hold the session too.
            session.close().await;
            return Err(Failure::of("starting", &error));
        }
    };
    let source = format!("{mount}/creds/{role}");
    let provider = rotator.provider();
    let watch = Watch { begun: Instant::now(), source, session, provider, server, events };
    if let Some(caught) = caught {
        rotator.shutdown(DRAIN).await;
        return Ok(caught.exit_code().into());
    }
    watch.show(&args, &rotator, &mut signals).await
}

struct Watch {
    begun: Instant,
    source: String,
    session: Session,
    provider: CredentialProvider,
    server: Option<Server>,
    events: mpsc::UnboundedReceiver<Event>,
}

impl Watch {
    fn now(&self, rehearsal: Option<&Rehearsal>) -> Now<'_> {
        Now {
            since_start: self.begun.elapsed(),
            source: &self.source,
            health: self.provider.health(),
            token: self.session.token_state(),
            queries: rehearsal.map(Rehearsal::queries),
        }
    }

    async fn show(
        mut self,
        args: &Args,
        rotator: &Rotator,
        signals: &mut Signals,
    ) -> Result<ExitCode, Failure> {
        let shown = self.show_until_asked(args, rotator, signals).await;
        // Whatever came of it, the login is given back.
        let (view, rehearsal, problem) = match shown {
            Ok((view, rehearsal)) => (Some(view), rehearsal, None),
            Err(failure) => (None, None, Some(failure)),
        };
        if let Some(rehearsal) = &rehearsal {
            rehearsal.stop().await;
        }
        let report = self.end(rotator, signals, view, rehearsal.as_ref()).await;
        if let Some(problem) = problem {
            return Err(problem);
        }
        let health = self.provider.health();
        let queries = rehearsal.as_ref().map(Rehearsal::queries);
        let failed = queries.as_ref().map_or(0, |queries| queries.failed);
        Lines { json: args.json }.summary(&health, queries.as_ref(), report.as_ref());
        let clean = report.is_some_and(|report| report.is_clean());
        Ok(if clean && failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    async fn show_until_asked(
        &mut self,
        args: &Args,
        rotator: &Rotator,
        signals: &mut Signals,
    ) -> Result<(View, Option<Rehearsal>), Failure> {
        let rehearsal = match &self.server {
            Some(server) => Some(Rehearsal::start(&self.provider, server).await?),
            None => None,
        };
        let mut view = View::of(args)?;
        let until = args.run_for.map(|time| self.begun + time);
        let mut redraw = tokio::time::interval(REDRAW);
        redraw.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                Some(event) = self.events.recv() => {
                    view.event(&event, &self.now(rehearsal.as_ref()));
                    if matches!(event, Event::Stopped { .. }) {
                        break;
                    }
                }
                _ = redraw.tick() => view.draw(&self.now(rehearsal.as_ref())),
                key = view.key() => match key {
                    Key::Rotate => rotator.rotate(),
                    Key::Quit => break,
                },
                _ = signals.ending() => break,
                () = deadline::passed(until) => break,
            }
        }
        Ok((view, rehearsal))
    }

    /// Ends in order, and goes on telling. `None`: given up at a further signal.
    async fn end(
        &mut self,
        rotator: &Rotator,
        signals: &mut Signals,
        view: Option<View>,
        rehearsal: Option<&Rehearsal>,
    ) -> Option<ShutdownReport> {
        let mut view = view;
        let mut ending = std::pin::pin!(rotator.shutdown(DRAIN));
        let report = loop {
            tokio::select! {
                report = &mut ending => break Some(report),
                Some(event) = self.events.recv() => {
                    if let Some(view) = &mut view {
                        view.event(&event, &self.now(rehearsal));
                        view.draw(&self.now(rehearsal));
                    }
                }
                _ = signals.ending() => break None,
            }
        };
        // What was said last.
        while let (Ok(event), Some(view)) = (self.events.try_recv(), &mut view) {
            view.event(&event, &self.now(rehearsal));
        }
        report
    }
}
