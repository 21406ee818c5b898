//! The rules against the list of answers, of which each is one that a server was seen to give.

use super::*;

#[path = "../tests/common/answers.rs"]
mod answers;

use answers::{Asked, Means as Expected, POLICY, ROWS, Said};

const fn op(asked: Asked) -> Op {
    match asked {
        Asked::Login => Op::Login,
        Asked::TokenLookup => Op::TokenLookup,
        Asked::TokenRenew => Op::TokenRenew,
        Asked::TokenRevoke => Op::TokenRevoke,
        Asked::Issue => Op::Issue,
        Asked::Renew => Op::Renew,
        Asked::Revoke => Op::Revoke,
    }
}

/// The rows that are answers to be classified: those that arrived, and are no success.
fn refusals() -> impl Iterator<Item = (Op, u16, &'static str, Expected)> {
    ROWS.iter().filter_map(|row| match row.said {
        Said::Status(status, body) | Said::Header(status, body, _) => {
            (status >= 300).then_some((op(row.asked), status, body, row.means))
        }
        _ => None,
    })
}

/// Unwrapping a secret_id belongs to a login, and has no row of its own.
const UNWRAPPING: &[(Op, u16, &str, Expected)] = &[
    (
        Op::Unwrap,
        400,
        r#"{"errors":["wrapping token is not valid or does not exist"]}"#,
        Expected::Kind(Denied),
    ),
    (Op::WrapLookup, 403, POLICY, Expected::Kind(Denied)),
];

fn answer<'a>(status: u16, body: &'a str) -> Answer<'a> {
    Answer {
        status,
        body: body.as_bytes(),
        retry_after: None,
        location: None,
        namespace: None,
        sent: &[],
    }
}

#[test]
fn every_answer_that_was_seen_is_told_from_the_others() {
    for (op, status, body, expected) in refusals().chain(UNWRAPPING.iter().copied()) {
        let failure = classify(op, "database/creds/orders", &answer(status, body));
        let got = match &failure {
            Failure::TokenDead(_) => Expected::TokenDead,
            Failure::Refused(e) => Expected::Kind(e.kind()),
        };
        assert_eq!(got, expected, "{op:?} {status} {body}");
        let e = failure.into_error();
        let message = e.to_string();
        assert!(message.contains("database/creds/orders"), "{message}");
        assert!(message.starts_with(char::is_lowercase), "{message}");
        assert!(!message.contains('\n') && !message.contains('{'), "{message}");
        assert!(!message.contains("<html>"), "a foreign body is not repeated: {message}");
    }
}

#[test]
fn every_rule_has_a_row_in_the_docs() {
    for (i, _) in TABLE.iter().enumerate() {
        let used = refusals().chain(UNWRAPPING.iter().copied()).any(|(op, status, body, _)| {
            let text = error_text(body.as_bytes());
            TABLE.iter().position(|rule| rule.fits(op, status, &text)) == Some(i)
        });
        let Rule { status, advice, .. } = &TABLE[i];
        assert!(used, "no row of tests/common/answers.rs comes to {status:?} {advice:?}");
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

#[test]
fn i10_what_was_sent_is_not_repeated_though_the_server_does() {
    let sent = ["s.a-token", "pw", "two words"].map(|text| Zeroizing::new(text.to_owned()));
    let body = r#"{"errors":["no such token s.a-token, two words","pw"]}"#;
    let answer = Answer { sent: &sent, ..answer(500, body) };
    let message = classify(Op::Issue, "database/creds/orders", &answer).into_error().to_string();
    assert!(message.contains("no such token [redacted], [redacted]; pw"), "{message}");
}
