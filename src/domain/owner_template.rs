//! Where an issuer's callers sit: owner paths with claims in them.
//!
//! Invariant: a claim can only ever fill one whole segment of an owner path, as it stands. What is
//! no segment is refused and never repaired: two claims that differ must not meet on one path.

use aws_lc_rs::digest::{SHA256, digest};

use crate::domain::owner::OwnerPath;
use crate::domain::token::TokenFault;

/// Where an issuer's callers sit on the owner tree: `acme/sso/{sub}`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OwnerTemplate(Box<[Segment]>);

#[derive(Clone, PartialEq, Eq, Debug)]
enum Segment {
    Literal(Box<str>),
    Claim(Box<str>),
    Hash(Box<str>),
}

/// What a token says of one claim.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Claim<'a> {
    /// Nothing.
    Absent,
    /// Something else than text: an array, a number, an object.
    NotText,
    /// This text.
    Text(&'a str),
}

impl OwnerTemplate {
    /// Longest name of a claim in bytes.
    const MAX_CLAIM_BYTES: usize = 128;

    /// Reads a template: an owner path of which whole segments may be `{claim}` or `{claim:hash}`.
    ///
    /// # Errors
    ///
    /// When it could not become an owner path, or names no claim.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut segments = Vec::new();
        let mut rest = text;
        loop {
            // A name of a claim may hold a slash: many providers use URLs.
            let end = match rest.strip_prefix('{') {
                None => rest.find('/').unwrap_or(rest.len()),
                Some(inside) => {
                    let close = inside.find('}').ok_or_else(|| format!("{text:?} has a {{ without its }}"))?;
                    close + 2
                }
            };
            let (segment, after) = rest.split_at_checked(end).unwrap_or((rest, ""));
            segments.push(Segment::parse(segment)?);
            rest = match (after.strip_prefix('/'), after.is_empty()) {
                (Some(next), _) => next,
                (None, true) => break,
                (None, false) => return Err(format!("{text:?}: a claim fills a whole segment, as in acme/{{sub}}")),
            };
        }
        let template = Self(segments.into());
        // Whatever the claims will be: the literal segments must fit, and their number.
        template.fill(|_| Claim::Text("x")).map_err(|_| {
            let literal = template.0.iter().map(Segment::example).collect::<Vec<_>>().join("/");
            OwnerPath::parse(&literal).err().unwrap_or_else(|| format!("{text:?} is not an owner path"))
        })?;
        if template.claims().next().is_none() {
            return Err(format!(
                "{text:?} names no claim, so that all callers would be one; write acme/sso/{{sub}} or acme/sso/{{sub:hash}}"
            ));
        }
        Ok(template)
    }

    /// The claims that it names.
    pub fn claims(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|segment| match segment {
            Segment::Literal(_) => None,
            Segment::Claim(name) | Segment::Hash(name) => Some(&**name),
        })
    }

    /// True when the token alone says below which root its caller sits.
    #[must_use]
    pub fn begins_with_claim(&self) -> bool {
        !matches!(self.0.first(), Some(Segment::Literal(_)))
    }

    /// The owner that a token with these claims belongs to.
    ///
    /// # Errors
    ///
    /// When a claim is absent, no text, or no owner segment.
    pub fn fill<'c>(&self, claim: impl Fn(&str) -> Claim<'c>) -> Result<OwnerPath, TokenFault> {
        let text = |name: &str| match claim(name) {
            Claim::Text(text) => Ok(text),
            Claim::Absent => Err(TokenFault::ClaimAbsent(name.into())),
            Claim::NotText => Err(TokenFault::ClaimNotText(name.into())),
        };
        let mut path = String::new();
        for (index, segment) in self.0.iter().enumerate() {
            if index > 0 {
                path.push('/');
            }
            match segment {
                Segment::Literal(literal) => path.push_str(literal),
                Segment::Hash(name) => path.push_str(&hashed(text(name)?)),
                Segment::Claim(name) => {
                    let text = text(name)?;
                    // Alone it must be a path of one segment: "a/b" would be two, "" none.
                    if text.contains('/') || OwnerPath::parse(text).is_err() {
                        return Err(TokenFault::ClaimNoSegment(name.clone()));
                    }
                    path.push_str(text);
                }
            }
        }
        OwnerPath::parse(&path).map_err(|_| TokenFault::OwnerTooLong)
    }
}

impl Segment {
    fn parse(text: &str) -> Result<Self, String> {
        let Some(inside) = text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) else {
            if text.contains(['{', '}']) {
                return Err(format!("{text:?}: a claim fills a whole segment, as in acme/{{sub}}"));
            }
            return Ok(Self::Literal(text.into()));
        };
        let (name, hash) = inside.strip_suffix(":hash").map_or((inside, false), |name| (name, true));
        let fits = (1..=OwnerTemplate::MAX_CLAIM_BYTES).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'{' | b'}' | b'"'));
        if !fits {
            return Err(format!("{text:?} does not name a claim; write {{sub}} or {{sub:hash}}"));
        }
        Ok(if hash { Self::Hash(name.into()) } else { Self::Claim(name.into()) })
    }

    fn example(&self) -> &str {
        match self {
            Self::Literal(literal) => literal,
            Self::Claim(_) | Self::Hash(_) => "x",
        }
    }
}

/// `h-` and 26 characters of lower-case base32 (RFC 4648, without padding): the first 130 bits of
/// SHA-256. For claims whose alphabet is not that of segments, such as e-mail addresses.
fn hashed(text: &str) -> String {
    const BASE32: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    const CHARACTERS: usize = 26;
    let digest = digest(&SHA256, text.as_bytes());
    let bits = digest.as_ref().iter().flat_map(|byte| (0..8).rev().map(move |at| usize::from(byte >> at & 1)));
    let bits: Vec<usize> = bits.take(CHARACTERS * 5).collect();
    let letter = |five: &[usize]| BASE32.get(five.iter().fold(0, |number, bit| number * 2 + bit)).copied();
    let letters = bits.chunks(5).filter_map(letter).map(char::from);
    "h-".chars().chain(letters).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn owner(template: &str, claims: &[(&str, Claim<'_>)]) -> Result<String, TokenFault> {
        let find = |name: &str| claims.iter().find(|(known, _)| *known == name).map_or(Claim::Absent, |(_, c)| *c);
        OwnerTemplate::parse(template).unwrap().fill(find).map(|owner| owner.to_string())
    }

    #[test]
    fn claims_fill_whole_segments() {
        let sub = [("sub", Claim::Text("alice")), ("https://acme/team", Claim::Text("red")), ("n", Claim::NotText)];
        assert_eq!(owner("acme/sso/{sub}", &sub).unwrap(), "acme/sso/alice");
        assert_eq!(owner("acme/{https://acme/team}/{sub}", &sub).unwrap(), "acme/red/alice");
        assert_eq!(owner("{sub}", &sub).unwrap(), "alice");
        assert_eq!(owner("acme/{email}", &sub), Err(TokenFault::ClaimAbsent("email".into())));
        assert_eq!(owner("acme/{n}", &sub), Err(TokenFault::ClaimNotText("n".into())));
        assert_eq!(owner("acme/{n:hash}", &sub), Err(TokenFault::ClaimNotText("n".into())));
    }

    #[test]
    fn what_is_no_segment_is_refused() {
        let long = "a".repeat(64);
        for odd in ["", "/", "a/b", "/a", "a/", ".", "..", "../x", "Alice", "a b", "é", "a\u{0}", "-a", "_a", &long] {
            let result = owner("acme/{sub}", &[("sub", Claim::Text(odd))]);
            assert_eq!(result, Err(TokenFault::ClaimNoSegment("sub".into())), "{odd:?}");
            // A hash of it is always a segment.
            let hash = owner("acme/{sub:hash}", &[("sub", Claim::Text(odd))]).unwrap();
            assert!(hash.starts_with("acme/h-") && hash.len() == 7 + 26, "{hash}");
        }
    }

    #[test]
    fn the_hash_is_base32_of_sha_256() {
        // printf %s alice@corp.example | openssl sha256 -binary | base32 | tr A-Z a-z | cut -c1-26
        assert_eq!(hashed("alice@corp.example"), "h-c2iat6yroso7aitk5nq2btiead");
        assert_eq!(hashed(""), "h-4oymiquy7qobjgx36tejs35zeq");
    }

    #[test]
    fn templates_that_could_not_become_paths_are_refused() {
        for wrong in [
            "",
            "acme",
            "acme/sso",
            "acme//{sub}",
            "/{sub}",
            "{sub}/",
            "acme/{}",
            "acme/{:hash}",
            "acme/{sub",
            "acme/sub}",
            "acme/x-{sub}",
            "acme/{sub}-x",
            "acme/{sub}{iss}",
            "acme/{a b}",
            "Acme/{sub}",
            "a/b/c/d/e/f/g/h/{sub}",
        ] {
            assert!(OwnerTemplate::parse(wrong).is_err(), "{wrong}");
        }
        assert!(OwnerTemplate::parse("{tenant}/{sub}").unwrap().begins_with_claim());
        assert!(!OwnerTemplate::parse("acme/{sub}").unwrap().begins_with_claim());
    }

    proptest! {
        /// Whatever claims say, they stay below the literal part, at their depth, unaltered.
        #[test]
        fn no_claim_leaves_its_place(a in "\\PC{0,12}|[a-z0-9._/-]{0,12}", b in "[a-zA-Z0-9._/-]{0,12}") {
            let template = OwnerTemplate::parse("acme/{a}/x/{b}").unwrap();
            let filled = template.fill(|name| Claim::Text(if name == "a" { &a } else { &b }));
            match filled {
                Ok(owner) => {
                    let segments: Vec<&str> = owner.as_str().split('/').collect();
                    prop_assert_eq!(segments, vec!["acme", &*a, "x", &*b]);
                }
                Err(fault) => prop_assert!(matches!(fault, TokenFault::ClaimNoSegment(_))),
            }
        }

        /// No text of a template panics.
        #[test]
        fn any_template_is_read_or_refused(text in "[{}/a-z:]{0,20}|\\PC{0,20}") {
            if let Ok(template) = OwnerTemplate::parse(&text) {
                prop_assert!(template.fill(|_| Claim::Text("x")).is_ok());
            }
        }
    }
}
