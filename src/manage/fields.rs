//! How fields of requests are read: all that is wrong is said at once.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

use crate::config::did_you_mean;
use crate::domain::endpoint::Endpoints;
use crate::domain::timestamp::{Timestamp, parse_span};
use crate::manage::fault::{Fault, Wrong};

/// Gathers what is wrong with a request while its fields are read.
#[derive(Debug, Default)]
pub(super) struct Reading {
    /// Such as `keys[3].`.
    prefix: String,
    wrong: Vec<Wrong>,
}

impl Reading {
    /// Reads one of several: `prefix` stands before the names of its fields.
    pub(super) fn of(prefix: String) -> Self {
        Self { prefix, ..Self::default() }
    }

    /// Notes a wrong field.
    pub(super) fn wrong(&mut self, field: &str, message: impl Into<String>) {
        self.wrong.push(Wrong { field: format!("{}{field}", self.prefix), message: message.into() });
    }

    /// Reads a field that must be there.
    pub(super) fn value<T>(
        &mut self,
        field: &str,
        text: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        parse(text).map_err(|why| self.wrong(field, why)).ok()
    }

    /// Reads a field that may be absent.
    pub(super) fn optional<T>(
        &mut self,
        field: &str,
        text: Option<&str>,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        text.and_then(|text| self.value(field, text, parse))
    }

    /// Reads a list that may be absent.
    pub(super) fn list<T>(
        &mut self,
        field: &str,
        entries: Option<&Vec<String>>,
        parse: impl FnOnce(&[String]) -> Result<T, Vec<(usize, String)>>,
    ) -> Option<T> {
        let parsed = parse(entries?);
        parsed.map_err(|faults| faults.into_iter().for_each(|(_, why)| self.wrong(field, why))).ok()
    }

    /// Ends the reading.
    pub(super) fn finish(self) -> Result<(), Fault> {
        if self.wrong.is_empty() { Ok(()) } else { Err(Fault::invalid(self.wrong)) }
    }

    /// Takes over what another reading found.
    pub(super) fn absorb(&mut self, other: Self) {
        self.wrong.extend(other.wrong);
    }
}

/// Reads a time: a span from now (`30d`), or RFC 3339.
pub(super) fn when(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    parse_span(text).map(|span| now.after(span)).or_else(|_| Timestamp::parse(text)).map_err(|_| WHEN.to_owned())
}

/// What is said of text that is no time.
pub(crate) const WHEN: &str = "neither a span such as 30d nor a time such as 2027-01-31T00:00:00Z";

/// Endpoints, with the nearest known word for each that is wrong.
pub(super) fn endpoints(entries: &[String]) -> Result<Endpoints, Vec<(usize, String)>> {
    let near = |(index, why): (usize, String)| {
        let word = entries.get(index).map_or("", String::as_str);
        (index, format!("{why}{}", did_you_mean(word, Endpoints::vocabulary())))
    };
    Endpoints::parse(entries).map_err(|wrong| wrong.into_iter().map(near).collect())
}

/// What a PATCH says of a field: nothing, `null`, or a value.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Change<T> {
    /// It stays as it is.
    #[default]
    Keep,
    /// It is taken away.
    Clear,
    /// It gets this value.
    Set(T),
}

impl<T> Change<T> {
    /// True when the field stays as it is.
    pub const fn is_keep(&self) -> bool {
        matches!(self, Self::Keep)
    }

    /// The value that it gets.
    pub const fn value(&self) -> Option<&T> {
        match self {
            Self::Set(value) => Some(value),
            Self::Keep | Self::Clear => None,
        }
    }
}

impl<T: Serialize> Serialize for Change<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.value().serialize(serializer)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Change<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Only a field that is there comes here: an absent one is the default.
        Option::deserialize(deserializer).map(|value| value.map_or(Self::Clear, Self::Set))
    }
}

impl<T: JsonSchema> JsonSchema for Change<T> {
    fn schema_name() -> Cow<'static, str> {
        <Option<T>>::schema_name()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        <Option<T>>::json_schema(generator)
    }
}

/// A whole key on its way to its owner: shown once, and never by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Revealed(Zeroizing<String>);

impl Revealed {
    /// Wraps a key that was just made.
    pub(super) fn new(text: &str) -> Self {
        Self(Zeroizing::new(text.to_owned()))
    }

    /// The key itself, for the one place that shows it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Revealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Revealed(redacted)")
    }
}

impl Serialize for Revealed {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Revealed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(Zeroizing::new(text)))
    }
}

impl JsonSchema for Revealed {
    fn schema_name() -> Cow<'static, str> {
        "Secret".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        schemars::json_schema!({ "type": "string", "pattern": "^dw_[0-9a-z]{12}_[0-9A-Za-z]{49}$" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Patch {
        #[serde(default, skip_serializing_if = "Change::is_keep")]
        note: Change<String>,
    }

    #[test]
    fn absent_null_and_a_value_are_three_things() {
        for (text, note) in [
            ("{}", Change::Keep),
            (r#"{"note":null}"#, Change::Clear),
            (r#"{"note":"x"}"#, Change::Set("x".to_owned())),
        ] {
            let patch = Patch { note };
            assert_eq!(serde_json::from_str::<Patch>(text).unwrap(), patch);
            assert_eq!(serde_json::to_string(&patch).unwrap(), text);
        }
    }

    #[test]
    fn a_revealed_key_is_not_printed() {
        assert!(!format!("{:?}", Revealed::new("dw_secret")).contains("secret"));
    }

    #[test]
    fn times_are_spans_or_points() {
        let now = Timestamp::from_seconds(1000);
        assert_eq!(when("1m", now), Ok(Timestamp::from_seconds(1060)));
        assert_eq!(when("1970-01-01T00:00:05Z", now), Ok(Timestamp::from_seconds(5)));
        assert!(when("tomorrow", now).is_err());
    }
}
