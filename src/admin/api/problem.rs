//! Answers that say no: RFC 9457, with a stable code and what to do.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::manage::fault::{Code, Fault, Wrong};

/// The media type.
pub const CONTENT_TYPE: &str = "application/problem+json";

/// An answer that says no (RFC 9457).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Problem {
    /// Always "about:blank": what kind it is says `code`.
    pub r#type: String,
    /// The words of the status.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// A stable word for the kind.
    pub code: String,
    /// What was wrong.
    pub detail: String,
    /// What to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The fields that are wrong.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<Wrong>,
}

/// What is refused before an operation is asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Refusal {
    /// No operator, or none any more; why is for the log.
    NotAnOperator(&'static str),
    /// A browser's page asks.
    Origin,
    /// No Host, several, or one that contradicts the target.
    InvalidHost,
    /// A Host that is none of this listener's names.
    Misdirected,
    /// No route has this path.
    UnknownPath,
    /// The path's routes have other methods: these.
    Method(String),
    /// The body is not announced as JSON.
    MediaType,
    /// The body is longer than this.
    BodyTooLarge(usize),
    /// The body broke off or came too slowly.
    BodyBroken,
    /// The operation takes too long; it may yet be done.
    TimedOut,
    /// The operation was not done.
    Fault(Fault),
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl Refusal {
    /// Codes that the API has besides those of operations.
    pub(super) const CODES: [&'static str; 9] = [
        "invalid_credentials",
        "origin_not_allowed",
        "invalid_host",
        "misdirected",
        "method_not_allowed",
        "unsupported_media_type",
        "body_too_large",
        "body_broken",
        "timed_out",
    ];

    /// HTTP status and stable code.
    pub(super) const fn status(&self) -> (u16, &'static str) {
        match self {
            Self::NotAnOperator(_) => (401, "invalid_credentials"),
            Self::Origin => (403, "origin_not_allowed"),
            Self::InvalidHost => (400, "invalid_host"),
            Self::Misdirected => (421, "misdirected"),
            Self::UnknownPath => (404, "not_found"),
            Self::Method(_) => (405, "method_not_allowed"),
            Self::MediaType => (415, "unsupported_media_type"),
            Self::BodyTooLarge(_) => (413, "body_too_large"),
            Self::BodyBroken => (400, "body_broken"),
            Self::TimedOut => (503, "timed_out"),
            Self::Fault(fault) => {
                let status = match fault.code {
                    Code::InvalidRequest => 400,
                    Code::NotFound => 404,
                    Code::NotAllowed => 403,
                    Code::Conflict => 409,
                    Code::StoreUnavailable => 503,
                    Code::Failed => 500,
                };
                (status, fault.code.as_str())
            }
        }
    }

    fn words(&self) -> (String, Option<&'static str>) {
        let (detail, hint) = match self {
            // Which of the reasons it was is not for whoever is refused.
            Self::NotAnOperator(_) => (
                "the certificate is not that of an operator, or not any more",
                Some("`doorward cert issue NAME --role operator` on the gateway's machine makes one"),
            ),
            Self::Origin => ("requests of web pages are not taken", Some("call from a program, without Origin")),
            Self::InvalidHost => ("the Host is missing, repeated, malformed, or not that of the target", None),
            Self::Misdirected => (
                "the Host is not a name of this listener",
                Some("use an `api` name of [listen], the listener's address, or `localhost` on the Unix socket"),
            ),
            Self::UnknownPath => ("no operation has this path", Some("/openapi.json lists all of them")),
            Self::Method(_) => ("the path has no such method", Some("the Allow header says which it has")),
            Self::MediaType => {
                ("the body is not announced as application/json", Some("send Content-Type: application/json"))
            }
            Self::BodyTooLarge(most) => return (format!("the body is longer than {most} bytes"), None),
            Self::BodyBroken => ("the body broke off or came too slowly", None),
            Self::TimedOut => (
                "the store takes too long; what was asked for may yet be done",
                Some("look whether it was done before asking again"),
            ),
            Self::Fault(fault) => return (fault.message.clone(), None),
        };
        (detail.to_owned(), hint)
    }

    /// The answer.
    pub(super) fn problem(&self) -> Problem {
        let (status, code) = self.status();
        let (detail, hint) = self.words();
        let title = http::StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
        let (hint, errors) = if let Self::Fault(fault) = self {
            (fault.hint.clone(), fault.wrong.clone())
        } else {
            (hint.map(str::to_owned), Vec::new())
        };
        Problem {
            r#type: "about:blank".to_owned(),
            title: title.unwrap_or("Error").to_owned(),
            status,
            code: code.to_owned(),
            detail,
            hint,
            errors,
        }
    }
}

impl Problem {
    /// The fault that the answer stands for, as the operation itself would have given it.
    #[must_use]
    pub fn into_fault(self) -> Fault {
        // What only the API says has no code of an operation: it failed for whoever asked.
        let code = Code::parse(&self.code).unwrap_or(Code::Failed);
        Fault { code, message: self.detail, hint: self.hint, wrong: self.errors }
    }
}
