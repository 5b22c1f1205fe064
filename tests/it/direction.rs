//! Which part may know of which: the table of the architecture. A rule that matches no file fails,
//! so that a rule goes when its part goes.

use std::fs;
use std::path::Path;

use crate::promises::rust_files;

/// What no pure file may mention: the outside world, and the parts that deal with it.
const IMPURE: &[&str] = &[
    "tokio",
    "hyper",
    "rustls",
    "rusqlite",
    "tracing",
    "std::fs",
    "std::net::Tcp",
    "std::env",
    "std::process",
    "std::thread",
    "SystemTime",
    "Instant::now",
];

/// The crate's own parts, but `domain`.
const OTHER_PARTS: &[&str] = &[
    "crate::admin",
    "crate::backend",
    "crate::ca",
    "crate::cli",
    "crate::clock",
    "crate::config",
    "crate::gate",
    "crate::manage",
    "crate::notify",
    "crate::store",
    "crate::telemetry",
    "crate::tls",
    "crate::token",
    "crate::webhook",
];

/// A file or folder under `src`, and what nothing in it may mention.
const RULES: &[(&str, &[&[&str]])] = &[
    ("domain", &[IMPURE, OTHER_PARTS, &["crate::dialect"]]),
    ("dialect", &[IMPURE, OTHER_PARTS]),
    ("overlay/protocol.rs", &[IMPURE, OTHER_PARTS]),
    ("overlay/protocol", &[IMPURE, OTHER_PARTS]),
    ("overlay/agent", &[&["crate::gate", "crate::admin", "crate::cli", "crate::store", "crate::ca", "crate::manage"]]),
    // What the request path asks of tunnels knows nothing of it; what serves and judges them does.
    (
        "overlay/hub",
        &[&["crate::admin", "crate::manage", "crate::cli", "crate::ca", "crate::backend", "rusqlite", "hyper"]],
    ),
    ("overlay/hub/tunnels.rs", &[&["crate::gate", "crate::store"]]),
    ("overlay/hub/tunnel.rs", &[&["crate::gate", "crate::store"]]),
    ("overlay/hub/stream.rs", &[&["crate::gate", "crate::store", "crate::config"]]),
    ("overlay/hub/mailbox.rs", &[&["crate::gate", "crate::store", "crate::config", "tokio"]]),
    ("overlay/hub/entry.rs", &[IMPURE, OTHER_PARTS, &["crate::dialect"]]),
    ("overlay/hub/places.rs", &[IMPURE, OTHER_PARTS, &["crate::dialect"]]),
    ("overlay/backoff.rs", &[IMPURE, OTHER_PARTS, &["crate::dialect"]]),
    ("ca/plan.rs", &[IMPURE, OTHER_PARTS, &["crate::dialect"]]),
    ("ca/bundle.rs", &[IMPURE, OTHER_PARTS]),
    ("ca/exchange.rs", &[IMPURE, &["crate::tls", "crate::store", "crate::config", "crate::clock", "crate::dialect"]]),
    (
        "token",
        &[&["crate::gate", "crate::admin", "crate::cli", "crate::store", "crate::backend", "crate::ca", "hyper"]],
    ),
    ("token/compact.rs", &[IMPURE, OTHER_PARTS_BUT_TOKEN]),
    ("token/keys.rs", &[IMPURE, OTHER_PARTS_BUT_TOKEN]),
    ("token/location.rs", &[IMPURE, OTHER_PARTS]),
    ("token/proven.rs", &[IMPURE, OTHER_PARTS]),
    ("token/issuers.rs", &[IMPURE]),
    (
        "webhook",
        &[&[
            "crate::gate",
            "crate::admin",
            "crate::manage",
            "crate::cli",
            "crate::store",
            "crate::backend",
            "crate::ca",
            "reqwest",
            "rusqlite",
        ]],
    ),
    ("webhook/address.rs", &[IMPURE, OTHER_PARTS_BUT_WEBHOOK]),
    ("webhook/base64.rs", &[IMPURE, OTHER_PARTS, &["crate::domain"]]),
    ("webhook/sign.rs", &[IMPURE, OTHER_PARTS_BUT_WEBHOOK]),
    ("webhook/url.rs", &[IMPURE, OTHER_PARTS]),
    (
        "notify",
        &[&[
            "crate::gate",
            "crate::admin",
            "crate::manage",
            "crate::cli",
            "crate::ca",
            "crate::webhook::client",
            "crate::webhook::hook",
            "rusqlite",
            "reqwest",
        ]],
    ),
    ("notify/schedule.rs", &[IMPURE, OTHER_PARTS]),
    ("notify/message.rs", &[IMPURE]),
    (
        "gate",
        &[&[
            "rusqlite",
            "crate::ca",
            "crate::admin",
            "crate::manage",
            "crate::cli",
            "store::sqlite",
            "store::Store",
            "store::watch",
            "crate::enroll",
            "reqwest",
        ]],
    ),
    (
        "store",
        &[&["hyper", "crate::gate", "crate::manage", "crate::cli", "crate::admin", "crate::ca", "crate::tls::server"]],
    ),
    ("store/writer.rs", &[&["rusqlite", "http"]]),
    ("store/snapshot.rs", &[&["rusqlite", "tokio", "std::fs"]]),
    ("ca", &[&["crate::gate", "crate::admin", "crate::cli", "tokio", "hyper"]]),
    ("holder", &[&["crate::gate", "crate::admin", "crate::cli", "crate::store", "crate::backend", "crate::manage"]]),
    ("holder/schedule.rs", &[IMPURE, &["crate::clock", "crate::tls", "crate::holder"]]),
    ("backend", &[&["crate::gate", "crate::admin", "crate::cli", "crate::store", "crate::ca"]]),
    ("tls", &[&["crate::gate", "crate::admin", "crate::cli", "crate::store", "crate::backend"]]),
    (
        "config",
        &[&[
            "crate::gate",
            "crate::manage",
            "crate::admin",
            "crate::cli",
            "crate::store",
            "crate::backend",
            "tokio",
            "hyper",
        ]],
    ),
    ("telemetry", &[&["crate::gate", "crate::admin", "crate::cli", "crate::store", "crate::backend"]]),
    (
        "enroll",
        &[&[
            "crate::admin",
            "crate::cli",
            "crate::manage",
            "crate::backend",
            "crate::dialect",
            "rusqlite",
            "store::sqlite",
        ]],
    ),
    ("admin", &[&["crate::cli", "crate::ca", "rusqlite"]]),
    ("manage", &[&["hyper", "http", "tokio", "rusqlite", "crate::gate", "crate::admin", "crate::cli", "crate::tls"]]),
    // What a bundle looks like is all that verbs know of the authority.
    ("manage", &[BEHIND_THE_AUTHORITY]),
    ("clock.rs", &[OTHER_PARTS_BUT_CLOCK]),
];

/// All of the authority but the form of bundles.
const BEHIND_THE_AUTHORITY: &[&str] = &[
    "ca::authority",
    "ca::change",
    "ca::crl",
    "ca::csr",
    "ca::describe",
    "ca::exchange",
    "ca::issue",
    "ca::leaf",
    "ca::passphrase",
    "ca::plan",
    "ca::request",
    "ca::CaError",
];

const OTHER_PARTS_BUT_TOKEN: &[&str] = &[
    "crate::admin",
    "crate::backend",
    "crate::ca",
    "crate::cli",
    "crate::clock",
    "crate::config",
    "crate::gate",
    "crate::store",
    "crate::telemetry",
    "crate::tls",
];

const OTHER_PARTS_BUT_WEBHOOK: &[&str] = &[
    "crate::admin",
    "crate::backend",
    "crate::ca",
    "crate::cli",
    "crate::clock",
    "crate::config",
    "crate::gate",
    "crate::manage",
    "crate::store",
    "crate::telemetry",
    "crate::tls",
    "crate::token",
];

const OTHER_PARTS_BUT_CLOCK: &[&str] =
    &["crate::admin", "crate::backend", "crate::ca", "crate::cli", "crate::config", "crate::gate", "crate::store"];

#[test]
fn parts_only_know_what_they_may() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut broken = Vec::new();
    for (part, banned) in RULES {
        let part = source.join(part);
        let files = if part.is_dir() { rust_files(&part) } else { Vec::from([part.clone()]) };
        assert!(files.iter().any(|file| file.is_file()), "{} holds no files: is the rule stale?", part.display());
        for file in files {
            let text = fs::read_to_string(&file).unwrap();
            // A group would hide what is in it.
            let grouped = ["use crate::{", "use crate::*", "use super::super"];
            for word in banned.iter().copied().flatten().chain(&grouped) {
                if let Some(line) = text.lines().position(|line| mentions(line, word)) {
                    broken.push(format!("{}:{}: {word}", file.display(), line + 1));
                }
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

/// True when a line has the word, in a comment too, and not as a part of a longer one.
fn mentions(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let next = line[at + word.len()..].chars().next();
        let before = line[..at].chars().next_back();
        let part_of_word = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
        !part_of_word(next) && !part_of_word(before)
    })
}

/// Nobody imports the command line but the program.
#[test]
fn nothing_imports_the_command_line() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for file in rust_files(&source) {
        if !file.starts_with(source.join("cli")) {
            let text = fs::read_to_string(&file).unwrap();
            assert!(!text.lines().any(|line| mentions(line, "crate::cli")), "{}", file.display());
        }
    }
}
