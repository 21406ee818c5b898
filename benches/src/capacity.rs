//! How far one database carries a fleet: arithmetic over rates that `cargo limits` measures.
//!
//! `docs/limits.md` has the same formulae in words, and a test holds its table against these.

/// What one database engine on one Postgres does in a second, each alone.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rates {
    /// Logins made.
    pub mint: f64,
    /// Leases renewed.
    pub renew: f64,
    /// Leases revoked.
    pub revoke: f64,
}

/// Instances with one login each. Times in seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fleet {
    /// How many.
    pub instances: f64,
    /// TTL of the role.
    pub ttl: f64,
    /// Its max TTL; not below the TTL.
    pub max_ttl: f64,
    /// How often a lease is renewed in one TTL.
    pub renewals_per_ttl: f64,
}

impl Fleet {
    /// Each login lives for a max TTL: logins made in a second, and as many revoked.
    #[must_use]
    pub fn mints(&self) -> f64 {
        self.instances / self.max_ttl
    }

    /// A login's last TTL has no renewals: they would bring no time.
    #[must_use]
    pub fn renewals(&self) -> f64 {
        let share_renewed = 1.0 - self.ttl / self.max_ttl;
        self.instances * self.renewals_per_ttl / self.ttl * share_renewed
    }

    /// The share of each second that the database is at work for the fleet: they take turns on
    /// the same processors. 1 is all there is.
    #[must_use]
    pub fn load(&self, rates: &Rates) -> f64 {
        let mints = self.mints() / rates.mint + self.mints() / rates.revoke;
        mints + self.renewals() / rates.renew
    }

    /// The least time in which all instances can be replaced, one login made and one revoked for
    /// each, with nothing else to do.
    #[must_use]
    pub fn restart(&self, rates: &Rates) -> f64 {
        self.instances * (1.0 / rates.mint + 1.0 / rates.revoke)
    }
}

const MINUTE: f64 = 60.0;
const HOUR: f64 = 60.0 * MINUTE;
const DAY: f64 = 24.0 * HOUR;

/// What the library does at its defaults, on average.
const RENEWALS_PER_TTL: f64 = 4.0;

/// The fleets of the page: instances, TTL, max TTL.
const FLEETS: [(f64, f64, f64); 10] = [
    (10.0, HOUR, DAY),
    (100.0, HOUR, DAY),
    (1000.0, HOUR, DAY),
    (1000.0, HOUR, HOUR),
    (1000.0, 15.0 * MINUTE, HOUR),
    (1000.0, MINUTE, 5.0 * MINUTE),
    (4000.0, HOUR, DAY),
    (10_000.0, HOUR, DAY),
    (10_000.0, 8.0 * HOUR, 7.0 * DAY),
    (30_000.0, HOUR, DAY),
];

/// The table of `docs/limits.md`, as Markdown, at these rates.
#[must_use]
pub fn table(rates: &Rates) -> String {
    let mut rows = "| instances | TTL | max TTL | mints/s | renewals/s | live logins | after a crash | at work | \
                    all replaced in |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- |\n"
        .to_owned();
    for (instances, ttl, max_ttl) in FLEETS {
        let fleet = Fleet { instances, ttl, max_ttl, renewals_per_ttl: RENEWALS_PER_TTL };
        let (ttl, max_ttl) = (time(ttl), time(max_ttl));
        let (mints, renewals) = (figure(fleet.mints()), figure(fleet.renewals()));
        // Killed ones leave their logins to the TTL while their successors make new ones.
        let crashed = 2.0 * instances;
        let (load, restart) = (figure(100.0 * fleet.load(rates)), time(fleet.restart(rates)));
        rows += &format!(
            "| {instances} | {ttl} | {max_ttl} | {mints} | {renewals} | {instances} | {crashed} | \
             {load} % | {restart} |\n"
        );
    }
    rows
}

/// Two digits that count.
fn figure(value: f64) -> String {
    let digits = if value > 0.0 { (1.0 - value.log10().floor()).clamp(0.0, 6.0) } else { 0.0 };
    format!("{value:.*}", digits as usize)
}

fn time(seconds: f64) -> String {
    let (value, unit) = match seconds {
        s if s >= 2.0 * DAY => (s / DAY, "d"),
        s if s >= HOUR => (s / HOUR, "h"),
        s if s >= 2.0 * MINUTE || s == MINUTE => (s / MINUTE, "min"),
        s => (s, "s"),
    };
    let whole = (value - value.round()).abs() < 1e-9;
    if whole { format!("{value:.0} {unit}") } else { format!("{} {unit}", figure(value)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fleet_of_a_thousand_by_hand() {
        let rates = Rates { mint: 50.0, renew: 250.0, revoke: 50.0 };
        let fleet =
            Fleet { instances: 1000.0, ttl: 3600.0, max_ttl: 36000.0, renewals_per_ttl: 3.0 };
        let near = |a: f64, b: f64| (a - b).abs() < 1e-9;
        assert!(near(fleet.mints(), 1.0 / 36.0));
        assert!(near(fleet.renewals(), 0.75));
        assert!(near(fleet.load(&rates), 2.0 / 36.0 / 50.0 + 0.003));
        assert!(near(fleet.restart(&rates), 40.0));
        let never_renewed = Fleet { max_ttl: 3600.0, ..fleet };
        assert!(near(never_renewed.renewals(), 0.0));
    }
}
