//! How many tokens a body asks for at most, in all its replies together, and writing a lower number
//! there.
//!
//! Invariant: after an edit every key by which a backend could read a cap has one, and none is
//! higher than it was; times the replies that the body asks for, none is higher than the new cap; but
//! none is 0, which Ollama reads as no end, in whatever dialect it comes. A body that asks for more
//! replies than the cap has tokens cannot be edited so: [`Caps::replies`] tells.

use std::ops::Range;

use bytes::Bytes;

use crate::dialect::seek;
use crate::dialect::spelling::whole_number;
use crate::domain::endpoint::Endpoint;

/// The lowest cap that all backends read as one.
const LEAST: u64 = 1;
const OPTIONS: &str = "options";
/// What Ollama calls it, inside of `options`.
const NUM_PREDICT: &str = "num_predict";
/// What llama.cpp calls it, and prefers to OpenAI's own keys.
const N_PREDICT: &str = "n_predict";

/// The keys by which a body says how many replies there are to one prompt: OpenAI's own; that of vLLM and
/// SGLang, which make so many and give the best; what llama.cpp calls it, and prefers to OpenAI's. Any
/// backend may read any of them.
const REPLIES: [&str; 3] = ["n", "best_of", "n_cmpl"];
/// The keys of completions, and what vLLM takes beside them: each can hold several prompts, and each
/// prompt has replies of its own.
const PROMPTS: [&str; 2] = ["prompt", "prompt_embeds"];
/// All that is noted.
const NOTED: [&str; 11] = [
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    NUM_PREDICT,
    N_PREDICT,
    OPTIONS,
    "n",
    "best_of",
    "n_cmpl",
    "prompt",
    "prompt_embeds",
];

/// Where a body's caps are, and what multiplies them: for each noted key where its value begins and
/// ends, `null` ones included. No value is empty, so one that is was not there.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Caps([(u32, u32); NOTED.len()]);

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
    /// Notes where the value of a reserved key is, if it is one of these.
    ///
    /// # Errors
    ///
    /// When it is further from the beginning than any body is long.
    pub(super) fn note(&mut self, field: &str, at: &Range<usize>) -> Result<(), std::num::TryFromIntError> {
        if let Some((_, place)) = NOTED.iter().zip(&mut self.0).find(|(noted, _)| **noted == field) {
            *place = (u32::try_from(at.start)?, u32::try_from(at.end)?);
        }
        Ok(())
    }

    /// The most tokens that `body` asks for in all, by whichever key a backend reads; `None` when by one
    /// of those that are there it asks for no end, as some read 0.
    pub(super) fn most(&self, body: &[u8]) -> Option<u64> {
        let mut most = None;
        for (_, at) in self.caps() {
            if !is_null(body, &at) {
                most = Some(value(body, &at).filter(|value| *value >= LEAST)?).max(most);
            }
        }
        most.map(|each: u64| each.saturating_mul(self.replies(body)))
    }

    /// How many replies of at most so many tokens `body` asks for; at least 1. Where backends read it
    /// differently it is the highest of what they read.
    pub(super) fn replies(&self, body: &[u8]) -> u64 {
        let of = |key| self.place(key).filter(|at| !is_null(body, at));
        let each = REPLIES.into_iter().filter_map(of).filter_map(|at| value(body, &at)).max();
        let prompts: u64 = PROMPTS.into_iter().filter_map(of).map(|at| prompts(body, &at)).sum();
        each.unwrap_or(1).max(1).saturating_mul(prompts.max(1))
    }

    /// What must be written where, so that no more than `most` tokens are asked for in all.
    pub(super) fn lowered(&self, endpoint: Endpoint, body: &[u8], most: u64) -> Vec<(Range<usize>, Bytes)> {
        let most = (most / self.replies(body)).max(LEAST);
        let mut edits = Vec::new();
        let begin = body.iter().position(|byte| *byte == b'{').map_or(0, |at| at + 1);
        if matches!(endpoint, Endpoint::OllamaChat | Endpoint::OllamaGenerate) {
            edits.push(self.lowered_option(body, begin, most));
        }
        let own = keys(endpoint);
        for (_, at) in self.caps().filter(|(field, _)| !own.contains(field) && *field != NUM_PREDICT) {
            let new = number(lower(body, &at, most));
            edits.push(Some((at, new)));
        }
        for &key in own {
            edits.push(match self.place(key) {
                Some(at) => {
                    let new = number(lower(body, &at, most));
                    Some((at, new))
                }
                // A body that names a model is never empty, so something follows.
                None => Some((begin..begin, format!("\"{key}\":{most},").into())),
            });
        }
        edits.into_iter().flatten().collect()
    }

    fn lowered_option(&self, body: &[u8], begin: usize, most: u64) -> Option<(Range<usize>, Bytes)> {
        if let Some(at) = self.place(NUM_PREDICT) {
            let new = number(lower(body, &at, most));
            return Some((at, new));
        }
        let member = format!("\"{NUM_PREDICT}\":{most}");
        match self.place(OPTIONS) {
            None => Some((begin..begin, format!("\"{OPTIONS}\":{{{member}}},").into())),
            Some(at) if is_null(body, &at) => Some((at, format!("{{{member}}}").into())),
            Some(at) => {
                let inside = at.start + 1;
                let rest = body.get(inside..at.end.saturating_sub(1)).unwrap_or_default();
                let comma = if rest.trim_ascii().is_empty() { "" } else { "," };
                Some((inside..inside, format!("{member}{comma}").into()))
            }
        }
    }

    /// The caps that are there, `null` ones included.
    fn caps(&self) -> impl Iterator<Item = (&'static str, Range<usize>)> {
        let cap = |field: &&str| *field != OPTIONS && !REPLIES.contains(field) && !PROMPTS.contains(field);
        NOTED.into_iter().filter(cap).filter_map(|field| Some((field, self.place(field)?)))
    }

    fn place(&self, key: &str) -> Option<Range<usize>> {
        let (_, &(start, end)) = NOTED.iter().zip(&self.0).find(|(noted, _)| **noted == key)?;
        (start < end).then_some(start as usize..end as usize)
    }
}

/// How many prompts the value at `at` holds: the strings, lists and objects of a list. A list of
/// numbers is one prompt, as is anything that is no list. The body is known to be JSON.
fn prompts(body: &[u8], at: &Range<usize>) -> u64 {
    let value = body.get(at.clone()).unwrap_or_default();
    if value.first() != Some(&b'[') {
        return 1;
    }
    let (mut prompts, mut depth, mut place) = (0, 0u32, 0);
    loop {
        place = seek::structure_stop(value, place);
        let Some(&byte) = value.get(place) else { return prompts.max(1) };
        prompts += u64::from(depth == 1 && byte != b']');
        place += 1;
        match byte {
            b'"' => place = end_of_string(value, place),
            b'[' | b'{' => depth += 1,
            _ => depth = depth.saturating_sub(1),
        }
    }
}

/// Where the string ends whose inside begins at `place`, behind its quote.
fn end_of_string(value: &[u8], mut place: usize) -> usize {
    loop {
        place = seek::string_stop(value, place);
        match value.get(place) {
            Some(b'\\') => place += 2,
            Some(_) | None => return place + 1,
        }
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
