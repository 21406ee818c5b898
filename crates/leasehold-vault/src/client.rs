//! The HTTP client of a session: whom it trusts, what it shows, which way it goes.

use std::borrow::Cow;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::HeaderValue;
use reqwest::redirect::Policy;
use reqwest::{Certificate, ClientBuilder, Identity, Proxy};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, DnsName};
use url::{Origin, Url};
use zeroize::Zeroizing;

use crate::api::within_the_cluster;
use crate::config::{Ca, ClientCertificate, ConfigError, VaultConfig};

/// Name lookup, TCP and TLS.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// What requests are addressed to. That is the configured address, unless the server's certificate
/// is for another name: the TLS library verifies, and asks for, the host of the request's URL, so
/// that name stands there, leads to the configured host, and the `Host` header remains right.
pub(crate) struct Target {
    /// Scheme, host and port of the requests' URLs.
    pub(crate) origin: String,
    /// The `Host` header, where it is not the URL's.
    pub(crate) host: Option<HeaderValue>,
    configured: String,
    /// Scheme, host and port.
    pub(crate) proxy: Option<String>,
}

impl Target {
    /// The configured address.
    pub(crate) fn configured(&self) -> &str {
        &self.configured
    }

    /// For messages.
    pub(crate) fn shown(&self) -> String {
        match &self.proxy {
            Some(proxy) => format!("{} (through the proxy {proxy})", self.configured),
            None => self.configured.clone(),
        }
    }
}

pub(crate) fn build(
    config: &VaultConfig,
    url: &Url,
) -> Result<(reqwest::Client, Target), ConfigError> {
    // reqwest panics without one. Whoever comes first wins; ours only fills a gap.
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
    let configured = url.origin().ascii_serialization();
    let mut target = Target { origin: configured.clone(), host: None, configured, proxy: None };
    let mut builder = reqwest::Client::builder()
        .tls_backend_rustls()
        // Sooner than the whole, so that a host that swallows packets is known as one that can't
        // be reached, where nothing was done.
        .connect_timeout(CONNECT_TIMEOUT.min(config.request_timeout / 2))
        .user_agent(concat!("leasehold-vault/", env!("CARGO_PKG_VERSION")))
        // The server closes after 5 min, balancers sooner; a connection that was closed under a
        // request leaves its outcome unknown.
        .pool_idle_timeout(Duration::from_secs(30));
    if is_loopback(url) || config.tls_server_name.is_some() {
        // As the server's own clients do: a proxy has no business there. And one that is asked
        // for the certificate's name would go to the wrong place.
        builder = builder.no_proxy();
    }
    if let Some((setting, _)) = &config.tls_server_name {
        let with = |other: &str, why: &str| {
            let problem = format!("and {other} can't be used together: {why}");
            Err(ConfigError::new(setting.clone(), problem))
        };
        if let Some((proxy, _)) = &config.proxy {
            return with(proxy, "the proxy would look for a host of that name");
        }
        if !config.redirect_to.is_empty() {
            return with("redirect_to", "every server of the cluster needs a name of its own");
        }
    }
    if let Some((setting, proxy)) = &config.proxy {
        let bad = |problem: &str| ConfigError::new(setting.clone(), problem);
        let (proxy, shown) = proxy_from(proxy).map_err(bad)?;
        builder = builder.no_proxy().proxy(proxy);
        target.proxy = Some(shown);
    }
    let plain = url.scheme() == "http";
    if plain && !is_loopback(url) {
        tracing::warn!(
            address = target.configured,
            "tokens and logins travel in clear text: use https"
        );
    }
    // There may be TLS to the proxy all the same.
    if plain && !target.proxy.as_ref().is_some_and(|proxy| proxy.starts_with("https:")) {
        // Spares reading the system's certificates.
        builder = builder.tls_certs_only([]);
    } else {
        builder = secure(builder, config, url, &mut target)?;
    }
    let trusted = trusted_origins(config, url, &target)?;
    builder = builder.redirect(Policy::custom(move |a| within_the_cluster(a, &trusted)));
    let client = builder.build().map_err(|_| match &config.client {
        // Whom to trust was looked at before.
        Some(client) => {
            let (cert, key) = &client.settings;
            ConfigError::new(
                key.clone(),
                format!(
                    "and {cert} make no pair that TLS can use: check that they belong together"
                ),
            )
        }
        None => ConfigError::new(
            "VAULT_CACERT",
            "is not set, and the system's certificates can't be used for TLS: check them",
        ),
    })?;
    Ok((client, target))
}

/// Where the token may go: where the session's own requests do, and to those of the same cluster.
fn trusted_origins(
    config: &VaultConfig,
    own: &Url,
    target: &Target,
) -> Result<Vec<Origin>, ConfigError> {
    const SETTING: &str = "redirect_to";
    let mut trusted: Vec<_> = Url::parse(&target.origin).iter().map(Url::origin).collect();
    for address in &config.redirect_to {
        let url = parse_address(SETTING, address)?;
        if url.scheme() != own.scheme() {
            return Err(ConfigError::new(
                SETTING,
                format!("has another scheme than the address: use {}:// for all", own.scheme()),
            ));
        }
        trusted.push(url.origin());
    }
    Ok(trusted)
}

/// All that is about TLS.
fn secure(
    mut builder: ClientBuilder,
    config: &VaultConfig,
    url: &Url,
    target: &mut Target,
) -> Result<ClientBuilder, ConfigError> {
    if config.skip_verify {
        tracing::warn!(
            address = target.configured,
            "the server's certificate is not verified: whoever stands in between can read tokens \
             and logins; give VAULT_CACERT in place of VAULT_SKIP_VERIFY"
        );
        builder = builder.tls_certs_only([]).tls_danger_accept_invalid_certs(true);
    } else if let Some(ca) = &config.ca {
        builder = builder.tls_certs_only(authorities(ca)?);
    }
    if let Some(client) = &config.client {
        builder = builder.identity(identity(client)?);
    }
    if let Some((setting, name)) = &config.tls_server_name
        && url.host_str() != Some(name)
    {
        let parsed = DnsName::try_from(name.as_str()).ok();
        let mut renamed = url.clone();
        if parsed.is_none() || renamed.set_host(Some(name)).is_err() || renamed.domain().is_none() {
            return Err(ConfigError::new(
                setting.clone(),
                "is no DNS name: write the name that the server's certificate is for",
            ));
        }
        let host = url.host_str().unwrap_or_default();
        let authority = match url.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        };
        target.host = HeaderValue::try_from(authority).ok();
        target.origin = renamed.origin().ascii_serialization();
        let port = url.port_or_known_default().unwrap_or(443);
        // An IPv6 address has brackets in a URL, and none where it is looked up.
        let host = host.trim_matches(['[', ']']).to_owned();
        builder = builder.dns_resolver(Arc::new(Always { host, port }));
    }
    Ok(builder)
}

/// Looks up one host, whatever it is asked for.
struct Always {
    host: String,
    port: u16,
}

impl Resolve for Always {
    fn resolve(&self, _: Name) -> Resolving {
        let place = (self.host.clone(), self.port);
        Box::pin(async move {
            let found: Vec<_> = tokio::net::lookup_host(place).await?.collect();
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

fn authorities(ca: &Ca) -> Result<Vec<Certificate>, ConfigError> {
    let mut roots = RootCertStore::empty();
    let mut found = Vec::new();
    let mut add = |pem: &[u8]| -> Result<(), ()> {
        for cert in CertificateDer::pem_slice_iter(pem) {
            let cert = cert.map_err(|_| ())?;
            found.push(Certificate::from_der(&cert).map_err(|_| ())?);
            // The client would tell of it too, without saying which setting is to blame.
            roots.add(cert).map_err(|_| ())?;
        }
        Ok(())
    };
    match ca {
        Ca::Pem { setting, pem } => {
            let damaged = |()| {
                let problem = "holds a certificate that can't be read: give it in PEM form";
                ConfigError::new(setting.clone(), problem)
            };
            add(pem).map_err(damaged)?;
            if found.is_empty() {
                return Err(ConfigError::new(
                    setting.clone(),
                    "holds no certificate in PEM form: give a file that begins with \
                     -----BEGIN CERTIFICATE-----",
                ));
            }
        }
        Ca::Dir { setting, path } => {
            let bad = |problem: String| ConfigError::new(setting.clone(), problem);
            let unread = |e| {
                bad(format!("names a directory that can't be read ({e}): give a directory's path"))
            };
            for entry in fs::read_dir(path).map_err(unread)? {
                let file = entry.map_err(unread)?.path();
                // Follows links: a mounted secret consists of them.
                if !file.is_file() {
                    continue;
                }
                let pem = fs::read(&file).map_err(|e| {
                    bad(format!("names a directory with {file:?}, which can't be read ({e})"))
                })?;
                add(&pem).map_err(|()| {
                    bad(format!("names a directory with {file:?}, whose certificate can't be read"))
                })?;
            }
            if found.is_empty() {
                return Err(bad("names a directory that holds no certificate in PEM form".into()));
            }
        }
    }
    Ok(found)
}

fn identity(client: &ClientCertificate) -> Result<Identity, ConfigError> {
    let (cert, key) = &client.settings;
    let holds = |setting: &Cow<'static, str>, what: &str| {
        ConfigError::new(setting.clone(), format!("holds no {what} in PEM form"))
    };
    if !matches!(CertificateDer::pem_slice_iter(&client.cert).next(), Some(Ok(_))) {
        return Err(holds(cert, "certificate"));
    }
    let mut pem = Zeroizing::new(Vec::with_capacity(client.key.len() + 1 + client.cert.len()));
    pem.extend_from_slice(&client.key);
    pem.push(b'\n');
    pem.extend_from_slice(&client.cert);
    Identity::from_pem(&pem).map_err(|_| holds(key, "private key"))
}

/// The proxy, and its address without user name and password.
fn proxy_from(text: &str) -> Result<(Proxy, String), &'static str> {
    const NO_URL: &str = "is no proxy's URL: write it like http://proxy.internal:3128";
    let text = match text.trim() {
        url if url.contains("://") => Zeroizing::new(url.to_owned()),
        host => Zeroizing::new(format!("http://{host}")),
    };
    let url = Url::parse(&text).map_err(|_| NO_URL)?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(NO_URL);
    }
    // User name and password go into a header, and are in no line that the client logs.
    let proxy = Proxy::all(url.clone()).map_err(|_| NO_URL)?;
    Ok((proxy, url.origin().ascii_serialization()))
}

pub(crate) fn parse_address(setting: &str, text: &str) -> Result<Url, ConfigError> {
    let (setting, text) = (|| setting.to_owned(), text.trim());
    if text.is_empty() {
        return Err(ConfigError::new(
            setting(),
            "is empty: set it to the server's address, such as https://vault.internal:8200",
        ));
    }
    let Ok(url) = Url::parse(text) else {
        return Err(ConfigError::new(
            setting(),
            "is not a URL: write it like https://vault.internal:8200",
        ));
    };
    if !matches!(url.scheme(), "http" | "https") {
        let hint = if text.contains("://") {
            "use https:// (or http:// on loopback)"
        } else {
            "write https:// in front of the host"
        };
        return Err(ConfigError::new(
            setting(),
            format!("has the scheme {:?}: {hint}", url.scheme()),
        ));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(ConfigError::new(
            setting(),
            "holds a user name or password: take it out, the server knows tokens only",
        ));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(ConfigError::new(
            setting(),
            "holds a query or fragment: give scheme, host and port only",
        ));
    }
    Ok(url)
}

pub(crate) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
        Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
        Some(url::Host::Domain(name)) => name == "localhost",
        None => false,
    }
}
