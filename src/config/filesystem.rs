//! Which kind of filesystem a directory is on, from what the kernel says of its mounts.

use std::fs;
use std::path::{Path, PathBuf};

/// Kinds that reach across a network: their locks and flushes are promises of somebody else.
const NETWORK: [&str; 16] = [
    "9p",
    "afs",
    "ceph",
    "cifs",
    "fuse.ceph",
    "fuse.glusterfs",
    "fuse.rclone",
    "fuse.s3fs",
    "fuse.sshfs",
    "glusterfs",
    "lustre",
    "ncpfs",
    "nfs",
    "nfs4",
    "smb3",
    "smbfs",
];

/// The kind of filesystem when `directory` is, or would be made, on one across a network. `None`
/// also when the kernel does not tell.
pub(super) fn network_filesystem(directory: &Path) -> Option<String> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let kind = kind_at(&mounts, &existing_ancestor(directory)?)?;
    NETWORK.contains(&kind).then(|| kind.to_owned())
}

/// The nearest directory that exists, with symbolic links resolved.
fn existing_ancestor(directory: &Path) -> Option<PathBuf> {
    directory.ancestors().find_map(|ancestor| ancestor.canonicalize().ok())
}

/// The kind of filesystem at `directory`: that of the longest mount point above it, and of the
/// last one there, which covers the others. The format is that of proc_pid_mountinfo(5).
fn kind_at<'m>(mounts: &'m str, directory: &Path) -> Option<&'m str> {
    mounts
        .lines()
        .filter_map(|line| {
            let (mount, filesystem) = line.split_once(" - ")?;
            let point = PathBuf::from(unescape(mount.split(' ').nth(4)?));
            let kind = filesystem.split(' ').next()?;
            directory.starts_with(&point).then(|| (point.components().count(), kind))
        })
        // Of equal ones `max_by_key` takes the last.
        .max_by_key(|(length, _)| *length)
        .map(|(_, kind)| kind)
}

/// The kernel writes white space and backslashes in mount points as three octal digits.
fn unescape(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(text.to_owned(), |text, (escape, plain)| text.replace(escape, plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:26 / /srv rw shared:2 - nfs4 server:/srv rw
31 30 0:27 / /srv/local rw shared:3 master:4 - xfs /dev/sdb rw
32 22 0:28 / /mnt/with\\040space rw - fuse.sshfs host:/ rw
33 22 0:29 / /covered rw - nfs old:/ rw
34 22 0:30 / /covered rw - ext4 /dev/sdc rw
broken line";

    #[test]
    fn the_longest_and_last_mount_point_decides() {
        check("/var/lib", "ext4");
        check("/srv", "nfs4");
        check("/srv/state", "nfs4");
        check("/srvelse", "ext4");
        check("/srv/local/state", "xfs");
        check("/mnt/with space/state", "fuse.sshfs");
        check("/covered/state", "ext4");
    }

    #[track_caller]
    fn check(directory: &str, kind: &str) {
        assert_eq!(kind_at(MOUNTS, Path::new(directory)), Some(kind), "{directory}");
    }

    #[test]
    fn looks_at_what_exists() {
        let directory = tempfile::tempdir().unwrap();
        let real = directory.path().canonicalize().unwrap();
        assert_eq!(existing_ancestor(&real.join("not/yet/there")), Some(real));
        assert_eq!(network_filesystem(Path::new("/proc/doorward")), None);
    }
}
