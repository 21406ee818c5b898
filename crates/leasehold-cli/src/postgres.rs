//! Where Postgres is, and sessions there with a login that was just leased.

mod tls;

use std::fmt;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;
use url::Url;
use zeroize::Zeroizing;

use crate::failure::{Failure, with_causes};
use crate::terminal::tell;

/// Name lookup, TCP, TLS and login together. A server under load takes its time.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// Where Postgres is. User and password are never taken from here: they come from the lease.
#[derive(Clone, Default, clap::Args)]
#[command(next_help_heading = "Where Postgres is")]
pub(crate) struct Place {
    /// Such as postgres://db.internal:5432/orders?sslmode=verify-full; a user and a password in it
    /// are not used [default: DATABASE_URL, else PGHOST, PGPORT, PGDATABASE]. PGSSLMODE and
    /// PGSSLROOTCERT hold where it does not say.
    #[arg(long, value_name = "URL")]
    database_url: Option<String>,
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Place").field("url", &self.database_url.is_some()).finish()
    }
}

const FLAG: &str = "--database-url";
const VARIABLE: &str = "DATABASE_URL";

/// An environment variable that holds something.
pub(crate) fn set(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.trim().is_empty())
}

impl Place {
    /// The URL, and where it is from.
    pub(crate) fn url(&self) -> Option<(&'static str, String)> {
        let given = self.database_url.clone().map(|url| (FLAG, url));
        given.or_else(|| Some((VARIABLE, set(VARIABLE)?)))
    }

    /// It was said on the command line, and not by the environment.
    pub(crate) fn is_given(&self) -> bool {
        self.database_url.is_some()
    }

    pub(crate) fn server(&self) -> Result<Server, Failure> {
        match self.url() {
            Some((from, url)) => Ok(Server::from_url(from, &url)?.0),
            None => Server::from_env(),
        }
    }

    /// `None` where nothing says where Postgres is.
    pub(crate) fn server_if_told(&self) -> Result<Option<Server>, Failure> {
        let told = self.url().is_some() || set("PGHOST").is_some() || set("PGDATABASE").is_some();
        told.then(|| self.server()).transpose()
    }
}

/// A login of one's own, such as an administrator's.
pub(crate) struct Login {
    pub(crate) user: String,
    pub(crate) password: Zeroizing<String>,
}

/// A Postgres server and a database on it.
pub(crate) struct Server {
    host: String,
    port: u16,
    pub(crate) database: String,
    mode: Mode,
    root: Option<String>,
    options: Option<String>,
}

/// libpq's `sslmode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Disable,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

impl Mode {
    fn from_env() -> Result<Self, Failure> {
        set("PGSSLMODE").map_or(Ok(Self::Prefer), |mode| Self::parse("PGSSLMODE", &mode))
    }

    /// As libpq names it.
    fn name(self) -> &'static str {
        match self {
            Self::Disable => "disable",
            Self::Prefer => "prefer",
            Self::Require => "require",
            Self::VerifyCa => "verify-ca",
            Self::VerifyFull => "verify-full",
        }
    }

    fn parse(from: &str, text: &str) -> Result<Self, Failure> {
        Ok(match text {
            "disable" => Self::Disable,
            "allow" | "prefer" => Self::Prefer,
            "require" => Self::Require,
            "verify-ca" => Self::VerifyCa,
            "verify-full" => Self::VerifyFull,
            _ => {
                return Err(Failure::usage(format!(
                    "{from} is none of disable, allow, prefer, require, verify-ca, verify-full"
                )));
            }
        })
    }
}

/// Why there is no session. Holds no secret: Postgres says none back.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// Nothing answers there.
    Unreachable(String),
    /// TLS did not come about: what is wrong, and the mend.
    Tls(String, String),
    /// Postgres said no.
    Refused { code: String, message: String },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(why) | Self::Tls(why, _) => f.write_str(why),
            Self::Refused { code, message } => write!(f, "Postgres refuses: {message} ({code})"),
        }
    }
}

impl Server {
    /// The server that a URL names, and the login in it if there is one. `from` says whose URL it
    /// is.
    pub(crate) fn from_url(from: &str, text: &str) -> Result<(Self, Option<Login>), Failure> {
        let bad = |problem: &str| Failure::usage(format!("{from} {problem}"));
        let example = "write it like postgres://db.internal:5432/orders";
        // Its own words may repeat a piece of the text, in which there may be a password.
        let url = Url::parse(text).map_err(|_| bad(&format!("is not a URL: {example}")))?;
        if !matches!(url.scheme(), "postgres" | "postgresql") {
            return Err(bad(&format!("does not begin with postgres://: {example}")));
        }
        let plain = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let mut server = Self {
            host: plain(url.host_str().unwrap_or("localhost")).trim_matches(['[', ']']).to_owned(),
            port: url.port().unwrap_or(5432),
            database: plain(url.path().trim_start_matches('/')),
            mode: Mode::from_env()?,
            root: set("PGSSLROOTCERT"),
            options: None,
        };
        for (name, value) in url.query_pairs() {
            match &*name {
                "sslmode" => server.mode = Mode::parse(&format!("sslmode in {from}"), &value)?,
                "sslrootcert" => server.root = Some(value.into_owned()),
                "host" => server.host = value.into_owned(),
                "port" => server.port = value.parse().map_err(|_| bad("has no number as port"))?,
                "dbname" => server.database = value.into_owned(),
                "options" => server.options = Some(value.into_owned()),
                "sslcert" | "sslkey" => tell(&format!(
                    "{name} in {from} is not used here: this program shows no certificate of its own"
                )),
                // Of the driver, or of the pool.
                _ => {}
            }
        }
        if server.database.is_empty() {
            return Err(bad(&format!("names no database: {example}")));
        }
        let login = (!url.username().is_empty()).then(|| Login {
            user: plain(url.username()),
            password: Zeroizing::new(plain(url.password().unwrap_or_default())),
        });
        Ok((server, login))
    }

    fn from_env() -> Result<Self, Failure> {
        let port = match set("PGPORT") {
            None => 5432,
            Some(port) => port.parse().map_err(|_| Failure::usage("PGPORT is no port number"))?,
        };
        Ok(Self {
            host: set("PGHOST").unwrap_or_else(|| "localhost".to_owned()),
            port,
            database: set("PGDATABASE").ok_or_else(|| {
                Failure::usage(
                    "no database: give --database-url URL, or set DATABASE_URL, or PGHOST and \
                     PGDATABASE",
                )
            })?,
            mode: Mode::from_env()?,
            root: set("PGSSLROOTCERT"),
            options: set("PGOPTIONS"),
        })
    }

    /// `host:port/database`.
    pub(crate) fn shown(&self) -> String {
        format!("{}/{}", self.place(), self.database)
    }

    pub(crate) fn place(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }

    /// It is on this machine, so that nobody reads what passes.
    pub(crate) fn is_local(&self) -> bool {
        let ip = self.host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback());
        self.host.starts_with('/') || self.host == "localhost" || ip
    }

    /// Its certificate is looked at, as far as sslmode asks for it.
    pub(crate) fn verifies(&self) -> bool {
        match self.mode {
            Mode::Disable | Mode::Prefer => false,
            // As libpq: whoever names an authority wants it to be looked at.
            Mode::Require => self.root.is_some(),
            Mode::VerifyCa | Mode::VerifyFull => true,
        }
    }

    /// Whether something listens there. The addresses that answer to the name.
    pub(crate) async fn reach(&self) -> Result<String, String> {
        if self.host.starts_with('/') {
            return Ok(format!("the socket in {}", self.host));
        }
        reach(&self.host, self.port).await
    }

    /// The variables by which libpq and most drivers find it.
    pub(crate) fn variables(&self) -> Vec<(&'static str, String)> {
        let mut variables = vec![
            ("PGHOST", self.host.clone()),
            ("PGPORT", self.port.to_string()),
            ("PGDATABASE", self.database.clone()),
            ("PGSSLMODE", self.mode.name().to_owned()),
        ];
        variables.extend(self.root.clone().map(|root| ("PGSSLROOTCERT", root)));
        variables.extend(self.options.clone().map(|options| ("PGOPTIONS", options)));
        variables
    }

    /// It as a URL; `None` for a socket, which a URL has no host for.
    pub(crate) fn url(&self) -> Option<String> {
        let mut url = Url::parse("postgres://localhost").ok()?;
        let host = match self.host.contains(':') {
            true => format!("[{}]", self.host),
            false => self.host.clone(),
        };
        url.set_host(Some(&host)).ok()?;
        url.set_port(Some(self.port)).ok()?;
        url.path_segments_mut().ok()?.clear().push(&self.database);
        url.query_pairs_mut().append_pair("sslmode", self.mode.name());
        if let Some(root) = &self.root {
            url.query_pairs_mut().append_pair("sslrootcert", root);
        }
        if let Some(options) = &self.options {
            url.query_pairs_mut().append_pair("options", options);
        }
        keep_spaces(&mut url);
        Some(url.into())
    }

    /// It as a driver's settings, with no login in them, and the TLS to go with them: none where
    /// it is off, or where a socket of this machine has no name to look at.
    pub(crate) fn driver(
        &self,
        application: &str,
    ) -> Result<(Config, Option<MakeRustlsConnect>), Refusal> {
        let mut config = Config::new();
        config.host(&self.host).port(self.port).dbname(&self.database);
        config.application_name(application).connect_timeout(CONNECT_TIMEOUT);
        if let Some(options) = &self.options {
            config.options(options);
        }
        if self.mode == Mode::Disable || matches!(config.get_hosts(), [Host::Unix(_)]) {
            config.ssl_mode(SslMode::Disable);
            return Ok((config, None));
        }
        let prefer = self.mode == Mode::Prefer;
        config.ssl_mode(if prefer { SslMode::Prefer } else { SslMode::Require });
        let tls = tls::client(self.mode, self.root.as_deref());
        let tls = tls.map_err(|(why, mend)| Refusal::Tls(why, mend))?;
        Ok((config, Some(MakeRustlsConnect::new(tls))))
    }

    /// A session of this login. The task that drives it ends with the client.
    pub(crate) async fn connect(&self, user: &str, password: &str) -> Result<Client, Refusal> {
        let (mut config, tls) = self.driver("leasehold doctor")?;
        config.user(user).password(password);
        let session = async {
            let Some(tls) = tls else {
                let (client, connection) = config.connect(NoTls).await.map_err(refusal)?;
                tokio::spawn(connection);
                return Ok(client);
            };
            let (client, connection) = config.connect(tls).await.map_err(refusal)?;
            tokio::spawn(connection);
            Ok(client)
        };
        let late = || Refusal::Unreachable(format!("{} does not answer in time", self.place()));
        timeout(CONNECT_TIMEOUT, session).await.map_err(|_| late())?
    }
}

/// Drivers take a plus in a query for a plus. What is one is written as `%2B` by now.
pub(crate) fn keep_spaces(url: &mut Url) {
    let query = url.query().map(|query| query.replace('+', "%20"));
    url.set_query(query.as_deref());
}

/// Whether something listens at `host:port`: the address that answered, or why none did.
pub(crate) async fn reach(host: &str, port: u16) -> Result<String, String> {
    const EACH: Duration = Duration::from_secs(5);
    let found = match timeout(EACH, lookup_host((host, port))).await {
        Err(_) => return Err(format!("the name {host} is not resolved in time")),
        Ok(Err(e)) => return Err(format!("the name {host} can't be resolved ({e})")),
        Ok(Ok(found)) => found,
    };
    let mut why = format!("the name {host} has no address");
    for address in found {
        match timeout(EACH, TcpStream::connect(address)).await {
            Ok(Ok(_)) => return Ok(address.to_string()),
            Ok(Err(e)) => why = format!("nothing answers at {address} ({e})"),
            Err(_) => why = format!("{address} does not answer in time"),
        }
    }
    Err(why)
}

fn refusal(e: tokio_postgres::Error) -> Refusal {
    if let Some(db) = e.as_db_error() {
        let (code, message) = (db.code().code().to_owned(), db.message().to_owned());
        return Refusal::Refused { code, message };
    }
    let text = with_causes(&e);
    match tls::mend(&e) {
        Some(mend) => Refusal::Tls(text, mend.to_owned()),
        None => Refusal::Unreachable(text),
    }
}

/// What to do about an error in which a connection failed for want of TLS.
pub(crate) fn tls_mend(error: &(dyn std::error::Error + 'static)) -> Option<&'static str> {
    let causes = std::iter::successors(Some(error), |e| (*e).source());
    causes.filter_map(|cause| cause.downcast_ref()).find_map(tls::mend)
}

/// What Postgres says about a statement, on one line.
pub(crate) fn said(e: &tokio_postgres::Error) -> String {
    match e.as_db_error() {
        Some(db) => format!("{} ({})", db.message(), db.code().code()),
        None => with_causes(e),
    }
}

/// The SQLSTATEs by which a login that does not exist, or must not log in, is refused.
pub(crate) fn is_login_refused(code: &str) -> bool {
    let invalid = [&SqlState::INVALID_PASSWORD, &SqlState::INVALID_AUTHORIZATION_SPECIFICATION];
    invalid.iter().any(|state| state.code() == code)
}

#[cfg(test)]
#[path = "postgres_tests.rs"]
mod tests;
