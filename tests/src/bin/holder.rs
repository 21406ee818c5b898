//! Holds a login and some connections until it is killed. For the test of what that leaves.
//! Arguments: Vault's address, role_id, mount, role, Postgres's host, port and database. The
//! secret_id comes on stdin, and the user name goes to stdout once the connections are open.

#![allow(clippy::unwrap_used)]

use std::io::Read;

use leasehold::Rotator;
use leasehold_vault::{Auth, Session, VaultConfig};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

#[tokio::main]
async fn main() {
    let given: Vec<String> = std::env::args().skip(1).collect();
    let [vault, role_id, mount, role, host, port, database] = &given[..] else {
        panic!("seven arguments");
    };
    let mut secret_id = String::new();
    std::io::stdin().read_to_string(&mut secret_id).unwrap();
    let auth = Auth::approle(role_id, secret_id);
    let session = Session::login(VaultConfig::new(vault), auth).await.unwrap();
    let rotator = Rotator::builder(session.dynamic_role(mount, role)).start().await.unwrap();
    let base = PgConnectOptions::new_without_pgpass();
    let base = base.host(host).port(port.parse().unwrap()).database(database);
    let options = PgPoolOptions::new().min_connections(2).max_connections(2);
    let pool = leasehold_sqlx::connect(&rotator.provider(), options, base).await.unwrap();
    sqlx::query("SELECT 1").execute(&pool).await.unwrap();
    println!("{}", rotator.provider().current().credential().username());
    std::future::pending::<()>().await;
}
