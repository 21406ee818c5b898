//! What was set, by whom, before it means anything.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use zeroize::Zeroizing;

use super::ConfigError;
use super::parse;
use crate::limit::RateLimit;

/// How the text of a setting is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Flag,
    Duration,
    Size,
    Rate,
    Count,
    KvVersion,
}

/// One setting. In the environment it is `VAULT_` or `BAO_` and the name in upper case, or
/// `VAULT__` or `BAO__` and the name or one of its other names; in a file it is the name or one of
/// its other names.
pub(super) struct Key {
    pub(super) name: &'static str,
    pub(super) also: &'static [&'static str],
    pub(super) kind: Kind,
}

const fn key(name: &'static str, also: &'static [&'static str], kind: Kind) -> Key {
    Key { name, also, kind }
}

/// All that there are. `settings.md` describes them, and a test compares the two.
#[rustfmt::skip]
pub(super) const KEYS: &[Key] = &[
    key("enabled", &[], Kind::Flag),
    key("addr", &["url", "address"], Kind::Text),
    key("namespace", &[], Kind::Text),
    key("cacert", &["ca_cert"], Kind::Text),
    key("capath", &["ca_path"], Kind::Text),
    key("client_cert", &[], Kind::Text),
    key("client_key", &[], Kind::Text),
    key("tls_server_name", &[], Kind::Text),
    key("skip_verify", &["tls_skip_verify"], Kind::Flag),
    key("proxy_addr", &[], Kind::Text),
    key("http_proxy", &[], Kind::Text),
    key("redirect_to", &[], Kind::Text),
    key("client_timeout", &[], Kind::Duration),
    key("mint_timeout", &[], Kind::Duration),
    key("rate_limit", &[], Kind::Rate),
    key("max_in_flight", &[], Kind::Count),
    key("max_response", &[], Kind::Size),
    key("token", &[], Kind::Text),
    key("token_file", &[], Kind::Text),
    key("role_id", &[], Kind::Text),
    key("secret_id", &[], Kind::Text),
    key("secret_id_file", &[], Kind::Text),
    key("wrapped_secret_id", &[], Kind::Text),
    key("wrapped_secret_id_file", &[], Kind::Text),
    key("kubernetes_role", &[], Kind::Text),
    key("kubernetes_token_file", &[], Kind::Text),
    key("jwt_role", &[], Kind::Text),
    key("jwt_file", &[], Kind::Text),
    key("username", &[], Kind::Text),
    key("password", &[], Kind::Text),
    key("cert_role", &[], Kind::Text),
    key("auth_mount", &[], Kind::Text),
    key("mount_path", &[], Kind::Text),
    key("database_role", &[], Kind::Text),
    key("kv_version", &[], Kind::KvVersion),
    key("secret_path", &[], Kind::Text),
];

fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name || key.also.contains(&name))
}

/// A text, and where it came from.
#[derive(Clone)]
pub(super) struct Value {
    /// The variable or the key of a file.
    name: String,
    /// The file.
    place: Option<String>,
    /// Of two with different ranks the higher counts.
    rank: u8,
    pub(super) text: Zeroizing<String>,
}

impl Value {
    /// What to call it in an error.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn error(&self, problem: impl fmt::Display) -> ConfigError {
        let setting: Cow<'static, str> = self.name.clone().into();
        match &self.place {
            Some(file) => ConfigError::new(setting, format!("in {file} {problem}")),
            None => ConfigError::new(setting, problem.to_string()),
        }
    }

    /// What it is set to, which must be the name of a file that can be read. No error repeats it:
    /// it may be what should be in the file.
    pub(super) fn read_file(&self) -> Result<Zeroizing<Vec<u8>>, ConfigError> {
        std::fs::read(self.text.as_str()).map(Zeroizing::new).map_err(|e| {
            self.error(format!("names a file that can't be read ({e}): give a file's path"))
        })
    }

    fn parse<T>(
        &self,
        parse: impl FnOnce(&str) -> Result<T, &'static str>,
    ) -> Result<T, ConfigError> {
        parse(&self.text).map_err(|problem| self.error(problem))
    }
}

#[cfg(feature = "config-file")]
const FILE: u8 = 0;

/// Ways to write a variable, and their ranks: `BAO_` wins over `VAULT_`, and the plain form over
/// the nested one.
const PREFIXES: &[(&str, u8)] = &[("BAO__", 3), ("BAO_", 4), ("VAULT__", 1), ("VAULT_", 2)];

/// All that was set.
#[derive(Clone, Default)]
pub(super) struct Values(BTreeMap<&'static str, Value>);

impl Values {
    /// Adds the variables of the process.
    pub(super) fn add_environment(&mut self) -> Result<(), ConfigError> {
        for (name, value) in std::env::vars_os() {
            // What is not even text has no name of ours.
            let Ok(name) = name.into_string() else { continue };
            match value.into_string() {
                Ok(value) => self.add_variable(&name, value)?,
                Err(_) if name_of(&name).is_some_and(|(name, ..)| find(&name).is_some()) => {
                    return Err(ConfigError::new(name, "is no UTF-8 text"));
                }
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// Adds a variable if it is one of ours. An empty one counts as not set.
    pub(super) fn add_variable(&mut self, variable: &str, text: String) -> Result<(), ConfigError> {
        let text = Zeroizing::new(text);
        let Some((name, nested, rank)) = name_of(variable) else { return Ok(()) };
        let key = match find(&name) {
            Some(key) if nested || key.name == name => key,
            // `VAULT_FORMAT`, `VAULT_SERVICE_HOST`: other programs' names. Nobody else writes
            // `VAULT__`.
            _ if !nested => return Ok(()),
            _ => return Err(unknown(variable.to_owned(), None)),
        };
        self.add(key, Value { name: variable.to_owned(), place: None, rank, text })
    }

    /// Adds a key of a file, in which it stands below `vault`. `path` are the names on the way.
    #[cfg(feature = "config-file")]
    pub(super) fn add_from_file(
        &mut self,
        file: &str,
        path: &[String],
        text: String,
    ) -> Result<(), ConfigError> {
        let name = format!("vault.{}", path.join("."));
        match find(&path.join("_").to_ascii_lowercase()) {
            Some(key) => {
                let (place, text) = (Some(file.to_owned()), Zeroizing::new(text));
                self.add(key, Value { name, place, rank: FILE, text })
            }
            None => Err(unknown(name, Some(file))),
        }
    }

    fn add(&mut self, key: &'static Key, value: Value) -> Result<(), ConfigError> {
        let text = Zeroizing::new(value.text.trim().to_owned());
        if text.is_empty() {
            return Ok(());
        }
        match self.0.get(key.name) {
            Some(old) if old.rank > value.rank => return Ok(()),
            Some(old) if old.rank == value.rank => {
                return Err(value.error(format!("and {} mean the same: keep one", old.name)));
            }
            _ => {}
        }
        self.0.insert(key.name, Value { text, ..value });
        Ok(())
    }

    /// Whether every value can be read as what it stands for. Reads no files.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        for (name, value) in &self.0 {
            let kind = find(name).map_or(Kind::Text, |key| key.kind);
            match kind {
                Kind::Text => {}
                Kind::Flag => drop(value.parse(parse::flag)?),
                Kind::Duration => drop(value.parse(parse::duration)?),
                Kind::Size => drop(value.parse(parse::size)?),
                Kind::Rate => drop(value.parse(parse::rate_limit)?),
                Kind::Count => drop(value.parse(parse::count)?),
                Kind::KvVersion => drop(value.parse(parse::kv_version)?),
            }
        }
        Ok(())
    }

    pub(super) fn get(&self, name: &'static str) -> Option<&Value> {
        debug_assert!(KEYS.iter().any(|key| key.name == name), "{name} is no key");
        self.0.get(name)
    }

    pub(super) fn text(&self, name: &'static str) -> Option<&str> {
        self.get(name).map(|value| value.text.as_str())
    }

    fn parsed<T>(
        &self,
        name: &'static str,
        parse: fn(&str) -> Result<T, &'static str>,
    ) -> Result<Option<T>, ConfigError> {
        self.get(name).map(|value| value.parse(parse)).transpose()
    }

    pub(super) fn flag(&self, name: &'static str) -> Result<Option<bool>, ConfigError> {
        self.parsed(name, parse::flag)
    }

    pub(super) fn duration(&self, name: &'static str) -> Result<Option<Duration>, ConfigError> {
        self.parsed(name, parse::duration)
    }

    pub(super) fn size(&self, name: &'static str) -> Result<Option<usize>, ConfigError> {
        self.parsed(name, parse::size)
    }

    pub(super) fn rate(&self, name: &'static str) -> Result<Option<RateLimit>, ConfigError> {
        self.parsed(name, parse::rate_limit)
    }

    pub(super) fn count(&self, name: &'static str) -> Result<Option<usize>, ConfigError> {
        self.parsed(name, parse::count)
    }

    pub(super) fn kv_version(&self) -> Result<Option<u8>, ConfigError> {
        self.parsed("kv_version", parse::kv_version)
    }
}

/// Names only: every other value is a secret.
impl fmt::Debug for Values {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.values().map(|value| &value.name)).finish()
    }
}

/// The setting's name, whether it was written with `__`, and its rank.
fn name_of(variable: &str) -> Option<(String, bool, u8)> {
    let (prefix, rank) = PREFIXES.iter().find(|(prefix, _)| variable.starts_with(prefix))?;
    let (nested, rank) = (prefix.ends_with("__"), *rank);
    let name = variable[prefix.len()..].to_ascii_lowercase();
    Some((if nested { name.replace("__", "_") } else { name }, nested, rank))
}

fn unknown(name: String, file: Option<&str>) -> ConfigError {
    let known: Vec<_> = KEYS.iter().map(|key| key.name).collect();
    let place = file.map(|file| format!("in {file} ")).unwrap_or_default();
    let known = known.join(", ");
    ConfigError::new(name, format!("{place}is no setting that is known; these are: {known}"))
}
