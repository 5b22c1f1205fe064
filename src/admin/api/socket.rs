//! The Unix socket: `admin.sock` in the state directory.
//!
//! Invariant: only the gateway's own uid and root get through. The socket's mode says so, and the
//! kernel's word for the peer's uid is checked beside it: a mode can be changed by mistake.

use std::fs::{self, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::net::UnixListener;
use tokio::sync::Semaphore;

use crate::admin::api::{Api, Peer, serve};

/// Name of the socket in the state directory.
pub const FILE: &str = "admin.sock";

const MAX_CONNECTIONS: usize = 64;
const ROOT: u32 = 0;
/// The kernel's bound on a socket's path, its final zero included (unix(7)).
const MAX_PATH: usize = 108;

/// The socket, bound and not yet serving. Gone from the directory when it is dropped.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    file: SocketFile,
}

/// Removes the socket when it goes, unless another has taken its place.
#[derive(Debug)]
struct SocketFile {
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

impl Socket {
    /// Binds the socket of a state directory. One that a crash left behind is replaced.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::AddrInUse`] when another gateway answers there, or something that is no
    /// socket has the name; whatever the file system says.
    pub fn bind(state_dir: &Path) -> io::Result<Self> {
        let path = state_dir.join(FILE);
        match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
            Ok(there) if !there.file_type().is_socket() => {
                return Err(io::Error::new(
                    io::ErrorKind::AddrInUse,
                    "there is a file of that name, which is no socket",
                ));
            }
            Ok(_) if reach(&path, |path| UnixStream::connect(path)).is_ok() => {
                return Err(io::Error::new(io::ErrorKind::AddrInUse, "another gateway answers there"));
            }
            Ok(_) => {}
        }
        // Made under another name, closed to others, and only then put in its place: it is never
        // open to them, and what was there before is replaced in one step.
        let unfinished = state_dir.join(format!(".admin-{}.sock", std::process::id()));
        match fs::remove_file(&unfinished) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let listener = reach(&unfinished, |path| UnixListener::bind(path))?;
        fs::set_permissions(&unfinished, Permissions::from_mode(0o600))?;
        let inode = inode(&unfinished)?;
        fs::rename(&unfinished, &path)?;
        Ok(Self { listener, file: SocketFile { path, inode } })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.file.path
    }

    /// Serves until its task is ended.
    pub async fn run(self, api: Arc<Api>) {
        let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let own = rustix::process::geteuid().as_raw();
        loop {
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    serve::pause("socket", &error).await;
                    continue;
                }
            };
            // Without the kernel's word there is nobody to let in.
            let Ok(uid) = stream.peer_cred().map(|peer| peer.uid()) else { continue };
            if !admits(own, uid) {
                tracing::warn!(uid, "admin API: refused on the socket: another uid");
                continue;
            }
            let api = Arc::clone(&api);
            tokio::spawn(async move {
                let _slot = slot;
                serve::connection(api, Peer::Local { uid }, stream, false, serve::LIFE).await;
            });
        }
    }
}

/// True when a peer of this uid may manage a gateway that runs under `own`.
const fn admits(own: u32, peer: u32) -> bool {
    peer == own || peer == ROOT
}

/// Does something with a socket's path, which may be longer than the kernel takes: then it is
/// reached through the open directory.
///
/// # Errors
///
/// When the directory cannot be opened, or what is done fails.
pub fn reach<T>(path: &Path, act: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    if path.as_os_str().len() < MAX_PATH {
        return act(path);
    }
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the path is too long for a socket"));
    };
    let open = fs::File::open(directory)?;
    act(&PathBuf::from(format!("/proc/self/fd/{}", open.as_raw_fd())).join(name))
}

fn inode(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|metadata| (metadata.dev(), metadata.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_uid_and_root_are_let_in() {
        for (own, peer, admitted) in [
            (1000, 1000, true),
            (1000, 0, true),
            (1000, 1001, false),
            (0, 0, true),
            (0, 1000, false),
            (0, u32::MAX, false),
        ] {
            assert_eq!(admits(own, peer), admitted, "{own} {peer}");
        }
    }

    #[tokio::test]
    async fn it_is_private_replaces_what_a_crash_left_and_goes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        // A crash: the file stays, nobody listens.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let socket = Socket::bind(dir.path()).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing beside it");
        UnixStream::connect(&path).unwrap();

        assert_eq!(Socket::bind(dir.path()).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(socket);
        assert!(!path.exists());

        fs::write(&path, "a file").unwrap();
        assert_eq!(Socket::bind(dir.path()).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert_eq!(fs::read_to_string(&path).unwrap(), "a file");
    }

    #[tokio::test]
    async fn what_took_its_place_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        let socket = Socket::bind(dir.path()).unwrap();
        fs::remove_file(&path).unwrap();
        let _other = std::os::unix::net::UnixListener::bind(&path).unwrap();
        drop(socket);
        assert!(path.exists());
    }

    #[tokio::test]
    async fn a_deep_directory_is_no_obstacle() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("a".repeat(60)).join("b".repeat(60));
        fs::create_dir_all(&deep).unwrap();
        let socket = Socket::bind(&deep).unwrap();
        assert!(reach(socket.path(), |path| UnixStream::connect(path)).is_ok());
        let path = socket.path().to_owned();
        drop(socket);
        assert!(!path.exists());
    }
}
