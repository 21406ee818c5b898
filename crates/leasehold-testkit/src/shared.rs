//! One stack for all tests of a program.

use tokio::sync::OnceCell;

use crate::{Result, Stack};

/// The stack of this process: started at the first call, ended with the process.
///
/// Only addresses are shared, so that each `#[tokio::test]` can come with its own runtime. Give
/// each test its own [`Stack::database`]; a test that seals, stops, restarts or counts what is the
/// server's as a whole needs a stack of its own.
///
/// A static is never dropped: the watchdog cleans up when the process ends.
pub async fn shared() -> Result<&'static Stack> {
    static STACK: OnceCell<Stack> = OnceCell::const_new();
    STACK.get_or_try_init(Stack::start).await
}
