//! What goes over the wire, where vaultrs has no endpoint or drops what we need.

use std::collections::HashMap;
use std::time::Duration;

use leasehold::{ErrorKind, LoginForm, SourceError};
use rustify_derive::Endpoint;
use serde::Deserialize;
use zeroize::Zeroizing;

/// A login by AppRole. vaultrs has one too, whose copy of the secret_id is not wiped.
#[derive(Endpoint)]
#[endpoint(path = "auth/{self.mount}/login", method = "POST")]
pub(crate) struct AppRoleLogin {
    #[endpoint(skip)]
    pub(crate) mount: String,
    pub(crate) role_id: String,
    /// Not sent if there is none.
    pub(crate) secret_id: Option<Zeroizing<String>>,
}

/// The present login of a static role.
#[derive(Endpoint)]
#[endpoint(path = "{self.mount}/static-creds/{self.role}")]
pub(crate) struct StaticCreds {
    #[endpoint(skip)]
    pub(crate) mount: String,
    #[endpoint(skip)]
    pub(crate) role: String,
}

/// A secret of a KV engine, or what is known about it: any path that is read.
#[derive(Endpoint)]
#[endpoint(path = "{self.path}")]
pub(crate) struct ReadPath {
    #[endpoint(skip)]
    pub(crate) path: String,
}

/// A new version of a secret of a KV engine of version 2.
#[derive(Endpoint)]
#[endpoint(path = "{self.path}", method = "POST")]
pub(crate) struct WriteSecret {
    #[endpoint(skip)]
    pub(crate) path: String,
    #[endpoint(raw)]
    pub(crate) body: Vec<u8>,
}

/// A login by Kubernetes, or by JWT/OIDC.
#[derive(Endpoint)]
#[endpoint(path = "auth/{self.mount}/login", method = "POST")]
pub(crate) struct JwtLogin {
    #[endpoint(skip)]
    pub(crate) mount: String,
    pub(crate) role: String,
    pub(crate) jwt: Zeroizing<String>,
}

/// A login by user name and password.
#[derive(Endpoint)]
#[endpoint(path = "auth/{self.mount}/login/{self.username}", method = "POST")]
pub(crate) struct UserpassLogin {
    #[endpoint(skip)]
    pub(crate) mount: String,
    #[endpoint(skip)]
    pub(crate) username: String,
    pub(crate) password: Zeroizing<String>,
}

/// A login by the certificate of the connection.
#[derive(Endpoint)]
#[endpoint(path = "auth/{self.mount}/login", method = "POST")]
pub(crate) struct CertLogin {
    #[endpoint(skip)]
    pub(crate) mount: String,
    pub(crate) name: Option<String>,
}

/// A login with a body that the application made.
#[derive(Endpoint)]
#[endpoint(path = "{self.path}", method = "POST")]
pub(crate) struct CustomLogin {
    #[endpoint(skip)]
    pub(crate) path: String,
    #[endpoint(raw)]
    pub(crate) body: Vec<u8>,
}

/// What a wrapping token was made for. Does not use it up, and needs no other token.
#[derive(Endpoint)]
#[endpoint(path = "sys/wrapping/lookup", method = "POST")]
pub(crate) struct WrapLookup {
    pub(crate) token: Zeroizing<String>,
}

/// What is behind the calling token, once.
#[derive(Endpoint)]
#[endpoint(path = "sys/wrapping/unwrap", method = "POST")]
pub(crate) struct Unwrap {}

/// More time for a lease.
#[derive(Endpoint)]
#[endpoint(path = "sys/leases/renew", method = "POST")]
pub(crate) struct RenewLease {
    pub(crate) lease_id: String,
    /// Whole seconds.
    pub(crate) increment: u64,
}

/// The end of a lease. `sync` is the server's default, and said all the same.
#[derive(Endpoint)]
#[endpoint(path = "sys/leases/revoke", method = "POST")]
pub(crate) struct RevokeLease {
    pub(crate) lease_id: String,
    pub(crate) sync: bool,
}

/// What the calling token is.
#[derive(Endpoint)]
#[endpoint(path = "auth/token/lookup-self")]
pub(crate) struct LookupSelf {}

/// More time for the calling token.
#[derive(Endpoint)]
#[endpoint(path = "auth/token/renew-self", method = "POST")]
pub(crate) struct RenewSelf {
    /// Whole seconds.
    pub(crate) increment: u64,
}

/// The leases under a prefix.
#[derive(Endpoint)]
#[endpoint(path = "sys/leases/lookup/{self.prefix}", method = "LIST")]
pub(crate) struct LeasesUnder {
    #[endpoint(skip)]
    pub(crate) prefix: String,
}

/// What is known of a lease.
#[derive(Endpoint)]
#[endpoint(path = "sys/leases/lookup", method = "POST")]
pub(crate) struct LookupLease {
    pub(crate) lease_id: String,
}

/// What the calling token may do, in the namespace of the request.
#[derive(Endpoint)]
#[endpoint(path = "sys/capabilities-self", method = "POST")]
pub(crate) struct CapabilitiesSelf {
    pub(crate) paths: Vec<String>,
}

/// Active, standby, sealed, uninitialised. Needs no token.
#[derive(Endpoint)]
#[endpoint(path = "sys/health")]
pub(crate) struct Health {}

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
    pub(crate) password: Zeroizing<String>,
    #[serde(default)]
    pub(crate) last_vault_rotation: Option<String>,
    /// Whole seconds to the next planned rotation. Stays 0 until it is done.
    #[serde(default)]
    pub(crate) ttl: u64,
}

/// The answer of a KV engine of version 1.
#[derive(Deserialize)]
pub(crate) struct KvReply {
    pub(crate) data: LoginForm,
}

/// The answer of a KV engine of version 2.
#[derive(Deserialize)]
pub(crate) struct VersionedReply {
    pub(crate) data: VersionedData,
}

#[derive(Deserialize)]
pub(crate) struct VersionedData {
    pub(crate) data: LoginForm,
    pub(crate) metadata: VersionData,
}

#[derive(Deserialize)]
pub(crate) struct VersionData {
    pub(crate) version: u64,
}

/// What a KV engine of version 2 knows of a secret.
#[derive(Deserialize)]
pub(crate) struct MetadataReply {
    pub(crate) data: Metadata,
}

#[derive(Deserialize)]
pub(crate) struct Metadata {
    pub(crate) current_version: u64,
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
    use super::*;

    #[test]
    fn an_increment_is_rounded_up_and_never_zero() {
        let ms = |ms| whole_seconds(Duration::from_millis(ms));
        assert_eq!((ms(0), ms(1), ms(1000), ms(1001)), (1, 1, 1, 2));
    }
}
