//! What goes in, and what comes out.

use std::fmt;

use zeroize::Zeroizing;

/// What is done to: a plaintext, a ciphertext, a message, and what belongs to it. Borrowed, and
/// made of anything that has bytes: `&str`, `&[u8]`, `&Vec<u8>`, `&Ciphertext`.
///
/// ```
/// use leasehold_vault::transit::Item;
///
/// let plain = Item::from("4111 1111 1111 1111");
/// let bound = Item::new("4111 1111 1111 1111").associated_data("customer 17");
/// # drop((plain, bound));
/// ```
#[derive(Clone, Copy)]
pub struct Item<'a> {
    pub(super) input: &'a [u8],
    pub(super) context: &'a [u8],
    pub(super) associated_data: &'a [u8],
    pub(super) key_version: Option<u32>,
}

impl<'a> Item<'a> {
    /// One with nothing else.
    pub fn new<T: AsRef<[u8]> + ?Sized>(input: &'a T) -> Self {
        Self { input: input.as_ref(), context: &[], associated_data: &[], key_version: None }
    }

    /// What the key is derived from, for a key that was created with `derived`: each context is a
    /// key of its own, and what was encrypted with one is decrypted with the same. Empty: none.
    #[must_use]
    pub fn context<T: AsRef<[u8]> + ?Sized>(mut self, context: &'a T) -> Self {
        self.context = context.as_ref();
        self
    }

    /// What the ciphertext is bound to, such as the row that it stands in: neither secret nor part
    /// of the ciphertext, and to be given again to decrypt. For keys of an AEAD type (the default
    /// is one). Empty: none.
    #[must_use]
    pub fn associated_data<T: AsRef<[u8]> + ?Sized>(mut self, data: &'a T) -> Self {
        self.associated_data = data.as_ref();
        self
    }

    /// Which version of the key to encrypt, rewrap, sign or compute an HMAC with. Default: the
    /// latest. What is decrypted or verified says its version itself.
    #[must_use]
    pub fn key_version(mut self, version: u32) -> Self {
        self.key_version = Some(version);
        self
    }
}

impl<'a, T: AsRef<[u8]> + ?Sized> From<&'a T> for Item<'a> {
    fn from(input: &'a T) -> Self {
        Self::new(input)
    }
}

impl fmt::Debug for Item<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The rest may be as secret as it likes.
        f.debug_struct("Item").field("key_version", &self.key_version).finish_non_exhaustive()
    }
}

/// Decrypted bytes, wiped when they are dropped and in no `Debug` output.
#[derive(Clone, PartialEq, Eq)]
pub struct Plaintext(pub(super) Zeroizing<Vec<u8>>);

impl Plaintext {
    /// The bytes. Copies that are made of them are not wiped.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Plaintext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Plaintext([redacted])")
    }
}

/// The text of `vault:v3:…` that the server made. No secret: to be stored as it is.
macro_rules! made_by_the_server {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash)]
        pub struct $name(pub(super) String);

        impl $name {
            /// The text, to be stored.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The same, owned.
            #[must_use]
            pub fn into_string(self) -> String {
                self.0
            }

            /// The version of the key that it was made with. `None`: it says none, so it was not
            /// made by Transit, or for a key with a form of its own.
            #[must_use]
            pub fn key_version(&self) -> Option<u32> {
                let (version, _) = self.0.strip_prefix("vault:v")?.split_once(':')?;
                version.parse().ok()
            }
        }

        /// One that was stored. Nothing is checked: the server does that.
        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self(text)
            }
        }

        impl AsRef<[u8]> for $name {
            fn as_ref(&self) -> &[u8] {
                self.0.as_bytes()
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

made_by_the_server! {
    /// What was encrypted, as `vault:v1:…`: text, and no secret.
    Ciphertext
}
made_by_the_server! {
    /// A signature, as `vault:v1:…`.
    Signature
}
made_by_the_server! {
    /// A keyed hash, as `vault:v1:…`.
    Hmac
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i10_plaintext_is_in_no_debug_output() {
        let secret = "attack at dawn";
        let item = Item::new(secret).context(secret).associated_data(secret).key_version(3);
        let plain = Plaintext(Zeroizing::new(secret.into()));
        let shown = format!("{item:?} {plain:?}");
        assert!(!shown.contains("dawn") && !shown.contains("97, 116"), "{shown}");
        assert!(shown.contains('3'), "{shown}");
    }

    #[test]
    fn a_ciphertext_tells_the_version_of_its_key() {
        let version = |text: &str| Ciphertext::from(text.to_owned()).key_version();
        assert_eq!(version("vault:v12:abc="), Some(12));
        for other in ["", "vault:v12", "vault:vx:abc", "vault:v-1:abc", "bao:v1:abc"] {
            assert_eq!(version(other), None, "{other}");
        }
    }
}
