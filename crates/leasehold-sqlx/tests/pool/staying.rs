//! Logins that stay: the password changes, the user name does not, and nothing is revoked.

use std::fmt;
use std::time::Duration;

use leasehold::{Credential, CredentialSource, Issued, Lease, Rotator, SourceError};

use crate::kit::{Events, Kit, fill, touch, who};

struct Staying(Credential);

impl fmt::Debug for Staying {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Staying")
    }
}

impl CredentialSource for Staying {
    async fn issue(&self) -> Result<Issued, SourceError> {
        Ok(Issued::new(self.0.clone(), Lease::endless()))
    }
}

/// Others may be logged in under the same name. None of them is waited for, or ended.
#[tokio::test(flavor = "multi_thread")]
async fn i3_sessions_of_a_login_that_stays_are_recycled_and_never_ended() {
    let kit = Kit::new("staying").await;
    let creds = kit.db.creds().await.unwrap();
    let source = Staying(Credential::new(&creds.username, &creds.password));
    let rotator = Rotator::builder(source).grace(Duration::from_secs(10)).start().await.unwrap();
    let provider = rotator.provider();
    let other = kit.db.connect(&creds.username, &creds.password).await.unwrap();
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
