//! When keys were used: noted in memory by the request path, handed to the store's writer now and
//! then.

use std::sync::{Mutex, PoisonError};

use rustc_hash::FxHashMap;

use crate::domain::key::KeyId;
use crate::domain::timestamp::Timestamp;
use crate::store::writer::Claims;

/// The keys that one worker has seen since it last told. Never more than there are keys.
#[derive(Default, Debug)]
pub struct UsedKeys(Mutex<FxHashMap<KeyId, Timestamp>>);

impl UsedKeys {
    /// Notes that a key was used.
    pub fn note(&self, key: KeyId, at: Timestamp) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(key, at);
    }

    /// Tells the writer. When it has no room, what was noted is kept for the next time.
    pub fn tell(&self, claims: &Claims) {
        let mut used = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !used.is_empty() && claims.touch(&used) {
            used.clear();
        }
    }
}
