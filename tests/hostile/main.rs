//! Attacks on a running gateway, over real sockets: what must be refused is refused, what was not
//! admitted reaches no backend, and what an attacker holds is bounded.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::too_many_lines,
    unreachable_pub,
    reason = "one binary of tests, where a failed set-up is a failed test"
)]

mod backend;
mod client;
mod frames;
mod gateway;

mod aborted;
mod bodies;
mod certificates;
mod floods;
mod framing;
mod heads;
mod paths;
mod revoked;
mod slow;
