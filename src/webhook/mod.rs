//! The validation webhook: an enterprise's own system has the last word.
//!
//! Invariants: a webhook is asked last, about a request that every local check has let through, and
//! what it says can only narrow; no answer that counts is never a denial and never a leave, but an
//! error, which runs `on_error`; a webhook that hangs costs only the callers whose grants name it.
//!
//! To read it in the order of a request: [`question`] (what is told), [`hook`] (remembered, joined,
//! bounded), [`client`] (sent by a [`way`], signed by [`sign`]), [`answer`] (read strictly).

pub mod address;
pub mod answer;
pub mod base64;
pub mod breaker;
pub mod cache;
pub mod client;
pub mod hook;
pub mod hooks;
mod lru;
pub mod proxied;
pub mod question;
pub mod runner;
pub mod sign;
pub mod trouble;
pub mod url;
pub mod way;
