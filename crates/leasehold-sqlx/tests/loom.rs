//! Every interleaving of the end of one swap's dials and the next swap. The library's own file, on
//! loom's kind of atomics.

#![allow(clippy::unwrap_used, dead_code)]

/// In place of the library's own.
mod sync {
    pub(crate) use std::sync::atomic::Ordering;

    pub(crate) use loom::sync::atomic::AtomicU64;
    pub(crate) use loom::sync::{Mutex, MutexGuard};
}

#[path = "../src/certain.rs"]
mod certain;

use certain::Certain;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::thread;

#[test]
fn nothing_is_certain_between_a_swap_and_the_end_of_its_dials() {
    loom::model(|| {
        let certain = Arc::new(Certain::new());
        certain.begin_with(1);
        certain.switch(2, |before| assert_eq!(before, 1));
        assert_eq!(certain.get(), None);
        let settling = {
            let certain = certain.clone();
            thread::spawn(move || certain.settled(1))
        };
        certain.switch(3, |before| assert_eq!(before, 2));
        assert_eq!(certain.get(), None, "dials with the second login may be under way");
        settling.join().unwrap();
        assert_eq!(certain.get(), None);
        certain.settled(2);
        assert_eq!(certain.get(), Some(3));
    });
}

/// As a hook reads it when a connection comes back: first what is certain, then what dials use.
#[test]
fn what_is_certain_is_never_ahead_of_what_dials_use() {
    loom::model(|| {
        let certain = Arc::new(Certain::new());
        let dials = Arc::new(AtomicU64::new(1));
        certain.begin_with(1);
        let reader = {
            let (certain, dials) = (certain.clone(), dials.clone());
            thread::spawn(move || {
                if let Some(number) = certain.get() {
                    assert!(dials.load(Ordering::Acquire) >= number);
                }
            })
        };
        certain.switch(2, |_| dials.store(2, Ordering::Release));
        certain.settled(1);
        reader.join().unwrap();
    });
}
