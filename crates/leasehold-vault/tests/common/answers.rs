//! What a server may answer, what that means, and what comes of it: one list. The table in
//! `docs/errors.md` is written from it, each row is a test of its own (`tests/errors.rs`), and the
//! rules that classify are held against it, so that none is without a row.
#![allow(dead_code, unused_macros, unreachable_pub, missing_docs, reason = "each user uses a part")]

use std::fmt;

use leasehold::ErrorKind;

/// What was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    Login,
    TokenLookup,
    TokenRenew,
    TokenRevoke,
    Issue,
    Renew,
    Revoke,
}

/// What came back.
#[derive(Clone, Copy, Debug)]
pub enum Said {
    /// A status and a body.
    Status(u16, &'static str),
    /// The same with a header.
    Header(u16, &'static str, (&'static str, &'static str)),
    /// The connection was reset before there was an answer.
    Reset,
    /// It was closed in the middle of the answer.
    CutShort,
    /// The answer came, and never ended.
    Dripping,
    /// No answer.
    Silence,
}

/// What it means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Means {
    TokenDead,
    Kind(ErrorKind),
}

/// What is done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Does {
    LoginSoon,
    LoginSlowly,
    LoginFails,
    TokenRenewSoon,
    TokenReplace,
    TokenReplaceNow,
    TokenGiveBackSoon,
    TokenLeave,
    TokenGone,
    IssueSoon,
    IssueSlowly,
    LogInAndRepeat,
    RenewSoon,
    RotateNow,
    RotateAtLeeway,
    RevokeSoon,
    RevokeThenQueue,
    SoftRevoke,
    RevokedAlready,
    LeaveToTtl,
}

#[derive(Debug)]
pub struct Row {
    pub name: &'static str,
    pub asked: Asked,
    pub said: Said,
    pub means: Means,
    pub does: Does,
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Login => "log in",
            Self::TokenLookup => "look up a given token",
            Self::TokenRenew => "renew the token",
            Self::TokenRevoke => "revoke a retired token",
            Self::Issue => "issue",
            Self::Renew => "renew",
            Self::Revoke => "revoke",
        })
    }
}

impl fmt::Display for Means {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TokenDead => f.write_str("the token is dead"),
            Self::Kind(kind) => write!(f, "`{kind:?}`"),
        }
    }
}

impl fmt::Display for Does {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LoginSoon => {
                "`Session::login` fails with it; a later login is repeated with backoff, and \
                 callers get this kind meanwhile"
            }
            Self::LoginSlowly => {
                "`Session::login` fails with it; a later login is repeated each 30 s growing to \
                 5 min, callers get `TokenLost` meanwhile, and `token_state` says why"
            }
            Self::LoginFails => "`Session::login` fails with it",
            Self::TokenRenewSoon => {
                "renews it again with backoff, and logs in anew once a quarter of its life is left"
            }
            Self::TokenReplace => {
                "logs in anew; leases of the old token are replaced before it ends. A given token, \
                 which none can replace, is renewed again slowly"
            }
            Self::TokenReplaceNow => {
                "logs in anew and rotates at once, since leases die with their token"
            }
            Self::TokenGiveBackSoon => "tries again with backoff until the token ends",
            Self::TokenLeave => "leaves the token to its TTL",
            Self::TokenGone => "takes it as done",
            Self::IssueSoon => {
                "keeps the current login and asks again with backoff; a start does so until its \
                 timeout"
            }
            Self::IssueSlowly => {
                "keeps the current login and asks again ever more slowly (up to a quarter of the \
                 TTL or 5 min); a start fails at once"
            }
            Self::LogInAndRepeat => {
                "logs in anew, once for all who wait, repeats the call, and rotates at once what \
                 the dead token had issued"
            }
            Self::RenewSoon => {
                "keeps the login and renews again with backoff inside the lease; rotates at the \
                 leeway if nothing came through"
            }
            Self::RotateNow => "rotates at once",
            Self::RotateAtLeeway => {
                "keeps the login, renews it no more, and rotates before its end, at the leeway at the latest"
            }
            Self::RevokeSoon => "revokes again with backoff until the lease ends",
            Self::RevokeThenQueue => {
                "revokes again with backoff until the lease ends; after six refusals asks the \
                 server to go on by itself (`sync=false`)"
            }
            Self::SoftRevoke => "ends the lease by a renewal for one second instead",
            Self::RevokedAlready => "takes it as done",
            Self::LeaveToTtl => "leaves the lease to its TTL",
        })
    }
}

impl fmt::Display for Said {
    /// Two cells of the table.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Status(status, body) => write!(f, "{status} | {}", cell(body)),
            Self::Header(status, body, (name, value)) => {
                write!(f, "{status} | {}, `{name}: {value}`", cell(body))
            }
            Self::Reset => f.write_str("none | the connection is reset"),
            Self::CutShort => f.write_str("200 | half of one, then the connection is closed"),
            Self::Dripping => f.write_str("200 | one that comes byte by byte and never ends"),
            Self::Silence => f.write_str("none | nothing within the timeout"),
        }
    }
}

/// The text that decides, on one line.
fn cell(body: &str) -> String {
    #[derive(serde::Deserialize)]
    struct Errors {
        errors: Vec<String>,
    }
    let text = match serde_json::from_str::<Errors>(body) {
        Ok(body) => body.errors.join("; "),
        Err(_) if body.is_empty() => return "empty".to_owned(),
        Err(_) => body.to_owned(),
    };
    let text = text.replace('\n', "\\n").replace('\t', "\\t").replace('|', "\\|");
    format!("`` {text} ``")
}

pub const BARE: &str = r#"{"errors":["permission denied"]}"#;
pub const POLICY: &str = r#"{"errors":["1 error occurred:\n\t* permission denied\n\n"]}"#;
const INVALID: &str =
    r#"{"errors":["2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n"]}"#;
const BAD_TOKEN: &str = r#"{"errors":["bad token"]}"#;
const SEALED: &str = r#"{"errors":["Vault is sealed"]}"#;
const LOCKED: &str = r#"{"errors":["API access to this namespace has been locked by an administrator - \"team2/\" must be unlocked to gain access."]}"#;
const QUOTA: &str =
    r#"{"errors":["request path \"database/creds/app\": rate limit quota exceeded"]}"#;
const LEASES: &str = r#"{"errors":["1 error occurred:\n\t* lease count quota exceeded\n\n"]}"#;
const OVERLOADED: &str = r#"{"errors":["failed to create token: failed to persist accessor index entry: overloaded, try again later: internal error"]}"#;
const NO_LEADER: &str = r#"{"errors":["local node not active but active cluster node not found"]}"#;
const INTERNAL: &str = r#"{"errors":["1 error occurred:\n\t* internal error\n\n"]}"#;
const NO_NAMESPACE: &str = r#"{"errors":["namespace not found"]}"#;
const NO_ROUTE: &str =
    r#"{"errors":["no handler for route \"nomount/creds/app\". route entry not found."]}"#;
const PG_DOWN: &str = r#"{"errors":["1 error occurred:\n\t* unable to start transaction: failed to connect to `user=vaultadmin database=app`: 127.0.0.1:5432 (127.0.0.1): dial error: dial tcp 127.0.0.1:5432: connect: connection refused\n\n"]}"#;
const RENEW_PG_DOWN: &str = r#"{"errors":["failed to renew entry: resp: (*logical.Response)(nil) err: 1 error occurred:\n\t* failed to connect to `user=vaultadmin database=app`: 127.0.0.1:5432 (127.0.0.1): dial error: dial tcp 127.0.0.1:5432: connect: connection refused\n\n"]}"#;
const REVOKE_PG_DOWN: &str = r#"{"errors":["failed to revoke entry: resp: (*logical.Response)(nil) err: failed to connect to `user=vaultadmin database=app`: 127.0.0.1:5432 (127.0.0.1): dial error: dial tcp 127.0.0.1:5432: connect: connection refused"]}"#;
const NO_CONNECTION: &str = r#"{"errors":["1 error occurred:\n\t* failed to find entry for connection with name: \"tmp\"\n\n"]}"#;
const RENEW_NO_CONNECTION: &str = r#"{"errors":["failed to renew entry: resp: (*logical.Response)(nil) err: failed to find entry for connection with name: \"tmp\""]}"#;
const REVOKE_NO_CONNECTION: &str = r#"{"errors":["failed to revoke entry: resp: (*logical.Response)(nil) err: failed to find entry for connection with name: \"tmp\""]}"#;
const TUPLE: &str = r#"{"errors":["could not perform all revocation statements: ERROR: tuple concurrently updated (SQLSTATE XX000)"]}"#;
const ELSEWHERE: (&str, &str) = ("location", "https://vault-2.example:8200/v1/x");

/// Calls `$then` with every row.
macro_rules! answers {
    ($then:ident) => {
        $then! {
            // Logging in.
            login_wrong_secret_id: Login, Status(400, r#"{"errors":["invalid role or secret ID"]}"#) => Kind(Denied), LoginSlowly;
            login_from_a_wrong_address: Login, Status(400, r#"{"errors":["source address \"127.0.0.1\" unauthorized by CIDR restrictions on the role: %!w(<nil>)"]}"#) => Kind(Denied), LoginSlowly;
            login_without_secret_id: Login, Status(400, r#"{"errors":["missing secret_id"]}"#) => Kind(Denied), LoginSlowly;
            login_without_a_certificate: Login, Status(400, r#"{"errors":["no client certificate found"]}"#) => Kind(Denied), LoginSlowly;
            login_at_no_mount: Login, Status(403, BARE) => Kind(Denied), LoginSlowly;
            login_denied: Login, Status(403, POLICY) => Kind(Denied), LoginSlowly;
            login_in_no_namespace: Login, Status(404, NO_NAMESPACE) => Kind(NotFound), LoginSlowly;
            login_too_large: Login, Status(413, r#"{"errors":["http: request body too large"]}"#) => Kind(Other), LoginSlowly;
            login_beyond_a_lease_count_quota: Login, Status(429, LEASES) => Kind(Throttled), LoginSoon;
            login_at_an_overloaded_server: Login, Status(503, OVERLOADED) => Kind(ServerFault), LoginSoon;
            login_throttled: Login, Header(429, QUOTA, ("retry-after", "9")) => Kind(Throttled), LoginSoon;
            login_moved_for_good: Login, Header(301, "", ELSEWHERE) => Kind(Other), LoginSlowly;
            login_at_a_standby: Login, Header(307, "", ELSEWHERE) => Kind(ServerFault), LoginSoon;
            login_in_a_collision: Login, Status(500, r#"{"errors":["transaction commit failed"]}"#) => Kind(ServerFault), LoginSoon;
            login_without_a_leader: Login, Status(500, NO_LEADER) => Kind(ServerFault), LoginSoon;
            login_behind_a_bad_gateway: Login, Status(502, "<html>bad gateway</html>") => Kind(ServerFault), LoginSoon;
            login_sealed: Login, Status(503, SEALED) => Kind(Sealed), LoginSoon;
            login_nonsense: Login, Status(200, "<html>welcome</html>") => Kind(Malformed), LoginSlowly;
            login_reset: Login, Reset => Kind(Timeout), LoginSoon;
            login_cut_short: Login, CutShort => Kind(Timeout), LoginSoon;
            login_never_answered: Login, Silence => Kind(Timeout), LoginSoon;

            // A token that was given.
            lookup_of_a_dead_token: TokenLookup, Status(403, BARE) => TokenDead, LoginFails;
            lookup_denied: TokenLookup, Status(403, POLICY) => Kind(Denied), LoginFails;
            lookup_sealed: TokenLookup, Status(503, SEALED) => Kind(Sealed), LoginFails;

            // Renewing the session's token.
            token_dead: TokenRenew, Status(403, BARE) => TokenDead, TokenReplaceNow;
            token_renewal_denied: TokenRenew, Status(403, POLICY) => Kind(Denied), TokenReplace;
            token_renewal_denied_by_a_firewall: TokenRenew, Status(403, "<html>a firewall</html>") => Kind(ServerFault), TokenRenewSoon;
            token_not_renewable: TokenRenew, Status(400, r#"{"errors":["lease is not renewable"]}"#) => Kind(NotRenewable), TokenReplace;
            token_is_a_batch_token: TokenRenew, Status(400, r#"{"errors":["batch tokens cannot be renewed"]}"#) => Kind(NotRenewable), TokenReplace;
            token_of_a_deleted_role: TokenRenew, Status(500, r#"{"errors":["1 error occurred:\n\t* failed to renew entry: role \"del\" does not exist during renewal\n\n"]}"#) => Kind(NotRenewable), TokenReplace;
            token_renewal_fails: TokenRenew, Status(500, INTERNAL) => Kind(ServerFault), TokenRenewSoon;
            token_renewal_at_a_standby: TokenRenew, Header(307, "", ELSEWHERE) => Kind(ServerFault), TokenRenewSoon;
            token_renewal_throttled: TokenRenew, Status(429, QUOTA) => Kind(Throttled), TokenRenewSoon;
            token_renewal_sealed: TokenRenew, Status(503, SEALED) => Kind(Sealed), TokenRenewSoon;
            token_renewal_nonsense: TokenRenew, Status(200, "{}") => Kind(Malformed), TokenRenewSoon;
            token_renewal_reset: TokenRenew, Reset => Kind(Timeout), TokenRenewSoon;
            token_renewal_never_answered: TokenRenew, Silence => Kind(Timeout), TokenRenewSoon;

            // Giving a token back.
            token_return_of_a_dead_one: TokenRevoke, Status(403, BARE) => TokenDead, TokenGone;
            token_return_denied: TokenRevoke, Status(403, POLICY) => Kind(Denied), TokenLeave;
            token_return_denied_by_a_firewall: TokenRevoke, Status(403, "<html>a firewall</html>") => Kind(ServerFault), TokenGiveBackSoon;
            token_return_of_a_batch_token: TokenRevoke, Status(400, r#"{"errors":["batch tokens cannot be revoked"]}"#) => Kind(NotRenewable), TokenLeave;
            token_return_sealed: TokenRevoke, Status(503, SEALED) => Kind(Sealed), TokenGiveBackSoon;
            token_return_reset: TokenRevoke, Reset => Kind(Timeout), TokenGiveBackSoon;

            // Issuing.
            issue_with_a_dead_token: Issue, Status(403, BARE) => TokenDead, LogInAndRepeat;
            issue_with_an_invalid_token: Issue, Status(403, INVALID) => TokenDead, LogInAndRepeat;
            issue_with_a_bad_token: Issue, Status(403, BAD_TOKEN) => TokenDead, LogInAndRepeat;
            issue_denied: Issue, Status(403, POLICY) => Kind(Denied), IssueSlowly;
            issue_denied_by_a_firewall: Issue, Status(403, "<html>a firewall</html>") => Kind(Denied), IssueSlowly;
            issue_from_no_role: Issue, Status(400, r#"{"errors":["unknown role: nosuchrole"]}"#) => Kind(NotFound), IssueSlowly;
            issue_with_a_token_of_few_uses: Issue, Status(400, r#"{"errors":["Secret cannot be returned; token had one use left, so leased credentials were immediately revoked."]}"#) => Kind(Other), IssueSlowly;
            issue_from_no_mount: Issue, Status(404, NO_ROUTE) => Kind(NotFound), IssueSlowly;
            issue_in_no_namespace: Issue, Status(404, NO_NAMESPACE) => Kind(NotFound), IssueSlowly;
            issue_from_a_path_that_issues_nothing: Issue, Status(405, r#"{"errors":["1 error occurred:\n\t* unsupported operation\n\n"]}"#) => Kind(NotFound), IssueSlowly;
            issue_from_a_role_not_allowed: Issue, Status(500, r#"{"errors":["1 error occurred:\n\t* \"notallowed\" is not an allowed role\n\n"]}"#) => Kind(Denied), IssueSlowly;
            issue_without_a_connection: Issue, Status(500, NO_CONNECTION) => Kind(NotFound), IssueSlowly;
            issue_with_a_failing_statement: Issue, Status(500, r#"{"errors":["1 error occurred:\n\t* failed to execute query: ERROR: role \"nosuchgroup\" does not exist (SQLSTATE 42704)\n\n"]}"#) => Kind(ServerFault), IssueSoon;
            issue_with_the_database_down: Issue, Status(500, PG_DOWN) => Kind(ServerFault), IssueSoon;
            issue_with_the_database_hanging: Issue, Status(500, r#"{"errors":["1 error occurred:\n\t* unable to start transaction: context canceled\n\n"]}"#) => Kind(ServerFault), IssueSoon;
            issue_without_a_quorum: Issue, Status(500, INTERNAL) => Kind(ServerFault), IssueSoon;
            issue_without_a_leader: Issue, Status(500, NO_LEADER) => Kind(ServerFault), IssueSoon;
            issue_moved_for_good: Issue, Header(301, "", ELSEWHERE) => Kind(Other), IssueSlowly;
            issue_at_a_standby: Issue, Header(307, "", ELSEWHERE) => Kind(ServerFault), IssueSoon;
            issue_at_a_replica_that_is_behind: Issue, Status(412, r#"{"errors":["required index state not present"]}"#) => Kind(ServerFault), IssueSoon;
            issue_throttled: Issue, Status(429, QUOTA) => Kind(Throttled), IssueSoon;
            issue_throttled_with_a_time: Issue, Header(429, QUOTA, ("retry-after", "9")) => Kind(Throttled), IssueSoon;
            issue_beyond_a_lease_count_quota: Issue, Status(429, LEASES) => Kind(Throttled), IssueSoon;
            issue_at_a_dr_replica: Issue, Status(472, "") => Kind(ServerFault), IssueSoon;
            issue_at_a_performance_standby: Issue, Status(473, "") => Kind(ServerFault), IssueSoon;
            issue_behind_a_bad_gateway: Issue, Status(502, "<html>bad gateway</html>") => Kind(ServerFault), IssueSoon;
            issue_sealed: Issue, Status(503, SEALED) => Kind(Sealed), IssueSoon;
            issue_in_a_locked_namespace: Issue, Status(503, LOCKED) => Kind(Sealed), IssueSoon;
            issue_at_an_overloaded_server: Issue, Header(503, OVERLOADED, ("retry-after", "9")) => Kind(ServerFault), IssueSoon;
            issue_without_a_backend: Issue, Status(503, "<html>no backend</html>") => Kind(ServerFault), IssueSoon;
            issue_behind_a_slow_gateway: Issue, Status(504, "") => Kind(ServerFault), IssueSoon;
            issue_unheard_of: Issue, Status(418, "") => Kind(Other), IssueSlowly;
            issue_nonsense: Issue, Status(200, "<html>welcome</html>") => Kind(Malformed), IssueSlowly;
            issue_reset: Issue, Reset => Kind(Timeout), IssueSoon;
            issue_cut_short: Issue, CutShort => Kind(Timeout), IssueSoon;
            issue_dripping: Issue, Dripping => Kind(Timeout), IssueSoon;
            issue_never_answered: Issue, Silence => Kind(Timeout), IssueSoon;

            // Renewing a lease.
            renew_with_a_dead_token: Renew, Status(403, BARE) => TokenDead, LogInAndRepeat;
            renew_denied: Renew, Status(403, POLICY) => Kind(Denied), RotateAtLeeway;
            renew_at_its_max_ttl: Renew, Status(400, r#"{"errors":["failed to renew entry: resp: (*logical.Response)(nil) err: past the max TTL, cannot renew"]}"#) => Kind(NotRenewable), RotateAtLeeway;
            renew_not_renewable: Renew, Status(400, r#"{"errors":["lease is not renewable"]}"#) => Kind(NotRenewable), RotateAtLeeway;
            renew_lost: Renew, Status(400, r#"{"errors":["lease not found"]}"#) => Kind(LeaseLost), RotateNow;
            renew_expired: Renew, Status(400, r#"{"errors":["lease expired"]}"#) => Kind(LeaseLost), RotateNow;
            renew_irrevocable: Renew, Status(400, r#"{"errors":["lease is expired and has failed previous revocation attempts"]}"#) => Kind(LeaseLost), RotateNow;
            renew_without_its_role: Renew, Status(400, r#"{"errors":["failed to renew entry: resp: (*logical.Response)(nil) err: error during renew: could not find role with name \"chg\""]}"#) => Kind(NotFound), RotateAtLeeway;
            renew_without_its_connection: Renew, Status(400, RENEW_NO_CONNECTION) => Kind(NotFound), RotateAtLeeway;
            renew_with_the_database_down: Renew, Status(400, RENEW_PG_DOWN) => Kind(ServerFault), RenewSoon;
            renew_with_the_database_hanging: Renew, Status(400, r#"{"errors":["1 error occurred:\n\t* context canceled\n\n"]}"#) => Kind(ServerFault), RenewSoon;
            renew_unheard_of: Renew, Status(400, r#"{"errors":["failed to decode JSON input: unexpected EOF"]}"#) => Kind(Other), RotateAtLeeway;
            renew_nonsense: Renew, Status(200, "{}") => Kind(Malformed), RotateAtLeeway;
            renew_at_a_standby: Renew, Header(307, "", ELSEWHERE) => Kind(ServerFault), RenewSoon;
            renew_at_a_replica_that_is_behind: Renew, Status(412, "") => Kind(ServerFault), RenewSoon;
            renew_throttled: Renew, Status(429, QUOTA) => Kind(Throttled), RenewSoon;
            renew_at_a_dr_replica: Renew, Status(472, "") => Kind(ServerFault), RenewSoon;
            renew_at_a_performance_standby: Renew, Status(473, "") => Kind(ServerFault), RenewSoon;
            renew_without_a_leader: Renew, Status(500, NO_LEADER) => Kind(ServerFault), RenewSoon;
            renew_sealed: Renew, Status(503, SEALED) => Kind(Sealed), RenewSoon;
            renew_in_a_locked_namespace: Renew, Status(503, LOCKED) => Kind(Sealed), RenewSoon;
            renew_reset: Renew, Reset => Kind(Timeout), RenewSoon;
            renew_cut_short: Renew, CutShort => Kind(Timeout), RenewSoon;
            renew_dripping: Renew, Dripping => Kind(Timeout), RenewSoon;
            renew_never_answered: Renew, Silence => Kind(Timeout), RenewSoon;

            // Revoking a lease.
            revoke_with_a_dead_token: Revoke, Status(403, BARE) => TokenDead, LogInAndRepeat;
            revoke_denied: Revoke, Status(403, POLICY) => Kind(Denied), SoftRevoke;
            revoke_lost: Revoke, Status(400, r#"{"errors":["lease not found"]}"#) => Kind(LeaseLost), RevokedAlready;
            revoke_without_its_connection: Revoke, Status(400, REVOKE_NO_CONNECTION) => Kind(NotFound), LeaveToTtl;
            revoke_with_the_database_down: Revoke, Status(400, REVOKE_PG_DOWN) => Kind(ServerFault), RevokeThenQueue;
            revoke_in_a_collision: Revoke, Status(400, TUPLE) => Kind(ServerFault), RevokeThenQueue;
            revoke_unheard_of: Revoke, Status(400, r#"{"errors":["invalid lease ID"]}"#) => Kind(Other), LeaveToTtl;
            revoke_at_a_standby: Revoke, Header(307, "", ELSEWHERE) => Kind(ServerFault), RevokeThenQueue;
            revoke_throttled: Revoke, Status(429, QUOTA) => Kind(Throttled), RevokeSoon;
            revoke_sealed: Revoke, Status(503, SEALED) => Kind(Sealed), RevokeSoon;
            revoke_reset: Revoke, Reset => Kind(Timeout), RevokeSoon;
            revoke_never_answered: Revoke, Silence => Kind(Timeout), RevokeSoon;
        }
    };
}

macro_rules! rows {
    ($($name:ident: $asked:ident, $said:expr => $means:expr, $does:ident;)*) => {
        /// Every row, in the order of the docs.
        pub const ROWS: &[Row] = {
            use ErrorKind::*;
            use Means::{Kind, TokenDead};
            use Said::*;
            &[$(Row {
                name: stringify!($name),
                asked: Asked::$asked,
                said: $said,
                means: $means,
                does: Does::$does,
            },)*]
        };
    };
}
answers!(rows);
#[allow(unused_imports, reason = "one user makes a test of each, another does not")]
pub(crate) use answers;
