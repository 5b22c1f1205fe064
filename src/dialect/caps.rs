//! How many tokens a body asks for at most, and writing a lower number there.
//!
//! Invariant: after an edit every key by which a backend could read a cap has one, and none is
//! higher than it was or than the new cap; but none is 0, which Ollama reads as no end, in whatever
//! dialect it comes.

use std::ops::Range;

use bytes::Bytes;

use crate::dialect::spelling::whole_number;
use crate::domain::endpoint::Endpoint;

/// The lowest cap that all backends read as one.
const LEAST: u64 = 1;
const OPTIONS: &str = "options";
/// What Ollama calls it, inside of `options`.
const NUM_PREDICT: &str = "num_predict";
/// What llama.cpp calls it, and prefers to OpenAI's own keys.
const N_PREDICT: &str = "n_predict";

/// Where a body's caps are: the values of at most four keys, `null` ones included.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Caps([Option<(&'static str, Range<usize>)>; 4]);

/// The keys on the top level that cap what an endpoint generates. Backends read one or the other. Those
/// that one backend reads beside them, or before, are lowered where they are and written nowhere else.
const fn keys(endpoint: Endpoint) -> &'static [&'static str] {
    match endpoint {
        Endpoint::OpenAiChatCompletions => &["max_tokens", "max_completion_tokens"],
        Endpoint::OpenAiCompletions | Endpoint::AnthropicMessages => &["max_tokens"],
        Endpoint::OpenAiResponses => &["max_output_tokens"],
        Endpoint::OllamaChat
        | Endpoint::OllamaGenerate
        | Endpoint::OpenAiEmbeddings
        | Endpoint::OpenAiSpeech
        | Endpoint::OpenAiImages
        | Endpoint::OpenAiModerations
        | Endpoint::OpenAiRerank
        | Endpoint::OpenAiScore
        | Endpoint::OpenAiTokenize
        | Endpoint::OpenAiDetokenize
        | Endpoint::OpenAiModels
        | Endpoint::OpenAiModel
        | Endpoint::AnthropicCountTokens
        | Endpoint::OllamaEmbed
        | Endpoint::OllamaEmbeddings
        | Endpoint::OllamaShow
        | Endpoint::OllamaTags
        | Endpoint::OllamaPs
        | Endpoint::OllamaVersion
        | Endpoint::OllamaHeartbeat => &[],
    }
}

impl Caps {
    /// Notes where the value of a reserved key is, if it is one of a cap's.
    pub(super) fn note(&mut self, field: &'static str, at: Range<usize>) {
        let known = matches!(
            field,
            "max_tokens" | "max_completion_tokens" | "max_output_tokens" | NUM_PREDICT | N_PREDICT | OPTIONS
        );
        if let (true, Some(free)) = (known, self.0.iter_mut().find(|place| place.is_none())) {
            *free = Some((field, at));
        }
    }

    /// The most tokens that `body` asks for, by whichever key a backend reads; `None` when by one of
    /// those that are there it asks for no end, as some read 0.
    pub(super) fn most(&self, body: &[u8]) -> Option<u64> {
        let mut most = None;
        for (field, at) in self.0.iter().flatten() {
            if *field != OPTIONS && !is_null(body, at) {
                most = Some(value(body, at).filter(|value| *value >= LEAST)?).max(most);
            }
        }
        most
    }

    /// What must be written where, so that no more than `most` tokens are asked for.
    pub(super) fn lowered(&self, endpoint: Endpoint, body: &[u8], most: u64) -> Vec<(Range<usize>, Bytes)> {
        let most = most.max(LEAST);
        let mut edits = Vec::new();
        let begin = body.iter().position(|byte| *byte == b'{').map_or(0, |at| at + 1);
        if matches!(endpoint, Endpoint::OllamaChat | Endpoint::OllamaGenerate) {
            edits.push(self.lowered_option(body, begin, most));
        }
        let own = keys(endpoint);
        let beside = |field: &str| !own.contains(&field) && field != OPTIONS && field != NUM_PREDICT;
        for (_, at) in self.0.iter().flatten().filter(|(field, _)| beside(field)) {
            edits.push(Some((at.clone(), number(lower(body, at, most)))));
        }
        for &key in own {
            edits.push(match self.place(key) {
                Some(at) => Some((at.clone(), number(lower(body, at, most)))),
                // A body that names a model is never empty, so something follows.
                None => Some((begin..begin, format!("\"{key}\":{most},").into())),
            });
        }
        edits.into_iter().flatten().collect()
    }

    fn lowered_option(&self, body: &[u8], begin: usize, most: u64) -> Option<(Range<usize>, Bytes)> {
        if let Some(at) = self.place(NUM_PREDICT) {
            return Some((at.clone(), number(lower(body, at, most))));
        }
        let member = format!("\"{NUM_PREDICT}\":{most}");
        match self.place(OPTIONS) {
            None => Some((begin..begin, format!("\"{OPTIONS}\":{{{member}}},").into())),
            Some(at) if is_null(body, at) => Some((at.clone(), format!("{{{member}}}").into())),
            Some(at) => {
                let inside = at.start + 1;
                let rest = body.get(inside..at.end.saturating_sub(1)).unwrap_or_default();
                let comma = if rest.trim_ascii().is_empty() { "" } else { "," };
                Some((inside..inside, format!("{member}{comma}").into()))
            }
        }
    }

    fn place(&self, key: &str) -> Option<&Range<usize>> {
        self.0.iter().flatten().find(|(field, _)| *field == key).map(|(_, at)| at)
    }
}

/// The value at `at`, but no more than `most`, and a cap. `null` and what has no end (-1) is more. Where
/// 0 is no end 1 is less, and where it is none 1 is the next.
fn lower(body: &[u8], at: &Range<usize>, most: u64) -> u64 {
    value(body, at).map_or(most, |value| value.clamp(LEAST, most))
}

fn number(number: u64) -> Bytes {
    Bytes::copy_from_slice(itoa::Buffer::new().format(number).as_bytes())
}

fn value(body: &[u8], at: &Range<usize>) -> Option<u64> {
    let text = std::str::from_utf8(body.get(at.clone())?).ok()?;
    u64::try_from(whole_number(text)?).ok()
}

fn is_null(body: &[u8], at: &Range<usize>) -> bool {
    body.get(at.clone()) == Some(b"null")
}

#[cfg(test)]
#[path = "caps_tests.rs"]
mod tests;
