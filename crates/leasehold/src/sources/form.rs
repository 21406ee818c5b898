//! A login as people write it down: JSON, `KEY=VALUE` lines, a URL. One place for all of them, so
//! that a file and a secret in a KV store mean the same.

use std::fmt;

use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use url::Url;
use zeroize::Zeroizing;

use crate::credential::{Address, Credential};
use crate::source::SourceError;

/// The keys of a login, each in the spellings that are about. What else is there is ignored.
#[derive(Default)]
pub struct LoginForm {
    username: Word,
    password: Word,
    host: Word,
    port: Word,
    database: Word,
    url: Word,
}

impl LoginForm {
    /// Reads whatever of the forms `text` is in: a JSON object, a URL alone, or `KEY=VALUE` lines.
    /// Errors name `place`, and never repeat what was read.
    ///
    /// # Errors
    /// Malformed, saying what is wrong. Unreachable, which is worth another try, where it may be
    /// that not all of it is written yet: nothing, or the beginning of a JSON object.
    pub fn parse(place: &str, text: &str) -> Result<Self, SourceError> {
        let text = text.trim_start_matches('\u{feff}').trim();
        if text.is_empty() {
            return Err(SourceError::unreachable(format!("{place} is empty")));
        }
        if text.starts_with('{') {
            // The parser's own words could repeat a piece of the text.
            return serde_json::from_str(text).map_err(|e| match e.is_eof() {
                true => SourceError::unreachable(format!("{place} is no whole JSON object")),
                false => bad(place, "is no JSON object of a login"),
            });
        }
        let scheme = text.split_once("://").map(|(scheme, _)| scheme);
        if scheme.is_some_and(|s| s.bytes().all(|b| b.is_ascii_alphanumeric())) {
            return Ok(Self { url: Word::of(text), ..Self::default() });
        }
        Self::lines(place, text)
    }

    fn lines(place: &str, text: &str) -> Result<Self, SourceError> {
        let mut form = Self::default();
        for line in text.lines().map(str::trim) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let line = line.strip_prefix("export ").unwrap_or(line);
            let Some((key, value)) = line.split_once('=') else {
                return Err(bad(place, "has a line that is not KEY=VALUE"));
            };
            let value = value.trim();
            let quoted = ['"', '\''].into_iter().find_map(|quote| {
                value.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote))
            });
            form.set(key.trim(), quoted.unwrap_or(value));
        }
        Ok(form)
    }

    /// Sets one key, upper or lower case, if it is one.
    pub fn set(&mut self, key: &str, value: &str) {
        if let Some(place) = self.place(key) {
            *place = Word::of(value);
        }
    }

    fn place(&mut self, key: &str) -> Option<&mut Word> {
        Some(match &*key.to_ascii_lowercase() {
            "username" | "user" | "pguser" => &mut self.username,
            "password" | "pgpassword" => &mut self.password,
            "host" | "hostname" | "pghost" => &mut self.host,
            "port" | "pgport" => &mut self.port,
            "database" | "dbname" | "pgdatabase" => &mut self.database,
            "url" | "uri" | "database_url" => &mut self.url,
            _ => return None,
        })
    }

    /// The login. What stands beside a URL wins over what is in it.
    ///
    /// # Errors
    /// Malformed, naming `place` and the key.
    pub fn into_credential(self, place: &str) -> Result<Credential, SourceError> {
        let from_url = match self.url.get() {
            Some(url) => Some(Parts::of(place, url)?),
            None => None,
        };
        let from_url = from_url.unwrap_or_default();
        let missing =
            |key| bad(place, &format!("has no {key}: give `username` and `password`, or `url`"));
        let username = self.username.0.or(from_url.username).ok_or_else(|| missing("username"))?;
        let password = self.password.0.or(from_url.password).ok_or_else(|| missing("password"))?;
        let port = match self.port.get().map(str::parse) {
            Some(Ok(port)) => Some(port),
            Some(Err(_)) => return Err(bad(place, "has a `port` that is no number up to 65535")),
            None => from_url.address.port,
        };
        let own = |word: Word| word.get().map(str::to_owned);
        let address = Address {
            host: own(self.host).or(from_url.address.host),
            port,
            database: own(self.database).or(from_url.address.database),
        };
        let credential = Credential::wiping(&username, password).with_address(address);
        match credential.fault() {
            Some(fault) => Err(bad(place, fault)),
            None => Ok(credential),
        }
    }
}

impl<'de> Deserialize<'de> for LoginForm {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Keys;
        impl<'de> Visitor<'de> for Keys {
            type Value = LoginForm;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the keys of a login")
            }
            // By hand, since some write a value under two of its names; none of them is wiped
            // out by an empty one.
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<LoginForm, A::Error> {
                let mut form = LoginForm::default();
                while let Some((key, word)) = map.next_entry::<String, Word>()? {
                    if let (Some(place), Word(Some(_))) = (form.place(&key), &word) {
                        *place = word;
                    }
                }
                Ok(form)
            }
        }
        deserializer.deserialize_map(Keys)
    }
}

impl Credential {
    /// Reads `postgres://user:password@host:port/database`. User name, password and database are
    /// percent-decoded. Host, port and database become the credential's
    /// [`address`](Credential::address); a query is for the pool's own options and is ignored.
    ///
    /// # Errors
    /// Malformed. The message never shows the URL, which holds the password.
    pub fn from_url(url: &str) -> Result<Self, SourceError> {
        let form = LoginForm { url: Word::of(url.trim()), ..LoginForm::default() };
        form.into_credential("the URL")
    }
}

#[derive(Default)]
struct Parts {
    username: Option<Zeroizing<String>>,
    password: Option<Zeroizing<String>>,
    address: Address,
}

impl Parts {
    fn of(place: &str, text: &str) -> Result<Self, SourceError> {
        let say = |what: &str| bad(place, &format!("has a URL that {what}"));
        // `Url` keeps a copy of its own, which is not wiped; it lives for this function.
        let url =
            Url::parse(text).map_err(|_| say("can't be read: percent-encode the password"))?;
        if !matches!(url.scheme(), "postgres" | "postgresql") {
            return Err(say("does not begin with postgres:// or postgresql://"));
        }
        let decode = |part: &str| {
            let text = percent_decode_str(part).decode_utf8();
            text.map(|text| Zeroizing::new(text.into_owned())).map_err(|_| say("is not UTF-8"))
        };
        let username = Some(url.username()).filter(|u| !u.is_empty()).map(decode).transpose()?;
        let password = url.password().map(decode).transpose()?;
        let some = |text: &str| (!text.is_empty()).then(|| decode(text)).transpose();
        let host = match url.host() {
            Some(url::Host::Ipv6(ip)) => Some(ip.to_string()),
            Some(url::Host::Ipv4(ip)) => Some(ip.to_string()),
            Some(url::Host::Domain(name)) => some(name)?.map(|host| host.to_string()),
            None => None,
        };
        let database = some(url.path().trim_start_matches('/'))?.map(|name| name.to_string());
        Ok(Self { username, password, address: Address { host, port: url.port(), database } })
    }
}

fn bad(place: &str, what: &str) -> SourceError {
    SourceError::malformed(format!("{place} {what}"))
}

/// A value: text, or a number written without quotes. Empty and null are none.
#[derive(Default)]
struct Word(Option<Zeroizing<String>>);

impl Word {
    fn of(text: &str) -> Self {
        Self((!text.is_empty()).then(|| Zeroizing::new(text.to_owned())))
    }

    fn get(&self) -> Option<&str> {
        self.0.as_ref().map(|text| text.as_str())
    }
}

impl<'de> Deserialize<'de> for Word {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Words;
        impl<'de> Visitor<'de> for Words {
            type Value = Word;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text or a number")
            }
            fn visit_str<E>(self, text: &str) -> Result<Word, E> {
                Ok(Word::of(text))
            }
            fn visit_u64<E>(self, number: u64) -> Result<Word, E> {
                Ok(Word::of(&number.to_string()))
            }
            fn visit_unit<E>(self) -> Result<Word, E> {
                Ok(Word(None))
            }
            // Anything else is no value for a login: it is missing, then.
            fn visit_i64<E>(self, _: i64) -> Result<Word, E> {
                Ok(Word(None))
            }
            fn visit_f64<E>(self, _: f64) -> Result<Word, E> {
                Ok(Word(None))
            }
            fn visit_bool<E>(self, _: bool) -> Result<Word, E> {
                Ok(Word(None))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Word, A::Error> {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Word(None))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Word, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Word(None))
            }
        }
        deserializer.deserialize_any(Words)
    }
}

impl fmt::Debug for LoginForm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoginForm").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Credential, SourceError> {
        LoginForm::parse("the file", text)?.into_credential("the file")
    }

    fn shown(credential: &Credential) -> String {
        let address = credential.address().cloned().unwrap_or_default();
        let Address { host, port, database } = address;
        let password = credential.expose_password();
        format!("{} {password} {host:?} {port:?} {database:?}", credential.username())
    }

    #[test]
    fn every_form_means_the_same() {
        let all = "app p@ss/w:rd Some(\"db.internal\") Some(6432) Some(\"orders\")";
        for text in [
            r#"{"username":"app","password":"p@ss/w:rd","host":"db.internal","port":6432,"database":"orders","note":[1]}"#,
            r#"{"user":"app","password":"p@ss/w:rd","host":"db.internal","port":"6432","dbname":"orders"}"#,
            "postgres://app:p%40ss%2Fw%3Ard@db.internal:6432/orders?sslmode=require\n",
            "# by the agent\nexport PGUSER=app\nPGPASSWORD='p@ss/w:rd'\nPGHOST = db.internal\nPGPORT=6432\nPGDATABASE=\"orders\"\n",
            "DATABASE_URL=postgresql://app:p%40ss%2Fw%3Ard@db.internal:6432/orders\r\n",
        ] {
            assert_eq!(shown(&read(text).unwrap()), all, "{text}");
        }
        let plain = read(r#"{"username":"app","password":"pw"}"#).unwrap();
        assert!(plain.address().is_none());
        let over = read(r#"{"url":"postgres://a:b@c/d","password":"e"}"#).unwrap();
        assert_eq!(over.expose_password(), "e", "what stands beside the URL wins");
        let six = Credential::from_url("postgres://a:b@[::1]:5433/d").unwrap();
        assert_eq!(six.address().unwrap().host.as_deref(), Some("::1"));
    }

    /// As CloudNativePG writes them: under each of their names.
    #[test]
    fn a_login_may_be_there_under_two_names() {
        let both = r#"{"username":"app","user":"app","password":"pw","dbname":"orders",
            "host":"db","port":"5432","uri":"postgresql://app:pw@db.ns:5432/orders",
            "pgpass":"db:5432:orders:app:pw","jdbc-uri":"jdbc:postgresql://db/orders","PGUSER":null}"#;
        let all = "app pw Some(\"db\") Some(5432) Some(\"orders\")";
        assert_eq!(shown(&read(both).unwrap()), all);
    }

    #[test]
    fn i10_what_is_wrong_is_named_and_nothing_of_it_shown() {
        for (text, named) in [
            ("", "is empty"),
            ("{\"username\":\"app\",\"password\":\"hunter2", "no whole JSON object"),
            (r#"{"username":"app","password":["hunter2"]}"#, "has no password"),
            (r#"{"username":"app"}"#, "has no password"),
            ("PGPASSWORD=hunter2", "has no username"),
            ("hunter2 and more", "not KEY=VALUE"),
            ("postgres://app:hunter2@[bad/x", "can't be read"),
            ("mysql://app:hunter2@h/x", "postgres://"),
            (r#"{"username":"a","password":"hunter2","port":"70000"}"#, "`port`"),
            (r#"{"username":"a\nb","password":"hunter2"}"#, "username"),
            (r#"{"username":"a","password":"hunter2\u0000"}"#, "NUL"),
            ("postgres://app:hunter2@h/d%00user%00postgres", "database"),
        ] {
            let e = read(text).unwrap_err();
            let told = format!("{e} {e:?}");
            assert!(told.contains(named) && told.contains("the file"), "{text}: {told}");
            assert!(!told.contains("hunter2"), "{told}");
        }
        let form = LoginForm::parse("x", "PGPASSWORD=hunter2").unwrap();
        assert!(!format!("{form:?}").contains("hunter2"));
    }
}
