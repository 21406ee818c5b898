//! A JWT from a file, for the methods that take one: Kubernetes, and JWT/OIDC.

use std::path::PathBuf;

use leasehold::SourceError;

use super::input::{self, SecretFile};
use super::{AuthMethod, BoxFuture, from_login};
use crate::api::Api;
use crate::classify::{Failure, Op};
use crate::config::ConfigError;
use crate::endpoints::{AuthReply, JwtLogin};
use crate::token::TokenGrant;

/// Where Kubernetes puts a pod's service-account token.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

pub(super) struct ByJwt {
    mount: String,
    role: String,
    file: SecretFile,
}

impl ByJwt {
    pub(super) fn kubernetes(role: String, path: Option<PathBuf>) -> Self {
        let path = path.unwrap_or_else(|| SERVICE_ACCOUNT.into());
        let file = SecretFile::new("service-account token", path);
        Self { mount: "kubernetes".to_owned(), role: role.trim().to_owned(), file }
    }

    pub(super) fn jwt(role: String, path: PathBuf) -> Self {
        let file = SecretFile::new("JWT", path);
        Self { mount: "jwt".to_owned(), role: role.trim().to_owned(), file }
    }

    fn path(&self) -> String {
        format!("auth/{}/login", self.mount)
    }

    async fn log_in(&self, api: &Api) -> Result<TokenGrant, SourceError> {
        let path = self.path();
        // Each time anew: the cluster, or whoever writes it, replaces it before it is over.
        let jwt = self.file.read().await?;
        let request = JwtLogin { mount: self.mount.clone(), role: self.role.clone(), jwt };
        let reply = api.json(Op::Login, &path, request, None, api.request_timeout);
        let AuthReply { auth } = reply.await.map_err(Failure::into_error)?;
        from_login(api, &path, &auth).await
    }
}

impl AuthMethod for ByJwt {
    fn check(&self) -> Result<(), ConfigError> {
        input::mount(&self.mount)?;
        input::name("auth.role", &self.role)?;
        self.file.check("auth.path")
    }

    fn login<'a>(&'a self, api: &'a Api) -> BoxFuture<'a, Result<TokenGrant, SourceError>> {
        Box::pin(self.log_in(api))
    }

    fn set_mount(&mut self, mount: String) {
        self.mount = mount;
    }

    fn describe(&self) -> String {
        self.path()
    }
}
