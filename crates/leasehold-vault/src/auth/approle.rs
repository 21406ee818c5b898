//! AppRole: a role_id and a secret_id for a token.

use leasehold::{ErrorKind, SourceError};
use zeroize::Zeroizing;

use super::{AuthMethod, BoxFuture, from_login};
use crate::api::Api;
use crate::classify::{Failure, Op};
use crate::endpoints::{AppRoleLogin, AuthReply};
use crate::token::TokenGrant;

pub(super) struct AppRole {
    pub(super) mount: String,
    role_id: String,
    secret_id: Zeroizing<String>,
}

impl AppRole {
    pub(super) fn new(role_id: String, secret_id: String) -> Self {
        let secret_id = Zeroizing::new(secret_id);
        Self {
            mount: "approle".to_owned(),
            role_id: role_id.trim().to_owned(),
            secret_id: Zeroizing::new(secret_id.trim().to_owned()),
        }
    }

    fn path(&self) -> String {
        format!("auth/{}/login", self.mount)
    }

    async fn log_in(&self, api: &Api) -> Result<TokenGrant, SourceError> {
        if self.role_id.is_empty() || self.secret_id.is_empty() {
            return Err(SourceError::new(
                ErrorKind::Other,
                "AppRole needs a role_id and a secret_id, and one of them is empty",
            ));
        }
        let path = self.path();
        let request = AppRoleLogin {
            mount: self.mount.clone(),
            role_id: self.role_id.clone(),
            secret_id: self.secret_id.clone(),
        };
        let reply = api.json(Op::Login, &path, request, None, api.request_timeout);
        let AuthReply { auth } = reply.await.map_err(Failure::into_error)?;
        from_login(api, &path, &auth).await
    }
}

impl AuthMethod for AppRole {
    fn login<'a>(&'a self, api: &'a Api) -> BoxFuture<'a, Result<TokenGrant, SourceError>> {
        Box::pin(self.log_in(api))
    }

    fn repeatable(&self) -> bool {
        true
    }

    fn describe(&self) -> String {
        self.path()
    }
}
