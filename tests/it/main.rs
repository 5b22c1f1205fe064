//! Integration tests, in one binary: a real gateway, real TLS on loopback, throw-away authorities.

#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a failed set-up is a failed test")]

mod admin_api;
mod alias;
mod config_corpus;
mod connector;
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
mod notifications;
mod order;
mod overlay;
mod pages;
mod promises;
mod proxied;
mod refusals;
mod revocation;
mod rotation;
mod spire;
mod streaming;
mod support;
mod targets;
mod token_attacks;
mod token_keys;
mod tokens;
mod tunnels;
mod uses;
mod webhook_network;
