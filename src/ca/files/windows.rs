//! Access lists: a file has that of the directory that it is made in. In the profile of a user nobody
//! else can read it, and elsewhere whoever made the directory has decided; nothing is checked here.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::path::Path;

/// There are no permission bits to create something with.
pub(super) fn created_with(_mode: u32) -> OpenOptions {
    OpenOptions::new()
}

/// Makes a directory, and those above it.
pub(crate) fn create_private_dirs(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).create(path)
}

/// The bits of a file that is its owner's alone, if it is there at all.
pub(crate) fn mode(path: &Path) -> io::Result<u32> {
    fs::metadata(path).map(|_| super::SECRET)
}

/// The file system's own log makes names last.
pub(crate) fn sync_dir(_path: &Path) -> io::Result<()> {
    Ok(())
}

/// What stands for a directory when it is locked: a directory cannot be opened as a file.
pub(crate) fn lockable(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(false).open(path.join(".lock"))
}
