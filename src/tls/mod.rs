//! Sessions and peer identity: rustls configurations, and what a certificate says.

pub mod client;
pub mod holder;
pub mod peer;
pub mod provider;
pub mod read_ahead;
pub mod server;
pub mod verify;

#[cfg(test)]
pub(crate) mod testing;
