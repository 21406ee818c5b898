//! A token that was given to us.

use std::time::Duration;

use leasehold::{ErrorKind, SourceError};
use zeroize::Zeroizing;

use super::{AuthMethod, BoxFuture, input, refuse_limited};
use crate::api::Api;
use crate::classify::{Failure, Op};
use crate::config::ConfigError;
use crate::endpoints::{LookupReply, LookupSelf};
use crate::token::{Token, TokenGrant};

const LOOKUP: &str = "auth/token/lookup-self";

pub(super) struct GivenToken(Zeroizing<String>);

impl GivenToken {
    pub(super) fn new(token: String) -> Self {
        Self(Zeroizing::new(token))
    }

    async fn log_in(&self, api: &Api) -> Result<TokenGrant, SourceError> {
        let Some(token) = Token::parse(&self.0) else {
            return Err(SourceError::new(
                ErrorKind::Other,
                "the token given is empty or holds characters that no token has: check VAULT_TOKEN",
            ));
        };
        look_up(api, token, "the token given").await
    }
}

/// Asks the server what a token is that somebody else made.
pub(super) async fn look_up(
    api: &Api,
    token: Token,
    what: &str,
) -> Result<TokenGrant, SourceError> {
    let reply = api.json(Op::TokenLookup, LOOKUP, LookupSelf {}, Some(&token), api.request_timeout);
    let data = match reply.await {
        Ok(LookupReply { data }) => data,
        Err(Failure::TokenDead(e)) => {
            let message = format!("{what} is not valid: expired, revoked, or of another server");
            return Err(SourceError::new(ErrorKind::TokenLost, message).caused_by(e));
        }
        Err(Failure::Refused(e)) => return Err(e),
    };
    refuse_limited(data.num_uses)?;
    let ttl = data.left()?;
    Ok(TokenGrant {
        token,
        ttl,
        // Never less than what is left: that would shorten it.
        increment: Duration::from_secs(data.ttl.max(data.creation_ttl).max(data.period)),
        renewable: data.renewable && ttl.is_some(),
        batch: data.kind == "batch",
        own: false,
        watched: false,
    })
}

impl AuthMethod for GivenToken {
    fn check(&self) -> Result<(), ConfigError> {
        input::filled("auth.token", &self.0)?;
        match Token::parse(&self.0) {
            Some(_) => Ok(()),
            None => Err(ConfigError::new("auth.token", "holds characters that no token has")),
        }
    }

    fn login<'a>(&'a self, api: &'a Api) -> BoxFuture<'a, Result<TokenGrant, SourceError>> {
        Box::pin(self.log_in(api))
    }

    fn repeatable(&self) -> bool {
        false
    }

    fn describe(&self) -> String {
        "a given token".to_owned()
    }
}
