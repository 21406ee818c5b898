//! Kubernetes, with a stand-in for what the cluster's API says of a service account's token.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use leasehold::ErrorKind;
use leasehold_vault::Auth;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::jwt::{jwt, now};
use crate::kit::{Dir, admin, carry_on, db, enable, live, login, put, refused, short_tokens};

/// Knows which tokens are valid, and answers TokenReviews.
struct Cluster {
    address: String,
    valid: Arc<Mutex<HashSet<String>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Cluster {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = format!("http://{}", listener.local_addr().expect("bound"));
        let valid = Arc::<Mutex<HashSet<String>>>::default();
        let known = valid.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(review(stream, known.clone()));
            }
        });
        Self { address, valid, task }
    }

    /// A token of the service account, in place of those before.
    fn token(&self, serial: u64) -> String {
        let claims = json!({
            "iss": "https://kubernetes.default.svc.cluster.local",
            "aud": ["https://kubernetes.default.svc"],
            "iat": now() - 1, "nbf": now() - 1, "exp": now() + 600, "jti": serial.to_string(),
            "sub": "system:serviceaccount:shop:orders",
            "kubernetes.io": {
                "namespace": "shop", "serviceaccount": { "name": "orders", "uid": "uid-1" },
            },
        });
        // The cluster's own signature, which only the cluster can check.
        let token = jwt(&json!({ "alg": "RS256" }), &claims, |_| vec![7; 256]);
        *self.valid.lock().expect("lock") = HashSet::from([token.clone()]);
        token
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn review(stream: TcpStream, valid: Arc<Mutex<HashSet<String>>>) {
    let mut stream = BufReader::new(stream);
    loop {
        let (mut line, mut length) = (String::new(), 0);
        loop {
            line.clear();
            if !matches!(stream.read_line(&mut line).await, Ok(1..)) {
                return;
            }
            let header = line.trim().to_ascii_lowercase();
            if let Some(value) = header.strip_prefix("content-length:") {
                length = value.trim().parse().expect("a length");
            }
            if header.is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.expect("a body");
        let asked: Value = serde_json::from_slice(&body).expect("a TokenReview");
        let token = asked["spec"]["token"].as_str().expect("a token");
        let known = valid.lock().expect("lock").contains(token);
        let status = if known {
            json!({
                "authenticated": true,
                "audiences": asked["spec"]["audiences"],
                "user": { "username": "system:serviceaccount:shop:orders", "uid": "uid-1" },
            })
        } else {
            json!({ "authenticated": false, "error": "token is not valid" })
        };
        let answer = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "status": status,
        })
        .to_string();
        let head = format!(
            "HTTP/1.1 201 Created\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            answer.len()
        );
        let whole = head + &answer;
        if stream.get_mut().write_all(whole.as_bytes()).await.is_err() {
            return;
        }
    }
}

pub async fn a_service_account_carries_a_lease_through_three_rotations() {
    let db = db("kubernetes").await;
    let dir = Dir::new(&db);
    let file = dir.path("token");
    let cluster = Cluster::start().await;
    let mount = enable(&db, "kubernetes").await;
    let config = json!({
        "kubernetes_host": cluster.address,
        // Wanted by the server, whatever the host's scheme is.
        "kubernetes_ca_cert": db.stack().ca_pem(),
        "disable_local_ca_jwt": true,
    });
    admin(&db, "POST", &format!("auth/{mount}/config"), config).await;
    let role = short_tokens(
        &db,
        json!({
            "bound_service_account_names": "orders", "bound_service_account_namespaces": "shop",
        }),
    );
    admin(&db, "POST", &format!("auth/{mount}/role/orders"), role).await;
    let auth = || Auth::kubernetes_token("orders", &file).mount(&mount);

    // Not there yet: an error at the start, which says where it was looked for.
    let e = refused(&db, auth()).await;
    assert!(e.is_transient() && e.to_string().contains(&format!("{file:?}")), "{e}");
    let e = refused(&db, Auth::kubernetes("orders").mount(&mount)).await;
    let default = "/var/run/secrets/kubernetes.io/serviceaccount/token";
    assert!(e.to_string().contains(default), "{e}");

    let stale = cluster.token(1);
    put(&file, &cluster.token(2));
    let life = live(&db, login(&db, auth()).await).await;
    // The kubelet has replaced it; the one before is good for nothing.
    put(&file, &cluster.token(3));
    life.logs_in(2).await;
    // For a moment there is none: tried again, and nobody notices.
    std::fs::remove_file(&file).expect("removed");
    let next = cluster.token(4);
    leasehold_testkit::eventually("a login that fails", crate::kit::PATIENCE, async || {
        Ok({
            let said = format!("reading the service-account token from {file:?}");
            crate::common::capture::Capture::global().text().contains(&said)
        })
    })
    .await
    .expect("met");
    put(&file, &next);
    life.logs_in(3).await;
    carry_on(&db, life).await;

    put(&file, &stale);
    let e = refused(&db, auth()).await;
    assert_eq!(e.kind(), ErrorKind::Denied, "{e}");
    assert!(e.to_string().contains(&format!("auth/{mount}/login")), "{e}");
}
