//! A user name and a password that the server itself keeps.

use leasehold::SourceError;
use zeroize::Zeroizing;

use super::{AuthMethod, BoxFuture, from_login, input};
use crate::api::Api;
use crate::classify::{Failure, Op};
use crate::config::ConfigError;
use crate::endpoints::{AuthReply, UserpassLogin};
use crate::token::TokenGrant;

pub(super) struct Userpass {
    mount: String,
    username: String,
    password: Zeroizing<String>,
}

impl Userpass {
    pub(super) fn new(username: String, password: String) -> Self {
        let password = Zeroizing::new(password);
        Self { mount: "userpass".to_owned(), username: username.trim().to_owned(), password }
    }

    fn path(&self) -> String {
        format!("auth/{}/login/{}", self.mount, self.username)
    }

    async fn log_in(&self, api: &Api) -> Result<TokenGrant, SourceError> {
        let path = self.path();
        let request = UserpassLogin {
            mount: self.mount.clone(),
            username: self.username.clone(),
            password: self.password.clone(),
        };
        let reply = api.json(Op::Login, &path, request, None, api.request_timeout);
        let AuthReply { auth } = reply.await.map_err(Failure::into_error)?;
        from_login(api, &path, &auth).await
    }
}

impl AuthMethod for Userpass {
    fn check(&self) -> Result<(), ConfigError> {
        input::mount(&self.mount)?;
        input::segment("auth.username", &self.username)?;
        // As it is: a password may well begin or end in white space.
        if self.password.is_empty() {
            return Err(ConfigError::new("auth.password", "is empty: it has to be given"));
        }
        Ok(())
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
