//! What operators do to keys, owners, grants and certificates.
//!
//! Invariant: each verb is one [`operation::Operation`], decided and executed here, whoever asks:
//! the command line on the store of its machine, or the admin API for someone elsewhere. What is
//! said of a request is said here too, so that both say the same.

pub mod certificates;
pub mod connectors;
pub mod enrollments;
pub mod explain;
pub mod fault;
pub mod fields;
pub mod grants;
pub mod keys;
pub mod operation;
pub mod owners;
pub mod page;
pub mod webhooks;

use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::Declared;
use crate::domain::grant::Grant;
use crate::domain::identity::TrustDomain;
use crate::domain::key::KeyRecord;
use crate::domain::timestamp::Timestamp;
use crate::manage::enrollments::Enrollment;
use crate::manage::fault::Fault;
use crate::manage::webhooks::Memory;
use crate::overlay::hub::tunnels::Tunnels;
use crate::store::Store;

/// What operations work on.
#[derive(Debug)]
pub struct Manager<'a> {
    /// The store of the gateway.
    pub store: &'a mut Store,
    /// The directory that it is in, with the pepper beside it.
    pub state_dir: &'a Path,
    /// What the config says.
    pub policy: &'a Policy,
    /// What the gateway remembers; `None` where none runs.
    pub memory: Option<Memory<'a>>,
    /// The time of the request.
    pub now: Timestamp,
    /// The tunnels of connectors, where a running gateway is asked.
    pub tunnels: Option<&'a Tunnels>,
}

/// The part of the config that decides what operators may do.
#[derive(Clone, Debug)]
pub struct Policy {
    /// What the config file lists; `None` when there is no file to be found, as beside a state
    /// directory that was named alone. When there is one and it cannot be read: why; then nothing is
    /// done that they could forbid, and all else is.
    pub config: Result<Option<Declared>, Fault>,
    /// The trust domain of the built-in authority, when there is one.
    pub trust_domain: Option<TrustDomain>,
    /// What enrollment bundles say of the gateway.
    pub enrollment: Enrollment,
}

/// Where something is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// In the config file, which alone changes it.
    Config,
    /// In the store.
    Store,
}

impl Source {
    /// The word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Store => "store",
        }
    }
}

impl Policy {
    /// The grants of the config file, as far as there is one.
    fn grants(&self) -> Result<&[Grant], Fault> {
        let config = self.config.as_ref().map_err(Clone::clone)?;
        Ok(config.as_ref().map(|config| config.grants.as_slice()).unwrap_or_default())
    }

    /// The keys of the config file, as far as they are known: to be shown, never to decide.
    fn keys(&self) -> &[KeyRecord] {
        self.config.as_ref().ok().and_then(Option::as_ref).map(|config| config.keys.as_slice()).unwrap_or_default()
    }

    /// The webhooks of the config file, as far as they are known.
    fn webhooks(&self) -> &[String] {
        self.config.as_ref().ok().and_then(Option::as_ref).map(|config| config.webhooks.as_slice()).unwrap_or_default()
    }

    /// True when what the config lists is known.
    const fn knows_config(&self) -> bool {
        matches!(self.config, Ok(Some(_)))
    }
}
