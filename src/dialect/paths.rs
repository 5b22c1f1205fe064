//! Which endpoint a path and a method name, and what of a query may pass.
//!
//! Invariant: the set of paths is closed and compared byte by byte. Nothing is decoded or
//! normalised, except `%2F` and `%3A` in the id of `/v1/models/{id}`, and what is sent to a backend
//! is written from this table, never from the caller's path.

use std::borrow::Cow;

use http::Method;

use crate::domain::endpoint::Endpoint;
use crate::domain::refusal::Refusal;
use crate::domain::route::is_alias;

/// What a path names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Route {
    /// The endpoint.
    pub endpoint: Endpoint,
    /// The `{id}` of `/v1/models/{id}`, decoded and in the alias grammar; `None` everywhere else.
    pub model_id: Option<String>,
}

/// The prefix of the only path with a variable part.
const MODEL_PREFIX: &str = "/v1/models/";

/// The path of `endpoint` at a backend: the same as at the gateway.
#[must_use]
pub const fn upstream_path(endpoint: Endpoint) -> &'static str {
    match endpoint {
        Endpoint::OpenAiChatCompletions => "/v1/chat/completions",
        Endpoint::OpenAiCompletions => "/v1/completions",
        Endpoint::OpenAiResponses => "/v1/responses",
        Endpoint::OpenAiEmbeddings => "/v1/embeddings",
        Endpoint::OpenAiModels => "/v1/models",
        Endpoint::OpenAiModel => MODEL_PREFIX,
        Endpoint::OpenAiSpeech => "/v1/audio/speech",
        Endpoint::OpenAiImages => "/v1/images/generations",
        Endpoint::OpenAiModerations => "/v1/moderations",
        Endpoint::OpenAiRerank => "/v1/rerank",
        Endpoint::OpenAiScore => "/v1/score",
        Endpoint::OpenAiTokenize => "/tokenize",
        Endpoint::OpenAiDetokenize => "/detokenize",
        Endpoint::AnthropicMessages => "/v1/messages",
        Endpoint::AnthropicCountTokens => "/v1/messages/count_tokens",
        Endpoint::OllamaChat => "/api/chat",
        Endpoint::OllamaGenerate => "/api/generate",
        Endpoint::OllamaEmbed => "/api/embed",
        Endpoint::OllamaEmbeddings => "/api/embeddings",
        Endpoint::OllamaTags => "/api/tags",
        Endpoint::OllamaShow => "/api/show",
        Endpoint::OllamaPs => "/api/ps",
        Endpoint::OllamaVersion => "/api/version",
        Endpoint::OllamaHeartbeat => "/",
    }
}

/// True when the gateway answers the endpoint itself and no backend is asked.
#[must_use]
pub const fn is_answered_here(endpoint: Endpoint) -> bool {
    match endpoint {
        Endpoint::OpenAiModels
        | Endpoint::OpenAiModel
        | Endpoint::OllamaTags
        | Endpoint::OllamaPs
        | Endpoint::OllamaVersion
        | Endpoint::OllamaHeartbeat => true,
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
        | Endpoint::OllamaShow => false,
    }
}

/// The methods of `endpoint`, as an `Allow` header: what the gateway answers is read, the rest is
/// posted.
#[must_use]
pub fn allow(endpoint: Endpoint) -> &'static str {
    if endpoint == Endpoint::OllamaHeartbeat {
        "GET, HEAD"
    } else if is_answered_here(endpoint) {
        "GET"
    } else {
        "POST"
    }
}

/// Finds what `method` and `path` (without its query) name: the first half of step 6.
///
/// # Errors
///
/// [`Refusal::InvalidPath`] for what no endpoint's path could be, [`Refusal::NotFound`] for an
/// unknown path, [`Refusal::MethodNotAllowed`], and [`Refusal::ModelNotFound`] for an id that no
/// alias can have.
pub fn find(method: &Method, path: &str) -> Result<Route, Refusal> {
    let id = path.strip_prefix(MODEL_PREFIX).filter(|id| !id.is_empty());
    let decoded = id.map_or(Cow::Borrowed(path), |id| Cow::Owned(format!("{MODEL_PREFIX}{}", decode_id(id))));
    if let Some(why) = oddity(&decoded) {
        return Err(Refusal::InvalidPath(why));
    }
    let endpoint = match id {
        Some(_) => Some(Endpoint::OpenAiModel),
        None => Endpoint::ALL.into_iter().find(|e| *e != Endpoint::OpenAiModel && upstream_path(*e) == path),
    };
    let endpoint = endpoint.ok_or_else(|| Refusal::NotFound(why_not_found(path)))?;
    let allow = allow(endpoint);
    if !allow.split(", ").any(|allowed| allowed == method.as_str()) {
        return Err(Refusal::MethodNotAllowed { allow });
    }
    let model_id = id.and(decoded.strip_prefix(MODEL_PREFIX));
    if model_id.is_some_and(|id| !is_alias(id)) {
        return Err(Refusal::ModelNotFound { by: None });
    }
    Ok(Route { endpoint, model_id: model_id.map(str::to_owned) })
}

/// Decodes `%2F` and `%3A`, which clients write into model ids, and nothing else.
fn decode_id(id: &str) -> String {
    id.replace("%2F", "/").replace("%2f", "/").replace("%3A", ":").replace("%3a", ":")
}

/// What makes a path one that no endpoint could have, and that some reader on the way may take for
/// another path.
fn oddity(path: &str) -> Option<&'static str> {
    if !path.starts_with('/') {
        return Some("The request target must be a path that begins with a slash.");
    }
    let mut before = 0;
    for byte in path.bytes() {
        match byte {
            b'%' => return Some("The path has a percent escape: write it without."),
            b'\\' | b';' | b'#' | b'?' => return Some("The path has one of the characters \\ ; # ?"),
            b'/' if before == b'/' => {
                return Some("The path has two slashes in a row: check the base URL for a trailing slash.");
            }
            0..=b' ' | 0x7f..=0xff => {
                return Some("The path has white space, a control character or a character outside ASCII.");
            }
            _ => before = byte,
        }
    }
    let dots = path.contains("/.") && path.split('/').any(|segment| matches!(segment, "." | ".."));
    dots.then_some("The path has a dot segment: write it resolved.")
}

/// What to tell about a path that is not served.
fn why_not_found(path: &str) -> &'static str {
    const STATEFUL: [&str; 10] = [
        "/v1/responses/",
        "/v1/files",
        "/v1/uploads",
        "/v1/batches",
        "/v1/messages/batches",
        "/v1/conversations",
        "/v1/assistants",
        "/v1/threads",
        "/v1/vector_stores",
        "/v1/fine_tuning",
    ];
    const ADMINISTRATION: [&str; 7] =
        ["/api/pull", "/api/push", "/api/create", "/api/copy", "/api/delete", "/api/blobs", "/v1/load_lora_adapter"];
    let below = |prefix: &str| {
        path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || prefix.ends_with('/'))
    };
    if below("/v1/realtime") {
        "Realtime and WebSocket sessions are not available in this version."
    } else if below("/v1/audio/transcriptions") || below("/v1/audio/translations") {
        "Audio uploads are not available in this version."
    } else if STATEFUL.into_iter().any(below) {
        "Stored objects (responses by id, files, batches, threads) are not available in this version: send what is needed in each request."
    } else if ADMINISTRATION.into_iter().any(below) {
        "Backends are not administered through the gateway."
    } else {
        "No endpoint has this path. The base URL of OpenAI clients ends in /v1, that of Anthropic and Ollama clients does not."
    }
}

/// The part of a query that is sent to the backend: the second half of step 6. Parameters that the
/// endpoint does not list are dropped.
///
/// # Errors
///
/// [`Refusal::InvalidPath`] when the query names a `model`, in any spelling, or a listed parameter
/// twice or with a value outside its grammar.
pub fn check_query(endpoint: Endpoint, query: Option<&str>) -> Result<Option<String>, Refusal> {
    let takes_beta = matches!(endpoint, Endpoint::AnthropicMessages | Endpoint::AnthropicCountTokens);
    let mut kept = None;
    for pair in query.unwrap_or_default().split('&') {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        if percent_decoded(name).eq_ignore_ascii_case("model") {
            return Err(Refusal::InvalidPath("The model belongs into the body, not into the query."));
        }
        if !takes_beta || name != "beta" {
            continue;
        }
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b',' | b'-');
        if value.len() > 64 || !value.bytes().all(plain) {
            return Err(Refusal::InvalidPath("\"beta\" takes at most 64 characters of A-Z, a-z, 0-9 and . _ , -"));
        }
        if kept.replace(pair.to_owned()).is_some() {
            return Err(Refusal::InvalidPath("\"beta\" is in the query twice: send it once."));
        }
    }
    Ok(kept)
}

/// True when the query seems to carry a credential: by the name of a parameter or by a value, or a
/// name, in the form of a key. For step 2.
#[must_use]
pub fn has_credential(query: &str) -> bool {
    const NAMES: [&str; 9] =
        ["key", "apikey", "accesstoken", "authtoken", "token", "authorization", "auth", "bearer", "xapikey"];
    query.split(['&', ';']).any(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (name, value) = (percent_decoded(name).to_ascii_lowercase(), percent_decoded(value));
        // `api_key`, `api-key` and `apikey` are one name to a human.
        let squeezed: String = name.chars().filter(|letter| letter.is_alphanumeric()).collect();
        let value = value.trim();
        let value = value
            .get(.."bearer ".len())
            .filter(|scheme| scheme.eq_ignore_ascii_case("bearer "))
            .map_or(value, |scheme| value.get(scheme.len()..).unwrap_or_default().trim_start());
        NAMES.contains(&squeezed.as_str()) || value.starts_with("dw_") || name.trim().starts_with("dw_")
    })
}

/// Form-decodes a part of a query; broken escapes stay as they are.
fn percent_decoded(text: &str) -> Cow<'_, str> {
    if !text.contains(['%', '+']) {
        return Cow::Borrowed(text);
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let escaped = tail.get(..2).filter(|digits| byte == b'%' && digits.iter().all(u8::is_ascii_hexdigit));
        let value = escaped.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        bytes.push(value.unwrap_or(if byte == b'+' { b' ' } else { byte }));
        rest = if value.is_some() { tail.get(2..).unwrap_or_default() } else { tail };
    }
    Cow::Owned(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
#[path = "paths_tests.rs"]
mod tests;
