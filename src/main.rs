//! The `doorward` program: everything is in the library, this only hands over.

use std::process::ExitCode;

/// Measured beside glibc's and mimalloc: the least CPU for a request and the least memory for an idle
/// connection. `.cargo/config.toml` keeps it small at rest. A connector has few connections, and is built
/// where no C but that of the cryptography should be needed.
#[cfg(feature = "gateway")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    // For the crates that look up a process-wide provider; our own TLS always names its own.
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        return ExitCode::FAILURE;
    }
    // Not locked: the log writes to the same stderr from other threads.
    doorward::cli::main(&mut std::io::stdout(), &mut std::io::stderr())
}
