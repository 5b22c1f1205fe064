//! What every verb is: a request, an answer, and where the admin API has it.

use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::manage::Manager;
use crate::manage::fault::Fault;

/// What a request does to what its path names (RFC 9110, 9.3; RFC 5789).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Method {
    /// Changes nothing. Fields that the path does not name are in the query.
    Get,
    /// Does something. Fields that the path does not name are in the body, as with all that follow.
    Post,
    /// Puts something in the place of what was there.
    Put,
    /// Changes the fields that are named, and no other.
    Patch,
    /// Takes something away.
    Delete,
}

impl Method {
    /// As it is written in HTTP.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
        }
    }

    /// True when requests have a body.
    #[must_use]
    pub const fn has_body(self) -> bool {
        match self {
            Self::Post | Self::Put | Self::Patch => true,
            Self::Get | Self::Delete => false,
        }
    }
}

/// One verb. The command line and the admin API both run [`Self::perform`]; there is no other way
/// to change what is managed, so a verb cannot mean two things.
pub trait Operation: Serialize + DeserializeOwned + JsonSchema + Send + 'static {
    /// What comes of it.
    type Answer: Serialize + DeserializeOwned + JsonSchema + Send + 'static;

    /// Its name in the OpenAPI document and in the log.
    const NAME: &'static str;
    /// What it does, in a few words.
    const SUMMARY: &'static str;
    /// How the admin API is asked for it.
    const METHOD: Method;
    /// Where, with the fields that are part of the path in braces.
    const PATH: &'static str;
    /// True when something new comes of it: the status is 201 then.
    const CREATES: bool = false;
    /// True when something may be different afterwards: then the log says who asked.
    const CHANGES: bool = !matches!(Self::METHOD, Method::Get);
    /// Most bytes of a request in the admin API.
    const MAX_BYTES: usize = 64 * 1024;
    /// True when the log shows the request as it was; false for what is too long.
    const LOGGED_WHOLE: bool = true;

    /// Does it.
    ///
    /// # Errors
    ///
    /// When it was not done; nothing has changed then.
    fn perform(self, manager: &mut Manager<'_>) -> Result<Self::Answer, Fault>;
}
