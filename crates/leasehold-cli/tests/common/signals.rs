//! Signals for the program under test.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Once};

use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};

/// A runner in the background (`nohup`, `&`) ignores signals, what it starts inherits that, and the
/// program leaves ignored what was. A signal with a handler is the default again in a child.
pub(crate) fn heed() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        for signal in [SIGHUP, SIGINT, SIGQUIT, SIGTERM] {
            let end_as_usual = Arc::new(AtomicBool::new(true));
            signal_hook::flag::register_conditional_default(signal, end_as_usual).unwrap();
        }
    });
}
