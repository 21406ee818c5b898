//! A settings struct out of what is in a secret.
//!
//! Two things that a JSON parser does not do. It finds *all* that is missing or wrong and not the
//! first: what is wrong is put right by a made-up value, and the whole is read again for the next.
//! And it takes text for a number, for true or false, and for a list or an object in JSON, where
//! that is what the field is: what is written by hand is always text.

use std::collections::BTreeSet;

use serde::de::value::StrDeserializer;
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, Error, IntoDeserializer,
    MapAccess, SeqAccess, VariantAccess, Visitor,
};

use super::node::Node;
use super::problem::{How, KvKeyProblem, Wrong};

static NULL: Node = Node::Null;
static MADE_UP: Node = Node::MadeUp;

/// Reads a struct, or says all that keeps it from being one.
pub(super) fn typed<T: DeserializeOwned>(node: &Node) -> Result<T, Vec<KvKeyProblem>> {
    typed_without(node, &[])
}

/// The same where these fields could not be had, of which nothing is said.
pub(super) fn typed_without<T: DeserializeOwned>(
    node: &Node,
    lacking: &[String],
) -> Result<T, Vec<KvKeyProblem>> {
    let made_up = lacking.iter().map(|field| vec![field.clone()]).collect();
    let (mut mended, mut found) = (Mended { made_up, left_out: BTreeSet::new() }, Vec::new());
    loop {
        let wrong = match T::deserialize(De { node, mended: &mended, at: &Trail::Top }) {
            Ok(value) if found.is_empty() => return Ok(value),
            Ok(_) => return Err(found),
            Err(wrong) => wrong,
        };
        let trail = wrong.trail();
        let whole = trail.is_empty();
        let of_our_making = |at: &Vec<String>| whole || trail.starts_with(at);
        // A type that takes no value of ours: what else is wrong stays unknown.
        if mended.made_up.iter().any(of_our_making) {
            return Err(found);
        }
        let places = match wrong.how {
            How::Unknown => &mut mended.left_out,
            _ => &mut mended.made_up,
        };
        places.insert(trail);
        found.push(wrong.problem());
        if whole {
            return Err(found);
        }
    }
}

/// Where what was found wrong is put right, so that the rest can be read.
struct Mended {
    made_up: BTreeSet<Vec<String>>,
    left_out: BTreeSet<Vec<String>>,
}

/// The keys on the way to a value.
enum Trail<'a> {
    Top,
    Below(&'a Self, &'a str),
}

impl Trail<'_> {
    fn keys(&self) -> Vec<String> {
        match self {
            Self::Top => Vec::new(),
            Self::Below(above, key) => {
                let mut keys = above.keys();
                keys.push((*key).to_owned());
                keys
            }
        }
    }
}

#[derive(Clone, Copy)]
struct De<'a> {
    node: &'a Node,
    mended: &'a Mended,
    at: &'a Trail<'a>,
}

impl<'a> De<'a> {
    fn with(self, node: &'a Node) -> Self {
        Self { node, ..self }
    }

    /// What is in text, if that is JSON.
    fn parsed(self) -> Option<Node> {
        match self.node {
            Node::Text(text) => serde_json::from_str(text).ok(),
            _ => None,
        }
    }

    fn list<'de, V: Visitor<'de>>(self, length: usize, visitor: V) -> Result<V::Value, Wrong> {
        match self.node {
            Node::List(items) => visitor.visit_seq(Items { de: self, items: items.iter(), at: 0 }),
            Node::MadeUp => {
                let items = vec![Node::MadeUp; length];
                visitor.visit_seq(Items { de: self, items: items.iter(), at: 0 })
            }
            _ => match self.parsed() {
                Some(node @ Node::List(_)) => self.with(&node).list(length, visitor),
                _ => self.deserialize_any(visitor),
            },
        }
    }

    fn map<'de, V: Visitor<'de>>(
        self,
        fields: Option<&'static [&'static str]>,
        visitor: V,
    ) -> Result<V::Value, Wrong> {
        let mut entries: Vec<(&str, &Node)> = match (self.node, fields) {
            (Node::Map(map), _) => map.iter().map(|(key, node)| (key.as_str(), node)).collect(),
            (Node::Variables { fields: set, named }, wanted) => {
                let set_by_name = |field: &&'static str| {
                    Some((*field, named.get(&variable(field))?))
                        .filter(|_| !set.contains_key(*field))
                };
                let mut all: Vec<_> = set.iter().map(|(key, node)| (key.as_str(), node)).collect();
                match wanted {
                    Some(fields) => all.extend(fields.iter().filter_map(set_by_name)),
                    None => all.extend(named.iter().map(|(key, node)| (key.as_str(), node))),
                }
                all
            }
            (Node::MadeUp, fields) => {
                fields.unwrap_or_default().iter().map(|field| (*field, &MADE_UP)).collect()
            }
            _ => {
                return match self.parsed() {
                    Some(node @ Node::Map(_)) => self.with(&node).map(fields, visitor),
                    _ => self.deserialize_any(visitor),
                };
            }
        };
        let here = self.at.keys();
        let below = |key: &str| [&here[..], &[key.to_owned()]].concat();
        entries.retain(|(key, _)| !self.mended.left_out.contains(&below(key)));
        for trail in &self.mended.made_up {
            let [above @ .., key] = &trail[..] else { continue };
            if *above == here[..] {
                entries.retain(|(there, _)| *there != key.as_str());
                entries.push((key.as_str(), &MADE_UP));
            }
        }
        visitor.visit_map(Entries { de: self, entries: entries.into_iter(), value: None })
    }
}

/// As variables are written: in capitals, and anything but letters and digits as `_`.
pub(super) fn variable(name: &str) -> String {
    let capital = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
    name.chars().map(capital).collect()
}

struct Items<'a, I> {
    de: De<'a>,
    items: I,
    at: usize,
}

impl<'de, 'n, I: Iterator<Item = &'n Node>> SeqAccess<'de> for Items<'_, I> {
    type Error = Wrong;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Wrong> {
        let Some(node) = self.items.next() else { return Ok(None) };
        let key = self.at.to_string();
        self.at += 1;
        let at = Trail::Below(self.de.at, &key);
        let (mended, trail) = (self.de.mended, at.keys());
        let node = if mended.made_up.contains(&trail) { &MADE_UP } else { node };
        let read = seed.deserialize(De { node, mended, at: &at });
        read.map(Some).map_err(|wrong| wrong.inside(&key))
    }
}

struct Entries<'a> {
    de: De<'a>,
    entries: std::vec::IntoIter<(&'a str, &'a Node)>,
    value: Option<(&'a str, &'a Node)>,
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = Wrong;

    fn next_key_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Wrong> {
        self.value = self.entries.next();
        let Some((key, _)) = self.value else { return Ok(None) };
        let key: StrDeserializer<'_, Wrong> = key.into_deserializer();
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Wrong> {
        let (key, node) = self.value.take().unwrap_or(("", &NULL));
        let at = Trail::Below(self.de.at, key);
        let read = seed.deserialize(De { node, mended: self.de.mended, at: &at });
        read.map_err(|wrong| wrong.inside(key))
    }
}

/// A variant by its name, and what is in it.
struct Variant<'a> {
    name: &'a str,
    de: De<'a>,
}

impl<'de, 'a> EnumAccess<'de> for Variant<'a> {
    type Error = Wrong;
    type Variant = De<'a>;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, De<'a>), Wrong> {
        let name: StrDeserializer<'_, Wrong> = self.name.into_deserializer();
        Ok((seed.deserialize(name)?, self.de))
    }
}

impl<'de> VariantAccess<'de> for De<'_> {
    type Error = Wrong;

    fn unit_variant(self) -> Result<(), Wrong> {
        match self.node {
            Node::Null | Node::MadeUp => Ok(()),
            other => Err(Wrong::other(format!("is {}, and a name alone is wanted", other.kind()))),
        }
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, Wrong> {
        seed.deserialize(self)
    }

    fn tuple_variant<V: Visitor<'de>>(self, length: usize, v: V) -> Result<V::Value, Wrong> {
        self.list(length, v)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        v: V,
    ) -> Result<V::Value, Wrong> {
        self.map(Some(fields), v)
    }
}

macro_rules! numbers {
    ($($name:ident $visit:ident $type:ty;)*) => {$(
        fn $name<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
            match self.node {
                Node::MadeUp => visitor.$visit(<$type>::default()),
                Node::Text(text) => match text.trim().parse::<$type>() {
                    Ok(number) => visitor.$visit(number),
                    Err(_) => self.deserialize_any(visitor),
                },
                _ => self.deserialize_any(visitor),
            }
        }
    )*};
}

macro_rules! texts {
    ($($name:ident)*) => {$(
        fn $name<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
            match self.node {
                Node::MadeUp => visitor.visit_str(""),
                _ => self.deserialize_any(visitor),
            }
        }
    )*};
}

impl<'de> Deserializer<'de> for De<'_> {
    type Error = Wrong;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        match self.node {
            Node::Null => visitor.visit_unit(),
            Node::Bool(value) => visitor.visit_bool(*value),
            Node::Unsigned(value) => visitor.visit_u64(*value),
            Node::Signed(value) => visitor.visit_i64(*value),
            Node::Float(value) => visitor.visit_f64(*value),
            Node::Text(text) => visitor.visit_str(text),
            Node::List(_) => self.list(0, visitor),
            Node::Map(_) | Node::Variables { .. } => self.map(None, visitor),
            Node::MadeUp => Err(Wrong::custom("")),
        }
    }

    numbers! {
        deserialize_u8 visit_u8 u8;
        deserialize_u16 visit_u16 u16;
        deserialize_u32 visit_u32 u32;
        deserialize_u64 visit_u64 u64;
        deserialize_i8 visit_i8 i8;
        deserialize_i16 visit_i16 i16;
        deserialize_i32 visit_i32 i32;
        deserialize_i64 visit_i64 i64;
        deserialize_f32 visit_f32 f32;
        deserialize_f64 visit_f64 f64;
        deserialize_bool visit_bool bool;
    }

    texts! {
        deserialize_char deserialize_str deserialize_string deserialize_bytes
        deserialize_byte_buf deserialize_identifier
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        match self.node {
            Node::Null | Node::MadeUp => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        match self.node {
            Node::MadeUp => visitor.visit_unit(),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Wrong> {
        self.deserialize_unit(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Wrong> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        self.list(0, visitor)
    }

    fn deserialize_tuple<V: Visitor<'de>>(
        self,
        length: usize,
        visitor: V,
    ) -> Result<V::Value, Wrong> {
        self.list(length, visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        length: usize,
        visitor: V,
    ) -> Result<V::Value, Wrong> {
        self.list(length, visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        self.map(None, visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Wrong> {
        self.map(Some(fields), visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Wrong> {
        let (name, node) = match self.node {
            Node::Text(name) => (name.as_str(), &NULL),
            Node::MadeUp => (variants.first().copied().unwrap_or_default(), &MADE_UP),
            Node::Map(map) if map.len() == 1 => match map.iter().next() {
                Some((name, node)) => (name.as_str(), node),
                None => return self.deserialize_any(visitor),
            },
            other => {
                let known = variants.join(", ");
                return Err(Wrong::other(format!("is {}, and not one of: {known}", other.kind())));
            }
        };
        visitor.visit_enum(Variant { name, de: self.with(node) })
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        visitor.visit_unit()
    }
}

#[cfg(test)]
#[path = "typed_tests.rs"]
mod tests;
