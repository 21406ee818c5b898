//! The client certificate of the TLS connection.

use leasehold::SourceError;

use super::{AuthMethod, BoxFuture, from_login, input};
use crate::api::Api;
use crate::classify::{Failure, Op};
use crate::config::ConfigError;
use crate::endpoints::{AuthReply, CertLogin};
use crate::token::TokenGrant;

pub(super) struct Cert {
    mount: String,
    /// Which of the mount's roles; without: any that the certificate fits.
    role: Option<String>,
}

impl Cert {
    pub(super) fn new(role: Option<String>) -> Self {
        let role = role.map(|role| role.trim().to_owned());
        Self { mount: "cert".to_owned(), role }
    }

    fn path(&self) -> String {
        format!("auth/{}/login", self.mount)
    }

    async fn log_in(&self, api: &Api) -> Result<TokenGrant, SourceError> {
        let path = self.path();
        let request = CertLogin { mount: self.mount.clone(), name: self.role.clone() };
        let reply = api.json(Op::Login, &path, request, None, api.request_timeout);
        let AuthReply { auth } = reply.await.map_err(Failure::into_error)?;
        from_login(api, &path, &auth).await
    }
}

impl AuthMethod for Cert {
    fn check(&self) -> Result<(), ConfigError> {
        input::mount(&self.mount)?;
        self.role.as_ref().map_or(Ok(()), |role| input::name("auth.role", role))
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
