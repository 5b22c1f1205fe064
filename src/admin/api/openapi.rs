//! The OpenAPI 3.1 document, made of the routes and the schemas of their operations.

use std::sync::OnceLock;

use serde_json::{Map, Value, json};

use crate::admin::api::problem::{self, Problem, Refusal};
use crate::admin::api::route::{self, Route, all, field_of};
use crate::manage::fault::Code;

/// Where it is served.
pub const PATH: &str = "/openapi.json";

/// The document, as it is served and checked in.
pub fn document() -> &'static str {
    static TEXT: OnceLock<String> = OnceLock::new();
    TEXT.get_or_init(|| format!("{:#}\n", build()))
}

fn build() -> Value {
    let mut generator = route::settings().into_generator();
    let mut paths = Map::new();
    let mut requests = Vec::new();
    let problem = generator.subschema_for::<Problem>().to_value();
    for route in all() {
        let described = (route.describe)(&mut generator);
        let operation = operation(route, &described.request, &described.answer);
        requests.push((route, described.request));
        let path = paths.entry(route.path).or_insert_with(|| Value::Object(Map::new()));
        if let Value::Object(methods) = path {
            methods.insert(route.method.as_str().to_ascii_lowercase(), operation);
        }
    }
    let mut schemas = generator.take_definitions(true);
    for (route, name) in requests {
        // What is in the path or the query is described there.
        if let Some(schema) = schemas.remove(&name)
            && let Some(schema) = body_schema(route, schema)
        {
            schemas.insert(name, schema);
        }
    }
    json!({
        "openapi": "3.1.1",
        "info": {
            "title": "Doorward admin API",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Keys, owners, grants and certificates of a gateway. Served on the Unix socket admin.sock \
                            in the state directory, and over TLS with an operator's certificate on [admin] \
                            api_address. The same operations as `doorward key`, `grant`, `owner` and `cert`.",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "servers": [{ "url": "https://localhost:8445", "description": "[admin] api_address" }],
        "security": [{ "operator": [] }],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "operator": {
                    "type": "mutualTLS",
                    "description": "A certificate that `doorward cert issue NAME --role operator` made. On the Unix \
                                    socket the peer's uid counts instead: the gateway's own, or root.",
                },
            },
            "responses": {
                "Problem": {
                    "description": format!("Not done, and nothing was changed unless `code` is timed_out. Codes: {}.", codes()),
                    "content": { (problem::CONTENT_TYPE): { "schema": problem } },
                },
            },
            "schemas": schemas,
        },
    })
}

fn codes() -> String {
    let codes: Vec<_> = Code::ALL.into_iter().map(Code::as_str).chain(Refusal::CODES).collect();
    codes.join(", ")
}

fn operation(route: &Route, request: &str, answer: &Value) -> Value {
    let status = route.status.to_string();
    let mut operation = json!({
        "operationId": route.name,
        "summary": route.summary,
        "tags": [route.path.split('/').nth(2).unwrap_or_default()],
        "responses": {
            (status): {
                "description": if route.status == 201 { "Made." } else { "Done." },
                "content": { "application/json": { "schema": answer } },
            },
            "default": { "$ref": "#/components/responses/Problem" },
        },
    });
    let in_path = route.segments().filter_map(field_of).map(|field| parameter(route, field, "path"));
    let in_query = route.properties().map(|(field, _)| field).filter(|field| !route.in_path(field));
    let parameters: Vec<Value> = if route.method.has_body() {
        in_path.collect()
    } else {
        in_path.chain(in_query.map(|field| parameter(route, field, "query"))).collect()
    };
    if let Value::Object(fields) = &mut operation {
        if !parameters.is_empty() {
            fields.insert("parameters".to_owned(), parameters.into());
        }
        if route.method.has_body() && has_body_fields(route) {
            let required = required(&route.request).iter().any(|field| !route.in_path(field));
            let schema = json!({ "$ref": format!("#/components/schemas/{request}") });
            let body = json!({ "required": required, "content": { "application/json": { "schema": schema } } });
            fields.insert("requestBody".to_owned(), body);
        }
    }
    operation
}

fn has_body_fields(route: &Route) -> bool {
    route.properties().any(|(field, _)| !route.in_path(field))
}

fn parameter(route: &Route, field: &str, place: &str) -> Value {
    let schema = route.properties().find(|(name, _)| *name == field).map(|(_, schema)| schema.clone());
    let mut schema = schema.unwrap_or_else(|| json!({ "type": "string" }));
    let mut described = json!({ "name": field, "in": place, "required": place == "path" });
    if let (Value::Object(schema), Value::Object(described)) = (&mut schema, &mut described) {
        // A parameter that is absent is absent: it cannot be null.
        if let Some(Value::Array(kinds)) = schema.get("type")
            && let Some(kind) = kinds.iter().find(|kind| *kind != "null").cloned()
        {
            schema.insert("type".to_owned(), kind);
        }
        schema.remove("default");
        if let Some(text) = schema.remove("description") {
            described.insert("description".to_owned(), text);
        }
    }
    if let Value::Object(described) = &mut described {
        described.insert("schema".to_owned(), schema);
    }
    described
}

fn required(schema: &Value) -> Vec<String> {
    let fields = schema.get("required").and_then(Value::as_array).into_iter().flatten();
    fields.filter_map(|field| field.as_str().map(str::to_owned)).collect()
}

/// The schema of a body: without the fields of the path. `None` when there is no body.
fn body_schema(route: &Route, mut schema: Value) -> Option<Value> {
    if !route.method.has_body() || !has_body_fields(route) {
        return None;
    }
    let required: Vec<_> = required(&schema).into_iter().filter(|field| !route.in_path(field)).collect();
    if let Value::Object(fields) = &mut schema {
        if let Some(Value::Object(properties)) = fields.get_mut("properties") {
            properties.retain(|field, _| !route.in_path(field));
        }
        fields.remove("required");
        if !required.is_empty() {
            fields.insert("required".to_owned(), required.into());
        }
    }
    Some(schema)
}
