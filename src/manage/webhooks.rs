//! What a running gateway remembers of webhooks' decisions, and having it forget them.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::domain::key::KeyId;
use crate::domain::owner::OwnerPath;
use crate::manage::Manager;
use crate::manage::fault::{Code, Fault};
use crate::manage::fields::Reading;
use crate::manage::operation::{Method, Operation};

/// Whose decisions.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Whose {
    /// Those for requests with this key.
    Key(KeyId),
    /// Those for callers at or below this owner, by key or by identity.
    Owner(OwnerPath),
    /// All of them.
    All,
}

/// Has a running gateway forget decisions; gives how many there were.
#[derive(Clone, Copy)]
pub struct Memory<'a>(pub &'a dyn Fn(&Whose) -> usize);

impl fmt::Debug for Memory<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Memory")
    }
}

/// Has the gateway forget what webhooks decided, so that they are asked anew: for one key, for an owner
/// with everything below it, or for all.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct InvalidateWebhooks {
    /// The id of a key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// An owner, such as acme/research.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// True for all decisions.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub all: bool,
}

/// What was forgotten.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Invalidated {
    /// How many decisions.
    pub forgotten: u64,
}

impl Operation for InvalidateWebhooks {
    type Answer = Invalidated;

    const NAME: &'static str = "invalidateWebhooks";
    const SUMMARY: &'static str = "Forget what webhooks decided, so that they are asked anew";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/webhook/invalidate";

    fn perform(self, manager: &mut Manager<'_>) -> Result<Self::Answer, Fault> {
        let whose = self.read()?;
        let Some(Memory(forget)) = manager.memory else {
            return Err(Fault::new(Code::Failed, "only a running gateway remembers decisions")
                .hint("ask it: --admin unix:STATE_DIR/admin.sock, or --admin https://HOST:8445"));
        };
        Ok(Invalidated { forgotten: forget(&whose) as u64 })
    }
}

impl InvalidateWebhooks {
    fn read(&self) -> Result<Whose, Fault> {
        let mut reading = Reading::default();
        let key = reading.optional("key", self.key.as_deref(), KeyId::parse);
        let owner = reading.optional("owner", self.owner.as_deref(), OwnerPath::parse);
        if usize::from(self.key.is_some()) + usize::from(self.owner.is_some()) + usize::from(self.all) != 1 {
            reading.wrong("all", "name a key, an owner, or all: one of them");
        }
        reading.finish()?;
        match (key, owner, self.all) {
            (Some(key), None, false) => Ok(Whose::Key(key)),
            (None, Some(owner), false) => Ok(Whose::Owner(owner)),
            (None, None, true) => Ok(Whose::All),
            (_, _, _) => Err(Fault::new(Code::InvalidRequest, "the request cannot be read")),
        }
    }
}
