//! Doorward: a zero-trust overlay gateway for self-hosted LLM backends.
//!
//! # The map
//!
//! Data flows one way, and [`gate::pipeline`] is where to see it:
//!
//! ```text
//! accept -> identify -> admit -> route -> allow -> forward -> (body drains) meter -> record
//! ```
//!
//! | module | what it is | what it never touches |
//! |---|---|---|
//! | [`domain`] | pure decisions: identities, keys, owners, grants, refusals | I/O, clocks, transports |
//! | [`dialect`] | pure: what callers and backends say: paths, JSON bodies, errors, streams | the same |
//! | [`config`] | `doorward.toml`, checked whole, every problem at once | sockets |
//! | [`tls`] | rustls configurations; from a certificate to an identity | HTTP |
//! | [`gate`] | the request path, from accept to record | SQL, [`ca`], [`admin`], [`cli`] |
//! | [`backend`] | connections to direct backends; the one way to every backend | callers |
//! | [`overlay`] | tunnels: backends that dial out to the gateway; `dial`, a port for tools without certificates | the store, the authority |
//! | [`store`] | keys, owners, grants, certificates, revocations; the snapshot that the gate reads, the writer that counts uses | HTTP, decisions |
//! | [`token`] | tokens of issuers: reading, keys, proofs; keeping keys fresh | the gate |
//! | [`notify`] | telling webhooks what has happened: queued in the store, signed, tried again | the gate, and what is asked of webhooks |
//! | [`webhook`] | who has the last word: asking, signed, bounded and cached | the gate |
//! | [`ca`] | the built-in authority: plan, then issue | the gate |
//! | [`holder`] | the holder's side of certificates: joining, renewal, reaching a gateway | the gate, the store |
//! | [`enroll`] | the `enroll` names: first certificates, renewals, lists of what is revoked; and what is done about certificates when nobody asks | the request path |
//! | [`manage`] | what operators change: one operation for each verb | HTTP, the command line |
//! | [`admin`] | `/metrics`, `/healthz`, `/readyz`; [`admin::api`]: the operations over a Unix socket and TLS | requests |
//! | [`telemetry`] | log, metrics, records | decisions |
//! | [`cli`] | one file for each verb; puts the parts together | nothing; nothing imports it |
//! | [`clock`] | the only reader of the wall clock | |
//!
//! `tests/it/direction.rs` holds these directions.
//!
//! Without the feature `gateway` only what the machines beside backends and tools need is built: the
//! connector's end of [`overlay`], `dial`, [`holder`] and what they stand on.
//!
//! # Threads
//!
//! Each core has a worker ([`gate::worker`]): a runtime of its own with its own listener, upstream
//! connections and live requests, so nothing on the request path crosses threads. Slow work (store,
//! records, reload, admin) is elsewhere, and reaches the workers as atomically swapped views
//! ([`gate::View`]).

#[cfg(feature = "gateway")]
pub mod admin;
pub mod backend;
pub mod ca;
pub mod cli;
pub mod clock;
pub mod config;
pub mod dialect;
pub mod domain;
#[cfg(feature = "gateway")]
pub mod enroll;
#[cfg(feature = "gateway")]
pub mod gate;
pub mod holder;
#[cfg(feature = "gateway")]
pub mod manage;
#[cfg(feature = "gateway")]
pub mod notify;
pub mod overlay;
#[cfg(feature = "gateway")]
pub mod store;
pub mod telemetry;
pub mod tls;
#[cfg(feature = "gateway")]
pub mod token;
#[cfg(feature = "gateway")]
pub mod webhook;
