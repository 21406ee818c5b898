//! User name and password.

use leasehold::ErrorKind;
use leasehold_vault::Auth;
use serde_json::json;

use crate::kit::{admin, carries_three_rotations, db, enable, refused, short_tokens};

pub async fn a_user_carries_a_lease_through_three_rotations() {
    let db = db("userpass").await;
    let mount = enable(&db, "userpass").await;
    let user = short_tokens(&db, json!({ "password": "correct horse battery" }));
    admin(&db, "POST", &format!("auth/{mount}/users/orders"), user).await;

    let e = refused(&db, Auth::userpass("orders", "incorrect horse").mount(&mount)).await;
    assert_eq!(e.kind(), ErrorKind::Denied);
    assert!(e.to_string().contains(&format!("auth/{mount}/login/orders")), "{e}");

    carries_three_rotations(&db, Auth::userpass("orders", "correct horse battery").mount(&mount))
        .await;
}
