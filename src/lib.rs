//! Doorward: a zero-trust overlay gateway for self-hosted LLM backends.

pub mod clock;
pub mod config;
pub mod domain;
pub mod store;
pub mod telemetry;
pub mod tls;
