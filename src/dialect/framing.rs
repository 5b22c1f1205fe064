//! How replies are framed, and how each dialect says that a reply is complete.
//!
//! Invariant: lines end where the framing says so: LF, CRLF or CR in server-sent events, LF alone
//! in lines of JSON.

use crate::domain::endpoint::Endpoint;

/// How a reply is framed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Bytes of no known form: they pass.
    Opaque,
    /// One JSON value.
    Json,
    /// Server-sent events (WHATWG HTML, section 9.2).
    Sse,
    /// A JSON value on each line.
    Ndjson,
}

impl Mode {
    /// The framing that a `Content-Type` stands for.
    #[must_use]
    pub fn of(content_type: &str) -> Self {
        let essence = content_type.split(';').next().unwrap_or_default().trim();
        let is = |name: &str| essence.eq_ignore_ascii_case(name);
        if is("text/event-stream") {
            Self::Sse
        } else if is("application/x-ndjson") || is("application/jsonl") || is("application/ndjson") {
            Self::Ndjson
        } else if is("application/json") {
            Self::Json
        } else {
            Self::Opaque
        }
    }
}

/// What ends a stream of an endpoint when all went well.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Terminator {
    /// Nothing that could be told from a truncation.
    None,
    /// `data: [DONE]`
    DataDone,
    /// An event of one of these names.
    Event(&'static [&'static [u8]]),
    /// A line with `"done": true`.
    LineDone,
}

impl Terminator {
    /// What ends a stream of `endpoint`.
    pub(crate) const fn of(endpoint: Endpoint) -> Self {
        match endpoint {
            Endpoint::OpenAiChatCompletions | Endpoint::OpenAiCompletions => Self::DataDone,
            Endpoint::OpenAiResponses => {
                Self::Event(&[b"response.completed", b"response.failed", b"response.incomplete"])
            }
            Endpoint::OpenAiImages => Self::Event(&[b"image_generation.completed"]),
            Endpoint::AnthropicMessages => Self::Event(&[b"message_stop"]),
            Endpoint::OllamaChat | Endpoint::OllamaGenerate => Self::LineDone,
            Endpoint::OpenAiEmbeddings
            | Endpoint::OpenAiModels
            | Endpoint::OpenAiModel
            | Endpoint::OpenAiSpeech
            | Endpoint::OpenAiModerations
            | Endpoint::OpenAiRerank
            | Endpoint::OpenAiScore
            | Endpoint::OpenAiTokenize
            | Endpoint::OpenAiDetokenize
            | Endpoint::AnthropicCountTokens
            | Endpoint::OllamaEmbed
            | Endpoint::OllamaEmbeddings
            | Endpoint::OllamaTags
            | Endpoint::OllamaShow
            | Endpoint::OllamaPs
            | Endpoint::OllamaVersion
            | Endpoint::OllamaHeartbeat => Self::None,
        }
    }
}

/// The end of a line.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LineEnd {
    /// Where the line's content ends.
    pub(crate) content: usize,
    /// Where the next line begins.
    pub(crate) next: usize,
    /// A CR was the last byte at hand: an LF that comes next belongs to it.
    pub(crate) may_go_on: bool,
}

impl Mode {
    /// Where the line that goes on at `from` ends, if it does.
    pub(crate) fn line_end(self, bytes: &[u8], from: usize) -> Option<LineEnd> {
        let rest = bytes.get(from..)?;
        let found = match self {
            Self::Sse => memchr::memchr2(b'\n', b'\r', rest),
            Self::Opaque | Self::Json | Self::Ndjson => memchr::memchr(b'\n', rest),
        };
        let content = from + found?;
        let cr = bytes.get(content) == Some(&b'\r');
        let crlf = cr && bytes.get(content + 1) == Some(&b'\n');
        let next = content + 1 + usize::from(crlf);
        Some(LineEnd { content, next, may_go_on: cr && next == bytes.len() && !crlf })
    }
}

/// The value of a line `name: value`, by the rules of server-sent events.
pub(crate) fn field<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let value = line.strip_prefix(name)?;
    if value.is_empty() {
        return Some(value);
    }
    let value = value.strip_prefix(b":")?;
    Some(value.strip_prefix(b" ").unwrap_or(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_types_stand_for_framings() {
        for (content_type, mode) in [
            ("text/event-stream", Mode::Sse),
            ("Text/Event-Stream; charset=utf-8", Mode::Sse),
            ("application/x-ndjson", Mode::Ndjson),
            ("application/json ;charset=utf-8", Mode::Json),
            ("audio/mpeg", Mode::Opaque),
            ("text/plain; application/json", Mode::Opaque),
            ("", Mode::Opaque),
        ] {
            assert_eq!(Mode::of(content_type), mode, "{content_type}");
        }
    }

    #[test]
    fn fields_are_read_as_event_streams_write_them() {
        for (line, value) in [
            ("data: x", Some("x")),
            ("data:x", Some("x")),
            ("data:  x", Some(" x")),
            ("data", Some("")),
            ("data:", Some("")),
            ("database: x", None),
            (" data: x", None),
            (": data: x", None),
            ("Data: x", None),
        ] {
            assert_eq!(field(line.as_bytes(), b"data"), value.map(str::as_bytes), "{line}");
        }
    }
}
