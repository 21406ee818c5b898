//! `LISTEN`, across rotations.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::task::JoinHandle;
use tokio_postgres::Notification;

use crate::diagnosis::kind;
use crate::{Connection, Connector, Error};

/// When a connect that failed is tried again: first, and at most.
const AGAIN: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// How the names of the listener's own channels begin.
const MARK: &str = "leasehold_mark_";

/// Listens on channels of Postgres, and moves to each new login without missing a notification or
/// telling one twice. Made by [`Connector::listen`].
///
/// At a swap a connection with the new login begins to listen beside the old one. Then both see one
/// notification of the listener's own, on a channel with a random name. Postgres tells all sessions
/// of a database in one order: what comes before that mark is taken from the old connection, what
/// comes after it from the new one.
///
/// Notifications that are not read yet are kept in memory, without a bound. Dropping the listener
/// closes its connections.
pub struct Listener {
    name: String,
    notifications: UnboundedReceiver<Result<Notification, Error>>,
    generation: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Listener {
    pub(crate) async fn start(connector: Connector, channels: Vec<String>) -> Result<Self, Error> {
        let ear = Ear::new(&connector, &channels).await?;
        let generation = Arc::new(AtomicU64::new(ear.connection.generation()));
        let (tell, notifications) = mpsc::unbounded_channel();
        let name = connector.name().to_owned();
        let worker = Worker { connector, channels, tell, generation: generation.clone() };
        Ok(Self { name, notifications, generation, task: tokio::spawn(worker.run(ear)) })
    }

    /// The next notification. Cancel safe.
    ///
    /// # Errors
    /// [`Error::Interrupted`], once, when the connection was lost: what was sent until a new one
    /// listens reached nobody. It listens again by itself, trying for as long as it takes. After
    /// the rotator's shutdown, [`Error::Stopped`] each time.
    pub async fn next(&mut self) -> Result<Notification, Error> {
        // The worker tells why it ends before it does.
        let next = self.notifications.recv().await;
        next.unwrap_or_else(|| Err(Error::Stopped { name: self.name.clone() }))
    }

    /// The generation with whose login it listens.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener").field("generation", &self.generation()).finish_non_exhaustive()
    }
}

/// A connection that listens, and what it heard.
struct Ear {
    connection: Connection,
    heard: UnboundedReceiver<Notification>,
}

impl Ear {
    async fn new(connector: &Connector, channels: &[String]) -> Result<Self, Error> {
        let (tell, heard) = mpsc::unbounded_channel();
        let connection = connector.connect_listening(tell).await?;
        let ear = Self { connection, heard };
        for channel in channels {
            let listening = ear.listen(channel).await;
            listening
                .map_err(|source| Error::Listen { name: connector.name().to_owned(), source })?;
        }
        Ok(ear)
    }

    async fn listen(&self, channel: &str) -> Result<(), tokio_postgres::Error> {
        self.connection.batch_execute(&format!("LISTEN {}", quoted(channel))).await
    }
}

struct Worker {
    connector: Connector,
    channels: Vec<String>,
    tell: UnboundedSender<Result<Notification, Error>>,
    generation: Arc<AtomicU64>,
}

impl Worker {
    async fn run(self, mut ear: Ear) {
        loop {
            self.generation.store(ear.connection.generation(), Ordering::Relaxed);
            let lost = self.listen(&mut ear).await;
            if lost {
                self.tell(Err(Error::Interrupted { name: self.name() }));
                drop(ear);
                let Some(next) = self.again().await else {
                    return;
                };
                ear = next;
                continue;
            }
            match self.change_over(ear).await {
                Some(next) => ear = next,
                None => return,
            }
        }
    }

    /// Tells what it hears until a swap. True: the connection was lost.
    async fn listen(&self, ear: &mut Ear) -> bool {
        loop {
            tokio::select! {
                heard = ear.heard.recv() => match heard {
                    Some(notification) => self.pass(notification),
                    None => return true,
                },
                () = ear.connection.superseded() => return false,
            }
        }
    }

    /// Moves to the current login. `None`: the rotator has shut down.
    async fn change_over(&self, mut old: Ear) -> Option<Ear> {
        let (mut pause, most) = AGAIN;
        loop {
            match self.try_change_over(&mut old).await {
                Ok(Some(next)) => return Some(next),
                // The old one ended midway.
                Ok(None) => {
                    self.tell(Err(Error::Interrupted { name: self.name() }));
                    return self.again().await;
                }
                Err(error @ Error::Stopped { .. }) => {
                    self.tell(Err(error));
                    return None;
                }
                Err(error) => tracing::debug!(
                    target: "leasehold",
                    "connector {}: no second listener yet: {error}", self.connector.name(),
                ),
            }
            // What the old one hears is told meanwhile.
            let paused = tokio::time::sleep(pause);
            tokio::pin!(paused);
            loop {
                tokio::select! {
                    heard = old.heard.recv() => match heard {
                        Some(notification) => self.pass(notification),
                        None => {
                            self.tell(Err(Error::Interrupted { name: self.name() }));
                            return self.again().await;
                        }
                    },
                    () = &mut paused => break,
                }
            }
            pause = most.min(pause * 2);
        }
    }

    /// `Ok(None)`: the old connection was lost before both had heard the mark.
    async fn try_change_over(&self, old: &mut Ear) -> Result<Option<Ear>, Error> {
        let mut new = Ear::new(&self.connector, &self.channels).await?;
        let mark = format!("{MARK}{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..));
        let said = async {
            old.listen(&mark).await?;
            new.listen(&mark).await?;
            new.connection.batch_execute(&format!("NOTIFY {}", quoted(&mark))).await
        };
        if let Err(error) = said.await {
            tracing::debug!(
                target: "leasehold",
                "connector {}: listeners not marked: {}", self.connector.name(), kind(&error),
            );
            if old.connection.is_closed() {
                return Ok(None);
            }
            return Err(Error::Listen { name: self.name(), source: error });
        }
        loop {
            match old.heard.recv().await {
                Some(notification) if notification.channel() == mark => break,
                Some(notification) => self.pass(notification),
                None => return Ok(None),
            }
        }
        loop {
            match new.heard.recv().await {
                Some(notification) if notification.channel() == mark => break,
                // The old one has told it.
                Some(_) => {}
                // After the mark nothing was told: what the new one missed is missed.
                None => return Ok(None),
            }
        }
        // Ends the session's interest in a channel that nobody uses again.
        let _ = new.connection.batch_execute(&format!("UNLISTEN {}", quoted(&mark))).await;
        Ok(Some(new))
    }

    /// Listens anew, however long it takes. `None`: the rotator has shut down.
    async fn again(&self) -> Option<Ear> {
        let (mut pause, most) = AGAIN;
        loop {
            match Ear::new(&self.connector, &self.channels).await {
                Ok(ear) => return Some(ear),
                Err(error @ Error::Stopped { .. }) => {
                    self.tell(Err(error));
                    return None;
                }
                Err(error) => tracing::debug!(
                    target: "leasehold",
                    "connector {}: not listening yet: {error}", self.connector.name(),
                ),
            }
            tokio::time::sleep(pause).await;
            pause = most.min(pause * 2);
        }
    }

    fn pass(&self, notification: Notification) {
        // A mark of an attempt that came to nothing.
        if !notification.channel().starts_with(MARK) {
            self.tell(Ok(notification));
        }
    }

    fn tell(&self, what: Result<Notification, Error>) {
        // The listener aborts this task when it goes.
        let _ = self.tell.send(what);
    }

    fn name(&self) -> String {
        self.connector.name().to_owned()
    }
}

/// An identifier, whatever is in it.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
