//! What callers and backends say to each other: paths, bodies, replies and errors of the three API
//! families.
//!
//! Invariant: nothing in here does I/O, reads a clock, or logs. Bytes come in, decisions and bytes
//! go out. Whatever a backend could read differently than the gateway is refused, never repaired.

#[cfg(feature = "gateway")]
pub mod body;
#[cfg(feature = "gateway")]
mod caps;
pub mod errors;
#[cfg(feature = "gateway")]
pub mod json;
pub mod json_text;
pub mod paths;
#[cfg(feature = "gateway")]
pub mod relay;

#[cfg(feature = "gateway")]
mod finder;
#[cfg(feature = "gateway")]
mod framing;
#[cfg(feature = "gateway")]
pub(crate) mod seek;
#[cfg(feature = "gateway")]
mod spelling;
