//! Sees a phase begin, and holds it there until the fault is in force.

use std::sync::{Arc, Mutex, PoisonError};

use leasehold::{Event, Rotator};
use leasehold_testkit::{Catch, FaultProxy, Trap};
use tokio::sync::watch;

use super::cells::{Admin, Cell, Fault, Phase};
use super::scene::Scene;

/// Listens to the rotator, on its own task: what it sets a trap for has not been said yet.
#[derive(Clone)]
pub(crate) struct Lookout(Arc<Inner>);

struct Inner {
    phase: Phase,
    postgres: FaultProxy,
    /// The phase is wanted from now on: what came before was the start.
    ready: watch::Sender<bool>,
    seen: watch::Sender<bool>,
    trap: Mutex<Option<Trap>>,
    names: Mutex<Vec<(u64, String)>>,
}

impl Lookout {
    pub(crate) fn new(scene: &Scene) -> Self {
        Self(Arc::new(Inner {
            phase: scene.cell.phase,
            postgres: scene.postgres.clone(),
            ready: watch::Sender::new(false),
            seen: watch::Sender::new(false),
            trap: Mutex::default(),
            names: Mutex::default(),
        }))
    }

    /// To be called with every event, as it happens.
    pub(crate) fn hear(&self, event: &Event) {
        let inner = &*self.0;
        if let Event::Swapped { generation, username, .. } = event {
            lock(&inner.names).push((*generation, username.clone()));
        }
        if !*inner.ready.borrow() || *inner.seen.borrow() {
            return;
        }
        match (inner.phase, event) {
            // Its name is in the first thing that a connection says.
            (Phase::Prove | Phase::Swap, Event::Issued { username, .. }) => self.set(username),
            (Phase::Drain, Event::Swapped { .. }) => _ = inner.seen.send_replace(true),
            // And in the question how many sessions it has left.
            (Phase::Confirm, Event::RollEnded { generation, .. }) => {
                let names = lock(&inner.names);
                let name = names.iter().find(|(n, _)| n == generation);
                if let Some((_, username)) = name {
                    self.set(username);
                }
            }
            _ => {}
        }
    }

    fn set(&self, bytes: &str) {
        *lock(&self.0.trap) = Some(self.0.postgres.trap(Catch::request(bytes)));
        self.0.seen.send_replace(true);
    }

    /// Waits for the event, and takes the trap that it set.
    async fn seen(&self) -> Option<Trap> {
        // The sender is ours: it can't be gone.
        let _ = self.0.seen.subscribe().wait_for(|seen| *seen).await;
        lock(&self.0.trap).take()
    }
}

/// A request to Vault that tells a phase.
fn request(phase: Phase) -> Option<&'static str> {
    match phase {
        Phase::Issue => Some("/creds/"),
        Phase::Revoke => Some("/v1/sys/leases/revoke"),
        Phase::Renew => Some("/v1/sys/leases/renew"),
        Phase::TokenRenew => Some("/v1/auth/token/renew-self"),
        Phase::Relogin => Some("/v1/auth/approle/login"),
        _ => None,
    }
}

/// Sees to it that the phase comes, and waits until it does. What is returned holds it up.
pub(crate) async fn await_phase(
    scene: &Scene,
    lookout: &Lookout,
    rotator: &Rotator,
) -> Option<Trap> {
    let phase = scene.cell.phase;
    let trap = request(phase).map(|text| scene.vault.trap(Catch::request(text)));
    lookout.0.ready.send_replace(true);
    if phase.of_rotation() {
        rotator.rotate();
    }
    if let Some(trap) = trap {
        trap.caught().await;
        return Some(trap);
    }
    if phase == Phase::Shutdown {
        return None;
    }
    let trap = lookout.seen().await;
    if let Some(named) = &trap {
        let connection = named.caught().await;
        if phase == Phase::Swap {
            // The proof's own question is being answered: the swap is next.
            let answer = scene.postgres.trap(Catch::answer("role_oid").on(connection));
            drop(trap);
            answer.caught().await;
            return Some(answer);
        }
    }
    trap
}

/// What holds a start up: its first request; for what there must be something to break of, a later
/// one.
pub(crate) fn trap_start(scene: &Scene) -> Trap {
    let Cell { fault, .. } = scene.cell;
    match fault {
        Fault::Admin(Admin::TokenRevoked) => scene.vault.trap(Catch::request("/creds/")),
        // The pool's first connection.
        Fault::Admin(Admin::LeasesRevoked) => {
            scene.postgres.trap(Catch::request("application_name\0"))
        }
        _ => scene.vault.trap(Catch::request("/v1/auth/approle/login")),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
