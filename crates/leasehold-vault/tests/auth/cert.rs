//! The client certificate of the connection.

use leasehold::ErrorKind;
use leasehold_vault::{Auth, Session};
use serde_json::json;

use crate::common::config;
use crate::kit::{admin, carry_on, db, enable, live, refused, short_tokens};

pub async fn a_client_certificate_carries_a_lease_through_three_rotations() {
    let db = db("cert").await;
    let mount = enable(&db, "cert").await;
    let role = short_tokens(
        &db,
        json!({ "certificate": db.stack().ca_pem(), "allowed_common_names": "orders.internal" }),
    );
    admin(&db, "POST", &format!("auth/{mount}/certs/orders"), role).await;
    let shown = |name: &str| {
        let own = db.stack().client_certificate(name).expect("a certificate");
        config(&db).client_certificate(own.cert_pem, own.key_pem)
    };
    let auth = |role| Auth::cert(role).mount(&mount);

    let e = refused(&db, auth(None)).await;
    assert_eq!(e.kind(), ErrorKind::Denied);
    assert!(e.to_string().contains("shows no client certificate"), "{e}");
    let e = Session::login(shown("payments.internal"), auth(None)).await.expect_err("another name");
    assert_eq!(e.kind(), ErrorKind::Denied, "{e}");
    assert!(e.to_string().contains(&format!("auth/{mount}/login")), "{e}");
    let e = Session::login(shown("orders.internal"), auth(Some("payments"))).await;
    assert_eq!(e.expect_err("no such role").kind(), ErrorKind::Denied);

    for role in [None, Some("orders")] {
        let session = Session::login(shown("orders.internal"), auth(role)).await.expect("login");
        if role.is_none() {
            assert_eq!(session.close().await, Vec::<String>::new());
            continue;
        }
        carry_on(&db, live(&db, session).await).await;
    }
}
