//! What the process tells its operator: log, metrics, records.

pub mod log;
pub mod metrics;
pub mod notifications;
pub mod records;
pub mod tunnels;
pub mod webhooks;
