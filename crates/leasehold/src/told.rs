//! What was told already: a thousand failing queries tell it once.

use crate::sync::{AtomicU64, Ordering};

/// The generation about which something was told last.
#[derive(Debug)]
pub(crate) struct Told(AtomicU64);

impl Told {
    pub(crate) fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Whether it is news about `generation`. Then it is for the caller to tell it, or to say
    /// [`again`](Self::again).
    pub(crate) fn is_news(&self, generation: u64) -> bool {
        self.0.swap(generation, Ordering::AcqRel) != generation
    }

    /// The next one who sees this of `generation` is heard, though it was told before. Only of
    /// that generation: of a newer one it may have been told meanwhile.
    pub(crate) fn again(&self, generation: u64) {
        let _ = self.0.compare_exchange(generation, 0, Ordering::AcqRel, Ordering::Relaxed);
    }
}
