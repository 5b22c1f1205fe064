//! The thread that talks to webhooks. Nothing that they do, or leave undone, is waited for on a
//! worker's own thread.

use std::io;
use std::thread;

use tokio::runtime::{self, Handle};
use tokio::sync::oneshot;

/// Most names that are being resolved at once: several webhooks' whole shares.
const RESOLVING: usize = 64;

/// A runtime on a thread of its own, until it is dropped.
#[derive(Debug)]
pub struct Runner {
    handle: Handle,
    _stop: oneshot::Sender<()>,
}

impl Runner {
    /// Starts the thread.
    ///
    /// # Errors
    ///
    /// When it cannot be started.
    pub fn start() -> io::Result<Self> {
        let runtime = runtime::Builder::new_current_thread().enable_all().max_blocking_threads(RESOLVING).build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        thread::Builder::new().name("webhooks".to_owned()).spawn(move || {
            // An error says as well that nobody is there any more.
            let _ = runtime.block_on(stopped).is_ok();
            runtime.shutdown_background();
        })?;
        Ok(Self { handle, _stop: stop })
    }

    /// Runs a task there.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        drop(self.handle.spawn(task));
    }
}
