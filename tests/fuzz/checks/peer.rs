//! A certificate is one identity or none: what is read of it is what another reader finds in it, once.

use doorward::config::{IdentityField, IdentityMap};
use doorward::domain::identity::{Role, TrustDomain};
use doorward::tls::peer::{Authority, Mapping, read};

use super::{der, values};

const URI: u8 = 0x86;
const DNS: u8 = 0x82;
const EMAIL: u8 = 0x81;

/// The bits of the key usage, which extensions there are, then the subject, a byte 0xff, and the
/// alternative names. Nobody's signature is looked at here: the chain was verified before.
pub(super) fn check(input: &[u8]) {
    let Some(([usage, which], rest)) = input.split_first_chunk() else { return };
    let mut parts = rest.splitn(2, |byte| *byte == 0xff);
    let (subject, names) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let leaf = certificate(*usage, *which, subject, names).into();
    let domain = || TrustDomain::parse("corp.example").expect("a domain");
    let field = |from| Mapping::External(IdentityMap::Field { from, trust_domain: domain() });
    let spiffe = Mapping::External(IdentityMap::Spiffe { trust_domains: vec![domain()] });
    let external = Authority::External("corp".into());
    // The names as another reader finds them.
    let found = match (which & 1 != 0, which & 16 != 0) {
        (false, false) => Some(Vec::new()),
        (false, true) => Some(vec![(DNS, &b"alice"[..])]),
        (true, false) => values(names),
        (true, true) => None,
    };
    let only = |tag: u8| {
        let found = found.as_ref().expect("what is read is DER, and there once");
        assert!(found.iter().filter(|(other, _)| *other == URI).count() <= 1);
        let mut those = found.iter().filter(|(other, _)| *other == tag);
        let first = those.next().expect("what names somebody is there").1;
        assert!(those.next().is_none(), "it names two");
        std::str::from_utf8(first).expect("text")
    };
    if let Ok(peer) = read(&leaf, &Authority::BuiltIn, &Mapping::BuiltIn(domain())) {
        assert_eq!(peer.identity.uri(), only(URI));
        assert_eq!(found.as_ref().map(Vec::len), Some(1));
        assert_eq!(peer.identity.trust_domain(), "corp.example");
        assert!(which & 2 != 0 && which & 4 != 0 && usage & 0x86 == 0x80, "its usages are those of a caller");
    }
    if let Ok(peer) = read(&leaf, &external, &spiffe) {
        assert_eq!(format!("spiffe://corp.example{}", peer.identity.path()), only(URI));
        assert_eq!((peer.identity.role(), &peer.authority), (Role::Client, &external));
        assert!(which & 2 == 0 || usage & 0x86 == 0x80);
    }
    for (from, tag) in [(IdentityField::SanDns, DNS), (IdentityField::SanEmail, EMAIL)] {
        if let Ok(peer) = read(&leaf, &external, &field(from)) {
            assert_eq!(peer.identity.uri(), format!("spiffe://corp.example/client/{}", only(tag)));
        }
    }
    if let Ok(peer) = read(&leaf, &external, &field(IdentityField::SubjectCn)) {
        let name = peer.identity.uri().rsplit('/').next().unwrap_or_default().to_owned();
        assert_eq!(peer.identity.uri(), format!("spiffe://corp.example/client/{name}"));
        assert!(subject.windows(name.len()).any(|part| part == name.as_bytes()));
        // Its type (2.5.4.3) occurs at least where the name is.
        assert!(subject.windows(5).any(|part| part == [6, 3, 0x55, 4, 3]), "{subject:02x?}");
    }
}

fn certificate(usage: u8, which: u8, subject: &[u8], names: &[u8]) -> Vec<u8> {
    let extension = |id: u8, value: &[u8]| der(0x30, &[&[6, 3, 0x55, 0x1d, id], &der(4, &[value])]);
    let mut extensions = Vec::new();
    if which & 1 != 0 {
        extensions.extend(extension(17, &der(0x30, &[names])));
    }
    if which & 2 != 0 {
        extensions.extend(extension(15, &der(3, &[&[0, usage]])));
    }
    if which & 4 != 0 {
        // clientAuth, or serverAuth.
        let purpose = if which & 8 == 0 { 2 } else { 1 };
        extensions.extend(extension(37, &der(0x30, &[&[6, 8, 0x2b, 6, 1, 5, 5, 7, 3, purpose]])));
    }
    if which & 16 != 0 {
        // Once, or once more.
        extensions.extend(extension(17, &der(0x30, &[&der(DNS, &[b"alice"])])));
    }
    let algorithm = der(0x30, &[&[6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2]]);
    let validity = der(0x30, &[&der(0x17, &[b"260601000000Z"]), &der(0x17, &[b"260602000000Z"])]);
    let kind = der(0x30, &[&[6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7]]);
    let key = der(0x30, &[&kind, &der(3, &[&[0, 4], &[7; 64]])]);
    let to_sign = der(
        0x30,
        &[
            &der(0xa0, &[&[2, 1, 2]]),
            &[2, 1, 1],
            &algorithm,
            &der(0x30, &[]),
            &validity,
            &der(0x30, &[subject]),
            &key,
            &der(0xa3, &[&der(0x30, &[&extensions])]),
        ],
    );
    der(0x30, &[&to_sign, &algorithm, &der(3, &[&[0], &[1; 8]])])
}
