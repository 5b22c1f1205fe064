//! The process that a verb runs in: its environment, its limit of open files.

/// The environment, as config reads it.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "handed to config/, which resolves ${env:NAME}")]
pub fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Every connection is an open file, and so is the one to its backend. The soft limit is often 1,024
/// for the sake of programs that use `select`; the hard limit is what the operator means.
#[cfg(unix)]
pub(super) fn raise_file_limit(max_connections: u32) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    /// Store, records, listeners, log, and what runtimes need.
    const FILES_BESIDE_CONNECTIONS: u64 = 128;

    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
    let wanted = u64::from(max_connections) * 2 + FILES_BESIDE_CONNECTIONS;
    if let Some(current) = getrlimit(Resource::Nofile).current
        && current < wanted
    {
        tracing::warn!(limit = current, wanted, "fewer open files are allowed than max_connections may need");
    }
}

/// Elsewhere no such limit is set for a process.
#[cfg(not(unix))]
pub(super) const fn raise_file_limit(_max_connections: u32) {}
