//! An identity is spelled in exactly one way, and an outside authority makes clients only.

use doorward::domain::identity::{Identity, Role};

pub(super) fn check(input: &[u8]) {
    let Ok(uri) = std::str::from_utf8(input) else { return };
    if let Ok(identity) = Identity::parse(uri) {
        assert_eq!(identity.uri(), uri);
        let name = identity.path().rsplit('/').next().unwrap_or_default();
        assert_eq!(uri, format!("spiffe://{}/{}/{name}", identity.trust_domain(), identity.role().as_str()));
        assert_eq!(uri.to_ascii_lowercase(), uri);
    }
    if let Ok(identity) = Identity::external(uri) {
        assert_eq!(identity.role(), Role::Client);
        assert_eq!(format!("spiffe://{}{}", identity.trust_domain(), identity.path()), uri);
        assert!(uri.is_ascii() && uri.len() <= Identity::MAX_BYTES);
        assert!(!matches!(identity.path().split('/').nth(1), Some("connector" | "operator")));
    }
}
