//! One strict pass over a JSON body: what every reader behind the gateway would read alike.
//!
//! Invariant: a body that passes is one object of RFC 8259 in UTF-8 on which lenient and strict,
//! first-wins and last-wins, case-sensitive and case-folding readers agree. Whatever they are
//! known to read differently is refused here, and nothing is repaired.

use std::borrow::Cow;
use std::collections::HashSet;
use std::ops::Range;

use crate::dialect::{seek, spelling};

/// Deepest nesting that is accepted; the body's own object is level 1.
pub const MAX_DEPTH: usize = 64;

/// Most keys of one object, those of the objects around it included. It bounds what the search
/// for duplicates can hold.
pub const MAX_KEYS: usize = 65_536;

/// From this many keys on, an object's duplicates are found by hashing.
const FEW_KEYS: usize = 32;

/// A key that the gateway reads or edits, and so must find in exactly one spelling and type.
#[derive(Debug)]
pub struct Field {
    /// The key as it must be spelled.
    pub name: &'static str,
    /// What its value must be, unless it is `null`, which counts as absent.
    pub kind: Kind,
}

/// The type that a reserved key must have.
#[derive(Debug)]
pub enum Kind {
    /// `true` or `false`.
    Bool,
    /// A string.
    String,
    /// An integer in any spelling (`5`, `5.0`, `5e0`).
    Cap {
        /// The lowest value that is allowed.
        least: i64,
    },
    /// An object with reserved keys of its own.
    Object(&'static [Field]),
    /// Whatever it is: only its place and its spelling count.
    Any,
}

impl Kind {
    fn expected(&self) -> String {
        match self {
            Self::Bool => "true or false".to_owned(),
            Self::String => "a string".to_owned(),
            Self::Cap { least: 0 } => "a whole number, 0 or more".to_owned(),
            Self::Cap { least } => format!("a whole number, {least} or more"),
            Self::Object(_) => "an object".to_owned(),
            Self::Any => "a value".to_owned(),
        }
    }
}

/// Why a body was refused. `Display` tells the caller what to do and never quotes the body.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Fault {
    /// No bytes at all, or only white space.
    #[error("The body is empty: send a JSON object.")]
    Empty,
    /// U+FEFF in front, which some readers skip and others refuse.
    #[error("The body begins with a byte order mark: send UTF-8 without one.")]
    ByteOrderMark,
    /// Not UTF-8.
    #[error("The body is not UTF-8: encode the JSON as UTF-8.")]
    NotUtf8,
    /// Another JSON value than an object.
    #[error("The body must be one JSON object, {{…}}.")]
    NotAnObject,
    /// Against the grammar.
    #[error("The body is not valid JSON: {expected} expected at byte {at}.")]
    Syntax {
        /// What the grammar wants.
        expected: &'static str,
        /// Where, counted from 0.
        at: usize,
    },
    /// More than one value.
    #[error("The body goes on after its JSON object at byte {at}: send one object only.")]
    Trailing {
        /// Where, counted from 0.
        at: usize,
    },
    /// Nested too deeply.
    #[error("The body is nested deeper than {MAX_DEPTH} levels at byte {at}.")]
    TooDeep {
        /// Where, counted from 0.
        at: usize,
    },
    /// One key twice in one object: readers pick different ones.
    #[error("The body has a key twice in one object, the second time at byte {at}: send each key once.")]
    DuplicateKey {
        /// Where the second one is, counted from 0.
        at: usize,
    },
    /// More keys than the search for duplicates holds.
    #[error("The body has more than {MAX_KEYS} keys in one object: send fewer.")]
    TooManyKeys,
    /// A number that readers take for infinity, or refuse.
    #[error("The number at byte {at} is too large: it overflows a double.")]
    NumberTooLarge {
        /// Where, counted from 0.
        at: usize,
    },
    /// A key that readers truncate, replace or refuse.
    #[error("The key at byte {at} holds a control character or half of a surrogate pair: remove it.")]
    OddKey {
        /// Where, counted from 0.
        at: usize,
    },
    /// A key that case-folding readers take for a reserved one.
    #[error("A key differs from {name:?} in upper and lower case only: write {name:?}.")]
    CaseVariant {
        /// The reserved key.
        name: &'static str,
    },
    /// A reserved key with another type than it must have.
    #[error("{name:?} must be {expected}.")]
    WrongType {
        /// The reserved key.
        name: &'static str,
        /// What it must be.
        expected: String,
    },
}

/// Reads `body` once and reports where the values of `fields` are. `found` is called with the field's
/// name and the range of its value, quotes or brackets included; `null`, which counts as absent, is
/// reported as well. On an error, what it was told so far means nothing.
///
/// # Errors
///
/// When the body is not one JSON object that every reader would read alike, or a reserved key has
/// the wrong type.
pub fn scan(
    body: &[u8],
    fields: &'static [Field],
    found: &mut dyn FnMut(&'static str, Range<usize>),
) -> Result<(), Fault> {
    if body.starts_with(b"\xef\xbb\xbf") {
        return Err(Fault::ByteOrderMark);
    }
    let text = simdutf8::basic::from_utf8(body).map_err(|_| Fault::NotUtf8)?;
    let mut scanner = Scanner { text, bytes: body, at: 0, keys: Vec::with_capacity(FEW_KEYS), open_keys: 0, found };
    scanner.skip_space();
    match scanner.peek() {
        Some(b'{') => scanner.object(fields, 1)?,
        Some(_) => return Err(Fault::NotAnObject),
        None => return Err(Fault::Empty),
    }
    scanner.skip_space();
    match scanner.peek() {
        Some(_) => Err(Fault::Trailing { at: scanner.at }),
        None => Ok(()),
    }
}

struct Scanner<'a, 'f> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
    /// Keys of the open objects that have few, outermost first.
    keys: Vec<Cow<'a, str>>,
    /// How many keys the open objects have, the hashed ones included.
    open_keys: usize,
    found: &'f mut dyn FnMut(&'static str, Range<usize>),
}

impl<'a> Scanner<'a, '_> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn eat(&mut self, byte: u8) -> bool {
        let there = self.peek() == Some(byte);
        self.at += usize::from(there);
        there
    }

    fn skip_space(&mut self) {
        while let Some(b' ' | b'\n' | b'\t' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    fn expected<T>(&self, expected: &'static str) -> Result<T, Fault> {
        Err(Fault::Syntax { expected, at: self.at })
    }

    /// `depth` is that of the container around the value.
    fn value(&mut self, depth: usize) -> Result<(), Fault> {
        match self.peek() {
            Some(b'"') => self.string().map(|_| ()),
            Some(b'{') => self.object(&[], depth + 1),
            Some(b'[') => self.array(depth + 1),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.word(b"true"),
            Some(b'f') => self.word(b"false"),
            Some(b'n') => self.word(b"null"),
            Some(_) | None => self.expected("a value"),
        }
    }

    fn array(&mut self, depth: usize) -> Result<(), Fault> {
        if depth > MAX_DEPTH {
            return Err(Fault::TooDeep { at: self.at });
        }
        self.at += 1;
        self.skip_space();
        if self.eat(b']') {
            return Ok(());
        }
        loop {
            self.value(depth)?;
            self.skip_space();
            if self.eat(b',') {
                self.skip_space();
            } else if self.eat(b']') {
                return Ok(());
            } else {
                return self.expected("a comma or ]");
            }
        }
    }

    fn object(&mut self, fields: &'static [Field], depth: usize) -> Result<(), Fault> {
        if depth > MAX_DEPTH {
            return Err(Fault::TooDeep { at: self.at });
        }
        self.at += 1;
        self.skip_space();
        if self.eat(b'}') {
            return Ok(());
        }
        let (around, first) = (self.open_keys, self.keys.len());
        let mut many = None;
        loop {
            let at = self.at;
            let key = self.key()?;
            let field = reserved(fields, &key)?;
            self.remember(key, at, first, &mut many)?;
            self.skip_space();
            if !self.eat(b':') {
                return self.expected("a colon");
            }
            self.skip_space();
            match field {
                Some(field) => self.reserved_value(field, depth)?,
                None => self.value(depth)?,
            }
            self.skip_space();
            if self.eat(b',') {
                self.skip_space();
            } else if self.eat(b'}') {
                break;
            } else {
                return self.expected("a comma or }");
            }
        }
        self.keys.truncate(first);
        self.open_keys = around;
        Ok(())
    }

    /// Takes up a key of the object whose keys begin at `first`, or are in `many`.
    fn remember(
        &mut self,
        key: Cow<'a, str>,
        at: usize,
        first: usize,
        many: &mut Option<HashSet<Cow<'a, str>>>,
    ) -> Result<(), Fault> {
        self.open_keys += 1;
        if self.open_keys > MAX_KEYS {
            return Err(Fault::TooManyKeys);
        }
        if let Some(many) = many {
            return if many.insert(key) { Ok(()) } else { Err(Fault::DuplicateKey { at }) };
        }
        if self.keys.iter().skip(first).any(|other| *other == key) {
            return Err(Fault::DuplicateKey { at });
        }
        self.keys.push(key);
        if self.keys.len() - first > FEW_KEYS {
            *many = Some(self.keys.drain(first..).collect());
        }
        Ok(())
    }

    fn key(&mut self) -> Result<Cow<'a, str>, Fault> {
        let at = self.at;
        if self.peek() != Some(b'"') {
            return self.expected("a key in quotes");
        }
        let escaped = self.string()?;
        let inside = self.text.get(at + 1..self.at - 1).unwrap_or_default();
        let key = if escaped { spelling::unescape(inside) } else { Some(Cow::Borrowed(inside)) };
        let plain = |key: &str| key.bytes().all(|b| (b' '..=b'~').contains(&b)) || !key.chars().any(char::is_control);
        key.filter(|key| plain(key)).ok_or(Fault::OddKey { at })
    }

    fn reserved_value(&mut self, field: &'static Field, depth: usize) -> Result<(), Fault> {
        let start = self.at;
        let wrong = || Fault::WrongType { name: field.name, expected: field.kind.expected() };
        match (&field.kind, self.peek()) {
            (_, Some(b'n')) => self.word(b"null")?,
            (Kind::Bool, Some(b't' | b'f')) | (Kind::String, Some(b'"')) => self.value(depth)?,
            (Kind::Object(fields), Some(b'{')) => self.object(fields, depth + 1)?,
            (Kind::Any, _) => self.value(depth)?,
            (Kind::Cap { least }, Some(b'-' | b'0'..=b'9')) => {
                self.number()?;
                let digits = self.text.get(start..self.at).unwrap_or_default();
                spelling::whole_number(digits).filter(|number| number >= least).ok_or_else(wrong)?;
            }
            (Kind::Bool | Kind::String | Kind::Object(_) | Kind::Cap { .. }, _) => return Err(wrong()),
        }
        (self.found)(field.name, start..self.at);
        Ok(())
    }

    /// Reads a string from its opening quote; true when it has escapes.
    fn string(&mut self) -> Result<bool, Fault> {
        self.at += 1;
        let mut escaped = false;
        loop {
            self.at = seek::string_stop(self.bytes, self.at);
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(escaped);
                }
                Some(b'\\') => {
                    escaped = true;
                    self.escape()?;
                }
                Some(_) => return self.expected("an escape instead of a raw control character"),
                None => return self.expected("a closing quote"),
            }
        }
    }

    fn escape(&mut self) -> Result<(), Fault> {
        match self.bytes.get(self.at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 2,
            Some(b'u') => {
                let digits = self.bytes.get(self.at + 2..self.at + 6);
                if !digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit)) {
                    return self.expected("four hexadecimal digits after \\u");
                }
                self.at += 6;
            }
            Some(_) | None => return self.expected("a known escape"),
        }
        Ok(())
    }

    fn number(&mut self) -> Result<(), Fault> {
        /// No number of so few digits without an exponent overflows.
        const SURELY_FINITE: usize = 300;
        let start = self.at;
        self.eat(b'-');
        if !self.eat(b'0') {
            self.digits()?;
        }
        if self.eat(b'.') {
            self.digits()?;
        }
        let exponent = self.eat(b'e') || self.eat(b'E');
        if exponent {
            let _ = self.eat(b'+') || self.eat(b'-');
            self.digits()?;
        }
        if !exponent && self.at - start <= SURELY_FINITE {
            return Ok(());
        }
        let number = self.text.get(start..self.at).and_then(|digits| digits.parse::<f64>().ok());
        if number.is_some_and(f64::is_finite) { Ok(()) } else { Err(Fault::NumberTooLarge { at: start }) }
    }

    fn digits(&mut self) -> Result<(), Fault> {
        let start = self.at;
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        if self.at == start { self.expected("a digit") } else { Ok(()) }
    }

    fn word(&mut self, word: &[u8]) -> Result<(), Fault> {
        if !self.bytes.get(self.at..).unwrap_or_default().starts_with(word) {
            return self.expected("a value");
        }
        self.at += word.len();
        Ok(())
    }
}

/// The reserved key that `key` is.
fn reserved(fields: &'static [Field], key: &str) -> Result<Option<&'static Field>, Fault> {
    for field in fields {
        if field.name == key {
            return Ok(Some(field));
        }
        if spelling::folds_to(key, field.name) {
            return Err(Fault::CaseVariant { name: field.name });
        }
    }
    Ok(None)
}

#[cfg(test)]
#[path = "json_tests.rs"]
mod tests;
