//! The cryptography of every session.

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};

/// The one crypto provider: aws-lc-rs, with the hybrid post-quantum group X25519MLKEM768 first.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}
