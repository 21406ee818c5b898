//! A body that the application makes itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use leasehold::{ErrorKind, SourceError};
use leasehold_testkit::AppRoleSpec;
use leasehold_vault::Auth;
use serde_json::json;

use crate::kit::{S, carries_three_rotations, db_with, refused};

pub async fn a_body_made_for_each_login_carries_a_lease_through_three_rotations() {
    let short = AppRoleSpec::new().token_ttl(3 * S).token_max_ttl(6 * S).secret_id_num_uses(1);
    let db = db_with("custom", short).await;
    let made = Arc::new(AtomicU64::new(0));
    let (role_id, maker, count) = (db.role_id().to_owned(), (*db).clone(), made.clone());
    // A secret_id is good for one login, as a signed request is.
    let auth = Auth::custom("auth/approle/login", move || {
        let (role_id, maker, count) = (role_id.clone(), maker.clone(), count.clone());
        async move {
            count.fetch_add(1, Ordering::Relaxed);
            let secret_id = maker.secret_id().await.map_err(|e| {
                SourceError::new(ErrorKind::ServerFault, "asking for a secret_id").caused_by(e)
            })?;
            Ok(json!({ "role_id": role_id, "secret_id": secret_id }))
        }
    });
    carries_three_rotations(&db, auth).await;
    assert!(made.load(Ordering::Relaxed) >= 2);
}

#[tokio::test]
async fn an_error_of_the_maker_and_a_body_that_is_refused_are_told_apart() {
    let db = db_with("custom_refused", AppRoleSpec::new()).await;
    let failing = || async { Err(SourceError::new(ErrorKind::ServerFault, "no signing key yet")) };
    let e = refused(&db, Auth::custom("auth/approle/login", failing)).await;
    assert!(e.is_transient() && e.to_string().contains("no signing key yet"), "{e}");
    let wrong = || async { Ok(json!({ "role_id": "nobodys", "secret_id": "nobodys" })) };
    let e = refused(&db, Auth::custom("auth/approle/login", wrong)).await;
    assert_eq!(e.kind(), ErrorKind::Denied, "{e}");
    let e = refused(&db, Auth::custom("auth/nowhere/login", wrong)).await;
    assert!(e.to_string().contains("auth/nowhere/login"), "{e}");
    assert!(!e.is_transient(), "{e}");
}

#[tokio::test]
async fn what_can_not_work_is_refused_before_anything_is_sent() {
    let db = db_with("unsent", AppRoleSpec::new()).await;
    let asked = Arc::new(AtomicU64::new(0));
    let count = asked.clone();
    let auth = Auth::custom("auth/approle/../../sys/seal", move || {
        count.fetch_add(1, Ordering::Relaxed);
        async { Ok(json!({})) }
    });
    let e = refused(&db, auth).await;
    assert!(e.to_string().contains("auth.path") && e.to_string().contains(".."), "{e}");
    assert!(!e.is_transient() && asked.load(Ordering::Relaxed) == 0);
    let e = refused(&db, Auth::approle("role", "secret").mount("../../sys")).await;
    assert!(e.to_string().contains("auth.mount"), "{e}");
}
