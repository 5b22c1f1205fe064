//! The gateway's end of the tunnels that connectors dial.
//!
//! Invariant: a tunnel exists only for a certificate of the built-in authority with the role
//! connector that is good *now*: it ends at once when that is revoked, and with its last second.
//! No request goes over it before its connector has registered, and none for a name that the
//! config does not give this connector (promise 8).
//!
//! [`tunnels`] is all that the request path sees: it asks for a seat to a backend by name, and
//! [`stream`] carries one request over it. [`serve`] looks after one connection, [`watch`] over all
//! of them, and [`entry`] decides who is a clone.

mod control;
pub mod entry;
mod mailbox;
pub mod places;
mod pulse;
pub mod serve;
pub mod stream;
pub mod tunnel;
pub mod tunnels;
mod waiting;
pub mod watch;

use std::time::Duration;

/// How long the gateway waits for what, over a tunnel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pace {
    /// From the end of the handshake to the whole `register`.
    pub register: Duration,
    /// From an answered PING to the next one.
    pub ping_every: Duration,
    /// For the answer to a PING; then the link is dead.
    pub ping_answer: Duration,
    /// For the answer to a PING that decides whether a newcomer takes the place of this tunnel.
    pub probe: Duration,
    /// For a caller to take anything of a reply that waits for it.
    pub stalled: Duration,
    /// For requests under way, when a tunnel is drained.
    pub drain: Duration,
    /// For requests under way on a tunnel whose connector has announced that it leaves: it ends the
    /// tunnel by itself, and has limits of its own.
    pub linger: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            register: Duration::from_secs(5),
            ping_every: Duration::from_secs(10),
            ping_answer: Duration::from_secs(10),
            probe: Duration::from_secs(2),
            stalled: Duration::from_secs(60),
            drain: Duration::from_secs(30),
            linger: Duration::from_secs(60 * 60),
        }
    }
}
