//! When a login ends, by whose clock.

use std::time::{Duration, SystemTime};

use super::journey::Journey;
use super::report::Finding;
use super::vault::seconds_ahead;
use crate::postgres::said;

/// Clocks that differ by less do no harm: VALID UNTIL is 5 s after the lease's end.
const SKEW: f64 = 5.0;

impl Journey {
    /// Seconds to the login's VALID UNTIL, by Postgres's clock; `None` if it has none.
    pub(super) async fn valid_for(&self) -> Option<f64> {
        let sql = "SELECT extract(epoch FROM rolvaliduntil - clock_timestamp())::float8 \
             FROM pg_roles WHERE rolname = session_user AND isfinite(rolvaliduntil)";
        let row = self.client.as_ref()?.query_opt(sql, &[]).await.ok()??;
        row.get(0)
    }

    pub(super) async fn valid_until(&self) -> Finding {
        let left = self.valid_for().await;
        let age = SystemTime::now().duration_since(self.issued_at).unwrap_or_default();
        let Some(ttl) = self.issued().lease.ttl else { return Finding::ok("the lease has no end") };
        let lease = ttl.saturating_sub(age).as_secs_f64();
        let Some(left) = left else {
            return Finding::warn(
                "it has no VALID UNTIL: a login that Vault could not revoke works for ever",
                "add VALID UNTIL '{{expiration}}' to the CREATE ROLE of the creation_statements",
            );
        };
        let detail = format!("VALID UNTIL is {left:.0} s from now, the lease's end {lease:.0} s");
        if left < lease - 2.0 {
            return Finding::fail_and_go_on(
                format!("{detail}: logins are refused before their lease ends"),
                "the clocks of Vault and Postgres differ, or the statements set another time: set \
                 the clocks (NTP), and use '{{expiration}}' with its time zone",
            );
        }
        if left > lease + 60.0 {
            return Finding::warn(
                format!("{detail}: a login that Vault could not revoke works for longer"),
                "the clocks of Vault and Postgres differ, or the statements set another time: set \
                 the clocks (NTP), and use '{{expiration}}' with its time zone",
            );
        }
        Finding::ok(detail)
    }

    pub(super) async fn clocks(&self) -> Finding {
        let sql = "SELECT extract(epoch FROM clock_timestamp())::float8";
        let postgres = match self.client().query_one(sql, &[]).await {
            Ok(row) => SystemTime::UNIX_EPOCH + Duration::from_secs_f64(row.get(0)),
            Err(e) => return Finding::fail_and_go_on(said(&e), "look at Postgres's log"),
        };
        let postgres = seconds_ahead(postgres, SystemTime::now());
        compared(self.vault_ahead, postgres)
    }
}

/// Both are before this machine's clock by so many seconds.
fn compared(vault: Option<f64>, postgres: f64) -> Finding {
    let told = |name: &str, ahead: f64| format!("{name} is {ahead:+.0} s from this machine");
    let Some(vault) = vault else {
        return Finding::unknown(format!("Vault told no time; {}", told("Postgres", postgres)));
    };
    let detail = format!("{}, {}", told("Vault", vault), told("Postgres", postgres));
    // Vault's is in whole seconds.
    let apart = (vault - postgres).abs().max(vault.abs()).max(postgres.abs());
    if apart > SKEW + 1.0 {
        return Finding::warn(
            detail,
            "set the clocks (NTP): VALID UNTIL is made by Vault's clock and judged by Postgres's, and \
             certificates are judged by this machine's",
        );
    }
    Finding::ok(detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::report::Status;

    #[test]
    fn clocks_that_differ_are_warned_of_whichever_it_is() {
        for (vault, postgres, status) in [
            (Some(-0.9), 0.1, Status::Ok),
            (Some(-5.0), 0.0, Status::Ok),
            (Some(-7.0), 0.0, Status::Warn),
            (Some(0.0), 7.0, Status::Warn),
            (Some(-4.0), 4.0, Status::Warn),
            (Some(3600.0), 3600.0, Status::Warn),
            (None, 0.0, Status::Skipped),
        ] {
            let finding = compared(vault, postgres);
            assert_eq!(finding.status, status, "{vault:?} {postgres}: {}", finding.detail);
        }
    }
}
