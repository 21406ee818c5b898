//! Files that somebody else keeps fresh.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use zeroize::Zeroizing;

/// Anything longer is no login, and no token.
const MOST: usize = 64 * 1024;

/// How often files are looked at. Polling works on every mount, network and container ones too,
/// and a second is soon enough for what changes by the minute.
const EVERY: Duration = Duration::from_secs(1);

/// Two reads this far apart have to agree: whoever writes in place, or swaps one of several files
/// after the other, is then done, or shows at the next look.
const SETTLE: Duration = Duration::from_millis(50);

/// How often a read is repeated for its sake.
const SETTLE_TRIES: u32 = 20;

/// The content of the files, in the order they were named: `None` where there is no such file.
#[derive(Clone, PartialEq, Eq)]
pub struct Contents(Vec<Option<Zeroizing<Vec<u8>>>>);

impl Contents {
    /// What was in the file of this number.
    #[must_use]
    pub fn get(&self, file: usize) -> Option<&[u8]> {
        self.0.get(file)?.as_deref().map(Vec::as_slice)
    }
}

impl std::fmt::Debug for Contents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Contents").field("files", &self.0.len()).finish_non_exhaustive()
    }
}

/// One or more small files that are written by somebody else: read as a whole, never half of an
/// update, and watched for another content.
#[derive(Clone, Debug)]
pub struct FileWatch(Vec<PathBuf>);

impl FileWatch {
    /// These files; of which some may be missing.
    pub fn new(files: impl IntoIterator<Item = PathBuf>) -> Self {
        Self(files.into_iter().collect())
    }

    /// Reads until two reads in a row agree, for a second at most.
    ///
    /// # Errors
    /// What can't be read for another reason than that it is not there, or is longer than 64 KiB.
    pub async fn read(&self) -> std::io::Result<Contents> {
        let mut last = self.glance().await?;
        for _ in 0..SETTLE_TRIES {
            tokio::time::sleep(SETTLE).await;
            let next = self.glance().await?;
            if next == last {
                return Ok(next);
            }
            last = next;
        }
        Ok(last)
    }

    /// Resolves once the files hold something else than `seen`, by content: neither the time of a
    /// file nor its inode number says so reliably on every mount. Cancel safe.
    pub async fn differs(&self, seen: &Contents) -> Contents {
        loop {
            tokio::time::sleep(EVERY).await;
            if let Ok(now) = self.glance().await
                && now != *seen
                && let Ok(now) = self.read().await
                && now != *seen
            {
                return now;
            }
        }
    }

    async fn glance(&self) -> std::io::Result<Contents> {
        let files = self.0.clone();
        // A network mount may hang; the runtime's threads must not.
        let read = tokio::task::spawn_blocking(move || {
            files.iter().map(|file| read(file)).collect::<std::io::Result<_>>().map(Contents)
        });
        read.await.unwrap_or_else(|_| Err(std::io::Error::other("the runtime is shutting down")))
    }
}

fn read(path: &Path) -> std::io::Result<Option<Zeroizing<Vec<u8>>>> {
    use std::io::ErrorKind::{IsADirectory, NotADirectory, NotFound};
    match read_file(path) {
        Ok(content) => Ok(Some(content)),
        Err(e) if matches!(e.kind(), NotFound | IsADirectory | NotADirectory) => Ok(None),
        Err(e) => Err(e),
    }
}

fn read_file(path: &Path) -> std::io::Result<Zeroizing<Vec<u8>>> {
    let file = std::fs::File::open(path)?;
    // Room for all of it at once: a vector that grows leaves copies behind.
    let mut content = Zeroizing::new(Vec::with_capacity(MOST + 1));
    file.take(MOST as u64 + 1).read_to_end(&mut content)?;
    if content.len() > MOST {
        return Err(std::io::Error::other("it is longer than 64 KiB"));
    }
    Ok(content)
}
