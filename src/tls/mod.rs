//! Sessions and peer identity: rustls configurations, and what a certificate says.

pub mod peer;
