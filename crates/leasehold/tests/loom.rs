//! Every interleaving, and everything the memory model allows, of what this crate agrees on by
//! atomics alone. The very files of the library, on loom's kind of atomics.

#![allow(clippy::unwrap_used, dead_code, unreachable_pub)]

/// In place of the library's own.
mod sync {
    pub(crate) use std::sync::atomic::Ordering;

    pub(crate) use loom::sync::atomic::AtomicU64;
}

#[path = "../src/hook/stamps.rs"]
mod stamps;
#[path = "../src/told.rs"]
mod told;

use loom::sync::{Arc, Mutex};
use loom::thread;
use stamps::{Stamps, Verdict};
use told::Told;

/// The further along, the worse.
fn worse(verdict: Verdict) -> u8 {
    match verdict {
        Verdict::Current => 0,
        Verdict::Superseded => 1,
        _ => 2,
    }
}

/// Connections made before the first swap, and between the two.
const FIRST: u64 = 5;
const SECOND: u64 = 15;

#[test]
fn i2_a_reader_that_sees_a_swap_sees_what_it_retired() {
    loom::model(|| {
        let stamps = Arc::new(Stamps::new());
        stamps.supersede(10);
        let reader = {
            let stamps = stamps.clone();
            thread::spawn(move || {
                let second = stamps.judge(SECOND);
                let first = stamps.judge(FIRST);
                if second != Verdict::Current {
                    assert_eq!(first, Verdict::Retired, "it was superseded twice");
                }
                assert_ne!(first, Verdict::Current, "it was superseded before all this");
            })
        };
        stamps.supersede(20);
        reader.join().unwrap();
    });
}

#[test]
fn i2_no_connection_ever_gets_better() {
    loom::model(|| {
        let stamps = Arc::new(Stamps::new());
        let reader = {
            let stamps = stamps.clone();
            thread::spawn(move || {
                let seen = [stamps.judge(FIRST), stamps.judge(FIRST)];
                assert!(seen.is_sorted_by_key(|&verdict| worse(verdict)), "{seen:?}");
            })
        };
        // A swap, the end of its dials, the end of its roll, and a login found dead.
        stamps.supersede(10);
        stamps.raise(12);
        stamps.harden();
        stamps.retire_all(30);
        reader.join().unwrap();
        assert_eq!(stamps.judge(FIRST), Verdict::Retired);
        assert_eq!(stamps.judge(30), Verdict::Retired);
        assert_eq!(stamps.judge(31), Verdict::Current);
    });
}

/// Once nothing older is left, the gate forgets; the next swap finds what is current then.
#[test]
fn i2_what_is_current_when_a_drain_ends_is_superseded_by_the_next_swap_and_not_retired() {
    loom::model(|| {
        let stamps = Arc::new(Stamps::new());
        stamps.supersede(10);
        stamps.harden();
        let reader = {
            let stamps = stamps.clone();
            thread::spawn(move || {
                let seen = [stamps.judge(SECOND), stamps.judge(SECOND)];
                assert!(seen.is_sorted_by_key(|&verdict| worse(verdict)), "{seen:?}");
                assert!(!seen.contains(&Verdict::Retired), "{seen:?}");
            })
        };
        stamps.clear();
        stamps.supersede(20);
        reader.join().unwrap();
        assert_eq!(stamps.judge(SECOND), Verdict::Superseded);
        assert!(!stamps.pass_all());
    });
}

/// What one reader was told to leave alone, another that hears of it from him leaves alone too.
#[test]
fn i2_what_one_reader_found_retired_is_retired_for_whom_he_tells() {
    loom::model(|| {
        let stamps = Arc::new(Stamps::new());
        stamps.supersede(10);
        let told = Arc::new(Mutex::new(false));
        let reader = {
            let (stamps, told) = (stamps.clone(), told.clone());
            thread::spawn(move || {
                if stamps.judge(FIRST) == Verdict::Retired {
                    *told.lock().unwrap() = true;
                }
            })
        };
        let writer = {
            let stamps = stamps.clone();
            thread::spawn(move || stamps.harden())
        };
        if *told.lock().unwrap() {
            assert_eq!(stamps.judge(FIRST), Verdict::Retired);
        }
        reader.join().unwrap();
        writer.join().unwrap();
    });
}

/// Reporters share a queue of one place that somebody else may have filled.
#[test]
fn what_was_seen_is_in_the_queue_or_news_to_the_next() {
    const GENERATION: u64 = 7;
    loom::model(|| {
        let told = Arc::new(Told::new());
        let queue = Arc::new(Mutex::new(vec![0]));
        let report = |told: &Told, queue: &Mutex<Vec<u64>>| {
            if told.is_news(GENERATION) {
                let mut queue = queue.lock().unwrap();
                if queue.is_empty() {
                    queue.push(GENERATION);
                } else {
                    drop(queue);
                    told.again(GENERATION);
                }
            }
        };
        let reporters = [(); 2].map(|()| {
            let (told, queue) = (told.clone(), queue.clone());
            thread::spawn(move || report(&told, &queue))
        });
        // The rotator takes what another put there.
        queue.lock().unwrap().clear();
        for reporter in reporters {
            reporter.join().unwrap();
        }
        let queued = queue.lock().unwrap().contains(&GENERATION);
        assert!(queued || told.is_news(GENERATION), "seen by two, and never heard of");
        assert!(queue.lock().unwrap().len() <= 1, "and told once");
    });
}

/// A new generation's report is not lost to somebody who gives up on the one before.
#[test]
fn giving_up_on_one_generation_does_not_forget_the_next() {
    loom::model(|| {
        let told = Arc::new(Told::new());
        assert!(told.is_news(1));
        let one = {
            let told = told.clone();
            thread::spawn(move || told.again(1))
        };
        assert!(told.is_news(2), "of another generation");
        one.join().unwrap();
        assert!(!told.is_news(2), "it was told, and nobody took that back");
    });
}
