//! The one pattern language of Doorward: literal text with `*`.

use std::fmt;

/// A pattern in which `*` stands for any run of characters, `/` and `:` included. Everything else
/// is literal and case-sensitive; there is no escape and no other wildcard.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Glob(Box<str>);

impl Glob {
    /// Longest pattern that is accepted, in bytes.
    pub const MAX_BYTES: usize = 256;

    /// Reads a pattern.
    ///
    /// # Errors
    ///
    /// When it is empty, over-long, holds white space or control characters, or `**`, which people
    /// write in other pattern languages and which would mean nothing of its own here.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("an empty pattern matches nothing; \"*\" matches everything".to_owned());
        }
        if text.len() > Self::MAX_BYTES {
            return Err(format!("a pattern has at most {} bytes", Self::MAX_BYTES));
        }
        if let Some(odd) = text.chars().find(|c| c.is_whitespace() || c.is_control()) {
            return Err(format!("a pattern cannot hold {odd:?}"));
        }
        if text.contains("**") {
            return Err(format!("{text:?}: write one *, it already matches / and : too"));
        }
        Ok(Self(text.into()))
    }

    /// True when the whole of `text` fits the pattern.
    ///
    /// Runs in O(pattern x text) at worst: on a mismatch only the last `*` is tried again.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        let Some((head, rest)) = self.0.split_once('*') else {
            return &*self.0 == text;
        };
        let Some(mut left) = text.strip_prefix(head) else { return false };
        let mut pieces = rest.split('*').peekable();
        while let Some(piece) = pieces.next() {
            if pieces.peek().is_none() {
                return left.ends_with(piece);
            }
            let Some(at) = left.find(piece) else { return false };
            left = left.get(at + piece.len()..).unwrap_or_default();
        }
        true
    }

    /// How many literal characters the pattern has: its precision.
    #[must_use]
    pub fn literal_characters(&self) -> usize {
        self.0.chars().filter(|&c| c != '*').count()
    }

    /// True when some text could fit both patterns.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        overlap(self.0.as_bytes(), other.0.as_bytes())
    }

    /// The pattern as written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Both patterns walked at once, one row of reachable positions at a time.
fn overlap(a: &[u8], b: &[u8]) -> bool {
    let width = b.len() + 1;
    let mut row = vec![false; width];
    for i in 0..=a.len() {
        let mut next = vec![false; width];
        for j in 0..=b.len() {
            let (up, left) = (i.checked_sub(1), j.checked_sub(1));
            let (x, y) = (up.and_then(|i| a.get(i)), left.and_then(|j| b.get(j)));
            let was = |row: &[bool], j: Option<usize>| j.and_then(|j| row.get(j)).copied() == Some(true);
            let reached = (up.is_none() && left.is_none())
                || (x == Some(&b'*') && was(&row, Some(j)))
                || (y == Some(&b'*') && was(&next, left))
                || (x == Some(&b'*') && was(&next, left))
                || (y == Some(&b'*') && was(&row, Some(j)))
                || (x.is_some() && x == y && was(&row, left));
            if let Some(cell) = next.get_mut(j) {
                *cell = reached;
            }
        }
        row = next;
    }
    row.last() == Some(&true)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn star_matches_any_run() {
        check("*", "", true);
        check("*", "meta/llama:8b", true);
        check("llama-*", "llama-3.1", true);
        check("llama-*", "Llama-3.1", false);
        check("llama-*", "llama-", true);
        check("*:8b", "qwen3:8b", true);
        check("*:8b", "qwen3:8b-q4", false);
        check("a*b*c", "a-b-b-c", true);
        check("a*b*c", "a-c-b", false);
        check("a*a", "a", false);
        check("qwen3", "qwen3:8b", false);
        check("[ab]", "a", false);
        check("a?c", "abc", false);
    }

    #[track_caller]
    fn check(pattern: &str, text: &str, expected: bool) {
        assert_eq!(Glob::parse(pattern).unwrap().matches(text), expected, "{pattern} on {text}");
    }

    #[test]
    fn refuses_what_would_mislead() {
        for wrong in ["", "a b", "a**", "a\n"] {
            assert!(Glob::parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn overlap_is_found() {
        let overlaps = |a, b| Glob::parse(a).unwrap().overlaps(&Glob::parse(b).unwrap());
        assert!(overlaps("spiffe://a/client/ci-*", "spiffe://a/client/*-7"));
        assert!(overlaps("a*", "a"));
        assert!(!overlaps("a*", "b*"));
        assert!(!overlaps("*x", "*y"));
        assert!(overlaps("*", "*"));
    }

    proptest! {
        /// Agrees with the definition: a pattern is a list of literals to be found in order.
        #[test]
        fn matches_by_definition(pattern in "[ab*]{1,8}", text in "[ab]{0,10}") {
            fn slow(p: &[u8], t: &[u8]) -> bool {
                match p.split_first() {
                    None => t.is_empty(),
                    Some((b'*', rest)) => (0..=t.len()).any(|n| slow(rest, &t[n..])),
                    Some((c, rest)) => t.first() == Some(c) && slow(rest, &t[1..]),
                }
            }
            prop_assume!(!pattern.contains("**"));
            let glob = Glob::parse(&pattern).unwrap();
            prop_assert_eq!(glob.matches(&text), slow(pattern.as_bytes(), text.as_bytes()));
        }

        /// Whatever two patterns both match is an overlap.
        #[test]
        fn common_match_is_overlap(a in "[ab*]{1,6}", b in "[ab*]{1,6}", text in "[ab]{0,8}") {
            prop_assume!(!a.contains("**") && !b.contains("**"));
            let (a, b) = (Glob::parse(&a).unwrap(), Glob::parse(&b).unwrap());
            if a.matches(&text) && b.matches(&text) {
                prop_assert!(a.overlaps(&b));
            }
        }
    }
}
