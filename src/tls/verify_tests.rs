//! Whom a chain of certificates names, and whom none.

use std::fs;
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::Duration;

use rcgen::{DnType, KeyUsagePurpose};
use rustls::OtherError;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;

use super::*;
use crate::config::IdentityField;
use crate::domain::identity::Role;
use crate::tls::server::{api_config, provider};
use crate::tls::testing::{Ca, Leaf, at, client_params, dns, handshake, now, uri};

pub(super) const ALICE: &str = "spiffe://corp.example/client/alice";

fn domain(text: &str) -> TrustDomain {
    TrustDomain::parse(text).unwrap()
}

pub(super) fn spiffe(name: &str, ca: &Ca, domains: &[&str]) -> Trust {
    let trust_domains = domains.iter().map(|text| domain(text)).collect();
    Trust {
        name: name.to_owned(),
        roots: vec![ca.root()],
        crls: Vec::new(),
        map: IdentityMap::Spiffe { trust_domains },
    }
}

fn field(name: &str, ca: &Ca, from: IdentityField) -> Trust {
    let map = IdentityMap::Field { from, trust_domain: domain("pki.example") };
    Trust { name: name.to_owned(), roots: vec![ca.root()], crls: Vec::new(), map }
}

pub(super) struct World {
    pub(super) ca: Ca,
    pub(super) verifier: Arc<CallerVerifier>,
    pub(super) server: Arc<rustls::ServerConfig>,
    pub(super) clock: Clock,
}

pub(super) fn world(auth: ClientAuth, trust: &[Trust]) -> World {
    world_of(Ca::new("Built-in"), auth, trust)
}

pub(super) fn world_of(ca: Ca, auth: ClientAuth, trust: &[Trust]) -> World {
    let clock = Clock::manual(now());
    let builtin = Some((domain("corp.example"), vec![ca.root()]));
    let verifier = CallerVerifier::new(auth, builtin, trust, clock.clone(), provider()).unwrap();
    let server = Arc::new(api_config(Arc::clone(&verifier), ca.server(), true).unwrap());
    World { ca, verifier, server, clock }
}

/// Only an authority of somebody else's, under which there may be others.
pub(super) fn outside(ca: Ca) -> World {
    let clock = Clock::manual(now());
    let trust = [spiffe("corp", &ca, &["corp.example"])];
    let verifier = CallerVerifier::new(ClientAuth::Required, None, &trust, clock.clone(), provider()).unwrap();
    let server = Arc::new(api_config(Arc::clone(&verifier), ca.server(), true).unwrap());
    World { ca, verifier, server, clock }
}

impl World {
    /// A real handshake; then who it is, or why not.
    pub(super) fn dial(&self, leaf: &Leaf) -> Result<Arc<PeerCertificate>, Error> {
        self.dial_with(leaf.chain.clone(), leaf.key())
    }

    fn dial_with(
        &self,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Arc<PeerCertificate>, Error> {
        let client = Arc::new(self.ca.dialler(Some((chain, key))));
        let done = handshake(&self.server, &client, "gw.example");
        if let Some(error) = done.refused {
            assert!(matches!(done.alert, Some(Error::AlertReceived(_))), "no alert: {:?}", done.alert);
            return Err(error);
        }
        assert!(!done.server.is_handshaking());
        Ok(self.verifier.identify(done.server.peer_certificates().unwrap()).expect("the handshake was good"))
    }

    pub(super) fn built_in(&self, names: &[&str]) -> Result<Arc<PeerCertificate>, Error> {
        self.dial(&self.ca.sign(&client_params(names.iter().map(|name| uri(name)).collect())))
    }
}

pub(super) fn reason(result: Result<Arc<PeerCertificate>, Error>) -> String {
    let error = result.expect_err("must be refused");
    if let Error::InvalidCertificate(CertificateError::Other(OtherError(inner))) = &error {
        inner.to_string()
    } else {
        error.to_string()
    }
}

#[test]
fn the_built_in_authority_names_every_role() {
    let world = world(ClientAuth::Required, &[]);
    for (role, id) in [
        (Role::Client, ALICE),
        // The gate answers 401; the verifier only says who it is.
        (Role::Connector, "spiffe://corp.example/connector/site-1"),
        (Role::Operator, "spiffe://corp.example/operator/root"),
    ] {
        let peer = world.built_in(&[id]).unwrap();
        assert_eq!((peer.identity.uri(), peer.identity.role()), (id, role));
        assert_eq!(peer.authority, Authority::BuiltIn);
        assert_eq!(peer.not_after, Timestamp::parse("2026-06-02T00:00:00Z").unwrap());
    }
}

#[test]
fn look_alikes_of_the_built_in_identities_are_refused() {
    let world = world(ClientAuth::Required, &[]);
    for (names, why) in [
        (&["spiffe://Corp.example/client/alice"][..], "trust domain"),
        (&["spiffe://corp.example/client/al%2eice"], "not a name"),
        (&["spiffe://corp.example/client/.."], "not a name"),
        (&["spiffe://corp.example/client/../operator/x"], "not a name"),
        (&["spiffe://corp.example/client/Alice"], "not a name"),
        (&["spiffe://corp.example/admin/alice"], "is not spiffe://"),
        (&["spiffe://other.example/client/alice"], "does not speak for"),
        (&["https://corp.example/client/alice"], "is not spiffe://"),
        (&[ALICE, ALICE], "more than one URI"),
        (&[ALICE, "spiffe://corp.example/client/bob"], "more than one URI"),
        (&[], "no URI"),
    ] {
        let reason = reason(world.built_in(names));
        assert!(reason.contains(why), "{names:?}: {reason}");
    }
}

#[test]
fn names_other_than_one_uri_are_nobody() {
    let world = world(ClientAuth::Required, &[]);
    // The common name of all of these is "test"; it never counts.
    assert!(reason(world.dial(&world.ca.sign(&client_params(vec![dns("alice.corp.example")])))).contains("no URI"));
    let both = client_params(vec![uri(ALICE), dns("alice.corp.example")]);
    assert!(reason(world.dial(&world.ca.sign(&both))).contains("other names"));
}

/// webpki does not look at what an issuer's key is for (RFC 5280, 6.1.4 n).
#[test]
fn an_issuer_whose_key_is_not_for_signing_is_none() {
    let ca = Ca::new("Built-in");
    let between = |usages: &[KeyUsagePurpose]| ca.intermediate("Between", |params| params.key_usages = usages.to_vec());
    let [good, silent, bad] =
        [between(&[KeyUsagePurpose::KeyCertSign]), between(&[]), between(&[KeyUsagePurpose::CrlSign])];
    let world = outside(ca);
    let below = |issuer: &Ca| {
        let mut leaf = issuer.client(ALICE);
        leaf.chain.push(issuer.root());
        leaf
    };
    assert!(world.dial(&below(&good)).is_ok());
    assert!(world.dial(&below(&silent)).is_ok());
    assert!(world.verifier.judge(&below(&bad).chain).unwrap_err().contains("no authority that is trusted"));
    // Beside a good chain it is a stray.
    let mut stray = below(&good);
    stray.chain.push(bad.root());
    assert!(world.dial(&stray).is_ok());
}

/// The built-in authority's roots are its issuers: nothing stands between them and a caller, whatever a
/// certificate that was sent beside says of itself.
#[test]
fn nobody_is_below_an_issuer_of_the_built_in_authority() {
    let ca = Ca::new("Issuer");
    let between = ca.intermediate("Between", |_| ());
    let world = world_of(ca, ClientAuth::Required, &[]);
    let mut below = between.client(ALICE);
    below.chain.push(between.root());
    assert_eq!(world.dial(&below).unwrap_err(), Error::InvalidCertificate(CertificateError::UnknownIssuer));
    // A stray beside a good certificate does no harm.
    let mut good = world.ca.client(ALICE);
    good.chain.push(between.root());
    assert!(world.dial(&good).is_ok());
}

#[test]
fn a_time_that_is_wrong_is_said_with_both_clocks() {
    let world = world(ClientAuth::Required, &[]);
    let leaf = world.ca.client(ALICE);
    let judge = || world.verifier.judge(&leaf.chain).unwrap_err();
    world.clock.advance(Duration::from_secs(13 * 3600));
    let late = judge();
    assert!(late.contains("ended at 2026-06-02T00:00:00") && late.contains("2026-06-02T01:00:00"), "{late}");
    let mut params = client_params(vec![uri(ALICE)]);
    params.not_before = at("2026-06-02T02:00:00Z");
    params.not_after = at("2026-06-03T00:00:00Z");
    let early = world.verifier.judge(&world.ca.sign(&params).chain).unwrap_err();
    assert!(early.contains("begins at 2026-06-02T02:00:00") && early.contains("check the clocks"), "{early}");
}

#[test]
fn a_leaf_cannot_sign() {
    let world = world(ClientAuth::Required, &[]);
    let forged = world.ca.client(ALICE).sign(&client_params(vec![uri("spiffe://corp.example/operator/mallory")]));
    assert_eq!(forged.chain.len(), 2);
    assert!(world.dial(&forged).is_err());
}

/// What openssl makes for `weak_keys_and_signatures_are_refused`.
fn weak_zoo(dir: &std::path::Path) {
    let openssl = |arguments: &str| {
        let output = Command::new("openssl").args(arguments.split_whitespace()).current_dir(dir).output().unwrap();
        assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
    };
    let extensions = "[leaf]\nbasicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\n\
                      extendedKeyUsage=clientAuth\nsubjectAltName=URI:spiffe://ext.example/alice\n";
    fs::write(dir.join("v3"), extensions).unwrap();
    for (ca, bits) in [("ca", 2048), ("weak", 1024)] {
        openssl(&format!("req -x509 -newkey rsa:{bits} -nodes -keyout {ca}.key -out {ca}.crt -days 30 -subj /CN={ca}"));
    }
    for (name, ca, bits, hash) in [
        ("good", "ca", 2048, "sha256"),
        ("sha1", "ca", 2048, "sha1"),
        ("small", "ca", 1024, "sha256"),
        ("below", "weak", 2048, "sha256"),
    ] {
        openssl(&format!("req -newkey rsa:{bits} -nodes -keyout {name}.key -out {name}.csr -subj /CN=x"));
        openssl(&format!(
            "x509 -req -in {name}.csr -CA {ca}.crt -CAkey {ca}.key -CAcreateserial -out {name}.crt \
             -days 10 -{hash} -extfile v3 -extensions leaf"
        ));
    }
}

#[test]
fn weak_keys_and_signatures_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    weak_zoo(dir.path());
    let read = |name: &str| CertificateDer::from_pem_file(dir.path().join(name)).unwrap();
    let map = IdentityMap::Spiffe { trust_domains: vec![domain("ext.example")] };
    let trust = Trust { name: "rsa".to_owned(), roots: vec![read("ca.crt"), read("weak.crt")], crls: Vec::new(), map };
    // openssl dates them by the machine's clock.
    let verifier = CallerVerifier::new(ClientAuth::Required, None, &[trust], Clock::System, provider()).unwrap();
    let server = Arc::new(api_config(verifier, Ca::new("Server").server(), false).unwrap());
    // openssl's own client, because rustls does not load an RSA key of 1024 bits.
    let dial = |name: &str| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = Command::new("openssl")
            .args(["s_client", "-quiet", "-cipher", "DEFAULT@SECLEVEL=0", "-connect"])
            .arg(listener.local_addr().unwrap().to_string())
            .args(["-cert", &format!("{name}.crt"), "-key", &format!("{name}.key")])
            .current_dir(dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (mut socket, _) = listener.accept().unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut connection = rustls::ServerConnection::new(Arc::clone(&server)).unwrap();
        let done = connection.complete_io(&mut socket);
        drop((socket, client.stdin.take()));
        let _status = client.wait().unwrap();
        done.map_or_else(|error| error.to_string(), |_| "good".to_owned())
    };
    assert_eq!(dial("good"), "good");
    for name in ["sha1", "small", "below"] {
        let refused = dial(name);
        assert!(refused.starts_with("invalid peer certificate"), "{name}: {refused}");
    }
}

#[test]
fn an_external_spiffe_id_is_a_caller_in_its_own_domains() {
    let spire = Ca::new("SPIRE");
    let world = world(ClientAuth::Required, &[spiffe("spire", &spire, &["spire.example", "lab.example"])]);
    let peer =
        world.dial(&spire.sign(&client_params(vec![uri("spiffe://lab.example/ns/Prod/sa/chat"), dns("chat.lab")])));
    let peer = peer.unwrap();
    assert_eq!((peer.identity.uri(), peer.identity.role()), ("spiffe://lab.example/ns/Prod/sa/chat", Role::Client));
    assert_eq!(peer.authority, Authority::External("spire".into()));
    for (id, why) in [
        // The trust domain of the built-in authority, under a root that is not its.
        (ALICE, "does not speak for"),
        ("spiffe://else.example/client/alice", "does not speak for"),
        ("spiffe://spire.example/connector/x", "cannot name connectors"),
        ("spiffe://spire.example/operator/x", "cannot name connectors"),
        ("spiffe://spire.example/a/../b", "path segment"),
        ("spiffe://spire.example/a%2fb", "path segment"),
        ("spiffe://SPIRE.example/a", "trust domain"),
    ] {
        let reason = reason(world.dial(&spire.client(id)));
        assert!(reason.contains(why), "{id}: {reason}");
    }
    // And the built-in authority cannot name identities of the external one.
    assert!(reason(world.built_in(&["spiffe://spire.example/client/x"])).contains("does not speak for"));
}

#[test]
fn a_field_names_the_caller_exactly_once() {
    let corp = Ca::new("Corp");
    let world = world(ClientAuth::Required, &[field("corp", &corp, IdentityField::SanDns)]);
    let peer = world.dial(&corp.sign(&client_params(vec![dns("chat-7.corp.example")]))).unwrap();
    assert_eq!(peer.identity.uri(), "spiffe://pki.example/client/chat-7.corp.example");
    for (names, why) in [
        (vec![dns("a.example"), dns("b.example")], "more than one DNS name"),
        (vec![dns("a.example"), dns("a.example")], "more than one DNS name"),
        (vec![], "no DNS name"),
        (vec![uri(ALICE)], "no DNS name"),
        (vec![dns("Chat.example")], "not a name"),
        (vec![dns("*.example")], "not a name"),
        (vec![dns("chat.example.")], "not a name"),
        (vec![dns("a.example"), uri("spiffe://x.example/a"), uri("spiffe://x.example/b")], "more than one URI"),
    ] {
        let reason = reason(world.dial(&corp.sign(&client_params(names.clone()))));
        assert!(reason.contains(why), "{names:?}: {reason}");
    }
}

#[test]
fn a_common_name_counts_only_where_it_is_mapped() {
    let corp = Ca::new("Corp");
    let world = world(ClientAuth::Required, &[field("corp", &corp, IdentityField::SubjectCn)]);
    let named = |names: &[&str]| {
        let mut params = client_params(vec![dns("chat.example")]);
        params.distinguished_name = rcgen::DistinguishedName::new();
        for (index, name) in names.iter().enumerate() {
            // rcgen keeps one value per type; the second common name goes by its number.
            let kind = if index == 0 { DnType::CommonName } else { DnType::CustomDnType(vec![2, 5, 4, 3]) };
            params.distinguished_name.push(kind, *name);
        }
        world.dial(&corp.sign(&params))
    };
    assert_eq!(named(&["alice"]).unwrap().identity.uri(), "spiffe://pki.example/client/alice");
    assert!(reason(named(&[])).contains("no common name"));
    assert!(reason(named(&["Alice"])).contains("not a name"));
    assert!(reason(named(&["alice\0.example"])).contains("not a name"));
    assert!(reason(named(&["alice", "bob"])).contains("more than one common name"));
}

#[test]
fn authorities_that_overlap_are_refused_at_load() {
    let (ca, one, two) = (Ca::new("Built-in"), Ca::new("One"), Ca::new("Two"));
    let load = |auth, builtin: bool, trust: &[Trust]| {
        let builtin = builtin.then(|| (domain("corp.example"), vec![ca.root()]));
        CallerVerifier::new(auth, builtin, trust, Clock::manual(now()), provider()).map(drop)
    };
    let required = ClientAuth::Required;
    assert!(load(required, true, &[spiffe("a", &one, &["a.example"]), spiffe("b", &two, &["b.example"])]).is_ok());
    for (trust, why) in [
        (vec![spiffe("a", &one, &["corp.example"])], "both speak for the trust domain corp.example"),
        (vec![spiffe("a", &one, &["a.example"]), spiffe("b", &two, &["a.example"])], "both speak for"),
        (vec![spiffe("a", &one, &["pki.example"]), field("b", &two, IdentityField::SanDns)], "both speak for"),
        (vec![spiffe("a", &ca, &["a.example"])], "in common"),
        (vec![Trust { roots: Vec::new(), ..spiffe("a", &one, &["a.example"]) }], "no root"),
        (vec![Trust { roots: vec![vec![0x30, 0].into()], ..spiffe("a", &one, &["a.example"]) }], "cannot be used"),
    ] {
        let error = load(required, true, &trust).unwrap_err();
        assert!(error.contains(why), "{error}");
    }
    assert!(load(required, false, &[]).unwrap_err().contains("needs a [ca] section"));
    assert!(load(ClientAuth::Optional, false, &[]).is_ok());
}
