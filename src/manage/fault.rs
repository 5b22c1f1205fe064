//! Why an operation was not done, in words for whoever asked.

use serde::{Deserialize, Serialize};

use crate::config::Problem;
use crate::store::error::StoreError;

/// The kinds of faults: stable words, the same on the command line and in the admin API.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Code {
    /// A field is missing, unknown or wrong.
    InvalidRequest,
    /// No such key, owner, grant or certificate.
    NotFound,
    /// A grant on the path forbids it.
    NotAllowed,
    /// The thing is not in a state in which this can be done to it.
    Conflict,
    /// The store is locked, full or read-only: the same may work later.
    StoreUnavailable,
    /// The store or the config cannot be used.
    Failed,
}

impl Code {
    /// Every code.
    pub const ALL: [Self; 6] =
        [Self::InvalidRequest, Self::NotFound, Self::NotAllowed, Self::Conflict, Self::StoreUnavailable, Self::Failed];

    /// The word in answers.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidRequest => "invalid_request",
            Self::NotFound => "not_found",
            Self::NotAllowed => "not_allowed",
            Self::Conflict => "conflict",
            Self::StoreUnavailable => "store_unavailable",
            Self::Failed => "failed",
        }
    }

    /// The code of a word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.as_str() == word)
    }
}

/// Something wrong with one field of a request.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[schemars(rename = "FieldError")]
pub struct Wrong {
    /// The field, as it is called in requests: `networks`; of an imported key: `keys[3].networks`.
    pub field: String,
    /// What is wrong and what can be written instead.
    pub message: String,
}

/// Why an operation was not done. Nothing was changed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{message}")]
pub struct Fault {
    /// Its kind.
    pub code: Code,
    /// What was wrong.
    pub message: String,
    /// What to do, when there is something.
    pub hint: Option<String>,
    /// The fields that are wrong; only with [`Code::InvalidRequest`] and [`Code::NotAllowed`].
    pub wrong: Vec<Wrong>,
}

impl Fault {
    /// A fault without a hint.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: None, wrong: Vec::new() }
    }

    /// The same, with what to do about it.
    #[must_use]
    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// A request with these faults in its fields.
    #[must_use]
    pub fn invalid(wrong: Vec<Wrong>) -> Self {
        let said: Vec<_> = wrong.iter().map(|wrong| format!("{}: {}", wrong.field, wrong.message)).collect();
        Self { code: Code::InvalidRequest, message: said.join("; "), hint: None, wrong }
    }

    /// A request whose one field is wrong.
    pub fn field(field: &str, message: impl Into<String>) -> Self {
        Self::invalid(vec![Wrong { field: field.to_owned(), message: message.into() }])
    }

    /// A config file of which this part cannot be relied on.
    #[must_use]
    pub fn config(file: &str, part: &str, problems: &[Problem]) -> Self {
        let said: Vec<_> = problems.iter().map(ToString::to_string).collect();
        Self::new(Code::Failed, format!("{part} of {file} cannot be read: {}", said.join("; ")))
            .hint("`doorward check` shows every problem of a config")
    }
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        let code = if matches!(error, StoreError::Locked | StoreError::ReadOnly | StoreError::Full) {
            Code::StoreUnavailable
        } else if matches!(error, StoreError::Exists(_) | StoreError::NameRevoked(_) | StoreError::KeyCompromised) {
            Code::Conflict
        } else {
            Code::Failed
        };
        // The store's words end with what to do.
        let text = error.to_string();
        match text.split_once("\nhint: ") {
            Some((message, hint)) => Self::new(code, message).hint(hint),
            None => Self::new(code, text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_read_back() {
        for code in Code::ALL {
            assert_eq!(Code::parse(code.as_str()), Some(code));
        }
        assert_eq!(Code::parse("other"), None);
    }

    #[test]
    fn the_stores_hints_stay_hints() {
        let fault = Fault::from(StoreError::Locked);
        assert_eq!(fault.code, Code::StoreUnavailable);
        assert_eq!(fault.message, "the store is locked by another process");
        assert!(fault.hint.unwrap().starts_with("let that"));
    }
}
