//! A Unix socket for its owner alone.
//!
//! Invariant: at no moment could another user connect.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use aws_lc_rs::rand;
use tokio::net::UnixListener;

/// Removes the socket when it goes, unless another has taken its place.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    inode: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if inode(&self.path).is_ok_and(|now| now == self.inode) {
            drop(fs::remove_file(&self.path));
        }
    }
}

/// A socket that is never open to others: made in a directory that only its owner can enter, since
/// whoever connects between bind and chmod stays connected, closed to them, and only then put in its
/// place. One that a crash left behind is replaced.
pub(super) fn bind(path: &Path) -> io::Result<(UnixListener, SocketFile)> {
    let taken = |what| Err(io::Error::new(io::ErrorKind::AddrInUse, what));
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
        Ok(there) if !there.file_type().is_socket() => {
            return taken("there is a file of that name, which is no socket");
        }
        Ok(_) if UnixStream::connect(path).is_ok() => return taken("somebody answers there"),
        Ok(_) => {}
    }
    let mut random = [0; 4];
    rand::fill(&mut random).map_err(|_| io::Error::other("there is no randomness to make a name of"))?;
    let directory = path.with_file_name(format!(".dial-{:08x}", u32::from_ne_bytes(random)));
    DirBuilder::new().mode(0o700).create(&directory)?;
    let unfinished = directory.join("s");
    let bound = bind_closed(&unfinished).and_then(|bound| fs::rename(&unfinished, path).map(|()| bound));
    if bound.is_err() {
        drop(fs::remove_file(&unfinished));
    }
    drop(fs::remove_dir(&directory));
    let (listener, inode) = bound?;
    Ok((listener, SocketFile { path: path.to_owned(), inode }))
}

fn bind_closed(path: &Path) -> io::Result<(UnixListener, (u64, u64))> {
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    Ok((listener, inode(path)?))
}

fn inode(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|found| (found.dev(), found.ino()))
}
