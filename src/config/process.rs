//! Settings of any process: `state_dir`, `[log]`.

use std::path::PathBuf;

use tracing::Level;

use crate::config::Log;
use crate::config::document::{Table, Value};
use crate::config::filesystem::network_filesystem;

/// Where the state is when `state_dir` is absent, beside the config file.
pub(super) const DEFAULT_STATE_DIR: &str = "state";

/// Reads `state_dir`.
pub(super) fn read_state_dir(root: &Table<'_>) -> Option<PathBuf> {
    let setting = root.get("state_dir");
    let directory = match &setting {
        Some(value) => value.path()?,
        None => root.place.document.directory.join(DEFAULT_STATE_DIR),
    };
    if let Some(kind) = network_filesystem(&directory) {
        let place = setting.map_or_else(|| root.place_of("state_dir"), |value| value.place);
        place.wrong(format!("is on a network filesystem ({kind}), where the store's locks cannot be relied on"));
        return None;
    }
    Some(directory)
}

/// Reads `[log]`.
pub(super) fn read_log(section: Option<&Value<'_>>) -> Option<Log> {
    let default = Log { level: Level::INFO, json: false };
    let Some(section) = section else { return Some(default) };
    section.table(|table| {
        let level = table.get("level").map_or(Some(default.level), |value| {
            value.choice(&[
                ("error", Level::ERROR),
                ("warn", Level::WARN),
                ("info", Level::INFO),
                ("debug", Level::DEBUG),
                ("trace", Level::TRACE),
            ])
        });
        let json = table.get("format").map_or(Some(default.json), |v| v.choice(&[("text", false), ("json", true)]));
        Some(Log { level: level?, json: json? })
    })
}
