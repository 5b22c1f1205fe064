//! What the process tells its operator: log, metrics, records.

pub mod log;
pub mod metrics;
pub mod records;
pub mod webhooks;
