//! Doorward: a zero-trust overlay gateway for self-hosted LLM backends.

pub mod admin;
pub mod backend;
pub mod ca;
pub mod cli;
pub mod clock;
pub mod config;
pub mod dialect;
pub mod domain;
pub mod gate;
pub mod store;
pub mod telemetry;
pub mod tls;
