//! What callers and backends say to each other: paths, bodies, replies and errors of the three API
//! families.
//!
//! Invariant: nothing in here does I/O, reads a clock, or logs. Bytes come in, decisions and bytes
//! go out. Whatever a backend could read differently than the gateway is refused, never repaired.

pub mod body;
mod caps;
pub mod errors;
pub mod json;
pub mod json_text;
pub mod paths;
pub mod relay;

mod finder;
mod framing;
pub(crate) mod seek;
mod spelling;
