//! The holder's side of certificates: an identity in a directory, got with a bundle, renewed by
//! itself, and how a gateway is reached with it.
//!
//! Invariants: a gateway is believed only with a chain to the private roots that the holder has (or,
//! for the first certificate, to the root that the bundle pins), and nothing secret is sent before.
//! A key never leaves its directory, and at every moment there is a key with its certificate.

pub mod answer;
pub mod ask;
pub mod chance;
pub mod credentials;
pub mod fault;
pub mod files;
pub mod join;
pub mod keeper;
pub mod origin;
pub mod reach;
pub mod renew;
pub mod schedule;
pub mod tls;

#[cfg(test)]
#[cfg(feature = "gateway")]
mod testing;
