//! Reading a part of a config file, whatever else is in it.
//!
//! Invariant: no secret is looked up. What else is in the file may need some, and does not count here.

use std::path::Path;

use toml::de::DeTable;

use crate::config::Problem;
use crate::config::document::{Document, Table};
use crate::config::files::read_bounded;
use crate::config::parse::whole;

/// Reads what `read` wants of a file; gives it with all the problems that were met on the way, those of parts
/// that do not count included.
///
/// # Errors
///
/// When the file cannot be read, or is not TOML.
pub(super) fn read_part<T>(
    file: &Path,
    read: impl FnOnce(&Table<'_>) -> Option<T>,
) -> Result<(Option<T>, Vec<Problem>), Vec<Problem>> {
    let failed = |why: String| vec![whole(why)];
    let bytes = read_bounded(file).map_err(|error| failed(format!("cannot read {}: {error}", file.display())))?;
    let text = std::str::from_utf8(&bytes).map_err(|_| failed("is not UTF-8".to_owned()))?;
    let root = DeTable::parse(text).map_err(|error| failed(error.message().to_owned()))?;
    let directory = file.parent().unwrap_or(Path::new("/")).to_owned();
    let document = Document::new(text, directory, &|_| None);
    let found = document.read(root.get_ref(), read);
    Ok((found, document.into_findings().problems))
}
