//! What the gateway needs to know of a request body, and the one edit that it makes.
//!
//! Invariant: the model that was read is the model that is sent on. Every byte outside the edited
//! value reaches the backend as the caller wrote it.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::dialect::caps::Caps;
use crate::dialect::json::{self, Field, Kind};
use crate::dialect::spelling;
use crate::domain::endpoint::Endpoint;
use crate::domain::refusal::Refusal;
use crate::domain::route::is_alias;

/// What a body asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Request {
    /// The alias, in its grammar.
    pub model: Arc<str>,
    /// True when the reply is to come as a stream of events or lines.
    pub stream: bool,
    /// Where the model's value is in the body, quotes included.
    model_at: Range<usize>,
    caps: Caps,
}

const MODEL: Field = Field { name: "model", kind: Kind::String };
const STREAM: Field = Field { name: "stream", kind: Kind::Bool };
const STREAM_OPTIONS: Field = Field {
    name: "stream_options",
    kind: Kind::Object(&[
        Field { name: "include_usage", kind: Kind::Bool },
        Field { name: "continuous_usage_stats", kind: Kind::Bool },
    ]),
};
const MAX_TOKENS: Field = Field { name: "max_tokens", kind: Kind::Cap { least: 0 } };
const MAX_COMPLETION_TOKENS: Field = Field { name: "max_completion_tokens", kind: Kind::Cap { least: 0 } };
const MAX_OUTPUT_TOKENS: Field = Field { name: "max_output_tokens", kind: Kind::Cap { least: 0 } };
/// What llama.cpp reads before OpenAI's own keys: a cap there that is not this one is none. -1 is no end.
const N_PREDICT: Field = Field { name: "n_predict", kind: Kind::Cap { least: -2 } };
/// How many replies are made, or tried: each may have as many tokens as the caps say.
const N: Field = Field { name: "n", kind: Kind::Cap { least: 0 } };
const BEST_OF: Field = Field { name: "best_of", kind: Kind::Cap { least: 0 } };
/// What llama.cpp reads before `n`.
const N_CMPL: Field = Field { name: "n_cmpl", kind: Kind::Cap { least: 0 } };
/// One prompt or a list of them, each with replies of its own.
const PROMPT: Field = Field { name: "prompt", kind: Kind::Any };
/// vLLM's, beside or instead of those.
const PROMPT_EMBEDS: Field = Field { name: "prompt_embeds", kind: Kind::Any };
/// Ollama documents -1 (no end) and -2 (until the context is full).
const OPTIONS: Field =
    Field { name: "options", kind: Kind::Object(&[Field { name: "num_predict", kind: Kind::Cap { least: -2 } }]) };
/// Ollama's old spelling of `model`.
const NAME: Field = Field { name: "name", kind: Kind::String };

/// The reserved keys of an endpoint: all that the gateway reads of its body. `None` when it takes
/// no body.
const fn fields(endpoint: Endpoint) -> Option<&'static [Field]> {
    match endpoint {
        Endpoint::OpenAiChatCompletions => {
            Some(&[MODEL, STREAM, STREAM_OPTIONS, MAX_TOKENS, MAX_COMPLETION_TOKENS, N_PREDICT, N, BEST_OF, N_CMPL])
        }
        // llama.cpp reads the caps of chats here too, and before those that belong here.
        Endpoint::OpenAiCompletions => Some(&[
            MODEL,
            STREAM,
            STREAM_OPTIONS,
            MAX_TOKENS,
            MAX_COMPLETION_TOKENS,
            N_PREDICT,
            N,
            BEST_OF,
            N_CMPL,
            PROMPT,
            PROMPT_EMBEDS,
        ]),
        // llama.cpp makes a chat of it, and keeps what it does not know.
        Endpoint::OpenAiResponses => {
            Some(&[MODEL, STREAM, MAX_OUTPUT_TOKENS, MAX_TOKENS, MAX_COMPLETION_TOKENS, N_PREDICT, N, BEST_OF, N_CMPL])
        }
        Endpoint::OpenAiImages => Some(&[MODEL, STREAM]),
        Endpoint::AnthropicMessages => Some(&[MODEL, STREAM, MAX_TOKENS]),
        Endpoint::OllamaChat | Endpoint::OllamaGenerate => Some(&[MODEL, STREAM, OPTIONS]),
        Endpoint::OllamaShow => Some(&[MODEL, NAME]),
        Endpoint::OpenAiEmbeddings
        | Endpoint::OpenAiSpeech
        | Endpoint::OpenAiModerations
        | Endpoint::OpenAiRerank
        | Endpoint::OpenAiScore
        | Endpoint::OpenAiTokenize
        | Endpoint::OpenAiDetokenize
        | Endpoint::AnthropicCountTokens
        | Endpoint::OllamaEmbed
        | Endpoint::OllamaEmbeddings => Some(&[MODEL]),
        Endpoint::OpenAiModels
        | Endpoint::OpenAiModel
        | Endpoint::OllamaTags
        | Endpoint::OllamaPs
        | Endpoint::OllamaVersion
        | Endpoint::OllamaHeartbeat => None,
    }
}

/// Ollama streams unless it is told not to, the others when they are told to.
const fn streams_by_default(endpoint: Endpoint) -> bool {
    matches!(endpoint, Endpoint::OllamaChat | Endpoint::OllamaGenerate)
}

/// Reads the body of `endpoint`: step 7 of the check order, after size and encoding.
///
/// # Errors
///
/// [`Refusal::InvalidBody`] with a message for the caller: what is wrong and what to do. It never
/// quotes the body.
pub fn read(endpoint: Endpoint, body: &[u8]) -> Result<Request, Refusal> {
    let Some(fields) = fields(endpoint) else {
        return Err(Refusal::InvalidBody(format!("{endpoint} takes no body.")));
    };
    let (mut stream, mut model, mut name) = (streams_by_default(endpoint), None, None);
    let (mut caps, mut too_long) = (Caps::default(), false);
    json::scan(body, fields, &mut |field, range| {
        // Where a cap is null, one can be written.
        too_long |= caps.note(field, &range).is_err();
        let value = body.get(range.clone()).unwrap_or_default();
        match field {
            _ if value == b"null" => {}
            "model" => model = Some(range),
            "name" => name = Some(range),
            "stream" => stream = value == b"true",
            _ => {}
        }
    })
    .map_err(|fault| Refusal::InvalidBody(fault.to_string()))?;
    if too_long {
        return Err(wrong("The body is longer than 4 GiB: send less."));
    }
    if endpoint == Endpoint::OllamaShow {
        model = named_once(model, name)?;
    }
    let model_at = model.ok_or_else(|| wrong("\"model\" is missing: name the model."))?;
    let inside = body.get(model_at.start + 1..model_at.end - 1).and_then(|text| std::str::from_utf8(text).ok());
    let model = inside
        .and_then(spelling::unescape)
        .filter(|model| is_alias(model))
        .ok_or_else(|| wrong("\"model\" must be 1 to 256 characters of A-Z, a-z, 0-9 and . _ : / @ + -"))?
        .into();
    Ok(Request { model, stream, model_at, caps })
}

/// Ollama's own client always writes both keys, the unused one empty. Two that are not empty could
/// be two models.
fn named_once(model: Option<Range<usize>>, name: Option<Range<usize>>) -> Result<Option<Range<usize>>, Refusal> {
    let filled = |value: &Range<usize>| value.len() > "\"\"".len();
    match (model.filter(filled), name.filter(filled)) {
        (Some(_), Some(_)) => Err(wrong("\"model\" and \"name\" are both given: send \"model\" only.")),
        (model, name) => Ok(model.or(name)),
    }
}

fn wrong(message: &str) -> Refusal {
    Refusal::InvalidBody(message.to_owned())
}

impl Request {
    /// The pieces to send instead of `body`, which must be the one that was read, so that it names
    /// `model`, which may be any text, and asks for no more tokens in all than `lower` says (which are
    /// no fewer than [`replies`](Self::replies)): a few, those of `body` without a copy. One when nothing
    /// changes.
    ///
    /// A name that is spelled with escapes is written anew even when it stays the same: the
    /// backend never sees the caller's spelling.
    #[must_use]
    pub fn edited(&self, body: &Bytes, model: &str, lower: Option<(Endpoint, u64)>) -> Vec<Bytes> {
        let spelled_plainly = self.model_at.len() == self.model.len() + "\"\"".len();
        let model_stays = *model == *self.model && spelled_plainly;
        let mut edits = lower.map(|(endpoint, most)| self.caps.lowered(endpoint, body, most)).unwrap_or_default();
        if !model_stays {
            edits.push((self.model_at.clone(), Bytes::from(serde_json::Value::from(model).to_string())));
        }
        if edits.is_empty() {
            return vec![body.clone()];
        }
        // Stable: of two at one place the first stays the first.
        edits.sort_by_key(|(at, _)| at.start);
        let mut pieces = Vec::with_capacity(edits.len() * 2 + 1);
        let mut done = 0;
        for (Range { start, end }, new) in edits {
            let (start, end) = (start.clamp(done, body.len()), end.min(body.len()));
            if start > done {
                pieces.push(body.slice(done..start));
            }
            pieces.push(new);
            done = end.max(start);
        }
        pieces.push(body.slice(done..));
        pieces
    }

    /// The most tokens that `body`, which must be the one that was read, asks for in all its replies;
    /// `None` when it does not say.
    #[must_use]
    pub fn max_tokens(&self, body: &[u8]) -> Option<u64> {
        self.caps.most(body)
    }

    /// How many replies `body`, which must be the one that was read, asks for, so that each has at most
    /// so many tokens as its caps say: choices, tried or given, of each of its prompts. At least 1.
    #[must_use]
    pub fn replies(&self, body: &[u8]) -> u64 {
        self.caps.replies(body)
    }
}

#[cfg(test)]
#[path = "body_tests.rs"]
mod tests;
