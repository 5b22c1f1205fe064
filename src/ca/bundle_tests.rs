use proptest::prelude::*;

use super::*;

fn bundle() -> Bundle {
    Bundle {
        addresses: vec![
            GatewayAddress::parse("gw.corp.example:8443").unwrap(),
            GatewayAddress::parse("[::1]:8443").unwrap(),
        ],
        enroll: HostName::parse("enroll.llm.corp.example").unwrap(),
        connect: Some(HostName::parse("connect.llm.corp.example").unwrap()),
        api: GatewayName::parse("llm.corp.example").unwrap(),
        pin: RootPin::of(&CertificateDer::from(b"a root".to_vec())),
        id: BundleId::from_random([1, 2, 3, 4, 5, 6, 7, 0xff]),
        secret: BundleSecret::from_random([7; 32]),
        role: Role::Client,
        name: IdentityName::parse("alice").unwrap(),
        expires_at: Timestamp::parse("2027-01-31T00:00:00Z").unwrap(),
    }
}

fn json(bundle: &Bundle) -> String {
    let text = bundle.reveal().unwrap();
    String::from_utf8(base64url::decode(text[PREFIX.len()..].as_bytes()).unwrap()).unwrap()
}

fn spell(json: &str) -> String {
    format!("{PREFIX}{}", base64url::encode(json.as_bytes()))
}

/// The format is a contract: a gateway and a holder of different versions must agree.
#[test]
fn the_format_is_this() {
    let expected = r#"{"addresses":["gw.corp.example:8443","[::1]:8443"],"enroll":"enroll.llm.corp.example","connect":"connect.llm.corp.example","api":"llm.corp.example","pin":"5e9fba4cbe3e3ca55bc4a7b2b7a62d9b0c3b1ee0c5a5a1c2bf2c1b8f4e9d7a60","id":"01020304050607ff","secret":"BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc","role":"client","name":"alice","expires_at":"2027-01-31T00:00:00.000Z"}"#;
    let bundle = bundle();
    let expected =
        expected.replace("5e9fba4cbe3e3ca55bc4a7b2b7a62d9b0c3b1ee0c5a5a1c2bf2c1b8f4e9d7a60", &bundle.pin.to_string());
    assert_eq!(json(&bundle), expected);
    assert_eq!(Bundle::parse(&spell(&expected)), Ok(bundle));
}

/// As `openssl x509 -outform der | sha256sum` has it.
#[test]
fn a_pin_is_the_hash_of_the_whole_certificate() {
    let pin = RootPin::of(&CertificateDer::from(b"abc".to_vec()));
    // FIPS 180-2, appendix B.1.
    assert_eq!(pin.to_string(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    assert_eq!(RootPin::parse(&pin.to_string()), Some(pin));
    for wrong in ["", "ba", &pin.to_string().to_uppercase(), &format!("{pin}0"), &"é".repeat(32)] {
        assert_eq!(RootPin::parse(wrong), None, "{wrong:?}");
    }
}

#[test]
fn what_is_no_bundle_is_said_to_be_none() {
    let good = bundle().reveal().unwrap();
    for (text, fault) in [
        ("", BundleFault::NotABundle),
        ("dw_0123456789ab_secret", BundleFault::NotABundle),
        ("./bundle", BundleFault::NotABundle),
        ("dwe.x", BundleFault::NotABundle),
        ("dwex.x", BundleFault::NotABundle),
        ("DWE1.x", BundleFault::NotABundle),
        ("dwe2.x", BundleFault::OtherVersion),
        ("dwe10.x", BundleFault::OtherVersion),
        ("dwe1.", BundleFault::Damaged),
        ("dwe1.e30", BundleFault::Damaged),
        ("dwe1.bnVsbA", BundleFault::Damaged),
        (&format!("{}\n", *good), BundleFault::Damaged),
        (&good[..good.len() - 1], BundleFault::Damaged),
        (&"x".repeat(MAX_BYTES + 1), BundleFault::TooLong),
    ] {
        assert_eq!(Bundle::parse(text), Err(fault), "{text:?}");
    }
}

#[test]
fn one_bundle_has_one_spelling() {
    let good = json(&bundle());
    assert!(Bundle::parse(&spell(&good)).is_ok());
    for other in [
        good.replace(":", ": "),
        format!(" {good}"),
        format!("{good} "),
        format!("{good}{good}"),
        good.replace("alice", "\\u0061lice"),
        good.replace("\"role\":\"client\",\"name\":\"alice\"", "\"name\":\"alice\",\"role\":\"client\""),
        good.replace(".000Z", "Z"),
        good.replace("00:00:00.000Z", "01:00:00.000+01:00"),
        good.replace("[::1]", "[0:0:0:0:0:0:0:1]"),
        good.replace("\"connect\":\"connect.llm.corp.example\"", "\"connect\":null"),
        good.replace('}', ",\"more\":1}"),
        good.replace('}', ",\"name\":\"mallory\"}"),
        good.replace("alice", "Alice"),
        good.replace("alice", "../alice"),
        good.replace("8443", "08443"),
    ] {
        assert_ne!(other, good);
        assert!(Bundle::parse(&spell(&other)).is_err(), "{other}");
    }
}

#[test]
fn a_bundle_must_make_sense() {
    let why = |change: &dyn Fn(&mut Bundle)| {
        let mut changed = bundle();
        change(&mut changed);
        changed.reveal().err()
    };
    assert_eq!(why(&|_| ()), None);
    assert_eq!(why(&|bundle| bundle.connect = None), None);
    assert!(why(&|bundle| bundle.addresses.clear()).is_some());
    assert!(why(&|bundle| bundle.addresses = vec![bundle.addresses[0].clone(); 9]).is_some());
    assert!(why(&|bundle| bundle.role = Role::Operator).is_some());
    let nowhere = |bundle: &mut Bundle| (bundle.role, bundle.connect) = (Role::Connector, None);
    assert!(why(&nowhere).is_some());
    // What the writer refuses, the reader refuses: the text was made by somebody else.
    let operator = json(&bundle()).replace("\"client\"", "\"operator\"");
    assert!(matches!(Bundle::parse(&spell(&operator)), Err(BundleFault::Wrong(_))));
}

#[test]
fn the_longest_bundle_fits() {
    let label = "a".repeat(63);
    let name = HostName::parse(&format!("{label}.{label}.{label}.{}", "a".repeat(61))).unwrap();
    let mut longest = bundle();
    longest.addresses = vec![GatewayAddress::parse(&format!("{name}:65535")).unwrap(); MAX_ADDRESSES];
    (longest.enroll, longest.connect, longest.api) = (name.clone(), Some(name.clone()), GatewayName::Dns(name));
    (longest.role, longest.name) = (Role::Connector, IdentityName::parse(&"a".repeat(63)).unwrap());
    assert_eq!(Bundle::parse(&longest.reveal().unwrap()), Ok(longest));
}

#[test]
fn nothing_but_reveal_shows_the_secret() {
    let bundle = bundle();
    let secret = bundle.secret.reveal();
    let text = bundle.reveal().unwrap();
    let shown = format!("{bundle:?} {:#?} {:?}", bundle, bundle.secret);
    assert!(shown.contains("redacted"));
    assert!(!shown.contains(secret.as_str()) && !shown.contains(text.as_str()) && !shown.contains("7, 7, 7"));
    // A fault repeats nothing of the text.
    for broken in [text.replace('A', "B"), spell(&json(&bundle).replace("client", "x"))] {
        let fault = Bundle::parse(&broken).unwrap_err();
        assert!(!format!("{fault} {fault:?}").contains(secret.as_str()));
    }
}

#[test]
fn a_secret_has_one_hash() {
    let secret = BundleSecret::from_random([7; 32]);
    assert!(secret.has_hash(&secret.hash()));
    assert!(!BundleSecret::from_random([8; 32]).has_hash(&secret.hash()));
    assert_eq!(BundleSecret::parse(&secret.reveal()), Some(secret.clone()));
    for wrong in ["", "AAAA", &format!("{}A", *secret.reveal()), &secret.reveal()[1..]] {
        assert_eq!(BundleSecret::parse(wrong), None);
    }
}

fn arbitrary() -> impl Strategy<Value = Bundle> {
    let host = "[a-z][a-z0-9-]{0,10}[a-z](\\.[a-z]{2,5}){0,3}";
    let address =
        (host, 1..=u16::MAX).prop_map(|(host, port)| GatewayAddress::parse(&format!("{host}:{port}")).unwrap());
    let name = host.prop_map(|host| HostName::parse(&host).unwrap());
    let to = (prop::collection::vec(address, 1..=MAX_ADDRESSES), name.clone(), name.clone(), name);
    let of = ("[a-z0-9]{1,63}", any::<bool>(), 0..253_402_207_199_999i64);
    (to, of, any::<[u8; 32]>(), any::<[u8; 32]>(), any::<[u8; 8]>()).prop_map(|(to, of, root, secret, id)| Bundle {
        addresses: to.0,
        enroll: to.1,
        connect: Some(to.2),
        api: GatewayName::Dns(to.3),
        pin: RootPin::of(&CertificateDer::from(root.to_vec())),
        id: BundleId::from_random(id),
        secret: BundleSecret::from_random(secret),
        role: if of.1 { Role::Client } else { Role::Connector },
        name: IdentityName::parse(&of.0).unwrap(),
        expires_at: Timestamp::from_millis(of.2),
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read(bundle in arbitrary()) {
        prop_assert_eq!(Bundle::parse(&bundle.reveal().unwrap()), Ok(bundle));
    }

    /// A changed bundle is refused, or is another bundle: never the same one in another look.
    #[test]
    fn damage_is_noticed(bundle in arbitrary(), at: prop::sample::Index, letter in "[ -~]") {
        let text = bundle.reveal().unwrap();
        let at = at.index(text.len());
        let damaged = format!("{}{letter}{}", &text[..at], &text[at + 1..]);
        prop_assume!(damaged != **text);
        if let Ok(other) = Bundle::parse(&damaged) {
            prop_assert_ne!(&other, &bundle);
            prop_assert_eq!(&**other.reveal().unwrap(), &damaged);
        }
    }

    /// A bundle that was cut is never a shorter bundle.
    #[test]
    fn a_cut_bundle_is_none(bundle in arbitrary(), at: prop::sample::Index) {
        let text = bundle.reveal().unwrap();
        prop_assert!(Bundle::parse(&text[..at.index(text.len())]).is_err());
    }
}
