//! Sessions and peer identity: rustls configurations, and what a certificate says.

pub mod client;
#[cfg(feature = "gateway")]
pub mod holder;
pub mod peer;
pub mod provider;
#[cfg(feature = "gateway")]
pub mod read_ahead;
#[cfg(feature = "gateway")]
pub mod server;
#[cfg(feature = "gateway")]
pub mod verify;

#[cfg(test)]
#[cfg(feature = "gateway")]
pub(crate) mod testing;
