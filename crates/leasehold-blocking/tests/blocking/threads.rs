//! The background thread: who may call, and when it ends.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use leasehold::HealthState;
use leasehold_blocking::{InsideRuntime, Rotator, Runtime, StartError};

use crate::kit::{Kit, LIMIT, who};

#[test]
fn called_inside_a_runtime_it_says_so_and_does_nothing() {
    let kit = Kit::new("bl_inside");
    let rotator = kit.start();
    let theirs = tokio::runtime::Runtime::new().unwrap();
    theirs.block_on(async {
        let error = kit.runtime.block_on(async {}).unwrap_err();
        assert!(error.to_string().contains("await"), "{error}");
        assert_eq!(rotator.shutdown(LIMIT).unwrap_err(), InsideRuntime);
        let builder = leasehold::Rotator::builder(kit.source());
        let error = Rotator::start(&kit.runtime, builder).unwrap_err();
        assert!(matches!(error, StartError::InsideRuntime(_)), "{error:?}");
    });
    // On its own thread, too, where it would wait for itself.
    let (runtime, (said, heard)) = (kit.runtime.clone(), mpsc::channel());
    kit.runtime.handle().spawn(async move { said.send(runtime.block_on(async {})) });
    assert_eq!(heard.recv_timeout(LIMIT).unwrap(), Err(InsideRuntime));
    assert_eq!(rotator.provider().health().state, HealthState::Ready);
    assert!(rotator.shutdown(LIMIT).unwrap().is_clean());
}

#[test]
fn a_rotator_keeps_the_thread_and_a_pool_outlives_both() {
    let kit = Kit::new("bl_outlived");
    let rotator = kit.start();
    let provider = rotator.provider();
    let pool = kit.pool(&provider, 2);
    let other = Runtime::new().unwrap();
    // The test's own part of the servers, from another runtime from here on.
    let Kit { runtime, db, session } = kit;
    drop(runtime);
    assert_eq!(provider.health().state, HealthState::Ready, "the rotator has a clone");
    drop(rotator);
    let begun = Instant::now();
    while provider.health().state != HealthState::Stopped {
        assert!(begun.elapsed() < LIMIT, "{:?}", provider.health());
        std::thread::sleep(Duration::from_millis(5));
    }
    // The last login lives on until its lease ends; both connections are dialled with it.
    let current = provider.current().credential().username().to_owned();
    let mut both = [pool.get().unwrap(), pool.get().unwrap()];
    assert!(both.iter_mut().all(|client| who(client) == current));
    drop((both, pool, session));
    assert_eq!(other.block_on(db.lease_count()).unwrap().unwrap(), 1, "nothing is revoked");
}

#[test]
fn the_last_clone_may_be_one_that_a_task_has() {
    let runtime = Runtime::new().unwrap();
    let clone = runtime.clone();
    let (go, gone) = tokio::sync::oneshot::channel::<()>();
    let (ended, seen) = mpsc::channel();
    runtime.handle().spawn(async move {
        let _ = gone.await;
        // On the runtime's own thread, which can't wait for itself.
        drop(clone);
        ended.send(()).unwrap();
    });
    drop(runtime);
    go.send(()).unwrap();
    seen.recv_timeout(LIMIT).unwrap();
}

struct Ending(Arc<AtomicBool>);

impl Drop for Ending {
    fn drop(&mut self) {
        // The thread that waits for this one gets its time here, if it does not wait.
        std::thread::yield_now();
        self.0.store(true, SeqCst);
    }
}

#[test]
fn the_drop_of_the_last_clone_waits_until_all_that_ran_there_has_ended() {
    for _ in 0..50 {
        let runtime = Runtime::new().unwrap();
        let ended = Arc::new(AtomicBool::new(false));
        let ending = Ending(ended.clone());
        runtime.handle().spawn(async move {
            let _ending = ending;
            std::future::pending::<()>().await;
        });
        drop(runtime);
        assert!(ended.load(SeqCst), "it still runs");
    }
}

/// A process of its own: it is the threads of a process that are counted.
#[test]
fn no_thread_is_left_when_it_is_dropped() {
    const CHILD: &str = "LEASEHOLD_BLOCKING_CHILD";
    const NAME: &str = "threads::no_thread_is_left_when_it_is_dropped";
    if std::env::var_os(CHILD).is_some() {
        return alone();
    }
    let me = std::env::current_exe().unwrap();
    let child = std::process::Command::new(me)
        .args([NAME, "--exact", "--nocapture", "--test-threads=1"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success(), "{said}{}", String::from_utf8_lossy(&child.stderr));
    assert!(said.contains("1 passed"), "{said}");
}

fn alone() {
    let kit = Kit::new("bl_threads");
    let rotator = kit.start();
    let pool = kit.pool(&rotator.provider(), 2);
    pool.get().unwrap().query_one("SELECT 1", &[]).unwrap();
    assert!(named("leasehold") >= 1, "its own thread is counted");
    assert!(rotator.shutdown(LIMIT).unwrap().is_clean());
    drop((pool, rotator));
    // Ends its task, which is on our runtime, before that.
    kit.wait(kit.session.close());
    drop(kit);
    // r2d2 does not wait for its threads, nor is it waited for those that close connections.
    let begun = Instant::now();
    while named("leasehold") + named("r2d2") > 0 {
        assert!(begun.elapsed() < LIMIT, "{} threads", named("leasehold") + named("r2d2"));
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// How many threads of this process have a name that begins so.
fn named(prefix: &str) -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let names =
        tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.filter(|name| name.starts_with(prefix)).count()
}
