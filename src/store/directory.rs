//! The state directory: who may touch it, and how files come to be in it.
//!
//! Invariant: nothing is written under another uid than the directory's owner, root included. A
//! `-wal` file that belongs to root would stop a gateway that does not run as root.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::store::error::StoreError;

/// Makes the state directory if it is missing (mode 0700), and checks that it is ours.
///
/// # Errors
///
/// [`StoreError::OtherUser`] under another uid than the owner's, [`StoreError::Exposed`] when
/// others may write there, [`StoreError::File`] when the file system says no.
pub fn prepare(state_dir: &Path) -> Result<(), StoreError> {
    let failed = |source| StoreError::file(state_dir, source);
    if !state_dir.exists() {
        DirBuilder::new().recursive(true).mode(0o700).create(state_dir).map_err(failed)?;
    }
    check(state_dir)
}

/// Checks that a state directory that must exist is ours.
pub(super) fn check(state_dir: &Path) -> Result<(), StoreError> {
    let failed = |source| StoreError::file(state_dir, source);
    let metadata = fs::metadata(state_dir).map_err(failed)?;
    let us = our_uid(state_dir).map_err(failed)?;
    if metadata.uid() != us {
        return Err(StoreError::OtherUser { path: state_dir.to_owned(), owner: user(metadata.uid()), us: user(us) });
    }
    let mode = metadata.mode() & 0o777;
    if mode & 0o022 != 0 {
        return Err(StoreError::Exposed { path: state_dir.to_owned(), mode, wanted: 0o700 });
    }
    Ok(())
}

/// Checks that a file in our state directory, if it is there, belongs to us too.
pub(super) fn check_file(state_dir: &Path, path: &Path) -> Result<(), StoreError> {
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(StoreError::file(path, source)),
    };
    let us = fs::metadata(state_dir).map_err(|source| StoreError::file(state_dir, source))?.uid();
    if metadata.uid() == us {
        return Ok(());
    }
    Err(StoreError::ForeignFile { path: path.to_owned(), owner: user(metadata.uid()), us: user(us) })
}

/// Makes an empty file of mode 0600 unless there is one; one that is there must be ours and is
/// closed to others.
///
/// The file is never opened under its own name: when a process closes any descriptor of a file,
/// the kernel drops the locks that its SQLite connections hold on that file.
pub(super) fn private_file(state_dir: &Path, path: &Path) -> Result<(), StoreError> {
    let failed = |source| StoreError::file(path, source);
    if !path.exists() {
        let (unnamed, probe) = probe(state_dir).map_err(|source| StoreError::file(state_dir, source))?;
        unnamed.sync_all().map_err(failed)?;
        drop(unnamed);
        let named = fs::hard_link(&probe, path);
        fs::remove_file(&probe).map_err(failed)?;
        match named {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(error)),
            Ok(()) | Err(_) => sync(state_dir)?,
        }
    }
    check_file(state_dir, path)?;
    if fs::metadata(path).map_err(failed)?.mode() & 0o077 != 0 {
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(failed)?;
    }
    Ok(())
}

/// Tries to make a file in a directory, for errors that do not say why they could not.
pub(super) fn check_writable(state_dir: &Path) -> Result<(), StoreError> {
    let (_file, path) = probe(state_dir).map_err(|source| StoreError::file(state_dir, source))?;
    fs::remove_file(&path).map_err(|source| StoreError::file(&path, source))
}

/// Makes a new file of mode 0600 whose name means nothing.
fn probe(state_dir: &Path) -> io::Result<(File, PathBuf)> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let path = state_dir.join(format!(".new-{}-{count}", std::process::id()));
    // Left behind by a crash of a process that had our id.
    drop(fs::remove_file(&path));
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
    Ok((file, path))
}

/// Writes a secret so that after a crash it is there whole or not at all.
pub(super) fn write_private(state_dir: &Path, name: &str, content: &[u8]) -> Result<(), StoreError> {
    let (path, unfinished) = (state_dir.join(name), state_dir.join(format!("{name}.new")));
    let failed = |source| StoreError::file(&unfinished, source);
    match fs::remove_file(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished).map_err(failed)?;
    file.write_all(content).and_then(|()| file.sync_all()).map_err(failed)?;
    fs::rename(&unfinished, &path).map_err(failed)?;
    sync(state_dir)
}

fn sync(directory: &Path) -> Result<(), StoreError> {
    File::open(directory).and_then(|opened| opened.sync_all()).map_err(|source| StoreError::file(directory, source))
}

/// The uid that files of ours get. The standard library does not tell it: the kernel does, and
/// where there is no /proc, the owner of a file that we make.
fn our_uid(beside: &Path) -> io::Result<u32> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    // Uid: real, effective, saved, file system.
    let uids = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    if let Some(uid) = uids.and_then(|uids| uids.split_whitespace().last()).and_then(|uid| uid.parse().ok()) {
        return Ok(uid);
    }
    let (file, path) = probe(beside)?;
    fs::remove_file(path)?;
    Ok(file.metadata()?.uid())
}

/// A uid as `sudo -u` takes it: a name where there is one.
fn user(uid: u32) -> String {
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let named = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    });
    named.unwrap_or_else(|| format!("'#{uid}'"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::chown;

    use super::*;

    #[test]
    fn makes_the_directory_and_its_files_private() {
        let parent = tempfile::tempdir().unwrap();
        let state = parent.path().join("a/state");
        prepare(&state).unwrap();
        private_file(&state, &state.join("file")).unwrap();
        write_private(&state, "secret", b"x").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!((mode(&state), mode(&state.join("file")), mode(&state.join("secret"))), (0o700, 0o600, 0o600));
        fs::set_permissions(state.join("file"), fs::Permissions::from_mode(0o644)).unwrap();
        private_file(&state, &state.join("file")).unwrap();
        assert_eq!(mode(&state.join("file")), 0o600);
    }

    #[test]
    fn refuses_a_directory_that_others_may_write() {
        let state = tempfile::tempdir().unwrap();
        fs::set_permissions(state.path(), fs::Permissions::from_mode(0o770)).unwrap();
        let message = prepare(state.path()).unwrap_err().to_string();
        assert!(message.contains("mode 770") && message.contains("chmod 700"), "{message}");
    }

    #[test]
    #[expect(clippy::print_stderr, reason = "a skipped test says so")]
    fn refuses_another_users_directory_even_to_root() {
        let state = tempfile::tempdir().unwrap();
        if chown(state.path(), Some(65_533), None).is_err() {
            eprintln!("SKIPPED: needs the right to chown");
            return;
        }
        let message = prepare(state.path()).unwrap_err().to_string();
        assert!(message.contains("hint: sudo -u '#65533' doorward"), "{message}");
        assert_eq!(fs::read_dir(state.path()).unwrap().count(), 0, "nothing may be left behind");
        assert_eq!(user(0), "root");

        let ours = tempfile::tempdir().unwrap();
        let file = ours.path().join("doorward.db-wal");
        private_file(ours.path(), &file).unwrap();
        chown(&file, Some(65_533), None).unwrap();
        let message = check_file(ours.path(), &file).unwrap_err().to_string();
        assert!(message.contains("belongs to '#65533'") && message.contains("hint: chown"), "{message}");
    }
}
