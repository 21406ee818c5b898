//! Whatever else takes a POST: the application makes the body, anew for each login.

use leasehold::{ErrorKind, SourceError};
use serde_json::Value;
use tokio::time::timeout;
use zeroize::Zeroize;

use super::{AuthMethod, BoxFuture, from_login, input};
use crate::api::Api;
use crate::classify::{Failure, Op};
use crate::config::ConfigError;
use crate::endpoints::{AuthReply, WriteBody};
use crate::token::TokenGrant;

type MakeBody = dyn Fn() -> BoxFuture<'static, Result<Value, SourceError>> + Send + Sync;

pub(super) struct Custom {
    path: String,
    body: Box<MakeBody>,
}

impl Custom {
    pub(super) fn new(path: &str, body: Box<MakeBody>) -> Self {
        let path = path.trim().trim_matches('/');
        Self { path: path.strip_prefix("v1/").unwrap_or(path).to_owned(), body }
    }

    async fn log_in(&self, api: &Api) -> Result<TokenGrant, SourceError> {
        let late = |_| {
            let message = format!("the body for {} was not made in time", self.path);
            SourceError::new(ErrorKind::Timeout, message)
        };
        let mut body = timeout(input::PATIENCE, (self.body)()).await.map_err(late)??;
        // Writing a value that is already one can't fail.
        let text = serde_json::to_vec(&body).unwrap_or_default();
        wipe(&mut body);
        let request = WriteBody { path: self.path.clone(), body: text };
        let reply = api.json(Op::Login, &self.path, request, None, api.request_timeout);
        let AuthReply { auth } = reply.await.map_err(Failure::into_error)?;
        from_login(api, &self.path, &auth).await
    }
}

/// Any of it may be a secret.
fn wipe(value: &mut Value) {
    match value {
        Value::String(text) => text.zeroize(),
        Value::Array(items) => items.iter_mut().for_each(wipe),
        Value::Object(fields) => fields.values_mut().for_each(wipe),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

impl AuthMethod for Custom {
    fn check(&self) -> Result<(), ConfigError> {
        input::filled("auth.path", &self.path)?;
        input::segments("auth.path", &self.path)
    }

    fn login<'a>(&'a self, api: &'a Api) -> BoxFuture<'a, Result<TokenGrant, SourceError>> {
        Box::pin(self.log_in(api))
    }

    fn describe(&self) -> String {
        self.path.clone()
    }
}
