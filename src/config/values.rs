//! Typed values of settings: text with `${…}`, spans of time, numbers, words, lists, secrets.
//!
//! Invariant: what a reference resolved to is never printed. `${env:DB_PASSWORD}` in the wrong
//! place must not end up in a log, so such a value is refused without being shown.

use std::collections::HashMap;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

use toml::de::DeValue;

use crate::config::Secret;
use crate::config::document::Value;
use crate::config::suggest::did_you_mean;
use crate::domain::timestamp::{Timestamp, parse_span};

/// Longest name of a backend or an authority, in bytes: they become labels of metrics.
const MAX_NAME_BYTES: usize = 64;

/// The text of a setting, and whether it stands in the file or was referred to.
pub(super) struct Text<'d> {
    pub(super) text: String,
    /// The reference as written, such as `${env:NAME}`.
    reference: Option<&'d str>,
}

impl Text<'_> {
    /// The text for a message; of a reference, the reference itself.
    pub(super) fn shown(&self) -> &str {
        self.reference.unwrap_or(&self.text)
    }
}

impl<'d> Value<'d> {
    /// The string, with a reference resolved.
    pub(super) fn text(&self) -> Option<Text<'d>> {
        let literal = self.literal()?;
        if !literal.contains("${") {
            return self.checked(Text { text: literal.to_owned(), reference: None });
        }
        let reference =
            literal.strip_prefix("${").and_then(|rest| rest.strip_suffix('}')).and_then(|inner| inner.split_once(':'));
        let resolved = match reference {
            Some((_, name)) if name.contains(['{', '}']) => self.not_a_reference(),
            Some(("env", name)) => (self.place.document.environment)(name)
                .or_else(|| self.refuse(&format!("the environment variable {name} is not set"))),
            Some(("file", path)) => self.referred_file(path),
            Some((kind, _)) if kind.bytes().all(|b| b.is_ascii_alphanumeric()) => {
                self.refuse(&format!("${{{kind}:…}} is not a reference; known are ${{env:NAME}} and ${{file:PATH}}"))
            }
            Some(_) | None => self.not_a_reference(),
        }?;
        if resolved.is_empty() {
            return self.refuse(&format!("{literal} is empty"));
        }
        self.checked(Text { text: resolved, reference: Some(literal) })
    }

    /// The string as `parse` reads it.
    pub(super) fn parsed<T>(&self, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let text = self.text()?;
        parse(&text.text).map_err(|why| self.misfit(&text, &why)).ok()
    }

    /// One of the words of a closed set.
    pub(super) fn choice<T>(&self, choices: &[(&str, T)]) -> Option<T>
    where
        T: Clone,
    {
        let words = || choices.iter().map(|(word, _)| *word);
        self.parsed(|text| {
            choices.iter().find(|(word, _)| *word == text).map(|(_, choice)| choice.clone()).ok_or_else(|| {
                let known = words().map(|word| format!("{word:?}")).collect::<Vec<_>>().join(", ");
                format!("{text:?} is not one of {known}{}", did_you_mean(text, words()))
            })
        })
    }

    /// A whole number within bounds.
    pub(super) fn number<N>(&self, bounds: RangeInclusive<N>) -> Option<N>
    where
        N: TryFrom<i128> + PartialOrd + Display,
    {
        let DeValue::Integer(integer) = self.raw() else {
            return self.mistyped("a whole number");
        };
        i128::from_str_radix(integer.as_str(), integer.radix())
            .ok()
            .and_then(|number| N::try_from(number).ok())
            .filter(|number| bounds.contains(number))
            .or_else(|| self.refuse(&format!("must be from {} to {}", bounds.start(), bounds.end())))
    }

    /// A span of time such as `"30s"`, within bounds.
    pub(super) fn span(&self, bounds: RangeInclusive<Duration>) -> Option<Duration> {
        self.parsed(|text| {
            let span = parse_span(text)?;
            if bounds.contains(&span) {
                Ok(span)
            } else {
                Err(format!("must be from {} to {}", spell(*bounds.start()), spell(*bounds.end())))
            }
        })
    }

    /// A date and time with a zone, as a string or as a TOML date.
    pub(super) fn timestamp(&self) -> Option<Timestamp> {
        match self.raw() {
            DeValue::Datetime(datetime) => Timestamp::parse(&datetime.to_string()).map_err(|why| self.wrong(why)).ok(),
            DeValue::String(_) => self.parsed(Timestamp::parse),
            DeValue::Integer(_) | DeValue::Float(_) | DeValue::Boolean(_) | DeValue::Array(_) | DeValue::Table(_) => {
                self.mistyped("a date and time with a zone")
            }
        }
    }

    /// A list that `parse` reads as a whole; what it says about entries is reported at theirs.
    pub(super) fn list<T>(&self, parse: impl FnOnce(&[String]) -> Result<T, Vec<(usize, String)>>) -> Option<T> {
        let entries = self.entries()?;
        let texts: Vec<_> = entries.iter().filter_map(|entry| Some((entry, entry.text()?))).collect();
        if texts.is_empty() && !entries.is_empty() {
            return None;
        }
        let plain: Vec<String> = texts.iter().map(|(_, text)| text.text.clone()).collect();
        let wrong = match parse(&plain) {
            Ok(list) => return (texts.len() == entries.len()).then_some(list),
            Err(wrong) => wrong,
        };
        for (index, why) in wrong {
            match texts.get(index) {
                Some((entry, text)) => entry.misfit(text, &why),
                None => self.wrong(why),
            }
        }
        None
    }

    /// A list of which each entry is read alone. An empty one is wrong: `empty` says why.
    pub(super) fn each<T>(&self, empty: &str, read: impl FnMut(&Self) -> Option<T>) -> Option<Vec<T>> {
        let entries = self.entries()?;
        if entries.is_empty() {
            return self.refuse(empty);
        }
        let read: Vec<Option<T>> = entries.iter().map(read).collect();
        read.into_iter().collect()
    }

    /// A name that no other section of its kind has; `names` holds those so far with their places.
    pub(super) fn unique_name(&self, names: &mut HashMap<String, String>) -> Option<String> {
        let name = self.parsed(|text| {
            let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
            if (1..=MAX_NAME_BYTES).contains(&text.len()) && text.bytes().all(allowed) {
                return Ok(text.to_owned());
            }
            Err(format!("{text:?} is not a name: 1 to {MAX_NAME_BYTES} characters of A-Z a-z 0-9 . _ -"))
        })?;
        self.distinct(name, names)
    }

    /// Refuses `name` when it is taken.
    pub(super) fn distinct(&self, name: String, names: &mut HashMap<String, String>) -> Option<String> {
        if let Some(other) = names.get(&name) {
            return self.refuse(&format!("{name:?} is already the name at {other}"));
        }
        names.insert(name.clone(), self.place.pointer());
        Some(name)
    }

    /// A credential that travels in a header.
    pub(super) fn secret(&self) -> Option<Secret> {
        let text = self.text()?;
        if text.text.is_empty() || !text.text.bytes().all(|b| b.is_ascii_graphic()) {
            return self.refuse("must be visible ASCII without spaces or line breaks (the value is not shown)");
        }
        self.warn_if_literal(&text);
        Some(Secret::new(text.text))
    }

    /// Warns of a secret that stands in the file itself.
    pub(super) fn warn_if_literal(&self, text: &Text<'_>) {
        if text.reference.is_none() {
            self.place.warn("a literal secret: whoever reads this file has it; write ${env:NAME} or ${file:PATH}");
        }
    }

    /// Records that `text` is not what the setting takes; what came by reference is not shown.
    pub(super) fn misfit(&self, text: &Text<'_>, why: &str) {
        match text.reference {
            None => self.wrong(why),
            Some(reference) => {
                self.wrong(format!("what {reference} holds does not fit here (it is not shown: it may be a secret)"));
            }
        }
    }

    /// Records an error and gives nothing.
    pub(super) fn refuse<T>(&self, why: &str) -> Option<T> {
        self.wrong(why);
        None
    }

    fn not_a_reference<T>(&self) -> Option<T> {
        self.refuse("a reference is the whole value: ${env:NAME} or ${file:PATH}")
    }

    fn checked(&self, text: Text<'d>) -> Option<Text<'d>> {
        match text.text.chars().find(|c| c.is_control()) {
            None => Some(text),
            Some(_) if text.reference.is_some() => {
                self.misfit(&text, "");
                None
            }
            Some(odd) => self.refuse(&format!("cannot hold the control character {odd:?}")),
        }
    }
}

/// A span in the largest unit that divides it.
fn spell(span: Duration) -> String {
    let millis = span.as_millis();
    let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1000, "s")];
    match units.iter().find(|(unit, _)| millis > 0 && millis.is_multiple_of(*unit)) {
        Some((unit, name)) => format!("{}{name}", millis / unit),
        None if millis == 0 => "0s".to_owned(),
        None => format!("{millis}ms"),
    }
}
