//! Each event as JSON, to the letter, and in the log.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tracing::field::{Field, Visit};
use tracing::span;

use super::*;

fn samples() -> Vec<(Event, Value)> {
    let secs = Duration::from_secs_f64;
    let pool = || "orders".to_owned();
    let username = || "v-app-1".to_owned();
    let error = || SourceError::new(ErrorKind::ServerFault, "no\nanswer");
    let failed = || json!({ "kind": "server_fault", "message": "no answer" });
    let holder = Holder::new(7, "report".to_owned(), "active".to_owned(), 1.25);
    vec![
        (
            Event::Issued { username: username(), ttl: Some(secs(3600.0)) },
            json!({ "event": "issued", "username": "v-app-1", "ttl": 3600.0 }),
        ),
        (
            Event::Issued { username: username(), ttl: None },
            json!({ "event": "issued", "username": "v-app-1", "ttl": null }),
        ),
        (
            Event::IssueFailed { error: error(), retry_in: Some(secs(0.123_456)) },
            json!({ "event": "issue_failed", "error": failed(), "retry_in": 0.123 }),
        ),
        (
            Event::Renewed { generation: 2, granted: secs(60.0), last: true },
            json!({ "event": "renewed", "generation": 2, "granted": 60.0, "last": true }),
        ),
        (
            Event::RenewFailed { generation: 2, error: error(), retry_in: None },
            json!({ "event": "renew_failed", "generation": 2, "error": failed(), "retry_in": null }),
        ),
        (
            Event::Rotating { reason: Reason::TokenEnding },
            json!({ "event": "rotating", "reason": "token_ending" }),
        ),
        (
            Event::RotationDelayed { reason: Reason::Requested, retry_in: secs(30.0) },
            json!({ "event": "rotation_delayed", "reason": "requested", "retry_in": 30.0 }),
        ),
        (
            Event::ProofFailed { pool: pool(), rejected: true, message: "a\nb".to_owned() },
            json!({ "event": "proof_failed", "pool": "orders", "rejected": true, "message": "a b" }),
        ),
        (
            Event::Swapped {
                generation: 3,
                username: username(),
                reason: Reason::MaxTtl,
                proven: true,
            },
            json!({
                "event": "swapped", "generation": 3, "username": "v-app-1", "reason": "max_ttl",
                "proven": true,
            }),
        ),
        (
            Event::Unchanged { generation: 3, reason: Reason::SourceChanged },
            json!({ "event": "unchanged", "generation": 3, "reason": "source_changed" }),
        ),
        (
            Event::DialsSettled { pool: pool(), generation: 3 },
            json!({ "event": "dials_settled", "pool": "orders", "generation": 3 }),
        ),
        (
            Event::RollEnded { pool: pool(), generation: 3 },
            json!({ "event": "roll_ended", "pool": "orders", "generation": 3 }),
        ),
        (
            Event::Draining { pool: pool(), generation: 3, remaining: 4 },
            json!({ "event": "draining", "pool": "orders", "generation": 3, "remaining": 4 }),
        ),
        (
            Event::Drained {
                generation: 3,
                took: secs(2.5),
                forced: vec![(pool(), holder)],
                left: 1,
            },
            json!({
                "event": "drained", "generation": 3, "took": 2.5, "left": 1,
                "forced": [{
                    "pool": "orders", "pid": 7, "application": "report", "state": "active",
                    "transaction_age": 1.25,
                }],
            }),
        ),
        (
            Event::Revoked { generation: None, username: username(), queued: true },
            json!({
                "event": "revoked", "generation": null, "username": "v-app-1", "queued": true,
            }),
        ),
        (
            Event::RevokeFailed { generation: Some(3), error: error(), retry_in: None },
            json!({ "event": "revoke_failed", "generation": 3, "error": failed(), "retry_in": null }),
        ),
        (
            Event::LeaseEnded { generation: Some(3), username: username() },
            json!({ "event": "lease_ended", "generation": 3, "username": "v-app-1" }),
        ),
        (
            Event::LoginRejected { generation: 3 },
            json!({ "event": "login_rejected", "generation": 3 }),
        ),
        (
            Event::SessionRevoked { generation: 3 },
            json!({ "event": "session_revoked", "generation": 3 }),
        ),
        (Event::Expired { generation: 3 }, json!({ "event": "expired", "generation": 3 })),
        (
            Event::PoolAttached { pool: pool() },
            json!({ "event": "pool_attached", "pool": "orders" }),
        ),
        (
            Event::PoolDetached { pool: pool() },
            json!({ "event": "pool_detached", "pool": "orders" }),
        ),
        (
            Event::Warning { pool: None, message: "look".to_owned() },
            json!({ "event": "warning", "pool": null, "message": "look" }),
        ),
        (
            Event::Stopped { cause: "shut down".to_owned(), orderly: true },
            json!({ "event": "stopped", "cause": "shut down", "orderly": true }),
        ),
    ]
}

/// One that is added here has to be added to the samples too.
fn number(event: &Event) -> usize {
    match event {
        Event::Issued { .. } => 0,
        Event::IssueFailed { .. } => 1,
        Event::Renewed { .. } => 2,
        Event::RenewFailed { .. } => 3,
        Event::Rotating { .. } => 4,
        Event::RotationDelayed { .. } => 5,
        Event::ProofFailed { .. } => 6,
        Event::Swapped { .. } => 7,
        Event::Unchanged { .. } => 8,
        Event::DialsSettled { .. } => 9,
        Event::RollEnded { .. } => 10,
        Event::Draining { .. } => 11,
        Event::Drained { .. } => 12,
        Event::Revoked { .. } => 13,
        Event::RevokeFailed { .. } => 14,
        Event::LeaseEnded { .. } => 15,
        Event::LoginRejected { .. } => 16,
        Event::SessionRevoked { .. } => 17,
        Event::Expired { .. } => 18,
        Event::PoolAttached { .. } => 19,
        Event::PoolDetached { .. } => 20,
        Event::Warning { .. } => 21,
        Event::Stopped { .. } => 22,
    }
}

#[test]
fn every_event_is_one_flat_object_to_the_letter() {
    let mut seen = BTreeSet::new();
    for (event, expected) in samples() {
        assert_eq!(serde_json::to_value(&event).unwrap(), expected);
        assert_eq!(expected["event"], event.name());
        seen.insert(number(&event));
    }
    assert_eq!(seen, (0..=22).collect(), "a variant has no sample");
}

#[test]
fn names_in_json_and_in_labels_are_the_same() {
    assert_eq!(ErrorKind::ALL.len(), ErrorKind::Other as usize + 1);
    for kind in ErrorKind::ALL {
        assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
    }
    assert_eq!(Reason::ALL.len(), Reason::Requested as usize + 1);
    for reason in Reason::ALL {
        assert_eq!(serde_json::to_value(reason).unwrap(), reason.as_str());
    }
}

/// Keeps the fields of each log line. One subscriber of a few lines: the crate needs none else.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<BTreeMap<String, Value>>>>);

impl tracing::Subscriber for Kept {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        let mut fields = Line(BTreeMap::new());
        event.record(&mut fields);
        self.0.lock().unwrap().push(fields.0);
    }
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

struct Line(BTreeMap<String, Value>);

impl Line {
    fn keep(&mut self, field: &Field, value: impl Into<Value>) {
        self.0.insert(field.name().to_owned(), value.into());
    }
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.keep(field, format!("{value:?}"));
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.keep(field, value);
    }
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.keep(field, value);
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.keep(field, value);
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.keep(field, value);
    }
}

#[test]
fn a_log_line_has_the_fields_of_the_json() {
    let kept = Kept::default();
    tracing::subscriber::with_default(kept.clone(), || {
        for (event, _) in samples() {
            log("database/creds/app", &event);
        }
    });
    let lines = kept.0.lock().unwrap().clone();
    assert_eq!(lines.len(), samples().len());
    for (mut line, (event, json)) in lines.into_iter().zip(samples()) {
        assert_eq!(line.remove("message").unwrap(), event.to_string());
        assert_eq!(line.remove("provider").unwrap(), "database/creds/app");
        let mut expected = BTreeMap::new();
        for (name, value) in json.as_object().unwrap() {
            match name.as_str() {
                // They are the line, or in it.
                "message" | "cause" => {}
                "error" => drop(expected.insert("kind".to_owned(), value["kind"].clone())),
                "forced" => {
                    let length = value.as_array().unwrap().len();
                    expected.insert(name.clone(), length.into());
                }
                _ if value.is_null() => {}
                _ => drop(expected.insert(name.clone(), value.clone())),
            }
        }
        assert_eq!(line, expected);
    }
}
