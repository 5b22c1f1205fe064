//! Webhooks as grants name them, and what may be told of their decisions.

use std::fmt;
use std::sync::Arc;

/// Longest name, in bytes: names become labels of metrics.
const MAX_NAME_BYTES: usize = 64;

/// The name of a `[webhook.NAME]` section. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct WebhookName(Arc<str>);

impl WebhookName {
    /// Reads a name.
    ///
    /// # Errors
    ///
    /// When it is not 1 to 64 characters of `A-Z a-z 0-9 . _ -`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        if (1..=MAX_NAME_BYTES).contains(&text.len()) && text.bytes().all(allowed) {
            return Ok(Self(text.into()));
        }
        Err(format!("{text:?} is not the name of a webhook: 1 to {MAX_NAME_BYTES} characters of A-Z a-z 0-9 . _ -"))
    }

    /// The name as written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for WebhookName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A grant's word that a webhook is asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hooked {
    /// Which one.
    pub name: WebhookName,
    /// The second of the two words that let requests pass when the webhook fails; the first is its
    /// own `on_error = "allow"`.
    pub accept_fail_open: bool,
}

/// What a webhook, or its failure, came to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Verdict {
    /// The request may go on.
    Allow,
    /// It may not.
    Deny,
    /// There is no answer that counts, and so it may not.
    Error,
}

impl Verdict {
    /// The word in records and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Error => "error",
        }
    }
}

/// Where a decision came from.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Source {
    /// The webhook was asked, for this request or for an equal one at the same moment.
    Fresh,
    /// It said so a moment ago.
    Cached,
    /// It said so a while ago, and cannot be asked now.
    Stale,
    /// It cannot be asked, and config and grant both say that requests pass then.
    FailOpen,
}

impl Source {
    /// The word in records and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fresh => "fresh",
            Self::Cached => "cached",
            Self::Stale => "stale",
            Self::FailOpen => "fail_open",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert_eq!(WebhookName::parse("iam-2.eu").unwrap().as_str(), "iam-2.eu");
        for bad in ["", "a b", "a/b", "iäm", "a\n", &"a".repeat(65)] {
            assert!(WebhookName::parse(bad).is_err(), "{bad:?}");
        }
    }
}
