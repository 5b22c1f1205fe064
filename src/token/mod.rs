//! JWT callers: tokens that an issuer of the config vouches for.
//!
//! | file | what it is |
//! |---|---|
//! | `compact` | pure: from bytes of a stranger to claims that nobody has vouched for yet |
//! | `keys` | pure: an issuer's JWKS document; signatures |
//! | `location` | pure: where an issuer's keys are |
//! | `issuers` | what requests are decided by: issuers, their keys of now, and proofs |
//! | `proven` | bounded memory of tokens whose signature was verified |
//! | `desk` | how a request asks for fresh keys, and waits for them |
//! | `fetch`, `refresh` | getting the keys, away from the request path |
//!
//! Signatures are verified by aws-lc-rs; the reading is ours, because a token must mean the same to
//! every reader, and the usual libraries take JSON with a member twice.
//!
//! Invariant: a request never fetches anything. It decides by the keys that are there, and at most
//! waits a moment for those who fetch.

pub mod compact;
pub mod desk;
pub mod fetch;
pub mod issuers;
pub mod keys;
pub mod location;
pub mod proven;
pub mod refresh;
