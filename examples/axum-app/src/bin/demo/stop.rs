//! Ctrl-C, once to end in order, twice to end.

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::console::{Console, Tint};

/// Remembers that somebody asked to stop, also while nobody waits for it.
#[derive(Clone, Debug)]
pub(crate) struct Stop(watch::Receiver<bool>);

impl Stop {
    /// Listens for SIGINT, SIGTERM and a reader who has gone.
    pub(crate) fn listen(console: &Console) -> std::io::Result<Self> {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let (asked, stop) = watch::channel(false);
        let console = console.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                () = console.gone() => {}
            }
            console.line(Tint::Plain, "stopping in order; once more to quit at once");
            asked.send_replace(true);
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            // Servers of ours end with us, whatever way; logins on others live until their TTL.
            eprintln!("quitting at once: logins that were not revoked end by their TTL");
            std::process::exit(130);
        });
        Ok(Self(stop))
    }

    pub(crate) fn asked(&self) -> bool {
        *self.0.borrow()
    }

    pub(crate) async fn wait(&mut self) {
        // An error: the task above ended, which it does only with the process.
        let _ = self.0.wait_for(|asked| *asked).await;
    }
}
