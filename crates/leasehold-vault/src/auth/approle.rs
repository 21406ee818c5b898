//! AppRole: a role_id and a secret_id for a token.

use leasehold::SourceError;

use super::secret_id::SecretId;
use super::{AuthMethod, BoxFuture, from_login, input};
use crate::api::Api;
use crate::classify::{Failure, Op};
use crate::config::ConfigError;
use crate::endpoints::{AppRoleLogin, AuthReply};
use crate::token::TokenGrant;

pub(super) struct AppRole {
    mount: String,
    role_id: String,
    secret_id: SecretId,
}

impl AppRole {
    pub(super) fn new(role_id: String, secret_id: SecretId) -> Self {
        Self { mount: "approle".to_owned(), role_id: role_id.trim().to_owned(), secret_id }
    }

    fn path(&self) -> String {
        format!("auth/{}/login", self.mount)
    }

    async fn log_in(&self, api: &Api) -> Result<TokenGrant, SourceError> {
        let path = self.path();
        let request = AppRoleLogin {
            mount: self.mount.clone(),
            role_id: self.role_id.clone(),
            secret_id: self.secret_id.get(api, &self.mount).await?,
        };
        let reply = api.json(Op::Login, &path, request, None, api.request_timeout);
        let AuthReply { auth } = reply.await.map_err(Failure::into_error)?;
        from_login(api, &path, &auth).await
    }
}

impl AuthMethod for AppRole {
    fn check(&self) -> Result<(), ConfigError> {
        input::mount(&self.mount)?;
        input::name("auth.role_id", &self.role_id)?;
        self.secret_id.check()
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
