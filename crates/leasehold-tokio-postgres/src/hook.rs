//! What crates share that put a pool over tokio-postgres on a provider. Not needed by applications.
//!
//! An [`Engine`] counts, judges, proves and drains the connections of one pool; the pool's own part
//! is a [`Pooled`]. [`Slots`] is that for pools that call their manager both when they hand a
//! connection out and when they get one back.

use std::sync::Arc;

use leasehold::CredentialProvider;
use leasehold::hook::ManagedPool;

use crate::Error;
pub use crate::control::{Unproven, check};
pub use crate::diagnosis::{explain, is_authentication, kind, refusal, sqlstate};
pub use crate::engine::{Admission, Engine, EngineSettings, Pooled, Seat, WARMING};
pub use crate::link::{Dial, Driver, Link, Notifications, TlsDial, with_login};
pub use crate::managed::Managed;
pub use crate::sample::{SAMPLE, sample};
pub use crate::slots::{Slots, Slotted};
pub use crate::spare::{Opener, Spare, Spares, opener};

/// Attaches the pool of `engine`. Nothing may have been dialled with it before.
///
/// # Errors
/// [`Error::Stopped`] once the rotator is shut down or gone.
pub fn attach(provider: &CredentialProvider, engine: &Arc<Engine>) -> Result<(), Error> {
    let attached = provider.attach(|current| {
        engine.begin_with(current);
        (Arc::new(Managed::new(engine.clone())) as Arc<dyn ManagedPool>, ())
    });
    attached.map_err(|_| Error::Stopped { name: engine.name().to_owned() })
}
