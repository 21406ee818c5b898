//! What goes over the wire.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Write};
use std::time::Duration;

use leasehold::{ErrorKind, LoginForm, SourceError};
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};
use zeroize::{Zeroize, Zeroizing};

/// A request: what is asked, of which path, with the fields as its body.
pub(crate) trait Endpoint: Serialize + Sized {
    const METHOD: &str = "GET";

    /// Of the body, where the server looks at it.
    const CONTENT_TYPE: Option<&'static str> = None;

    /// Below `/v1/`. Characters that no path can hold are encoded later.
    fn path(&self) -> String;

    /// What stands behind the `?` of the path.
    fn query(&self) -> Option<String> {
        None
    }

    /// Whether an answer of this status and body is one that its caller reads. Any other is an
    /// error.
    fn answers(status: u16, _body: &[u8]) -> bool {
        (200..300).contains(&status)
    }

    /// The fields as JSON; empty where there are none. `None` if they can't be written as such.
    fn body(self) -> Option<Zeroizing<Vec<u8>>> {
        let mut body = json(&self)?;
        if body.as_slice() == b"{}" {
            body.clear();
        }
        Some(body)
    }
}

/// A value as JSON, if it can be written as such.
pub(crate) fn json(value: &impl Serialize) -> Option<Zeroizing<Vec<u8>>> {
    let mut body = Wiped(Zeroizing::new(Vec::with_capacity(1024)));
    serde_json::to_writer(&mut body, value).ok()?;
    Some(body.0)
}

/// Writes into memory of ours.
struct Wiped(Zeroizing<Vec<u8>>);

impl Write for Wiped {
    fn write(&mut self, chunk: &[u8]) -> io::Result<usize> {
        append(&mut self.0, chunk);
        Ok(chunk.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Grows by hand: `Vec` would free the old memory with what it held.
pub(crate) fn append(body: &mut Vec<u8>, chunk: &[u8]) {
    let needed = body.len() + chunk.len();
    if needed > body.capacity() {
        let mut larger = Vec::with_capacity(needed.max(2 * body.capacity()));
        larger.extend_from_slice(body);
        body.zeroize();
        *body = larger;
    }
    body.extend_from_slice(chunk);
}

/// A login by AppRole.
#[derive(Serialize)]
pub(crate) struct AppRoleLogin {
    #[serde(skip)]
    pub(crate) mount: String,
    pub(crate) role_id: String,
    /// Not sent if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) secret_id: Option<Zeroizing<String>>,
}

impl Endpoint for AppRoleLogin {
    const METHOD: &str = "POST";
    fn path(&self) -> String {
        format!("auth/{}/login", self.mount)
    }
}

/// The present login of a static role.
#[derive(Serialize)]
pub(crate) struct StaticCreds {
    #[serde(skip)]
    pub(crate) mount: String,
    #[serde(skip)]
    pub(crate) role: String,
}

impl Endpoint for StaticCreds {
    fn path(&self) -> String {
        format!("{}/static-creds/{}", self.mount, self.role)
    }
}

/// A secret of a KV engine, or what is known about it: any path that is read.
#[derive(Serialize)]
pub(crate) struct ReadPath {
    #[serde(skip)]
    pub(crate) path: String,
}

impl Endpoint for ReadPath {
    fn path(&self) -> String {
        self.path.clone()
    }
}

/// A body that is made already: a login of the application's own, a new version of a secret.
#[derive(Serialize)]
pub(crate) struct WriteBody {
    #[serde(skip)]
    pub(crate) path: String,
    #[serde(skip)]
    pub(crate) body: Vec<u8>,
}

impl Endpoint for WriteBody {
    const METHOD: &str = "POST";
    fn path(&self) -> String {
        self.path.clone()
    }
    fn body(self) -> Option<Zeroizing<Vec<u8>>> {
        Some(self.body.into())
    }
}

/// A login by Kubernetes, or by JWT/OIDC.
#[derive(Serialize)]
pub(crate) struct JwtLogin {
    #[serde(skip)]
    pub(crate) mount: String,
    pub(crate) role: String,
    pub(crate) jwt: Zeroizing<String>,
}

impl Endpoint for JwtLogin {
    const METHOD: &str = "POST";
    fn path(&self) -> String {
        format!("auth/{}/login", self.mount)
    }
}

/// A login by user name and password.
#[derive(Serialize)]
pub(crate) struct UserpassLogin {
    #[serde(skip)]
    pub(crate) mount: String,
    #[serde(skip)]
    pub(crate) username: String,
    pub(crate) password: Zeroizing<String>,
}

impl Endpoint for UserpassLogin {
    const METHOD: &str = "POST";
    fn path(&self) -> String {
        format!("auth/{}/login/{}", self.mount, self.username)
    }
}

/// A login by the certificate of the connection.
#[derive(Serialize)]
pub(crate) struct CertLogin {
    #[serde(skip)]
    pub(crate) mount: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
}

impl Endpoint for CertLogin {
    const METHOD: &str = "POST";
    fn path(&self) -> String {
        format!("auth/{}/login", self.mount)
    }
}

/// What a wrapping token was made for. Does not use it up, and needs no other token.
#[derive(Serialize)]
pub(crate) struct WrapLookup {
    pub(crate) token: Zeroizing<String>,
}

impl Endpoint for WrapLookup {
    const METHOD: &str = "POST";
    fn path(&self) -> String {
        "sys/wrapping/lookup".to_owned()
    }
}

/// What is behind the calling token, once.
#[derive(Serialize)]
pub(crate) struct Unwrap {}

impl Endpoint for Unwrap {
    const METHOD: &str = "POST";
    fn path(&self) -> String {
        "sys/wrapping/unwrap".to_owned()
    }
}

/// More time for a lease.
#[derive(Serialize)]
pub(crate) struct RenewLease {
    pub(crate) lease_id: String,
    /// Whole seconds.
    pub(crate) increment: u64,
}

impl Endpoint for RenewLease {
    const METHOD: &str = "POST";
    fn path(&self) -> String {
        "sys/leases/renew".to_owned()
    }
}

/// The end of a lease. `sync` is the server's default, and said all the same.
#[derive(Serialize)]
pub(crate) struct RevokeLease {
    pub(crate) lease_id: String,
    pub(crate) sync: bool,
}

impl Endpoint for RevokeLease {
    const METHOD: &str = "POST";
    fn path(&self) -> String {
        "sys/leases/revoke".to_owned()
    }
}

/// What the calling token is.
#[derive(Serialize)]
pub(crate) struct LookupSelf {}

impl Endpoint for LookupSelf {
    fn path(&self) -> String {
        "auth/token/lookup-self".to_owned()
    }
}

/// More time for the calling token.
#[derive(Serialize)]
pub(crate) struct RenewSelf {
    /// Whole seconds.
    pub(crate) increment: u64,
}

impl Endpoint for RenewSelf {
    const METHOD: &str = "POST";
    fn path(&self) -> String {
        "auth/token/renew-self".to_owned()
    }
}

/// The leases under a prefix.
#[derive(Serialize)]
pub(crate) struct LeasesUnder {
    #[serde(skip)]
    pub(crate) prefix: String,
}

impl Endpoint for LeasesUnder {
    const METHOD: &str = "LIST";
    fn path(&self) -> String {
        format!("sys/leases/lookup/{}", self.prefix)
    }
}

/// What is known of a lease.
#[derive(Serialize)]
pub(crate) struct LookupLease {
    pub(crate) lease_id: String,
}

impl Endpoint for LookupLease {
    const METHOD: &str = "POST";
    fn path(&self) -> String {
        "sys/leases/lookup".to_owned()
    }
}

/// What the calling token may do, in the namespace of the request.
#[derive(Serialize)]
pub(crate) struct CapabilitiesSelf {
    pub(crate) paths: Vec<String>,
}

impl Endpoint for CapabilitiesSelf {
    const METHOD: &str = "POST";
    fn path(&self) -> String {
        "sys/capabilities-self".to_owned()
    }
}

/// Active, standby, sealed, uninitialised. Needs no token.
#[derive(Serialize)]
pub(crate) struct Health {}

impl Endpoint for Health {
    fn path(&self) -> String {
        "sys/health".to_owned()
    }
}

/// A new login of a dynamic role.
#[derive(Serialize)]
pub(crate) struct Creds {
    #[serde(skip)]
    pub(crate) mount: String,
    #[serde(skip)]
    pub(crate) role: String,
}

impl Endpoint for Creds {
    fn path(&self) -> String {
        format!("{}/creds/{}", self.mount, self.role)
    }
}

/// The end of the calling token.
#[derive(Serialize)]
pub(crate) struct RevokeSelf {}

impl Endpoint for RevokeSelf {
    const METHOD: &str = "POST";
    fn path(&self) -> String {
        "auth/token/revoke-self".to_owned()
    }
}

/// The answer to a mint. All optional: a reply that lacks something still has to be understood
/// well enough to give back the lease that it tells of.
#[derive(Deserialize)]
pub(crate) struct CredsReply {
    #[serde(default)]
    pub(crate) lease_id: Option<String>,
    #[serde(default)]
    pub(crate) lease_duration: Option<u64>,
    #[serde(default)]
    pub(crate) renewable: Option<bool>,
    #[serde(default)]
    pub(crate) data: Option<CredsData>,
}

#[derive(Deserialize)]
pub(crate) struct CredsData {
    #[serde(default)]
    pub(crate) username: Option<String>,
    #[serde(default)]
    pub(crate) password: Option<Zeroizing<String>>,
}

/// The answer to a static role's read.
#[derive(Deserialize)]
pub(crate) struct StaticReply {
    pub(crate) data: StaticData,
}

#[derive(Deserialize)]
pub(crate) struct StaticData {
    pub(crate) username: String,
    /// Not there if the role issues another kind of credential.
    #[serde(default)]
    pub(crate) password: Option<Zeroizing<String>>,
    /// Not there if nothing was rotated yet, which HashiCorp Vault can be told to leave undone.
    #[serde(default)]
    pub(crate) last_vault_rotation: Option<String>,
    /// Seconds to the next planned rotation, by period or by schedule. Stays 0 until it is done.
    #[serde(default, deserialize_with = "seconds")]
    pub(crate) ttl: Duration,
}

/// The server has a float there, which so far was a whole number.
fn seconds<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    let told = f64::deserialize(from)?;
    Duration::try_from_secs_f64(told.max(0.0)).map_err(D::Error::custom)
}

/// The answer of a KV engine of version 1.
#[derive(Deserialize)]
pub(crate) struct KvReply<T = LoginForm> {
    pub(crate) data: T,
}

/// The answer of a KV engine of version 2.
#[derive(Deserialize)]
pub(crate) struct VersionedReply<T = LoginForm> {
    pub(crate) data: VersionedData<T>,
}

#[derive(Deserialize)]
pub(crate) struct VersionedData<T = LoginForm> {
    /// None of a version that was deleted or destroyed: then the status is 404.
    pub(crate) data: Option<T>,
    pub(crate) metadata: VersionData,
}

/// What is known of a version.
#[derive(Deserialize)]
pub(crate) struct VersionData {
    /// Not said where it is the key of what is said.
    #[serde(default)]
    pub(crate) version: u64,
    #[serde(default)]
    pub(crate) created_time: String,
    /// Empty, or when it was deleted. In the future where versions end by themselves.
    #[serde(default)]
    pub(crate) deletion_time: String,
    #[serde(default)]
    pub(crate) destroyed: bool,
}

/// What a KV engine of version 2 knows of a secret.
#[derive(Deserialize)]
pub(crate) struct MetadataReply {
    pub(crate) data: Metadata,
}

#[derive(Deserialize)]
pub(crate) struct Metadata {
    pub(crate) current_version: u64,
    #[serde(default)]
    pub(crate) versions: BTreeMap<u64, VersionData>,
    #[serde(default)]
    pub(crate) custom_metadata: Option<BTreeMap<String, String>>,
    #[serde(default)]
    pub(crate) cas_required: bool,
    #[serde(default)]
    pub(crate) max_versions: u64,
}

/// The answer to a renewal of a lease.
#[derive(Deserialize)]
pub(crate) struct LeaseReply {
    pub(crate) lease_duration: u64,
}

/// The answer to a login and to a renewal of a token.
#[derive(Deserialize)]
pub(crate) struct AuthReply {
    pub(crate) auth: AuthData,
}

#[derive(Deserialize)]
pub(crate) struct AuthData {
    pub(crate) client_token: Zeroizing<String>,
    pub(crate) lease_duration: u64,
    pub(crate) renewable: bool,
    #[serde(default)]
    pub(crate) token_type: String,
    #[serde(default)]
    pub(crate) num_uses: i64,
}

/// The answer to a look at a wrapping token.
#[derive(Deserialize)]
pub(crate) struct WrapLookupReply {
    pub(crate) data: WrapLookupData,
}

#[derive(Deserialize)]
pub(crate) struct WrapLookupData {
    pub(crate) creation_path: String,
}

/// What was behind a wrapping token, where it was a secret_id.
#[derive(Deserialize)]
pub(crate) struct UnwrapReply {
    pub(crate) data: UnwrapData,
}

#[derive(Deserialize)]
pub(crate) struct UnwrapData {
    #[serde(default)]
    pub(crate) secret_id: Option<Zeroizing<String>>,
}

/// The answer to a lookup of the calling token.
#[derive(Deserialize)]
pub(crate) struct LookupReply {
    pub(crate) data: LookupData,
}

#[derive(Deserialize)]
pub(crate) struct LookupData {
    pub(crate) ttl: u64,
    #[serde(default)]
    pub(crate) creation_ttl: u64,
    /// Absent or null: it never ends, whatever `ttl` says.
    #[serde(default)]
    pub(crate) expire_time: Option<String>,
    #[serde(default)]
    pub(crate) period: u64,
    #[serde(default)]
    pub(crate) renewable: bool,
    #[serde(default)]
    pub(crate) num_uses: i64,
    #[serde(default, rename = "type")]
    pub(crate) kind: String,
}

impl LookupData {
    /// How long it has left; `None` if it does not end.
    pub(crate) fn left(&self) -> Result<Option<Duration>, SourceError> {
        let endless = self.expire_time.is_none() && self.ttl == 0;
        if endless && self.creation_ttl > 0 {
            // The server drops the end of a token before the token. It is no root token for that.
            let message = "the token had an end and shows none: it may be about to be revoked";
            return Err(SourceError::new(ErrorKind::ServerFault, message));
        }
        Ok((!endless).then(|| Duration::from_secs(self.ttl)))
    }
}

/// The answer to a question for capabilities, by path.
#[derive(Deserialize)]
pub(crate) struct CapabilitiesReply {
    pub(crate) data: HashMap<String, Vec<String>>,
}

/// The answer of `sys/health`, which has a body with every status.
#[derive(Deserialize)]
pub(crate) struct HealthReply {
    pub(crate) initialized: bool,
    pub(crate) sealed: bool,
    pub(crate) standby: bool,
    #[serde(default)]
    pub(crate) version: Option<String>,
}

/// `duration` in the server's unit, rounded up: a fraction that is cut off would ask for less,
/// and nothing at all would ask for the default.
pub(crate) fn whole_seconds(duration: Duration) -> u64 {
    let up = u64::from(duration.subsec_nanos() > 0);
    duration.as_secs().saturating_add(up).max(1)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn an_increment_is_rounded_up_and_never_zero() {
        let ms = |ms| whole_seconds(Duration::from_millis(ms));
        assert_eq!((ms(0), ms(1), ms(1000), ms(1001)), (1, 1, 1, 2));
    }

    #[test]
    fn a_body_is_what_is_no_part_of_the_path() {
        let text = |body: Option<Zeroizing<Vec<u8>>>| String::from_utf8(body.unwrap().to_vec());
        let login = |secret_id| AppRoleLogin {
            mount: "approle".to_owned(),
            role_id: "app".to_owned(),
            secret_id,
        };
        let long = format!(r#"{{"role_id":"app","secret_id":"{}"}}"#, "s".repeat(2000));
        assert_eq!(text(login(Some("s".repeat(2000).into())).body()).unwrap(), long);
        assert_eq!(text(login(None).body()).unwrap(), r#"{"role_id":"app"}"#);
        assert_eq!(
            (login(None).path().as_str(), AppRoleLogin::METHOD),
            ("auth/approle/login", "POST")
        );
        assert!(RevokeSelf {}.body().unwrap().is_empty());
        let creds = Creds { mount: "database".to_owned(), role: "app".to_owned() };
        assert_eq!((creds.path().as_str(), Creds::METHOD), ("database/creds/app", "GET"));
        assert!(creds.body().unwrap().is_empty());
    }
}
