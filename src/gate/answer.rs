//! Endpoints that the gateway answers itself, filtered by what the caller may name.

use bytes::Bytes;
use http::Response;
use http::request::Parts;
use serde_json::{Value, json};

use crate::dialect::paths::Route;
use crate::domain::endpoint::Endpoint;
use crate::domain::refusal::Refusal;
use crate::gate::View;
use crate::gate::admit::Cleared;
use crate::gate::record::Record;
use crate::gate::respond;
use crate::gate::stream::ReplyBody;

/// The version of Ollama's API that is spoken here: clients ask before they use newer features.
const OLLAMA_VERSION: &str = "0.12.6";
/// Models have no date of their own; SDKs want one that parses.
const CREATED: u64 = 0;
const CREATED_AT: &str = "1970-01-01T00:00:00Z";

/// Answers an endpoint that needs no backend. `None` when it is not one of those; the caller of
/// this function goes on then.
///
/// # Errors
///
/// `model_not_found` for a single model that the caller may not name.
pub fn answer(view: &View, cleared: &Cleared<'_>, route: &Route) -> Result<Answer, Refusal> {
    let names = || cleared.allowed_models(served(view, route.endpoint));
    let answer = match route.endpoint {
        Endpoint::OpenAiModels => {
            let models: Vec<Value> = names().into_iter().map(model_card).collect();
            let end = |model: Option<&Value>| model.and_then(|model| model.get("id")).cloned().unwrap_or(Value::Null);
            let (first, last) = (end(models.first()), end(models.last()));
            // Anthropic's SDK reads the same path: its fields stand beside OpenAI's.
            Answer::json(
                &json!({"object": "list", "data": models, "has_more": false, "first_id": first, "last_id": last}),
            )
        }
        Endpoint::OpenAiModel => match names().into_iter().find(|name| Some(*name) == route.model_id.as_deref()) {
            Some(name) => Answer::json(&model_card(name)),
            None => return Err(Refusal::ModelNotFound { by: None }),
        },
        Endpoint::OllamaTags => Answer::json(
            &json!({"models": names().into_iter().map(|name| tag(name, "modified_at")).collect::<Vec<_>>()}),
        ),
        Endpoint::OllamaPs => Answer::json(
            &json!({"models": names().into_iter().map(|name| tag(name, "expires_at")).collect::<Vec<_>>()}),
        ),
        Endpoint::OllamaVersion => Answer::json(&json!({"version": OLLAMA_VERSION})),
        Endpoint::OllamaHeartbeat => {
            Answer { content_type: "text/plain; charset=utf-8", body: Bytes::from_static(b"Ollama is running") }
        }
        Endpoint::OpenAiChatCompletions
        | Endpoint::OpenAiCompletions
        | Endpoint::OpenAiResponses
        | Endpoint::OpenAiEmbeddings
        | Endpoint::OpenAiSpeech
        | Endpoint::OpenAiImages
        | Endpoint::OpenAiModerations
        | Endpoint::OpenAiRerank
        | Endpoint::OpenAiScore
        | Endpoint::OpenAiTokenize
        | Endpoint::OpenAiDetokenize
        | Endpoint::AnthropicMessages
        | Endpoint::AnthropicCountTokens
        | Endpoint::OllamaChat
        | Endpoint::OllamaGenerate
        | Endpoint::OllamaEmbed
        | Endpoint::OllamaEmbeddings
        | Endpoint::OllamaShow => return Err(Refusal::NotFound("This endpoint is not answered by the gateway.")),
    };
    Ok(answer)
}

/// What the gateway says by itself.
#[derive(Debug)]
pub struct Answer {
    content_type: &'static str,
    body: Bytes,
}

impl Answer {
    fn json(value: &Value) -> Self {
        Self { content_type: "application/json", body: Bytes::from(value.to_string()) }
    }

    /// The answer as a response.
    #[must_use]
    pub fn into_response(self, head: &Parts, record: Record) -> Response<ReplyBody> {
        respond::answer(self.content_type, self.body, head, record)
    }
}

/// Aliases that some backend serves in the dialects that read this list.
fn served(view: &View, endpoint: Endpoint) -> impl Iterator<Item = &str> {
    use crate::domain::endpoint::Dialect;
    let reads = move |dialect: &Dialect| match endpoint.dialect() {
        Dialect::Ollama => *dialect == Dialect::Ollama,
        Dialect::OpenAi | Dialect::Anthropic => *dialect != Dialect::Ollama,
    };
    let config = &view.settings.config;
    config
        .models
        .iter()
        .filter(move |model| {
            let backends = model.targets.iter().filter_map(|target| config.backends.get(target.backend.0));
            backends.flat_map(|backend| &backend.dialects).any(reads)
        })
        .map(|model| model.name.as_str())
}

fn model_card(name: &str) -> Value {
    json!({
        "id": name, "object": "model", "created": CREATED, "owned_by": "doorward",
        "type": "model", "display_name": name, "created_at": CREATED_AT,
    })
}

fn tag(name: &str, time_field: &str) -> Value {
    json!({
        "name": name, "model": name, time_field: CREATED_AT, "size": 0, "digest": "",
        "details": {"parent_model": "", "format": "", "family": "", "families": null, "parameter_size": "", "quantization_level": ""},
    })
}
