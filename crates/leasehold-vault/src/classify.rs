//! The one place where an answer of the server becomes an [`ErrorKind`].
//!
//! Status codes alone do not tell: a database that is down for a moment answers a renewal with
//! 400 as a lease that is gone does, and 403 stands both for a token that is dead and for a live
//! one without the right. So the table looks at the operation, the status and the text.

use std::time::Duration;

use leasehold::{ErrorKind, SourceError};
use serde::Deserialize;
use zeroize::Zeroizing;

/// What was asked of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    Login,
    TokenLookup,
    TokenRenew,
    TokenRevoke,
    Issue,
    /// What can be asked as often as one likes: nothing is made by it.
    Read,
    /// A secret of a KV engine, and what is known about it.
    Write,
    Patch,
    Delete,
    List,
    Renew,
    Revoke,
    Health,
    WrapLookup,
    Unwrap,
    Privileges,
    /// Work for a key of a Transit engine.
    Transit,
}

impl Op {
    #[cfg(feature = "metrics")]
    pub(crate) const ALL: &[Self] = &[
        Self::Login,
        Self::TokenLookup,
        Self::TokenRenew,
        Self::TokenRevoke,
        Self::Issue,
        Self::Read,
        Self::Write,
        Self::Patch,
        Self::Delete,
        Self::List,
        Self::Renew,
        Self::Revoke,
        Self::Health,
        Self::WrapLookup,
        Self::Unwrap,
        Self::Privileges,
        Self::Transit,
    ];

    /// The name used in spans and metrics.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Login => "login",
            Self::TokenLookup => "token_lookup",
            Self::TokenRenew => "token_renew",
            Self::TokenRevoke => "token_revoke",
            Self::Issue => "issue",
            Self::Read => "read",
            Self::Write => "write",
            Self::Patch => "patch",
            Self::Delete => "delete",
            Self::List => "list",
            Self::Renew => "renew",
            Self::Revoke => "revoke",
            Self::Health => "health",
            Self::WrapLookup => "wrap_lookup",
            Self::Unwrap => "unwrap",
            Self::Privileges => "privileges",
            Self::Transit => "transit",
        }
    }

    pub(crate) fn doing(self) -> &'static str {
        match self {
            Self::Login => "logging in at",
            Self::TokenLookup => "looking up the token at",
            Self::TokenRenew => "renewing the token at",
            Self::TokenRevoke => "revoking the token at",
            Self::Issue => "issuing a login from",
            Self::Read => "reading",
            Self::Write => "writing",
            Self::Patch => "patching",
            Self::Delete => "deleting",
            Self::List => "listing",
            Self::Renew => "renewing a lease of",
            Self::Revoke => "revoking a lease of",
            Self::Health => "asking for",
            Self::WrapLookup => "looking at the wrapping token by",
            Self::Unwrap => "unwrapping by",
            Self::Privileges => "asking for rights at",
            Self::Transit => "asking",
        }
    }

    /// What a policy has to grant for it.
    fn right(self, path: &str) -> String {
        let path = match self {
            Self::Issue | Self::Read => return format!("`read` on {path}"),
            Self::Write => return format!("`create` and `update` on {path}"),
            Self::Patch => return format!("`patch` on {path}"),
            Self::Delete => return format!("`delete` on {path}"),
            Self::List => return format!("`list` on {path}/"),
            Self::TokenLookup => return "`read` on auth/token/lookup-self".to_owned(),
            Self::Login | Self::Health | Self::WrapLookup | Self::Unwrap => path,
            Self::Privileges | Self::Transit => path,
            Self::TokenRenew => "auth/token/renew-self",
            Self::TokenRevoke => "auth/token/revoke-self",
            Self::Renew => "sys/leases/renew",
            Self::Revoke => "sys/leases/revoke",
        };
        format!("`update` on {path}")
    }
}

/// Why a call came to nothing.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The token it was made with is not valid any more. Another one may do.
    TokenDead(SourceError),
    /// Anything else.
    Refused(SourceError),
}

impl Failure {
    pub(crate) fn error(&self) -> &SourceError {
        match self {
            Self::TokenDead(e) | Self::Refused(e) => e,
        }
    }

    /// The error where nothing is done about a dead token.
    pub(crate) fn into_error(self) -> SourceError {
        match self {
            Self::TokenDead(e) | Self::Refused(e) => e,
        }
    }
}

impl From<SourceError> for Failure {
    fn from(e: SourceError) -> Self {
        Self::Refused(e)
    }
}

/// An answer that is no success.
pub(crate) struct Answer<'a> {
    pub(crate) status: u16,
    pub(crate) body: &'a [u8],
    pub(crate) retry_after: Option<Duration>,
    /// Where a redirect that was not followed points.
    pub(crate) location: Option<&'a str>,
    /// What the path is in.
    pub(crate) namespace: Option<&'a str>,
    /// The secrets of the request, which no message repeats.
    pub(crate) sent: &'a [Zeroizing<String>],
}

enum Means {
    TokenDead,
    Kind(ErrorKind),
}

enum Says {
    Anything,
    Exactly(&'static str),
    Part(&'static str),
}

impl Says {
    fn matches(&self, text: &str) -> bool {
        match self {
            Self::Anything => true,
            Self::Exactly(all) => text == *all,
            Self::Part(part) => text.contains(part),
        }
    }
}

struct Rule {
    /// Empty: whatever was asked.
    ops: &'static [Op],
    /// From and to, inclusive.
    status: (u16, u16),
    says: Says,
    means: Means,
    /// What it comes down to, and what to do.
    advice: &'static str,
}

impl Rule {
    fn fits(&self, op: Op, status: u16, text: &str) -> bool {
        (self.ops.is_empty() || self.ops.contains(&op))
            && (self.status.0..=self.status.1).contains(&status)
            && self.says.matches(text)
    }
}

const fn rule(
    ops: &'static [Op],
    status: (u16, u16),
    says: Says,
    means: Means,
    advice: &'static str,
) -> Rule {
    Rule { ops, status, says, means, advice }
}

const ANY: &[Op] = &[];
const LOGIN: &[Op] = &[Op::Login];
const TOKEN: &[Op] = &[Op::TokenRenew, Op::TokenRevoke];
const ISSUE: &[Op] = &[Op::Issue];
const GET: &[Op] = &[Op::Issue, Op::Read];
const LEASE: &[Op] = &[Op::Renew, Op::Revoke];
const WRAP: &[Op] = &[Op::WrapLookup, Op::Unwrap];

use ErrorKind::{
    Denied, LeaseLost, NotFound, NotRenewable, Other, Sealed, ServerFault, Throttled, TokenLost,
};
use Means::{Kind, TokenDead};
use Says::{Anything, Exactly, Part};

/// The first row that fits decides.
#[rustfmt::skip]
const TABLE: &[Rule] = &[
    // Logging in. Wrong, used up and expired secret_ids all read alike, and come as 400.
    rule(LOGIN, (400, 400), Part("invalid role or secret ID"), Kind(Denied), "check role_id and secret_id: wrong, used up or expired, the server does not say which"),
    rule(LOGIN, (400, 400), Part("unauthorized by CIDR"), Kind(Denied), "this address is not in the CIDR blocks bound to the role or secret_id"),
    rule(LOGIN, (400, 400), Part("no client certificate found"), Kind(Denied), "the connection shows no client certificate: give VaultConfig one, and an https address"),
    rule(LOGIN, (403, 403), Anything, Kind(Denied), "check that an auth method is mounted there and that it lets this identity in"),
    rule(LOGIN, (400, 400), Anything, Kind(Denied), "the auth method refuses what it was given"),

    // Used, expired, of elsewhere and made up all read alike.
    rule(WRAP, (400, 400), Part("wrapping token is not valid"), Kind(Denied), "used, expired, or not of this server"),
    rule(WRAP, (403, 403), Anything, Kind(Denied), "the wrapping token is not taken"),

    // A page of something in between. A token that works is not given up for it.
    rule(TOKEN, (403, 403), Exactly(""), Kind(ServerFault), "that is no answer of the server: look at what stands in between"),

    // A token that is dead, unknown or absent, as against a live one without the right.
    // OpenBao says only "permission denied"; Vault adds "invalid token".
    rule(ANY, (403, 403), Exactly("permission denied"), TokenDead, "the token is not valid any more"),
    rule(ANY, (403, 403), Part("invalid token"), TokenDead, "the token is not valid any more"),
    rule(ANY, (403, 403), Part("bad token"), TokenDead, "the token is not valid any more"),
    rule(ANY, (403, 403), Anything, Kind(Denied), "the policy does not allow it: grant {right}"),

    // The token itself.
    rule(TOKEN, (400, 400), Part("lease is not renewable"), Kind(NotRenewable), "tokens of this kind can't be renewed"),
    rule(TOKEN, (400, 400), Part("batch tokens cannot be"), Kind(NotRenewable), "batch tokens can be neither renewed nor revoked"),
    rule(TOKEN, (500, 500), Part("does not exist during renewal"), Kind(NotRenewable), "the role that it was issued for is gone"),

    // Minting.
    rule(GET, (400, 400), Part("unknown role"), Kind(NotFound), "no such role: create it, or correct its name"),
    rule(ISSUE, (400, 400), Part("token had one use left"), Kind(Other), "the token is limited in its uses, and leases die with it: use one without token_num_uses"),
    rule(ISSUE, (500, 500), Part("is not an allowed role"), Kind(Denied), "add the role to `allowed_roles` of the database connection"),
    rule(GET, (405, 405), Anything, Kind(NotFound), "this path issues no logins: check mount and role"),
    rule(ISSUE, (400, 599), Part("failed to find entry for connection with name"), Kind(NotFound), "the database connection of the role is gone: configure it anew"),

    // Leases. What is transient comes as 400 too.
    rule(LEASE, (400, 400), Part("past the max TTL"), Kind(NotRenewable), "the lease is at its maximum TTL"),
    rule(LEASE, (400, 400), Part("lease is not renewable"), Kind(NotRenewable), "leases of this kind can't be renewed"),
    rule(LEASE, (400, 400), Part("lease not found"), Kind(LeaseLost), "the lease is gone: expired, revoked, or of another namespace"),
    rule(LEASE, (400, 400), Part("lease expired"), Kind(LeaseLost), "the lease is over and waits for its revocation"),
    rule(LEASE, (400, 400), Part("has failed previous revocation"), Kind(LeaseLost), "the lease is over, and the server gave up revoking it: an operator has to"),
    rule(LEASE, (400, 400), Part("could not find role with name"), Kind(NotFound), "the role is gone: create it anew"),
    rule(LEASE, (400, 400), Part("failed to find entry for connection with name"), Kind(NotFound), "the database connection of the role is gone: configure it anew"),
    rule(LEASE, (400, 400), Part("failed to renew entry"), Kind(ServerFault), "the database refused for now"),
    rule(LEASE, (400, 400), Part("failed to revoke entry"), Kind(ServerFault), "the database refused for now"),
    rule(LEASE, (400, 400), Part("tuple concurrently updated"), Kind(ServerFault), "two revocations met in the database"),
    rule(LEASE, (400, 400), Part("context canceled"), Kind(ServerFault), "the database did not answer the server in time"),

    // Whatever was asked.
    rule(ANY, (404, 404), Part("namespace not found"), Kind(NotFound), "no such namespace: check VAULT_NAMESPACE"),
    rule(ANY, (404, 404), Anything, Kind(NotFound), "nothing is there: check the mount, the role and the namespace"),
    // HashiCorp Vault Enterprise. Heals as leases end, though not soon.
    rule(ANY, (429, 429), Part("lease count quota"), Kind(Throttled), "there are as many leases as a lease count quota allows: revoke some, shorten their TTLs, or raise it"),
    rule(ANY, (429, 429), Anything, Kind(Throttled), "a rate limit quota is used up"),
    rule(ANY, (503, 503), Part("sealed"), Kind(Sealed), "the server is sealed or not initialised: unseal it"),
    rule(ANY, (503, 503), Part("locked by an administrator"), Kind(Sealed), "the namespace is locked: an administrator has to unlock it"),
    // Enterprise only: a replica that has not caught up, and replicas that can't serve the call.
    rule(ANY, (412, 412), Anything, Kind(ServerFault), "the replica has not caught up yet"),
    rule(ANY, (472, 473), Anything, Kind(ServerFault), "this replica does not serve it for now"),
    // A standby that knows of no leader redirects until there is one.
    rule(ANY, (307, 307), Anything, Kind(ServerFault), "a standby points to {location}, and the token goes only to hosts that are configured: use an address that leads to the active node, or allow that one with `redirect_to`"),
    rule(ANY, (300, 399), Anything, Kind(Other), "redirected to {location}, which is not followed: put the final address into VAULT_ADDR"),
    rule(ANY, (500, 599), Anything, Kind(ServerFault), "the server failed for now"),
    rule(ANY, (0, 999), Anything, Kind(Other), "the server refuses the request"),
];

/// Makes an error of an answer. `path` is the mount path or role that it is about.
pub(crate) fn classify(op: Op, path: &str, answer: &Answer<'_>) -> Failure {
    let text = error_text(answer.body);
    let status = answer.status;
    let row = TABLE
        .iter()
        .find(|rule| rule.fits(op, status, &text))
        .expect("the last row fits everything");
    let advice = row
        .advice
        .replace("{right}", &op.right(path))
        .replace("{location}", &host_of(answer.location));
    let said = match brief(&without(text, answer.sent)) {
        said if said.is_empty() => String::new(),
        said => format!(", {said:?}"),
    };
    let inside = answer.namespace.map(|name| format!(" in namespace {name}")).unwrap_or_default();
    let message = format!("{} {path}{inside}: {advice} (status {status}{said})", op.doing());
    let (dead, kind) = match row.means {
        TokenDead => (true, TokenLost),
        Kind(kind) => (false, kind),
    };
    let mut error = SourceError::new(kind, message);
    if let Some(after) = answer.retry_after {
        error = error.retry_after(after);
    }
    if dead { Failure::TokenDead(error) } else { Failure::Refused(error) }
}

/// Makes an error of a call that got no answer, or only part of one.
pub(crate) fn no_answer(op: Op, path: &str, address: &str, e: &reqwest::Error) -> SourceError {
    let doing = op.doing();
    let unknown = if op == Op::Issue {
        "; a login may have been made all the same, which lives until its TTL ends"
    } else {
        ""
    };
    // By `Display`, innermost first: these say "connection refused", and hold no header or body.
    let why = root_cause(e);
    // Before anything was sent, or refused by the other side in the handshake.
    if let Some(advice) = tls_advice(e) {
        let message = format!("{doing} {path}: no TLS with {address} ({why}): {advice}");
        SourceError::unreachable(message)
    } else if e.is_connect() {
        let advice = if is_name_lookup(e) {
            "the name can't be resolved: check the host in VAULT_ADDR and this machine's DNS"
        } else {
            "check VAULT_ADDR and the server"
        };
        let message = format!("{doing} {path}: {address} can't be reached ({why}): {advice}");
        SourceError::unreachable(message)
    } else if e.is_timeout() {
        let message = format!("{doing} {path}: no answer from {address} in time{unknown}");
        SourceError::new(ErrorKind::Timeout, message)
    } else {
        // The request was on its way when the connection broke: it may have been carried out.
        let message = format!("{doing} {path}: {address} broke off its answer ({why}){unknown}");
        SourceError::new(ErrorKind::Timeout, message)
    }
}

/// What to do about a connection that TLS kept from coming about.
fn tls_advice(e: &reqwest::Error) -> Option<&'static str> {
    use rustls::CertificateError as Certificate;
    use rustls::Error as Tls;
    Some(match causes(e).find_map(tls_error)? {
        Tls::InvalidCertificate(
            Certificate::NotValidForName | Certificate::NotValidForNameContext { .. },
        ) => {
            "its certificate is for another name: put the name that it is for into VAULT_ADDR, or \
             into the setting for the TLS server name"
        }
        Tls::InvalidCertificate(Certificate::Expired | Certificate::ExpiredContext { .. }) => {
            "its certificate has expired: renew it on the server, and check this machine's clock"
        }
        Tls::InvalidCertificate(
            Certificate::NotValidYet | Certificate::NotValidYetContext { .. },
        ) => "its certificate is not valid yet: check this machine's clock",
        Tls::InvalidCertificate(_) => {
            "its certificate is not trusted: give the authority that signed it in VAULT_CACERT"
        }
        Tls::InvalidMessage(_) => "it speaks something else: check scheme and port of VAULT_ADDR",
        Tls::AlertReceived(_) => {
            "it ended the handshake: if it wants client certificates, check the one that is given"
        }
        Tls::PeerIncompatible(_) => "no version or cipher in common: it needs TLS 1.2 or later",
        _ => return None,
    })
}

fn is_name_lookup(e: &reqwest::Error) -> bool {
    // The resolver's own type is private to the HTTP client.
    causes(e).any(|cause| cause.to_string() == "dns error")
}

fn causes<'a>(
    e: &'a (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(e), |e| e.source())
}

/// An `io::Error` hides what it wraps: its source is the source of that. Some are wrapped twice.
fn tls_error<'a>(e: &'a (dyn std::error::Error + 'static)) -> Option<&'a rustls::Error> {
    match e.downcast_ref::<std::io::Error>() {
        Some(io) => tls_error(io.get_ref()?),
        None => e.downcast_ref(),
    }
}

/// An answer of status 2xx that makes no sense.
pub(crate) fn malformed(op: Op, path: &str, problem: &str) -> SourceError {
    let doing = op.doing();
    SourceError::malformed(format!(
        "{doing} {path}: the answer {problem}: is this a Vault or OpenBao server, with nothing in \
         between that changes its answers?"
    ))
}

fn root_cause(e: &reqwest::Error) -> String {
    let deepest = causes(e).last().map(ToString::to_string);
    brief(&deepest.unwrap_or_default())
}

/// The `errors` of a body, as one line. Bodies of any other form are somebody else's (a proxy's
/// page, say) and are not repeated.
pub(crate) fn error_text(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Errors {
        errors: Vec<String>,
    }
    match serde_json::from_slice::<Errors>(body) {
        Ok(body) => body.errors.join("; "),
        Err(_) => String::new(),
    }
}

/// The text with `secrets` blotted out. Short ones are left: they would be met by chance, and
/// nobody can log in with them.
pub(crate) fn without(mut text: String, secrets: &[Zeroizing<String>]) -> String {
    const SHORTEST: usize = 6;
    for secret in secrets.iter().filter(|secret| secret.len() >= SHORTEST) {
        text = text.replace(secret.as_str(), "[redacted]");
    }
    text
}

/// Fit for a log line: no line breaks, not too long.
pub(crate) fn brief(text: &str) -> String {
    const MOST: usize = 300;
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(MOST) {
        Some((cut, _)) => format!("{}…", &line[..cut]),
        None => line,
    }
}

/// Scheme, host and port of a redirect; the rest may hold anything.
fn host_of(location: Option<&str>) -> String {
    let url = location.and_then(|l| url::Url::parse(l).ok());
    match url {
        Some(url) if url.has_host() => url.origin().ascii_serialization(),
        _ => "elsewhere".to_owned(),
    }
}

#[cfg(test)]
#[path = "classify_tests.rs"]
mod tests;
