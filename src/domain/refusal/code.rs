//! The codes of refusals, and the status and word of each: the only such table.

use http::StatusCode;

/// A stable, machine-readable code: what callers and records see.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Code {
    /// 401
    InvalidCredentials,
    /// 429
    TooManyFailures,
    /// 401
    KeyRequired,
    /// 401
    CertificateRequired,
    /// 403
    KeyBoundElsewhere,
    /// 403
    NoGrant,
    /// 403
    NetworkNotAllowed,
    /// 403
    EndpointNotAllowed,
    /// 403
    OriginNotAllowed,
    /// 400
    InvalidHost,
    /// 421
    Misdirected,
    /// 400
    CredentialInQuery,
    /// 400
    InvalidPath,
    /// 404
    NotFound,
    /// 405
    MethodNotAllowed,
    /// 413
    BodyTooLarge,
    /// 415
    UnsupportedMediaType,
    /// 400
    InvalidBody,
    /// 404
    ModelNotFound,
    /// 403, unless the webhook chose another
    DeniedByWebhook,
    /// 503
    AuthorizationUnavailable,
    /// 503
    RecordUnavailable,
    /// 503
    StoreUnavailable,
    /// 503
    NoBackend,
    /// 503
    Overloaded,
    /// 502
    BackendBroke,
    /// 504
    BackendTimeout,
    /// 505
    HttpVersionNotSupported,
}

impl Code {
    /// Every code, in the order of the enum.
    pub const ALL: [Self; 28] = [
        Self::InvalidCredentials,
        Self::TooManyFailures,
        Self::KeyRequired,
        Self::CertificateRequired,
        Self::KeyBoundElsewhere,
        Self::NoGrant,
        Self::NetworkNotAllowed,
        Self::EndpointNotAllowed,
        Self::OriginNotAllowed,
        Self::InvalidHost,
        Self::Misdirected,
        Self::CredentialInQuery,
        Self::InvalidPath,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::BodyTooLarge,
        Self::UnsupportedMediaType,
        Self::InvalidBody,
        Self::ModelNotFound,
        Self::DeniedByWebhook,
        Self::AuthorizationUnavailable,
        Self::RecordUnavailable,
        Self::StoreUnavailable,
        Self::NoBackend,
        Self::Overloaded,
        Self::BackendBroke,
        Self::BackendTimeout,
        Self::HttpVersionNotSupported,
    ];

    /// The status and the word of the code. The only place where this mapping exists.
    #[must_use]
    pub const fn status_and_word(self) -> (StatusCode, &'static str) {
        match self {
            Self::InvalidCredentials => (StatusCode::UNAUTHORIZED, "invalid_credentials"),
            Self::TooManyFailures => (StatusCode::TOO_MANY_REQUESTS, "too_many_failures"),
            Self::KeyRequired => (StatusCode::UNAUTHORIZED, "key_required"),
            Self::CertificateRequired => (StatusCode::UNAUTHORIZED, "certificate_required"),
            Self::KeyBoundElsewhere => (StatusCode::FORBIDDEN, "key_bound_elsewhere"),
            Self::NoGrant => (StatusCode::FORBIDDEN, "no_grant"),
            Self::NetworkNotAllowed => (StatusCode::FORBIDDEN, "network_not_allowed"),
            Self::EndpointNotAllowed => (StatusCode::FORBIDDEN, "endpoint_not_allowed"),
            Self::OriginNotAllowed => (StatusCode::FORBIDDEN, "origin_not_allowed"),
            Self::InvalidHost => (StatusCode::BAD_REQUEST, "invalid_host"),
            Self::Misdirected => (StatusCode::MISDIRECTED_REQUEST, "misdirected"),
            Self::CredentialInQuery => (StatusCode::BAD_REQUEST, "credential_in_query"),
            Self::InvalidPath => (StatusCode::BAD_REQUEST, "invalid_path"),
            Self::NotFound => (StatusCode::NOT_FOUND, "not_found"),
            Self::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed"),
            Self::BodyTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "body_too_large"),
            Self::UnsupportedMediaType => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type"),
            Self::InvalidBody => (StatusCode::BAD_REQUEST, "invalid_body"),
            Self::ModelNotFound => (StatusCode::NOT_FOUND, "model_not_found"),
            Self::DeniedByWebhook => (StatusCode::FORBIDDEN, "denied_by_webhook"),
            Self::AuthorizationUnavailable => (StatusCode::SERVICE_UNAVAILABLE, "authorization_unavailable"),
            Self::RecordUnavailable => (StatusCode::SERVICE_UNAVAILABLE, "record_unavailable"),
            Self::StoreUnavailable => (StatusCode::SERVICE_UNAVAILABLE, "store_unavailable"),
            Self::NoBackend => (StatusCode::SERVICE_UNAVAILABLE, "no_backend"),
            Self::Overloaded => (StatusCode::SERVICE_UNAVAILABLE, "overloaded"),
            Self::BackendBroke => (StatusCode::BAD_GATEWAY, "backend_broke"),
            Self::BackendTimeout => (StatusCode::GATEWAY_TIMEOUT, "backend_timeout"),
            Self::HttpVersionNotSupported => (StatusCode::HTTP_VERSION_NOT_SUPPORTED, "http_version_not_supported"),
        }
    }

    /// The word of the code.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        self.status_and_word().1
    }

    /// The HTTP status of the code.
    #[must_use]
    pub const fn status(self) -> StatusCode {
        self.status_and_word().0
    }
}
