//! Backups: a directory that is whole or not there.
//!
//! Invariant: nothing is overwritten, and a backup has its name only once all of it is on disk.
//! Secrets (the pepper, the authority's keys) are in it only when that was said.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::store::error::StoreError;
use crate::store::{Store, sqlite};

/// Makes the backup `target` of a store, with `secrets`: each file, and its place in the backup.
///
/// # Errors
///
/// When `target` is there already, or something cannot be read or written; nothing is left then.
pub fn make(store: &Store, target: &Path, secrets: &[(PathBuf, PathBuf)]) -> Result<(), StoreError> {
    if fs::symlink_metadata(target).is_ok() {
        return Err(StoreError::Exists(target.display().to_string()));
    }
    let mut name = target.file_name().unwrap_or_default().to_owned();
    name.push(format!(".new-{}", std::process::id()));
    let unfinished = target.with_file_name(name);
    let made = fill(store, &unfinished, secrets).and_then(|()| {
        // Fails when a directory with content has come into being there meanwhile.
        fs::rename(&unfinished, target).map_err(|error| StoreError::file(target, error))?;
        let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        sync(parent)
    });
    if made.is_err() {
        drop(fs::remove_dir_all(&unfinished));
    }
    made
}

fn fill(store: &Store, dir: &Path, secrets: &[(PathBuf, PathBuf)]) -> Result<(), StoreError> {
    directory(dir)?;
    let copy = dir.join(sqlite::FILE);
    store.copy_to(&copy)?;
    let private = || -> io::Result<()> {
        fs::set_permissions(&copy, Permissions::from_mode(0o600))?;
        File::open(&copy)?.sync_all()
    };
    private().map_err(|error| StoreError::file(&copy, error))?;
    for (from, to) in secrets {
        let to = dir.join(to);
        if let Some(parent) = to.parent()
            && !parent.exists()
        {
            directory(parent)?;
        }
        let content = Zeroizing::new(fs::read(from).map_err(|error| StoreError::file(from, error))?);
        let write = || -> io::Result<()> {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&to)?;
            file.write_all(&content)?;
            file.sync_all()
        };
        write().map_err(|error| StoreError::file(&to, error))?;
        if let Some(parent) = to.parent() {
            sync(parent)?;
        }
    }
    sync(dir)
}

fn directory(path: &Path) -> Result<(), StoreError> {
    DirBuilder::new().mode(0o700).create(path).map_err(|error| StoreError::file(path, error))
}

fn sync(directory: &Path) -> Result<(), StoreError> {
    File::open(directory).and_then(|opened| opened.sync_all()).map_err(|error| StoreError::file(directory, error))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;
    use std::thread;

    use super::*;
    use crate::store::conformance_tests::{Fixture, new_key};
    use crate::store::pepper;

    #[test]
    fn a_backup_is_of_one_moment_while_others_write() {
        let fixture = Fixture::new();
        let store = fixture.open();
        fixture.open().create_key(&new_key(0)).unwrap();
        let backups = tempfile::tempdir().unwrap();
        let found = thread::scope(|scope| {
            let writing = scope.spawn(|| {
                let mut writer = fixture.open();
                (1..60).for_each(|seed| writer.create_key(&new_key(seed)).unwrap());
            });
            let mut found = Vec::new();
            while !writing.is_finished() {
                let target = backups.path().join(found.len().to_string());
                make(&store, &target, &[]).unwrap();
                let copy = Store::open(&target).unwrap();
                assert_eq!(copy.faults().unwrap(), Vec::<String>::new());
                found.push(copy.list_keys().unwrap().len());
            }
            found
        });
        assert!(found.is_sorted() && found.first().is_some_and(|first| *first >= 1), "{found:?}");
    }

    #[test]
    fn it_is_private_holds_what_was_said_and_overwrites_nothing() {
        let fixture = Fixture::new();
        let mut store = fixture.open();
        pepper::load(fixture.dir(), &mut store).unwrap();
        let pepper = fixture.dir().join(pepper::FILE);
        let parent = tempfile::tempdir().unwrap();
        let (bare, whole) = (parent.path().join("bare"), parent.path().join("whole"));
        make(&store, &bare, &[]).unwrap();
        make(&store, &whole, &[(pepper.clone(), "pepper".into()), (pepper.clone(), "ca/root.key".into())]).unwrap();
        let names = |dir: &Path| fs::read_dir(dir).unwrap().count();
        assert_eq!((names(&bare), names(&whole), names(parent.path())), (1, 3, 2));
        assert_eq!(fs::read(whole.join("ca/root.key")).unwrap(), fs::read(&pepper).unwrap());
        for (path, mode) in [(whole.clone(), 0o700), (whole.join("ca"), 0o700), (whole.join("pepper"), 0o600)] {
            assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, mode, "{}", path.display());
        }
        assert_eq!(fs::metadata(bare.join(sqlite::FILE)).unwrap().mode() & 0o777, 0o600);
        let secret = fs::read(&pepper).unwrap();
        let copy = fs::read(bare.join(sqlite::FILE)).unwrap();
        assert!(!copy.windows(64).any(|window| window == &secret[..64]), "the pepper is in a backup without secrets");

        assert!(make(&store, &bare, &[]).unwrap_err().to_string().contains("exists already"));
        let missing = parent.path().join("missing");
        assert!(make(&store, &missing, &[(fixture.dir().join("nowhere"), "x".into())]).is_err());
        assert!(!missing.exists() && names(parent.path()) == 2, "half a backup was left");
    }
}
