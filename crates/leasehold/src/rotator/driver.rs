//! The thin tokio driver: one task, one `select!`. It carries inputs to the machine and does what
//! the machine says; every decision is the machine's.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{AbortHandle, JoinSet};
use tracing::{Instrument, Span};

use super::fanout::{drain_everywhere, prove_everywhere};
use super::{Command, Observer, ShutdownReport, spans};
use crate::clock::{Clock, Time};
use crate::credential::{Credential, Issued, Lease, Parent, ParentState};
use crate::event::{Channel, Event, Reason};
use crate::generation::Generation;
use crate::health::Status;
use crate::hook::{DrainOrder, DrainTerms, Proof};
use crate::machine::{
    Action, Input, LoginId, Machine, Minted, Proofs, Remains, Revocation, SOFT_REVOKE, StartFailure,
};
use crate::metrics::Meter;
use crate::provider::{Observation, Observed, Pools, Shared};
use crate::source::{DynSource, ErrorKind, RevokeMode, SourceError};
use crate::told::Told;

/// A start that was given up waits for its mint as long as the server may take.
const ABANDONED_START: Duration = Duration::from_secs(120);

/// What a driver is connected to.
pub(super) struct Wiring {
    pub(super) name: Arc<str>,
    pub(super) source: Arc<dyn DynSource>,
    pub(super) clock: Clock,
    pub(super) runtime: Handle,
    pub(super) observers: Vec<Observer>,
    pub(super) events: Channel,
    pub(super) commands: mpsc::UnboundedReceiver<Command>,
    pub(super) observations: mpsc::Sender<Observed>,
    pub(super) observation_rx: mpsc::Receiver<Observed>,
    pub(super) report: watch::Sender<Option<Arc<ShutdownReport>>>,
    pub(super) started: oneshot::Sender<Result<Arc<Shared>, StartFailure>>,
    pub(super) last_error: watch::Sender<Option<SourceError>>,
    pub(super) refresh_wait: Duration,
}

/// The state of the background task. Outlives a panic of it.
pub(super) struct Driver {
    name: Arc<str>,
    meter: Meter,
    machine: Machine,
    pending: VecDeque<Action>,
    /// Told once what they tell of is done.
    news: VecDeque<Event>,
    source: Arc<dyn DynSource>,
    /// Waits for the source's next news, and the number of that wait. Begun anew with each answer
    /// to a mint and not before, so that a source that always has news is heard once per answer.
    watch: Option<AbortHandle>,
    watches: u64,
    clock: Clock,
    runtime: Handle,
    observers: Vec<Observer>,
    events: Channel,
    commands: mpsc::UnboundedReceiver<Command>,
    observations: mpsc::Sender<Observed>,
    observation_rx: mpsc::Receiver<Observed>,
    report: watch::Sender<Option<Arc<ShutdownReport>>>,
    started: Option<oneshot::Sender<Result<Arc<Shared>, StartFailure>>>,
    last_error: watch::Sender<Option<SourceError>>,
    refresh_wait: Duration,
    shared: Option<Arc<Shared>>,
    replies: Replies,
    reply_rx: mpsc::UnboundedReceiver<Box<Reply>>,
    logins: HashMap<LoginId, Held>,
    /// The rotation under way, as a span.
    rotation: Option<Span>,
    drains: HashMap<u64, Drain>,
    /// Proofs, drains, renewals, revocations: joined at the end. Mints are not among them, since
    /// they are never cut off.
    tasks: JoinSet<()>,
    accepted: bool,
    owner_gone: bool,
    finished: Option<Vec<Remains>>,
    stopped: Option<String>,
}

/// A credential that exists: the secret, and what keeps its token alive.
struct Held {
    credential: Credential,
    lease: Lease,
    generation: Option<Arc<Generation>>,
    /// Which generation it became.
    number: Option<u64>,
    parent: Option<Parent>,
    watcher: Option<AbortHandle>,
    /// The rotation that superseded it, or in which it was given up: of none if there was none.
    superseded: Option<Span>,
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(watcher) = &self.watcher {
            watcher.abort();
        }
    }
}

struct Drain {
    terms: watch::Sender<DrainTerms>,
}

/// What tasks send back.
enum Reply {
    Minted { attempt: u64, sent: Time, result: Result<Issued, SourceError> },
    Proved { login: LoginId, proofs: Vec<(String, Proof)> },
    Confirmed { generation: u64, proofs: Vec<(String, Proof)> },
    Changed { watch: u64 },
    Input(Input),
    Event(Event),
}

/// Boxed on their way: the channel keeps room for dozens, and there is one at a time if any.
#[derive(Clone)]
struct Replies(mpsc::UnboundedSender<Box<Reply>>);

impl Replies {
    /// Gives it back if there is nobody any more.
    fn send(&self, reply: Reply) -> Result<(), Box<Reply>> {
        self.0.send(Box::new(reply)).map_err(|mpsc::error::SendError(reply)| reply)
    }
}

impl Driver {
    pub(super) fn new(machine: Machine, wiring: Wiring) -> Self {
        let (replies, reply_rx) = mpsc::unbounded_channel();
        Self {
            meter: Meter::new(wiring.name.clone()),
            name: wiring.name,
            machine,
            pending: VecDeque::new(),
            news: VecDeque::new(),
            source: wiring.source,
            watch: None,
            watches: 0,
            clock: wiring.clock,
            runtime: wiring.runtime,
            observers: wiring.observers,
            events: wiring.events,
            commands: wiring.commands,
            observations: wiring.observations,
            observation_rx: wiring.observation_rx,
            report: wiring.report,
            started: Some(wiring.started),
            last_error: wiring.last_error,
            refresh_wait: wiring.refresh_wait,
            shared: None,
            replies: Replies(replies),
            reply_rx,
            logins: HashMap::new(),
            rotation: None,
            drains: HashMap::new(),
            tasks: JoinSet::new(),
            accepted: false,
            owner_gone: false,
            finished: None,
            stopped: None,
        }
    }

    /// Runs until a shutdown is finished or the owner is gone.
    pub(super) async fn run(&mut self) {
        // What a panic left undone comes first.
        self.act();
        self.tell();
        self.feed(Input::Tick);
        loop {
            // Not taken: a panic on the way out must find it again.
            if let Some(remains) = self.finished.clone() {
                return self.wind_up(remains).await;
            }
            if self.owner_gone && self.stopped.is_some() {
                return;
            }
            if let Some(input) = self.next_input().await {
                self.feed(input);
            }
            while let Some(ended) = self.tasks.try_join_next() {
                if ended.is_err_and(|e| e.is_panic()) {
                    let message = "a task of the rotator panicked: see the panic message";
                    self.emit(Event::Warning { pool: None, message: message.to_owned() });
                }
            }
        }
    }

    async fn next_input(&mut self) -> Option<Input> {
        let next = self.machine.next_deadline().or_else(|| Meter::next(self.clock.now()));
        let clock = self.clock.clone();
        let timer = async move {
            match next {
                Some(at) => clock.sleep_towards(at).await,
                None => std::future::pending().await,
            }
        };
        let abandoned = async {
            match &mut self.started {
                Some(started) => started.closed().await,
                None => std::future::pending().await,
            }
        };
        // In this order each time, so that the same history can be run again. What the owner asks for
        // comes first; the timer last, as the machine does what is due with whatever comes in.
        tokio::select! {
            biased;
            command = self.commands.recv(), if !self.owner_gone => match command {
                Some(Command::Accepted) => {
                    self.accepted = true;
                    None
                }
                Some(Command::Rotate) => Some(Input::Rotate),
                Some(Command::Shutdown { drain }) => {
                    Some(Input::Shutdown { deadline: self.clock.now() + drain })
                }
                None => self.owner_left(),
            },
            () = abandoned => {
                self.started = None;
                Some(Input::Shutdown { deadline: self.clock.now() + ABANDONED_START })
            }
            // Before what pools see: that may be told without end, and answers are not.
            Some(reply) = self.reply_rx.recv() => self.translate(*reply),
            Some(observed) = self.observation_rx.recv() => Some(Input::Observed(observed)),
            () = timer => Some(Input::Tick),
        }
    }

    /// The rotator was dropped. In a shutdown, or before the start was over, the work goes on.
    fn owner_left(&mut self) -> Option<Input> {
        self.owner_gone = true;
        if self.machine.is_stopping() {
            return None;
        }
        if !self.accepted {
            self.started = None;
            return Some(Input::Shutdown { deadline: self.clock.now() + ABANDONED_START });
        }
        let cause = "the rotator was dropped without shutdown(): leases end by their TTL";
        self.stop(cause.to_owned(), false);
        None
    }

    fn translate(&mut self, reply: Reply) -> Option<Input> {
        match reply {
            Reply::Input(input) => {
                if let Input::Drained { generation, .. } = &input {
                    self.drains.remove(generation);
                }
                Some(input)
            }
            Reply::Event(event) => {
                self.emit(event);
                None
            }
            Reply::Minted { attempt, sent, result } => {
                if let Err(error) = &result {
                    self.last_error.send_replace(Some(error.clone()));
                }
                self.watch_source();
                let result = result.map(|issued| self.hold(attempt, issued));
                Some(Input::Issued { attempt, sent, result })
            }
            // Of before the last answer, it is no news any more.
            Reply::Changed { watch } => (watch == self.watches).then_some(Input::Changed),
            Reply::Proved { login, proofs } => {
                let proofs = self.tell_proofs(proofs);
                let number = self.logins.get(&login).and_then(|held| held.number);
                // It was current already. What refused it before was put down to a lag, which may
                // be over: the next refusal is news.
                if let (Some(number), Some(shared)) = (number, &self.shared) {
                    shared.hear_again(number, Observation::LoginRejected);
                }
                Some(Input::Proved { login, proofs })
            }
            Reply::Confirmed { generation, proofs } => {
                let refused = proofs.iter().any(|(_, p)| matches!(p, Proof::Rejected(_)));
                Some(Input::Confirmed { generation, refused })
            }
        }
    }

    fn feed(&mut self, input: Input) {
        let actions = self.machine.handle(self.clock.now(), input);
        self.pending.extend(actions);
        self.act();
        self.forget_closed_pools();
        // Whoever hears of something finds it in health.
        if !broken!(PublishesNoStatus) {
            self.publish_status();
        }
        self.tell();
    }

    fn tell(&mut self) {
        while let Some(event) = self.news.pop_front() {
            self.emit(event);
        }
    }

    fn act(&mut self) {
        while let Some(action) = self.pending.pop_front() {
            self.carry_out(action);
        }
        // What is left of it has the span: the drain, and the login to be revoked.
        if !self.machine.is_rotating() {
            self.rotation = None;
        }
    }

    fn carry_out(&mut self, action: Action) {
        match action {
            Action::Issue { attempt } => self.issue(attempt),
            Action::Prove { login, generation } => self.prove(login, generation),
            Action::Publish { login, generation } => self.install(login, generation),
            Action::Drain { generation, roll_until, deadline, lease_end } => {
                self.drain(generation, DrainTerms { roll_until, deadline, lease_end });
            }
            Action::DrainTerms { generation, roll_until, deadline, lease_end } => {
                if let Some(drain) = self.drains.get(&generation) {
                    drain.terms.send_replace(DrainTerms { roll_until, deadline, lease_end });
                }
            }
            Action::Renew { login, attempt, increment } => self.renew(login, attempt, increment),
            Action::Revoke { login, how } => self.revoke(login, how),
            Action::Confirm { generation } => self.confirm(generation),
            Action::Distrust { generation } => self.distrust(generation),
            Action::Forget { login } => {
                self.logins.remove(&login);
            }
            Action::Merge { login, current } => self.merge(login, current),
            Action::ClosePools => {
                // What follows is of no rotation, be one under way.
                self.rotation = None;
                // A shutdown has no use for news, and a source may mint to have some.
                if let Some(watch) = self.watch.take() {
                    watch.abort();
                }
                for pool in self.with_pools(|pools| {
                    pools.closed = true;
                    pools.attached.clone()
                }) {
                    pool.close();
                }
            }
            Action::Emit(event) => {
                if let Event::Rotating { reason } = &event {
                    self.rotation = Some(spans::rotation(&self.name, *reason));
                }
                // It stays after all: should it be refused later, that is news.
                if let (Event::Unchanged { generation, .. }, Some(shared)) = (&event, &self.shared)
                {
                    shared.hear_again(*generation, Observation::LoginRejected);
                }
                self.news.push_back(event);
            }
            Action::StartFailed(failure) => {
                if let Some(started) = self.started.take() {
                    // The caller may have given up; the shutdown below is the same either way.
                    let _ = started.send(Err(failure));
                }
                let deadline = self.clock.now() + ABANDONED_START;
                let actions = self.machine.handle(self.clock.now(), Input::Shutdown { deadline });
                self.pending.extend(actions);
            }
            Action::Finished(remains) => self.finished = Some(remains),
        }
    }

    /// Mints in a task of its own that nothing cuts off: a request that is cancelled may leave a
    /// role that nobody revokes. If we are gone when it comes back, it cleans up after itself.
    fn issue(&mut self, attempt: u64) {
        let (source, clock, replies) =
            (self.source.clone(), self.clock.clone(), self.replies.clone());
        let runtime = self.runtime.clone();
        // Nobody is told that the first one begins.
        let rotation =
            self.rotation.get_or_insert_with(|| spans::rotation(&self.name, Reason::Start));
        let span = spans::issue(Some(rotation), &self.name);
        let within = span.clone();
        let mint = async move {
            let sent = clock.now();
            let call = {
                let source = source.clone();
                async move { source.issue().await }
            };
            let result = guarded(&runtime, "issue", call).await;
            spans::record_outcome(&within, &result);
            drop(within);
            let reply = Reply::Minted { attempt, sent, result };
            if let Err(reply) = replies.send(reply) {
                revoke_late(&*source, *reply).await;
            }
        };
        let mint = mint.instrument(span);
        if broken!(CutsMintsOff) {
            self.tasks.spawn_on(mint, &self.runtime);
            return;
        }
        self.runtime.spawn(mint);
    }

    fn watch_source(&mut self) {
        if let Some(old) = self.watch.take() {
            old.abort();
        }
        if self.machine.is_stopping() {
            return;
        }
        self.watches += 1;
        let (watch, source, replies) = (self.watches, self.source.clone(), self.replies.clone());
        let follow = async move {
            source.changed().await;
            // A driver that is gone wants no news.
            let _ = replies.send(Reply::Changed { watch });
        };
        self.watch = Some(self.tasks.spawn_on(follow, &self.runtime));
    }

    fn hold(&mut self, login: LoginId, issued: Issued) -> Minted {
        let Issued { credential, lease, parent } = issued;
        // Compared here: the machine sees no password. One that was seen dead has to prove itself
        // as any other: its role may have been made again.
        let current = self.shared.as_ref().map(|shared| shared.current.load());
        let unchanged = current.is_some_and(|current| {
            let leaseless = lease.id.is_none() && current.lease().id.is_none();
            leaseless && !current.is_dead() && current.credential().is_same(&credential)
        });
        let minted = Minted {
            unchanged,
            username: credential.username().to_owned(),
            ttl: lease.ttl,
            renewable: lease.renewable && lease.id.is_some(),
            revocable: lease.id.is_some(),
            parent: parent.as_ref().map(Parent::state),
        };
        let watcher = self.follow(login, parent.clone());
        let held = Held {
            credential,
            lease,
            generation: None,
            number: None,
            parent,
            watcher,
            superseded: None,
        };
        self.logins.insert(login, held);
        minted
    }

    /// Tells the machine what becomes of the token that a login depends on.
    fn follow(&mut self, login: LoginId, parent: Option<Parent>) -> Option<AbortHandle> {
        let mut parent = parent?;
        let replies = self.replies.clone();
        let follow = async move {
            loop {
                let state = parent.changed().await;
                if replies.send(Reply::Input(Input::Parent { login, state })).is_err() {
                    return;
                }
            }
        };
        Some(self.tasks.spawn_on(follow, &self.runtime))
    }

    /// `login` is what `current` is: only the token that it depends on may be another.
    fn merge(&mut self, login: LoginId, current: LoginId) {
        let Some(parent) = self.logins.remove(&login).map(|mut held| held.parent.take()) else {
            return;
        };
        let watcher = self.follow(current, parent.clone());
        if let Some(held) = self.logins.get_mut(&current) {
            held.parent = parent;
            if let Some(old) = std::mem::replace(&mut held.watcher, watcher) {
                old.abort();
            }
        }
    }

    fn generation(&mut self, login: LoginId, number: u64) -> Option<Arc<Generation>> {
        let held = self.logins.get_mut(&login)?;
        let fresh = held.generation.take().filter(|g| g.number() == number).unwrap_or_else(|| {
            Arc::new(Generation::new(number, held.credential.clone(), held.lease.clone()))
        });
        held.generation = Some(fresh.clone());
        Some(fresh)
    }

    fn prove(&mut self, login: LoginId, number: u64) {
        let Some(candidate) = self.generation(login, number) else {
            return;
        };
        let shared = self.shared.clone();
        let replies = self.replies.clone();
        let span = spans::prove(self.rotation.as_ref(), &self.name, number);
        let within = span.clone();
        let prove = async move {
            let proofs = match shared {
                Some(shared) => prove_everywhere(&shared, &candidate).await,
                None => Vec::new(),
            };
            spans::record_proofs(&within, &proofs);
            drop(within);
            // A driver that is gone wants no proof.
            let _ = replies.send(Reply::Proved { login, proofs });
        };
        self.tasks.spawn_on(prove.instrument(span), &self.runtime);
    }

    fn confirm(&mut self, generation: u64) {
        let Some(shared) = self.shared.clone() else {
            return;
        };
        let replies = self.replies.clone();
        let current = shared.current.load_full();
        self.tasks.spawn_on(
            async move {
                let proofs = prove_everywhere(&shared, &current).await;
                let _ = replies.send(Reply::Confirmed { generation, proofs });
            },
            &self.runtime,
        );
    }

    fn tell_proofs(&mut self, proofs: Vec<(String, Proof)>) -> Proofs {
        let mut counts = Proofs::default();
        for (pool, proof) in proofs {
            let (rejected, message) = match proof {
                Proof::Proven => {
                    counts.proven += 1;
                    continue;
                }
                Proof::Rejected(message) => {
                    counts.rejected += 1;
                    (true, message)
                }
                Proof::Unreachable(message) => {
                    counts.unreachable += 1;
                    (false, message)
                }
            };
            // Told once the machine has it: an observer may panic.
            self.news.push_back(Event::ProofFailed { pool, rejected, message });
        }
        counts
    }

    /// The swap: every pool first, then everybody who asks. Whoever attaches a pool waits.
    fn install(&mut self, login: LoginId, number: u64) {
        let Some(generation) = self.generation(login, number) else {
            return;
        };
        if let Some(held) = self.logins.get_mut(&login) {
            held.number = Some(number);
        }
        let _swap = spans::swap(self.rotation.as_ref(), &self.name, number).entered();
        let Some(shared) = &self.shared else {
            return self.first(generation);
        };
        if broken!(SwapsWithoutTheLock) {
            for pool in self.with_pools(|pools| pools.attached.clone()) {
                pool.install(&generation);
            }
        }
        let pools = shared.pools.lock().unwrap_or_else(PoisonError::into_inner);
        if broken!(PublishesBeforeInstalling) {
            shared.current.store(generation.clone());
        }
        for pool in pools.attached.iter().filter(|_| !broken!(SwapsWithoutTheLock)) {
            pool.install(&generation);
        }
        shared.current.store(generation.clone());
        drop(pools);
        if !broken!(WakesNoSubscriber) {
            shared.swapped.send_replace(generation);
        }
    }

    fn first(&mut self, generation: Arc<Generation>) {
        let replies = self.replies.clone();
        let shared = Arc::new(Shared {
            name: self.name.clone(),
            emit: Box::new(move |event| {
                // A driver that is gone takes no pool either.
                let _ = replies.send(Reply::Event(event));
            }),
            current: ArcSwap::new(generation.clone()),
            swapped: watch::Sender::new(generation),
            status: watch::Sender::new(Status::default()),
            events: self.events.clone(),
            pools: Mutex::new(Pools::default()),
            observations: self.observations.clone(),
            clock: self.clock.clone(),
            refresh_wait: self.refresh_wait,
            told: [(); 3].map(|()| Told::new()),
            kept: Mutex::default(),
        });
        self.shared = Some(shared.clone());
        self.publish_status();
        let handed_over = self.started.take().is_some_and(|s| s.send(Ok(shared)).is_ok());
        if !handed_over {
            let deadline = self.clock.now();
            let actions = self.machine.handle(deadline, Input::Shutdown { deadline });
            self.pending.extend(actions);
        }
    }

    fn distrust(&self, number: u64) {
        let Some(shared) = &self.shared else { return };
        let current = shared.current.load();
        if current.number() != number {
            return;
        }
        current.mark_dead();
        for pool in self.with_pools(|pools| pools.attached.clone()) {
            pool.distrust();
        }
    }

    fn drain(&mut self, number: u64, terms: DrainTerms) {
        let of_it =
            |held: &&mut Held| held.generation.as_ref().is_some_and(|g| g.number() == number);
        let generation = self.logins.values_mut().find(of_it).and_then(|held| {
            // One that is drained since before keeps what superseded it.
            held.superseded = held.superseded.take().or_else(|| self.rotation.clone());
            held.generation.clone()
        });
        let span = spans::drain(self.rotation.as_ref(), &self.name, number);
        let replies = self.replies.clone();
        let Some(generation) = generation else {
            let input = Input::Drained { generation: number, forced: Vec::new(), left: 0 };
            let _ = replies.send(Reply::Input(input));
            return;
        };
        let (sender, receiver) = watch::channel(terms);
        self.drains.insert(number, Drain { terms: sender });
        let events = self.replies.clone();
        let order = DrainOrder {
            generation,
            terms: receiver,
            clock: self.clock.clone(),
            emit: Arc::new(move |event| {
                let _ = events.send(Reply::Event(event));
            }),
        };
        let pools = self.with_pools(|pools| pools.attached.clone());
        let within = span.clone();
        let drain = async move {
            let (forced, left) = drain_everywhere(pools, &order).await;
            within.record("forced", forced.len() as u64).record("left", left as u64);
            drop(within);
            let input = Input::Drained { generation: number, forced, left };
            let _ = replies.send(Reply::Input(input));
        };
        self.tasks.spawn_on(drain.instrument(span), &self.runtime);
    }

    fn renew(&mut self, login: LoginId, attempt: u64, increment: Duration) {
        let Some(held) = self.logins.get(&login) else {
            return;
        };
        let span = spans::renew(&self.name, held.number);
        self.renew_in(span, login, attempt, increment);
    }

    fn renew_in(&mut self, span: Span, login: LoginId, attempt: u64, increment: Duration) {
        let Some(held) = self.logins.get(&login) else {
            return;
        };
        let (source, lease) = (self.source.clone(), held.lease.clone());
        let (clock, replies, runtime) =
            (self.clock.clone(), self.replies.clone(), self.runtime.clone());
        let within = span.clone();
        let renew = async move {
            let sent = clock.now();
            let call = async move { source.renew(&lease, increment).await };
            let result = guarded(&runtime, "renew", call).await;
            spans::record_outcome(&within, &result);
            drop(within);
            let input = Input::Renewed { login, attempt, sent, result };
            let _ = replies.send(Reply::Input(input));
        };
        self.tasks.spawn_on(renew.instrument(span), &self.runtime);
    }

    fn revoke(&mut self, login: LoginId, how: Revocation) {
        if self.logins.get(&login).is_some_and(|held| held.number.is_none()) {
            self.with_pools(|pools| pools.attached.iter().for_each(|pool| pool.discard()));
        }
        // Nothing is proven, installed or drained with it any more, and the number that it had as a
        // candidate goes to the next one.
        let Some(held) = self.logins.get_mut(&login) else {
            return;
        };
        held.generation = None;
        // Kept: another try may come while another rotation is under way.
        let rotation = &self.rotation;
        let within = || rotation.clone().unwrap_or_else(Span::none);
        let rotation = held.superseded.get_or_insert_with(within);
        let span = spans::revoke(Some(rotation), &self.name, held.number);
        let mode = match how {
            Revocation::Mode(mode) => mode,
            // The shortest a server understands: a lease cut to a second has ended by itself
            // before anybody looks.
            Revocation::Soft => {
                return self.renew_in(span, login, SOFT_REVOKE, Duration::from_secs(1));
            }
        };
        let (source, lease) = (self.source.clone(), held.lease.clone());
        let (replies, runtime) = (self.replies.clone(), self.runtime.clone());
        let within = span.clone();
        let revoke = async move {
            let call = async move { source.revoke(&lease, mode).await };
            let result = guarded(&runtime, "revoke", call).await;
            spans::record_outcome(&within, &result);
            drop(within);
            let _ = replies.send(Reply::Input(Input::Revoked { login, result }));
        };
        self.tasks.spawn_on(revoke.instrument(span), &self.runtime);
    }

    fn with_pools<T: Default>(&self, f: impl FnOnce(&mut Pools) -> T) -> T {
        match &self.shared {
            Some(shared) => f(&mut shared.pools.lock().unwrap_or_else(PoisonError::into_inner)),
            None => T::default(),
        }
    }

    fn forget_closed_pools(&mut self) {
        // A closed pool is still drained until a shutdown is over.
        if self.machine.is_stopping() {
            return;
        }
        let gone: Vec<String> = self.with_pools(|pools| {
            let gone = pools.attached.extract_if(.., |pool| pool.is_closed());
            gone.map(|pool| pool.name().to_owned()).collect()
        });
        for pool in gone {
            self.news.push_back(Event::PoolDetached { pool });
        }
    }

    fn publish_status(&self) {
        self.tell_health();
        if let Some(shared) = &self.shared {
            self.meter.state(shared, self.logins.len());
        }
    }

    fn tell_health(&self) {
        if let Some(shared) = &self.shared {
            let mut status = self.machine.status(self.clock.now());
            status.stopped.clone_from(&self.stopped);
            shared.status.send_replace(status);
        }
    }

    fn emit(&self, event: Event) {
        self.tell_log_and_meter(&event);
        for observer in &self.observers {
            observer(&event);
        }
        self.events.send(event);
    }

    fn tell_log_and_meter(&self, event: &Event) {
        crate::event::log(&self.name, event);
        self.meter.event(event, self.clock.now());
    }

    /// The last steps of a shutdown: the source's own, the tasks, the news.
    async fn wind_up(&mut self, mut remains: Vec<Remains>) {
        let parents: HashMap<String, _> = (self.logins.values())
            .filter_map(|held| {
                let parent = held.parent.as_ref()?.follow();
                Some((held.credential.username().to_owned(), parent))
            })
            .collect();
        // First what keeps tokens alive, so that the source may give them back.
        self.logins.clear();
        if broken!(LeavesTasks) {
            self.tasks.detach_all();
        }
        self.tasks.shutdown().await;
        let source = crate::source::close(self.source.clone(), &self.runtime).await;
        // A lease that nobody was allowed to revoke has gone all the same if the source gave back
        // the token that made it.
        let now = self.clock.now();
        remains.retain(|left| {
            let parent = left.username.as_ref().and_then(|user| parents.get(user));
            let ended = |parent: &watch::Receiver<ParentState>| {
                parent.borrow().ends.is_some_and(|ends| ends <= now)
            };
            !(left.goes_with_its_token && parent.is_some_and(ended))
        });
        if broken!(ReportsNothing) {
            remains.clear();
        }
        // Before the report: whoever waits for that may look at once.
        self.meter.shut_down(remains.len());
        // The report before the news: an observer may panic.
        self.report.send_replace(Some(Arc::new(ShutdownReport { remains, source })));
        self.stop("shut down".to_owned(), true);
    }

    fn stop(&mut self, cause: String, orderly: bool) {
        if self.stopped.is_some() {
            return;
        }
        self.stopped = Some(cause.clone());
        if !broken!(EndsInSilence) {
            self.tell_health();
        }
        if !orderly && let Some(shared) = &self.shared {
            let parents = self.logins.values_mut().filter_map(|held| held.parent.take());
            shared.kept.lock().unwrap_or_else(PoisonError::into_inner).extend(parents);
        }
        // Pools know their provider, and the provider its pools: not beyond the end of the task.
        drop(self.with_pools(|pools| {
            pools.closed = true;
            std::mem::take(&mut pools.attached)
        }));
        if !orderly && let Some(shared) = &self.shared {
            self.meter.state(shared, self.logins.len());
        }
        self.emit(Event::Stopped { cause, orderly });
    }

    /// The task panicked for the `life`th time.
    pub(super) fn panicked(&mut self, life: u32) {
        if life == 1 {
            let message = "the rotator's task panicked and was restarted".to_owned();
            let event = Event::Warning { pool: None, message };
            // Not to the observers: one of them may be what panics.
            self.tell_log_and_meter(&event);
            self.events.send(event);
        } else {
            // An observer may be what panics.
            self.observers.clear();
            self.stop("the rotator's task panicked twice".to_owned(), false);
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // Whatever ended the task, readers learn of it.
        self.observers.clear();
        self.stop("the rotator's task has ended: is its runtime shutting down?".to_owned(), false);
        // Credentials that came in too late to be looked at.
        self.reply_rx.close();
        while let Ok(reply) = self.reply_rx.try_recv() {
            if matches!(&*reply, Reply::Minted { result: Ok(_), .. }) {
                let source = self.source.clone();
                self.runtime.spawn(async move { revoke_late(&*source, *reply).await });
            }
        }
    }
}

async fn revoke_late(source: &dyn DynSource, reply: Reply) {
    if let Reply::Minted { result: Ok(issued), .. } = reply
        && issued.lease.id.is_some()
        && !broken!(KeepsLateMints)
        && let Err(error) = source.revoke(&issued.lease, RevokeMode::Sync).await
    {
        let user = issued.credential.username();
        tracing::warn!(target: "leasehold", "late credential {user} not revoked: {error}");
    }
}

/// Runs a source's future so that a panic in it is an answer like any other. Ends with whoever
/// waits: a renewal or a revocation that hangs does not outlive the rotator.
async fn guarded<T: Send + 'static>(
    runtime: &Handle,
    what: &str,
    call: impl Future<Output = Result<T, SourceError>> + Send + 'static,
) -> Result<T, SourceError> {
    let task = runtime.spawn(call.in_current_span());
    let _with_us = AbortOnDrop(task.abort_handle());
    match task.await {
        Ok(result) => result,
        Err(_) if broken!(AnswersNoPanic) => std::future::pending().await,
        Err(_) => Err(panicked(what)),
    }
}

struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn panicked(what: &str) -> SourceError {
    let message = format!("the source panicked in {what}; see the panic message on stderr");
    SourceError::new(ErrorKind::Other, message)
}
