//! Integration tests, in one binary: a real gateway, real TLS on loopback, throw-away authorities.

#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a failed set-up is a failed test")]

mod admin_api;
mod alias;
mod config_corpus;
mod crls;
mod declared;
mod direction;
mod headers;
mod identity;
mod keys;
mod listener;
mod manage;
mod networks;
mod order;
mod promises;
mod refusals;
mod revocation;
mod rotation;
mod streaming;
mod support;
mod targets;
mod uses;
