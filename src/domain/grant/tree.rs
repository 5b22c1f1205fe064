//! What lies on the owner tree: grants of the config and of the store, and nodes that are switched off.
//!
//! Invariant: a path is asked from its root, and of two grants on one node both are there: which of
//! them narrows is not decided here.

use std::ptr;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::domain::grant::Grant;
use crate::domain::owner::{DisabledOwners, OwnerPath};

/// All grants, by the node that they sit on: at most one each.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct GrantTree(pub(super) FxHashMap<Box<str>, Arc<Grant>>);

impl GrantTree {
    /// Gathers grants; of two on one node the later wins, so check for that before.
    pub fn new(grants: impl IntoIterator<Item = Grant>) -> Self {
        Self(grants.into_iter().map(|grant| (grant.owner.as_str().into(), Arc::new(grant))).collect())
    }

    /// The grants on the path of `owner`, root first.
    pub fn on_path(&self, owner: &OwnerPath) -> impl Iterator<Item = &Arc<Grant>> {
        owner.lineage().filter_map(|node| self.0.get(node))
    }

    /// Puts a grant on its node, in the place of the one that was there.
    pub fn set(&mut self, grant: Grant) {
        self.0.insert(grant.owner.as_str().into(), Arc::new(grant));
    }

    /// Takes the grant of a node away.
    pub fn remove(&mut self, node: &str) {
        self.0.remove(node);
    }

    /// Every grant, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Grant>> {
        self.0.values()
    }
}

/// All that lies on the owner tree. A node may have a grant in the config and one in the store:
/// then both apply, as two on one path do.
#[derive(Clone, Copy, Debug)]
pub struct OwnerTree<'a> {
    /// The grants of the config.
    pub config: &'a GrantTree,
    /// The grants of the store.
    pub store: &'a GrantTree,
    /// What is switched off, in the store.
    pub disabled: &'a DisabledOwners,
}

impl<'a> OwnerTree<'a> {
    /// The grants on the path of `owner`, root first; of two on one node the config's first.
    pub fn on_path<'o>(&self, owner: &'o OwnerPath) -> impl Iterator<Item = &'a Grant> + use<'a, 'o> {
        let Self { config, store, .. } = *self;
        owner.lineage().flat_map(move |node| [config.0.get(node), store.0.get(node)]).flatten().map(Arc::as_ref)
    }

    /// True when the grant is one of the config's.
    #[must_use]
    pub fn is_configs(&self, grant: &Grant) -> bool {
        self.config.0.get(grant.owner.as_str()).is_some_and(|listed| ptr::eq(Arc::as_ptr(listed), grant))
    }

    /// True when any grant lists the origin: all that can be known of a page before its caller is.
    #[must_use]
    pub fn lists_origin(&self, origin: &str) -> bool {
        let grants = self.config.iter().chain(self.store.iter());
        grants.filter_map(|grant| grant.cors_origins.as_ref()).any(|origins| origins.admit(origin))
    }
}
