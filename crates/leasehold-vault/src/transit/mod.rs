//! Encryption, HMACs and signatures by the Transit engine, with the session that keeps the logins.
//!
//! ```no_run
//! # async fn example(session: leasehold_vault::Session) -> Result<(), Box<dyn std::error::Error>> {
//! use leasehold_vault::transit::Item;
//!
//! let cards = session.transit("transit").key("cards");
//! let stored = cards.encrypt(Item::new("4111 1111").associated_data("customer 17")).await?;
//! let card = cards.decrypt(Item::new(&stored).associated_data("customer 17")).await?;
//! assert_eq!(card.expose(), b"4111 1111");
//! # Ok(()) }
//! ```
//!
//! The keys stay in the server; what is encrypted goes there and back. Plaintexts, and the bodies
//! of requests and answers that hold them, are wiped when they are dropped, and are in no log,
//! error, span or `Debug` output. What is not ours to wipe: buffers of the HTTP client and of TLS.
//!
//! # Calls
//! Each is a request with the session's token, which is logged in for anew where it proves dead.
//! One is bounded by [`VaultConfig::request_timeout`](crate::VaultConfig::request_timeout) for each
//! request of it. Nothing is repeated: whoever asks knows whether it is worth waiting, and
//! [`TransitError::is_transient`] says whether it can help. Everything here may be asked for again
//! with no harm, and every future may be dropped at any point: what is left is an answer that
//! nobody reads. Requests of this kind wait neither for logins nor the other way around; of one
//! session [`VaultConfig::max_in_flight`](crate::VaultConfig::max_in_flight) are under way at once.
//!
//! A session is closed with the last of its sources, by a rotator's shutdown for one; keys don't
//! keep it open. Without any source, [`Session::close`] ends it.
//!
//! # Limits
//! Servers refuse requests of more than 32 MiB (`max_request_size`). OpenBao refuses those of more
//! than 1000 strings (`max_request_json_strings`), of which an item of a batch is at least two, and
//! HashiCorp Vault single values of more than 1 MiB. Batches are therefore sent in parts of up to
//! 1 MiB and 900 strings, one after the other, and a part that is still too much for the server is
//! halved; a single item that can't fit is an error that says so. An answer is no longer than
//! [`VaultConfig::max_response`](crate::VaultConfig::max_response), 1 MiB unless that is changed,
//! which a ciphertext of some 700 KiB of plaintext fits in: for more, use the key that
//! Transit gives for encrypting at home.

mod batch;
mod error;
mod item;
mod wire;

use std::fmt;

use leasehold::SourceError;

use crate::classify::{Op, brief, error_text, malformed, without};
use crate::session::Session;

pub use error::{TransitError, TransitErrorKind};
pub(crate) use wire::decoded;

pub use item::{Ciphertext, Hmac, Item, Plaintext, Signature};

use wire::{Items, Outcome, Proof, Request, Signing, Verb};

impl Session {
    /// The Transit engine mounted at `mount`.
    #[must_use]
    pub fn transit(&self, mount: impl AsRef<str>) -> Transit {
        let mount = mount.as_ref().trim_matches('/').to_owned();
        Transit { session: self.clone(), mount }
    }
}

/// A Transit engine. From [`Session::transit`]; cheap to clone.
#[derive(Clone)]
pub struct Transit {
    session: Session,
    mount: String,
}

impl Transit {
    /// One of its keys. Asks nothing: whether there is one shows when it is used.
    #[must_use]
    pub fn key(&self, name: impl AsRef<str>) -> TransitKey {
        TransitKey {
            session: self.session.clone(),
            mount: self.mount.clone(),
            name: name.as_ref().to_owned(),
            signing: Signing::default(),
        }
    }
}

impl fmt::Debug for Transit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Transit").field(&self.mount).finish()
    }
}

/// A key of a Transit engine, by its name. From [`Transit::key`]; cheap to clone.
///
/// An [`Item`] is what is done to, and is made of whatever has bytes: `key.encrypt("text")`.
#[derive(Clone)]
pub struct TransitKey {
    session: Session,
    mount: String,
    name: String,
    signing: Signing,
}

impl TransitKey {
    /// The hash for HMACs and signatures, in the server's words: `sha2-512`. Default: the server's,
    /// `sha2-256`. What was made with one is verified with the same.
    #[must_use]
    pub fn hash_algorithm(mut self, name: impl Into<String>) -> Self {
        self.signing.hash_algorithm = Some(name.into());
        self
    }

    /// How RSA keys sign, in the server's words: `pss` (its default) or `pkcs1v15`.
    #[must_use]
    pub fn signature_algorithm(mut self, name: impl Into<String>) -> Self {
        self.signing.signature_algorithm = Some(name.into());
        self
    }

    /// How signatures of ECDSA keys are written, in the server's words: `asn1` (its default), or
    /// `jws` as in a JWT.
    #[must_use]
    pub fn marshaling_algorithm(mut self, name: impl Into<String>) -> Self {
        self.signing.marshaling_algorithm = Some(name.into());
        self
    }

    /// What is signed and verified is a hash already.
    #[must_use]
    pub fn prehashed(mut self) -> Self {
        self.signing.prehashed = true;
        self
    }

    /// Encrypts. Where there is no such key, and the policy gives `create` on the path, the server
    /// makes one: give `update` alone to services.
    ///
    /// # Errors
    /// See [`TransitErrorKind`].
    pub async fn encrypt<'a>(&self, item: impl Into<Item<'a>>) -> Result<Ciphertext, TransitError> {
        self.one(Verb::Encrypt, item.into(), None, ciphertext).await
    }

    /// Decrypts what was encrypted with this key, whatever its version then, with the same context
    /// and associated data.
    ///
    /// # Errors
    /// See [`TransitErrorKind`]; [`BadCiphertext`](TransitErrorKind::BadCiphertext) for all that was
    /// not encrypted so, or was changed.
    pub async fn decrypt<'a>(&self, item: impl Into<Item<'a>>) -> Result<Plaintext, TransitError> {
        self.one(Verb::Decrypt, item.into(), None, |outcome| outcome.plaintext).await
    }

    /// Encrypts anew what is encrypted, with the key's latest version, without showing it to
    /// anybody: to be done with what is stored after the key was rotated
    /// ([`Ciphertext::key_version`] tells what is old). Knows no associated data, and refuses it:
    /// decrypt such a ciphertext and encrypt again.
    ///
    /// # Errors
    /// As [`decrypt`](Self::decrypt).
    pub async fn rewrap<'a>(&self, item: impl Into<Item<'a>>) -> Result<Ciphertext, TransitError> {
        self.one(Verb::Rewrap, item.into(), None, ciphertext).await
    }

    /// Encrypts many, each for itself: the results are in the order of the items, and a bad item
    /// spoils none of the others. Sent in as many requests as it takes, one after the other.
    ///
    /// # Errors
    /// What concerns all of them: denied, sealed, no such key. Then there are no results, though
    /// some items may have been encrypted by then.
    pub async fn encrypt_batch<'a>(
        &self,
        items: impl IntoIterator<Item = impl Into<Item<'a>>>,
    ) -> Result<Vec<Result<Ciphertext, TransitError>>, TransitError> {
        self.many(Verb::Encrypt, collect(items), ciphertext).await
    }

    /// Decrypts many, as [`encrypt_batch`](Self::encrypt_batch) encrypts them.
    ///
    /// # Errors
    /// What concerns all of them.
    pub async fn decrypt_batch<'a>(
        &self,
        items: impl IntoIterator<Item = impl Into<Item<'a>>>,
    ) -> Result<Vec<Result<Plaintext, TransitError>>, TransitError> {
        self.many(Verb::Decrypt, collect(items), |outcome| outcome.plaintext).await
    }

    /// Rewraps many, as [`encrypt_batch`](Self::encrypt_batch) encrypts them. The engine refuses
    /// some batches whole for one bad item; such a one is halved until it is found.
    ///
    /// # Errors
    /// What concerns all of them.
    pub async fn rewrap_batch<'a>(
        &self,
        items: impl IntoIterator<Item = impl Into<Item<'a>>>,
    ) -> Result<Vec<Result<Ciphertext, TransitError>>, TransitError> {
        self.many(Verb::Rewrap, collect(items), ciphertext).await
    }

    /// A keyed hash of the message: the same for the same message, so that it can stand in an
    /// index, and nobody without the key can make it. Keys of every type can do it. The hash is
    /// that of [`hash_algorithm`](Self::hash_algorithm).
    ///
    /// # Errors
    /// See [`TransitErrorKind`].
    pub async fn hmac<'a>(&self, message: impl Into<Item<'a>>) -> Result<Hmac, TransitError> {
        self.one(Verb::Hmac, message.into(), None, |outcome| outcome.hmac.map(Hmac)).await
    }

    /// Whether `hmac` is that of the message. `false` for whatever is not, its form included.
    ///
    /// # Errors
    /// See [`TransitErrorKind`]: the question could not be answered.
    pub async fn verify_hmac<'a>(
        &self,
        message: impl Into<Item<'a>>,
        hmac: impl AsRef<str>,
    ) -> Result<bool, TransitError> {
        self.verified(message.into(), Proof::Hmac(hmac.as_ref())).await
    }

    /// Signs the message, with a key of a type that can (`ed25519`, `ecdsa-p256`, `rsa-2048`, …).
    ///
    /// # Errors
    /// See [`TransitErrorKind`].
    pub async fn sign<'a>(&self, message: impl Into<Item<'a>>) -> Result<Signature, TransitError> {
        let signature = |outcome: Outcome| outcome.signature.map(Signature);
        self.one(Verb::Sign, message.into(), None, signature).await
    }

    /// Whether `signature` is one of the message by this key, with the same algorithms. `false`
    /// for whatever is not, its form included.
    ///
    /// # Errors
    /// See [`TransitErrorKind`]: the question could not be answered.
    pub async fn verify<'a>(
        &self,
        message: impl Into<Item<'a>>,
        signature: impl AsRef<str>,
    ) -> Result<bool, TransitError> {
        self.verified(message.into(), Proof::Signature(signature.as_ref())).await
    }

    async fn verified(&self, item: Item<'_>, proof: Proof<'_>) -> Result<bool, TransitError> {
        match self.one(Verb::Verify, item, Some(proof), |outcome| outcome.valid).await {
            // What can't be a signature is a wrong one.
            Err(e) if e.kind() == TransitErrorKind::BadCiphertext => Ok(false),
            answered => answered,
        }
    }

    async fn one<T>(
        &self,
        verb: Verb,
        item: Item<'_>,
        proof: Option<Proof<'_>>,
        pick: impl Fn(Outcome) -> Option<T>,
    ) -> Result<T, TransitError> {
        self.check(verb, &item)?;
        let (_, outcome) = self.ask(verb, Items::One(item), proof).await?;
        self.picked(verb, pick(outcome))
    }

    async fn many<T>(
        &self,
        verb: Verb,
        items: Vec<Item<'_>>,
        pick: impl Fn(Outcome) -> Option<T>,
    ) -> Result<Vec<Result<T, TransitError>>, TransitError> {
        let checked: Vec<_> = items.iter().map(|item| self.check(verb, item)).collect();
        let sent: Vec<_> = items
            .iter()
            .zip(&checked)
            .filter(|(_, ok)| ok.is_ok())
            .map(|(item, _)| *item)
            .collect();
        let mut parts: Vec<_> =
            batch::chunks(&sent, verb.is_of_plaintext(), self.session.api().max_response);
        parts.reverse();
        let mut results = Vec::with_capacity(sent.len());
        while let Some(part) = parts.pop() {
            let asked = &sent[part.clone()];
            match self.ask(verb, Items::Many(asked), None).await {
                Ok((status, Outcome { batch_results: Some(each), .. }))
                    if each.len() == asked.len() =>
                {
                    for (item, mut outcome) in asked.iter().zip(each) {
                        results.push(match outcome.error.take().filter(|text| !text.is_empty()) {
                            Some(text) => Err(self.refused(verb, status, &text, &[*item])),
                            None => self.picked(verb, pick(outcome)),
                        });
                    }
                }
                Ok(_) => return Err(self.malformed(verb, "is not one for each item")),
                Err(e) if !e.kind().of_an_item() => return Err(e),
                Err(e) if asked.len() == 1 => results.push(Err(e)),
                Err(_) => {
                    let middle = part.start + part.len() / 2;
                    parts.extend([middle..part.end, part.start..middle]);
                }
            }
        }
        let mut results = results.into_iter();
        let result = |ok: Result<(), _>| ok.and_then(|()| results.next().expect("one for each"));
        Ok(checked.into_iter().map(result).collect())
    }

    /// One request: the answer's status, and what the engine makes of it.
    async fn ask(
        &self,
        verb: Verb,
        items: Items<'_>,
        proof: Option<Proof<'_>>,
    ) -> Result<(u16, Outcome), TransitError> {
        let (api, path) = (self.session.api(), self.path(verb));
        let call = async |token| {
            let request = Request { path: &path, verb, items, signing: &self.signing, proof };
            let reply = api.call(Op::Transit, &path, request, Some(&token), api.request_timeout);
            reply.await
        };
        let reply = self.session.manage_with(call).await.map_err(|e| self.failed(verb, e))?;
        // A batch with a bad item is no success, and has results all the same.
        let parsed: Option<wire::Reply> = serde_json::from_slice(&reply.body).ok();
        let success = (200..300).contains(&reply.status);
        match parsed {
            Some(wire::Reply { data }) if success || data.batch_results.is_some() => {
                Ok((reply.status, data))
            }
            _ if success => Err(self.malformed(verb, "could not be understood")),
            _ => {
                let text = error_text(&reply.body);
                Err(self.refused(verb, reply.status, &text, items.all()))
            }
        }
    }

    /// What can be said without asking.
    fn check(&self, verb: Verb, item: &Item<'_>) -> Result<(), TransitError> {
        let no = |kind, why: &str| Err(TransitError::new(kind, self.message(verb, why)));
        if self.mount.is_empty() {
            return no(TransitErrorKind::NoMount, "the mount is empty: name one");
        }
        if self.name.is_empty() || self.name.contains('/') {
            let why = "the name of a key is not empty and has no slash: correct it";
            return no(TransitErrorKind::UnknownKey, why);
        }
        if let Some(what) = verb.ignored(item) {
            let why = format!("the engine takes no {what} for that: leave it out");
            return no(TransitErrorKind::Refused, &why);
        }
        if !verb.is_of_plaintext()
            && (item.input.is_empty() || std::str::from_utf8(item.input).is_err())
        {
            let why = "it is no ciphertext: give the text that the server made";
            return no(TransitErrorKind::BadCiphertext, why);
        }
        let most = match verb {
            Verb::Encrypt | Verb::Decrypt | Verb::Rewrap => self.session.api().max_response,
            Verb::Hmac | Verb::Sign | Verb::Verify => usize::MAX,
        };
        if !batch::fits(item, verb.is_of_plaintext(), most) {
            let why = format!(
                "{} bytes are more than fit into a request and an answer of {} bytes: give less \
                 at once, or raise `max_response` (the server takes 32 MiB)",
                item.input.len(),
                batch::most(most),
            );
            return no(TransitErrorKind::TooLarge, &why);
        }
        Ok(())
    }

    fn path(&self, verb: Verb) -> String {
        format!("{}/{}/{}", self.mount, verb.name(), self.name)
    }

    fn message(&self, verb: Verb, why: &str) -> String {
        format!("{} {}: {why}", Op::Transit.doing(), self.path(verb))
    }

    /// An answer that every call may have had.
    fn failed(&self, verb: Verb, e: SourceError) -> TransitError {
        let e = TransitError::from(e);
        if verb == Verb::Encrypt && e.kind() == TransitErrorKind::Denied {
            return e.advise(
                "if the key is not there yet, the server wants `create` too, and would make it",
            );
        }
        e
    }

    /// What the engine refuses, with its own words as long as they repeat nothing of the `items`.
    fn refused(&self, verb: Verb, status: u16, text: &str, items: &[Item<'_>]) -> TransitError {
        let sent: Vec<_> = items
            .iter()
            .flat_map(|item| [item.input, item.context, item.associated_data])
            .flat_map(|bytes| {
                let plain = std::str::from_utf8(bytes).unwrap_or_default().to_owned();
                [wire::base64_of(bytes), plain.into()]
            })
            .collect();
        let (kind, advice) = error::meaning(status, text);
        let said = brief(&without(text.to_owned(), &sent));
        let why = format!("{advice} (status {status}, {said:?})");
        TransitError::new(kind, self.message(verb, &why))
    }

    fn picked<T>(&self, verb: Verb, found: Option<T>) -> Result<T, TransitError> {
        found.ok_or_else(|| self.malformed(verb, "lacks what was asked for"))
    }

    fn malformed(&self, verb: Verb, problem: &str) -> TransitError {
        malformed(Op::Transit, &self.path(verb), problem).into()
    }
}

fn collect<'a>(items: impl IntoIterator<Item = impl Into<Item<'a>>>) -> Vec<Item<'a>> {
    items.into_iter().map(Into::into).collect()
}

fn ciphertext(outcome: Outcome) -> Option<Ciphertext> {
    outcome.ciphertext.map(Ciphertext)
}

impl fmt::Debug for TransitKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TransitKey").field(&self.mount).field(&self.name).finish()
    }
}
