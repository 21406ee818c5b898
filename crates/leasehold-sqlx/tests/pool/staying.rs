//! Logins that stay: the password changes, the user name does not, and nothing is revoked.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use leasehold::{Credential, CredentialSource, Issued, Lease, Rotator, SourceError};
use leasehold_testkit::TestDb;

use crate::kit::{Events, Kit, fill, touch, who};

/// The user stays; the password is changed each time after the first.
struct Staying(TestDb, String, AtomicU64);

impl fmt::Debug for Staying {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Staying")
    }
}

impl CredentialSource for Staying {
    async fn issue(&self) -> Result<Issued, SourceError> {
        let password = format!("password-{}", self.2.fetch_add(1, Ordering::Relaxed));
        let sql = format!("alter role \"{}\" password '{password}'", self.1);
        self.0.admin().await.unwrap().batch_execute(&sql).await.unwrap();
        Ok(Issued::new(Credential::new(&self.1, password), Lease::endless()))
    }
}

/// Others may be logged in under the same name. None of them is waited for, or ended.
#[tokio::test(flavor = "multi_thread")]
async fn i3_sessions_of_a_login_that_stays_are_recycled_and_never_ended() {
    let kit = Kit::new("staying").await;
    let creds = kit.db.creds().await.unwrap();
    let source = Staying(kit.db.clone(), creds.username.clone(), AtomicU64::new(0));
    let rotator = Rotator::builder(source).grace(Duration::from_secs(10)).start().await.unwrap();
    let provider = rotator.provider();
    let password = provider.current().credential().expose_password().to_owned();
    let other = kit.db.connect(&creds.username, &password).await.unwrap();
    let pool = kit.pool(&provider, 3).await;
    fill(&pool, 3).await;
    let mut held = pool.acquire().await.unwrap();
    let (_, pid) = who(&mut held).await;
    let mut events = Events::of(&provider);
    rotator.rotate();
    events.swapped().await;
    events.drained_cleanly().await;
    touch(&mut held).await.unwrap();
    // It is superseded all the same.
    held.return_to_pool().await;
    assert_eq!(pool.num_idle(), 2);
    for _ in 0..2 {
        let mut conn = pool.acquire().await.unwrap();
        assert_ne!(who(&mut conn).await.1, pid);
        conn.return_to_pool().await;
    }
    let report = rotator.shutdown(Duration::from_secs(10)).await;
    assert!(report.is_clean(), "{report}");
    events.drained_cleanly().await;
    other.simple_query("SELECT v FROM accounts WHERE id = 1").await.unwrap();
}
