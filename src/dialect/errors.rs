//! Refusals in the shape that the caller's client library reads.
//!
//! Invariant: the shape follows the path alone, so that it is known before anything else is. It
//! shows [`Refusal::message`] and [`Refusal::code`] and nothing else of a refusal.

use bytes::Bytes;
use http::StatusCode;
use serde_json::{Value, json};

use crate::domain::refusal::{Code, Refusal};

/// How an error is written down.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Shape {
    /// `{"error":{"message","type","code","param"}}`
    OpenAi,
    /// `{"type":"error","error":{"type","message"},"request_id"}`
    Anthropic,
    /// `{"error":"…"}`
    Ollama,
    /// RFC 9457, for the gateway's own paths.
    Problem,
}

/// The shape of errors at `path`, whether or not the path exists.
#[must_use]
pub fn shape_of(path: &str) -> Shape {
    if path.starts_with("/v1/messages") {
        Shape::Anthropic
    } else if path == "/" || path.starts_with("/api/") {
        Shape::Ollama
    } else if path.starts_with("/.doorward/") {
        Shape::Problem
    } else {
        Shape::OpenAi
    }
}

impl Shape {
    /// The content type of [`Shape::body`].
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::OpenAi | Self::Anthropic | Self::Ollama => "application/json",
            Self::Problem => "application/problem+json",
        }
    }

    /// The body of the answer that refuses a request.
    #[must_use]
    pub fn body(self, refusal: &Refusal, request_id: &str) -> Vec<u8> {
        self.value(refusal, Some(request_id)).to_string().into_bytes()
    }

    /// The error as the last event of a stream that had begun well: a server-sent event, or a line
    /// for Ollama. Empty for [`Shape::Problem`], whose paths do not stream. It must begin at the
    /// start of a line.
    #[must_use]
    pub fn stream_event(self, refusal: &Refusal) -> Bytes {
        let value = self.value(refusal, None);
        match self {
            Self::OpenAi => format!("data: {value}\n\n").into(),
            // Clients drop an error that comes without the event's name.
            Self::Anthropic => format!("event: error\ndata: {value}\n\n").into(),
            Self::Ollama => format!("{value}\n").into(),
            Self::Problem => Bytes::new(),
        }
    }

    /// The body of an answer that another process than a gateway refuses a request with, in the same
    /// shape: `dial`, which stands before one.
    #[must_use]
    pub fn body_before(self, status: StatusCode, code: &str, message: &str) -> Vec<u8> {
        let kinds = match status.as_u16() {
            401 => ("authentication_error", "authentication_error"),
            403 => ("permission_error", "permission_error"),
            503 => ("server_error", "overloaded_error"),
            504 => ("server_error", "timeout_error"),
            500.. => ("server_error", "api_error"),
            _ => ("invalid_request_error", "invalid_request_error"),
        };
        self.written((status, code, message), kinds, None).to_string().into_bytes()
    }

    fn value(self, refusal: &Refusal, request_id: Option<&str>) -> Value {
        let (code, message) = (refusal.code(), refusal.message());
        let kinds = (
            chosen_type(refusal, "invalid_request_error").unwrap_or(openai_type(code)),
            chosen_type(refusal, "not_found_error").unwrap_or(anthropic_type(code)),
        );
        self.written((refusal.status(), code.as_str(), &message), kinds, request_id)
    }

    fn written(
        self,
        (status, code, message): (StatusCode, &str, &str),
        (openai, anthropic): (&str, &str),
        request_id: Option<&str>,
    ) -> Value {
        match self {
            Self::OpenAi => json!({"error": {"message": message, "type": openai, "code": code, "param": null}}),
            Self::Anthropic => {
                let mut value = json!({"type": "error", "error": {"type": anthropic, "message": message}});
                if let (Some(id), Some(members)) = (request_id, value.as_object_mut()) {
                    members.insert("request_id".to_owned(), id.into());
                }
                value
            }
            Self::Ollama => json!({"error": message}),
            Self::Problem => json!({
                "type": "about:blank",
                "title": status.canonical_reason(),
                "status": status.as_u16(),
                "detail": message,
                "code": code,
                "request_id": request_id,
            }),
        }
    }
}

/// `error.type` for a status that a webhook chose; both APIs name most alike.
fn chosen_type(refusal: &Refusal, not_found: &'static str) -> Option<&'static str> {
    let chosen = refusal.status();
    if chosen == refusal.code().status() {
        return None;
    }
    match chosen.as_u16() {
        401 => Some("authentication_error"),
        404 => Some(not_found),
        429 => Some("rate_limit_error"),
        _ => None,
    }
}

/// `error.type` as OpenAI uses it.
const fn openai_type(code: Code) -> &'static str {
    match code {
        Code::InvalidCredentials | Code::KeyRequired | Code::CertificateRequired => "authentication_error",
        Code::TooManyFailures => "rate_limit_error",
        Code::KeyBoundElsewhere
        | Code::NoGrant
        | Code::NetworkNotAllowed
        | Code::EndpointNotAllowed
        | Code::OriginNotAllowed
        | Code::DeniedByWebhook => "permission_error",
        Code::InvalidHost
        | Code::Misdirected
        | Code::CredentialInQuery
        | Code::InvalidPath
        | Code::NotFound
        | Code::MethodNotAllowed
        | Code::BodyTooLarge
        | Code::UnsupportedMediaType
        | Code::InvalidBody
        | Code::ModelNotFound
        | Code::HttpVersionNotSupported => "invalid_request_error",
        Code::RecordUnavailable
        | Code::AuthorizationUnavailable
        | Code::StoreUnavailable
        | Code::NoBackend
        | Code::Overloaded
        | Code::BackendBroke
        | Code::BackendTimeout => "server_error",
    }
}

/// `error.type` as Anthropic documents it.
const fn anthropic_type(code: Code) -> &'static str {
    match code {
        Code::InvalidCredentials | Code::KeyRequired | Code::CertificateRequired => "authentication_error",
        Code::TooManyFailures => "rate_limit_error",
        Code::KeyBoundElsewhere
        | Code::NoGrant
        | Code::NetworkNotAllowed
        | Code::EndpointNotAllowed
        | Code::OriginNotAllowed
        | Code::DeniedByWebhook => "permission_error",
        Code::NotFound | Code::ModelNotFound => "not_found_error",
        Code::BodyTooLarge => "request_too_large",
        Code::InvalidHost
        | Code::Misdirected
        | Code::CredentialInQuery
        | Code::InvalidPath
        | Code::MethodNotAllowed
        | Code::UnsupportedMediaType
        | Code::InvalidBody
        | Code::HttpVersionNotSupported => "invalid_request_error",
        Code::NoBackend | Code::Overloaded => "overloaded_error",
        Code::BackendTimeout => "timeout_error",
        Code::RecordUnavailable | Code::AuthorizationUnavailable | Code::StoreUnavailable | Code::BackendBroke => {
            "api_error"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::refusal::CredentialFault;

    #[test]
    fn the_path_decides_the_shape() {
        for (path, shape) in [
            ("/v1/messages", Shape::Anthropic),
            ("/v1/messages/count_tokens", Shape::Anthropic),
            ("/v1/messages/batches", Shape::Anthropic),
            ("/", Shape::Ollama),
            ("/api/chat", Shape::Ollama),
            ("/api/nothing", Shape::Ollama),
            ("/.doorward/v1/enroll", Shape::Problem),
            ("/v1/chat/completions", Shape::OpenAi),
            ("/tokenize", Shape::OpenAi),
            ("/apix", Shape::OpenAi),
            ("", Shape::OpenAi),
            ("*", Shape::OpenAi),
        ] {
            assert_eq!(shape_of(path), shape, "{path}");
        }
    }

    #[test]
    fn bodies_are_what_client_libraries_read() {
        let refusal = Refusal::InvalidBody("say \"please\"\n".to_owned());
        let body = |shape: Shape| -> Value { serde_json::from_slice(&shape.body(&refusal, "id-1")).unwrap() };
        let message = "say \"please\"\n";
        assert_eq!(
            body(Shape::OpenAi),
            json!({"error": {"message": message, "type": "invalid_request_error", "code": "invalid_body", "param": null}})
        );
        assert_eq!(
            body(Shape::Anthropic),
            json!({"type": "error", "error": {"type": "invalid_request_error", "message": message}, "request_id": "id-1"})
        );
        assert_eq!(body(Shape::Ollama), json!({"error": message}));
        assert_eq!(
            body(Shape::Problem),
            json!({"type": "about:blank", "title": "Bad Request", "status": 400, "detail": message,
                "code": "invalid_body", "request_id": "id-1"})
        );
    }

    #[test]
    fn stream_errors_are_one_event_in_the_dialect() {
        let refusal = Refusal::BackendBroke("connection to 10.0.0.5 reset\n\n".to_owned());
        let event = |shape: Shape| String::from_utf8(shape.stream_event(&refusal).to_vec()).unwrap();
        let openai = event(Shape::OpenAi);
        assert!(openai.starts_with("data: {\"error\":{") && openai.ends_with("}\n\n"), "{openai}");
        let anthropic = event(Shape::Anthropic);
        assert!(anthropic.starts_with("event: error\ndata: {") && anthropic.ends_with("}\n\n"), "{anthropic}");
        assert!(anthropic.contains("\"api_error\"") && !anthropic.contains("request_id"));
        let ollama = event(Shape::Ollama);
        assert_eq!(ollama, "{\"error\":\"The backend failed to answer.\"}\n");
        for text in [openai, anthropic, ollama] {
            assert!(!text.contains("10.0.0.5"));
            let data =
                text.lines().find_map(|line| line.strip_prefix("data: ").or(line.strip_prefix("{\"").map(|_| line)));
            assert!(serde_json::from_str::<Value>(data.unwrap()).is_ok());
        }
        assert!(event(Shape::Problem).is_empty());
    }

    #[test]
    fn types_follow_the_status() {
        for code in Code::ALL {
            let (openai, anthropic) = (openai_type(code), anthropic_type(code));
            match code.status().as_u16() {
                401 => assert_eq!((openai, anthropic), ("authentication_error", "authentication_error")),
                403 => assert_eq!((openai, anthropic), ("permission_error", "permission_error")),
                404 => assert_eq!((openai, anthropic), ("invalid_request_error", "not_found_error")),
                429 => assert_eq!((openai, anthropic), ("rate_limit_error", "rate_limit_error")),
                413 => assert_eq!((openai, anthropic), ("invalid_request_error", "request_too_large")),
                504 => assert_eq!((openai, anthropic), ("server_error", "timeout_error")),
                502 | 503 => assert_eq!(openai, "server_error"),
                _ => assert_eq!((openai, anthropic), ("invalid_request_error", "invalid_request_error")),
            }
        }
    }

    #[test]
    fn the_log_text_stays_inside() {
        let refusal = Refusal::InvalidCredentials(CredentialFault::Malformed);
        for shape in [Shape::OpenAi, Shape::Anthropic, Shape::Ollama, Shape::Problem] {
            let body = String::from_utf8(shape.body(&refusal, "id")).unwrap();
            assert!(!body.contains(&refusal.to_string()), "{body}");
        }
    }
}
