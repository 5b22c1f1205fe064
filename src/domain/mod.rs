//! Pure decisions: who a caller is, what it may do, and why not.
//!
//! Invariant: nothing in here does I/O, reads a clock, logs, or knows a transport. Time and
//! facts come in as arguments, answers go out as values, so that every rule of the gate can be
//! tested as a table and read without knowing the rest of the house.

pub mod audit;
pub mod base64url;
pub mod endpoint;
pub mod event;
pub mod explain;
pub mod failures;
pub mod gateway_address;
pub mod glob;
pub mod grant;
pub mod identity;
pub mod key;
pub mod network;
pub mod notification;
pub mod origin;
pub mod owner;
pub mod owner_template;
pub mod proxy_header;
pub mod refusal;
pub mod route;
pub mod timestamp;
pub mod token;
pub mod webhook;
