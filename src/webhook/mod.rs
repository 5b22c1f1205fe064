//! The validation webhook: an enterprise's own system has the last word.
//!
//! Invariants: a webhook is asked last, about a request that every local check has let through, and
//! what it says can only narrow; no answer that counts is never a denial and never a leave, but an
//! error, which runs `on_error`; a webhook that hangs costs only the callers whose grants name it.

pub mod address;
pub mod base64;
pub mod sign;
pub mod url;
