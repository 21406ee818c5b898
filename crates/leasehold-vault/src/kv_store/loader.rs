//! One settings struct out of several secrets, when a service starts.

use std::collections::BTreeMap;
use std::fmt;

use leasehold::SourceError;
use serde::de::DeserializeOwned;

use super::entry::{KvOrigin, Raw};
use super::environment::{self, named, variables};
use super::error::KvError;
use super::node::Node;
use super::problem::KvKeyProblem;
use super::typed::{typed_without, variable};
use super::{KvStore, all};

/// Fills a settings struct from several secrets at once. Made by [`KvStore::loader`], or by
/// [`offline`](Self::offline) where there is no server.
///
/// ```no_run
/// #[derive(serde::Deserialize)]
/// struct Settings {
///     name: String, // a key of shop/app
///     smtp: Smtp,   // all of shop/smtp
/// }
///
/// #[derive(serde::Deserialize)]
/// struct Smtp {
///     host: String,
///     port: u16,
/// }
///
/// # async fn example(session: leasehold_vault::Session) -> Result<(), Box<dyn std::error::Error>> {
/// let loaded = session
///     .kv2_store("secret")
///     .loader()
///     .keys("shop/app")
///     .section("smtp", "shop/smtp")
///     .load::<Settings>()
///     .await?;
/// println!("{} sends by {}", loaded.settings.name, loaded.settings.smtp.host);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct KvLoader {
    from: Result<KvStore, KvError>,
    parts: Vec<(Option<String>, String)>,
    prefix: Option<String>,
}

/// Settings, and where they come from. `Debug` leaves them out.
#[non_exhaustive]
pub struct KvSettings<T> {
    /// The settings.
    pub settings: T,
    /// Each secret, in the order in which they were named.
    pub sections: Vec<KvSection>,
}

/// A secret that settings come from.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct KvSection {
    /// The field that it fills; none if its keys are fields themselves.
    pub field: Option<String>,
    /// The path, as it was named.
    pub path: String,
    /// Its version, where there are versions.
    pub version: Option<u64>,
    /// [`Server`](KvOrigin::Server) or [`Environment`](KvOrigin::Environment).
    pub origin: KvOrigin,
}

/// All that keeps settings from being loaded. `Display` is one line, and holds no value.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct KvLoadError {
    /// At most one for each secret, and one for fields that no secret fills.
    pub problems: Vec<KvError>,
}

impl KvStore {
    /// Fills a settings struct from several secrets.
    pub fn loader(&self) -> KvLoader {
        KvLoader { from: Ok(self.clone()), parts: Vec::new(), prefix: None }
    }
}

impl KvLoader {
    /// A loader without a server, which takes everything from the environment: for a process that
    /// could not even log in, for this reason. What is loaded says so.
    ///
    /// ```no_run
    /// # use leasehold_vault::{Auth, KvLoader, Session, VaultConfig};
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// let loader = match Session::login(VaultConfig::from_env()?, Auth::from_env()?).await {
    ///     Ok(session) => session.kv2_store("secret").loader(),
    ///     // Heals by itself, so that going on without is no way around anybody's decision.
    ///     Err(e) if e.is_transient() => KvLoader::offline(e),
    ///     Err(e) => return Err(e.into()),
    /// };
    /// let loader = loader.or_env("SHOP_").section("smtp", "shop/smtp");
    /// # Ok(()) }
    /// ```
    pub fn offline(why: SourceError) -> Self {
        Self { from: Err(why.into()), parts: Vec::new(), prefix: None }
    }

    /// The field `name` is the secret at `path`: its fields are the secret's keys.
    pub fn section(mut self, name: impl Into<String>, path: impl Into<String>) -> Self {
        self.parts.push((Some(name.into()), path.into()));
        self
    }

    /// The keys of the secret at `path` are fields themselves. Of several such secrets none may have
    /// a key that another one has.
    pub fn keys(mut self, path: impl Into<String>) -> Self {
        self.parts.push((None, path.into()));
        self
    }

    /// Where the server can't be asked for a secret, environment variables that begin with `prefix`
    /// take its place: `SHOP_` and a field are `SHOP_NAME`, with a section between `SHOP_SMTP_HOST`.
    /// That is told at WARN for each secret, and in what is loaded. What a server that answers has
    /// not got, or denies, is not looked for there.
    pub fn or_env(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = Some(prefix.into());
        self
    }

    /// Reads all secrets at the same time, as far as
    /// [`max_in_flight`](crate::VaultConfig::max_in_flight) lets them, and fills the struct. Once:
    /// nothing is retried. May be dropped at any point.
    ///
    /// # Errors
    /// All that is missing or wrong, with path and key, in one error: secrets that can't be had, keys
    /// that are not there, and those that are not what the struct takes. (A field whose type takes no
    /// empty value, such as a URL, may hide others for as long as it is missing itself.)
    pub async fn load<T: DeserializeOwned>(self) -> Result<KvSettings<T>, KvLoadError> {
        let paths: Vec<String> = self.parts.iter().map(|(_, path)| path.clone()).collect();
        let answers = match &self.from {
            Ok(store) => {
                let reads = paths.into_iter().map(|path| {
                    let store = store.clone();
                    async move { store.raw(&store.place(&path)?, None).await }
                });
                all(reads).await
            }
            Err(e) => paths.iter().map(|_| Err(e.clone())).collect(),
        };
        let mut gathered = Gathered { offline: self.from.is_err(), ..Gathered::default() };
        for ((field, path), answer) in self.parts.iter().zip(answers) {
            let shown = match &self.from {
                Ok(store) => store.place(path).map_or_else(|_| path.clone(), |p| p.data()),
                Err(_) => path.clone(),
            };
            let prefix = self.prefix.as_deref().map(|prefix| match field {
                Some(field) => format!("{prefix}{}_", variable(field)),
                None => prefix.to_owned(),
            });
            gathered.add(field.as_deref(), path, shown, prefix, answer);
        }
        gathered.fill()
    }
}

/// What came of the secrets so far.
#[derive(Default)]
struct Gathered {
    /// Nobody was asked at all.
    offline: bool,
    fields: BTreeMap<String, Node>,
    /// Where the environment takes the place of a secret whose keys are fields.
    named: BTreeMap<String, Node>,
    sections: Vec<(KvSection, Label)>,
    problems: Vec<KvError>,
    /// Fields whose secrets could not be had.
    lacking: Vec<String>,
    /// A secret whose keys are fields could not be had: what is missing may be in it.
    lacks_keys: bool,
}

/// What to call a secret when one of its keys is wrong.
struct Label {
    path: String,
    prefix: Option<String>,
    keys: Vec<String>,
}

impl Gathered {
    fn add(
        &mut self,
        field: Option<&str>,
        path: &str,
        shown: String,
        prefix: Option<String>,
        answer: Result<Raw, KvError>,
    ) {
        let mut place = Label { path: shown, prefix: None, keys: Vec::new() };
        let (node, version, origin) = match (answer, prefix) {
            (Ok(Raw { node, version, .. }), _) => (node, version, KvOrigin::Server),
            (Err(e), Some(prefix)) if self.offline || e.is_outage() => {
                environment::tell(&place.path, &prefix, &e);
                let node = variables(&prefix);
                place.prefix = Some(prefix);
                (node, None, KvOrigin::Environment(e))
            }
            (Err(e), _) => {
                match field {
                    Some(field) => self.lacking.push(field.to_owned()),
                    None => self.lacks_keys = true,
                }
                let same = |known: &KvError| known.to_string() == e.to_string();
                if !self.problems.iter().any(same) {
                    self.problems.push(e);
                }
                return;
            }
        };
        match (field, node) {
            (Some(field), node) => {
                if self.fields.insert(field.to_owned(), node).is_some() {
                    self.twice(&place.path, vec![field.to_owned()]);
                }
            }
            (None, Node::Map(map)) => {
                place.keys = map.keys().cloned().collect();
                let known = |key: &&String| self.fields.contains_key(*key);
                let twice: Vec<_> = place.keys.iter().filter(known).cloned().collect();
                self.fields.extend(map);
                self.twice(&place.path, twice);
            }
            (None, Node::Variables { named, .. }) => self.named = named,
            // An engine has objects only.
            (None, _) => {}
        }
        let (field, path) = (field.map(str::to_owned), path.to_owned());
        self.sections.push((KvSection { field, path, version, origin }, place));
    }

    fn twice(&mut self, path: &str, keys: Vec<String>) {
        let what = "is there in another of the secrets too";
        let problem = |key| KvKeyProblem { key, missing: false, what: what.to_owned() };
        if !keys.is_empty() {
            let keys = keys.into_iter().map(problem).collect();
            self.problems.push(KvError::Malformed { path: path.to_owned(), version: None, keys });
        }
    }

    fn fill<T: DeserializeOwned>(mut self) -> Result<KvSettings<T>, KvLoadError> {
        let (fields, named) = (std::mem::take(&mut self.fields), std::mem::take(&mut self.named));
        let node = Node::Variables { fields, named };
        match typed_without(&node, &self.lacking) {
            Ok(settings) if self.problems.is_empty() => {
                let sections = self.sections.into_iter().map(|(section, _)| section).collect();
                Ok(KvSettings { settings, sections })
            }
            Ok(_) => Err(KvLoadError { problems: self.problems }),
            Err(found) => Err(self.told(found)),
        }
    }

    /// Sorts what is wrong by the secrets in which it is.
    fn told(mut self, found: Vec<KvKeyProblem>) -> KvLoadError {
        let mut by_place: Vec<Vec<KvKeyProblem>> = vec![Vec::new(); self.sections.len()];
        let mut nowhere = Vec::new();
        for mut problem in found {
            let (field, rest) = problem.key.split_once('.').unwrap_or((&problem.key, ""));
            let (field, rest) = (field.to_owned(), rest.to_owned());
            let is_section = |(s, _): &(KvSection, Label)| s.field.as_ref() == Some(&field);
            let has_key = |(_, place): &(KvSection, Label)| place.keys.contains(&field);
            let of_keys = |(s, place): &(KvSection, Label)| {
                s.field.is_none() && (place.prefix.is_some() || problem.missing)
            };
            let all = &self.sections;
            if let Some(at) = all.iter().position(is_section) {
                problem.key = rest;
                by_place[at].push(problem);
            } else if let Some(at) = all.iter().position(has_key) {
                by_place[at].push(problem);
            } else if !self.lacks_keys {
                match all.iter().position(of_keys) {
                    Some(at) => by_place[at].push(problem),
                    None => nowhere.push(problem),
                }
            }
        }
        for ((section, place), keys) in self.sections.into_iter().zip(by_place) {
            let Label { path, prefix, .. } = place;
            let version = section.version;
            let (path, keys) = match prefix {
                Some(prefix) => (
                    format!("the environment (for {path})"),
                    keys.into_iter().map(|problem| named(&prefix, problem)).collect(),
                ),
                None => (path, keys),
            };
            if !keys.is_empty() {
                self.problems.push(KvError::Malformed { path, version, keys });
            }
        }
        if !nowhere.is_empty() {
            let path = "fields that no secret was named for".to_owned();
            self.problems.push(KvError::Malformed { path, version: None, keys: nowhere });
        }
        KvLoadError { problems: self.problems }
    }
}

impl fmt::Display for KvLoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the settings can't be loaded: ")?;
        for (i, problem) in self.problems.iter().enumerate() {
            let between = if i == 0 { "" } else { "; " };
            write!(f, "{between}{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for KvLoadError {}

impl<T> fmt::Debug for KvSettings<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KvSettings").field("sections", &self.sections).finish_non_exhaustive()
    }
}
