//! What goes over the wire.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::{self, Deserialize, Deserializer, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};
use zeroize::Zeroizing;

use super::item::{Item, Plaintext};
use crate::endpoints::Endpoint;

/// What is asked of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Encrypt,
    Decrypt,
    Rewrap,
    Hmac,
    Sign,
    Verify,
}

impl Verb {
    /// As in the path.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Encrypt => "encrypt",
            Self::Decrypt => "decrypt",
            Self::Rewrap => "rewrap",
            Self::Hmac => "hmac",
            Self::Sign => "sign",
            Self::Verify => "verify",
        }
    }

    /// The field that the input stands in, and whether it is in base64 there.
    const fn input(self) -> (&'static str, bool) {
        match self {
            Self::Encrypt => ("plaintext", true),
            Self::Decrypt | Self::Rewrap => ("ciphertext", false),
            Self::Hmac | Self::Sign | Self::Verify => ("input", true),
        }
    }

    /// The input is anything, and no text that the server made.
    pub(super) const fn is_of_plaintext(self) -> bool {
        self.input().1
    }

    /// What of an item the engine would pass over without a word.
    pub(super) fn ignored(self, item: &Item<'_>) -> Option<&'static str> {
        let context = !matches!(self, Self::Hmac);
        let associated_data = matches!(self, Self::Encrypt | Self::Decrypt);
        let key_version = !matches!(self, Self::Decrypt | Self::Verify);
        if !context && !item.context.is_empty() {
            return Some("context");
        }
        if !associated_data && !item.associated_data.is_empty() {
            return Some("associated data");
        }
        (!key_version && item.key_version.is_some()).then_some("key version")
    }
}

/// How signatures and HMACs are made, in the server's words. Empty: its default.
#[derive(Clone, Debug, Default)]
pub(super) struct Signing {
    pub(super) hash_algorithm: Option<String>,
    pub(super) signature_algorithm: Option<String>,
    pub(super) marshaling_algorithm: Option<String>,
    pub(super) prehashed: bool,
}

/// What is verified.
#[derive(Clone, Copy)]
pub(super) enum Proof<'a> {
    Signature(&'a str),
    Hmac(&'a str),
}

/// One request, for one item or for many.
pub(super) struct Request<'a> {
    pub(super) path: &'a str,
    pub(super) verb: Verb,
    pub(super) items: Items<'a>,
    pub(super) signing: &'a Signing,
    pub(super) proof: Option<Proof<'a>>,
}

#[derive(Clone, Copy)]
pub(super) enum Items<'a> {
    One(Item<'a>),
    Many(&'a [Item<'a>]),
}

impl<'a> Items<'a> {
    pub(super) fn all(&'a self) -> &'a [Item<'a>] {
        match self {
            Self::One(item) => std::slice::from_ref(item),
            Self::Many(items) => items,
        }
    }
}

impl Endpoint for Request<'_> {
    const METHOD: &'static str = "POST";

    fn path(&self) -> String {
        self.path.to_owned()
    }

    /// An engine's refusals may hold results, and are told apart by whoever asked it.
    fn answers(status: u16, _: &[u8]) -> bool {
        (200..300).contains(&status) || matches!(status, 400 | 404 | 405 | 413 | 500)
    }
}

impl Serialize for Request<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(None)?;
        match &self.items {
            Items::One(item) => fields(self.verb, item, &mut map)?,
            Items::Many(items) => map.serialize_entry("batch_input", &Batch(self.verb, items))?,
        }
        match self.proof {
            Some(Proof::Signature(text)) => map.serialize_entry("signature", text)?,
            Some(Proof::Hmac(text)) => map.serialize_entry("hmac", text)?,
            None => {}
        }
        if let Some(name) = &self.signing.hash_algorithm {
            let hmac = self.verb == Verb::Hmac || matches!(self.proof, Some(Proof::Hmac(_)));
            // The same thing goes by two names.
            map.serialize_entry(if hmac { "algorithm" } else { "hash_algorithm" }, name)?;
        }
        if matches!(self.verb, Verb::Sign) || matches!(self.proof, Some(Proof::Signature(_))) {
            if let Some(name) = &self.signing.signature_algorithm {
                map.serialize_entry("signature_algorithm", name)?;
            }
            if let Some(name) = &self.signing.marshaling_algorithm {
                map.serialize_entry("marshaling_algorithm", name)?;
            }
            if self.signing.prehashed {
                map.serialize_entry("prehashed", &true)?;
            }
        }
        map.end()
    }
}

struct Batch<'a>(Verb, &'a [Item<'a>]);

impl Serialize for Batch<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(self.1.iter().map(|item| Fields(self.0, item)))
    }
}

struct Fields<'a>(Verb, &'a Item<'a>);

impl Serialize for Fields<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(None)?;
        fields(self.0, self.1, &mut map)?;
        map.end()
    }
}

fn fields<M: SerializeMap>(verb: Verb, item: &Item<'_>, map: &mut M) -> Result<(), M::Error> {
    let (name, encoded) = verb.input();
    if encoded {
        map.serialize_entry(name, &Base64(item.input))?;
    } else {
        // One that is no text was refused before; nothing is put in its place.
        map.serialize_entry(name, std::str::from_utf8(item.input).unwrap_or_default())?;
    }
    if !item.context.is_empty() {
        map.serialize_entry("context", &Base64(item.context))?;
    }
    if !item.associated_data.is_empty() {
        map.serialize_entry("associated_data", &Base64(item.associated_data))?;
    }
    if let Some(version) = item.key_version {
        map.serialize_entry("key_version", &version)?;
    }
    Ok(())
}

/// Bytes as base64, by way of memory that is wiped.
struct Base64<'a>(&'a [u8]);

impl Serialize for Base64<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&base64_of(self.0))
    }
}

pub(super) fn base64_of(bytes: &[u8]) -> Zeroizing<String> {
    let mut text = Zeroizing::new(vec![0; bytes.len().div_ceil(3) * 4]);
    let length = STANDARD.encode_slice(bytes, &mut text).expect("the room was counted");
    text.truncate(length);
    // Moved, so that no copy is left.
    Zeroizing::new(String::from_utf8(std::mem::take(&mut text)).expect("base64 is ASCII"))
}

fn bytes_of(base64: &str) -> Option<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(vec![0; base64.len().div_ceil(4) * 3]);
    let length = STANDARD.decode_slice(base64, &mut bytes).ok()?;
    bytes.truncate(length);
    Some(bytes)
}

/// The text that is in `base64`, if there is one.
pub(crate) fn decoded(base64: &str) -> Option<Zeroizing<String>> {
    let mut bytes = bytes_of(base64)?;
    // Moved; what is no text is wiped here as well.
    let text = String::from_utf8(std::mem::take(&mut bytes));
    text.map(Zeroizing::new).map_err(|e| drop(Zeroizing::new(e.into_bytes()))).ok()
}

/// What the engine makes of one item, or of each of a batch.
#[derive(serde::Deserialize)]
#[serde(default)]
#[derive(Default)]
pub(super) struct Outcome {
    pub(super) ciphertext: Option<String>,
    pub(super) plaintext: Option<Plaintext>,
    pub(super) hmac: Option<String>,
    pub(super) signature: Option<String>,
    pub(super) valid: Option<bool>,
    pub(super) error: Option<String>,
    /// Also where the status is none of a success, as soon as one item is bad.
    pub(super) batch_results: Option<Vec<Self>>,
}

/// The answer.
#[derive(serde::Deserialize)]
pub(super) struct Reply {
    pub(super) data: Outcome,
}

impl<'de> Deserialize<'de> for Plaintext {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Decoded;
        impl Visitor<'_> for Decoded {
            type Value = Plaintext;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("base64")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Plaintext, E> {
                // Without the text.
                bytes_of(text).map(Plaintext).ok_or_else(|| E::custom("no base64"))
            }
        }
        from.deserialize_str(Decoded)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn body(verb: Verb, items: Items<'_>, signing: &Signing, proof: Option<Proof<'_>>) -> String {
        let request = Request { path: "transit/x/k", verb, items, signing, proof };
        String::from_utf8(request.body().unwrap().to_vec()).unwrap()
    }

    #[test]
    fn a_request_says_what_the_engine_reads_and_nothing_else() {
        let all = Item::new("hello").context("c").associated_data("a").key_version(2);
        let none = Signing::default();
        assert_eq!(
            body(Verb::Encrypt, Items::One(all), &none, None),
            r#"{"plaintext":"aGVsbG8=","context":"Yw==","associated_data":"YQ==","key_version":2}"#
        );
        let two = [Item::new("vault:v1:x"), Item::new("")];
        assert_eq!(
            body(Verb::Decrypt, Items::Many(&two), &none, None),
            r#"{"batch_input":[{"ciphertext":"vault:v1:x"},{"ciphertext":""}]}"#
        );
        let signing = Signing {
            hash_algorithm: Some("sha2-512".to_owned()),
            signature_algorithm: Some("pss".to_owned()),
            marshaling_algorithm: Some("jws".to_owned()),
            prehashed: true,
        };
        let one = Items::One(Item::new("m"));
        assert_eq!(
            body(Verb::Hmac, one, &signing, None),
            r#"{"input":"bQ==","algorithm":"sha2-512"}"#
        );
        assert_eq!(
            body(Verb::Verify, one, &signing, Some(Proof::Hmac("vault:v1:y"))),
            r#"{"input":"bQ==","hmac":"vault:v1:y","algorithm":"sha2-512"}"#
        );
        assert_eq!(
            body(Verb::Verify, one, &signing, Some(Proof::Signature("vault:v1:y"))),
            concat!(
                r#"{"input":"bQ==","signature":"vault:v1:y","hash_algorithm":"sha2-512","#,
                r#""signature_algorithm":"pss","marshaling_algorithm":"jws","prehashed":true}"#
            )
        );
    }

    #[test]
    fn bytes_of_every_length_come_back_from_base64() {
        for length in 0..70_u8 {
            let bytes: Vec<u8> = (0..length).map(|n| n.wrapping_mul(37)).collect();
            let answer = format!(r#"{{"data":{{"plaintext":"{}"}}}}"#, *base64_of(&bytes));
            let Reply { data } = serde_json::from_str(&answer).unwrap();
            assert_eq!(data.plaintext.unwrap().expose(), bytes);
        }
        for broken in ["secret", "secret===", "!!!secret!!!", "aGVsbG8"] {
            let answer = format!(r#"{{"data":{{"plaintext":"{broken}"}}}}"#);
            let e = serde_json::from_str::<Reply>(&answer).err().unwrap().to_string();
            assert!(!e.contains(broken), "{e}");
        }
    }
}
