//! Chains that were verified, so that none is verified for every request.
//!
//! Invariant: bounded, and nothing is remembered past its end.

use std::collections::HashMap;
use std::mem;
use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256};
use rustls_pki_types::CertificateDer;

use crate::domain::timestamp::Timestamp;
use crate::tls::peer::{PeerCertificate, Validity};

/// Verified chains that are remembered, in each of two generations.
pub(super) const GENERATION: usize = 2048;

/// A chain that was verified, and when that holds.
#[derive(Clone)]
pub(super) struct Verified {
    pub(super) peer: Arc<PeerCertificate>,
    pub(super) validity: Validity,
}

/// Verified chains. Two generations: when the young one is full it becomes the old one, so what
/// is in use stays and what is not leaves, without any bookkeeping per entry.
#[derive(Default)]
pub(super) struct Cache {
    pub(super) young: HashMap<[u8; 32], Verified>,
    pub(super) old: HashMap<[u8; 32], Verified>,
}

impl Cache {
    pub(super) fn get(&mut self, key: &[u8; 32], now: Timestamp) -> Option<Arc<PeerCertificate>> {
        let young = self.young.get(key);
        let found = young.or_else(|| self.old.get(key)).filter(|verified| verified.validity.contains(now))?.clone();
        let peer = Arc::clone(&found.peer);
        if young.is_none() {
            self.insert(*key, found);
        }
        Some(peer)
    }

    pub(super) fn insert(&mut self, key: [u8; 32], verified: Verified) {
        if self.young.len() >= GENERATION {
            self.old = mem::take(&mut self.young);
        }
        self.young.insert(key, verified);
    }
}

pub(super) fn key_of(leaf: &CertificateDer<'_>, intermediates: &[CertificateDer<'_>]) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    for certificate in std::iter::once(leaf).chain(intermediates) {
        // With the length, so that moving bytes between certificates makes another chain.
        context.update(&certificate.len().to_be_bytes());
        context.update(certificate);
    }
    let mut key = [0; 32];
    key.copy_from_slice(context.finish().as_ref());
    key
}
