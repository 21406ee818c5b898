//! `leasehold import`.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anstyle::Style;
use leasehold::{LoginForm, SourceError};
use leasehold_vault::{Entries, KvMount, Session, Settings};
use serde_json::Value;
use zeroize::Zeroizing;

use crate::failure::Failure;
use crate::signals::{Caught, Signals};
use crate::terminal::{BAD, CAREFUL, FAINT, GOOD, out, tell};

/// What is taken along without being named, and what a login's keys are called in a KV secret.
const LOGIN: [(&str, &str); 6] = [
    ("DATABASE_URL", "url"),
    ("PGUSER", "username"),
    ("PGPASSWORD", "password"),
    ("PGHOST", "host"),
    ("PGPORT", "port"),
    ("PGDATABASE", "database"),
];

/// Reads an .env file, compares it with a secret of a KV engine (version 2), and shows what would
/// change: names, never values. With --write it writes a new version of the secret, if nobody has
/// written it since it was compared.
///
/// Taken along are DATABASE_URL and PGUSER, PGPASSWORD, PGHOST, PGPORT, PGDATABASE, under the names
/// by which the library reads a login (url, username, password, host, port, database); --only,
/// --prefix and --all say otherwise. Keys of the secret that the file does not have are kept.
///
/// The file means what dotenvy makes of it: $NAME is replaced except in single quotes.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The file.
    #[arg(long, value_name = "FILE", default_value = ".env")]
    from: PathBuf,
    /// The secret: the engine's mount and the path below it, without `data/`.
    #[arg(long, value_name = "MOUNT/PATH")]
    to: String,
    /// Settings file with a section `vault` (.toml, .yaml, .json, .ini); the environment wins.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Takes these variables only.
    #[arg(long, value_name = "NAME", value_delimiter = ',', conflicts_with = "all")]
    only: Vec<String>,
    /// Takes the variables that begin so, without that beginning.
    #[arg(long, value_name = "PREFIX", conflicts_with = "all")]
    prefix: Option<String>,
    /// Takes every variable of the file.
    #[arg(long)]
    all: bool,
    /// Writes a variable under another key. The name is that without the prefix.
    #[arg(long, value_name = "NAME=KEY", value_delimiter = ',', value_parser = pair)]
    map: Vec<(String, String)>,
    /// Removes keys of the secret that are not written.
    #[arg(long)]
    replace: bool,
    /// Writes. Without it nothing is changed.
    #[arg(long, visible_alias = "yes")]
    write: bool,
}

const EXAMPLES: &str = "\
Examples:
  leasehold import --to secret/apps/orders
  leasehold import --from .env --to secret/apps/orders --write
  leasehold import --to secret/apps/orders --prefix ORDERS_ --map DB=url --write
  leasehold import --to secret/apps/orders --only DATABASE_URL,API_KEY";

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, key)) if !name.is_empty() && !key.is_empty() => Ok((name.into(), key.into())),
        _ => Err("write it as NAME=KEY, such as DATABASE_URL=url".to_owned()),
    }
}

type Values = BTreeMap<String, Zeroizing<String>>;

pub(crate) async fn run(args: Args) -> Result<ExitCode, Failure> {
    // Before anything is made that a signal would leave behind.
    let mut signals = Signals::listen()?;
    let (wanted, left) = select(&args, read(&args.from)?)?;
    if wanted.is_empty() {
        return Err(Failure::usage(format!(
            "{} has none of the variables that are taken along: name them with --only or \
             --prefix, or take --all",
            args.from.display()
        )));
    }
    let settings = match &args.config {
        Some(file) => Settings::from_file(file)?,
        None => Settings::from_env()?,
    };
    let gave_up = || Failure::new("gave up: a token may be left, until its TTL");
    let login = Session::login(settings.config()?, settings.auth()?);
    let ending = "ending, once the token that is being asked for was given back";
    let (session, caught) = signals.through(login, ending).await.ok_or_else(gave_up)?;
    let session = session.map_err(|e| Failure::of("logging in to Vault", &e))?;
    let done = match caught {
        Some(caught) => Err(stopped(caught)),
        None => import(&args, &session, &wanted, &left, &mut signals).await,
    };
    let closing = signals.through(session.close(), "the token is being revoked").await;
    for line in closing.ok_or_else(gave_up)?.0 {
        tell(&format!("left behind: {line}"));
    }
    done.map(|()| ExitCode::SUCCESS)
}

fn stopped(caught: Caught) -> Failure {
    Failure::new("told to stop: nothing was written").with_code(caught.exit_code())
}

async fn import(
    args: &Args,
    session: &Session,
    wanted: &Values,
    left: &[String],
    signals: &mut Signals,
) -> Result<(), Failure> {
    let look = async {
        let at = place(session, &args.to).await?;
        let old = session.kv2_entries(&at.mount, &at.path).await;
        let old = old.map_err(|e| Failure::of("comparing", &e))?;
        Ok::<_, Failure>((at, old))
    };
    let (at, old) = tokio::select! {
        found = look => found?,
        caught = signals.ending() => return Err(stopped(caught)),
    };
    let (mount, path) = (&*at.mount, &*at.path);
    let plan = Plan::of(old, wanted, args.replace);
    plan.show(&format!("{mount}/{path}"));
    if !left.is_empty() {
        line(FAINT, &format!("left in {}: {}", args.from.display(), left.join(", ")));
    }
    if !plan.changes_anything() {
        out("Nothing to write.");
    } else if args.write {
        if let Some(caught) = signals.pending() {
            return Err(stopped(caught));
        }
        // Half of a request would leave open whether it was written.
        let write = session.kv2_write(mount, path, &plan.new);
        let notice = "ending, once the secret that is being written was";
        let unknown = || Failure::new(format!("gave up: {mount}/{path} may be written or not"));
        let (version, _) = signals.through(write, notice).await.ok_or_else(unknown)?;
        let version = version.map_err(|e| not_written(&e))?;
        line(GOOD, &format!("Wrote version {version} of {mount}/{path}."));
    } else {
        out("Nothing was written: --write does it.");
    }
    match plan.is_login(&format!("{mount}/{path}")) {
        Ok(()) => {
            out(&format!("A login: session.kv2({mount:?}, {path:?}) is a source of it."));
        }
        Err(why) => line(CAREFUL, &format!("Not a login that session.kv2 could serve: {why}.")),
    }
    Ok(())
}

/// An answer that did not come says nothing of what was done.
fn not_written(e: &SourceError) -> Failure {
    let doing = match e.is_transient() {
        true => "it is not known whether it was written (run it again: it compares first)",
        false => "nothing was written",
    };
    Failure::of(doing, e)
}

async fn place(session: &Session, to: &str) -> Result<KvMount, Failure> {
    let at = session.kv_mount(to).await.map_err(|e| Failure::of("looking for the engine", &e))?;
    let mount = &at.mount;
    match at.version {
        Some(2) if at.path.is_empty() => Err(Failure::usage(format!(
            "--to {to}: give a path below the mount {mount}/, such as {mount}/apps/orders"
        ))),
        Some(2) => Ok(at),
        Some(_) => Err(Failure::new(format!(
            "{mount}/ is a KV engine of version 1, which has no check-and-set: an administrator \
             can make it version 2 (`bao kv enable-versioning {mount}/`)"
        ))),
        None => Err(Failure::new(format!(
            "{mount}/ is no KV engine: give --to a path on one (`bao secrets list` shows them)"
        ))),
    }
}

/// All of the file. Errors tell the line by its number, and nothing of what is in it.
fn read(file: &Path) -> Result<Vec<(String, Zeroizing<String>)>, Failure> {
    let shown = file.display();
    let text = std::fs::read_to_string(file).map(Zeroizing::new);
    let text = text.map_err(|e| Failure::of(&format!("reading {shown}"), &e))?;
    let text = text.trim_start_matches('\u{feff}');
    let taken = Cell::new(0);
    let mut items = dotenvy::from_read_iter(ByLine { rest: text.as_bytes(), taken: &taken });
    let mut variables = Vec::new();
    loop {
        let before = taken.get();
        let Some(item) = items.next() else { return Ok(variables) };
        let (name, value) = item.map_err(|_| {
            let skipped = |line: &&str| line.trim().is_empty() || line.trim().starts_with('#');
            let number = before + 1 + text.lines().skip(before).take_while(skipped).count();
            Failure::usage(format!(
                "{shown}: line {number} is no NAME=VALUE: quote values with spaces, quotes or $ \
                 in them"
            ))
        })?;
        variables.push((name, Zeroizing::new(value)));
    }
}

/// Hands out one line at a time, so that it is known which one the parser is at. It tells of a bad
/// line only what is in it.
struct ByLine<'a> {
    rest: &'a [u8],
    taken: &'a Cell<usize>,
}

impl Read for ByLine<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let end = self.rest.iter().position(|byte| *byte == b'\n').map(|n| n + 1);
        let n = end.unwrap_or(self.rest.len()).min(into.len());
        into[..n].copy_from_slice(&self.rest[..n]);
        self.taken.set(self.taken.get() + usize::from(end == Some(n)));
        self.rest = &self.rest[n..];
        Ok(n)
    }
}

/// What is to be written, by key, and the names of what is not.
fn select(
    args: &Args,
    variables: Vec<(String, Zeroizing<String>)>,
) -> Result<(Values, Vec<String>), Failure> {
    let (mut wanted, mut left) = (Values::new(), Vec::new());
    let (mut only, mut unused): (BTreeSet<&str>, BTreeSet<&str>) = Default::default();
    only.extend(args.only.iter().map(String::as_str));
    unused.extend(args.map.iter().map(|(name, _)| name.as_str()));
    let mut from = BTreeMap::new();
    for (name, value) in variables {
        let short = name.strip_prefix(args.prefix.as_deref().unwrap_or_default());
        let named =
            args.only.contains(&name) || short.is_some_and(|s| args.only.iter().any(|o| o == s));
        let known = short.and_then(|short| LOGIN.iter().find(|(known, _)| *known == short));
        let mapped = short.and_then(|short| args.map.iter().find(|(from, _)| from == short));
        let taken = match (args.only.is_empty(), short) {
            (_, None) => false,
            (false, Some(_)) => named,
            (true, Some(_)) => {
                args.all || args.prefix.is_some() || known.is_some() || mapped.is_some()
            }
        };
        let Some(short) = short.filter(|short| taken && !short.is_empty()) else {
            left.push(name);
            continue;
        };
        only.remove(&*name);
        only.remove(short);
        unused.remove(short);
        let key = mapped.map(|(_, key)| key.as_str()).or(known.map(|(_, key)| *key));
        let key = key.unwrap_or(short).to_owned();
        // The first of two lines counts, as where the file is loaded.
        if let Some(other) = from.insert(key.clone(), name.clone()) {
            if other == name {
                from.insert(key, other);
                continue;
            }
            return Err(Failure::usage(format!(
                "{other} and {name} would both be written as {key}: --map one of them to another \
                 key, or leave it out with --only"
            )));
        }
        wanted.insert(key, value);
    }
    let missing: Vec<_> = only.into_iter().chain(unused).collect();
    if !missing.is_empty() {
        let (file, missing) = (args.from.display(), missing.join(", "));
        return Err(Failure::usage(format!("{file} does not have {missing}, or it is not taken")));
    }
    Ok((wanted, left))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Change {
    Added,
    Changed,
    Unchanged,
    Removed,
    Kept,
}

/// What would become of a secret.
struct Plan {
    new: Entries,
    changes: BTreeMap<String, Change>,
}

impl Plan {
    fn of(old: Entries, wanted: &Values, replace: bool) -> Self {
        let mut changes = BTreeMap::new();
        let mut new = Entries::default();
        new.version = old.version;
        for (key, value) in &old.values {
            match (wanted.get(key), replace) {
                (Some(_), _) => continue,
                (None, true) => drop(changes.insert(key.clone(), Change::Removed)),
                (None, false) => {
                    changes.insert(key.clone(), Change::Kept);
                    new.values.insert(key.clone(), value.clone());
                }
            }
        }
        for (key, value) in wanted {
            let change = match old.values.get(key) {
                Some(Value::String(old)) if **old == **value => Change::Unchanged,
                Some(_) => Change::Changed,
                None => Change::Added,
            };
            changes.insert(key.clone(), change);
            new.values.insert(key.clone(), Value::String(String::clone(value)));
        }
        Self { new, changes }
    }

    fn changes_anything(&self) -> bool {
        self.changes.values().any(|c| !matches!(c, Change::Unchanged | Change::Kept))
    }

    fn show(&self, place: &str) {
        match self.new.version {
            0 => out(&format!("{place}, which is new:")),
            version => out(&format!("{place}, now at version {version}:")),
        }
        for (key, change) in &self.changes {
            let (style, sign, word) = match change {
                Change::Added => (GOOD, '+', "added"),
                Change::Changed => (CAREFUL, '~', "changed"),
                Change::Unchanged => (FAINT, '=', "unchanged"),
                Change::Removed => (BAD, '-', "removed"),
                Change::Kept => (FAINT, ' ', "kept, not in the file"),
            };
            // A key may be anything that somebody wrote there.
            line(style, &format!("  {sign} {} ({word})", key.escape_debug()));
        }
    }

    /// Whether it will be a login, by the library's own reading of it; else why not. Whose it is,
    /// is not said: no value is.
    fn is_login(&self, place: &str) -> Result<(), String> {
        let mut form = LoginForm::default();
        for (key, value) in &self.new.values {
            match value {
                Value::String(text) => form.set(key, text),
                Value::Number(number) => form.set(key, &number.to_string()),
                _ => {}
            }
        }
        form.into_credential(place).map(drop).map_err(|e| e.to_string())
    }
}

fn line(style: Style, text: &str) {
    out(&format!("{style}{text}{style:#}"));
}
