//! What a command finds in its environment: its login, and nothing by which it could get another.

use std::env;
use std::ffi::OsStr;

use leasehold::Credential;
use tokio::process::Command;
use url::Url;
use zeroize::Zeroizing;

use crate::doctor::ADMIN_URL;
use crate::failure::Failure;
use crate::postgres::{Place, Server, keep_spaces, set};

/// A login as the variables that libpq and most drivers read.
pub(crate) fn set_login(command: &mut Command, credential: &Credential, server: Option<&Server>) {
    command.env("PGUSER", credential.username()).env("PGPASSWORD", credential.expose_password());
    // A service file would win over the variables.
    command.env_remove("PGSERVICE");
    if let Some(server) = server {
        // It would win over the name.
        command.env_remove("PGHOSTADDR").envs(server.variables());
    }
}

/// Takes away what leads past its own login: an administrator's, and, unless `keep_vaults`, what
/// we log in to Vault by.
pub(crate) fn remove_other_ways(command: &mut Command, keep_vaults: bool) {
    for (name, _) in env::vars_os() {
        if name == ADMIN_URL || (is_vaults(&name) && !keep_vaults) {
            command.env_remove(name);
        }
    }
}

/// Takes away where another Postgres is: each of these would win over the variables that follow.
pub(crate) fn remove_places(command: &mut Command) {
    for name in ["DATABASE_URL", "PGSERVICE", "PGHOSTADDR"] {
        command.env_remove(name);
    }
}

fn is_vaults(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    let ours = ["VAULT_", "BAO_"].iter().any(|prefix| name.starts_with(prefix));
    let secret_id = ["SECRET_ID", "SECRET_ID_FILE"].iter().any(|end| name.ends_with(end));
    ours || secret_id || name == "APPROLE_ROLE_ID"
}

/// A connection URL without a login.
#[derive(Debug)]
pub(crate) struct BaseUrl(Url);

impl BaseUrl {
    /// What the command line says, else what the variable `name` holds already, each with its
    /// login taken out; else made of `place`. Errors show nothing of a value.
    pub(crate) fn find(name: &str, place: &Place) -> Result<Self, Failure> {
        let said = place.url();
        match (set(name), said) {
            (Some(held), _) if !place.is_given() => Self::of_text(name, held.trim()),
            (_, Some((from, url))) => Self::of_text(from, &url),
            _ => {
                let server = place.server().map_err(|failure| {
                    Failure::usage(format!("--url-var {name}: where is Postgres? {failure}"))
                })?;
                Self::of_text(name, &server.url().ok_or_else(|| no_host(&server.place()))?)
            }
        }
    }

    fn of_text(name: &str, text: &str) -> Result<Self, Failure> {
        let bad = |what: &str| Failure::usage(format!("{name} {what}"));
        let mut url = Url::parse(text).map_err(|_| bad("is set, and is no URL"))?;
        if !matches!(url.scheme(), "postgres" | "postgresql") || !url.has_host() {
            return Err(bad("is set, and is no URL of the form postgres://HOST/DATABASE"));
        }
        // A login in the query would win over the one in front.
        let login = |key: &str| matches!(key, "user" | "password");
        if url.query_pairs().any(|(key, _)| login(&key)) {
            let pairs = url.query_pairs().filter(|(key, _)| !login(key));
            let rest: Vec<(String, String)> =
                pairs.map(|(key, value)| (key.into_owned(), value.into_owned())).collect();
            url.set_query(None);
            if !rest.is_empty() {
                url.query_pairs_mut().extend_pairs(rest);
                keep_spaces(&mut url);
            }
        }
        let refused = |_| bad("can't carry a login");
        url.set_username("").map_err(refused)?;
        url.set_password(None).map_err(refused)?;
        Ok(Self(url))
    }

    /// With the login in it.
    pub(crate) fn with(&self, credential: &Credential) -> Result<Zeroizing<String>, Failure> {
        let mut url = self.0.clone();
        let refused = |()| Failure::new("the login can't be put into a URL");
        url.set_username(credential.username()).map_err(refused)?;
        url.set_password(Some(credential.expose_password())).map_err(refused)?;
        Ok(Zeroizing::new(url.into()))
    }
}

fn no_host(host: &str) -> Failure {
    Failure::usage(format!(
        "{host:?} can't be the host of a URL: give a host name or an address, not a socket's folder"
    ))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_url_gets_the_login_and_keeps_the_rest() {
        let login = Credential::new("v-app", "p@ss/w:rd%");
        let read = |url: &str| {
            let read = Credential::from_url(url).unwrap();
            let address = read.address().cloned().unwrap_or_default();
            assert_eq!((read.username(), read.expose_password()), ("v-app", "p@ss/w:rd%"));
            (address.host.unwrap(), address.port, address.database)
        };
        let old = "postgres://old:secret@db.internal:6432/orders?user=x&sslmode=require&password=y";
        let url = BaseUrl::of_text("URL", old).unwrap().with(&login).unwrap();
        assert_eq!(read(&url), ("db.internal".into(), Some(6432), Some("orders".into())));
        assert!(url.ends_with("/orders?sslmode=require"), "{}", &**url);
        let url = BaseUrl::of_text("URL", "postgres://[::1]/b%2Fc").unwrap();
        assert_eq!(read(&url.with(&login).unwrap()), ("::1".into(), None, Some("b/c".into())));
    }

    #[test]
    fn what_is_no_url_is_named_and_not_shown() {
        for text in ["hunter2", "mysql://a:hunter2@h/d", "postgres:///hunter2"] {
            let said = BaseUrl::of_text("URL", text).unwrap_err().to_string();
            assert!(said.starts_with("URL is set") && !said.contains("hunter2"), "{said}");
        }
    }

    #[test]
    fn what_leads_to_vault_is_known_by_its_name() {
        for name in [
            "VAULT_TOKEN",
            "BAO_ADDR",
            "VAULT__TOKEN",
            "APPROLE_SECRET_ID",
            "MY_SECRET_ID",
            "APPROLE_SECRET_ID_FILE",
        ] {
            assert!(is_vaults(OsStr::new(name)), "{name}");
        }
        for name in ["PATH", "PGHOST", "MY_VAULT_TOKEN_COUNT"] {
            assert!(!is_vaults(OsStr::new(name)), "{name}");
        }
    }
}
