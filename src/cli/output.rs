//! Tables and JSON for people and programs, errors with hints.

use std::error::Error;
use std::fmt;
use std::io::{self, Write};

use clap::ValueEnum;
use serde::Serialize;

use crate::config::Problem;
use crate::holder::fault::HolderFault;

/// How a verb prints its result.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub enum Format {
    /// For people
    #[default]
    Table,
    /// One JSON document with stable field names
    Json,
}

/// Why a verb failed.
#[derive(Debug)]
pub enum Failure {
    /// What was wrong, and what to do.
    Said {
        /// What was wrong.
        what: String,
        /// What to do, when there is something.
        hint: Option<String>,
    },
    /// The command line asks for what makes no sense.
    Usage(Vec<String>),
    /// Problems in a config file.
    Config {
        /// The file.
        file: String,
        /// All of them.
        problems: Vec<Problem>,
    },
    /// The result could not be printed.
    Output(io::Error),
}

impl Failure {
    /// A failure without a hint.
    pub fn new(what: impl fmt::Display) -> Self {
        Self::Said { what: what.to_string(), hint: None }
    }

    /// A failure with a hint.
    pub fn with_hint(what: impl fmt::Display, hint: impl fmt::Display) -> Self {
        Self::Said { what: what.to_string(), hint: Some(hint.to_string()) }
    }
}

impl From<HolderFault> for Failure {
    fn from(fault: HolderFault) -> Self {
        Self::Said { what: fault.to_string(), hint: fault.hint() }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Said { what, hint } => {
                writeln!(f, "error: {what}")?;
                hint.iter().try_for_each(|hint| writeln!(f, "hint: {hint}"))
            }
            Self::Usage(wrong) => {
                wrong.iter().try_for_each(|what| writeln!(f, "error: {what}"))?;
                writeln!(f, "\nFor more information, try '--help'.")
            }
            Self::Config { file, problems } => {
                writeln!(f, "error: {file} has {}", count(problems.len(), "problem"))?;
                problems.iter().try_for_each(|problem| writeln!(f, "  {problem}"))
            }
            Self::Output(error) => writeln!(f, "error: cannot print the result: {error}"),
        }
    }
}

/// An error with its causes: libraries say what they did, and only the cause says why it failed.
#[must_use]
pub fn causes(error: &dyn Error) -> String {
    let mut said = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let why = error.to_string();
        if !said.ends_with(&why) {
            said = format!("{said}: {why}");
        }
        cause = error.source();
    }
    said
}

/// `1 problem`, `2 problems`.
#[must_use]
pub fn count(number: usize, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{plural}")
}

/// Prints one JSON document.
///
/// # Errors
///
/// When it cannot be written.
pub fn json(out: &mut impl Write, value: &impl Serialize) -> Result<(), Failure> {
    serde_json::to_writer_pretty(&mut *out, value).map_err(io::Error::from)?;
    writeln!(out)?;
    Ok(())
}

/// Prints what is allowed and yet worth a word.
///
/// # Errors
///
/// When it cannot be written.
pub fn warn(err: &mut impl Write, warnings: &[String]) -> Result<(), Failure> {
    warnings.iter().try_for_each(|warning| writeln!(err, "warning: {warning}"))?;
    Ok(())
}

/// A list in one cell.
#[must_use]
pub fn cell(list: Option<&Vec<String>>) -> String {
    list.map_or_else(|| "-".to_owned(), |list| list.join(","))
}

/// Prints rows under a head.
///
/// # Errors
///
/// When they cannot be written.
pub fn table(out: &mut impl Write, head: &[&str], rows: &[Vec<String>]) -> Result<(), Failure> {
    let head: Vec<String> = head.iter().map(ToString::to_string).collect();
    let width = |column: usize| {
        let cells = rows.iter().chain([&head]).filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    for row in [&head].into_iter().chain(rows) {
        let cells: Vec<_> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        writeln!(out, "{}", cells.join("  ").trim_end())?;
    }
    Ok(())
}
