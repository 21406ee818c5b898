//! What one cell plays on: a database of its own, proxies of its own, and the ways to break them.

use std::time::Duration;

use leasehold_testkit::{
    AppRoleSpec, DatabaseSpec, Direction, FaultProxy, RoleSpec, Stack, TestDb, Then, Toxic,
};
use leasehold_vault::{Auth, Session, VaultConfig};
use serde_json::json;

use super::cells::{Admin, Cell, Fault, MAX_TTL, Net, Pair, Phase, TOKEN_TTL, TTL};
use crate::AnyError;
use crate::pools::Place;
use crate::world;

pub(crate) struct Scene {
    pub(crate) cell: Cell,
    pub(crate) stack: Stack,
    pub(crate) db: TestDb,
    /// Before Vault, for the service.
    pub(crate) vault: FaultProxy,
    /// Before Postgres, for the service and for Vault.
    pub(crate) postgres: FaultProxy,
    secret_id: String,
}

/// What a lease manager may do without renewing and revoking leases.
const NO_ENDING: &str = r#"
path "{{mount}}/creds/*" { capabilities = ["read"] }
path "auth/token/lookup-self" { capabilities = ["read"] }
path "auth/token/renew-self" { capabilities = ["update"] }
path "auth/token/revoke-self" { capabilities = ["update"] }
path "sys/capabilities-self" { capabilities = ["update"] }
"#;
const ALL_RIGHTS: &str = r#"
path "sys/leases/renew" { capabilities = ["update"] }
path "sys/leases/revoke" { capabilities = ["update"] }
"#;
const DROP: &str = r#"DROP ROLE IF EXISTS "{{name}}""#;

impl Scene {
    pub(crate) async fn set(cell: Cell, stack: &Stack) -> Result<Self, AnyError> {
        let (vault, postgres) = (stack.vault_proxy().await?, stack.postgres_proxy().await?);
        let role = RoleSpec::new("app").default_ttl(TTL).max_ttl(MAX_TTL).revocation([DROP]);
        let (ttl, max_ttl) = match cell.phase {
            Phase::TokenRenew => (TOKEN_TTL, Duration::from_secs(600)),
            // The first renewal is cut short: there has to be another login.
            Phase::Relogin => (TOKEN_TTL, TOKEN_TTL),
            _ => (Duration::from_secs(3600), Duration::from_secs(86400)),
        };
        // The policy comes in two parts, so that one can be taken away.
        let login = AppRoleSpec::new().token_ttl(ttl).token_max_ttl(max_ttl);
        let login = login.policy(format!("{NO_ENDING}{ALL_RIGHTS}")).no_default_policy();
        let spec = DatabaseSpec::new("cell").role(role).app_role(login).with_accounts();
        let db = stack.database(spec.postgres_at(postgres.address())).await?;
        let secret_id = db.secret_id().await?;
        Ok(Self { cell, stack: stack.clone(), db, vault, postgres, secret_id })
    }

    pub(crate) async fn log_in(&self) -> Result<Session, AnyError> {
        let auth = Auth::approle(self.db.role_id(), &self.secret_id);
        let config = VaultConfig::new(format!("http://{}", self.vault.address()));
        Ok(Session::login(config, auth).await?)
    }

    pub(crate) fn place(&self) -> Place {
        Place {
            host: "127.0.0.1".to_owned(),
            port: self.postgres.port(),
            database: self.db.name().to_owned(),
        }
    }

    /// Breaks what the cell is about.
    pub(crate) async fn begin(&self) -> Result<(), AnyError> {
        if let Some(kind) = self.cell.fault.kind() {
            world::begin(kind, &self.stack, &self.db).await?;
        }
        match self.cell.fault {
            Fault::Vault(net) => poison(&self.vault, net, 100, 600).await,
            Fault::Postgres(net) => poison(&self.postgres, net, 25, 20_000).await,
            Fault::Admin(Admin::Throttle) => {
                let every = Duration::from_secs(2);
                self.stack.create_rate_limit("matrix", "", 1.0, every, true).await?;
            }
            Fault::Pair(Pair::PostgresRestartsAndVaultIsAway) => {
                self.vault.inject(Direction::Both, Toxic::BlackHole).await;
            }
            Fault::Pair(Pair::PolicyTakenWhileTheLeaseEnds) => {
                self.db.set_policy(&NO_ENDING.replace("{{mount}}", self.db.mount())).await?;
            }
            Fault::Pair(Pair::RevocationFailsWhileTheLeaseEnds) => {
                let statements = json!({ "revocation_statements": ["SELECT 1/0"] });
                self.db.update_role(self.db.role(), statements).await?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Mends it.
    pub(crate) async fn end(&self) -> Result<(), AnyError> {
        self.vault.mend().await;
        self.postgres.mend().await;
        if let Some(kind) = self.cell.fault.kind() {
            world::end(kind, &self.stack).await?;
        }
        match self.cell.fault {
            Fault::Admin(Admin::Throttle) => self.stack.delete_rate_limit("matrix").await?,
            Fault::Pair(Pair::PolicyTakenWhileTheLeaseEnds) => {
                let policy = format!("{NO_ENDING}{ALL_RIGHTS}");
                self.db.set_policy(&policy.replace("{{mount}}", self.db.mount())).await?;
            }
            Fault::Pair(Pair::RevocationFailsWhileTheLeaseEnds) => {
                let statements = json!({ "revocation_statements": [DROP] });
                self.db.update_role(self.db.role(), statements).await?;
            }
            _ => {}
        }
        Ok(())
    }
}

/// `ms` of latency each way, so many bytes a second; the rest has no measure.
async fn poison(proxy: &FaultProxy, net: Net, ms: u64, rate: u32) {
    let delay = Duration::from_millis(ms);
    let (way, toxic) = match net {
        Net::Latency => (Direction::Both, Toxic::Latency { delay, jitter: delay / 2 }),
        Net::Bandwidth => (Direction::Both, Toxic::Bandwidth(rate)),
        Net::Reset => (Direction::Both, Toxic::Reset),
        Net::HalfReply => (Direction::Answers, Toxic::Cut { after: 20, then: Then::Close }),
        Net::BlackHole => (Direction::Both, Toxic::BlackHole),
    };
    proxy.inject(way, toxic).await;
}
