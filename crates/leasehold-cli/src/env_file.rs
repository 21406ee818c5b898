//! An .env file of ours: nobody else reads it, it is whole or not there, and it goes with us.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::failure::Failure;
use crate::terminal::tell;

/// The first line, by which a file is known as ours.
const MARK: &str = "# Written by `leasehold dev`";

/// A place where one may be written.
#[derive(Debug)]
pub(crate) struct EnvFile {
    path: PathBuf,
    force: bool,
}

/// One that was written. Removed when dropped, unless somebody has changed it.
pub(crate) struct Written {
    path: PathBuf,
    text: Zeroizing<String>,
}

impl EnvFile {
    /// Refuses a file that we did not write, unless `force`.
    pub(crate) fn at(path: PathBuf, force: bool) -> Result<Self, Failure> {
        let shown = path.display();
        match fs::read(&path) {
            _ if force => {}
            Ok(old) if old.starts_with(MARK.as_bytes()) => {}
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Ok(_) => {
                return Err(Failure::usage(format!(
                    "{shown} is there, and not by `leasehold dev`: give another name, or --force \
                     to overwrite it"
                )));
            }
            Err(e) => return Err(Failure::of(&format!("looking at {shown}"), &e)),
        }
        Ok(Self { path, force })
    }

    /// Writes it whole, or not at all. Looks again first: starting servers takes a while.
    pub(crate) fn write(self, variables: &[(&'static str, String)]) -> Result<Written, Failure> {
        let Self { path, .. } = Self::at(self.path, self.force)?;
        let mut text = Zeroizing::new(format!("{MARK}: it goes when that ends.\n"));
        for (name, value) in variables {
            text.push_str(&format!("{name}={value}\n"));
        }
        let new = beside(&path);
        let done = put(&new, text.as_bytes()).and_then(|()| fs::rename(&new, &path));
        if let Err(e) = done {
            // If it can't be removed either, it never was there.
            let _ = fs::remove_file(&new);
            return Err(Failure::of(&format!("writing {}", path.display()), &e));
        }
        Ok(Written { path, text })
    }
}

/// In the same folder, so that it can be renamed.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    path.with_file_name(name)
}

fn put(path: &Path, text: &[u8]) -> std::io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text)?;
    file.sync_all()
}

impl Drop for Written {
    fn drop(&mut self) {
        let now = fs::read(&self.path).map(Zeroizing::new);
        if now.is_ok_and(|now| **now == *self.text.as_bytes())
            && let Err(e) = fs::remove_file(&self.path)
        {
            tell(&format!("{} stays: {e}", self.path.display()));
        }
    }
}
