//! What the process tells its operator: log, metrics, records.

pub mod log;
#[cfg(feature = "gateway")]
pub mod metrics;
#[cfg(feature = "gateway")]
pub mod notifications;
#[cfg(feature = "gateway")]
pub mod records;
#[cfg(feature = "gateway")]
pub mod tunnels;
#[cfg(feature = "gateway")]
pub mod webhooks;
