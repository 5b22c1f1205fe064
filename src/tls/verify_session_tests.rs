//! What a handshake says, what is remembered of it, and for how long.

use std::time::Duration;

use proptest::prelude::*;
use rcgen::{CustomExtension, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose};
use rustls::{AlertDescription, HandshakeKind, ProtocolVersion};

use super::cache::GENERATION;
use super::tests::{ALICE, outside, reason, spiffe, world, world_of};
use super::*;
use crate::tls::server::{api_config, provider, refusing_config};
use crate::tls::testing::{Ca, Leaf, at, client_params, handshake, now, uri};

#[test]
fn alerts_are_specific() {
    let world = world(ClientAuth::Required, &[]);
    let alert = |leaf: &Leaf| {
        let client = Arc::new(world.ca.dialler(Some((leaf.chain.clone(), leaf.key()))));
        match handshake(&world.server, &client, "gw.example").alert {
            Some(Error::AlertReceived(alert)) => alert,
            other => panic!("{other:?}"),
        }
    };
    let change = |change: &dyn Fn(&mut rcgen::CertificateParams)| {
        let mut params = client_params(vec![uri(ALICE)]);
        change(&mut params);
        alert(&world.ca.sign(&params))
    };
    assert_eq!(alert(&Ca::new("Other").client(ALICE)), AlertDescription::UnknownCA);
    // The same name is not the same authority.
    assert_eq!(alert(&Ca::new("Built-in").client(ALICE)), AlertDescription::DecryptError);
    let expired = change(&|params| {
        params.not_before = at("2026-05-01T00:00:00Z");
        params.not_after = at("2026-06-01T11:59:59Z");
    });
    assert_eq!(expired, AlertDescription::CertificateExpired);
    let future = change(&|params| params.not_before = at("2026-06-01T12:00:01Z"));
    assert_eq!(future, AlertDescription::CertificateExpired);
    let server_only = change(&|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]);
    assert_eq!(server_only, AlertDescription::UnsupportedCertificate);
    for usages in [vec![], vec![KeyUsagePurpose::KeyEncipherment]] {
        let usage = change(&|params| params.key_usages.clone_from(&usages));
        assert_eq!(usage, AlertDescription::CertificateUnknown);
    }
    assert_eq!(change(&|params| params.extended_key_usages.clear()), AlertDescription::CertificateUnknown);
    let a_ca = change(&|params| params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained));
    assert_eq!(a_ca, AlertDescription::CertificateUnknown);
    // rustls's own client would not even send these.
    for (oid, critical) in [(&[2, 5, 29, 17][..], false), (&[1, 3, 6, 1, 4, 1, 99999, 1], true)] {
        let mut extension = CustomExtension::from_oid_content(oid, b"\x30\x03\x86\x01x".to_vec());
        extension.set_criticality(critical);
        let mut params = client_params(vec![uri(ALICE)]);
        params.custom_extensions = vec![extension];
        assert!(world.verifier.identify(&world.ca.sign(&params).chain).is_none(), "{oid:?}");
    }
}
#[test]
fn optional_means_absent_or_good() {
    let world = world(ClientAuth::Optional, &[]);
    let without = Arc::new(world.ca.dialler(None));
    let done = handshake(&world.server, &without, "gw.example");
    assert_eq!((done.refused, done.server.peer_certificates().map(<[_]>::len)), (None, None));
    assert!(world.dial(&world.ca.client(ALICE)).is_ok());
    assert!(world.dial(&Ca::new("Other").client(ALICE)).is_err());

    let required = self::world(ClientAuth::Required, &[]);
    let without = Arc::new(required.ca.dialler(None));
    let done = handshake(&required.server, &without, "gw.example");
    assert_eq!(done.alert, Some(Error::AlertReceived(AlertDescription::CertificateRequired)));

    let off = self::world(ClientAuth::Off, &[]);
    let with = off.ca.client(ALICE);
    let done = handshake(&off.server, &Arc::new(off.ca.dialler(Some((with.chain.clone(), with.key())))), "gw.example");
    assert_eq!((done.refused, done.server.peer_certificates().map(<[_]>::len)), (None, None));
    assert!(off.verifier.identify(&with.chain).is_none());
}

#[test]
fn nothing_is_remembered_past_its_end() {
    let world = world(ClientAuth::Required, &[]);
    let leaf = world.ca.client(ALICE);
    let peer = world.dial(&leaf).unwrap();
    assert!(Arc::ptr_eq(&peer, &world.verifier.identify(&leaf.chain).unwrap()));
    world.clock.advance(Duration::from_millis(12 * 3_600_000 - 1));
    assert!(Arc::ptr_eq(&peer, &world.verifier.identify(&leaf.chain).unwrap()));
    world.clock.advance(Duration::from_millis(1));
    assert_eq!(world.verifier.identify(&leaf.chain), None);
    let refused = world.dial(&leaf).unwrap_err();
    assert!(matches!(refused, Error::InvalidCertificate(CertificateError::ExpiredContext { .. })), "{refused:?}");
}

#[test]
fn issuers_and_roots_end_too() {
    let ca = Ca::with("Root", |params| params.not_after = at("2026-06-01T16:00:00Z"));
    let short = ca.intermediate("Short", |params| params.not_after = at("2026-06-01T14:00:00Z"));
    let long = ca.intermediate("Long", |_| ());
    let world = outside(ca);
    let below = |issuer: &Ca| {
        let mut leaf = issuer.client(ALICE);
        leaf.chain.push(issuer.root());
        leaf
    };
    let (by_short, by_long) = (below(&short), below(&long));
    assert_eq!(world.dial(&by_short).unwrap().not_after, Timestamp::parse("2026-06-01T14:00:00Z").unwrap());
    assert_eq!(world.dial(&by_long).unwrap().not_after, Timestamp::parse("2026-06-01T16:00:00Z").unwrap());
    // webpki counts the second of notAfter in; a chain verified anew within it must not be
    // remembered for longer either.
    world.clock.advance(Duration::from_millis(2 * 3_600_000 + 500));
    assert!(world.dial(&by_short).is_err());
    world.clock.advance(Duration::from_secs(1));
    assert!(world.dial(&by_short).is_err());
    assert!(world.dial(&by_long).is_ok());
    // A stray certificate that has ended does no harm.
    let mut stray = below(&long);
    stray.chain.push(short.root());
    assert!(world.dial(&stray).is_ok());
    world.clock.advance(Duration::from_secs(2 * 3600));
    let refused = world.dial(&by_long).unwrap_err();
    assert!(matches!(refused, Error::InvalidCertificate(CertificateError::ExpiredContext { .. })), "{refused:?}");
}

#[test]
fn long_chains_are_refused() {
    let world = world(ClientAuth::Required, &[]);
    let mut leaf = world.ca.client(ALICE);
    leaf.chain.resize(5, world.ca.root());
    assert!(world.dial(&leaf).is_ok());
    leaf.chain.push(world.ca.root());
    assert!(reason(world.dial(&leaf)).contains("too long"));
    let mut padded = client_params(vec![uri(ALICE)]);
    padded.custom_extensions =
        vec![CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 1], vec![0; MAX_CHAIN_BYTES])];
    assert!(reason(world.dial(&world.ca.sign(&padded))).contains("too long"));
    assert!(world.verifier.identify(&[]).is_none());
}

#[test]
fn the_cache_is_bounded_and_keeps_what_is_used() {
    let world = world(ClientAuth::Required, &[]);
    let leaf = world.ca.client(ALICE);
    let kept = world.dial(&leaf).unwrap();
    let validity = Validity { not_before: now(), not_after: Timestamp::FAR_FUTURE };
    for n in 0..10_000_usize {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&n.to_be_bytes());
        world.verifier.cache().insert(key, Verified { peer: Arc::clone(&kept), validity });
        if n % 1000 == 0 {
            assert!(Arc::ptr_eq(&kept, &world.verifier.identify(&leaf.chain).unwrap()));
        }
    }
    let cache = world.verifier.cache();
    assert!(cache.young.len() + cache.old.len() <= 2 * GENERATION);
}

#[test]
fn sessions_are_never_resumed() {
    let world = world(ClientAuth::Required, &[]);
    let leaf = world.ca.client(ALICE);
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let mut roots = RootCertStore::empty();
        roots.add(world.ca.root()).unwrap();
        // A client as it comes, with a session store.
        let client = rustls::ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(leaf.chain.clone(), leaf.key())
            .unwrap();
        let client = Arc::new(client);
        for _ in 0..3 {
            let done = handshake(&world.server, &client, "gw.example");
            assert_eq!(done.refused, None);
            assert_eq!(done.client.protocol_version(), Some(version.version));
            // On its second handshake a client that resumes would say Resumed.
            assert!(
                matches!(
                    done.server.handshake_kind(),
                    Some(HandshakeKind::Full | HandshakeKind::FullWithHelloRetryRequest)
                ),
                "{:?}",
                done.server.handshake_kind()
            );
            assert_eq!(done.client.tls13_tickets_received(), 0);
        }
    }
}

#[test]
fn sessions_are_post_quantum_and_follow_alpn() {
    assert_eq!(provider().kx_groups[0].name(), rustls::NamedGroup::X25519MLKEM768);
    let world = world(ClientAuth::Optional, &[]);
    let mut client = world.ca.dialler(None);
    client.alpn_protocols = vec![b"http/1.1".to_vec(), b"h2".to_vec()];
    let done = handshake(&world.server, &Arc::new(client), "gw.example");
    let group = done.server.negotiated_key_exchange_group().unwrap().name();
    assert_eq!(group, rustls::NamedGroup::X25519MLKEM768);
    assert_eq!(done.server.alpn_protocol(), Some(&b"h2"[..]));
    let none = handshake(&world.server, &Arc::new(world.ca.dialler(None)), "gw.example");
    assert_eq!((none.refused, none.server.alpn_protocol()), (None, None));
    let mut other = world.ca.dialler(None);
    other.alpn_protocols = vec![b"smtp".to_vec()];
    let done = handshake(&world.server, &Arc::new(other), "gw.example");
    assert_eq!(done.alert, Some(Error::AlertReceived(AlertDescription::NoApplicationProtocol)));
}

#[test]
fn tls_1_2_is_off_unless_asked_for() {
    let world = world(ClientAuth::Optional, &[]);
    let strict = Arc::new(api_config(Arc::clone(&world.verifier), world.ca.server(), false).unwrap());
    let mut roots = RootCertStore::empty();
    roots.add(world.ca.root()).unwrap();
    let old = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let old = Arc::new(old);
    let done = handshake(&world.server, &old, "gw.example");
    assert_eq!(done.server.protocol_version(), Some(ProtocolVersion::TLSv1_2));
    let done = handshake(&strict, &old, "gw.example");
    assert_eq!(done.alert, Some(Error::AlertReceived(AlertDescription::ProtocolVersion)));
}

#[test]
fn an_unknown_name_is_told_so() {
    let client = Arc::new(Ca::new("Any").dialler(None));
    let done = handshake(&Arc::new(refusing_config().unwrap()), &client, "who.example");
    assert_eq!(done.alert, Some(Error::AlertReceived(AlertDescription::AccessDenied)));
}

#[test]
fn hints_are_all_or_none() {
    let many: Vec<_> = (0..MAX_HINTS).map(|n| Ca::new(&format!("Authority {n}"))).collect();
    let entry = |count: usize| Trust {
        roots: many.iter().take(count).map(Ca::root).collect(),
        ..spiffe("many", &many[0], &["many.example"])
    };
    assert_eq!(world(ClientAuth::Required, &[entry(3)]).verifier.root_hint_subjects().len(), 4);
    assert!(world(ClientAuth::Required, &[entry(MAX_HINTS)]).verifier.root_hint_subjects().is_empty());
}

proptest! {
    /// Whatever bytes a peer sends as certificates, the verifier answers and takes nobody in.
    #[test]
    fn noise_is_nobody(noise in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..6), cut in 0usize..400) {
        let ca = Ca::new("Built-in");
        let leaf = ca.client(ALICE);
        let world = world_of(ca, ClientAuth::Required, &[]);
        let chain: Vec<_> = noise.into_iter().map(CertificateDer::from).collect();
        prop_assert!(world.verifier.identify(&chain).is_none());
        let cut: CertificateDer<'_> = leaf.chain[0].get(..cut).unwrap_or(&[]).into();
        prop_assert!(world.verifier.identify(&[cut]).is_none());
    }
}
