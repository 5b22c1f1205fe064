//! Over whose connections a key works.

use std::fmt;

use crate::domain::glob::Glob;
use crate::domain::identity::Identity;

/// The identity that a key is bound to: `spiffe://corp.example/client/alice`, with `*` allowed in
/// the last segment. It names a subject and not one certificate, so a renewal breaks nothing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Binding {
    text: Box<str>,
    /// Where the last segment begins.
    name_at: usize,
    name: Glob,
}

impl Binding {
    /// Reads a binding.
    ///
    /// # Errors
    ///
    /// When it is not a caller's SPIFFE ID, or has `*` anywhere but in the last segment: a pattern
    /// over trust domains or roles would bind a key to strangers.
    pub fn parse(text: &str) -> Result<Self, String> {
        let how = "bind a key to a caller's identity such as spiffe://corp.example/client/alice, \
                   or to several with * in the last segment: spiffe://corp.example/client/ci-*";
        let (path, name) = text.rsplit_once('/').ok_or_else(|| format!("{text:?} is not an identity; {how}"))?;
        if path.contains('*') {
            return Err(format!("{text:?} has a * before its last segment; {how}"));
        }
        // What stands for any characters is judged as one that is allowed everywhere.
        Identity::external(&format!("{path}/{}", name.replace('*', "x"))).map_err(|_| {
            format!("{text:?} is not the identity of a caller (connectors and operators call nothing); {how}")
        })?;
        let name = Glob::parse(name).map_err(|why| format!("{text:?}: {why}"))?;
        Ok(Self { text: text.into(), name_at: path.len() + 1, name })
    }

    /// True when the key works over a connection that proved `identity`.
    #[must_use]
    pub fn matches(&self, identity: &Identity) -> bool {
        let uri = identity.uri();
        match (uri.get(..self.name_at), uri.get(self.name_at..)) {
            (Some(path), Some(name)) => {
                self.text.get(..self.name_at) == Some(path) && !name.contains('/') && self.name.matches(name)
            }
            (None, _) | (_, None) => false,
        }
    }

    /// The binding as written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Binding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stays_in_the_last_segment() {
        check("spiffe://corp.example/client/alice", "spiffe://corp.example/client/alice", true);
        check("spiffe://corp.example/client/alice", "spiffe://corp.example/client/alice2", false);
        check("spiffe://corp.example/client/alice", "spiffe://corp.example2/client/alice", false);
        check("spiffe://corp.example/client/ci-*", "spiffe://corp.example/client/ci-7", true);
        check("spiffe://corp.example/client/ci-*", "spiffe://corp.example/client/ci", false);
        check("spiffe://corp.example/client/*", "spiffe://corp.example/client/alice", true);
        check("spiffe://corp.example/ns/*", "spiffe://corp.example/ns/prod/sa/chat", false);
        check("spiffe://corp.example/ns/prod/*", "spiffe://corp.example/ns/prod", false);
        check("spiffe://corp.example/ns/prod/sa/chat", "spiffe://corp.example/ns/prod/sa/chat", true);
    }

    #[track_caller]
    fn check(binding: &str, uri: &str, expected: bool) {
        let identity = Identity::external(uri).unwrap();
        assert_eq!(Binding::parse(binding).unwrap().matches(&identity), expected, "{binding} on {uri}");
    }

    #[test]
    fn what_is_no_callers_identity_is_refused_with_a_way_out() {
        for wrong in [
            "",
            "alice",
            "*",
            "spiffe://*/client/alice",
            "spiffe://corp.*/client/alice",
            "spiffe://corp.example/*/alice",
            "spiffe://corp.example/client/",
            "spiffe://corp.example/client/a**",
            "spiffe://corp.example/client/a b",
            "spiffe://corp.example/operator/alice",
            "spiffe://corp.example/connector/*",
            "spiffe://corp.example/*/",
            "https://corp.example/client/alice",
            "spiffe://corp.example",
        ] {
            let why = Binding::parse(wrong).unwrap_err();
            assert!(why.contains("spiffe://corp.example/client/") || why.contains("write one *"), "{wrong:?}: {why}");
        }
    }
}
