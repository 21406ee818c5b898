//! Waiting for a condition instead of for a time.

use std::time::{Duration, Instant};

use crate::{Error, Result};

/// Asks every 10 ms until the answer is yes, and fails with `what` when it is not so within
/// `limit`. An error of the question counts as a no; the last one is reported.
///
/// ```no_run
/// # async fn f(db: leasehold_testkit::TestDb) -> leasehold_testkit::Result<()> {
/// use std::time::Duration;
/// use leasehold_testkit::eventually;
///
/// eventually("the logins are gone", Duration::from_secs(5), async || {
///     Ok(db.logins().await?.is_empty())
/// })
/// .await
/// # }
/// ```
pub async fn eventually(
    what: &str,
    limit: Duration,
    mut question: impl AsyncFnMut() -> Result<bool>,
) -> Result<()> {
    let begun = Instant::now();
    loop {
        let answer = question().await;
        if matches!(answer, Ok(true)) {
            return Ok(());
        }
        if begun.elapsed() > limit {
            let what = match answer {
                Err(e) => format!("{what} ({e})"),
                Ok(_) => what.to_owned(),
            };
            return Err(Error::Timeout { what, after: limit });
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
