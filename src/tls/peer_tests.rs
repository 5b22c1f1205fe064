use rcgen::{DnType, SerialNumber};

use super::*;
use crate::tls::testing::{Ca, client_params, dns, uri};

const ALICE: &str = "spiffe://corp.example/client/alice";

fn corp() -> Mapping {
    Mapping::BuiltIn(TrustDomain::parse("corp.example").unwrap())
}

#[test]
fn serial_and_key_are_those_of_the_certificate() {
    let ca = Ca::new("Built-in");
    for (written, read_back) in [(&[0x00, 0x80, 0x01][..], &[0x80, 0x01][..]), (&[0x01, 0x00], &[0x01, 0x00])] {
        let mut params = client_params(vec![uri(ALICE)]);
        params.serial_number = Some(SerialNumber::from_slice(written));
        let leaf = ca.sign(&params);
        let peer = read(&leaf.chain[0], &Authority::BuiltIn, &corp()).unwrap();
        assert_eq!(*peer.serial, *read_back);
        assert_eq!(peer.spki_sha256, sha256(&leaf.spki()));
    }
}

#[test]
fn an_unreadable_name_spoils_the_certificate() {
    let ca = Ca::new("Corp");
    // A URI and a DNS name that is not text: webpki does not look, so it must be refused here.
    let mut names = vec![0x30, 0];
    names.extend([0x86, u8::try_from(ALICE.len()).unwrap()]);
    names.extend(ALICE.as_bytes());
    names.extend([0x82, 2, 0xff, 0xfe]);
    names[1] = u8::try_from(names.len() - 2).unwrap();
    let mut params = client_params(vec![]);
    params.custom_extensions = vec![rcgen::CustomExtension::from_oid_content(&[2, 5, 29, 17], names)];
    let leaf = ca.sign(&params);
    let domains = vec![TrustDomain::parse("corp.example").unwrap()];
    let map = Mapping::External(IdentityMap::Spiffe { trust_domains: domains });
    for map in [corp(), map] {
        let fault = read(&leaf.chain[0], &Authority::BuiltIn, &map).unwrap_err();
        assert!(matches!(fault, PeerFault::Malformed(_)), "{fault}");
    }
}

/// `0xa6` for `0x86`: a URI made of pieces, which DER has not, and other readers do not see.
#[test]
fn a_name_made_of_pieces_is_refused() {
    let ca = Ca::new("Corp");
    let read = |tag: u8| {
        let mut names = vec![0x30, 2 + u8::try_from(ALICE.len()).unwrap(), tag, u8::try_from(ALICE.len()).unwrap()];
        names.extend(ALICE.as_bytes());
        let mut params = client_params(vec![]);
        params.custom_extensions = vec![rcgen::CustomExtension::from_oid_content(&[2, 5, 29, 17], names)];
        read(&ca.sign(&params).chain[0], &Authority::BuiltIn, &corp())
    };
    assert_eq!(read(0x86).unwrap().identity.uri(), ALICE);
    assert!(matches!(read(0xa6), Err(PeerFault::Malformed(_))));
}

#[test]
fn names_twice_over_are_refused() {
    let ca = Ca::new("Corp");
    let mut params = client_params(vec![uri(ALICE)]);
    let dns_only = vec![0x30, 3, 0x82, 1, b'a'];
    params.custom_extensions = vec![rcgen::CustomExtension::from_oid_content(&[2, 5, 29, 17], dns_only)];
    let fault = read(&ca.sign(&params).chain[0], &Authority::BuiltIn, &corp()).unwrap_err();
    assert!(matches!(fault, PeerFault::Malformed(_)), "{fault}");
}

#[test]
fn an_e_mail_address_is_taken_whole_or_not_at_all() {
    let ca = Ca::new("Corp");
    let map = Mapping::External(IdentityMap::Field {
        from: IdentityField::SanEmail,
        trust_domain: TrustDomain::parse("pki.example").unwrap(),
    });
    let email = |text: &str| rcgen::SanType::Rfc822Name(text.try_into().unwrap());
    let read = |names| read(&ca.sign(&client_params(names)).chain[0], &Authority::External("corp".into()), &map);
    // The local part alone would make alice@one.example and alice@two.example one caller.
    assert!(matches!(read(vec![email("alice@one.example")]), Err(PeerFault::Name(_))));
    assert!(matches!(read(vec![email("alice"), email("bob")]), Err(PeerFault::Ambiguous(_))));
    assert!(matches!(read(vec![dns("alice")]), Err(PeerFault::Missing(_))));
    assert_eq!(read(vec![email("alice")]).unwrap().identity.uri(), "spiffe://pki.example/client/alice");
}

#[test]
fn the_common_name_must_be_text() {
    let ca = Ca::new("Corp");
    let map = Mapping::External(IdentityMap::Field {
        from: IdentityField::SubjectCn,
        trust_domain: TrustDomain::parse("pki.example").unwrap(),
    });
    let mut params = client_params(vec![]);
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, rcgen::DnValue::BmpString("alice".try_into().unwrap()));
    let fault = read(&ca.sign(&params).chain[0], &Authority::External("corp".into()), &map).unwrap_err();
    assert!(matches!(fault, PeerFault::Malformed("common name")), "{fault}");
}

#[test]
fn the_type_of_a_common_name_is_an_identifier() {
    const TYPE: &[u8] = &[6, 3, 0x55, 4, 3];
    let ca = Ca::new("Corp");
    let map = Mapping::External(IdentityMap::Field {
        from: IdentityField::SubjectCn,
        trust_domain: TrustDomain::parse("pki.example").unwrap(),
    });
    let mut params = client_params(vec![]);
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "Corp");
    params.distinguished_name.push(DnType::CommonName, "alice");
    let mut der = ca.sign(&params).chain[0].to_vec();
    let read = |der: &[u8]| read(&der.to_vec().into(), &Authority::External("corp".into()), &map);
    assert_eq!(read(&der).unwrap().identity.uri(), "spiffe://pki.example/client/alice");
    // The last one: the issuer's name stands before the subject's.
    let at = der.windows(TYPE.len()).rposition(|part| part == TYPE).unwrap();
    der[at] = 7;
    assert_eq!(read(&der), Err(PeerFault::Malformed("subject")));
}

/// A part with two attributes that the issuer did not sort, and types that few readers have numbers for.
#[test]
fn a_subject_may_have_odd_parts() {
    const NAME: &[u8] = &[6, 3, 0x55, 4, 3];
    // 1.3.16384, and 2.25 with a UUID.
    const LARGE: &[u8] = &[6, 4, 0x2b, 0x81, 0x80, 0x00];
    const UUID: &[u8] = &[6, 12, 0x69, 0x83, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
    let tlv = |tag: u8, content: &[u8]| [&[tag, u8::try_from(content.len()).unwrap()], content].concat();
    let pair = |kind: &[u8], value: &[u8]| tlv(0x30, &[kind, &tlv(12, value)].concat());
    let (alice, large, uuid) = (pair(NAME, b"alice"), pair(LARGE, b"a"), pair(UUID, b"b"));
    let part = |pairs: &[&[u8]]| tlv(0x31, &pairs.concat());
    for parts in [
        part(&[&alice, &large]),
        part(&[&large, &alice]),
        part(&[&alice, &uuid]),
        [part(&[&uuid]), part(&[&alice])].concat(),
    ] {
        let name = tlv(0x30, &parts);
        let (rest, read) = x509_parser::x509::X509Name::from_der(&name).unwrap();
        let common: Vec<_> = read.iter_common_name().map(|name| name.as_str().unwrap()).collect();
        assert_eq!((rest, &common[..]), (&[][..], &["alice"][..]));
        assert!(has_plain_types(&name), "{name:02x?}");
    }
}

/// What the reader of certificates leaves unread behind a part is read by nobody.
#[test]
fn lengths_beyond_all_memory_are_refused() {
    let tlv = |tag: u8, content: &[u8]| [&[tag, u8::try_from(content.len()).unwrap()], content].concat();
    let endless = |tag: u8| [&[tag, 0x88], &[0xff; 8][..]].concat();
    let kind = [6, 3, 0x55, 4, 3];
    let alice = tlv(0x30, &[&kind[..], &tlv(12, b"alice")].concat());
    for pair in [endless(6), [&kind[..], &endless(12)].concat(), [&kind[..], &endless(0x2c)].concat()] {
        let name = tlv(0x30, &tlv(0x31, &[alice.clone(), tlv(0x30, &pair)].concat()));
        let (_, read) = x509_parser::x509::X509Name::from_der(&name).unwrap();
        assert_eq!(read.iter_common_name().count(), 1);
        assert!(!has_plain_types(&name), "{name:02x?}");
    }
    for tag in [0x82, 0x86, 0xa6, 0xa0] {
        assert!(!are_plain(&tlv(0x30, &endless(tag))));
    }
}

#[test]
fn bytes_after_the_certificate_are_refused() {
    let mut der = Ca::new("Built-in").client(ALICE).chain[0].to_vec();
    der.push(0);
    assert!(read(&der.into(), &Authority::BuiltIn, &corp()).is_err());
}
