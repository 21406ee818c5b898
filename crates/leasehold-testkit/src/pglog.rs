//! Postgres's own log: who connected when, and under which name.

use std::collections::HashMap;

/// Epoch with milliseconds, process, SQLSTATE, and for sessions the user.
pub(crate) const PREFIX: &str = "%n [%p] %e %q%u ";

/// One line of Postgres's log about a connection.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct LoginEvent {
    /// When the server wrote it: Unix seconds, exact to the millisecond (truncated).
    pub at: f64,
    /// The session's server process. Numbers are reused after a while.
    pub pid: i32,
    /// What happened.
    pub kind: LoginKind,
}

/// What Postgres logs about a connection, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LoginKind {
    /// The socket was accepted; nobody knows yet for which user.
    Received,
    /// The password was right (Postgres 14 and later).
    Authenticated {
        /// The name given.
        user: String,
    },
    /// The session exists.
    Authorized {
        /// The role.
        user: String,
        /// The database.
        database: String,
        /// Its application name, if it gave one.
        application: Option<String>,
    },
    /// The login was refused.
    Refused {
        /// The name given, if it came that far.
        user: Option<String>,
        /// 28P01 wrong, expired or unknown login, 28000, 53300 and so on.
        sqlstate: String,
        /// The server's text.
        message: String,
    },
    /// The session's end, whoever ended it.
    Disconnected {
        /// The role.
        user: String,
        /// The database.
        database: String,
    },
}

/// A connection, put together from its lines.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct LoginRecord {
    /// The session's server process.
    pub pid: i32,
    /// When the socket was accepted, in Unix seconds. This is the time to compare with a swap.
    pub received: f64,
    /// The name it logged in with, once that is known.
    pub user: Option<String>,
    /// When the session began.
    pub authorized: Option<f64>,
    /// The application name it gave.
    pub application: Option<String>,
    /// When it was refused, and with which SQLSTATE.
    pub refused: Option<(f64, String)>,
    /// When the session ended.
    pub disconnected: Option<f64>,
}

/// The lines about connections, oldest first.
#[must_use]
pub fn parse_login_log(log: &str) -> Vec<LoginEvent> {
    // A line without a line end is still being written.
    let whole = log.rfind('\n').map_or("", |end| &log[..end]);
    let mut events = Vec::new();
    // Which processes have a session: a later FATAL of theirs is no refused login.
    let mut inside: HashMap<i32, bool> = HashMap::new();
    for line in whole.lines() {
        let Some((at, pid, sqlstate, rest)) = split(line) else { continue };
        let Some(kind) = kind(sqlstate, rest) else { continue };
        match &kind {
            LoginKind::Received => drop(inside.insert(pid, false)),
            LoginKind::Authorized { .. } => drop(inside.insert(pid, true)),
            LoginKind::Refused { .. } if inside.get(&pid) == Some(&true) => continue,
            _ => {}
        }
        events.push(LoginEvent { at, pid, kind });
    }
    events
}

/// One record per connection, in the order in which they were received.
#[must_use]
pub fn correlate(events: &[LoginEvent]) -> Vec<LoginRecord> {
    let mut records: Vec<LoginRecord> = Vec::new();
    let mut open: HashMap<i32, usize> = HashMap::new();
    for event in events {
        if event.kind == LoginKind::Received {
            open.insert(event.pid, records.len());
            records.push(LoginRecord {
                pid: event.pid,
                received: event.at,
                user: None,
                authorized: None,
                application: None,
                refused: None,
                disconnected: None,
            });
            continue;
        }
        let Some(record) = open.get(&event.pid).and_then(|&i| records.get_mut(i)) else { continue };
        match &event.kind {
            LoginKind::Received => {}
            LoginKind::Authenticated { user } => record.user = Some(user.clone()),
            LoginKind::Authorized { user, application, .. } => {
                record.user = Some(user.clone());
                record.application.clone_from(application);
                record.authorized = Some(event.at);
            }
            LoginKind::Refused { user, sqlstate, .. } => {
                record.user = user.clone().or(record.user.take());
                record.refused = Some((event.at, sqlstate.clone()));
            }
            LoginKind::Disconnected { .. } => record.disconnected = Some(event.at),
        }
    }
    records
}

/// `1763700000.123 [4711] 00000 rest`
fn split(line: &str) -> Option<(f64, i32, &str, &str)> {
    let (at, rest) = line.split_once(" [")?;
    let (pid, rest) = rest.split_once("] ")?;
    let (sqlstate, rest) = rest.split_once(' ')?;
    (sqlstate.len() == 5).then_some(())?;
    Some((at.parse().ok()?, pid.parse().ok()?, sqlstate, rest))
}

/// `user LOG:  connection authorized: user=app database=db ...`. Users' names may hold blanks, so
/// the message is found by its severity.
fn kind(sqlstate: &str, rest: &str) -> Option<LoginKind> {
    if let Some((_, text)) = rest.split_once("LOG:  ") {
        if text.starts_with("connection received: ") {
            return Some(LoginKind::Received);
        }
        if let Some(text) = text.strip_prefix("connection authenticated: ") {
            return Some(LoginKind::Authenticated { user: quoted(text)?.to_owned() });
        }
        if let Some(text) = text.strip_prefix("connection authorized: user=") {
            let (user, rest) = text.split_once(" database=")?;
            let database = rest.split(' ').next()?.to_owned();
            // Names may hold blanks; what may follow is ` SSL enabled (...)`.
            let application = (rest.split_once(" application_name="))
                .map(|(_, name)| name.split(" SSL enabled").next().unwrap_or(name).to_owned());
            return Some(LoginKind::Authorized { user: user.to_owned(), database, application });
        }
        if let Some(text) = text.strip_prefix("disconnection: ") {
            let (_, text) = text.split_once(" user=")?;
            let (user, rest) = text.split_once(" database=")?;
            let database = rest.split(' ').next()?.to_owned();
            return Some(LoginKind::Disconnected { user: user.to_owned(), database });
        }
        return None;
    }
    let (user, message) = rest.split_once("FATAL:  ")?;
    let user = user.trim();
    Some(LoginKind::Refused {
        user: (!user.is_empty() && user != "[unknown]").then(|| user.to_owned()),
        sqlstate: sqlstate.to_owned(),
        message: message.to_owned(),
    })
}

fn quoted(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once('"')?;
    rest.split_once('"').map(|(inner, _)| inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
1763700000.001 [1] 00000 LOG:  database system is ready to accept connections
1763700000.100 [7] 00000 [unknown] LOG:  connection received: host=127.0.0.1 port=5
1763700000.105 [7] 00000 v-a-1 LOG:  connection authenticated: identity=\"v-a-1\" method=scram-sha-256 (x:1)
1763700000.106 [7] 00000 v-a-1 LOG:  connection authorized: user=v-a-1 database=t1 application_name=x
1763700000.200 [8] 00000 [unknown] LOG:  connection received: host=127.0.0.1 port=6
1763700000.205 [8] 28P01 v-b-2 FATAL:  password authentication failed for user \"v-b-2\"
1763700000.206 [8] 28P01 v-b-2 DETAIL:  Role \"v-b-2\" does not exist.
1763700000.300 [7] 57P01 v-a-1 FATAL:  terminating connection due to administrator command
1763700000.301 [7] 00000 v-a-1 LOG:  disconnection: session time: 0:00:00.195 user=v-a-1 database=t1 host=127.0.0.1 port=5
1763700000.400 [9] 00000 [unknown] LOG:  connection rec";

    #[test]
    fn lines_of_one_connection_are_put_together() {
        let events = parse_login_log(LOG);
        assert_eq!(events.len(), 6, "{events:#?}");
        let records = correlate(&events);
        assert_eq!(records.len(), 2);
        assert_eq!(records[0].user.as_deref(), Some("v-a-1"));
        assert_eq!(records[0].received, 1_763_700_000.1);
        assert_eq!(records[0].authorized, Some(1_763_700_000.106));
        assert_eq!(records[0].application.as_deref(), Some("x"));
        assert_eq!(records[0].refused, None, "a terminated session is no refused login");
        assert_eq!(records[0].disconnected, Some(1_763_700_000.301));
        assert_eq!(records[1].user.as_deref(), Some("v-b-2"));
        assert_eq!(records[1].refused, Some((1_763_700_000.205, "28P01".into())));
        assert_eq!(records[1].authorized, None);
    }
}
