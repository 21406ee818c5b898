//! One login that has to last, and no other in its place.

use std::time::Duration;

use crate::clock::{Clock, Time};
use crate::credential::{Issued, Parent};
use crate::machine::{Login, Minted, Policy, policy};
use crate::once::Once;
use crate::source::{ErrorKind, SourceError};

/// What happens to a login while it is [kept](Once::keep). Holds no secret.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Kept {
    /// Its lease was renewed.
    Renewed {
        /// Time to live granted.
        granted: Duration,
    },
    /// A renewal failed.
    RenewFailed {
        /// Why.
        error: SourceError,
        /// When it is tried again; `None`: not at all.
        retry_in: Option<Duration>,
    },
    /// Its end can't be moved any more: what needs it has to be done by then. Told once, and again
    /// should the end come nearer.
    Last {
        /// Time until then.
        ends_in: Duration,
        /// What sets it.
        by: KeptUntil,
    },
}

/// What sets the end of a login that is kept, and so what would have to be mended for it to last
/// longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeptUntil {
    /// Its maximum TTL: less was granted than was asked for, or the server will renew no more.
    Maximum,
    /// It was issued as one that can't be renewed.
    NotRenewable,
    /// Renewing was refused for good ([`Kept::RenewFailed`] says why): most often the policy does
    /// not allow it.
    Refused,
    /// The token that made it ends.
    Token,
}

impl Once {
    /// Renews the lease for as long as this future is polled, and returns when the login is over:
    /// its lease or its token has ended, or the server has lost it. Never returns for a login that
    /// does not end. `tell` is called with what happens on the way; it must not block.
    ///
    /// Renewed is as a [`Rotator`](crate::Rotator) would: at random between a sixth and a third of
    /// the TTL after the last time, sooner where that would leave less time than a few tries take;
    /// where it fails for now, again at a pace that follows what is left. No other login is issued: at its maximum TTL it ends, and [`Kept::Last`]
    /// says so as soon as the server lets it be seen, which is at the renewal that is granted less
    /// than the TTL.
    ///
    /// Cancel safe: the login stays, and may be kept again. A renewal that was under way may have
    /// been carried out; [`remaining`](Self::remaining) is then too short by it.
    pub async fn keep(&mut self, mut tell: impl FnMut(Kept)) {
        let (clock, source, issued, login, refused) = self.parts();
        let mut parent = issued.parent.clone();
        let mut rng = fastrand::Rng::new();
        let mut told = None;
        if login.renewal.at.is_none() {
            login.plan_renewal(&mut rng, None);
        }
        loop {
            login.parent = parent.as_ref().map(|parent| parent.state());
            let now = clock.now();
            if login.over(now) {
                return;
            }
            let last = last(login, *refused);
            if let Some((end, by)) = last
                && told.is_none_or(|told| end < told)
            {
                told = Some(end);
                tell(Kept::Last { ends_in: now.until(end), by });
            }
            if login.renewal.at.is_none_or(|at| now < at) {
                let wake = [login.renewal.at, login.effective_end()].into_iter().flatten().min();
                tokio::select! {
                    () = until(clock, wake) => {}
                    () = changed(&mut parent) => {}
                }
                continue;
            }
            let asked = login.terms.ttl.unwrap_or_default();
            let sent = clock.now();
            let answer = tokio::select! {
                answer = source.renew(&issued.lease, asked) => answer,
                // A source that never answers: the login is over all the same.
                () = until(clock, login.effective_end()) => continue,
            };
            let now = clock.now();
            match answer {
                Ok(granted) => {
                    let granted = granted.min(policy::LONGEST);
                    renewed(login, &mut rng, sent, now, granted);
                    tell(Kept::Renewed { granted });
                }
                Err(error) => {
                    let retry_in = failed(login, &mut rng, now, &error);
                    *refused = retry_in.is_none() && error.kind() != ErrorKind::NotRenewable;
                    tell(Kept::RenewFailed { error, retry_in });
                }
            }
        }
    }
}

/// For ever where there is nothing to wait for.
async fn until(clock: &Clock, at: Option<Time>) {
    match at {
        Some(at) => clock.sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// The token of a login, if it has one, is told anew.
async fn changed(parent: &mut Option<Parent>) {
    match parent {
        Some(parent) => drop(parent.changed().await),
        None => std::future::pending().await,
    }
}

/// As it was issued.
pub(crate) fn login(issued: &Issued, sent: Time, now: Time) -> Login {
    let lease = &issued.lease;
    let ttl = lease.ttl.map(|ttl| ttl.min(policy::LONGEST));
    let minted = Minted {
        username: issued.credential.username().to_owned(),
        ttl,
        renewable: lease.renewable && lease.id.is_some(),
        revocable: lease.id.is_some(),
        parent: issued.parent.as_ref().map(|parent| parent.state()),
        unchanged: false,
    };
    Login::new(0, sent, now, minted, Policy::default().terms(ttl))
}

/// The end that can't be moved any more, if there is one, and what sets it.
fn last(login: &Login, refused: bool) -> Option<(Time, KeptUntil)> {
    let by = match (login.renewable, refused) {
        (false, _) => KeptUntil::NotRenewable,
        (true, true) => KeptUntil::Refused,
        (true, false) => KeptUntil::Maximum,
    };
    let own = login.end.filter(|_| login.last).map(|end| (end, by));
    let token = login.parent.filter(|parent| !parent.renewing).and_then(|parent| parent.ends);
    let token = token.map(|end| (end, KeptUntil::Token));
    [own, token].into_iter().flatten().min_by_key(|(end, _)| *end)
}

fn renewed(login: &mut Login, rng: &mut fastrand::Rng, sent: Time, now: Time, granted: Duration) {
    let asked = login.terms.ttl.unwrap_or(granted);
    let end = sent + granted;
    login.end = Some(end);
    login.renewal.failures = 0;
    // `renewable` never says so; the grant does. A second of slack, as TTLs are truncated.
    let short = granted + Duration::from_secs(1) <= asked;
    // Cut to the life of a token that is itself renewed: there is more to be had later.
    let by_token = login.parent.is_some_and(|parent| {
        parent.renewing && parent.ends.is_some_and(|ends| ends <= end + Duration::from_secs(2))
    });
    login.last |= short && !by_token;
    login.plan_renewal(rng, None);
    // Not in a loop, however little was granted.
    let soonest = now + (granted / 4).max(Duration::from_millis(500));
    login.renewal.at = login.renewal.at.map(|at| at.max(soonest));
}

/// When it is tried again.
fn failed(
    login: &mut Login,
    rng: &mut fastrand::Rng,
    now: Time,
    error: &SourceError,
) -> Option<Duration> {
    login.renewal.failures += 1;
    login.renewal.at = None;
    if error.kind() == ErrorKind::LeaseLost {
        login.lost = true;
        return None;
    }
    if !error.is_transient() && error.kind() != ErrorKind::TokenLost {
        // At its maximum TTL, or not allowed: good until its end, and no longer.
        login.last = true;
        return None;
    }
    let cap = login.terms.transient_cap();
    let pause = policy::backoff(rng, login.renewal.failures, cap);
    let pause = pause.max(error.server_retry_after().unwrap_or_default());
    // Whatever the server wants, there are more tries before the end.
    let left = login.effective_end().map(|end| now.until(end));
    let pause = left.map_or(pause, |left| pause.min(cap.max(left / 4)));
    let calm = if error.is_transient() { login.renewal_pause(rng, now) } else { Duration::ZERO };
    let pause = pause.max(calm);
    login.renewal.at = Some(now + pause);
    Some(pause)
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::{Arc, Mutex};
    use std::time::UNIX_EPOCH;

    use tokio::sync::watch;

    use super::*;
    use crate::clock::Clock;
    use crate::credential::{Credential, Lease, Parent, ParentState};
    use crate::once::once_by;
    use crate::source::CredentialSource;

    type Answer = Result<Duration, ErrorKind>;

    /// Renews as it was told, and is silent after that.
    #[derive(Debug)]
    struct Script {
        ttl: u64,
        answers: Arc<Mutex<VecDeque<Answer>>>,
        token: Option<watch::Receiver<ParentState>>,
    }

    impl CredentialSource for Script {
        async fn issue(&self) -> Result<Issued, SourceError> {
            let lease = Lease::renewable("lease", s(self.ttl));
            let issued = Issued::new(Credential::new("v-app", "pw"), lease);
            Ok(match &self.token {
                Some(state) => issued.with_parent(Parent::new(state.clone(), Arc::new(()))),
                None => issued,
            })
        }

        async fn renew(&self, _: &Lease, _: Duration) -> Result<Duration, SourceError> {
            let next = self.answers.lock().unwrap().pop_front();
            match next.expect("it was asked more often than planned") {
                Ok(granted) => Ok(granted),
                Err(kind) => Err(SourceError::new(kind, "scripted")),
            }
        }
    }

    const fn s(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    /// What is told, with the seconds at which it is, and when it is over.
    async fn kept(
        ttl: u64,
        answers: &[Answer],
        token: Option<watch::Receiver<ParentState>>,
        clock: Clock,
    ) -> Vec<String> {
        let answers = Arc::new(Mutex::new(answers.iter().copied().collect()));
        let source = Script { ttl, answers, token };
        let begun = clock.now();
        let mut login = once_by(source, clock.clone()).await.unwrap();
        let mut told = Vec::new();
        login
            .keep(|what| {
                let what = match what {
                    Kept::Renewed { granted } => format!("renewed {}", granted.as_secs()),
                    Kept::RenewFailed { retry_in: Some(_), .. } => "failed, again".to_owned(),
                    Kept::RenewFailed { .. } => "failed".to_owned(),
                    Kept::Last { ends_in, by } => {
                        format!("last {} {by:?}", ends_in.as_secs_f64().round())
                    }
                };
                told.push(what);
            })
            .await;
        told.push(format!("over at {}", (clock.now() - begun).as_secs_f64().round()));
        assert_eq!(login.remaining(), Some(Duration::ZERO));
        drop(login.end().await);
        told
    }

    fn clock() -> Clock {
        Clock::with_wall(|| UNIX_EPOCH)
    }

    #[tokio::test(start_paused = true)]
    async fn a_login_is_renewed_to_its_maximum_and_its_last_grant_is_told() {
        let told = kept(60, &[Ok(s(60)), Ok(s(60)), Ok(s(45))], None, clock()).await;
        assert_eq!(told[..4], ["renewed 60", "renewed 60", "renewed 45", "last 45 Maximum"]);
        let over: u64 = told[4].strip_prefix("over at ").unwrap().parse().unwrap();
        assert!((75..=125).contains(&over), "{told:?}");
        assert_eq!(told.len(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn what_fails_for_now_is_tried_again_inside_the_lease() {
        use ErrorKind::{Denied, NotRenewable, Sealed, Timeout, TokenLost};
        let heals = [Err(Sealed), Err(Timeout), Err(TokenLost), Ok(s(60)), Err(NotRenewable)];
        let told = kept(60, &heals, None, clock()).await;
        assert_eq!(
            told[..5],
            ["failed, again", "failed, again", "failed, again", "renewed 60", "failed"]
        );
        assert!(told[5].starts_with("last ") && told[5].ends_with(" Maximum"), "{told:?}");
        // Nobody mends it in time: it ends as it was issued.
        let told = kept(60, &[Err(Denied)], None, clock()).await;
        assert_eq!((&*told[0], &*told[2]), ("failed", "over at 60"), "{told:?}");
        assert!(told[1].ends_with(" Refused"), "{told:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_with_the_token_is_told_when_the_token_can_be_renewed_no_more() {
        let clock = clock();
        let at = |n| clock.now() + s(n);
        let (token, state) = watch::channel(ParentState::ending(at(100), true, true));
        let final_end = at(90);
        let ends = async {
            tokio::time::sleep(s(10)).await;
            token.send(ParentState::ending(final_end, false, true)).unwrap();
            std::future::pending::<()>().await;
        };
        let kept = kept(3600, &[], Some(state), clock.clone());
        let told = tokio::select! { told = kept => told, () = ends => unreachable!() };
        assert_eq!(told, ["last 80 Token", "over at 90"]);
    }

    #[test]
    fn a_login_that_was_never_renewable_says_so() {
        let at = |n| Time::from_start(s(n));
        let mut lease = Lease::renewable("l", s(60));
        lease.renewable = false;
        let issued = Issued::new(Credential::new("v", "p"), lease);
        let login = login(&issued, at(0), at(0));
        assert_eq!(last(&login, false), Some((at(60), KeptUntil::NotRenewable)));
    }

    #[test]
    fn a_grant_cut_by_a_token_that_goes_on_is_not_the_last_and_makes_no_loop() {
        let at = |n| Time::from_start(s(n));
        for (renewing, last) in [(true, false), (false, true)] {
            let token = watch::channel(ParentState::ending(at(34), renewing, true)).1;
            let issued = Issued::new(Credential::new("v", "p"), Lease::renewable("l", s(60)))
                .with_parent(Parent::new(token, Arc::new(())));
            let mut login = login(&issued, at(0), at(0));
            renewed(&mut login, &mut fastrand::Rng::with_seed(1), at(25), at(26), s(8));
            assert_eq!((login.last, login.end), (last, Some(at(33))));
            assert!(login.renewal.at.is_none_or(|next| next >= at(28)), "{login:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_that_the_server_lost_is_over_at_once() {
        let answers = Arc::new(Mutex::new([Err(ErrorKind::LeaseLost)].into_iter().collect()));
        let clock = clock();
        let source = Script { ttl: 60, answers, token: None };
        let mut login = once_by(source, clock.clone()).await.unwrap();
        let begun = clock.now();
        login.keep(|_| {}).await;
        assert!(clock.now() - begun < s(60));
        drop(login.end().await);
    }

    #[tokio::test(start_paused = true)]
    async fn it_may_be_given_up_and_kept_again() {
        let answers = Arc::new(Mutex::new([Ok(s(60)), Ok(s(5))].into_iter().collect()));
        let mut login = once_by(Script { ttl: 60, answers, token: None }, clock()).await.unwrap();
        // The first renewal comes by then, and no other.
        assert!(tokio::time::timeout(s(20), login.keep(|_| {})).await.is_err());
        assert!(login.remaining().is_some_and(|left| left > s(10)), "renewed meanwhile");
        login.keep(|_| {}).await;
        drop(login.end().await);
    }
}
