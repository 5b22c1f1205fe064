//! Whom a caller belongs to.

use std::borrow::Borrow;
use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

/// A path of 1 to 8 segments such as `acme/research/alice`. Every prefix of it can carry a grant.
/// Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct OwnerPath(Arc<str>);

impl OwnerPath {
    /// Most segments a path can have.
    pub const MAX_SEGMENTS: usize = 8;

    /// Reads an owner path.
    ///
    /// # Errors
    ///
    /// When it has no or too many segments, or a segment is not `[a-z0-9][a-z0-9._-]{0,62}`.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.split('/').count() > Self::MAX_SEGMENTS {
            return Err(format!("an owner has at most {} segments", Self::MAX_SEGMENTS));
        }
        match text.split('/').find(|segment| !is_segment(segment)) {
            None => Ok(Self(text.into())),
            Some("") => Err(format!("{text:?} has an empty segment; an owner is written like acme/research/alice")),
            Some(segment) => Err(format!(
                "{segment:?} is not an owner segment: lower-case letters, digits, '.', '_' and '-', \
                 beginning with a letter or digit, at most 63 characters"
            )),
        }
    }

    /// The path and every prefix of it, root first: `acme`, `acme/research`, ….
    pub fn lineage(&self) -> impl Iterator<Item = &str> {
        let slashes = self.0.bytes().enumerate().filter(|(_, byte)| *byte == b'/').map(|(at, _)| at);
        slashes.chain([self.0.len()]).map(|end| self.0.get(..end).unwrap_or_default())
    }

    /// True when this path is `ancestor` or lies below it.
    #[must_use]
    pub fn is_within(&self, ancestor: &str) -> bool {
        self.0.strip_prefix(ancestor).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// The path as written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for OwnerPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Borrow<str> for OwnerPath {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// The nodes that are switched off, each with everything below it.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct DisabledOwners(HashSet<OwnerPath>);

impl DisabledOwners {
    /// Switches a node off or on again.
    pub fn set(&mut self, owner: OwnerPath, disabled: bool) {
        if disabled {
            self.0.insert(owner);
        } else {
            self.0.remove(&owner);
        }
    }

    /// The node nearest to the root that switches `owner` off, if any does.
    #[must_use]
    pub fn on_path(&self, owner: &OwnerPath) -> Option<&OwnerPath> {
        if self.0.is_empty() {
            return None;
        }
        owner.lineage().find_map(|node| self.0.get(node))
    }

    /// Every node that is switched off, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &OwnerPath> {
        self.0.iter()
    }
}

impl FromIterator<OwnerPath> for DisabledOwners {
    fn from_iter<I: IntoIterator<Item = OwnerPath>>(owners: I) -> Self {
        Self(owners.into_iter().collect())
    }
}

fn is_segment(segment: &str) -> bool {
    let letter = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    segment.len() <= 63
        && segment.bytes().next().is_some_and(letter)
        && segment.bytes().all(|b| letter(b) || matches!(b, b'.' | b'_' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_paths_and_refuses_look_alikes() {
        for good in ["a", "acme/research/alice", "a/b/c/d/e/f/g/h", "x.y/z_1/q-2"] {
            assert!(OwnerPath::parse(good).is_ok(), "{good}");
        }
        let long = "a".repeat(64);
        for wrong in ["", "/a", "a/", "a//b", "A", "a/.b", "a/-b", "a b", "ä", "a/b/c/d/e/f/g/h/i", &long] {
            assert!(OwnerPath::parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn lineage_is_root_first() {
        let path = OwnerPath::parse("acme/research/alice").unwrap();
        let lineage: Vec<_> = path.lineage().collect();
        assert_eq!(lineage, ["acme", "acme/research", "acme/research/alice"]);
    }

    #[test]
    fn a_node_switches_off_what_is_below_it_and_nothing_else() {
        let path = |text| OwnerPath::parse(text).unwrap();
        let mut disabled = DisabledOwners::default();
        assert_eq!(disabled.on_path(&path("acme")), None);
        disabled.set(path("acme/research"), true);
        assert_eq!(disabled.on_path(&path("acme/research")), Some(&path("acme/research")));
        assert_eq!(disabled.on_path(&path("acme/research/alice")), Some(&path("acme/research")));
        assert_eq!(disabled.on_path(&path("acme")), None);
        assert_eq!(disabled.on_path(&path("acme/research2")), None);
        disabled.set(path("acme/research"), false);
        assert_eq!(disabled, DisabledOwners::default());
    }

    #[test]
    fn within_is_by_whole_segments() {
        let path = OwnerPath::parse("acme/research").unwrap();
        assert!(path.is_within("acme"));
        assert!(path.is_within("acme/research"));
        assert!(!path.is_within("acme/res"));
        assert!(!path.is_within("acme/research/alice"));
    }
}
