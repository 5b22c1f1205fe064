//! The closed set of operations that callers may name.
//!
//! Invariant: administration of a backend (pulling models, LoRA, sleep, slots, metrics, …) has no
//! [`Endpoint`], so no grant, glob or group can ever reach it.

use std::fmt;
use std::sync::Arc;

use crate::domain::glob::Glob;

/// An API family. It decides the shape of paths, bodies and errors.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Dialect {
    /// OpenAI's API, as vLLM, llama-server, SGLang and others speak it.
    OpenAi,
    /// Anthropic's Messages API.
    Anthropic,
    /// Ollama's native API.
    Ollama,
}

impl Dialect {
    /// Every dialect.
    pub const ALL: [Self; 3] = [Self::OpenAi, Self::Anthropic, Self::Ollama];

    /// The word in config, endpoint names and records.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OpenAi => "openai",
            Self::Anthropic => "anthropic",
            Self::Ollama => "ollama",
        }
    }

    /// Reads the word.
    ///
    /// # Errors
    ///
    /// When `text` is not the name of a dialect.
    pub fn parse(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|dialect| dialect.as_str() == text)
            .ok_or_else(|| format!("{text:?} is not a dialect (openai, anthropic, ollama)"))
    }
}

/// A named operation of a dialect.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Endpoint {
    /// `POST /v1/chat/completions`
    OpenAiChatCompletions,
    /// `POST /v1/completions`
    OpenAiCompletions,
    /// `POST /v1/responses`
    OpenAiResponses,
    /// `POST /v1/embeddings`
    OpenAiEmbeddings,
    /// `GET /v1/models`, answered by the gateway
    OpenAiModels,
    /// `GET /v1/models/{id}`, answered by the gateway
    OpenAiModel,
    /// `POST /v1/audio/speech`
    OpenAiSpeech,
    /// `POST /v1/images/generations`
    OpenAiImages,
    /// `POST /v1/moderations`
    OpenAiModerations,
    /// `POST /v1/rerank`
    OpenAiRerank,
    /// `POST /v1/score`
    OpenAiScore,
    /// `POST /tokenize`
    OpenAiTokenize,
    /// `POST /detokenize`
    OpenAiDetokenize,
    /// `POST /v1/messages`
    AnthropicMessages,
    /// `POST /v1/messages/count_tokens`
    AnthropicCountTokens,
    /// `POST /api/chat`
    OllamaChat,
    /// `POST /api/generate`
    OllamaGenerate,
    /// `POST /api/embed`
    OllamaEmbed,
    /// `POST /api/embeddings`
    OllamaEmbeddings,
    /// `GET /api/tags`, answered by the gateway
    OllamaTags,
    /// `POST /api/show`
    OllamaShow,
    /// `GET /api/ps`, answered by the gateway
    OllamaPs,
    /// `GET /api/version`, answered by the gateway
    OllamaVersion,
    /// `GET|HEAD /`, answered by the gateway
    OllamaHeartbeat,
}

use Endpoint as E;

impl Endpoint {
    /// Every endpoint, in the order of the enum.
    pub const ALL: [Self; 24] = [
        Self::OpenAiChatCompletions,
        Self::OpenAiCompletions,
        Self::OpenAiResponses,
        Self::OpenAiEmbeddings,
        Self::OpenAiModels,
        Self::OpenAiModel,
        Self::OpenAiSpeech,
        Self::OpenAiImages,
        Self::OpenAiModerations,
        Self::OpenAiRerank,
        Self::OpenAiScore,
        Self::OpenAiTokenize,
        Self::OpenAiDetokenize,
        Self::AnthropicMessages,
        Self::AnthropicCountTokens,
        Self::OllamaChat,
        Self::OllamaGenerate,
        Self::OllamaEmbed,
        Self::OllamaEmbeddings,
        Self::OllamaTags,
        Self::OllamaShow,
        Self::OllamaPs,
        Self::OllamaVersion,
        Self::OllamaHeartbeat,
    ];

    /// The name in grants and records: `<dialect>.<operation>`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::OpenAiChatCompletions => "openai.chat_completions",
            Self::OpenAiCompletions => "openai.completions",
            Self::OpenAiResponses => "openai.responses",
            Self::OpenAiEmbeddings => "openai.embeddings",
            Self::OpenAiModels => "openai.models",
            Self::OpenAiModel => "openai.model",
            Self::OpenAiSpeech => "openai.speech",
            Self::OpenAiImages => "openai.images",
            Self::OpenAiModerations => "openai.moderations",
            Self::OpenAiRerank => "openai.rerank",
            Self::OpenAiScore => "openai.score",
            Self::OpenAiTokenize => "openai.tokenize",
            Self::OpenAiDetokenize => "openai.detokenize",
            Self::AnthropicMessages => "anthropic.messages",
            Self::AnthropicCountTokens => "anthropic.count_tokens",
            Self::OllamaChat => "ollama.chat",
            Self::OllamaGenerate => "ollama.generate",
            Self::OllamaEmbed => "ollama.embed",
            Self::OllamaEmbeddings => "ollama.embeddings",
            Self::OllamaTags => "ollama.tags",
            Self::OllamaShow => "ollama.show",
            Self::OllamaPs => "ollama.ps",
            Self::OllamaVersion => "ollama.version",
            Self::OllamaHeartbeat => "ollama.heartbeat",
        }
    }

    /// The dialect that the endpoint belongs to.
    #[must_use]
    pub const fn dialect(self) -> Dialect {
        match self {
            Self::OpenAiChatCompletions
            | Self::OpenAiCompletions
            | Self::OpenAiResponses
            | Self::OpenAiEmbeddings
            | Self::OpenAiModels
            | Self::OpenAiModel
            | Self::OpenAiSpeech
            | Self::OpenAiImages
            | Self::OpenAiModerations
            | Self::OpenAiRerank
            | Self::OpenAiScore
            | Self::OpenAiTokenize
            | Self::OpenAiDetokenize => Dialect::OpenAi,
            Self::AnthropicMessages | Self::AnthropicCountTokens => Dialect::Anthropic,
            Self::OllamaChat
            | Self::OllamaGenerate
            | Self::OllamaEmbed
            | Self::OllamaEmbeddings
            | Self::OllamaTags
            | Self::OllamaShow
            | Self::OllamaPs
            | Self::OllamaVersion
            | Self::OllamaHeartbeat => Dialect::Ollama,
        }
    }

    const fn bit(self) -> u64 {
        1 << (self as u8)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Group words of grants, with what they stand for. `@inference` is everything but `@models` and
/// `@tokenize`.
const GROUPS: [(&str, &[Endpoint]); 7] = [
    ("@chat", &[E::OpenAiChatCompletions, E::OpenAiResponses, E::AnthropicMessages, E::OllamaChat]),
    ("@completions", &[E::OpenAiCompletions, E::OllamaGenerate]),
    ("@embeddings", &[E::OpenAiEmbeddings, E::OllamaEmbed, E::OllamaEmbeddings]),
    (
        "@models",
        &[
            E::OpenAiModels,
            E::OpenAiModel,
            E::OllamaTags,
            E::OllamaShow,
            E::OllamaPs,
            E::OllamaVersion,
            E::OllamaHeartbeat,
        ],
    ),
    ("@audio", &[E::OpenAiSpeech]),
    ("@rerank", &[E::OpenAiRerank, E::OpenAiScore]),
    ("@tokenize", &[E::OpenAiTokenize, E::OpenAiDetokenize, E::AnthropicCountTokens]),
];

/// Names that the design has and this version does not serve yet.
const LATER: [&str; 2] = ["openai.transcriptions", "openai.translations"];

/// A set of endpoints, with the words that it was written in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Endpoints {
    bits: u64,
    words: Arc<[Box<str>]>,
}

impl Endpoints {
    /// Reads a list of names, groups (`@chat`) and patterns (`ollama.*`).
    ///
    /// # Errors
    ///
    /// Every entry that is wrong, as its index and why, with the nearest known word. An empty list
    /// is wrong as a whole: index 0.
    pub fn parse<S: AsRef<str>>(entries: &[S]) -> Result<Self, Vec<(usize, String)>> {
        if entries.is_empty() {
            return Err(vec![(
                0,
                "an empty list allows nothing; leave it out, or write [\"*\"] for every endpoint".to_owned(),
            )]);
        }
        let (mut bits, mut wrong) = (0, Vec::new());
        for (index, entry) in entries.iter().enumerate() {
            match select(entry.as_ref()) {
                Ok(more) => bits |= more,
                Err(why) => wrong.push((index, why)),
            }
        }
        let words = entries.iter().map(|entry| entry.as_ref().into()).collect();
        if wrong.is_empty() { Ok(Self { bits, words }) } else { Err(wrong) }
    }

    /// True when `endpoint` is in the set.
    #[must_use]
    pub const fn contain(&self, endpoint: Endpoint) -> bool {
        self.bits & endpoint.bit() != 0
    }

    /// True when every endpoint of `narrower` is in this set.
    #[must_use]
    pub const fn cover(&self, narrower: &Self) -> bool {
        narrower.bits & !self.bits == 0
    }

    /// The words that the set was written in.
    #[must_use]
    pub fn entries(&self) -> Vec<String> {
        self.words.iter().map(ToString::to_string).collect()
    }

    /// Every word that a list may hold besides patterns: for error messages and completions.
    pub fn vocabulary() -> impl Iterator<Item = &'static str> {
        let groups = GROUPS.iter().map(|(name, _)| *name).chain(["@inference"]);
        Endpoint::ALL.into_iter().map(Endpoint::name).chain(groups)
    }
}

fn select(word: &str) -> Result<u64, String> {
    let union = |endpoints: &[Endpoint]| endpoints.iter().fold(0, |bits, endpoint| bits | endpoint.bit());
    let group = |name: &str| GROUPS.iter().find(|(known, _)| *known == name).map(|(_, endpoints)| union(endpoints));
    if let Some(bits) = group(word) {
        return Ok(bits);
    }
    if word == "@inference" {
        let not = group("@models").unwrap_or(0) | group("@tokenize").unwrap_or(0);
        return Ok(union(&Endpoint::ALL) & !not);
    }
    if LATER.contains(&word) {
        return Err(format!("{word} is not available in this version"));
    }
    let glob = Glob::parse(word)?;
    let bits = Endpoint::ALL
        .into_iter()
        .filter(|endpoint| glob.matches(endpoint.name()))
        .fold(0, |bits, endpoint| bits | endpoint.bit());
    if bits == 0 { Err(format!("{word:?} names no endpoint")) } else { Ok(bits) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_and_names_are_distinct() {
        let bits = Endpoint::ALL.iter().fold(0u64, |bits, e| bits | e.bit());
        assert_eq!(bits.count_ones() as usize, Endpoint::ALL.len());
        for endpoint in Endpoint::ALL {
            assert!(endpoint.name().starts_with(endpoint.dialect().as_str()));
        }
    }

    #[test]
    fn groups_globs_and_names_select() {
        check(&["@chat"], &[E::OpenAiChatCompletions, E::AnthropicMessages], &[E::OllamaTags, E::OpenAiEmbeddings]);
        check(&["ollama.*"], &[E::OllamaTags, E::OllamaChat], &[E::OpenAiModels]);
        check(&["@inference"], &[E::OpenAiSpeech, E::OllamaEmbed], &[E::OllamaShow, E::OpenAiTokenize]);
        check(&["*"], &Endpoint::ALL, &[]);
        check(&["openai.model"], &[E::OpenAiModel], &[E::OpenAiModels]);
    }

    #[track_caller]
    fn check(words: &[&str], inside: &[Endpoint], outside: &[Endpoint]) {
        let set = Endpoints::parse(words).unwrap();
        assert!(inside.iter().all(|&e| set.contain(e)), "{words:?}");
        assert!(!outside.iter().any(|&e| set.contain(e)), "{words:?}");
    }

    #[test]
    fn administration_has_no_name() {
        for word in ["ollama.pull", "ollama.delete", "openai.load_lora_adapter", "vllm.*", "@admin", "", "Ollama.*"] {
            assert!(Endpoints::parse(&[word]).is_err(), "{word}");
        }
        assert!(Endpoints::parse::<&str>(&[]).is_err());
        assert!(Endpoints::parse(&["openai.transcriptions"]).unwrap_err()[0].1.contains("not available"));
    }
}
