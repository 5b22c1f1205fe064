//! Why there is no answer that counts.
//!
//! Invariant: trouble is never a denial, and never a leave: it runs `on_error`. `Display` is for the
//! log; it holds nothing that was received, so that whoever answers cannot write into it.

use std::net::IpAddr;

/// What went wrong with a question.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Trouble {
    /// No section of the config has the name that a grant gives.
    #[error("the config has no such webhook")]
    Missing,
    /// It failed too often lately, and is not asked for a while.
    #[error("it failed too often lately and is not asked at the moment")]
    Resting,
    /// As many questions as may be are under way.
    #[error("max_in_flight questions are under way")]
    Busy,
    /// The name could not be resolved.
    #[error("its name cannot be resolved")]
    Resolve,
    /// The name leads to where it may not.
    #[error("{}", refused(.address.as_ref(), .kind))]
    AddressRefused {
        /// The address; `None` when there was none.
        address: Option<IpAddr>,
        /// What kind it is.
        kind: &'static str,
    },
    /// Nobody takes the connection.
    #[error("cannot connect: {0}")]
    Connect(String),
    /// The server is not the one that it should be, or does not speak TLS as we do.
    #[error("TLS: {0}")]
    Tls(String),
    /// It took too long.
    #[error("no answer in time")]
    TimedOut,
    /// The connection broke off, or what came is not HTTP.
    #[error("the exchange broke off")]
    Broken,
    /// Another status than 200.
    #[error("the status is {0}")]
    Status(u16),
    /// Another content type than JSON.
    #[error("the answer is not application/json")]
    ContentType,
    /// The answer is compressed.
    #[error("the answer is compressed")]
    Encoding,
    /// The answer is too long.
    #[error("the answer has more than {limit} bytes")]
    TooLong {
        /// The bound in bytes.
        limit: usize,
    },
    /// The answer is not what the contract says.
    #[error("the answer does not count: {0}")]
    Malformed(String),
    /// The answer is to another question.
    #[error("the answer is to another request: request_id differs")]
    OtherRequest,
    /// The question was lost to a defect or to the end of the process.
    #[error("the question was lost")]
    Lost,
}

impl Trouble {
    /// Every kind, for metrics.
    pub const KINDS: [&'static str; 16] = [
        "missing",
        "resting",
        "busy",
        "resolve",
        "address_refused",
        "connect",
        "tls",
        "timeout",
        "broken",
        "status",
        "content_type",
        "encoding",
        "too_long",
        "malformed",
        "other_request",
        "lost",
    ];

    /// The kind, as a word for metrics.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Resting => "resting",
            Self::Busy => "busy",
            Self::Resolve => "resolve",
            Self::AddressRefused { .. } => "address_refused",
            Self::Connect(_) => "connect",
            Self::Tls(_) => "tls",
            Self::TimedOut => "timeout",
            Self::Broken => "broken",
            Self::Status(_) => "status",
            Self::ContentType => "content_type",
            Self::Encoding => "encoding",
            Self::TooLong { .. } => "too_long",
            Self::Malformed(_) => "malformed",
            Self::OtherRequest => "other_request",
            Self::Lost => "lost",
        }
    }

    /// True when the webhook was asked, or could not be: what its breaker counts.
    #[must_use]
    pub const fn is_its_fault(&self) -> bool {
        !matches!(self, Self::Missing | Self::Resting | Self::Busy | Self::Lost)
    }
}

fn refused(address: Option<&IpAddr>, kind: &str) -> String {
    address
        .map_or_else(|| format!("its name {kind}"), |address| format!("its name leads to {address}, which is {kind}"))
}
