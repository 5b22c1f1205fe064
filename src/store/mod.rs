//! Rows and what the request path reads of them.

pub mod snapshot;
