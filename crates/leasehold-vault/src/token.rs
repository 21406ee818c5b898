//! Tokens, in memory that is wiped.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::HeaderValue;
use zeroize::Zeroizing;

/// A token. Cheap to clone; wiped when the last clone goes; in no `Debug` output.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Token(Arc<Zeroizing<String>>);

impl Token {
    /// `None` if no header can carry it. White space around it is dropped: tokens read from files
    /// end in a newline.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
        plain.then(|| Self(Arc::new(Zeroizing::new(text.to_owned()))))
    }

    /// For a request that has to name the token in its body.
    pub(crate) fn text(&self) -> Zeroizing<String> {
        Zeroizing::clone(&self.0)
    }

    /// Marked sensitive, so that neither reqwest nor hyper prints it. The copy inside is the HTTP
    /// client's, and is not wiped.
    pub(crate) fn header(&self) -> HeaderValue {
        let mut value = HeaderValue::from_str(&self.0).expect("checked in `parse`");
        value.set_sensitive(true);
        value
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token([redacted])")
    }
}

/// A token and what its giver said about it.
#[derive(Debug)]
pub(crate) struct TokenGrant {
    pub(crate) token: Token,
    /// Time to live, from before the request that told it. `None`: it does not end.
    pub(crate) ttl: Option<Duration>,
    /// What to ask for when it is renewed.
    pub(crate) increment: Duration,
    pub(crate) renewable: bool,
    /// Batch tokens can be neither renewed nor revoked.
    pub(crate) batch: bool,
    /// We logged in for it, so it is ours to revoke.
    pub(crate) own: bool,
    /// Somebody else renews it: it is looked at now and then, to learn its end.
    pub(crate) watched: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i10_a_token_is_trimmed_checked_and_never_shown() {
        let token = Token::parse(" s.abc\n").unwrap();
        assert_eq!(token.header().as_bytes(), b"s.abc");
        let shown = format!("{token:?} {:?}", token.header());
        assert!(!shown.contains("s.abc"), "{shown}");
        assert!(Token::parse(" \n").is_none());
        assert!(Token::parse("s.a\nb").is_none());
    }
}
