//! Weather.

use std::time::Duration;

use leasehold::Observation;
use leasehold::clock::Time;
use leasehold::simulation::{Input, Observed};

use super::{Ev, World};
use crate::plan::{Source, Weather};
use crate::postgres::Secret;
use crate::vault::{self, Rights, Role, Throttle};

/// Until when each kind lasts.
#[derive(Clone, Debug, Default)]
pub(super) struct Windows {
    down: Time,
    sealed: Time,
    electing: Time,
    throttled: Time,
    retry_after: Option<u64>,
    far: Time,
    drops: Time,
    denied: [Time; 3],
    role: Time,
    app_role: Time,
    per_cent: u64,
}

impl World {
    fn lasts(&mut self, time: Duration) -> Time {
        let until = self.real + time;
        self.trouble = self.trouble.max(until);
        self.schedule_outside(until, Ev::Clear);
        until
    }

    pub(crate) fn strike(&mut self, weather: Weather) {
        self.fault(weather.name());
        self.trouble = self.trouble.max(self.real);
        match weather {
            Weather::Down(d) => self.windows.down = self.lasts(d),
            Weather::Sealed(d) => self.windows.sealed = self.lasts(d),
            Weather::Electing(d) => self.windows.electing = self.lasts(d),
            Weather::Throttled(d, retry_after) => {
                self.windows.throttled = self.lasts(d);
                self.windows.retry_after = retry_after;
            }
            Weather::PostgresRestart(d) => {
                self.postgres.down_until = self.lasts(d);
                self.windows.far = self.postgres.down_until;
                self.cut_sessions();
            }
            Weather::PostgresFarFromVault(d) => self.windows.far = self.lasts(d),
            Weather::DropsRefused(d) => self.windows.drops = self.lasts(d),
            Weather::Failover(d, lag) => {
                self.postgres.failover_until = self.lasts(d);
                self.postgres.lag = lag;
                self.cut_sessions();
            }
            Weather::Full(d) => self.postgres.full_until = self.lasts(d),
            Weather::Denied(d, which) => {
                let until = self.lasts(d);
                for (denied, is) in self.windows.denied.iter_mut().zip(which) {
                    if is {
                        *denied = until;
                    }
                }
            }
            Weather::RoleDeleted(d) => self.windows.role = self.lasts(d),
            Weather::AppRoleDeleted(d) => self.windows.app_role = self.lasts(d),
            Weather::RoleChanged(per_cent) => self.windows.per_cent = per_cent,
            Weather::LeaseRevoked
            | Weather::LeaseForced
            | Weather::TokenRevoked
            | Weather::RoleDropped => {
                self.meddle(weather);
            }
            Weather::Forward(d) => {
                self.offset += d.as_nanos() as i128;
                self.clock_forced = true;
                self.look_soon();
            }
            Weather::Back(d) => {
                self.offset -= d.as_nanos() as i128;
                self.look_soon();
            }
            Weather::Suspended(d) => {
                self.suspend(d);
                self.trouble = self.trouble.max(self.suspended_until);
            }
            Weather::Attach(pool) => self.attach(pool),
            Weather::Close(number) => {
                if let Some(pool) = self.pools.get_mut(number) {
                    pool.close();
                }
            }
            Weather::Hold(number) => self.hold_for_ever(number),
            Weather::Rotate => self.feed_if_awake(Input::Rotate),
            Weather::Report(what) => {
                let what = match what {
                    0 => Observation::Suspected,
                    1 => Observation::LoginRejected,
                    _ => Observation::SessionRevoked,
                };
                if self.published > 0 && self.finished.is_none() {
                    self.observe(self.published, what);
                }
            }
            Weather::News => {
                if self.published > 0 {
                    self.feed_if_awake(Input::Changed);
                }
            }
            Weather::PasswordChanged => self.change_password(),
            Weather::Rush => {
                self.rush();
            }
        }
        self.apply_weather();
    }

    /// Somebody does by hand what is ours to do.
    fn meddle(&mut self, weather: Weather) {
        let real = self.real;
        let Some(current) = self.generations.get(&self.published).map(|g| g.login) else { return };
        let Some(held) = self.held.get_mut(&current) else { return };
        held.unsure = true;
        match (weather, held.lease, held.secret) {
            (Weather::LeaseRevoked, Some(lease), _) => {
                self.vault.revoke_by_hand(real, lease);
            }
            (Weather::LeaseForced, Some(lease), _) => {
                self.vault.revoke_by_force(real, lease);
            }
            (Weather::RoleDropped, _, Secret::Role { login, .. }) => {
                self.vault.drop_pg_role(real, login);
            }
            (Weather::TokenRevoked, ..) => {
                let token = held.epoch.and_then(|epoch| self.session.token(epoch));
                if let Some(token) = token {
                    self.vault.revoke_token_by_hand(real, token);
                    for held in self.held.values_mut() {
                        held.unsure = true;
                    }
                }
            }
            _ => {}
        }
    }

    fn cut_sessions(&mut self) {
        for pool in &mut self.pools {
            pool.conns.clear();
        }
    }

    fn feed_if_awake(&mut self, input: Input) {
        if self.finished.is_none() && self.real >= self.suspended_until {
            self.feed(input);
        }
    }

    pub(crate) fn observe(&mut self, generation: u64, what: Observation) {
        if self.real < self.suspended_until {
            return;
        }
        let told = &mut self.told[what as usize];
        let known = std::mem::replace(told, generation) == generation;
        if !known || what == Observation::Suspected {
            if what == Observation::SessionRevoked
                && generation == self.published
                && self.stopping.is_none()
                && let Some(generation) = self.generations.get_mut(&generation)
            {
                generation.told_gone = true;
            }
            self.feed(Input::Observed(Observed { generation, what }));
        }
    }

    /// As the provider has it: the next one who sees this is heard.
    pub(super) fn hear_again(&mut self, generation: u64, what: Observation) {
        let told = &mut self.told[what as usize];
        if *told == generation {
            *told = 0;
        }
    }

    pub(super) fn apply_weather(&mut self) {
        let real = self.real;
        let w = &self.windows;
        let throttle = Throttle { retry_after: w.retry_after };
        let weather = vault::Weather {
            down: real < w.down,
            sealed: real < w.sealed,
            electing: real < w.electing,
            throttled: (real < w.throttled).then_some(throttle),
            postgres_down: real < w.far,
            drops_refused: real < w.drops,
        };
        let [issue, renew, revoke] = w.denied.map(|until| real >= until);
        let rights = Rights { issue, renew, revoke, lookup: true };
        let per_cent = if w.per_cent == 0 { 100 } else { w.per_cent };
        let part = |secs: u64| (secs * per_cent / 100).max(3);
        let role = Role { default_ttl: part(self.plan.ttl), max_ttl: part(self.plan.max_ttl) };
        let role = (real >= w.role).then_some(role);
        let app_role_gone = real < w.app_role;
        if weather != self.vault.weather() {
            self.vault.set_weather(real, weather);
        }
        if rights != self.vault.rights() {
            self.vault.set_rights(real, rights);
        }
        if role != self.vault.role(0) {
            self.vault.set_role(real, 0, role);
        }
        if app_role_gone != self.app_role_gone {
            self.app_role_gone = app_role_gone;
            self.vault.set_app_role(real, (!app_role_gone).then_some(self.app_role));
        }
    }

    pub(super) fn schedule_password_change(&mut self) {
        self.password_due = self.real + Duration::from_secs(self.plan.ttl);
        self.schedule_outside(self.password_due, Ev::Password);
    }

    pub(super) fn change_password(&mut self) {
        if !matches!(self.plan.source, Source::Static { .. }) {
            return;
        }
        self.postgres.password += 1;
        self.tell_news();
    }

    /// If the source waits, and has something newer than it has shown.
    pub(super) fn tell_news(&mut self) {
        if !self.watching || self.shown == self.postgres.password {
            return;
        }
        let delay = Duration::from_secs(5).mul_f64(self.rng.f64());
        self.after(delay, Ev::News(self.watches));
    }

    /// Vault goes away, or comes back.
    pub(crate) fn set_away(&mut self, away: bool) {
        self.windows.down = if away { Time::from_start(Duration::MAX) } else { Time::ZERO };
        self.apply_weather();
    }

    /// The weather clears up for good.
    pub(crate) fn clear_up(&mut self) {
        let per_cent = self.windows.per_cent;
        self.windows = Windows { per_cent, ..Windows::default() };
        self.postgres.down_until = Time::ZERO;
        self.postgres.full_until = Time::ZERO;
        self.postgres.failover_until = Time::ZERO;
        self.apply_weather();
    }
}
