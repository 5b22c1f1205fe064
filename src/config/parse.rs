//! What reading is the same for all of the program's configs: from a file to what a reader makes of
//! it, or to every reason why not.

use std::path::{Path, PathBuf};

use toml::de::DeTable;

use crate::config::Problem;
use crate::config::document::{Document, Findings, Table, line_at};
use crate::config::files::read_bounded;

/// Reads the file of any of the program's configs as text.
pub(super) fn read_text(file: &Path) -> Result<String, Vec<Problem>> {
    let bytes = read_bounded(file).map_err(|error| vec![whole(format!("cannot read {}: {error}", file.display()))])?;
    match std::str::from_utf8(&bytes) {
        Ok(text) => Ok(text.to_owned()),
        Err(error) => {
            let line = bytes.iter().take(error.valid_up_to()).filter(|&&byte| byte == b'\n').count() + 1;
            Err(vec![Problem { path: String::new(), line, message: "is not UTF-8".to_owned() }])
        }
    }
}

/// Checks a document with `read`; what it gives stands only when nothing is wrong.
pub(super) fn parse_as<T>(
    text: &str,
    file: &Path,
    environment: &dyn Fn(&str) -> Option<String>,
    read: impl FnOnce(&Table<'_>, PathBuf) -> Option<T>,
) -> Result<(T, Findings), Vec<Problem>> {
    let root = DeTable::parse(text).map_err(|error| {
        let line = error.span().map_or(0, |span| line_at(text, span.start));
        vec![Problem { path: String::new(), line, message: error.message().to_owned() }]
    })?;
    let file = std::path::absolute(file)
        .map_err(|error| vec![whole(format!("cannot tell where {} is: {error}", file.display()))])?;
    let directory = file.parent().unwrap_or(Path::new("/")).to_owned();
    let document = Document::new(text, directory, environment);
    let config = document.read(root.get_ref(), |root| read(root, file));
    let findings = document.into_findings();
    match config {
        Some(config) if findings.problems.is_empty() => Ok((config, findings)),
        // A reader that gives nothing has said why; this is here so that none can open the gate.
        None if findings.problems.is_empty() => Err(vec![whole("the config was refused without a reason".to_owned())]),
        Some(_) | None => Err(findings.problems),
    }
}

pub(super) fn whole(message: String) -> Problem {
    Problem { path: String::new(), line: 0, message }
}
