//! What operators do to keys, owners, grants and certificates.
//!
//! Invariant: each verb is one [`operation::Operation`], decided and executed here, whoever asks:
//! the command line on the store of its machine, or the admin API for someone elsewhere. What is
//! said of a request is said here too, so that both say the same.

pub mod certificates;
pub mod fault;
pub mod fields;
pub mod grants;
pub mod keys;
pub mod operation;
pub mod owners;
pub mod page;

use std::path::Path;

use crate::domain::grant::Grant;
use crate::domain::identity::TrustDomain;
use crate::domain::timestamp::Timestamp;
use crate::manage::fault::Fault;
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
    /// The time of the request.
    pub now: Timestamp,
}

/// The part of the config that decides what operators may do.
#[derive(Clone, Debug)]
pub struct Policy {
    /// The grants of the config file, or why they cannot be known: then nothing is done that they
    /// could forbid, and all else is.
    pub grants: Result<Vec<Grant>, Fault>,
    /// The trust domain of the built-in authority, when there is one.
    pub trust_domain: Option<TrustDomain>,
}
