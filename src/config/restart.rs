//! Which changes a running connector or dial cannot take up.

use crate::config::{Connector, Dial, Log};

/// The settings of a connector that differ between `old` and `new` and are read at start only. A
/// reload that finds any is refused as a whole, and names them.
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
    use crate::config::{parse_connector, parse_dial};

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
