//! The overlay: backends that dial out to the gateway, so that nothing has to listen beside them.
//!
//! [`agent`] is the connector's side, [`hub`] the gateway's.
//! [`dial`] is a port of its own for tools that cannot present a certificate.
//! [`protocol`] is what both ends say and allow, and [`backoff`] when to dial again; both are pure.

pub mod agent;
pub mod backoff;
pub mod dial;
#[cfg(feature = "gateway")]
pub mod hub;
pub mod protocol;
