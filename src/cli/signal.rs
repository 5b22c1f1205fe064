//! What ends a program or has it reload: signals, and on Windows what consoles and the system send.

#[cfg(unix)]
pub use tokio::signal::unix::{SignalKind, signal};

#[cfg(not(unix))]
pub use self::windows::{SignalKind, signal};

/// The same names for what Windows has.
#[cfg(not(unix))]
mod windows {
    use std::future::pending;
    use std::io;

    use tokio::signal::windows::{CtrlC, CtrlClose, ctrl_c, ctrl_close};

    /// Which of them.
    #[derive(Clone, Copy, Debug)]
    pub enum SignalKind {
        /// Ctrl-C.
        Interrupt,
        /// The console is closed.
        Terminate,
        /// Nothing: there is no word for it. A change of the file reloads.
        HangUp,
    }

    impl SignalKind {
        /// Somebody at the keyboard ends it.
        #[must_use]
        pub const fn interrupt() -> Self {
            Self::Interrupt
        }

        /// The system ends it.
        #[must_use]
        pub const fn terminate() -> Self {
            Self::Terminate
        }

        /// Reload.
        #[must_use]
        pub const fn hangup() -> Self {
            Self::HangUp
        }
    }

    /// Hears one of them.
    #[derive(Debug)]
    pub enum Signal {
        /// Ctrl-C.
        Interrupt(CtrlC),
        /// The console is closed.
        Terminate(CtrlClose),
        /// Never.
        HangUp,
    }

    /// Listens from now on.
    ///
    /// # Errors
    ///
    /// When the system does not let us.
    pub fn signal(kind: SignalKind) -> io::Result<Signal> {
        Ok(match kind {
            SignalKind::Interrupt => Signal::Interrupt(ctrl_c()?),
            SignalKind::Terminate => Signal::Terminate(ctrl_close()?),
            SignalKind::HangUp => Signal::HangUp,
        })
    }

    impl Signal {
        /// The next one.
        pub async fn recv(&mut self) -> Option<()> {
            match self {
                Self::Interrupt(signal) => signal.recv().await,
                Self::Terminate(signal) => signal.recv().await,
                Self::HangUp => pending().await,
            }
        }
    }
}
