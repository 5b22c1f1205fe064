//! The program itself, as a process of its own.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};

use serde_json::Value;

use super::world::admin;
use super::{Caller, LONG, Setup, until};
use crate::support::world::Prepared;

/// `doorward serve`. Killed when it is dropped.
pub(crate) struct Process {
    child: Child,
    launcher: Vec<String>,
    log: PathBuf,
    pub(crate) address: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) files: Prepared,
}

/// The program, begun by `launcher` if that names a command to begin it with.
pub(crate) fn doorward(launcher: &[String]) -> Command {
    let program = env!("CARGO_BIN_EXE_doorward");
    let Some((first, options)) = launcher.split_first() else { return Command::new(program) };
    let mut command = Command::new(first);
    command.args(options).arg(program);
    command
}

impl Process {
    /// Starts the program with the files of `setup`, and waits until it serves.
    pub(crate) async fn serve(setup: &Setup) -> Self {
        Self::serve_by(&[], setup).await
    }

    /// The same, begun by a command that stays the same process.
    pub(crate) async fn serve_by(launcher: &[String], setup: &Setup) -> Self {
        let files = setup.write();
        let log = files.dir.path().join("log");
        let launcher = launcher.to_vec();
        let (child, address, admin) = start(&launcher, &files, &log).await;
        Self { child, launcher, log, address, admin, files }
    }

    /// Starts it again after it has ended: with the same files, at the same address. Its log begins anew.
    pub(crate) async fn again(&mut self) {
        let text = fs::read_to_string(&self.files.file).unwrap();
        let any_port = format!("address = \"{}:0\"", self.address.ip());
        fs::write(&self.files.file, text.replacen(&any_port, &format!("address = \"{}\"", self.address), 1)).unwrap();
        let before = self.address;
        (self.child, self.address, self.admin) = start(&self.launcher, &self.files, &self.log).await;
        assert_eq!(self.address, before);
    }

    pub(crate) fn caller(&self) -> Caller {
        Caller::new(self.address, self.files.authority.roots())
    }

    /// All that it has logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// The record of a request, once it is written.
    pub(crate) async fn record(&self, request_id: &str) -> Value {
        let written = || self.files.records().into_iter().find(|record| record["request_id"] == request_id);
        until(LONG, "the record is written", written).await
    }

    /// The figure of a metric, with its labels as they are printed; 0 when it was never counted.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        figure(&admin(self.admin, "/metrics").await, name)
    }

    /// How many files it has open.
    pub(crate) fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count()
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

async fn start(launcher: &[String], files: &Prepared, log: &PathBuf) -> (Child, SocketAddr, SocketAddr) {
    let mut child = doorward(launcher)
        .args(["serve", "--config"])
        .arg(&files.file)
        .stderr(File::create(log).unwrap())
        .spawn()
        .unwrap();
    let serving = || {
        assert!(child.try_wait().unwrap().is_none(), "{}", fs::read_to_string(log).unwrap());
        let text = fs::read_to_string(log).unwrap();
        let line = text.lines().find(|line| line.contains(" serving "))?;
        let address = |name| line.split(' ').find_map(|word: &str| word.strip_prefix(name)?.parse().ok());
        Some((address("address=")?, address("admin=")?))
    };
    let (address, admin) = until(LONG, "the program serves", serving).await;
    (child, address, admin)
}

/// The figure of a metric in what was answered.
pub(crate) fn figure(text: &str, name: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ').map(str::to_owned));
    line.map_or(0.0, |figure| figure.trim().parse().unwrap())
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.child.kill().is_ok() {
            assert!(self.child.wait().is_ok());
        }
    }
}
