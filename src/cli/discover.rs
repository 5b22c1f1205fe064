//! Finding inference servers on this host, and what they serve.

use std::time::Duration;

use serde::Deserialize;

use crate::cli::output::causes;
use crate::domain::endpoint::Dialect;
use crate::domain::route::is_alias;

/// Where Ollama, vLLM and llama-server listen unless told otherwise.
pub const USUAL: [&str; 3] = ["http://127.0.0.1:11434", "http://127.0.0.1:8000", "http://127.0.0.1:8080"];
const TIMEOUT: Duration = Duration::from_secs(3);
const MAX_REPLY: usize = 1024 * 1024;

/// A server that answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found {
    /// Its base URL, without a trailing slash.
    pub url: String,
    /// What it speaks.
    pub dialects: Vec<Dialect>,
    /// The models that it serves, those with names that can be aliases.
    pub models: Vec<String>,
}

#[derive(Deserialize)]
struct ModelList {
    data: Vec<ModelCard>,
}

#[derive(Deserialize)]
struct ModelCard {
    id: String,
    #[serde(default)]
    owned_by: String,
}

#[derive(Deserialize)]
struct TagList {
    models: Vec<Tag>,
}

#[derive(Deserialize)]
struct Tag {
    name: String,
}

#[derive(Deserialize)]
struct Version {}

/// Asks one server what it is.
///
/// # Errors
///
/// Why it is none that can be used.
pub async fn probe(url: &str) -> Result<Found, String> {
    let url = url.trim_end_matches('/');
    let client = reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(TIMEOUT)
        .build()
        .map_err(|error| error.to_string())?;
    let ask = async |path: &str| -> Result<Vec<u8>, String> {
        let mut response =
            client.get(format!("{url}{path}")).send().await.map_err(|error| causes(&error.without_url()))?;
        if !response.status().is_success() {
            return Err(format!("{path} answered {}", response.status()));
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| causes(&error.without_url()))? {
            body.extend_from_slice(&chunk);
            if body.len() > MAX_REPLY {
                return Err(format!("{path} answered with more than {MAX_REPLY} bytes"));
            }
        }
        Ok(body)
    };
    let is_ollama = ask("/api/version").await.is_ok_and(|body| serde_json::from_slice::<Version>(&body).is_ok());
    let list = ask("/v1/models").await.and_then(|body| {
        serde_json::from_slice::<ModelList>(&body).map_err(|error| format!("/v1/models is no list of models: {error}"))
    });
    let mut found = Found { url: url.to_owned(), dialects: Vec::new(), models: Vec::new() };
    match list {
        Ok(list) => {
            found.dialects.push(Dialect::OpenAi);
            // Both serve Anthropic's Messages API beside OpenAI's.
            if list.data.iter().any(|card| matches!(card.owned_by.as_str(), "llamacpp" | "vllm")) {
                found.dialects.push(Dialect::Anthropic);
            }
            found.models = list.data.into_iter().map(|card| card.id).collect();
        }
        Err(why) if !is_ollama => return Err(why),
        Err(_) => {
            let body = ask("/api/tags").await?;
            let tags: TagList =
                serde_json::from_slice(&body).map_err(|error| format!("/api/tags is no list of models: {error}"))?;
            found.models = tags.models.into_iter().map(|tag| tag.name).collect();
        }
    }
    if is_ollama {
        found.dialects.push(Dialect::Ollama);
    }
    found.models.retain(|model| is_alias(model));
    if found.models.is_empty() {
        return Err("it serves no model yet".to_owned());
    }
    Ok(found)
}
