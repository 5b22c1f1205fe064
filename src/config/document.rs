//! Walks the TOML document and gathers everything that is wrong with it.
//!
//! Invariant: reading never stops at a problem. Each reader gives `None` for what it could not
//! read *and* has recorded why, so a caller may go on with the next setting and give up at the end.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use crate::clock::Clock;
use crate::config::Problem;
use crate::config::suggest::did_you_mean;
use crate::domain::timestamp::Timestamp;

/// Where references such as `${env:NAME}` are looked up.
pub(super) type Environment<'d> = &'d dyn Fn(&str) -> Option<String>;

/// What is said of a setting of the design whose feature is not built yet.
pub(super) const NOT_AVAILABLE: &str = "not available in this version";

/// One config file while it is being read.
pub(super) struct Document<'d> {
    /// Where each line but the first begins.
    line_starts: Vec<usize>,
    /// Relative paths in the file start here; absolute.
    pub(super) directory: PathBuf,
    pub(super) environment: Environment<'d>,
    /// The time by which certificates and grants are called expired.
    pub(super) now: Timestamp,
    // Cells, because every value that is handed out reports here, many at a time.
    problems: RefCell<Vec<Problem>>,
    warnings: RefCell<Vec<Problem>>,
    watched: RefCell<BTreeSet<PathBuf>>,
}

/// What was gathered on the way.
pub(super) struct Findings {
    pub(super) problems: Vec<Problem>,
    pub(super) warnings: Vec<Problem>,
    pub(super) watched: Vec<PathBuf>,
}

impl<'d> Document<'d> {
    pub(super) fn new(text: &str, directory: PathBuf, environment: Environment<'d>) -> Self {
        Self {
            line_starts: text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1).collect(),
            directory,
            environment,
            now: Clock::System.now(),
            problems: RefCell::default(),
            warnings: RefCell::default(),
            watched: RefCell::default(),
        }
    }

    /// Reads the root table; unread keys of it are reported as unknown.
    pub(super) fn read<T>(&'d self, root: &'d DeTable<'d>, read: impl FnOnce(&Table<'d>) -> T) -> T {
        let table = Table::new(Place { document: self, path: String::new(), offset: None }, root);
        let result = read(&table);
        table.finish();
        result
    }

    /// Notes that the outcome depends on this file too.
    pub(super) fn watch(&self, file: &Path) {
        self.watched.borrow_mut().insert(file.to_owned());
    }

    /// Everything gathered, in the order of lines.
    pub(super) fn into_findings(self) -> Findings {
        let sorted = |mut problems: Vec<Problem>| {
            problems.sort_by_key(|problem| problem.line);
            problems
        };
        Findings {
            problems: sorted(self.problems.into_inner()),
            warnings: sorted(self.warnings.into_inner()),
            watched: self.watched.into_inner().into_iter().collect(),
        }
    }
}

/// The line, from 1, that holds the byte at `offset`.
pub(super) fn line_at(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|&byte| byte == b'\n').count() + 1
}

/// A place in the document that problems can be reported at.
#[derive(Clone)]
pub(super) struct Place<'d> {
    pub(super) document: &'d Document<'d>,
    path: String,
    /// `None` for the document as a whole.
    offset: Option<usize>,
}

impl<'d> Place<'d> {
    /// Records an error here.
    pub(super) fn wrong(&self, message: impl Into<String>) {
        self.document.problems.borrow_mut().push(self.problem(message.into()));
    }

    /// Records a warning here.
    pub(super) fn warn(&self, message: impl Into<String>) {
        self.document.warnings.borrow_mut().push(self.problem(message.into()));
    }

    /// The path with its line, to point at from another place's message.
    pub(super) fn pointer(&self) -> String {
        format!("{} on line {}", self.path, self.line())
    }

    fn problem(&self, message: String) -> Problem {
        Problem { path: self.path.clone(), line: self.line(), message }
    }

    /// The line in the file, from 1; 0 for the document as a whole.
    pub(super) fn line(&self) -> usize {
        let starts = &self.document.line_starts;
        self.offset.map_or(0, |offset| starts.partition_point(|start| *start <= offset) + 1)
    }

    fn field(&self, name: &str, offset: Option<usize>) -> Self {
        let bare = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        let name = if bare { name.to_owned() } else { format!("{name:?}") };
        let path = if self.path.is_empty() { name } else { format!("{}.{name}", self.path) };
        Self { document: self.document, path, offset }
    }

    fn entry(&self, index: usize, offset: usize) -> Self {
        Self { document: self.document, path: format!("{}[{index}]", self.path), offset: Some(offset) }
    }
}

/// A value of the document.
#[derive(Clone)]
pub(super) struct Value<'d> {
    pub(super) place: Place<'d>,
    raw: &'d DeValue<'d>,
}

impl<'d> Value<'d> {
    /// Records an error here.
    pub(super) fn wrong(&self, message: impl Into<String>) {
        self.place.wrong(message);
    }

    /// The value itself, for the few places that take more than one type.
    pub(super) fn raw(&self) -> &'d DeValue<'d> {
        self.raw
    }

    pub(super) fn boolean(&self) -> Option<bool> {
        self.raw.as_bool().or_else(|| self.mistyped("true or false"))
    }

    /// The string as it stands in the file: references are not resolved.
    pub(super) fn literal(&self) -> Option<&'d str> {
        self.raw.as_str().or_else(|| self.mistyped("a string"))
    }

    /// The entries of a list, each with its own place.
    pub(super) fn entries(&self) -> Option<Vec<Self>> {
        let Some(array) = self.raw.as_array() else {
            return self.mistyped("a list, in [ ]");
        };
        let entry = |(index, entry): (usize, &'d Spanned<DeValue<'d>>)| Self {
            place: self.place.entry(index, entry.span().start),
            raw: entry.get_ref(),
        };
        Some(array.iter().enumerate().map(entry).collect())
    }

    /// The entries of `[[name]]`; a lone `[name]` is a mistake worth its own words.
    pub(super) fn sections(&self) -> Vec<Self> {
        if self.raw.is_table() {
            self.wrong(format!("there can be several: write [[{}]]", self.place.path));
            return Vec::new();
        }
        self.entries().unwrap_or_default()
    }

    /// The values of a table whose keys are names.
    pub(super) fn named(&self) -> Vec<Self> {
        let named = |(key, value): (&'d Spanned<DeString<'d>>, &'d Spanned<DeValue<'d>>)| Self {
            place: self.place.field(key.get_ref(), Some(key.span().start)),
            raw: value.get_ref(),
        };
        self.raw.as_table().map(|table| table.iter().map(named).collect()).unwrap_or_default()
    }

    /// Reads a table; its keys that `read` does not ask for are reported as unknown.
    pub(super) fn table<T>(&self, read: impl FnOnce(&Table<'d>) -> Option<T>) -> Option<T> {
        let Some(entries) = self.raw.as_table() else {
            return self.mistyped("a table");
        };
        let table = Table::new(self.place.clone(), entries);
        let result = read(&table);
        table.finish();
        result
    }

    /// Records that the value has another type than `expected`.
    pub(super) fn mistyped<T>(&self, expected: &str) -> Option<T> {
        let found = match self.raw {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "an integer",
            DeValue::Float(_) => "a float",
            DeValue::Boolean(_) => "a boolean",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        };
        self.wrong(format!("must be {expected}, not {found}"));
        None
    }
}

/// A table of the document that remembers which keys it was asked for.
pub(super) struct Table<'d> {
    pub(super) place: Place<'d>,
    entries: &'d DeTable<'d>,
    known: RefCell<Vec<&'static str>>,
    later: RefCell<Vec<&'static str>>,
}

impl<'d> Table<'d> {
    fn new(place: Place<'d>, entries: &'d DeTable<'d>) -> Self {
        Self { place, entries, known: RefCell::default(), later: RefCell::default() }
    }

    /// The value of a setting that may be absent.
    pub(super) fn get(&self, name: &'static str) -> Option<Value<'d>> {
        let mut known = self.known.borrow_mut();
        if !known.contains(&name) {
            known.push(name);
        }
        self.find(name)
    }

    /// The value of a setting that has no default; its absence is an error that says `how` to
    /// write it.
    pub(super) fn require(&self, name: &'static str, how: &str) -> Option<Value<'d>> {
        let value = self.get(name);
        if value.is_none() {
            self.missing(name, how);
        }
        value
    }

    /// Records that a setting without a default is absent.
    pub(super) fn missing(&self, name: &str, how: &str) {
        self.place_of(name).wrong(format!("is missing: {how}"));
    }

    /// Where a setting would be that is not written.
    pub(super) fn place_of(&self, name: &str) -> Place<'d> {
        self.place.field(name, self.place.offset)
    }

    /// A setting of the design whose feature is not built yet: refused, unless `is_off` says that
    /// its value asks for nothing.
    pub(super) fn later(&self, name: &'static str, is_off: impl Fn(&DeValue<'_>) -> bool) {
        if let Some(value) = self.get_later(name)
            && !is_off(value.raw)
        {
            value.wrong(NOT_AVAILABLE);
        }
    }

    /// The value of a setting whose feature is not built yet, for the caller to refuse.
    pub(super) fn get_later(&self, name: &'static str) -> Option<Value<'d>> {
        self.later.borrow_mut().push(name);
        self.find(name)
    }

    /// The line of a setting that is written.
    pub(super) fn line_of(&self, name: &str) -> Option<usize> {
        self.find(name).map(|value| value.place.line())
    }

    /// True when the setting is written, right or wrong.
    pub(super) fn has(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    fn find(&self, name: &str) -> Option<Value<'d>> {
        let (key, value) = self.entries.get_key_value(name)?;
        // The key's line, because a value may begin far below: [[name]] lists and long arrays.
        let place = self.place.field(name, Some(key.span().start));
        Some(Value { place, raw: value.get_ref() })
    }

    fn finish(self) {
        let (known, later) = (self.known.into_inner(), self.later.into_inner());
        for (key, _) in self.entries {
            let name: &str = key.get_ref();
            if known.contains(&name) || later.contains(&name) {
                continue;
            }
            let hint = did_you_mean(name, known.iter().chain(&later).copied());
            let choices = known.join(", ");
            self.place.field(name, Some(key.span().start)).wrong(format!("is not a setting{hint} (known: {choices})"));
        }
    }
}
