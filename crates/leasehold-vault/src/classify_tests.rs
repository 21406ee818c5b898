//! One row per answer that a server was seen to give, with its body as it was.

use super::*;

/// What a row is expected to come to: `None` is a dead token.
type Row = (Op, u16, &'static str, Option<ErrorKind>);

const DEAD: Option<ErrorKind> = None;
const fn kind(kind: ErrorKind) -> Option<ErrorKind> {
    Some(kind)
}

const BARE: &str = r#"{"errors":["permission denied"]}"#;
const POLICY: &str = r#"{"errors":["1 error occurred:\n\t* permission denied\n\n"]}"#;
const REFUSED: &str = r#"{"errors": ["failed to renew entry: resp: (*logical.Response)(nil) err: 1 error occurred:\n\t* failed to connect to `user=vaultadmin database=app`: 127.0.0.1:55440 (127.0.0.1): dial error: dial tcp 127.0.0.1:55440: connect: connection refused\n\n"]}"#;
const LOCKED: &str = r#"{"errors": ["API access to this namespace has been locked by an administrator - \"team2/\" must be unlocked to gain access."]}"#;
const NO_CONNECTION: &str = r#"{"errors": ["failed to revoke entry: resp: (*logical.Response)(nil) err: failed to find entry for connection with name: \"tmp\""]}"#;
const TUPLE: &str = r#"{"errors": ["failed to revoke entry: resp: (*logical.Response)(nil) err: could not perform all revocation statements: ERROR: tuple concurrently updated (SQLSTATE XX000)"]}"#;

#[rustfmt::skip]
const ROWS: &[Row] = &[
    // 403: the token or the policy.
    (Op::Issue, 403, BARE, DEAD),
    (Op::Issue, 403, POLICY, kind(Denied)),
    (Op::Renew, 403, BARE, DEAD),
    (Op::Renew, 403, POLICY, kind(Denied)),
    (Op::Revoke, 403, BARE, DEAD),
    (Op::Revoke, 403, POLICY, kind(Denied)),
    (Op::TokenLookup, 403, BARE, DEAD),
    (Op::TokenRenew, 403, BARE, DEAD),
    (Op::TokenRenew, 403, POLICY, kind(Denied)),
    (Op::TokenRevoke, 403, POLICY, kind(Denied)),
    (Op::Issue, 403, r#"{"errors":["2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n"]}"#, DEAD),
    (Op::Issue, 403, "<html>a firewall</html>", kind(Denied)),
    (Op::Issue, 403, "", kind(Denied)),

    // Logins.
    (Op::Login, 400, r#"{"errors": ["invalid role or secret ID"]}"#, kind(Denied)),
    (Op::Login, 400, r#"{"errors": ["missing secret_id"]}"#, kind(Denied)),
    (Op::Login, 400, r#"{"errors": ["source address \"127.0.0.1\" unauthorized by CIDR restrictions on the role: %!w(<nil>)"]}"#, kind(Denied)),
    (Op::Login, 403, BARE, kind(Denied)),
    (Op::Login, 403, POLICY, kind(Denied)),
    (Op::Login, 500, r#"{"errors": ["transaction commit failed"]}"#, kind(ServerFault)),
    (Op::Login, 503, r#"{"errors":["Vault is sealed"]}"#, kind(Sealed)),
    (Op::Login, 404, r#"{"errors": ["namespace not found"]}"#, kind(NotFound)),

    // Tokens.
    (Op::TokenRenew, 400, r#"{"errors": ["lease is not renewable"]}"#, kind(NotRenewable)),
    (Op::TokenRenew, 400, r#"{"errors": ["batch tokens cannot be renewed"]}"#, kind(NotRenewable)),
    (Op::TokenRevoke, 400, r#"{"errors": ["batch tokens cannot be revoked"]}"#, kind(NotRenewable)),
    (Op::TokenRenew, 500, r#"{"errors": ["1 error occurred:\n\t* failed to renew entry: role \"del\" does not exist during renewal\n\n"]}"#, kind(NotRenewable)),
    (Op::TokenRenew, 500, r#"{"errors": ["1 error occurred:\n\t* internal error\n\n"]}"#, kind(ServerFault)),

    // Minting.
    (Op::Issue, 400, r#"{"errors": ["unknown role: nosuchrole"]}"#, kind(NotFound)),
    (Op::Issue, 404, r#"{"errors": ["no handler for route \"nomount/creds/app\". route entry not found."]}"#, kind(NotFound)),
    (Op::Issue, 404, r#"{"errors": ["1 error occurred:\n\t* unsupported path\n\n"]}"#, kind(NotFound)),
    (Op::Issue, 404, r#"{"errors": ["namespace not found"]}"#, kind(NotFound)),
    (Op::Issue, 405, r#"{"errors": ["1 error occurred:\n\t* unsupported operation\n\n"]}"#, kind(NotFound)),
    (Op::Issue, 400, r#"{"errors": ["Secret cannot be returned; token had one use left, so leased credentials were immediately revoked."]}"#, kind(Other)),
    (Op::Issue, 500, r#"{"errors": ["1 error occurred:\n\t* failed to execute query: ERROR: role \"nosuchgroup\" does not exist (SQLSTATE 42704)\n\n"]}"#, kind(ServerFault)),
    (Op::Issue, 500, r#"{"errors": ["1 error occurred:\n\t* \"notallowed\" is not an allowed role\n\n"]}"#, kind(Denied)),
    (Op::Issue, 500, r#"{"errors": ["1 error occurred:\n\t* failed to find entry for connection with name: \"tmp\"\n\n"]}"#, kind(NotFound)),
    (Op::Issue, 500, r#"{"errors": ["1 error occurred:\n\t* unable to start transaction: failed to connect to `user=vaultadmin database=app`: 127.0.0.1:55440 (127.0.0.1): dial error: dial tcp 127.0.0.1:55440: connect: connection refused\n\n"]}"#, kind(ServerFault)),
    (Op::Issue, 500, r#"{"errors": ["1 error occurred:\n\t* unable to start transaction: context canceled\n\n"]}"#, kind(ServerFault)),
    (Op::Issue, 500, r#"{"errors": ["1 error occurred:\n\t* internal error\n\n"]}"#, kind(ServerFault)),

    // Leases.
    (Op::Renew, 400, r#"{"errors": ["failed to renew entry: resp: (*logical.Response)(nil) err: past the max TTL, cannot renew"]}"#, kind(NotRenewable)),
    (Op::Renew, 400, r#"{"errors": ["lease is not renewable"]}"#, kind(NotRenewable)),
    (Op::Renew, 400, r#"{"errors": ["lease not found"]}"#, kind(LeaseLost)),
    (Op::Renew, 400, r#"{"errors": ["lease expired"]}"#, kind(LeaseLost)),
    (Op::Renew, 400, r#"{"errors": ["lease is expired and has failed previous revocation attempts"]}"#, kind(LeaseLost)),
    (Op::Renew, 400, REFUSED, kind(ServerFault)),
    (Op::Renew, 400, r#"{"errors": ["failed to renew entry: resp: (*logical.Response)(nil) err: 1 error occurred:\n\t* context canceled\n\n"]}"#, kind(ServerFault)),
    (Op::Renew, 400, r#"{"errors": ["failed to renew entry: resp: (*logical.Response)(nil) err: error during renew: could not find role with name \"chg\""]}"#, kind(NotFound)),
    (Op::Renew, 400, r#"{"errors": ["failed to renew entry: resp: (*logical.Response)(nil) err: failed to find entry for connection with name: \"tmp\""]}"#, kind(NotFound)),
    (Op::Renew, 400, r#"{"errors": ["lease_id must be specified"]}"#, kind(Other)),
    (Op::Renew, 400, r#"{"errors": ["failed to decode JSON input: unexpected EOF"]}"#, kind(Other)),
    (Op::Revoke, 400, r#"{"errors": ["failed to revoke entry: resp: (*logical.Response)(nil) err: failed to connect to `user=vaultadmin database=app`: 127.0.0.1:55440 (127.0.0.1): dial error: dial tcp 127.0.0.1:55440: connect: connection refused"]}"#, kind(ServerFault)),
    (Op::Revoke, 400, TUPLE, kind(ServerFault)),
    (Op::Revoke, 400, r#"{"errors": ["could not perform all revocation statements: ERROR: tuple concurrently updated (SQLSTATE XX000)"]}"#, kind(ServerFault)),
    (Op::Revoke, 400, NO_CONNECTION, kind(NotFound)),

    // Whatever was asked.
    (Op::Issue, 503, r#"{"errors":["Vault is sealed"]}"#, kind(Sealed)),
    (Op::Renew, 503, LOCKED, kind(Sealed)),
    (Op::Issue, 503, "<html>no backend</html>", kind(ServerFault)),
    (Op::Issue, 429, r#"{"errors": ["request path \"database/creds/app\": rate limit quota exceeded"]}"#, kind(Throttled)),
    (Op::Login, 429, r#"{"errors": ["request path \"auth/approle/login\": rate limit quota exceeded"]}"#, kind(Throttled)),
    (Op::Issue, 500, r#"{"errors": ["local node not active but active cluster node not found"]}"#, kind(ServerFault)),
    (Op::Issue, 502, "<html>bad gateway</html>", kind(ServerFault)),
    (Op::Issue, 412, "", kind(ServerFault)),
    (Op::Issue, 472, "", kind(ServerFault)),
    (Op::Issue, 473, "", kind(ServerFault)),
    (Op::Issue, 307, "", kind(ServerFault)),
    (Op::Login, 301, "", kind(Other)),
    (Op::Login, 413, r#"{"errors": ["http: request body too large"]}"#, kind(Other)),
];

fn answer<'a>(status: u16, body: &'a str) -> Answer<'a> {
    Answer { status, body: body.as_bytes(), retry_after: None, location: None }
}

#[test]
fn every_answer_that_was_seen_is_told_from_the_others() {
    for (op, status, body, expected) in ROWS {
        let failure = classify(*op, "database/creds/orders", &answer(*status, body));
        let got = match &failure {
            Failure::TokenDead(_) => None,
            Failure::Refused(e) => Some(e.kind()),
        };
        assert_eq!(got, *expected, "{op:?} {status} {body}");
        let e = failure.into_error();
        let message = e.to_string();
        assert!(message.contains("database/creds/orders"), "{message}");
        assert!(message.starts_with(char::is_lowercase), "{message}");
        assert!(!message.contains('\n') && !message.contains('{'), "{message}");
        assert!(!message.contains("<html>"), "a foreign body is not repeated: {message}");
    }
}

#[test]
fn a_refusal_by_policy_says_what_to_grant() {
    let message = |op| {
        let failure = classify(op, "database/creds/orders", &answer(403, POLICY));
        failure.into_error().to_string()
    };
    assert!(message(Op::Issue).contains("grant `read` on database/creds/orders"));
    assert!(message(Op::Revoke).contains("grant `update` on sys/leases/revoke"));
    assert!(message(Op::TokenRenew).contains("grant `update` on auth/token/renew-self"));
}

#[test]
fn a_wrong_secret_id_says_what_to_check() {
    let body = r#"{"errors": ["invalid role or secret ID"]}"#;
    let e = classify(Op::Login, "auth/approle/login", &answer(400, body)).into_error();
    assert!(!e.is_transient());
    assert!(e.to_string().contains("check role_id and secret_id"), "{e}");
}

#[test]
fn retry_after_travels_with_the_error() {
    let answer = Answer { retry_after: Some(Duration::from_secs(9)), ..answer(429, "") };
    let e = classify(Op::Issue, "database/creds/orders", &answer).into_error();
    assert_eq!(e.server_retry_after(), Some(Duration::from_secs(9)));
    assert!(e.is_transient());
}

#[test]
fn i10_of_a_redirect_only_the_host_is_told() {
    let answer = Answer {
        location: Some("https://user:pw@other.example:8200/v1/x?token=s.secret"),
        ..answer(307, "")
    };
    let message = classify(Op::Issue, "database/creds/orders", &answer).into_error().to_string();
    assert!(message.contains("https://other.example:8200"), "{message}");
    assert!(!message.contains("pw") && !message.contains("s.secret"), "{message}");
}

#[test]
fn a_long_text_is_cut() {
    let body = format!(r#"{{"errors":["{}"]}}"#, "ä".repeat(5000));
    let message = classify(Op::Issue, "p", &answer(500, &body)).into_error().to_string();
    assert!(message.len() < 1000, "{}", message.len());
}
