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
        ("admin.api_address", old.admin_api != new.admin_api),
        ("log.level", old.log.level != new.log.level),
        ("log.format", old.log.json != new.log.json),
        ("record.file", old.record.file != new.record.file),
        ("record.when_full", old.record.when_full != new.record.when_full),
        ("record.max_bytes", old.record.max_bytes != new.record.max_bytes),
        ("record.keep", old.record.keep != new.record.keep),
        ("store.state_stale_max", old.state_stale_max != new.state_stale_max),
        // Every identity and every certificate of the built-in authority hangs on it.
        ("ca.trust_domain", old.trust_domain != new.trust_domain),
    ];
    changed.into_iter().filter_map(|(name, changed)| changed.then_some(name)).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::parse;

    const CONFIG: &str = r#"
state_dir = "state"
gateway_id = "gw"
[listen]
address = "127.0.0.1:8443"
names = { api = ["llm.corp.example"] }
client_auth = "optional"
max_buffered_bytes = 536_870_912
max_connections = 20_000
max_connections_per_address = 256
drain = "30s"
[admin]
address = "127.0.0.1:8444"
api_address = "127.0.0.1:8445"
[log]
level = "info"
format = "text"
[record]
file = "records.jsonl"
when_full = "block"
max_bytes = 4096
keep = 10
[store]
state_stale_max = "60s"
[ca]
trust_domain = "corp.example"
"#;

    #[test]
    fn names_what_is_read_at_start_only() {
        check("\"state\"", "\"other\"", &["state_dir", "record.file"]);
        check("\"gw\"", "\"gw2\"", &["gateway_id"]);
        check(":8443", ":9443", &["listen.address"]);
        check("536_870_912", "536_870_913", &["listen.max_buffered_bytes"]);
        check("20_000", "20_001", &["listen.max_connections"]);
        check("256", "257", &["listen.max_connections_per_address"]);
        check(":8444", ":9444", &["admin.address"]);
        check(":8445", ":9445", &["admin.api_address"]);
        check("info", "debug", &["log.level"]);
        check("text", "json", &["log.format"]);
        check("records.jsonl", "stdout", &["record.file"]);
        check("block", "drop", &["record.when_full"]);
        check("4096", "4097", &["record.max_bytes"]);
        check("60s", "61s", &["store.state_stale_max"]);
        check("keep = 10", "keep = 11", &["record.keep"]);
        check("= \"corp.example\"", "= \"corp2.example\"", &["ca.trust_domain"]);
        check("llm.corp.example", "llm2.corp.example", &[]);
        check("\"optional\"", "\"required\"", &[]);
        check("30s", "31s", &[]);
    }

    #[track_caller]
    fn check(from: &str, to: &str, expected: &[&str]) {
        let read = |text: &str| parse(text, Path::new("/nowhere/doorward.toml"), &|_| None).unwrap();
        let changed = CONFIG.replacen(from, to, 1);
        assert_ne!(changed, CONFIG);
        assert_eq!(needs_restart(&read(CONFIG), &read(&changed)), expected, "{from} -> {to}");
    }
}
