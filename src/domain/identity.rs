//! Who a verified client certificate says a caller is: strict SPIFFE IDs.
//!
//! Invariant: an [`Identity`] exists only for `spiffe://<trust-domain>/<role>/<name>` that is
//! byte-exact in the grammar below. There is no normalising: what would have to be normalised is
//! refused, so two spellings can never be one caller.

use std::fmt;

use crate::domain::glob::Glob;

/// A trust domain such as `corp.example`: `[a-z0-9._-]{1,255}`, as in the SPIFFE ID standard,
/// narrowed by refusing empty labels.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TrustDomain(Box<str>);

impl TrustDomain {
    /// Reads a trust domain.
    ///
    /// # Errors
    ///
    /// When it is not 1 to 255 characters of `[a-z0-9._-]`, or has an empty label.
    pub fn parse(text: &str) -> Result<Self, String> {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-');
        let good = (1..=255).contains(&text.len())
            && text.bytes().all(allowed)
            && text.split('.').all(|label| !label.is_empty());
        if good {
            Ok(Self(text.into()))
        } else {
            Err(format!(
                "{text:?} is not a trust domain: lower-case letters, digits, '.', '_' and '-', such as corp.example"
            ))
        }
    }

    /// The domain as written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What an identity may be used for. Roles never mix: each listener role admits exactly one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Role {
    /// Calls models through the `api` names.
    Client,
    /// Offers backends through the `connect` names.
    Connector,
    /// Administers the gateway.
    Operator,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 3] = [Self::Client, Self::Connector, Self::Operator];

    /// The path segment that stands for the role.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Connector => "connector",
            Self::Operator => "operator",
        }
    }

    /// Reads a role.
    ///
    /// # Errors
    ///
    /// When `text` is not the name of a role.
    pub fn parse(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|role| role.as_str() == text)
            .ok_or_else(|| format!("{text:?} is not a role (client, connector, operator)"))
    }
}

/// The name part: `[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?` without `..`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct IdentityName(Box<str>);

impl IdentityName {
    /// Reads a name.
    ///
    /// # Errors
    ///
    /// When it is not in the grammar.
    pub fn parse(text: &str) -> Result<Self, String> {
        let edge = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let good = (1..=63).contains(&text.len())
            && text.bytes().all(|b| edge(b) || matches!(b, b'.' | b'_' | b'-'))
            && text.bytes().next().is_some_and(edge)
            && text.bytes().next_back().is_some_and(edge)
            && !text.contains("..");
        if good {
            Ok(Self(text.into()))
        } else {
            Err(format!(
                "{text:?} is not a name: at most 63 lower-case letters, digits, '.', '_' and '-', \
                 beginning and ending with a letter or digit, without \"..\""
            ))
        }
    }

    /// The name as written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for IdentityName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A verified identity, `spiffe://<trust-domain>/<role>/<name>`.
///
/// An external trust domain (a SPIRE server, say) may use any path; such an identity is always a
/// client, whatever its path spells (see [`Identity::external`]).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Identity {
    uri: Box<str>,
    role: Role,
    domain_end: usize,
}

const SCHEME: &str = "spiffe://";

impl Identity {
    /// Longest SPIFFE ID that is accepted, in bytes (the SPIFFE ID standard's own bound).
    pub const MAX_BYTES: usize = 2048;

    /// The identity of `name` in `domain`.
    #[must_use]
    pub fn new(domain: &TrustDomain, role: Role, name: &IdentityName) -> Self {
        let uri = format!("{SCHEME}{domain}/{}/{name}", role.as_str());
        Self { uri: uri.into(), role, domain_end: SCHEME.len() + domain.as_str().len() }
    }

    /// Reads an identity of the built-in authority: exactly `spiffe://<domain>/<role>/<name>`.
    ///
    /// # Errors
    ///
    /// When the URI is anything else.
    pub fn parse(uri: &str) -> Result<Self, String> {
        let wrong = || format!("{uri:?} is not spiffe://<trust-domain>/<client|connector|operator>/<name>");
        let (domain, path) = uri.strip_prefix(SCHEME).and_then(|rest| rest.split_once('/')).ok_or_else(wrong)?;
        let (role, name) = path.split_once('/').ok_or_else(wrong)?;
        Ok(Self::new(
            &TrustDomain::parse(domain)?,
            Role::parse(role).map_err(|_| wrong())?,
            &IdentityName::parse(name)?,
        ))
    }

    /// Reads an identity of an external authority: any valid SPIFFE ID with a path. It is a
    /// caller and nothing else, even if its path spells another role.
    ///
    /// # Errors
    ///
    /// When the URI is not a SPIFFE ID as its standard writes it, or spells `/connector/` or
    /// `/operator/`: an outside authority that names those is confused or hostile.
    pub fn external(uri: &str) -> Result<Self, String> {
        let wrong = |why: &str| format!("{uri:?} is not a SPIFFE ID: {why}");
        if uri.len() > Self::MAX_BYTES {
            return Err(wrong("too long"));
        }
        let rest = uri.strip_prefix(SCHEME).ok_or_else(|| wrong("the scheme is not spiffe://"))?;
        let (domain, path) = rest.split_once('/').ok_or_else(|| wrong("no path"))?;
        let domain = TrustDomain::parse(domain)?;
        let segment = |s: &str| {
            !s.is_empty()
                && s != "."
                && s != ".."
                && s.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
        };
        if !path.split('/').all(segment) {
            return Err(wrong("a path segment is empty, '.', '..' or has a character outside [A-Za-z0-9._-]"));
        }
        match path.split('/').next() {
            Some("connector" | "operator") => Err(wrong("an external authority cannot name connectors or operators")),
            _ => Ok(Self { uri: uri.into(), role: Role::Client, domain_end: SCHEME.len() + domain.as_str().len() }),
        }
    }

    /// The SPIFFE ID.
    #[must_use]
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// What the identity may be used for.
    #[must_use]
    pub const fn role(&self) -> Role {
        self.role
    }

    /// The trust domain's text.
    #[must_use]
    pub fn trust_domain(&self) -> &str {
        self.uri.get(SCHEME.len()..self.domain_end).unwrap_or_default()
    }

    /// Everything after the trust domain, with its leading slash.
    #[must_use]
    pub fn path(&self) -> &str {
        self.uri.get(self.domain_end..).unwrap_or_default()
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri)
    }
}

/// Which identities an `[[identity]]` entry places on the owner tree.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IdentityMatch(Glob);

impl IdentityMatch {
    /// Reads a match: a pattern over whole SPIFFE IDs whose trust domain is literal.
    ///
    /// # Errors
    ///
    /// When it does not begin with `spiffe://<literal trust domain>/`: a pattern that reached
    /// across trust domains would hand one authority's owners to another.
    pub fn parse(text: &str) -> Result<Self, String> {
        let glob = Glob::parse(text)?;
        let domain = text.strip_prefix(SCHEME).and_then(|rest| rest.split_once('/')).map(|(domain, _)| domain);
        match domain {
            Some(domain) if TrustDomain::parse(domain).is_ok() => Ok(Self(glob)),
            _ => Err(format!(
                "{text:?} must begin with spiffe:// and a literal trust domain, such as spiffe://corp.example/client/ci-*"
            )),
        }
    }

    /// True when the entry places `identity`.
    #[must_use]
    pub fn matches(&self, identity: &Identity) -> bool {
        self.0.matches(identity.uri())
    }

    /// The pattern.
    #[must_use]
    pub fn glob(&self) -> &Glob {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_exactly_our_own_ids() {
        let identity = Identity::parse("spiffe://corp.example/client/alice").unwrap();
        assert_eq!(
            (identity.trust_domain(), identity.role(), identity.path()),
            ("corp.example", Role::Client, "/client/alice")
        );
        for wrong in [
            "spiffe://corp.example/client/",
            "spiffe://corp.example/client/a/b",
            "spiffe://corp.example/admin/alice",
            "spiffe://corp.example/Client/alice",
            "spiffe://corp.example//client/alice",
            "spiffe://corp.example/client/alice/",
            "spiffe://Corp.example/client/alice",
            "SPIFFE://corp.example/client/alice",
            "spiffe://corp.example:443/client/alice",
            "spiffe://u@corp.example/client/alice",
            "spiffe://corp.example/client/al%69ce",
            "spiffe://corp.example/client/alice?x",
            "spiffe://corp.example/client/alice#x",
            "spiffe://corp.example/client/..",
            "spiffe://corp.example/client/a..b",
            "spiffe://corp.example/client/-a",
            "spiffe://corp.example/client/a.",
            "spiffe://corp..example/client/alice",
            "spiffe:///client/alice",
            "spiffe://corp.example/client/alice\0",
            "https://corp.example/client/alice",
            "",
        ] {
            assert!(Identity::parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn an_external_id_is_a_client_only() {
        let identity = Identity::external("spiffe://spire.example/ns/prod/sa/Chat").unwrap();
        assert_eq!((identity.trust_domain(), identity.role()), ("spire.example", Role::Client));
        for wrong in [
            "spiffe://spire.example/connector/x",
            "spiffe://spire.example/operator/x",
            "spiffe://spire.example",
            "spiffe://spire.example/",
            "spiffe://spire.example/a//b",
            "spiffe://spire.example/a/../b",
            "spiffe://spire.example/a%2fb",
        ] {
            assert!(Identity::external(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_match_stays_in_one_trust_domain() {
        assert!(IdentityMatch::parse("spiffe://corp.example/client/ci-*").is_ok());
        for wrong in ["*", "spiffe://*/client/a", "spiffe://corp.*/client/a", "spiffe://corp.example", "alice"] {
            assert!(IdentityMatch::parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
