//! `[[model]]`: public aliases and the targets that serve them.

use std::collections::HashMap;

use crate::config::document::{Table, Value};
use crate::config::gateway::backends::Declared;
use crate::config::suggest::did_you_mean;
use crate::domain::endpoint::{Endpoint, Endpoints};
use crate::domain::route::{BackendIndex, MAX_ALIAS_BYTES, Model, Target, is_alias};

/// Longest name that a backend may have for a model, in bytes.
const MAX_MODEL_BYTES: usize = 512;

/// Reads every `[[model]]`.
pub(super) fn read_models(sections: &[Value<'_>], backends: &[Declared]) -> Option<Vec<Model>> {
    let mut names = HashMap::new();
    let models: Vec<Option<Model>> = sections.iter().map(|entry| read_model(entry, &mut names, backends)).collect();
    models.into_iter().collect()
}

fn read_model(entry: &Value<'_>, names: &mut HashMap<String, String>, backends: &[Declared]) -> Option<Model> {
    entry.table(|table| {
        let name = table.require("name", "the alias that callers name, such as \"llama-3.1-8b\"");
        let name = name.and_then(|value| {
            let name = value.parsed(|text| {
                if is_alias(text) {
                    return Ok(text.to_owned());
                }
                Err(format!("{text:?} is not an alias: 1 to {MAX_ALIAS_BYTES} characters of A-Z a-z 0-9 . _ : / @ + -"))
            })?;
            value.distinct(name, names)
        });
        let targets = table.require("targets", "where it is served, such as [{ backend = \"vllm-a\", model = \"…\" }]");
        let targets = targets.and_then(|value| {
            value.each("a model without targets is served nowhere", |target| read_target(target, backends))
        });
        table.later("price", |_| false);
        Some(Model { name: name?, targets: targets? })
    })
}

fn read_target(entry: &Value<'_>, backends: &[Declared]) -> Option<Target> {
    entry.table(|table| {
        let backend = table.require("backend", "the name of a [[backend]]");
        let backend = backend.and_then(|value| {
            let index = value.parsed(|name| find_backend(name, backends));
            index.and_then(|index| backends.get(index.0).map(|backend| (index, backend)))
        });
        let model = table.require("model", "the backend's own name of the model");
        let model = model.and_then(|value| value.parsed(check_model_name));
        let weight = table.get("weight").map_or(Some(1), |value| value.number(1..=10_000));
        let priority = table.get("priority").map_or(Some(1), |value| value.number(1..=100));
        let endpoints = read_endpoints(table, backend.map(|(_, backend)| backend));
        Some(Target {
            backend: backend?.0,
            model: model?.into(),
            weight: weight?,
            priority: priority?,
            endpoints: endpoints?,
        })
    })
}

fn read_endpoints(table: &Table<'_>, backend: Option<&Declared>) -> Option<Option<Endpoints>> {
    let Some(value) = table.get("endpoints") else { return Some(None) };
    let endpoints = value.endpoints()?;
    if let Some(Declared { name: Some(name), dialects: Some(dialects) }) = backend {
        let served = |endpoint: &Endpoint| endpoints.contain(*endpoint) && dialects.contains(&endpoint.dialect());
        if !Endpoint::ALL.iter().any(served) {
            let spoken: Vec<_> = dialects.iter().map(|dialect| dialect.as_str()).collect();
            return value.refuse(&format!("backend {name} speaks {} only, which has none of these", spoken.join(", ")));
        }
    }
    Some(Some(endpoints))
}

fn find_backend(name: &str, backends: &[Declared]) -> Result<BackendIndex, String> {
    let known = || backends.iter().filter_map(|backend| backend.name.as_deref());
    if let Some(index) = backends.iter().position(|backend| backend.name.as_deref() == Some(name)) {
        return Ok(BackendIndex(index));
    }
    let choices = known().collect::<Vec<_>>().join(", ");
    let choices = if choices.is_empty() { "none".to_owned() } else { choices };
    Err(format!("no [[backend]] is named {name:?}{} (known: {choices})", did_you_mean(name, known())))
}

fn check_model_name(text: &str) -> Result<String, String> {
    if (1..=MAX_MODEL_BYTES).contains(&text.len()) {
        Ok(text.to_owned())
    } else {
        Err(format!("a backend's name of a model has 1 to {MAX_MODEL_BYTES} bytes"))
    }
}
