//! Throw-away authorities, certificates and handshakes for tests.

use std::io::Read;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PublicKeyData, SanType,
};
use rustls::{ClientConfig, ClientConnection, Error, RootCertStore, ServerConfig, ServerConnection};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use time::OffsetDateTime;

use crate::domain::timestamp::Timestamp;
use crate::tls::server::{CurrentCertificate, certified_key, provider};

/// When tests happen, unless they say otherwise.
pub(crate) fn now() -> Timestamp {
    Timestamp::parse("2026-06-01T12:00:00Z").unwrap()
}

pub(crate) fn at(text: &str) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(Timestamp::parse(text).unwrap().as_seconds()).unwrap()
}

pub(crate) fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

pub(crate) fn dns(text: &str) -> SanType {
    SanType::DnsName(text.try_into().unwrap())
}

/// What a well-behaved authority writes into a caller's certificate.
pub(crate) fn client_params(names: Vec<SanType>) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = at("2026-06-01T00:00:00Z");
    params.not_after = at("2026-06-02T00:00:00Z");
    params.distinguished_name.push(DnType::CommonName, "test");
    params.subject_alt_names = names;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params
}

/// A certificate with its chain and key.
pub(crate) struct Leaf {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    key: KeyPair,
}

impl Leaf {
    pub(crate) fn key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.serialize_der()).into()
    }

    pub(crate) fn spki(&self) -> Vec<u8> {
        self.key.subject_public_key_info()
    }

    /// This leaf as an authority, which it is not.
    pub(crate) fn sign(&self, params: &CertificateParams) -> Self {
        let issuer = Issuer::from_ca_cert_der(&self.chain[0], &self.key).unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &issuer).unwrap();
        let chain = std::iter::once(certificate.into()).chain(self.chain.clone()).collect();
        Self { chain, key }
    }
}

/// An authority that signs whatever it is given.
pub(crate) struct Ca {
    certificate: rcgen::Certificate,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    pub(crate) fn new(name: &str) -> Self {
        Self::with(name, |_| ())
    }

    pub(crate) fn with(name: &str, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let params = Self::params(name, change);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self { certificate, issuer: Issuer::new(params, key) }
    }

    /// An authority below this one.
    pub(crate) fn intermediate(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let params = Self::params(name, change);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Self { certificate, issuer: Issuer::new(params, key) }
    }

    fn params(name: &str, change: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.not_before = at("2020-01-01T00:00:00Z");
        params.not_after = at("2040-01-01T00:00:00Z");
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        change(&mut params);
        params
    }

    pub(crate) fn root(&self) -> CertificateDer<'static> {
        self.certificate.der().clone()
    }

    pub(crate) fn root_pem(&self) -> String {
        self.certificate.pem()
    }

    pub(crate) fn sign(&self, params: &CertificateParams) -> Leaf {
        let key = KeyPair::generate().unwrap();
        Leaf { chain: vec![params.signed_by(&key, &self.issuer).unwrap().into()], key }
    }

    /// A certificate in PEM for a key that was made elsewhere.
    pub(crate) fn sign_for(&self, params: &CertificateParams, key: &KeyPair) -> String {
        params.signed_by(key, &self.issuer).unwrap().pem()
    }

    pub(crate) fn client(&self, id: &str) -> Leaf {
        self.sign(&client_params(vec![uri(id)]))
    }

    /// A certificate for `gw.example` that is valid for as long as anybody may run this test.
    pub(crate) fn server(&self) -> Arc<CurrentCertificate> {
        let mut params = client_params(vec![dns("gw.example")]);
        params.not_before = at("2020-01-01T00:00:00Z");
        params.not_after = at("2040-01-01T00:00:00Z");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let leaf = self.sign(&params);
        Arc::new(CurrentCertificate::new(certified_key(leaf.chain.clone(), leaf.key()).unwrap()))
    }

    /// A client that trusts this authority and presents `leaf`.
    pub(crate) fn dialler(&self, leaf: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.root()).unwrap();
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        match leaf {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => builder.with_client_auth_cert(chain, key).unwrap(),
        }
    }
}

/// Both ends of a handshake in memory.
pub(crate) struct Handshake {
    pub(crate) server: ServerConnection,
    pub(crate) client: ClientConnection,
    /// Why the server ended it.
    pub(crate) refused: Option<Error>,
    /// What the client made of that.
    pub(crate) alert: Option<Error>,
}

pub(crate) fn handshake(server: &Arc<ServerConfig>, client: &Arc<ClientConfig>, name: &'static str) -> Handshake {
    let mut server = ServerConnection::new(Arc::clone(server)).unwrap();
    let mut client = ClientConnection::new(Arc::clone(client), name.try_into().unwrap()).unwrap();
    let (mut refused, mut alert) = (None, None);
    for _ in 0..10 {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        feed(&wire, |bytes| {
            server.read_tls(bytes).unwrap();
            if let Err(error) = server.process_new_packets() {
                refused.get_or_insert(error);
            }
        });
        wire.clear();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        feed(&wire, |bytes| {
            client.read_tls(bytes).unwrap();
            if let Err(error) = client.process_new_packets() {
                alert.get_or_insert(error);
            }
        });
    }
    Handshake { server, client, refused, alert }
}

fn feed(mut wire: &[u8], mut take: impl FnMut(&mut dyn Read)) {
    while !wire.is_empty() {
        let before = wire.len();
        take(&mut wire);
        if wire.len() == before {
            return;
        }
    }
}
