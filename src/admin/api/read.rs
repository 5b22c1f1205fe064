//! From a request's target and body to the fields of its operation.
//!
//! Invariant: nothing is guessed. A path is a route's or nobody's, a field comes once, from where
//! the route has it, and one that the operation does not know is refused: a mistyped limit must not
//! be no limit.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::admin::api::route::{Fields, Route, field_of};
use crate::config::did_you_mean;
use crate::manage::fault::{Code, Fault, Wrong};

/// The route's fields in `path`; `None` when it is not the route's path.
pub(super) fn path_fields(route: &Route, path: &str) -> Option<Fields> {
    let mut fields = Fields::new();
    let mut given = path.strip_prefix('/')?.split('/');
    for segment in route.segments() {
        let text = given.next()?;
        match field_of(segment) {
            None if text == segment => {}
            None => return None,
            Some(field) => {
                let value = unescape(text).filter(|value| !value.is_empty())?;
                fields.insert(field.to_owned(), Value::String(value));
            }
        }
    }
    given.next().is_none().then_some(fields)
}

/// Adds the fields of a query.
pub(super) fn query_fields(route: &Route, query: Option<&str>, fields: &mut Fields) -> Result<(), Fault> {
    let malformed = || Fault::new(Code::InvalidRequest, "the query is malformed");
    for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let (name, text) = pair.split_once('=').ok_or_else(malformed)?;
        let (name, text) = (unescape(name).ok_or_else(malformed)?, unescape(text).ok_or_else(malformed)?);
        let value = typed(route, &name, text)?;
        if fields.insert(name.clone(), value).is_some() {
            return Err(Fault::field(&name, "comes twice"));
        }
    }
    Ok(())
}

/// A query has text only; the schema tells what it stands for.
fn typed(route: &Route, name: &str, text: String) -> Result<Value, Fault> {
    let schema = route.properties().find(|(field, _)| *field == name).map(|(_, schema)| schema);
    let is = |kind: &str| match schema.and_then(|schema| schema.get("type")) {
        Some(Value::String(one)) => one == kind,
        Some(Value::Array(several)) => several.iter().any(|one| one == kind),
        Some(_) | None => false,
    };
    if is("integer") {
        let number = text.parse::<u64>().map_err(|_| Fault::field(name, "must be a whole number"))?;
        Ok(Value::Number(Number::from(number)))
    } else if is("boolean") {
        let flag = text.parse::<bool>().map_err(|_| Fault::field(name, "must be true or false"))?;
        Ok(Value::Bool(flag))
    } else {
        Ok(Value::String(text))
    }
}

/// Adds the fields of a body.
pub(super) fn body_fields(body: &[u8], fields: &mut Fields) -> Result<(), Fault> {
    let invalid = |why: String| Fault::new(Code::InvalidRequest, format!("the body is not one JSON object: {why}"));
    if body.is_empty() {
        return Ok(());
    }
    let Strict(Value::Object(given)) = serde_json::from_slice(body).map_err(|error| invalid(error.to_string()))? else {
        return Err(invalid("it is another value".to_owned()));
    };
    for (name, value) in given {
        if fields.contains_key(&name) {
            return Err(Fault::field(&name, "is part of the path, and not of the body"));
        }
        fields.insert(name, value);
    }
    Ok(())
}

/// Refuses fields that the operation does not have.
pub(super) fn refuse_unknown(route: &Route, fields: &Fields) -> Result<(), Fault> {
    let known = || route.properties().map(|(name, _)| name.as_str());
    let unknown = fields.keys().filter(|name| !known().any(|known| known == name.as_str()));
    let wrong: Vec<Wrong> = unknown
        .map(|name| {
            let message = format!("is not a field of {}{}", route.name, did_you_mean(name, known()));
            Wrong { field: name.clone(), message }
        })
        .collect();
    if wrong.is_empty() { Ok(()) } else { Err(Fault::invalid(wrong)) }
}

/// Resolves percent-encoding, once. `None` when it is malformed or no UTF-8.
fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let mut digit = || char::from(rest.next()?).to_digit(16);
            bytes.push(u8::try_from(digit()? * 16 + digit()?).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

/// A JSON value in whose objects no name comes twice.
struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor).map(Self)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(Strict(value)) = seq.next_element()? {
            values.push(value);
        }
        Ok(values.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some(name) = map.next_key::<String>()? {
            let Strict(value) = map.next_value()?;
            if fields.contains_key(&name) {
                return Err(A::Error::custom(format_args!("{name:?} comes twice")));
            }
            fields.insert(name, value);
        }
        Ok(fields.into())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::admin::api::route::{all, write};
    use crate::manage::certificates::RevokeName;

    fn route(name: &str) -> &'static Route {
        all().iter().find(|route| route.name == name).unwrap()
    }

    #[test]
    fn a_path_is_a_routes_or_nobodys() {
        let route = route("revokeCertificate");
        for (path, serial) in [
            ("/v1/certificates/0a/revoke", Some("0a")),
            ("/v1/certificates/0A%3A1b/revoke", Some("0A:1b")),
            ("/v1/certificates/a%2Fb/revoke", Some("a/b")),
            ("/v1/certificates/%252F/revoke", Some("%2F")),
            ("/v1/certificates//revoke", None),
            ("/v1/certificates/0a/revoke/", None),
            ("//v1/certificates/0a/revoke", None),
            ("/v1/certificates/a/b/revoke", None),
            ("/v1/certificates/0a/%72evoke", None),
            ("/v1/certificates/../certificates/0a/revoke", None),
            ("/V1/certificates/0a/revoke", None),
            ("/v1/certificates/%f/revoke", None),
            ("/v1/certificates/%ff/revoke", None),
            ("/v1/certificates/%", None),
            ("*", None),
            ("", None),
        ] {
            let fields = path_fields(route, path);
            assert_eq!(fields.as_ref().map(|fields| fields["serial"].as_str().unwrap()), serial, "{path}");
        }
    }

    #[test]
    fn a_query_is_typed_by_the_schema() {
        let route = route("listCertificates");
        let read = |query| {
            let mut fields = Fields::new();
            query_fields(route, Some(query), &mut fields).map(|()| Value::Object(fields).to_string())
        };
        assert_eq!(read("limit=5&expiring=7d").unwrap(), r#"{"expiring":"7d","limit":5}"#);
        assert_eq!(read("").unwrap(), "{}");
        for wrong in ["limit=five", "limit=-1", "limit=1&limit=2", "limit", "x=%zz", "limit=1%00"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_body_is_one_object_without_repeats() {
        let read = |body: &str| {
            let mut fields = Fields::from_iter([("name".to_owned(), "alice".into())]);
            body_fields(body.as_bytes(), &mut fields).map(|()| Value::Object(fields).to_string())
        };
        assert_eq!(read("").unwrap(), r#"{"name":"alice"}"#);
        assert_eq!(read(r#"{"a":[1,{"b":null}]}"#).unwrap(), r#"{"a":[1,{"b":null}],"name":"alice"}"#);
        let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
        for wrong in [
            "[]",
            "1",
            "{} {}",
            r#"{"a":1,"a":1}"#,
            r#"{"a":{"b":1,"b":2}}"#,
            r#"{"name":"bob"}"#,
            "{",
            &format!("{{\"a\":{deep}}}"),
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn unknown_fields_are_refused_with_the_near_one() {
        let fields = Fields::from_iter([("limt".to_owned(), 5.into())]);
        let fault = refuse_unknown(route("listCertificates"), &fields).unwrap_err();
        assert_eq!(fault.wrong[0].message, "is not a field of listCertificates; did you mean \"limit\"?");
    }

    proptest! {
        /// What the client writes is what the router reads, whatever the characters.
        #[test]
        fn what_is_written_reads_back(name in ".{1,12}", reason in proptest::option::of(".{0,12}")) {
            let written = write(&RevokeName { name: name.clone(), reason: reason.clone() }).unwrap();
            let mut fields = path_fields(route("revokeName"), &written.target).unwrap();
            body_fields(&written.body.unwrap(), &mut fields).unwrap();
            let read: RevokeName = serde_json::from_value(Value::Object(fields)).unwrap();
            prop_assert_eq!((read.name, read.reason), (name, reason));
        }
    }
}
