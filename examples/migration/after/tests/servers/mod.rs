//! What the program needs: its environment, and servers that last as long as they are kept.

use std::error::Error;
use std::time::Duration;

use leasehold_testkit::{DatabaseSpec, RoleSpec, Stack, TestDb};

type Environment = Vec<(&'static str, String)>;

pub async fn start() -> Result<(Environment, TestDb), Box<dyn Error>> {
    let (ttl, max_ttl) = (Duration::from_secs(4), Duration::from_secs(8));
    let role = RoleSpec::new("orders-rw").default_ttl(ttl).max_ttl(max_ttl);
    let shop = DatabaseSpec::new("shop").mounted_at("database").role(role);
    let shop = shop.schema(include_str!("../../schema.sql"));
    let db = Stack::containers().await?.database(shop).await?;
    let environment = vec![
        ("DATABASE_URL", format!("postgres://{}:{}/{}", db.pg_host(), db.pg_port(), db.name())),
        ("VAULT_ADDR", db.vault_addr()),
        ("VAULT_ROLE_ID", db.role_id().to_owned()),
        ("VAULT_SECRET_ID", db.secret_id().await?),
    ];
    Ok((environment, db))
}
