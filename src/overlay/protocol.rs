//! What a connector and a gateway say to each other: version 1.
//!
//! Invariant: pure, and the same for both ends. The connector dials; then the roles are reversed,
//! and the gateway is the HTTP/2 client. Its first stream is the control stream, [`CONTROL_PATH`],
//! with a JSON object in each line ([`lines`]) both ways; every other stream is a request to one
//! backend by its *name* ([`passage`]), never to a URL.

pub mod lines;
pub mod passage;

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// The ALPN protocol of a tunnel. A peer that offers none still completes the handshake, so both
/// ends check what was agreed.
pub const ALPN: &[u8] = b"doorward-connector/1";
/// The version in `register`.
pub const VERSION: u32 = 1;
/// Where the control stream is opened, with `POST`.
pub const CONTROL_PATH: &str = "/.doorward/v1/control";
/// The media type of the control stream, both ways.
pub const CONTROL_TYPE: &str = "application/x-ndjson";
/// Longest object of the control stream in bytes, without its line feed.
pub const MAX_OBJECT: usize = 16 * 1024;

/// A stream's window, in bytes, in both directions.
pub const STREAM_WINDOW: u32 = 64 * 1024;
/// Streams of one connection, the control stream not counted.
pub const MAX_STREAMS: u32 = 256;
/// A connection's window: every stream may be parked with its window full, the control stream
/// beside them, and there is room left.
pub const CONNECTION_WINDOW: u32 = STREAM_WINDOW * (MAX_STREAMS + 16);
/// Largest list of headers in bytes, in both directions.
pub const MAX_HEADER_LIST: u32 = 64 * 1024;

/// Backends that one connector may register.
pub const MAX_BACKENDS: usize = 64;
/// Longest name of a backend in bytes.
pub const MAX_NAME: usize = 64;

/// On every response that the connector made itself, and on none of a backend's: what went wrong.
pub const CONNECTOR_ERROR: &str = "x-doorward-connector-error";
/// `connection` on a reply whose end the backend marks only by closing: such a reply may be
/// truncated though its stream ends cleanly, so the dialect's own terminator has to tell.
pub const CONNECTOR_ENDS: &str = "x-doorward-connector-ends";
/// The value of [`CONNECTOR_ENDS`].
pub const ENDS_WITH_CONNECTION: &str = "connection";

/// True when `text` can be the name of a backend: `[A-Za-z0-9._-]{1,64}`, which is an authority too.
#[must_use]
pub fn is_name(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    (1..=MAX_NAME).contains(&text.len()) && text.bytes().all(allowed)
}

/// Why the connector answered itself: the value of [`CONNECTOR_ERROR`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ConnectorError {
    /// The backend could not be connected to: nothing of the request was sent, so it may be sent
    /// to another target.
    ConnectFailed,
    /// The backend did not answer in time.
    Timeout,
    /// The connector has no backend of this name, or is not to serve it here.
    NotFound,
    /// The connector does not pass this on: path, method, header or load.
    Refused,
}

impl ConnectorError {
    /// Every one.
    pub const ALL: [Self; 4] = [Self::ConnectFailed, Self::Timeout, Self::NotFound, Self::Refused];

    /// The word in the header.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ConnectFailed => "connect_failed",
            Self::Timeout => "timeout",
            Self::NotFound => "not_found",
            Self::Refused => "refused",
        }
    }

    /// Reads the word.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|error| error.as_str().as_bytes() == text)
    }

    /// The status of the response.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::ConnectFailed => 502,
            Self::Timeout => 504,
            Self::NotFound => 404,
            Self::Refused => 403,
        }
    }
}

/// What a connector says.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum FromConnector {
    /// The first object: who dialled, and for what.
    Register(Register),
    /// How a backend is, on change and every 30 s.
    Health(Health),
    /// The connector is about to leave: no new requests over this connection.
    Drain {},
}

/// `register`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Register {
    /// [`VERSION`].
    pub protocol: u32,
    /// Its name, which must be that of its certificate: for the log, it decides nothing.
    pub connector: String,
    /// Made anew by each process, so that two with one certificate are told apart.
    pub instance_id: String,
    /// Which of the process's connections to this address: 0 to 7. A new connection of the same
    /// instance and index takes the place of the old one: new requests go to it, and those of the
    /// old one finish there. So a renewed certificate is dialled in without losing a request.
    pub conn_index: u32,
    /// The version of the program.
    pub version: String,
    /// What it offers.
    pub backends: Vec<Offer>,
    /// Streams that it serves at once over this connection.
    pub max_streams: u32,
}

/// A backend that a connector offers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Offer {
    /// Its name.
    pub name: String,
    /// Requests that it takes at once, over all connections of the connector.
    pub max_concurrent: u32,
}

/// `health`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Health {
    /// Which backend.
    pub backend: String,
    /// How it is.
    pub state: State,
}

/// How a backend is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It answers.
    Up,
    /// It cannot be reached.
    Down,
    /// It takes no new requests and finishes those that it has.
    Draining,
}

impl State {
    /// The word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Draining => "draining",
        }
    }
}

/// What a gateway says.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum FromGateway {
    /// The answer to `register`; no request comes before it.
    Registered(Registered),
    /// The gateway is about to close the connection: dial another one now.
    Drain {
        /// Why.
        reason: Word,
        /// How long requests have to end, in seconds.
        deadline_s: u32,
    },
    /// The gateway closes the connection.
    Error {
        /// Why.
        code: Word,
        /// Whether dialling again may help.
        retry: Retry,
        /// When to dial again, in seconds; `None`: as after any loss.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_after_s: Option<u32>,
    },
}

/// `registered`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Registered {
    /// Names that requests will come for.
    pub accepted: Vec<String>,
    /// Names that none will come for.
    pub refused: Vec<Refused>,
    /// The gateway's time, in RFC 3339: a clock that is off spoils certificates.
    pub server_time: String,
}

/// A name that was not accepted.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Refused {
    /// The name.
    pub name: String,
    /// Why: [`Word::NOT_PERMITTED`], for unknown names and for those of others alike.
    pub code: Word,
}

/// Whether dialling again may help.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Retry {
    /// Not before somebody changes something: say it loudly, and look again every five minutes.
    Never,
    /// It may.
    Later,
}

/// A code or a reason: `[a-z0-9_]{1,64}`. Not an enum, because a newer gateway may have more of
/// them and every one has to reach the log of an older connector; none of them decides anything.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Word(Box<str>);

impl Word {
    /// A name that is unknown, or not this connector's.
    pub const NOT_PERMITTED: &'static str = "not_permitted";
    /// Another process has registered with the same identity.
    pub const DUPLICATE_INSTANCE: &'static str = "duplicate_instance";
    /// The certificate was revoked, or its holder disabled.
    pub const REVOKED: &'static str = "revoked";
    /// What came was no `register` of a version that the gateway speaks.
    pub const BAD_REGISTER: &'static str = "bad_register";
    /// What came after was no object of this protocol.
    pub const BAD_MESSAGE: &'static str = "bad_message";
    /// Reason of a drain: the gateway stops.
    pub const SHUTDOWN: &'static str = "shutdown";
    /// Reason of a drain: the connection's certificate ends.
    pub const CERT_EXPIRING: &'static str = "cert_expiring";
    /// Reason of a drain: an operator asked for it.
    pub const OPERATOR: &'static str = "operator";
    /// Reason of a drain: the same process has dialled the same link anew. The deadline holds until the
    /// connector announces a drain of its own: then it ends the link itself.
    pub const REPLACED: &'static str = "replaced";

    /// One of the constants, or another word.
    ///
    /// # Errors
    ///
    /// When it is not in the grammar.
    pub fn new(text: &str) -> Result<Self, NotAWord> {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        if (1..=64).contains(&text.len()) && text.bytes().all(allowed) { Ok(Self(text.into())) } else { Err(NotAWord) }
    }

    /// The word.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Word {
    type Error = NotAWord;

    fn try_from(text: String) -> Result<Self, NotAWord> {
        Self::new(&text)
    }
}

impl From<Word> for String {
    fn from(word: Word) -> Self {
        word.0.into()
    }
}

/// The text is no code.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a code is made of a-z, 0-9 and _, at most 64 of them")]
pub struct NotAWord;

/// Why an object is not taken.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Fault {
    /// It is longer than [`MAX_OBJECT`].
    #[error("an object of the control stream is longer than {MAX_OBJECT} bytes")]
    TooLong,
    /// It is not an object of this protocol.
    #[error("an object of the control stream is not understood: {0}")]
    Malformed(String),
}

/// What one end says, as the other reads it.
pub trait Message: Serialize + for<'de> Deserialize<'de> {
    /// Every `type` that is known.
    const TYPES: &'static [&'static str];

    /// What makes a message wrong that has the right shape.
    ///
    /// # Errors
    ///
    /// What is wrong.
    fn check(&self) -> Result<(), String>;
}

impl Message for FromConnector {
    const TYPES: &'static [&'static str] = &["register", "health", "drain"];

    fn check(&self) -> Result<(), String> {
        match self {
            Self::Register(register) => register.check(),
            Self::Health(health) => check_name(&health.backend),
            Self::Drain {} => Ok(()),
        }
    }
}

impl Register {
    fn check(&self) -> Result<(), String> {
        // These go to the log and to lists, where nothing but short plain text belongs.
        let plain = |text: &str| !text.is_empty() && text.len() <= 256 && text.bytes().all(|b| b.is_ascii_graphic());
        if ![&self.connector, &self.instance_id, &self.version].into_iter().all(|text| plain(text)) {
            return Err("connector, instance_id and version are 1 to 256 visible characters each".to_owned());
        }
        if self.backends.is_empty() || self.backends.len() > MAX_BACKENDS {
            return Err(format!("backends are 1 to {MAX_BACKENDS}"));
        }
        for (index, offer) in self.backends.iter().enumerate() {
            check_name(&offer.name)?;
            if self.backends.iter().take(index).any(|before| before.name == offer.name) {
                return Err("a backend is offered twice".to_owned());
            }
        }
        if self.conn_index > 7 || self.max_streams == 0 || self.backends.iter().any(|offer| offer.max_concurrent == 0) {
            return Err("conn_index is 0 to 7, max_streams and max_concurrent are at least 1".to_owned());
        }
        Ok(())
    }
}

impl Message for FromGateway {
    const TYPES: &'static [&'static str] = &["registered", "drain", "error"];

    fn check(&self) -> Result<(), String> {
        match self {
            Self::Registered(registered) => {
                let refused = registered.refused.iter().map(|refused| &refused.name);
                registered.accepted.iter().chain(refused).try_for_each(|name| check_name(name))
            }
            Self::Drain { .. } | Self::Error { .. } => Ok(()),
        }
    }
}

fn check_name(name: &str) -> Result<(), String> {
    if is_name(name) { Ok(()) } else { Err("a name is made of A-Z, a-z, 0-9 and . _ -, at most 64 of them".to_owned()) }
}

/// A message as a line.
///
/// # Errors
///
/// When it is too long or is none that the other end would take.
pub fn encode<M: Message>(message: &M) -> Result<Bytes, Fault> {
    message.check().map_err(Fault::Malformed)?;
    let mut line = serde_json::to_vec(message).map_err(|error| Fault::Malformed(error.to_string()))?;
    if line.len() > MAX_OBJECT {
        return Err(Fault::TooLong);
    }
    line.push(b'\n');
    Ok(line.into())
}

/// Reads a line, without its line feed. `None`: an object of a type that this version does not
/// know, which is ignored. Unknown members of known types are ignored too.
///
/// # Errors
///
/// See [`Fault`].
pub fn decode<M: Message>(line: &[u8]) -> Result<Option<M>, Fault> {
    #[derive(Deserialize)]
    struct Typed<'l> {
        #[serde(borrow)]
        r#type: std::borrow::Cow<'l, str>,
    }
    if line.len() > MAX_OBJECT {
        return Err(Fault::TooLong);
    }
    // The error repeats what the other end wrote, and goes to the log, where a line feed would begin a
    // line that we never wrote.
    let malformed = |error: serde_json::Error| Fault::Malformed(error.to_string().replace(char::is_control, " "));
    let typed: Typed<'_> = serde_json::from_slice(line).map_err(malformed)?;
    if !M::TYPES.contains(&typed.r#type.as_ref()) {
        return Ok(None);
    }
    let message: M = serde_json::from_slice(line).map_err(malformed)?;
    message.check().map_err(Fault::Malformed)?;
    Ok(Some(message))
}

#[cfg(test)]
#[path = "protocol_tests.rs"]
mod tests;
