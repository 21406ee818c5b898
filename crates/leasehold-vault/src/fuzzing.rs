//! The parsers, opened to the fuzz targets of the repository. No part of the API.

use std::collections::HashMap;
use std::fmt::Write;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use leasehold::{Credential, LoginForm, SourceError};
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use crate::auth::{Auth, secret_file, secret_id_path_fits};
use crate::classify::{Answer, Op, classify};
use crate::config::{Ca, ClientCertificate, ConfigError, Settings, VaultConfig};
use crate::endpoints::{
    AuthReply, CapabilitiesReply, CredsReply, HealthReply, KvReply, LeaseReply, LookupReply,
    MetadataReply, StaticReply, UnwrapReply, VersionedReply, WrapLookupReply, whole_seconds,
};
use crate::token::{Token, TokenGrant};
use crate::{api, client, privileges, schedule};

const OPS: [Op; 12] = [
    Op::Login,
    Op::TokenLookup,
    Op::TokenRenew,
    Op::TokenRevoke,
    Op::Issue,
    Op::Read,
    Op::Renew,
    Op::Revoke,
    Op::Health,
    Op::WrapLookup,
    Op::Unwrap,
    Op::Privileges,
];

/// An answer that is no success.
#[derive(Debug)]
pub struct Refusal<'a> {
    pub op: u8,
    pub path: &'a str,
    pub status: u16,
    pub retry_after: Option<&'a str>,
    pub location: Option<&'a str>,
    pub namespace: Option<&'a str>,
    /// What was sent, and must not come back out.
    pub sent: &'a [Zeroizing<String>],
    pub body: &'a [u8],
}

/// What becomes of it.
#[must_use]
pub fn refusal(refusal: &Refusal<'_>) -> SourceError {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let answer = Answer {
        status: refusal.status,
        body: refusal.body,
        retry_after: refusal.retry_after.and_then(|value| api::retry_after(value, now)),
        location: refusal.location,
        namespace: refusal.namespace,
        sent: refusal.sent,
    };
    let op = OPS[usize::from(refusal.op) % OPS.len()];
    classify(op, refusal.path, &answer).into_error()
}

/// What was in a body that was understood.
#[derive(Debug, Default)]
pub struct Understood {
    /// Must not be in `shown`.
    pub secrets: Vec<String>,
    /// May be in `shown`, a secret's twin too.
    pub open: Vec<String>,
    /// `Debug` and `Display` of all that was made of it.
    pub shown: String,
}

impl Understood {
    fn show(&mut self, what: impl std::fmt::Debug) {
        let _ = write!(self.shown, "{what:?} ");
    }

    fn login(&mut self, form: LoginForm) {
        self.show(&form);
        match form.into_credential("the secret") {
            Ok(credential) => self.credential(&credential),
            Err(e) => self.show((&e, e.to_string())),
        }
    }

    fn credential(&mut self, credential: &Credential) {
        self.secrets.push(credential.expose_password().to_owned());
        self.open.push(credential.username().to_owned());
        if let Some(address) = credential.address() {
            self.open.extend([&address.host, &address.database].into_iter().flatten().cloned());
        }
        self.show(credential);
    }

    fn token(&mut self, text: &str, seconds: u64, renewable: bool) {
        self.secrets.push(text.to_owned());
        let Some(token) = Token::parse(text) else { return };
        let ttl = Duration::from_secs(seconds);
        assert_eq!(Token::parse(&token.text()).as_ref(), Some(&token));
        assert_eq!(token.header().as_bytes(), token.text().as_bytes());
        self.show(token.header());
        for after in [schedule::renew_after(ttl, 1.0), schedule::look_after(ttl)] {
            assert!(after <= ttl.max(Duration::from_millis(250)), "{after:?} of {ttl:?}");
        }
        self.show(TokenGrant {
            token,
            ttl: Some(ttl),
            increment: ttl,
            renewable,
            batch: false,
            own: true,
            watched: false,
        });
    }
}

fn read<R: DeserializeOwned>(body: &[u8]) -> Option<R> {
    serde_json::from_slice(body).ok()
}

/// Reads a body as the answer to one of the questions that are asked; `None` if it is none.
#[must_use]
pub fn understand(question: u8, body: &[u8]) -> Option<Understood> {
    let mut all = Understood::default();
    match question % 12 {
        0 => {
            let AuthReply { auth } = read(body)?;
            all.token(&auth.client_token, auth.lease_duration, auth.renewable);
        }
        1 => {
            let LookupReply { data } = read(body)?;
            all.show(data.left());
        }
        2 => {
            let reply: CredsReply = read(body)?;
            let ttl = Duration::from_secs(reply.lease_duration.unwrap_or(0));
            assert!(whole_seconds(ttl) >= 1);
            if let Some((username, password)) = reply.data.and_then(|d| d.username.zip(d.password))
            {
                all.credential(&Credential::wiping(&username, password));
            }
        }
        3 => {
            let StaticReply { data } = read(body)?;
            let password = data.password.unwrap_or_default();
            all.credential(&Credential::wiping(&data.username, password));
            all.show(data.ttl);
        }
        4 => {
            let KvReply { data } = read(body)?;
            all.login(data);
        }
        5 => {
            let VersionedReply { data } = read(body)?;
            all.show(data.metadata.version);
            all.login(data.data?);
        }
        6 => {
            let MetadataReply { data } = read(body)?;
            all.show(data.current_version);
        }
        7 => {
            let LeaseReply { lease_duration } = read(body)?;
            all.show(Duration::from_secs(lease_duration));
        }
        8 => {
            let WrapLookupReply { data } = read(body)?;
            all.show(secret_id_path_fits(&data.creation_path, "approle"));
        }
        9 => {
            let UnwrapReply { data } = read(body)?;
            all.secrets.extend(data.secret_id.map(|id| id.as_str().to_owned()));
        }
        10 => {
            let CapabilitiesReply { data } = read(body)?;
            let data: HashMap<_, _> = data;
            match privileges::judge_leases(&data) {
                Ok(missing) => missing.iter().for_each(|m| all.show(m.to_string())),
                Err(e) => all.show(e),
            }
        }
        _ => {
            let HealthReply { initialized, sealed, standby, version } = read(body)?;
            all.show((initialized, sealed, standby, version));
        }
    }
    Some(all)
}

/// What a file with a secret in it comes to: the secret, or an error without it.
///
/// # Errors
/// It can be none.
pub fn file_with_secret(bytes: &[u8]) -> Result<String, SourceError> {
    secret_file("/run/secrets/it").secret_in(bytes).map(|text| text.as_str().to_owned())
}

/// A token's text as it is sent, if it can be one.
#[must_use]
pub fn token(text: &str) -> Option<String> {
    let token = Token::parse(text)?;
    assert_eq!(token.header().as_bytes(), token.text().as_bytes());
    Some(token.text().as_str().to_owned())
}

/// Whether a wrapping token was made for a secret_id of that mount.
#[must_use]
pub fn wraps_secret_id(creation_path: &str, mount: &str) -> bool {
    secret_id_path_fits(creation_path, mount)
}

/// Finds fault with what was given, as a login does before it sends anything.
///
/// # Errors
/// It can't work.
pub fn check(auth: Auth) -> Result<(), ConfigError> {
    auth.into_method().check()
}

/// The server's address: its origin, as it is shown.
///
/// # Errors
/// It is none.
pub fn address(text: &str) -> Result<String, ConfigError> {
    client::parse_address("address", text).map(|url| url.origin().ascii_serialization())
}

/// All that a client is made of.
///
/// # Errors
/// It can't work.
pub fn client(config: &VaultConfig) -> Result<String, ConfigError> {
    let url = client::parse_address("address", &config.address)?;
    client::build(config, &url).map(|(_, target)| target.shown())
}

/// Settings from a text of one of the kinds of files, and variables.
///
/// # Errors
/// As [`Settings::from_file`].
pub fn settings(
    file: Option<(u8, &str)>,
    variables: &[(String, String)],
) -> Result<Settings, ConfigError> {
    Settings::from_given(file, variables)
}

/// A configuration with certificates as they are found in files.
#[must_use]
pub fn with_certificates(
    ca: &[u8],
    cert: &[u8],
    key: &[u8],
    folder: Option<PathBuf>,
) -> VaultConfig {
    let mut config = VaultConfig::new("https://127.0.0.1:8200").ca_pem(ca);
    if let Some(path) = folder {
        config.ca = Some(Ca::Dir { setting: "ca_path".into(), path });
    }
    if !cert.is_empty() {
        config.client = Some(ClientCertificate {
            settings: ("client_cert".into(), "client_key".into()),
            cert: cert.to_vec(),
            key: Zeroizing::new(key.to_vec()),
        });
    }
    config
}
