//! The spans of the rotator: names and fields are stable, see docs/observability.md.
//!
//! A rotation is one span from its beginning to the revocation of the lease that it supersedes; its
//! steps are the children. Each ends when the last task of it does.

use tracing::field::Empty;
use tracing::{Span, debug_span, info_span};

use crate::event::Reason;
use crate::hook::Proof;
use crate::source::SourceError;

pub(super) fn rotation(provider: &str, reason: Reason) -> Span {
    let reason = reason.as_str();
    info_span!(target: "leasehold", parent: None, "leasehold.rotation", provider, reason, generation = Empty)
}

pub(super) fn issue(rotation: Option<&Span>, provider: &str) -> Span {
    let parent = rotation.and_then(Span::id);
    info_span!(target: "leasehold", parent: parent, "leasehold.issue", provider, outcome = Empty)
}

/// Without a rotation: what is current is proven once more.
pub(super) fn prove(rotation: Option<&Span>, provider: &str, generation: u64) -> Span {
    let parent = rotation.and_then(Span::id);
    info_span!(target: "leasehold", parent: parent, "leasehold.prove", provider, generation, outcome = Empty)
}

pub(super) fn swap(rotation: Option<&Span>, provider: &str, generation: u64) -> Span {
    if let Some(rotation) = rotation {
        rotation.record("generation", generation);
    }
    let parent = rotation.and_then(Span::id);
    info_span!(target: "leasehold", parent: parent, "leasehold.swap", provider, generation)
}

pub(super) fn drain(rotation: Option<&Span>, provider: &str, generation: u64) -> Span {
    let parent = rotation.and_then(Span::id);
    info_span!(target: "leasehold", parent: parent, "leasehold.drain", provider, generation, forced = Empty, left = Empty)
}

/// `generation` is `None` for a credential that never became current.
pub(super) fn revoke(rotation: Option<&Span>, provider: &str, generation: Option<u64>) -> Span {
    let parent = rotation.and_then(Span::id);
    info_span!(target: "leasehold", parent: parent, "leasehold.revoke", provider, generation, outcome = Empty)
}

pub(super) fn renew(provider: &str, generation: Option<u64>) -> Span {
    debug_span!(target: "leasehold", parent: None, "leasehold.renew", provider, generation, outcome = Empty)
}

/// `ok`, or the kind of the error.
pub(super) fn record_outcome<T>(span: &Span, result: &Result<T, SourceError>) {
    let outcome = match result {
        Ok(_) => "ok",
        Err(error) => error.kind().as_str(),
    };
    span.record("outcome", outcome);
}

/// The worst of all pools.
pub(super) fn record_proofs(span: &Span, proofs: &[(String, Proof)]) {
    let outcome = match () {
        () if proofs.iter().any(|(_, p)| matches!(p, Proof::Rejected(_))) => "rejected",
        () if proofs.iter().any(|(_, p)| matches!(p, Proof::Unreachable(_))) => "unreachable",
        () => "ok",
    };
    span.record("outcome", outcome);
}
