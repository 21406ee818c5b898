//! Rotations under the load of threads.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use leasehold::Rotator as Async;
use leasehold_blocking::Rotator;

use crate::kit::{Events, Kit, LIMIT};

const THREADS: usize = 8;
const ROTATIONS: usize = 10;

#[test]
fn ten_rotations_under_the_load_of_eight_threads_fail_nothing_and_a_shutdown_leaves_nothing() {
    // Rotations that are asked for are permitted once in half a TTL.
    let kit = Kit::with_ttl("bl_load", Duration::from_secs(6));
    let builder = Async::builder(kit.source()).roll(Duration::from_millis(300));
    let builder = builder.grace(Duration::from_secs(2));
    let rotator = Rotator::start(&kit.runtime, builder).unwrap();
    let provider = rotator.provider();
    let pool = kit.pool(&provider, 4);
    let mut events = Events::of(&provider);
    let (over, done) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        for id in 0..THREADS {
            let (pool, over, done) = (&pool, &over, &done);
            scope.spawn(move || {
                let id = i32::try_from(id).unwrap();
                while !over.load(SeqCst) {
                    let mut client = pool.get().unwrap();
                    let mut transaction = client.transaction().unwrap();
                    let sql = "UPDATE accounts SET v = v + 1 WHERE id = $1";
                    transaction.execute(sql, &[&id]).unwrap();
                    transaction.commit().unwrap();
                    done.fetch_add(1, SeqCst);
                }
            });
        }
        // Also where an assertion fails: the threads would go on for ever.
        let _over = Over(&over);
        for _ in 0..ROTATIONS {
            let before = done.load(SeqCst);
            rotator.rotate();
            events.swapped(&kit);
            events.drained(&kit);
            events.revoked(&kit);
            kit.eventually("more is done", async || done.load(SeqCst) > before + THREADS);
        }
    });
    let admin = kit.admin();
    let sum = kit.wait(admin.query_one("SELECT sum(v)::bigint FROM accounts", &[])).unwrap();
    assert_eq!(usize::try_from(sum.get::<_, i64>(0)).unwrap(), done.load(SeqCst));
    drop(admin);
    println!("{} transactions, none failed, {ROTATIONS} rotations", done.load(SeqCst));

    let report = rotator.shutdown(LIMIT).unwrap();
    assert!(report.is_clean(), "{report}");
    kit.nothing_left();
    let error = pool.get_timeout(Duration::from_millis(100)).unwrap_err();
    assert!(error.to_string().contains("shut down"), "{error}");
}

struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}
