//! The program itself beside a gateway: `doorward connect` or `doorward dial`, as a process of its own.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use tokio::time::{Instant, interval};

use super::{LONG, until};

/// A process. Killed when it is dropped.
pub(crate) struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts a verb with its options, in `directory`.
    pub(crate) fn start(directory: &Path, verb: &str, options: &[&str]) -> Self {
        let log = directory.join("daemon.log");
        let child = Command::new(env!("CARGO_BIN_EXE_doorward"))
            .arg(verb)
            .args(options)
            .current_dir(directory)
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Self { child, log }
    }

    /// All that it has logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// Waits until it has logged these words so often, and gives the last line that has them.
    pub(crate) async fn says(&mut self, words: &str, times: usize) -> String {
        let said = |log: &str| {
            let lines: Vec<_> = log.lines().filter(|line| line.contains(words)).collect();
            (lines.len() >= times).then(|| (*lines.last().unwrap()).to_owned())
        };
        self.logs(0, &format!("{words} {times} times"), said).await
    }

    /// Waits until it has logged all of these, the first `mark` bytes of its log not counted.
    pub(crate) async fn says_since(&mut self, mark: usize, words: &[&str]) {
        self.logs(mark, &format!("{words:?}"), |log| words.iter().all(|words| log.contains(words)).then_some(())).await;
    }

    async fn logs<T>(&mut self, mark: usize, what: &str, found: impl Fn(&str) -> Option<T>) -> T {
        let mut tick = interval(Duration::from_millis(2));
        let begun = Instant::now();
        loop {
            let log = self.log();
            if let Some(found) = found(&log[mark..]) {
                return found;
            }
            let runs = self.child.try_wait().unwrap().is_none() && begun.elapsed() < LONG;
            assert!(runs, "it has not said {what}:\n{log}");
            tick.tick().await;
        }
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

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.child.kill().is_ok() {
            assert!(self.child.wait().is_ok());
        }
    }
}
