//! Both servers as Docker containers (feature `containers`).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use testcontainers::core::{IntoContainerPort, WaitFor};
use testcontainers::runners::AsyncRunner;
use testcontainers::{
    ContainerAsync, ContainerRequest, GenericImage, ImageExt, TestcontainersError,
};

use crate::backend::{Backend, secret};
use crate::bao::{READY, unseal_key_in};
use crate::postgres::SUPERUSER;
use crate::stack::{Endpoints, Inner, wait_active};
use crate::{Error, Result, Stack};

const BAO_IMAGE: (&str, &str) = ("LEASEHOLD_BAO_IMAGE", "openbao/openbao:2.7.2");
const POSTGRES_IMAGE: (&str, &str) = ("LEASEHOLD_POSTGRES_IMAGE", "postgres:18");

/// On every container of ours, with the process id of its owner:
/// `docker rm -f $(docker ps -aq --filter label=leasehold-testkit)`.
const LABEL: &str = "leasehold-testkit";

/// Two containers on a network of their own.
pub(crate) struct Containers {
    pair: Mutex<Option<Arc<Pair>>>,
}

struct Pair {
    pg: ContainerAsync<GenericImage>,
    bao: ContainerAsync<GenericImage>,
}

impl fmt::Debug for Containers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Containers")
    }
}

impl Stack {
    /// The same two servers as Docker containers: a dev server and a Postgres. Images come from
    /// `LEASEHOLD_BAO_IMAGE` and `LEASEHOLD_POSTGRES_IMAGE`, else `openbao/openbao:2.7.2` and
    /// `postgres:18`; `hashicorp/vault` serves too.
    ///
    /// Nothing of it can be stopped, restarted or killed, as a container's port changes then; all
    /// else works. Containers go with the last handle, but not when the process is killed or calls
    /// `exit`: those carry the label `leasehold-testkit`.
    pub async fn containers() -> Result<Self> {
        start(&[]).await
    }
}

pub(crate) async fn start(postgres_settings: &[(String, String)]) -> Result<Stack> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let id = format!("leasehold-{}-{}", std::process::id(), NEXT.fetch_add(1, Relaxed));
    let (password, root_token) = (secret()?, format!("root-{}", secret()?));
    let pg_name = format!("{id}-pg"); // its name is its address on the network

    let mut settings = BTreeMap::from(
        [
            ("fsync", "off"),
            ("max_connections", "200"),
            ("log_connections", "on"),
            ("log_disconnections", "on"),
            ("log_line_prefix", crate::pglog::PREFIX),
        ]
        .map(|(k, v)| (k.to_owned(), v.to_owned())),
    );
    settings.extend(postgres_settings.iter().cloned());
    let arguments = settings.iter().flat_map(|(k, v)| ["-c".to_owned(), format!("{k}={v}")]);
    let ready = "database system is ready to accept connections";
    let pg = image(POSTGRES_IMAGE)
        .with_exposed_port(5432.tcp())
        // The entrypoint's first server, of which only its socket is open, then the real one.
        .with_wait_for(WaitFor::message_on_stdout(ready))
        .with_wait_for(WaitFor::message_on_stderr(ready))
        .with_env_var("POSTGRES_USER", SUPERUSER)
        .with_env_var("POSTGRES_PASSWORD", &password)
        .with_env_var("POSTGRES_DB", "postgres")
        .with_cmd(arguments)
        .with_container_name(&pg_name);
    // Both servers' text ends so. Each image reads its own variable.
    let bao = image(BAO_IMAGE)
        .with_exposed_port(8200.tcp())
        .with_wait_for(WaitFor::message_on_stdout(READY))
        .with_env_var("BAO_DEV_ROOT_TOKEN_ID", &root_token)
        .with_env_var("VAULT_DEV_ROOT_TOKEN_ID", &root_token)
        .with_cap_add("IPC_LOCK");
    let common = |request: ContainerRequest<GenericImage>| {
        request.with_network(&id).with_label(LABEL, std::process::id().to_string())
    };
    // join!, not try_join!: that would leak the one still starting when the other fails.
    let (pg, bao) = tokio::join!(common(pg).start(), common(bao).start());
    let (pg, bao) = (pg.map_err(failed)?, bao.map_err(failed)?);

    let vault = address(&bao, 8200).await?;
    let (pg_host, pg_port) = address(&pg, 5432).await?;
    let stack = Stack {
        inner: Arc::new(Inner {
            ends: Endpoints {
                vault: format!("{}:{}", vault.0, vault.1),
                root_token,
                pg_host,
                pg_port,
                pg_for_vault: format!("{pg_name}:5432"),
                pg_password: password,
                vault_tls: None,
                authority: None,
            },
            backend: Backend::Containers(Containers {
                pair: Mutex::new(Some(Arc::new(Pair { pg, bao }))),
            }),
        }),
    };
    wait_active(&stack.inner.ends.vault).await?;
    Ok(stack)
}

/// `name:tag` of the variable, else the default.
fn image((variable, default): (&str, &str)) -> GenericImage {
    let wanted = std::env::var(variable).ok().filter(|v| !v.is_empty());
    let wanted = wanted.as_deref().unwrap_or(default);
    match wanted.rsplit_once(':') {
        // A colon before a slash belongs to a registry's port.
        Some((name, tag)) if !tag.contains('/') => GenericImage::new(name, tag),
        _ => GenericImage::new(wanted, "latest"),
    }
}

async fn address(container: &ContainerAsync<GenericImage>, port: u16) -> Result<(String, u16)> {
    let host = container.get_host().await.map_err(failed)?.to_string();
    // The port is that of IPv4, and `localhost` may be another host's for IPv6.
    let host = if host == "localhost" { "127.0.0.1".to_owned() } else { host };
    Ok((host, container.get_host_port_ipv4(port).await.map_err(failed)?))
}

fn failed(e: TestcontainersError) -> Error {
    Error::Server {
        server: "Docker",
        detail: format!(
            "{e}. Is the engine running, and are the images to be had? {} and {} name others; \
             docker/ in the repository builds stand-ins without a registry. Stack::start() needs \
             no Docker",
            BAO_IMAGE.0, POSTGRES_IMAGE.0
        ),
    }
}

impl Containers {
    fn pair(&self) -> Result<Arc<Pair>> {
        let pair = self.pair.lock().unwrap_or_else(PoisonError::into_inner);
        pair.clone().ok_or_else(|| Error::Server {
            server: "Docker",
            detail: "this stack was shut down".into(),
        })
    }

    pub(crate) async fn pause_vault(&self) -> Result<()> {
        self.pair()?.bao.pause().await.map_err(failed)
    }

    pub(crate) async fn resume_vault(&self) -> Result<()> {
        self.pair()?.bao.unpause().await.map_err(failed)
    }

    pub(crate) async fn unseal_key(&self) -> Result<Option<String>> {
        Ok(unseal_key_in(&self.vault_log().await?))
    }

    pub(crate) async fn vault_log(&self) -> Result<String> {
        let pair = self.pair()?;
        text(pair.bao.stdout_to_vec().await, pair.bao.stderr_to_vec().await)
    }

    /// The first server, which nobody can reach, writes to stdout; the real one to stderr.
    pub(crate) async fn postgres_log(&self) -> Result<String> {
        text(Ok(Vec::new()), self.pair()?.pg.stderr_to_vec().await)
    }

    pub(crate) fn end(&self) {
        let pair = self.pair.lock().unwrap_or_else(PoisonError::into_inner).take();
        if pair.is_none() {
            return;
        }
        // Removing a container needs a runtime to be entered, any, which a drop in a static or at
        // the end of `main` has not.
        if tokio::runtime::Handle::try_current().is_ok() {
            drop(pair);
        } else if let Ok(runtime) = tokio::runtime::Builder::new_current_thread().build() {
            let _inside = runtime.enter();
            drop(pair);
        }
    }
}

impl Drop for Containers {
    fn drop(&mut self) {
        self.end();
    }
}

fn text(
    out: Result<Vec<u8>, TestcontainersError>,
    err: Result<Vec<u8>, TestcontainersError>,
) -> Result<String> {
    let mut bytes = out.map_err(failed)?;
    bytes.extend(err.map_err(failed)?);
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
