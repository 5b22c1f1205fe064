//! Notices that files were written or replaced: what a running process looks at from time to time.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How often files are looked at.
pub const WATCH: Duration = Duration::from_secs(1);

/// Enough of a file's metadata to notice that it was written or replaced.
type Fingerprint = (u64, u64, i64, i64);

/// How files were when they were looked at.
#[derive(PartialEq, Eq, Debug)]
pub struct Seen(HashMap<PathBuf, Option<Fingerprint>>);

impl Seen {
    /// Looks at `files`. One that is not there counts too: it may come.
    #[must_use]
    pub fn of(files: impl Iterator<Item = PathBuf>) -> Self {
        Self(files.map(|file| (file.clone(), fingerprint(&file))).collect())
    }

    /// The same files; those that were looked at `before` they were read, as they were then: what was
    /// written meanwhile is noticed the next time.
    #[must_use]
    pub fn since(mut self, before: &Self) -> Self {
        for (file, seen) in &mut self.0 {
            if let Some(earlier) = before.0.get(file) {
                *seen = *earlier;
            }
        }
        self
    }
}

#[cfg(unix)]
fn fingerprint(file: &Path) -> Option<Fingerprint> {
    use std::os::unix::fs::MetadataExt;
    let metadata = fs::metadata(file).ok()?;
    Some((metadata.ino(), metadata.len(), metadata.mtime(), metadata.mtime_nsec()))
}

/// A file that is replaced has been written at another time.
#[cfg(not(unix))]
fn fingerprint(file: &Path) -> Option<Fingerprint> {
    use std::os::windows::fs::MetadataExt;
    let metadata = fs::metadata(file).ok()?;
    Some((metadata.creation_time(), metadata.len(), metadata.last_write_time().cast_signed(), 0))
}

#[cfg(test)]
mod tests {
    use std::iter::once;

    use super::*;

    #[test]
    fn what_is_written_while_it_is_read_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let (file, other) = (directory.path().join("a"), directory.path().join("b"));
        let before = Seen::of(once(file.clone()));
        fs::write(&file, "1").unwrap();
        let both = || [file.clone(), other.clone()].into_iter();
        assert_ne!(Seen::of(once(file.clone())), before);
        assert_ne!(Seen::of(both()).since(&before), Seen::of(both()));
        let now = Seen::of(both());
        assert_eq!(Seen::of(both()).since(&now), now);
        fs::write(&other, "1").unwrap();
        assert_ne!(Seen::of(both()), now);
        fs::remove_file(&file).unwrap();
        assert_eq!(Seen::of(once(file.clone())), before);
    }
}
