//! How many requests were sent, by kind.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::classify::Op;

/// Requests sent by a session so far, whatever came of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CallCounts {
    /// Logins.
    pub login: u64,
    /// Renewals of tokens.
    pub token_renew: u64,
    /// Credentials minted.
    pub issue: u64,
    /// Static roles and secrets read, listed, and looked at for changes.
    pub read: u64,
    /// Renewals of leases.
    pub renew: u64,
    /// Revocations of leases.
    pub revoke: u64,
    /// Questions what the policy gives: one for each source.
    pub privileges: u64,
    /// Requests to Transit engines.
    pub transit: u64,
    /// Everything else: lookups, revocations of tokens, health, secrets written.
    pub other: u64,
}

#[derive(Default)]
pub(crate) struct Calls {
    login: AtomicU64,
    token_renew: AtomicU64,
    issue: AtomicU64,
    read: AtomicU64,
    renew: AtomicU64,
    revoke: AtomicU64,
    privileges: AtomicU64,
    transit: AtomicU64,
    other: AtomicU64,
}

impl Calls {
    pub(crate) fn count(&self, op: Op) {
        let counter = match op {
            Op::Login => &self.login,
            Op::TokenRenew => &self.token_renew,
            Op::Issue => &self.issue,
            Op::Read | Op::List => &self.read,
            Op::Renew => &self.renew,
            Op::Revoke => &self.revoke,
            Op::TokenLookup | Op::TokenRevoke | Op::Health => &self.other,
            Op::Write | Op::Patch | Op::Delete => &self.other,
            Op::WrapLookup | Op::Unwrap => &self.other,
            Op::Privileges => &self.privileges,
            Op::Transit => &self.transit,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> CallCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        CallCounts {
            login: read(&self.login),
            token_renew: read(&self.token_renew),
            issue: read(&self.issue),
            read: read(&self.read),
            renew: read(&self.renew),
            revoke: read(&self.revoke),
            privileges: read(&self.privileges),
            transit: read(&self.transit),
            other: read(&self.other),
        }
    }
}
