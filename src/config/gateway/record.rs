//! What the gateway keeps, and how it is called there: `gateway_id`, `[record]`, `[store]`.

use std::path::Path;
use std::time::Duration;

use crate::config::document::{Table, Value};
use crate::config::{Record, WhenFull};

/// Reads `gateway_id`.
pub(super) fn read_gateway_id(root: &Table<'_>) -> Option<String> {
    let Some(value) = root.get("gateway_id") else { return Some("doorward".to_owned()) };
    // A name like that of a backend: it, too, becomes a label.
    value.unique_name(&mut std::collections::HashMap::new())
}

/// Reads `[record]`; its file is relative to `state_dir`.
pub(super) fn read_record(section: Option<&Value<'_>>, state_dir: Option<&Path>) -> Option<Record> {
    let in_state = |file: &str| state_dir.map(|directory| Some(directory.join(file)));
    let default_file = || in_state("records.jsonl");
    let (when_full, max_bytes, keep) = (WhenFull::Block, 100 << 20, 10);
    let Some(section) = section else {
        return Some(Record { file: default_file()?, when_full, max_bytes, keep });
    };
    section.table(|table| {
        let file = match table.get("file") {
            None => default_file(),
            Some(value) => value.text().and_then(|text| match text.text.as_str() {
                "stdout" => Some(None),
                "" => value.refuse("must be a path, or \"stdout\""),
                file => in_state(file),
            }),
        };
        let when_full = table
            .get("when_full")
            .map_or(Some(when_full), |v| v.choice(&[("block", WhenFull::Block), ("drop", WhenFull::Drop)]));
        let max_bytes = table.get("max_bytes").map_or(Some(max_bytes), |v| v.number(4096..=1 << 40));
        let keep = table.get("keep").map_or(Some(keep), |v| v.number(0..=10_000));
        Some(Record { file: file?, when_full: when_full?, max_bytes: max_bytes?, keep: keep? })
    })
}

/// Reads `[store]`: how long its last state stays in force when it cannot be read.
pub(super) fn read_store(section: Option<&Value<'_>>) -> Option<Duration> {
    let default = Duration::from_secs(60);
    let Some(section) = section else { return Some(default) };
    section.table(|table| {
        if let Some(engine) = table.get("engine")
            && engine.choice(&[("sqlite", false), ("postgres", true)]) == Some(true)
        {
            engine.wrong("\"postgres\" is not available in this version");
        }
        let bounds = Duration::from_secs(1)..=Duration::from_secs(86_400);
        table.get("state_stale_max").map_or(Some(default), |value| value.span(bounds))
    })
}
