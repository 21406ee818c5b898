//! Goes through the steps, one after another, and back.

use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use leasehold::Issued;
use leasehold_vault::inspect::{self, Look, Way};
use leasehold_vault::{Auth, DynamicRole, Missing, Session, VaultConfig};
use tokio::sync::watch;
use tokio_postgres::Client;

use super::Args;
use super::report::{Finding, Report};
use super::steps::{ALL, Step};
use crate::failure::Failure;
use crate::postgres::{Login, Refusal, Server};
use crate::signals::Signals;
use crate::terminal::tell;

/// What is known by now, and what has to be given back.
pub(super) struct Journey {
    pub(super) config: VaultConfig,
    pub(super) way: Way,
    pub(super) auth: Option<Auth>,
    pub(super) mount: String,
    pub(super) role: String,
    pub(super) grace: Option<Duration>,
    pub(super) server: Server,
    pub(super) admin: Option<(Server, Login)>,
    pub(super) needs: Vec<(String, String)>,
    pub(super) probe: Option<String>,

    pub(super) look: Option<Look>,
    /// Vault's clock minus ours, in seconds.
    pub(super) vault_ahead: Option<f64>,
    pub(super) session: Option<Session>,
    pub(super) source: Option<DynamicRole>,
    pub(super) missing: Vec<Missing>,
    pub(super) may_ask: bool,
    /// The maximum TTL of the role, as far as its definition could be read.
    pub(super) max_ttl: Option<Duration>,
    pub(super) issued: Option<Issued>,
    pub(super) issued_at: SystemTime,
    pub(super) client: Option<Client>,
    pub(super) refusal: Option<Refusal>,
    /// How long it took until Postgres knew the login.
    pub(super) lagged: Duration,
    /// The role that the session acts as, where that is another than the login's own.
    pub(super) acts_as: Option<String>,
    /// What hangs on the login, as far as it can be seen.
    pub(super) obstacles: Vec<String>,
}

pub(super) async fn run(args: &Args) -> Result<ExitCode, Failure> {
    let mut journey = Journey::prepare(args)?;
    let mut report = Report::new(args.json);
    let stop = signals()?;
    for &step in ALL {
        let finding = journey.step(step, &report, stop.clone()).await;
        report.add(step, finding);
    }
    let stopped = *stop.borrow() > 0;
    report.finish(stopped)?;
    Ok(match report.is_well() {
        // As a shell has it for SIGINT.
        _ if stopped => ExitCode::from(130),
        true => ExitCode::SUCCESS,
        false => ExitCode::from(1),
    })
}

/// How often it was asked to stop. The second time it ends where it is.
pub(super) fn signals() -> Result<watch::Receiver<u32>, Failure> {
    let mut signals = Signals::listen()?;
    let (asked, seen) = watch::channel(0);
    tokio::spawn(async move {
        loop {
            signals.ending().await;
            asked.send_modify(|n| *n += 1);
            if *asked.borrow() > 1 {
                tell("ended at once; what was not given back ends by its TTL");
                std::process::exit(130);
            }
            tell("giving back what was made; once more ends it at once");
        }
    });
    Ok(seen)
}

impl Journey {
    fn prepare(args: &Args) -> Result<Self, Failure> {
        let settings = args.target.settings()?;
        let config = settings.config()?;
        let admin = match &args.admin_url {
            None => None,
            Some(url) => Some(administrator(&url.0)?),
        };
        Ok(Self {
            way: inspect::way(&config)?,
            auth: Some(settings.auth()?),
            mount: args.target.mount(&settings).trim_matches('/').to_owned(),
            role: args.target.role(&settings)?,
            grace: args.grace,
            server: args.place.server()?,
            admin,
            needs: args.needs.iter().map(|text| needed(text)).collect::<Result<_, _>>()?,
            probe: args.probe.clone(),
            config,
            look: None,
            vault_ahead: None,
            session: None,
            source: None,
            missing: Vec::new(),
            may_ask: false,
            max_ttl: None,
            issued: None,
            issued_at: SystemTime::now(),
            client: None,
            refusal: None,
            lagged: Duration::ZERO,
            acts_as: None,
            obstacles: Vec::new(),
        })
    }

    async fn step(&mut self, step: Step, report: &Report, stop: watch::Receiver<u32>) -> Finding {
        let stopped = *stop.borrow() > 0;
        if stopped && !step.gives_back() {
            return Finding::stopped();
        }
        for need in step.needs() {
            if let Some(finding) = report.of(*need).filter(|finding| finding.blocks) {
                return Finding::blocked_by(finding.because.unwrap_or(*need));
            }
        }
        let looking = format!("looking whether {}", step.what());
        let work = told_if_slow(&looking, self.take(step));
        if step.is_whole() {
            return work.await;
        }
        tokio::select! {
            finding = work => finding,
            () = stopped_by(stop) => Finding::stopped(),
        }
    }

    async fn take(&mut self, step: Step) -> Finding {
        match step {
            Step::Address => self.address().await,
            Step::Tls => self.tls().await,
            Step::Server => self.server(),
            Step::Login => self.login().await,
            Step::Token => self.token().await,
            Step::PolicyCreds => self.policy_creds().await,
            Step::PolicyRenew => self.policy("sys/leases/renew"),
            Step::PolicyRevoke => self.policy("sys/leases/revoke"),
            Step::PolicyToken => self.policy("auth/token/"),
            Step::Engine => self.engine().await,
            Step::Role => self.role_definition().await,
            Step::PostgresAddress => self.postgres_address().await,
            Step::Issue => self.issue().await,
            Step::Ttl => self.ttl(),
            Step::TokenLife => self.token_life().await,
            Step::PostgresTls => self.postgres_tls().await,
            Step::PostgresLogin => self.postgres_login().await,
            Step::Privileges => self.privileges().await,
            Step::Obstacles => self.obstacles().await,
            Step::ValidUntil => self.valid_until().await,
            Step::Clocks => self.clocks().await,
            Step::Renew => self.renew().await,
            Step::Revoke => self.revoke().await,
            Step::Gone => self.gone().await,
            Step::SetRole => self.set_role().await,
            Step::Logout => self.logout().await,
        }
    }

    /// What steps behind the login have.
    pub(super) fn session(&self) -> &Session {
        self.session.as_ref().expect("a step that uses the session needs `login`")
    }

    pub(super) fn source(&self) -> &DynamicRole {
        self.source.as_ref().expect("a step that uses the source needs `login`")
    }

    pub(super) fn issued(&self) -> &Issued {
        self.issued.as_ref().expect("a step that uses the login needs `issue`")
    }

    pub(super) fn client(&self) -> &Client {
        self.client.as_ref().expect("a step in Postgres needs `postgres-login`")
    }

    /// `MOUNT/creds/ROLE`.
    pub(super) fn path(&self) -> String {
        format!("{}/creds/{}", self.mount, self.role)
    }
}

pub(super) fn administrator(url: &str) -> Result<(Server, Login), Failure> {
    let from = "--admin-url (or LEASEHOLD_ADMIN_URL)";
    match Server::from_url(from, url)? {
        (server, Some(login)) => Ok((server, login)),
        (_, None) => {
            Err(Failure::usage(format!("{from} names no user: an administrator's is needed")))
        }
    }
}

/// `SELECT, INSERT ON public.orders`: the rights and the table.
fn needed(text: &str) -> Result<(String, String), Failure> {
    const RIGHTS: [&str; 7] =
        ["SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER"];
    let bad =
        || Failure::usage(format!("--needs {text:?}: write it like 'SELECT ON public.orders'"));
    let upper = text.to_ascii_uppercase();
    let at = upper.find(" ON ").ok_or_else(bad)?;
    let (rights, table) = (&upper[..at], text[at + 4..].trim());
    let rights: Vec<&str> = rights.split(',').map(str::trim).collect();
    if table.is_empty() || !rights.iter().all(|right| RIGHTS.contains(right)) {
        return Err(bad());
    }
    Ok((rights.join(", "), table.to_owned()))
}

pub(super) async fn stopped_by(mut stop: watch::Receiver<u32>) {
    if stop.wait_for(|n| *n > 0).await.is_err() {
        std::future::pending().await
    }
}

/// Says on stderr what is being waited for, where that is longer than a second.
pub(super) async fn told_if_slow<T>(doing: &str, work: impl Future<Output = T>) -> T {
    tokio::pin!(work);
    let second = tokio::time::sleep(Duration::from_secs(1));
    tokio::select! {
        done = &mut work => return done,
        () = second => tell(&format!("still {doing} …")),
    }
    work.await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_are_read_as_people_write_them() {
        let read = |text| needed(text).map_err(|e| e.to_string());
        let (rights, table) = read("select, Insert on Public.\"Orders\"").unwrap();
        assert_eq!((rights.as_str(), table.as_str()), ("SELECT, INSERT", "Public.\"Orders\""));
        for bad in ["public.orders", "EVERYTHING ON orders", "SELECT ON ", "ON orders"] {
            assert!(read(bad).unwrap_err().contains("--needs"), "{bad}");
        }
    }

    #[test]
    fn every_step_comes_after_those_that_it_needs() {
        for (i, step) in ALL.iter().enumerate() {
            assert!(step.needs().iter().all(|need| ALL[..i].contains(need)), "{step:?}");
        }
    }
}
