//! What crates share that put a pool made with deadpool on a provider, whatever its manager keeps.
//! Not needed by applications.

pub use crate::guard::{Guard, Passage, arrival, hand_over};
pub use crate::pooled::Retained;
