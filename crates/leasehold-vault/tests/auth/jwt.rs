//! JWT by file.

use std::time::SystemTime;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use leasehold::ErrorKind;
use leasehold_vault::Auth;
use rcgen::{KeyPair, PKCS_ED25519, PublicKeyData, SigningKey};
use serde_json::{Value, json};

use crate::kit::{Dir, admin, carry_on, db, enable, live, login, put, refused, short_tokens};

pub fn now() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().expect("after 1970").as_secs()
}

/// A JWT of this header and these claims, with whatever signs it.
pub fn jwt(header: &Value, claims: &Value, sign: impl Fn(&[u8]) -> Vec<u8>) -> String {
    let part = |value: &Value| BASE64.encode(value.to_string());
    let signed = format!("{}.{}", part(header), part(claims));
    let signature = BASE64.encode(sign(signed.as_bytes()));
    format!("{signed}.{signature}")
}

fn for_subject(key: &KeyPair, subject: &str) -> String {
    let claims = json!({ "sub": subject, "aud": "leasehold", "iat": now(), "exp": now() + 600 });
    let sign = |bytes: &[u8]| key.sign(bytes).expect("signed");
    jwt(&json!({ "alg": "EdDSA", "typ": "JWT" }), &claims, sign)
}

pub async fn a_jwt_that_is_read_anew_carries_a_lease_through_three_rotations() {
    let db = db("jwt").await;
    let dir = Dir::new(&db);
    let file = dir.path("jwt");
    let key = KeyPair::generate_for(&PKCS_ED25519).expect("a key");
    let mount = enable(&db, "jwt").await;
    let config = json!({ "jwt_validation_pubkeys": public_pem(&key) });
    admin(&db, "POST", &format!("auth/{mount}/config"), config).await;
    let role = |subject| {
        short_tokens(
            &db,
            json!({
                "role_type": "jwt", "user_claim": "sub", "bound_audiences": "leasehold",
                "bound_subject": subject,
            }),
        )
    };
    let path = format!("auth/{mount}/role/orders");
    admin(&db, "POST", &path, role("first")).await;
    let auth = || Auth::jwt("orders", &file).mount(&mount);

    let e = refused(&db, auth()).await;
    assert!(e.is_transient() && e.to_string().contains(&format!("{file:?}")), "{e}");
    put(&file, "not.a.jwt");
    let e = refused(&db, auth()).await;
    assert_eq!(e.kind(), ErrorKind::Denied, "{e}");
    put(&file, &for_subject(&key, "nobody"));
    let e = refused(&db, auth()).await;
    assert!(e.to_string().contains(&format!("auth/{mount}/login")), "{e}");
    let e = refused(&db, Auth::jwt("nobody", &file).mount(&mount)).await;
    assert!(e.to_string().contains("nobody"), "{e}");

    put(&file, &for_subject(&key, "first"));
    let life = live(&db, login(&db, auth()).await).await;
    // From here on the server takes another JWT only, which is in the file by then.
    put(&file, &for_subject(&key, "second"));
    admin(&db, "POST", &path, role("second")).await;
    carry_on(&db, life).await;
}

fn public_pem(key: &KeyPair) -> String {
    let der = base64::prelude::BASE64_STANDARD.encode(key.subject_public_key_info());
    format!("-----BEGIN PUBLIC KEY-----\n{der}\n-----END PUBLIC KEY-----\n")
}
