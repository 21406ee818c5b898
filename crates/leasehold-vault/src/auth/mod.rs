//! Ways to log in. Each is a small module behind one trait.
//!
//! What the server needs is with each constructor of [`Auth`], and at more length in `docs/auth.md`
//! of the repository; the tests set it up so. Each that logs in again wants tokens with a TTL and a
//! maximum TTL, and none limited in its uses.

mod approle;
mod by_jwt;
mod cert;
mod custom;
mod input;
mod secret_id;
mod token;
mod token_file;
mod userpass;

use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

use leasehold::{ErrorKind, SourceError};

use crate::api::Api;
use crate::classify::{Op, malformed};
use crate::config::ConfigError;
use crate::endpoints::{AuthData, RevokeSelf};
use crate::token::{Token, TokenGrant};

pub use secret_id::SecretId;

pub(crate) type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// One way to come by a token.
pub(crate) trait AuthMethod: Send + Sync {
    /// Finds fault with what was given, before anything is sent.
    fn check(&self) -> Result<(), ConfigError>;

    /// Gets a token. `api` sends, bounds and classifies.
    fn login<'a>(&'a self, api: &'a Api) -> BoxFuture<'a, Result<TokenGrant, SourceError>>;

    /// Whether [`login`](Self::login) can be called again for another token.
    fn repeatable(&self) -> bool {
        true
    }

    /// Resolves when a login would bring another token though this one is not at its end: somebody
    /// else decides. Cancel safe.
    fn changed(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::pending())
    }

    /// Where it is mounted, without slashes at the ends. Means nothing to some.
    fn set_mount(&mut self, mount: String) {
        drop(mount);
    }

    /// What it is, for logs: a path, never a secret.
    fn describe(&self) -> String;
}

/// How a session comes by its token.
///
/// What is given here is checked by [`Session::login`](crate::Session::login), whose error names
/// the field or file at fault. The commands set up the server, with a policy `orders` (see the
/// [crate](crate#policy)). What a file holds is read anew at each login, so that it may be
/// replaced at any time.
///
/// ```no_run
/// use leasehold_vault::{Auth, SecretId};
///
/// # fn f() -> Option<()> {
/// let role_id = std::env::var("APPROLE_ROLE_ID").ok()?;
/// let auth = Auth::approle(role_id, SecretId::file("/run/secrets/secret_id")).mount("approle-prod");
/// # Some(()) }
/// ```
pub struct Auth(Box<dyn AuthMethod>);

impl Auth {
    /// A token that somebody else made. The session renews it where it can be renewed, and never
    /// revokes it. When it ends there is no other: leases made with it end too.
    ///
    /// ```sh
    /// bao token create -orphan -policy=orders -period=1h
    /// ```
    #[must_use]
    pub fn token(token: impl Into<String>) -> Self {
        Self(Box::new(token::GivenToken::new(token.into())))
    }

    /// A token in a file that somebody else keeps fresh, such as an agent's sink.
    ///
    /// It is looked at each second. When another token is in it the session goes on with that one,
    /// and leases move to it before the old one ends. The session neither renews nor revokes these
    /// tokens; it asks the server now and then how long they live. When the token is dead and
    /// there is no other in the file yet, the session is lost and goes on looking.
    #[must_use]
    pub fn token_file(path: impl Into<PathBuf>) -> Self {
        Self(Box::new(token_file::TokenFile::new(path.into())))
    }

    /// AppRole, mounted at `approle`. White space around both is dropped. A secret_id may also be
    /// read from a file or variable, come wrapped, or not be needed: see [`SecretId`].
    ///
    /// ```sh
    /// bao auth enable approle
    /// bao write auth/approle/role/orders token_policies=orders token_ttl=1h token_max_ttl=24h
    /// bao read auth/approle/role/orders/role-id
    /// bao write -f auth/approle/role/orders/secret-id      # -wrap-ttl=5m: wrapped
    /// ```
    #[must_use]
    pub fn approle(role_id: impl Into<String>, secret_id: impl Into<SecretId>) -> Self {
        Self(Box::new(approle::AppRole::new(role_id.into(), secret_id.into())))
    }

    /// Kubernetes, mounted at `kubernetes`: the pod's service-account token, from
    /// `/var/run/secrets/kubernetes.io/serviceaccount/token`.
    ///
    /// ```sh
    /// bao auth enable kubernetes
    /// bao write auth/kubernetes/config kubernetes_host=https://kubernetes.default.svc:443
    /// bao write auth/kubernetes/role/orders token_policies=orders token_ttl=1h token_max_ttl=24h \
    ///     bound_service_account_names=orders bound_service_account_namespaces=shop
    /// ```
    #[must_use]
    pub fn kubernetes(role: impl Into<String>) -> Self {
        Self(Box::new(by_jwt::ByJwt::kubernetes(role.into(), None)))
    }

    /// The same with a service-account token from another file: one that is projected for an
    /// audience of its own, say.
    #[must_use]
    pub fn kubernetes_token(role: impl Into<String>, path: impl Into<PathBuf>) -> Self {
        Self(Box::new(by_jwt::ByJwt::kubernetes(role.into(), Some(path.into()))))
    }

    /// JWT/OIDC, mounted at `jwt`, with a JWT from a file.
    ///
    /// ```sh
    /// bao auth enable jwt
    /// bao write auth/jwt/config jwt_validation_pubkeys=@key.pem   # or oidc_discovery_url=...
    /// bao write auth/jwt/role/orders token_policies=orders token_ttl=1h token_max_ttl=24h \
    ///     role_type=jwt user_claim=sub bound_audiences=leasehold bound_subject=orders
    /// ```
    #[must_use]
    pub fn jwt(role: impl Into<String>, path: impl Into<PathBuf>) -> Self {
        Self(Box::new(by_jwt::ByJwt::jwt(role.into(), path.into())))
    }

    /// User name and password, mounted at `userpass`.
    ///
    /// ```sh
    /// bao auth enable userpass
    /// bao write auth/userpass/users/orders password=... token_policies=orders token_ttl=1h token_max_ttl=24h
    /// ```
    #[must_use]
    pub fn userpass(username: impl Into<String>, password: impl Into<String>) -> Self {
        Self(Box::new(userpass::Userpass::new(username.into(), password.into())))
    }

    /// TLS certificate, mounted at `cert`: the client certificate of the
    /// [`VaultConfig`](crate::VaultConfig). `role` names one of the mount's roles; with `None` the
    /// server takes any that the certificate fits.
    ///
    /// ```sh
    /// bao auth enable cert
    /// bao write auth/cert/certs/orders certificate=@ca.pem \
    ///     allowed_common_names=orders.internal token_policies=orders token_ttl=1h token_max_ttl=24h
    /// ```
    #[must_use]
    pub fn cert(role: Option<&str>) -> Self {
        Self(Box::new(cert::Cert::new(role.map(str::to_owned))))
    }

    /// Any other method: `body` makes what is posted to `login_path`, anew for each login.
    ///
    /// `body` says by the [kind](leasehold::ErrorKind::is_transient) of its error whether trying
    /// again soon may help. It is given up on after 30 s, and dropped then. It must not put a
    /// secret into an error.
    ///
    /// ```
    /// use leasehold::{ErrorKind, SourceError};
    /// use leasehold_vault::Auth;
    ///
    /// # async fn signed_caller_identity() -> Result<(String, String), std::io::Error> {
    /// #     Ok(Default::default())
    /// # }
    /// // AWS: the server has the signed request carried out, and so learns who we are.
    /// let auth = Auth::custom("auth/aws/login", || async {
    ///     let (body, headers) = signed_caller_identity().await.map_err(|e| {
    ///         SourceError::new(ErrorKind::ServerFault, "signing GetCallerIdentity").caused_by(e)
    ///     })?;
    ///     Ok(serde_json::json!({
    ///         "role": "orders",
    ///         "iam_http_request_method": "POST",
    ///         "iam_request_url": "aHR0cHM6Ly9zdHMuYW1hem9uYXdzLmNvbS8=",
    ///         "iam_request_body": body,
    ///         "iam_request_headers": headers,
    ///     }))
    /// });
    /// ```
    #[must_use]
    pub fn custom<F, B>(login_path: impl AsRef<str>, body: F) -> Self
    where
        F: Fn() -> B + Send + Sync + 'static,
        B: Future<Output = Result<serde_json::Value, SourceError>> + Send + 'static,
    {
        let body = Box::new(move || -> BoxFuture<'static, _> { Box::pin(body()) });
        Self(Box::new(custom::Custom::new(login_path.as_ref(), body)))
    }

    /// Where the auth method is mounted, if not under its usual name. Means nothing for tokens and
    /// for [`custom`](Self::custom).
    #[must_use]
    pub fn mount(mut self, mount: impl AsRef<str>) -> Self {
        let mount = mount.as_ref().trim().trim_matches('/');
        // As people write it, and as `bao auth list` does.
        let mount = mount.strip_prefix("auth/").unwrap_or(mount);
        self.0.set_mount(mount.to_owned());
        self
    }

    pub(crate) fn into_method(self) -> Box<dyn AuthMethod> {
        self.0
    }
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Auth({})", self.0.describe())
    }
}

/// A file with a secret in it.
#[cfg(feature = "fuzzing")]
pub(crate) fn secret_file(path: &str) -> input::SecretFile {
    input::SecretFile::new("secret_id", path)
}

/// Whether a wrapping token was made for a secret_id of that mount.
#[cfg(feature = "fuzzing")]
pub(crate) fn secret_id_path_fits(path: &str, mount: &str) -> bool {
    secret_id::is_secret_id_path(path, mount)
}

/// What a login granted. A token that can't be used is given back at once.
async fn from_login(api: &Api, path: &str, auth: &AuthData) -> Result<TokenGrant, SourceError> {
    let malformed = |problem| malformed(Op::Login, path, problem);
    let Some(token) = Token::parse(&auth.client_token) else {
        return Err(malformed("has no usable client_token"));
    };
    let usable = match auth.lease_duration {
        0 => Err(malformed("grants a token that lives for 0 s")),
        _ => refuse_limited(auth.num_uses),
    };
    if let Err(e) = usable {
        // Ours, and of no use. If that fails it ends by its TTL.
        let path = "auth/token/revoke-self";
        let revoke = RevokeSelf {};
        let call = api.call(Op::TokenRevoke, path, revoke, Some(&token), api.request_timeout);
        let _ = call.await;
        return Err(e);
    }
    let ttl = Duration::from_secs(auth.lease_duration);
    Ok(TokenGrant {
        token,
        ttl: Some(ttl),
        increment: ttl,
        renewable: auth.renewable,
        batch: auth.token_type == "batch",
        own: true,
        watched: false,
    })
}

/// Leases die with the last use of the token that made them, so such a token can't hold any.
fn refuse_limited(num_uses: i64) -> Result<(), SourceError> {
    if num_uses == 0 {
        return Ok(());
    }
    Err(SourceError::new(
        ErrorKind::Other,
        "the token is limited in its uses, and its leases would be revoked with the last one: \
         use a token without that limit (token_num_uses=0)",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i10_debug_shows_neither_token_nor_secret_id() {
        let shown = format!(
            "{:?} {:?} {:?} {:?}",
            Auth::token("s.topsecret"),
            Auth::approle("role-uuid", "topsecret").mount("/other/"),
            Auth::approle("role-uuid", SecretId::wrapped("s.topsecret")),
            Auth::userpass("joe", "topsecret"),
        );
        assert!(!shown.contains("topsecret"), "{shown}");
        assert!(shown.contains("auth/other/login"), "{shown}");
    }

    #[test]
    fn what_can_not_work_is_an_error_that_names_the_field() {
        let body = || async { Ok(serde_json::Value::Null) };
        let approle = |role_id| Auth::approle(role_id, "secret");
        for (auth, field) in [
            (Auth::token(" \n"), "auth.token"),
            (Auth::token_file(""), "auth.path"),
            (Auth::token_file("/run/a\0b"), "auth.path"),
            (approle(" "), "auth.role_id"),
            (approle("role\nid"), "auth.role_id"),
            (approle("role").mount(""), "auth.mount"),
            (approle("role").mount("../sys"), "auth.mount"),
            (approle("role").mount("team/../../sys"), "auth.mount"),
            (approle("role").mount("a//b"), "auth.mount"),
            (approle("role").mount("a?b"), "auth.mount"),
            (approle("role").mount("a%2e%2e"), "auth.mount"),
            (approle("role").mount("a b"), "auth.mount"),
            (Auth::approle("role", ""), "auth.secret_id"),
            (Auth::kubernetes(""), "auth.role"),
            (Auth::kubernetes("app").mount("."), "auth.mount"),
            (Auth::kubernetes_token("app", ""), "auth.path"),
            (Auth::jwt("", "/run/jwt"), "auth.role"),
            (Auth::jwt("app", "/run/j\0"), "auth.path"),
            (Auth::userpass("", "pw"), "auth.username"),
            (Auth::userpass("a/b", "pw"), "auth.username"),
            (Auth::userpass("..", "pw"), "auth.username"),
            (Auth::userpass("joe", ""), "auth.password"),
            (Auth::cert(Some(" ")), "auth.role"),
            (Auth::cert(None).mount("a#b"), "auth.mount"),
            (Auth::custom("", body), "auth.path"),
            (Auth::custom("auth/aws/../../sys/seal", body), "auth.path"),
        ] {
            let e = auth.0.check().expect_err(field);
            assert_eq!(e.setting(), field, "{auth:?}: {e}");
        }
    }

    #[test]
    fn a_mount_is_taken_as_people_write_it() {
        for mount in ["team/ci", "/team/ci/", "auth/team/ci", " auth/team/ci/ "] {
            let auth = Auth::jwt("app", "/run/jwt").mount(mount);
            auth.0.check().unwrap();
            assert_eq!(format!("{auth:?}"), "Auth(auth/team/ci/login)");
        }
        let auth = Auth::custom("/v1/auth/aws/login", || async { Ok(serde_json::Value::Null) });
        assert_eq!(format!("{:?}", auth.mount("x")), "Auth(auth/aws/login)");
    }

    #[tokio::test]
    async fn a_file_without_a_secret_is_an_error_that_names_it() {
        use input::SecretFile;
        let dir = std::env::temp_dir().join(format!("leasehold-auth-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let long = "x".repeat(70_000);
        for (name, text, passing) in [
            ("empty", Some(" \n"), true),
            ("missing", None, true),
            ("two", Some("top secret"), false),
            ("long", Some(&*long), false),
        ] {
            let path = dir.join(name);
            if let Some(text) = text {
                std::fs::write(&path, text).unwrap();
            }
            let e = SecretFile::new("JWT", &path).read().await.unwrap_err();
            assert_eq!(e.is_transient(), passing, "{e}");
            assert!(e.to_string().contains(&format!("{path:?}")), "{e}");
            assert!(!e.to_string().contains("top secret"), "{e}");
        }
        let e = SecretFile::new("JWT", &dir).read().await.unwrap_err();
        assert!(e.to_string().contains("directory"), "{e}");
        std::fs::write(dir.join("good"), " abc\n").unwrap();
        assert_eq!(**SecretFile::new("JWT", dir.join("good")).read().await.unwrap(), *"abc");
        std::fs::remove_dir_all(dir).unwrap();
    }
}
