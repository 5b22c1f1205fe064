//! Integration tests, in one binary: a real gateway, real TLS on loopback, throw-away authorities.

#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a failed set-up is a failed test")]

mod admin_api;
mod alias;
mod config_corpus;
mod credentials;
mod crls;
mod declared;
mod dial;
mod direction;
mod enroll;
mod explain;
mod headers;
mod holder;
mod identity;
mod issuers;
mod keys;
mod listener;
mod manage;
mod networks;
mod order;
mod pages;
mod promises;
mod proxied;
mod refusals;
mod revocation;
mod rotation;
mod streaming;
mod support;
mod targets;
mod token_attacks;
mod token_keys;
mod tokens;
mod uses;
