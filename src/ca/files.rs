//! Files that are either whole and on disk, or not there; and who may read them.

#[cfg_attr(unix, path = "files/unix.rs")]
#[cfg_attr(not(unix), path = "files/windows.rs")]
mod system;

use std::io::{self, Write};
use std::path::Path;

pub(crate) use system::{create_private_dirs, lockable, mode, sync_dir};

/// For private keys.
pub(crate) const SECRET: u32 = 0o600;
/// For certificates.
pub(crate) const PUBLIC: u32 = 0o644;

/// Writes a file that does not exist yet, down to the disk.
pub(crate) fn write_new(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut file = system::created_with(mode).write(true).create_new(true).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}
