//! Both servers as Docker containers (feature `containers`).

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::Path;
use std::time::{Duration, Instant};

use testcontainers::bollard::Docker;
use testcontainers::bollard::models::{ContainerState, NetworkCreateRequest};
use testcontainers::bollard::query_parameters::{
    InspectContainerOptions, KillContainerOptionsBuilder, StartContainerOptions,
};
use testcontainers::core::client::docker_client_instance;
use testcontainers::core::{IntoContainerPort, WaitFor};
use testcontainers::runners::AsyncRunner;
use testcontainers::{
    ContainerAsync, ContainerRequest, GenericImage, ImageExt, TestcontainersError,
};
use tokio::sync::RwLock;

use crate::backend::{Deed, Plan, Server, Servers, secret};
use crate::bao::{READY, Storage, raft_config};
use crate::owner::{self, LABEL, remove_container};
use crate::postgres::{SETTINGS, SUPERUSER};
use crate::process::{START_TIMEOUT, free_port};
use crate::stack::Endpoints;
use crate::{Error, Result, http};

const BAO_IMAGE: (&str, &str) = ("LEASEHOLD_BAO_IMAGE", "openbao/openbao:2.7.2");
const POSTGRES_IMAGE: (&str, &str) = ("LEASEHOLD_POSTGRES_IMAGE", "postgres:18");

/// Where the Vault server's files are, in its container.
const FILES: &str = "/leasehold";
const VAULT: u16 = 8200;
const VAULT_TLS: u16 = 8300;
const POSTGRES: u16 = 5432;
const POLL: Duration = Duration::from_millis(20);

/// Two containers on a network of their own.
pub(crate) struct Containers {
    /// Written to at the end, when nobody is doing anything with them any more.
    pair: RwLock<Option<Pair>>,
    audits: bool,
}

struct Pair {
    vault: ContainerAsync<GenericImage>,
    postgres: ContainerAsync<GenericImage>,
    /// Its name.
    network: String,
}

impl fmt::Debug for Containers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Containers")
    }
}

/// Starts both. In a task of its own, which goes on if the caller gives up: half of a start would
/// be removed by nobody until this process ends.
pub(crate) async fn start(
    plan: Plan,
    vault_image: Option<String>,
    postgres_image: Option<String>,
) -> Result<(Servers, Endpoints)> {
    let images = (image(BAO_IMAGE, vault_image), image(POSTGRES_IMAGE, postgres_image));
    let done = tokio::spawn(async move {
        if plan.postgres_certificate.is_some() {
            return Err(Error::Unsupported(
                "postgres_tls is not possible with containers: start this stack with \
                 Backend::Processes"
                    .into(),
            ));
        }
        let docker = client().await?;
        owner::sweep(&docker).await?;
        owner::watch()?;
        let audits = plan.extras.audit_raw;
        let (pair, ends) = launch(&docker, plan, &images).await?;
        let containers = Containers { pair: RwLock::new(Some(pair)), audits };
        Ok((Servers::Containers(Box::new(containers)), ends))
    });
    done.await.unwrap_or_else(|e| match e.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(e) => Err(Error::io("the runtime is shutting down")(std::io::Error::other(e))),
    })
}

/// What a start is given, and what it makes.
struct Names {
    network: String,
    vault: String,
    /// Its address on the network.
    postgres: String,
}

async fn launch(
    docker: &Docker,
    plan: Plan,
    images: &(GenericImage, GenericImage),
) -> Result<(Pair, Endpoints)> {
    let mut taken = None;
    for _ in 0..10 {
        // Random, as an engine may serve machines whose processes have the same numbers.
        let id = format!("leasehold-{}-{}", std::process::id(), &secret()?[..8]);
        let names =
            Names { vault: format!("{id}-vault"), postgres: format!("{id}-pg"), network: id };
        let ports = Ports {
            vault: free_port()?,
            vault_tls: plan.extras.tls.is_some().then(free_port).transpose()?,
            postgres: free_port()?,
        };
        match launch_at(docker, &plan, images, &names, &ports).await {
            Ok(pair) => {
                let host = pair.vault.get_host().await.map_err(failed)?.to_string();
                // What is published is on IPv4, and `localhost` may be another host's for IPv6.
                let host = if host == "localhost" { "127.0.0.1".to_owned() } else { host };
                let ends = Endpoints {
                    vault: format!("{host}:{}", ports.vault),
                    vault_tls: ports.vault_tls.map(|port| format!("{host}:{port}")),
                    root_token: plan.root_token(),
                    pg_host: host,
                    pg_port: ports.postgres,
                    pg_for_vault: format!("{}:{POSTGRES}", names.postgres),
                    pg_password: plan.secret,
                    authority: plan.authority,
                };
                return Ok((pair, ends));
            }
            Err(e) => {
                // Those that were made but did not start are not removed by testcontainers.
                let _ = remove_container(docker, &names.vault).await;
                let _ = remove_container(docker, &names.postgres).await;
                let _ = docker.remove_network(&names.network).await;
                let text = e.to_string();
                if !text.contains("already allocated") && !text.contains("already in use") {
                    return Err(e);
                }
                taken = Some(e);
            }
        }
    }
    Err(taken.unwrap_or_else(|| failed("no port is free")))
}

/// Published ones. Fixed, so that a server that is stopped and started is where it was.
struct Ports {
    vault: u16,
    vault_tls: Option<u16>,
    postgres: u16,
}

async fn launch_at(
    docker: &Docker,
    plan: &Plan,
    (vault, postgres): &(GenericImage, GenericImage),
    names: &Names,
    ports: &Ports,
) -> Result<Pair> {
    let label = owner::label()?;
    // By us, as testcontainers puts no label on its own. It leaves alone what is there.
    let network = NetworkCreateRequest {
        name: names.network.clone(),
        labels: Some(HashMap::from([(LABEL.to_owned(), label.to_owned())])),
        ..Default::default()
    };
    docker.create_network(network).await.map_err(failed)?;
    let common = |request: ContainerRequest<GenericImage>| {
        request
            .with_network(&names.network)
            .with_label(LABEL, label)
            .with_startup_timeout(START_TIMEOUT)
            .with_host_config_modifier(|host| {
                // On this machine alone, where the engine is on it.
                if local() {
                    let bindings = host.port_bindings.iter_mut().flat_map(HashMap::values_mut);
                    for binding in bindings.flatten().flatten() {
                        binding.host_ip = Some("127.0.0.1".into());
                    }
                }
            })
    };
    // join!, not try_join!: that would leak the one still starting when the other fails.
    let (postgres, vault) = tokio::join!(
        common(postgres_request(postgres.clone(), plan, &names.postgres, ports)).start(),
        common(vault_request(vault.clone(), plan, &names.vault, ports)).start(),
    );
    let (postgres, vault) = (postgres.map_err(failed)?, vault.map_err(failed)?);
    Ok(Pair { vault, postgres, network: names.network.clone() })
}

fn postgres_request(
    image: GenericImage,
    plan: &Plan,
    name: &str,
    ports: &Ports,
) -> ContainerRequest<GenericImage> {
    let mut settings: BTreeMap<String, String> =
        SETTINGS.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
    settings.extend(plan.postgres_settings.iter().cloned());
    let arguments = settings.iter().flat_map(|(k, v)| ["-c".to_owned(), format!("{k}={v}")]);
    let ready = "database system is ready to accept connections";
    image
        // The entrypoint's first server, of which only its socket is open, then the real one.
        .with_wait_for(WaitFor::message_on_stdout(ready))
        .with_wait_for(WaitFor::message_on_stderr(ready))
        .with_mapped_port(ports.postgres, POSTGRES.tcp())
        .with_env_var("POSTGRES_USER", SUPERUSER)
        .with_env_var("POSTGRES_PASSWORD", &plan.secret)
        .with_env_var("POSTGRES_DB", "postgres")
        .with_cmd(arguments)
        .with_container_name(name)
}

fn vault_request(
    image: GenericImage,
    plan: &Plan,
    name: &str,
    ports: &Ports,
) -> ContainerRequest<GenericImage> {
    let mut arguments = vec!["server".to_owned()];
    let mut request = image
        // Both servers' text ends so.
        .with_wait_for(WaitFor::message_on_stdout(READY))
        .with_mapped_port(ports.vault, VAULT.tcp())
        .with_cap_add("IPC_LOCK")
        .with_container_name(name);
    if let Some(port) = ports.vault_tls {
        request = request.with_mapped_port(port, VAULT_TLS.tcp());
    }
    match plan.storage {
        Storage::Dev => {
            arguments.extend(["-dev".to_owned(), "-dev-no-store-token".to_owned()]);
            // Each image reads its own.
            for variable in ["BAO_DEV_ROOT_TOKEN_ID", "VAULT_DEV_ROOT_TOKEN_ID"] {
                request = request.with_env_var(variable, plan.root_token());
            }
        }
        Storage::Raft => {
            // In the container's own layer, which stays while it is stopped; whatever user the
            // image runs as may write there.
            let config = raft_config(Path::new("/tmp/raft"), "0.0.0.0", VAULT);
            request = request.with_copy_to(format!("{FILES}/raft.json"), config.into_bytes());
            arguments.push(format!("-config={FILES}/raft.json"));
        }
    }
    if let Some(tls) = &plan.extras.tls {
        for (file, text) in [("server.crt", &tls.chain), ("server.key", &tls.key)] {
            request = request.with_copy_to(format!("{FILES}/{file}"), text.clone().into_bytes());
        }
    }
    // The audit goes to where the log goes, which can be had from any image.
    let (folder, audit) = (Path::new(FILES), Path::new("stdout"));
    let listener = format!("0.0.0.0:{VAULT_TLS}");
    if let Some(config) = plan.extras.config(Some(&listener), folder, audit) {
        request = request.with_copy_to(format!("{FILES}/extras.hcl"), config.into_bytes());
        arguments.push(format!("-config={FILES}/extras.hcl"));
    }
    request.with_cmd(arguments)
}

/// What the builder says, else the variable, else the default.
fn image((variable, default): (&str, &str), chosen: Option<String>) -> GenericImage {
    let wanted = chosen.or_else(|| std::env::var(variable).ok()).filter(|v| !v.is_empty());
    let wanted = wanted.as_deref().unwrap_or(default);
    match wanted.rsplit_once(':') {
        // A colon before a slash belongs to a registry's port.
        Some((name, tag)) if !tag.contains('/') => GenericImage::new(name, tag),
        _ => GenericImage::new(wanted, "latest"),
    }
}

/// Whether what the engine publishes on its loopback is on ours.
fn local() -> bool {
    let host = std::env::var("DOCKER_HOST").unwrap_or_default();
    (host.is_empty() || host.starts_with("unix:")) && !Path::new("/.dockerenv").exists()
}

/// Cheap, and bound to no runtime: it keeps no connection.
async fn client() -> Result<Docker> {
    docker_client_instance().await.map_err(failed)
}

pub(crate) fn failed(e: impl fmt::Display) -> Error {
    Error::Server {
        server: "Docker",
        detail: format!(
            "{e}. Is the engine running, and are the images to be had? {} and {} name others; \
             docker/ in Leasehold's repository builds stand-ins without a registry. \
             Stack::processes() needs no Docker",
            BAO_IMAGE.0, POSTGRES_IMAGE.0
        ),
    }
}

impl Pair {
    fn of(&self, server: Server) -> &ContainerAsync<GenericImage> {
        match server {
            Server::Vault => &self.vault,
            Server::Postgres => &self.postgres,
        }
    }

    async fn remove(self) -> Result<()> {
        let (vault, postgres) = tokio::join!(self.vault.rm(), self.postgres.rm());
        // Tried in any case: what could not be removed may be gone already.
        let network = client().await?.remove_network(&self.network).await;
        vault.and(postgres).map_err(failed)?;
        network.map_err(failed)
    }
}

impl Containers {
    /// Does it, and returns when it is done. Whether there was anything to do.
    pub(crate) async fn carry_out(&self, deed: Deed, ends: &Endpoints) -> Result<bool> {
        let pair = self.pair.read().await;
        let pair = pair.as_ref().ok_or_else(gone)?;
        let docker = client().await?;
        match deed {
            Deed::End(server, signal) => {
                let container = pair.of(server);
                end(&docker, container.id(), signal.as_raw()).await
            }
            Deed::Start(server) => {
                let id = pair.of(server).id();
                if state(&docker, id).await?.running == Some(true) {
                    return Ok(false);
                }
                let options = None::<StartContainerOptions>;
                docker.start_container(id, options).await.map_err(failed)?;
                answers(&docker, id, server, ends).await.map(|()| true)
            }
            // Docker refuses to pause what is paused, and the other way round; a signal does not.
            Deed::PauseVault | Deed::ResumeVault => {
                let (id, pause) = (pair.vault.id(), matches!(deed, Deed::PauseVault));
                let seen = state(&docker, id).await?;
                if seen.running == Some(true) && seen.paused == Some(pause) {
                    return Ok(false);
                }
                let done = match pause {
                    true => docker.pause_container(id).await,
                    false => docker.unpause_container(id).await,
                };
                done.map_err(failed).map(|()| true)
            }
        }
    }

    pub(crate) async fn log(&self, server: Server) -> Result<String> {
        let pair = self.pair.read().await;
        let pair = pair.as_ref().ok_or_else(gone)?;
        match server {
            Server::Vault => {
                let out = text(pair.vault.stdout_to_vec().await)?;
                let err = text(pair.vault.stderr_to_vec().await)?;
                let lines = out.split_inclusive('\n').chain(err.split_inclusive('\n'));
                Ok(lines.filter(|line| !self.is_audit(line)).collect())
            }
            // The first server, which nobody can reach, writes to stdout; the real one to stderr.
            Server::Postgres => text(pair.postgres.stderr_to_vec().await),
        }
    }

    /// The lines that the audit has written.
    pub(crate) async fn audit(&self) -> Result<String> {
        let pair = self.pair.read().await;
        let out = text(pair.as_ref().ok_or_else(gone)?.vault.stdout_to_vec().await)?;
        Ok(out.split_inclusive('\n').filter(|line| self.is_audit(line)).collect())
    }

    fn is_audit(&self, line: &str) -> bool {
        self.audits && line.starts_with('{')
    }

    /// Removes both and their network.
    pub(crate) async fn end(&self) -> Result<()> {
        match self.pair.write().await.take() {
            Some(pair) => pair.remove().await,
            None => Ok(()),
        }
    }
}

impl Drop for Containers {
    fn drop(&mut self) {
        let Some(pair) = self.pair.get_mut().take() else { return };
        // On a runtime of our own: a static or the end of `main` has none, and in a test's we may
        // not block.
        let removal = std::thread::spawn(move || {
            match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                // What could not be removed is left to the shell and to the next sweep.
                Ok(runtime) => drop(runtime.block_on(pair.remove())),
                // It would panic without a runtime.
                Err(_) => std::mem::forget(pair),
            }
        });
        let _ = removal.join();
    }
}

fn gone() -> Error {
    Error::Server { server: "Docker", detail: "this stack was shut down".into() }
}

async fn state(docker: &Docker, id: &str) -> Result<ContainerState> {
    let options = None::<InspectContainerOptions>;
    let seen = docker.inspect_container(id, options).await.map_err(failed)?;
    Ok(seen.state.unwrap_or_default())
}

/// Sends the signal and waits for the container's end. False if it does not run.
async fn end(docker: &Docker, id: &str, signal: i32) -> Result<bool> {
    if state(docker, id).await?.running != Some(true) {
        return Ok(false);
    }
    let send = async |signal: i32| {
        let options = KillContainerOptionsBuilder::new().signal(&signal.to_string()).build();
        docker.kill_container(id, Some(options)).await
    };
    send(signal).await.map_err(failed)?;
    // A paused server would not hear of it. Most engines see to that by themselves.
    if state(docker, id).await?.paused == Some(true) {
        let _ = docker.unpause_container(id).await;
    }
    let begun = Instant::now();
    while state(docker, id).await?.running == Some(true) {
        if begun.elapsed() > START_TIMEOUT {
            let _ = send(rustix::process::Signal::KILL.as_raw()).await;
            return Err(failed(format!(
                "a container did not stop within {START_TIMEOUT:?}, and was killed"
            )));
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(true)
}

/// Waits until a server that was started again answers. Docker's own proxy accepts connections
/// before that.
async fn answers(docker: &Docker, id: &str, server: Server, ends: &Endpoints) -> Result<()> {
    let begun = Instant::now();
    loop {
        let answer = match server {
            Server::Vault => {
                let limit = Duration::from_secs(2);
                let asked =
                    http::request_within(limit, &ends.vault, &[], "GET", "sys/seal-status", None);
                asked.await.map(drop)
            }
            Server::Postgres => {
                ends.connect(SUPERUSER, &ends.pg_password, "postgres").await.map(drop)
            }
        };
        let Err(e) = answer else { return Ok(()) };
        if state(docker, id).await?.running != Some(true) {
            return Err(failed(format!("a container ended at its start ({e})")));
        }
        if begun.elapsed() > START_TIMEOUT {
            let what = format!("a container that was started again answers ({e})");
            return Err(Error::Timeout { what, after: START_TIMEOUT });
        }
        tokio::time::sleep(POLL).await;
    }
}

fn text(read: Result<Vec<u8>, TestcontainersError>) -> Result<String> {
    Ok(String::from_utf8_lossy(&read.map_err(failed)?).into_owned())
}
