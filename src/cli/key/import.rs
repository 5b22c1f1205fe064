//! `doorward key import` and `hash`

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use zeroize::Zeroizing;

use crate::cli::output::{self, Failure, Format};
use crate::cli::reach::Reach;
use crate::domain::key::{KeyDigest, PresentedKey};
use crate::manage::fault::Fault;
use crate::manage::keys::{ImportKey, ImportKeys, ImportedKey, ImportedKeys, Outcome};

/// Largest file that is read.
const MAX_FILE: u64 = 256 << 20;
/// Keys of one request. Its answer can hold their secrets, so a break loses few.
const BATCH: usize = 5000;

/// Stores many keys: those made elsewhere by `id` and `sha256`, the others are made and shown.
///
/// FILE holds a JSON array, or one JSON object a line, with the fields of `key create`: owner,
/// expires_at, not_before, uses, refund_on_failure, networks, endpoints, models, bound_to, labels,
/// note, external_id. What is there already under its external id, or else its id, stays as it is.
#[derive(Debug, Args)]
pub struct Import {
    /// The file; "-" is standard input
    file: PathBuf,
    /// How to print the result
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
    #[command(flatten)]
    reach: Reach,
}

impl Import {
    pub(super) fn run(self, out: &mut impl Write, err: &mut impl Write) -> Result<(), Failure> {
        let name = self.file.display().to_string();
        let text = self.read().map_err(|error| Failure::new(format!("cannot read {name}: {error}")))?;
        let keys = entries(&text).map_err(|why| Failure::new(format!("{name}: {why}")))?;
        if keys.is_empty() {
            return Err(Failure::new(format!("{name} holds no key")));
        }
        let mut reached = self.reach.any()?;
        let mut all = ImportedKeys { keys: Vec::new(), warnings: Vec::new() };
        for (number, batch) in keys.chunks(BATCH).enumerate() {
            let done = reached.attempt(ImportKeys { keys: batch.to_vec() })?;
            let done = match done {
                Ok(done) => done,
                Err(fault) => {
                    if !all.keys.is_empty() {
                        self.print(&all, out, err)?;
                    }
                    return Err(in_file(fault, &name, number * BATCH));
                }
            };
            all.keys.extend(done.keys);
            all.warnings.extend(done.warnings);
        }
        self.print(&all, out, err)?;
        let conflicts = all.keys.iter().filter(|key| key.outcome == Outcome::Conflict).count();
        if conflicts > 0 {
            return Err(Failure::with_hint(
                format!("left alone, because what the store has differs: {}", output::count(conflicts, "key")),
                "`doorward key update` changes a key",
            ));
        }
        Ok(())
    }

    fn read(&self) -> io::Result<String> {
        let mut text = String::new();
        let read = if self.file.as_os_str() == "-" {
            io::stdin().lock().take(MAX_FILE + 1).read_to_string(&mut text)?
        } else {
            File::open(&self.file)?.take(MAX_FILE + 1).read_to_string(&mut text)?
        };
        if read as u64 > MAX_FILE {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("longer than {MAX_FILE} bytes")));
        }
        Ok(text)
    }

    fn print(&self, done: &ImportedKeys, out: &mut impl Write, err: &mut impl Write) -> Result<(), Failure> {
        if self.output == Format::Json {
            return output::json(out, done);
        }
        output::warn(err, &done.warnings)?;
        if done.keys.iter().any(|key| key.key.is_some()) {
            writeln!(err, "The keys are shown this once; only their hashes are kept.")?;
        }
        let row = |key: &ImportedKey| {
            vec![
                key.id.clone(),
                key.outcome.as_str().to_owned(),
                key.external_id.clone().unwrap_or_else(|| "-".to_owned()),
                key.key.as_ref().map_or_else(|| "-".to_owned(), |key| key.reveal().to_owned()),
            ]
        };
        output::table(out, &["ID", "OUTCOME", "EXTERNAL ID", "KEY"], &done.keys.iter().map(row).collect::<Vec<_>>())
    }
}

/// The keys of a file: a JSON array, or JSON lines.
fn entries(text: &str) -> Result<Vec<ImportKey>, String> {
    if text.trim_start().starts_with('[') {
        return serde_json::from_str(text).map_err(|error| error.to_string());
    }
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let read = |(number, line): (usize, &str)| {
        // The position within the line follows; the line is said first.
        serde_json::from_str(line).map_err(|error| {
            let why = error.to_string();
            format!("line {}: {}", number + 1, why.split(" at line ").next().unwrap_or(&why))
        })
    };
    lines.map(read).collect()
}

/// A fault, with the number in the file of each key that is wrong.
fn in_file(fault: Fault, file: &str, before: usize) -> Failure {
    let said: Vec<String> = fault
        .wrong
        .iter()
        .map(|wrong| {
            let numbered = wrong.field.strip_prefix("keys[").and_then(|rest| rest.split_once(']'));
            match numbered.and_then(|(index, field)| Some((index.parse::<usize>().ok()?, field))) {
                Some((index, field)) => {
                    let field = field.strip_prefix('.').unwrap_or(field);
                    format!("key {}: {field}: {}", before + index + 1, wrong.message)
                }
                None => format!("{}: {}", wrong.field, wrong.message),
            }
        })
        .collect();
    if said.is_empty() {
        return Failure::Said { what: fault.message, hint: fault.hint };
    }
    let what = format!("{file} has {}\n  {}", output::count(said.len(), "problem"), said.join("\n  "));
    Failure::with_hint(what, "of the keys from there on none was stored; the same import may be made again")
}

/// Prints the SHA-256 of a key that is read on standard input, for `[[key]]` and for imports.
#[derive(Debug, Args)]
pub struct Hash {
    /// How to print the result
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
}

#[derive(Debug, Serialize)]
struct Hashed {
    id: String,
    sha256: String,
}

impl Hash {
    pub(super) fn run(self, out: &mut impl Write) -> Result<(), Failure> {
        let mut text = Zeroizing::new(String::new());
        // A key and a line break; anything longer is something else.
        io::stdin()
            .lock()
            .take(1024)
            .read_to_string(&mut text)
            .map_err(|error| Failure::new(format!("cannot read standard input: {error}")))?;
        let key = PresentedKey::parse(text.trim_ascii().as_bytes()).ok_or_else(|| {
            Failure::with_hint(
                "what came on standard input is no key",
                "a key is dw_, 12 characters, _, and 49 more; one wrong character is noticed: is it whole?",
            )
        })?;
        let hashed = Hashed { id: key.id().to_string(), sha256: KeyDigest::plain(&key).to_hex() };
        match self.output {
            Format::Json => output::json(out, &hashed)?,
            Format::Table => writeln!(out, "{}", hashed.sha256)?,
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_an_array_or_lines() {
        let owners = |text: &str| -> Result<Vec<String>, String> {
            entries(text).map(|keys| keys.into_iter().map(|key| key.owner).collect())
        };
        assert_eq!(owners("{\"owner\":\"a\"}\n\n{\"owner\":\"b\"}\n"), Ok(vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!(owners(" [{\"owner\":\"a\"},\n{\"owner\":\"b\"}]"), Ok(vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!(owners(""), Ok(Vec::new()));
        for (wrong, says) in [
            ("{\"owner\":\"a\"}\n{\"ower\":\"b\"}", "line 2: unknown field `ower`"),
            ("{\"owner\":\"a\",\"owner\":\"b\"}", "line 1: duplicate field `owner`"),
            ("{}", "line 1: missing field `owner`"),
            ("[{\"owner\":\"a\"}", "EOF"),
            ("{\"owner\":\"a\"} x", "line 1: trailing"),
        ] {
            let said = owners(wrong).unwrap_err();
            assert!(said.contains(says), "{said}");
        }
    }
}
