//! Which changes a running gateway cannot take up.

use crate::config::Config;

/// The settings that differ between `old` and `new` and are read at start only. A reload that
/// finds any is refused as a whole, and names them.
#[must_use]
pub fn needs_restart(old: &Config, new: &Config) -> Vec<&'static str> {
    let changed = [
        ("state_dir", old.state_dir != new.state_dir),
        // The store and the records in hand carry it.
        ("gateway_id", old.gateway_id != new.gateway_id),
        ("listen.address", old.listen.address != new.listen.address),
        // Sizes of what is made once: semaphores and counters.
        ("listen.max_buffered_bytes", old.listen.max_buffered_bytes != new.listen.max_buffered_bytes),
        ("listen.max_connections", old.listen.max_connections != new.listen.max_connections),
        (
            "listen.max_connections_per_address",
            old.listen.max_connections_per_address != new.listen.max_connections_per_address,
        ),
        ("admin.address", old.admin != new.admin),
        ("log.level", old.log.level != new.log.level),
        ("log.format", old.log.json != new.log.json),
        ("record.file", old.record.file != new.record.file),
        ("record.when_full", old.record.when_full != new.record.when_full),
        ("record.max_bytes", old.record.max_bytes != new.record.max_bytes),
        ("record.keep", old.record.keep != new.record.keep),
        // Every identity and every certificate of the built-in authority hangs on it.
        ("ca.trust_domain", old.trust_domain != new.trust_domain),
    ];
    changed.into_iter().filter_map(|(name, changed)| changed.then_some(name)).collect()
}
