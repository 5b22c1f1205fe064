//! What operators write beside a key. It is shown and searched, and decides nothing.

use std::collections::BTreeMap;
use std::fmt;

/// Pairs such as `team=search`: at most [`Labels::MAX`].
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Labels(BTreeMap<Box<str>, Box<str>>);

impl Labels {
    /// Most labels of one key.
    pub const MAX: usize = 32;
    const MAX_NAME: usize = 63;
    const MAX_VALUE: usize = 256;

    /// Reads labels.
    ///
    /// # Errors
    ///
    /// Every one that is wrong, as its index and why: too many, a name twice or not
    /// `[a-z0-9._-]{1,63}`, a value of more than 256 bytes or with control characters.
    pub fn parse<N: AsRef<str>, V: AsRef<str>>(
        labels: impl IntoIterator<Item = (N, V)>,
    ) -> Result<Self, Vec<(usize, String)>> {
        let (mut all, mut wrong) = (BTreeMap::new(), Vec::new());
        for (index, (name, value)) in labels.into_iter().enumerate() {
            let (name, value) = (name.as_ref(), value.as_ref());
            if index == Self::MAX {
                wrong.push((index, format!("a key has at most {} labels", Self::MAX)));
                break;
            }
            if let Err(why) = check(name, value) {
                wrong.push((index, why));
            } else if all.insert(name.into(), value.into()).is_some() {
                wrong.push((index, format!("the label {name} is there twice")));
            }
        }
        if wrong.is_empty() { Ok(Self(all)) } else { Err(wrong) }
    }

    /// The value of a label.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(AsRef::as_ref)
    }

    /// All labels, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (&**name, &**value))
    }

    /// True when there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn check(name: &str, value: &str) -> Result<(), String> {
    let letter = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-');
    if name.is_empty() || name.len() > Labels::MAX_NAME || !name.bytes().all(letter) {
        return Err(format!(
            "{name:?} is not the name of a label: 1 to {} characters of a-z 0-9 . _ -, such as team",
            Labels::MAX_NAME
        ));
    }
    if value.len() > Labels::MAX_VALUE {
        return Err(format!("the value of the label {name} has more than {} bytes", Labels::MAX_VALUE));
    }
    match value.chars().find(|c| c.is_control()) {
        Some(odd) => Err(format!("the value of the label {name} cannot hold {odd:?}")),
        None => Ok(()),
    }
}

/// A remark about a key, in one line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Note(Box<str>);

impl Note {
    /// Longest note in bytes.
    pub const MAX_BYTES: usize = 1024;

    /// Reads a note.
    ///
    /// # Errors
    ///
    /// When it is empty, too long, or holds control characters (a line break is one).
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("an empty note; leave it out".to_owned());
        }
        if text.len() > Self::MAX_BYTES {
            return Err(format!("a note has at most {} bytes", Self::MAX_BYTES));
        }
        match text.chars().find(|c| c.is_control()) {
            Some(odd) => Err(format!("a note is one line of text and cannot hold {odd:?}")),
            None => Ok(Self(text.into())),
        }
    }

    /// The note.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What another system calls a key: `[A-Za-z0-9._:/@+-]{1,128}`.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct ExternalId(Box<str>);

impl ExternalId {
    /// Longest external id in bytes.
    pub const MAX_BYTES: usize = 128;

    /// Reads an external id.
    ///
    /// # Errors
    ///
    /// When it is not in the grammar.
    pub fn parse(text: &str) -> Result<Self, String> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'/' | b'@' | b'+' | b'-');
        if (1..=Self::MAX_BYTES).contains(&text.len()) && text.bytes().all(allowed) {
            Ok(Self(text.into()))
        } else {
            Err(format!(
                "{text:?} is not an external id: 1 to {} characters of A-Z a-z 0-9 . _ : / @ + -",
                Self::MAX_BYTES
            ))
        }
    }

    /// The id as written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ExternalId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_bounded() {
        let good = Labels::parse([("team", "search"), ("cost-center", "47 11 ä"), ("empty", "")]).unwrap();
        assert_eq!(good.get("team"), Some("search"));
        assert_eq!(good.iter().map(|(name, _)| name).collect::<Vec<_>>(), ["cost-center", "empty", "team"]);
        let long = "x".repeat(64);
        for wrong in [("", "x"), ("Team", "x"), ("a b", "x"), (&*long, "x"), ("a", "x\ny"), ("a", &*"x".repeat(257))] {
            assert_eq!(Labels::parse([("ok", "x"), wrong]).unwrap_err()[0].0, 1, "{wrong:?}");
        }
        assert!(Labels::parse([("a", "1"), ("a", "2")]).is_err());
        let many = |count: usize| Labels::parse((0..count).map(|n| (format!("l{n}"), "x")));
        assert!(many(32).is_ok());
        assert_eq!(many(99).unwrap_err().len(), 1);
    }

    #[test]
    fn notes_and_external_ids_are_bounded() {
        assert!(Note::parse("für die Demo, bis März").is_ok());
        for wrong in ["", "two\nlines", &"x".repeat(1025)] {
            assert!(Note::parse(wrong).is_err(), "{wrong:?}");
        }
        assert!(ExternalId::parse("crm:tenant-7/user@corp.example+1").is_ok());
        for wrong in ["", "a b", "ä", "a\0", &"x".repeat(129)] {
            assert!(ExternalId::parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
