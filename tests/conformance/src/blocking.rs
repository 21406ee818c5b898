//! Connections whose calls block.

use std::fmt;

/// Keeps `C` to threads that may be blocked: for pools of the blocking kind, whose connections must
/// not be used, closed or dropped where futures are polled.
pub struct Blocking<C: Send + 'static>(Option<C>);

impl<C: Send + 'static> Blocking<C> {
    /// What `make` brings.
    ///
    /// # Errors
    /// Those of `make`.
    pub async fn make<E: Send + 'static>(
        make: impl FnOnce() -> Result<C, E> + Send + 'static,
    ) -> Result<Self, E> {
        off_thread(make).await.map(|made| Self(Some(made)))
    }

    /// Calls `call` with it. Should the future be dropped, the call goes on to its end.
    pub async fn run<T: Send + 'static>(
        &mut self,
        call: impl FnOnce(&mut C) -> T + Send + 'static,
    ) -> T {
        let mut inner = self.0.take().expect("there: the last call has ended");
        let (inner, done) = off_thread(move || {
            let done = call(&mut inner);
            (inner, done)
        })
        .await;
        self.0 = Some(inner);
        done
    }

    /// Drops it, and returns when that is done: a pool's connection is back then.
    pub async fn end(mut self) {
        let inner = self.0.take();
        off_thread(move || drop(inner)).await;
    }
}

impl<C: Send + 'static> Drop for Blocking<C> {
    fn drop(&mut self) {
        if let Some(inner) = self.0.take() {
            tokio::task::spawn_blocking(move || drop(inner));
        }
    }
}

impl<C: Send + 'static> fmt::Debug for Blocking<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Blocking")
    }
}

async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};
    use std::thread::{ThreadId, current};

    use super::*;

    struct Witness(Arc<Mutex<Vec<ThreadId>>>);

    impl Drop for Witness {
        fn drop(&mut self) {
            self.0.lock().unwrap().push(current().id());
        }
    }

    #[tokio::test]
    async fn calls_and_drops_are_never_where_futures_are_polled() {
        let seen: Arc<Mutex<Vec<ThreadId>>> = Arc::default();
        let witness = || {
            let seen = seen.clone();
            Blocking::make(move || Ok::<_, ()>(Witness(seen)))
        };
        let mut one = witness().await.unwrap();
        one.run(|witness| witness.0.lock().unwrap().push(current().id())).await;
        one.end().await;
        drop(witness().await.unwrap());
        leasehold_testkit::eventually("a drop", crate::scene::LIMIT, async || {
            Ok(seen.lock().unwrap().len() == 3)
        })
        .await
        .unwrap();
        assert!(!seen.lock().unwrap().contains(&current().id()));
    }
}
