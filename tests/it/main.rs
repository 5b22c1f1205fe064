//! Integration tests, in one binary: a real gateway, real TLS on loopback, throw-away authorities.

#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a failed set-up is a failed test")]

mod alias;
mod config_corpus;
mod direction;
mod headers;
mod identity;
mod issuers;
mod listener;
mod order;
mod promises;
mod refusals;
mod revocation;
mod streaming;
mod support;
mod targets;
mod token_attacks;
mod token_keys;
mod tokens;
