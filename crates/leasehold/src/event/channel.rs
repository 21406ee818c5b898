//! The way of events to those who listen.

use std::sync::{Arc, OnceLock};

use tokio::sync::broadcast;

use super::Event;

/// How many events a reader may lag before it is told that it missed some: about ten rotations.
const BACKLOG: usize = 256;

/// One rotator's events. Room for them is made when the first reader comes: most rotators have
/// none, and it is ten times what the rest of a rotator takes.
#[derive(Clone, Default)]
pub(crate) struct Channel(Arc<OnceLock<broadcast::Sender<Event>>>);

impl Channel {
    /// All that is sent from now on.
    pub(crate) fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.0.get_or_init(|| broadcast::Sender::new(BACKLOG)).subscribe()
    }

    pub(crate) fn send(&self, event: Event) {
        if let Some(readers) = self.0.get() {
            // All of them may have gone.
            let _ = readers.send(event);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_reader_hears_what_comes_after_it_and_the_end() {
        let channel = Channel::default();
        let event = |generation| Event::Expired { generation };
        channel.send(event(1));
        let mut reader = channel.subscribe();
        channel.clone().send(event(2));
        assert!(matches!(reader.try_recv(), Ok(Event::Expired { generation: 2 })));
        drop(channel);
        assert_eq!(reader.try_recv().unwrap_err(), broadcast::error::TryRecvError::Closed);
    }
}
