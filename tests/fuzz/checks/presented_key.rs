//! Only what was made as a key reads as one, and a damaged key does not.

use doorward::domain::key::{NewKey, Pepper, PresentedKey};

/// Id, secret, where to damage it and how, and a text.
pub(super) fn check(input: &[u8]) {
    let Some((id, rest)) = input.split_first_chunk::<8>() else { return };
    let Some((secret, rest)) = rest.split_first_chunk::<32>() else { return };
    let Some(([at, damage], text)) = rest.split_first_chunk() else { return };
    if let Some(key) = PresentedKey::parse(text) {
        let text = std::str::from_utf8(text).expect("a key is ASCII");
        assert!(text.starts_with("dw_") && text.contains(key.id().as_str()));
        assert!(!format!("{key:?}").contains(text));
    }
    let made = NewKey::from_random(*id, secret);
    let mut text = made.reveal().as_bytes().to_vec();
    let pepper = Pepper::new(secret);
    let digest = pepper.digest(&made);
    let key = PresentedKey::parse(&text).expect("a key that was just made");
    assert_eq!(key.id(), made.id());
    assert!(pepper.verifies(&key, Some(&digest)));
    if *damage != 0 {
        let at = usize::from(*at) % text.len();
        text[at] ^= damage;
        // Check characters catch nearly all damage; what they miss is another key.
        if let Some(other) = PresentedKey::parse(&text) {
            assert!(!pepper.verifies(&other, Some(&digest)));
        }
    }
}
