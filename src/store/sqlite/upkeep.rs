//! Copying the store while it is used, and looking whether it is sound.

use std::path::Path;

use rusqlite::Row;

use crate::store::error::StoreError;
use crate::store::sqlite::{Sqlite, all};

impl Sqlite {
    /// Writes a copy of the store, as of one moment, to a file that does not exist. Others read and
    /// write meanwhile.
    ///
    /// # Errors
    ///
    /// When the store cannot be read, or the copy not be written.
    pub fn copy_to(&self, file: &Path) -> Result<(), StoreError> {
        let path = file.to_str().ok_or_else(|| {
            StoreError::file(file, std::io::Error::new(std::io::ErrorKind::InvalidInput, "the path is not UTF-8"))
        })?;
        self.connection.execute("VACUUM INTO ?1", [path])?;
        Ok(())
    }

    /// What SQLite finds wrong with the file, page by page and row by row; nothing when it is sound.
    ///
    /// # Errors
    ///
    /// When it cannot even look.
    pub fn faults(&self) -> Result<Vec<String>, StoreError> {
        let text = |row: &Row<'_>| Ok(row.get::<_, String>(0)?);
        let mut faults: Vec<String> = all(&self.connection, "PRAGMA integrity_check", &[], text)?;
        faults.retain(|fault| fault != "ok");
        let orphans: Vec<String> = all(&self.connection, "PRAGMA foreign_key_check", &[], text)?;
        faults.extend(orphans.into_iter().map(|table| format!("a row of {table} refers to one that is missing")));
        Ok(faults)
    }
}
