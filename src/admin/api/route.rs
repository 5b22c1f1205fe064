//! The routes of the admin API: one for each operation, and nothing beside them.
//!
//! Invariant: this table is read by the router, by the OpenAPI document and by the client, so the
//! three cannot disagree. What a request may say is what its operation's schema has.

use std::sync::OnceLock;

use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};

use crate::manage::Manager;
use crate::manage::certificates::{ListCertificates, RevokeCertificate, RevokeName};
use crate::manage::connectors::{DrainConnector, KickConnector, ListConnectors};
use crate::manage::enrollments::{CreateEnrollment, ListEnrollments, RevokeEnrollment};
use crate::manage::explain::Explain;
use crate::manage::fault::{Code, Fault};
use crate::manage::grants::{ListGrants, RemoveGrant, SetGrant, ShowGrants};
use crate::manage::keys::{CreateKey, DeleteKey, ImportKeys, ListKeys, RevokeKey, RotateKey, ShowKey, UpdateKey};
use crate::manage::operation::{Method, Operation};
use crate::manage::owners::{DisableOwner, EnableOwner, ListOwners};
use crate::manage::webhooks::InvalidateWebhooks;

/// The fields of a request by name.
pub type Fields = Map<String, Value>;

/// Where an operation is in the API.
#[derive(Debug)]
pub struct Route {
    /// Name of the operation.
    pub name: &'static str,
    /// What it does.
    pub summary: &'static str,
    /// How it is asked for.
    pub method: Method,
    /// Where, with fields in braces.
    pub path: &'static str,
    /// The status of success.
    pub status: u16,
    /// Most bytes of a body.
    pub max_body: usize,
    /// True when something may be different afterwards.
    pub changes: bool,
    /// True when the log shows the request as it was.
    pub logged_whole: bool,
    /// JSON schema of the request: all its fields, wherever they travel.
    pub request: Value,
    /// Describes request and answer among the components of the OpenAPI document.
    pub(super) describe: fn(&mut SchemaGenerator) -> Described,
    /// Does it.
    pub(super) run: fn(Fields, &mut Manager<'_>) -> Result<Done, Fault>,
}

/// What came of an operation.
#[derive(Debug)]
pub(super) struct Done {
    /// The answer, in JSON. It can hold a key that is shown once.
    pub(super) answer: Vec<u8>,
    /// What it is about, when the request did not say: the id of a key that was made.
    pub(super) id: Option<String>,
}

/// References to a request's and an answer's schema.
#[derive(Debug)]
pub(super) struct Described {
    pub(super) request: String,
    pub(super) answer: Value,
}

/// Every route.
pub fn all() -> &'static [Route] {
    static ROUTES: OnceLock<Vec<Route>> = OnceLock::new();
    ROUTES.get_or_init(|| {
        vec![
            Route::of::<ListKeys>(),
            Route::of::<CreateKey>(),
            Route::of::<ImportKeys>(),
            Route::of::<ShowKey>(),
            Route::of::<UpdateKey>(),
            Route::of::<DeleteKey>(),
            Route::of::<RotateKey>(),
            Route::of::<RevokeKey>(),
            Route::of::<ListGrants>(),
            Route::of::<ShowGrants>(),
            Route::of::<SetGrant>(),
            Route::of::<RemoveGrant>(),
            Route::of::<ListOwners>(),
            Route::of::<DisableOwner>(),
            Route::of::<EnableOwner>(),
            Route::of::<ListCertificates>(),
            Route::of::<RevokeCertificate>(),
            Route::of::<RevokeName>(),
            Route::of::<ListEnrollments>(),
            Route::of::<CreateEnrollment>(),
            Route::of::<RevokeEnrollment>(),
            Route::of::<Explain>(),
            Route::of::<InvalidateWebhooks>(),
            Route::of::<ListConnectors>(),
            Route::of::<DrainConnector>(),
            Route::of::<KickConnector>(),
        ]
    })
}

impl Route {
    fn of<O: Operation>() -> Self {
        Self {
            name: O::NAME,
            summary: O::SUMMARY,
            method: O::METHOD,
            path: O::PATH,
            status: if O::CREATES { 201 } else { 200 },
            max_body: O::MAX_BYTES,
            changes: O::CHANGES,
            logged_whole: O::LOGGED_WHOLE,
            request: settings().into_generator().into_root_schema_for::<O>().to_value(),
            describe: |generator| {
                let name = O::schema_name().into_owned();
                // Registers the request among the definitions.
                generator.subschema_for::<O>();
                Described { request: name, answer: generator.subschema_for::<O::Answer>().to_value() }
            },
            run: |fields, manager| {
                let invalid = |error: serde_json::Error| Fault::new(Code::InvalidRequest, error.to_string());
                let operation: O = serde_json::from_value(Value::Object(fields)).map_err(invalid)?;
                let answer = operation.perform(manager)?;
                let failed = |error: serde_json::Error| Fault::new(Code::Failed, error.to_string());
                let value = serde_json::to_value(&answer).map_err(failed)?;
                let id = value.get("id").and_then(Value::as_str).map(str::to_owned);
                Ok(Done { answer: serde_json::to_vec(&answer).map_err(failed)?, id })
            },
        }
    }

    /// The segments of the path, fields in braces included.
    pub(super) fn segments(&self) -> impl Iterator<Item = &'static str> + use<> {
        segments(self.path)
    }

    /// The fields that a request can have.
    pub(super) fn properties(&self) -> impl Iterator<Item = (&String, &Value)> {
        self.request.get("properties").and_then(Value::as_object).into_iter().flatten()
    }

    /// True when the field is part of the path.
    pub(super) fn in_path(&self, field: &str) -> bool {
        self.segments().filter_map(field_of).any(|name| name == field)
    }
}

/// JSON Schema 2020-12, which is that of OpenAPI 3.1.
pub(super) fn settings() -> SchemaSettings {
    let mut settings = SchemaSettings::draft2020_12();
    settings.definitions_path = "/components/schemas".into();
    settings
}

fn segments(path: &'static str) -> impl Iterator<Item = &'static str> {
    path.split('/').skip(1)
}

/// The field that a segment of a route stands for.
pub(super) fn field_of(segment: &str) -> Option<&str> {
    segment.strip_prefix('{')?.strip_suffix('}')
}

/// A request as it goes over the wire.
#[derive(Debug)]
pub struct Written {
    /// Path and query.
    pub target: String,
    /// The body, for the methods that have one.
    pub body: Option<Vec<u8>>,
}

/// Writes a request the way that the router reads it.
///
/// # Errors
///
/// When a field of the path is missing: never, with the operations that there are.
pub fn write<O: Operation>(operation: &O) -> Result<Written, Fault> {
    let failed = |error: serde_json::Error| Fault::new(Code::Failed, error.to_string());
    let Value::Object(mut fields) = serde_json::to_value(operation).map_err(failed)? else {
        return Err(Fault::new(Code::Failed, format!("{} has no fields", O::NAME)));
    };
    let mut target = String::new();
    for segment in segments(O::PATH) {
        target.push('/');
        match field_of(segment) {
            None => target.push_str(segment),
            Some(field) => match fields.remove(field) {
                Some(Value::String(text)) => escape(&text, &mut target),
                _ => return Err(Fault::field(field, "is missing")),
            },
        }
    }
    if O::METHOD.has_body() {
        let body = serde_json::to_vec(&Value::Object(fields)).map_err(failed)?;
        return Ok(Written { target, body: Some(body) });
    }
    let mut mark = '?';
    for (field, value) in fields {
        target.push(mark);
        target.push_str(&field);
        target.push('=');
        if let Value::String(text) = &value {
            escape(text, &mut target);
        } else {
            escape(&value.to_string(), &mut target);
        }
        mark = '&';
    }
    Ok(Written { target, body: None })
}

/// Percent-encodes all but the unreserved characters (RFC 3986, 2.3).
fn escape(text: &str, into: &mut String) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            into.push(char::from(byte));
        } else {
            into.push('%');
            into.extend(
                [byte >> 4, byte & 15]
                    .map(|digit| char::from_digit(u32::from(digit), 16).unwrap_or('0').to_ascii_uppercase()),
            );
        }
    }
}
