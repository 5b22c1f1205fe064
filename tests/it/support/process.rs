//! The program itself, as a process of its own.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};

use super::{Caller, LONG, Setup, until};
use crate::support::world::Prepared;

/// `doorward serve`. Killed when it is dropped.
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
    pub(crate) address: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) files: Prepared,
}

impl Process {
    /// Starts the program with the files of `setup`, and waits until it serves.
    pub(crate) async fn serve(setup: &Setup) -> Self {
        let files = setup.write();
        let log = files.dir.path().join("log");
        let mut child = Command::new(env!("CARGO_BIN_EXE_doorward"))
            .args(["serve", "--config"])
            .arg(&files.file)
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let serving = || {
            assert!(child.try_wait().unwrap().is_none(), "{}", fs::read_to_string(&log).unwrap());
            let text = fs::read_to_string(&log).unwrap();
            let line = text.lines().find(|line| line.contains(" serving "))?;
            let address = |name| line.split(' ').find_map(|word: &str| word.strip_prefix(name)?.parse().ok());
            Some((address("address=")?, address("admin=")?))
        };
        let (address, admin) = until(LONG, "the program serves", serving).await;
        Self { child, log, address, admin, files }
    }

    pub(crate) fn caller(&self) -> Caller {
        Caller::new(self.address, self.files.authority.roots())
    }

    /// All that it has logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// Sends a signal, by its name.
    pub(crate) fn signal(&self, name: &str) {
        let status = Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status().unwrap();
        assert!(status.success());
    }

    /// Waits until it has ended by itself.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        until(LONG, "the program ends", || self.child.try_wait().unwrap()).await
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.child.kill().is_ok() {
            assert!(self.child.wait().is_ok());
        }
    }
}
