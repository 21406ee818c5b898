//! Random faults, one after the other, and which failures each of them accounts for.

use std::time::Duration;

use crate::args::{Args, Fault, FaultKind};

/// Between the end of one fault and the next, in seconds: long enough to recover in, so that a
/// failure belongs to one fault.
const PAUSE: std::ops::Range<f64> = 12.0..30.0;

/// The faults of a run; the same seed draws the same.
pub(crate) fn draw(seed: u64, args: &Args) -> Vec<Fault> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut between =
        |range: &std::ops::Range<f64>| range.start + (range.end - range.start) * rng.f64();
    let mut picks = fastrand::Rng::with_seed(!seed);
    // Some outages outlive the lease, most do not.
    let outage = 1.0..args.ttl as f64 * 1.2;
    let (mut faults, mut at) = (Vec::new(), between(&PAUSE));
    loop {
        let kind = FaultKind::ALL[picks.usize(..FaultKind::ALL.len())];
        let lasts = if kind.is_outage() { between(&outage) } else { 0.0 };
        // The last one has to be over, and got over, before the load ends.
        if at + lasts + PAUSE.end > args.seconds as f64 {
            return faults;
        }
        let seconds = Duration::from_secs_f64;
        faults.push(Fault { kind, at: seconds(at), lasts: seconds(lasts) });
        at += lasts + between(&PAUSE);
    }
}

impl FaultKind {
    /// What a transaction may meet because of it. A Vault that is away costs nothing while the
    /// lease lives; after its end Postgres refuses new logins, and on its return Vault drops the
    /// role under the sessions that are left, which answers to two more codes.
    pub(crate) fn may_cause(self, sqlstate: &str) -> bool {
        let codes: &[&str] = match self {
            Self::VaultPause | Self::VaultStop | Self::VaultSeal => {
                &["28P01", "42501", "42704", "57P01"]
            }
            Self::LeaseRevoke | Self::TokenRevoke => &["28P01", "42501", "42704", "57P01"],
            Self::PgRestart => &["57P01", "57P03", "-----"],
        };
        codes.contains(&sqlstate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[test]
    fn one_seed_is_one_weather_and_leaves_time_to_recover() {
        let args = Args::parse_from(["drill", "--seconds", "1800", "--ttl", "20"]);
        let faults = draw(7, &args);
        assert_eq!(faults, draw(7, &args));
        assert_ne!(faults, draw(8, &args));
        assert!(faults.len() > 40, "{}", faults.len());
        for pair in faults.windows(2) {
            let pause = pair[1].at - (pair[0].at + pair[0].lasts);
            assert!(pause.as_secs_f64() >= PAUSE.start - 0.001, "{pair:?}");
        }
        for kind in FaultKind::ALL {
            assert!(faults.iter().any(|f| f.kind == kind), "{kind:?} is never drawn");
        }
    }
}
