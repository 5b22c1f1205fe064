//! The command line: the only place that puts the parts together.
//!
//! Rules for all output: results go to stdout and everything else to stderr; `--output json` is
//! one JSON document with stable names; errors say what was wrong and what to do (`hint:`), begin
//! with `error:`, and end without a full stop; exit 0 is done, 1 failed, 2 wrong usage. A secret
//! is never an argument.
//!
//! The program is built whole, or without the feature `gateway`: then it has the verbs of machines
//! beside backends and tools.

pub mod completions;
pub mod connect;
pub mod dial;
pub mod join;
pub mod output;
pub mod process;
pub mod renew;
pub mod seen;
pub mod signal;
pub mod usage;

#[cfg(feature = "gateway")]
pub mod admin_api;
#[cfg(feature = "gateway")]
pub mod ca;
#[cfg(feature = "gateway")]
pub mod cert;
#[cfg(feature = "gateway")]
pub mod check;
#[cfg(feature = "gateway")]
pub mod connector;
#[cfg(feature = "gateway")]
pub mod desk;
#[cfg(feature = "gateway")]
pub mod discover;
#[cfg(feature = "gateway")]
pub mod enroll;
#[cfg(feature = "gateway")]
pub mod explain;
#[cfg(feature = "gateway")]
pub mod grant;
#[cfg(feature = "gateway")]
pub mod inspect;
#[cfg(feature = "gateway")]
pub mod key;
#[cfg(feature = "gateway")]
pub mod owner;
#[cfg(feature = "gateway")]
pub mod place;
#[cfg(feature = "gateway")]
pub mod reach;
#[cfg(feature = "gateway")]
pub mod remote;
#[cfg(feature = "gateway")]
pub mod root_key;
#[cfg(feature = "gateway")]
pub mod serve;
#[cfg(feature = "gateway")]
pub mod server;
#[cfg(feature = "gateway")]
pub mod status;
#[cfg(feature = "gateway")]
pub mod store;
#[cfg(feature = "gateway")]
pub mod up;
#[cfg(feature = "gateway")]
pub mod webhook;

#[cfg(not(feature = "gateway"))]
mod lean;
#[cfg(feature = "gateway")]
mod whole;

use std::io::Write;
use std::process::ExitCode;

#[cfg(not(feature = "gateway"))]
use crate::cli::lean::Doorward;
use crate::cli::output::Failure;
#[cfg(feature = "gateway")]
use crate::cli::whole::Doorward;

const WRONG_USAGE: u8 = 2;

/// Reads the command line, does what it says, and reports.
pub fn main(out: &mut impl Write, err: &mut impl Write) -> ExitCode {
    let doorward = match Doorward::read() {
        Ok(doorward) => doorward,
        Err(error) => {
            // Help and version are results; wrong usage is not.
            let code = if error.use_stderr() { ExitCode::from(WRONG_USAGE) } else { ExitCode::SUCCESS };
            let _ = error.print().is_ok();
            return code;
        }
    };
    match doorward.run(out, err) {
        Ok(()) => ExitCode::SUCCESS,
        // A reader that has enough (`| head`) is no failure of ours to report.
        Err(Failure::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(failure) => {
            let _ = write!(err, "{failure}").is_ok();
            if matches!(failure, Failure::Usage(_)) { ExitCode::from(WRONG_USAGE) } else { ExitCode::FAILURE }
        }
    }
}
