//! Which changes a running gateway, connector or dial cannot take up.

use crate::config::{Config, Connector, Dial, Log};

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

/// The same for a connector.
#[must_use]
pub fn connector_needs_restart(old: &Connector, new: &Connector) -> Vec<&'static str> {
    // Who it is hangs on it.
    let state_dir = (old.state_dir != new.state_dir).then_some("state_dir");
    state_dir.into_iter().chain(log_needs_restart(old.log, new.log)).collect()
}

/// The same for a dial.
#[must_use]
pub fn dial_needs_restart(old: &Dial, new: &Dial) -> Vec<&'static str> {
    let state_dir = (old.state_dir != new.state_dir).then_some("state_dir");
    let listen = (old.listen != new.listen).then_some("listen");
    state_dir.into_iter().chain(listen).chain(log_needs_restart(old.log, new.log)).collect()
}

fn log_needs_restart(old: Log, new: Log) -> impl Iterator<Item = &'static str> {
    let level = (old.level != new.level).then_some("log.level");
    level.into_iter().chain((old.json != new.json).then_some("log.format"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{parse, parse_connector, parse_dial};

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
    #[test]
    fn a_connector_and_a_dial_keep_who_they_are_and_where_they_listen() {
        const SITE: &str = "state_dir = \"s\"\ndrain = \"1s\"\nproxy = \"http://p:1\"\n[log]\nlevel = \"info\"\nformat = \"text\"\n\
            [gateway]\naddresses = [\"gw:1\"]\nname = \"connect.gw\"\n[[backend]]\nname = \"a\"\nurl = \"http://127.0.0.1:1\"\n";
        const DIAL: &str = "state_dir = \"s\"\nlisten = \"127.0.0.1:1234\"\nproxy = \"http://p:1\"\ntoken = false\n\
            [log]\nlevel = \"info\"\nformat = \"text\"\n[gateway]\naddress = \"gw:1\"\nname = \"llm.gw\"\n";
        let site = |text: &str| parse_connector(text, Path::new("/nowhere/c.toml"), &|_| None).unwrap();
        let dial = |text: &str| parse_dial(text, Path::new("/nowhere/d.toml"), &|_| None).unwrap();
        for (from, to, expected) in [
            ("\"s\"", "\"t\"", &["state_dir"][..]),
            ("info", "debug", &["log.level"]),
            ("text", "json", &["log.format"]),
            ("http://p:1", "http://p:2", &[]),
            ("gw:1", "gw:2", &[]),
        ] {
            assert_eq!(connector_needs_restart(&site(SITE), &site(&SITE.replacen(from, to, 1))), expected, "{from}");
            assert_eq!(dial_needs_restart(&dial(DIAL), &dial(&DIAL.replacen(from, to, 1))), expected, "{from}");
        }
        assert_eq!(connector_needs_restart(&site(SITE), &site(&SITE.replace("\"1s\"", "\"2s\""))), [""; 0]);
        assert_eq!(connector_needs_restart(&site(SITE), &site(&SITE.replace("\"a\"", "\"b\""))), [""; 0]);
        assert_eq!(dial_needs_restart(&dial(DIAL), &dial(&DIAL.replace("1234", "1235"))), ["listen"]);
        assert_eq!(dial_needs_restart(&dial(DIAL), &dial(&DIAL.replace("false", "true"))), [""; 0]);
    }
}
