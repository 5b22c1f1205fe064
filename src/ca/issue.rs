//! From a plan and a public key to a certificate.
//!
//! Invariant: a certificate is built of the plan and of nothing else, never of a request's own
//! parameters, and is read back with another parser before anybody gets it.

use std::net::IpAddr;

use rcgen::{
    BasicConstraints, CertificateParams, CrlDistributionPoint, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, KeyPair, KeyUsagePurpose, SanType, SerialNumber, SubjectPublicKeyInfo,
};
use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{DistributionPointName, GeneralName, ParsedExtension};
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_PKCS1_RSAENCRYPTION, OID_SIG_ED25519,
};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::{SubjectPublicKeyInfo as ParsedKey, X509Version};

use crate::ca::CaError;
use crate::ca::plan::{LeafPlan, Serial, ServerName, ServerPlan, Span};

type Issuer = rcgen::Issuer<'static, KeyPair>;

/// Bounds of RSA keys in bits. rustls does not verify signatures of longer ones.
const RSA_BITS: std::ops::RangeInclusive<usize> = 3072..=8192;

/// Everything that a certificate of ours says, apart from its key and its issuer.
#[derive(Clone, Debug)]
pub(crate) struct Profile {
    serial: Serial,
    span: Span,
    common_name: String,
    names: Vec<Name>,
    kind: Kind,
    crl: Option<String>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Name {
    Uri(String),
    Dns(String),
    Ip(IpAddr),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Client,
    Server,
    /// An authority with so many authorities below it.
    Authority(u8),
}

impl Profile {
    /// A caller, a connector or an operator. `crl` is where the list of revoked ones is.
    pub(crate) fn client(plan: &LeafPlan, crl: Option<&str>) -> Self {
        Self {
            serial: plan.serial(),
            span: plan.span(),
            common_name: plan.name().as_str().to_owned(),
            names: vec![Name::Uri(plan.identity().uri().to_owned())],
            kind: Kind::Client,
            crl: crl.map(str::to_owned),
        }
    }

    /// The gateway's own names.
    pub(crate) fn server(plan: &ServerPlan) -> Self {
        let name = |name: &ServerName| match name {
            ServerName::Dns(dns) => Name::Dns(dns.clone()),
            ServerName::Ip(address) => Name::Ip(*address),
        };
        Self {
            serial: plan.serial(),
            span: plan.span(),
            // Informational, and host names can be longer than the 64 characters that fit.
            common_name: "Doorward gateway".to_owned(),
            names: plan.names().iter().map(name).collect(),
            kind: Kind::Server,
            crl: None,
        }
    }

    /// An authority; `uri` is its trust domain's own SPIFFE ID, as X509-SVID section 3.1 has it.
    pub(crate) fn authority(common_name: String, uri: String, below: u8, serial: Serial, span: Span) -> Self {
        Self { serial, span, common_name, names: vec![Name::Uri(uri)], kind: Kind::Authority(below), crl: None }
    }

    pub(crate) fn params(&self) -> Result<CertificateParams, CaError> {
        // Every field of rcgen's defaults that matters is set: they are valid to the year 4096.
        let mut params = CertificateParams::default();
        params.not_before = date(self.span.not_before.as_seconds())?;
        params.not_after = date(self.span.not_after.as_seconds())?;
        params.serial_number = Some(SerialNumber::from_slice(self.serial.as_bytes()));
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, self.common_name.as_str());
        params.subject_alt_names = self.names.iter().map(Name::to_san).collect::<Result<_, _>>()?;
        params.use_authority_key_identifier_extension = true;
        match self.kind {
            Kind::Client | Kind::Server => {
                params.is_ca = IsCa::ExplicitNoCa;
                params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
            }
            Kind::Authority(below) => {
                params.is_ca = IsCa::Ca(BasicConstraints::Constrained(below));
                params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
            }
        }
        params.extended_key_usages = match self.kind {
            Kind::Client => vec![ExtendedKeyUsagePurpose::ClientAuth],
            Kind::Server => vec![ExtendedKeyUsagePurpose::ServerAuth],
            Kind::Authority(_) => Vec::new(),
        };
        if let Some(crl) = &self.crl {
            if !crl.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err(CaError::NotAsPlanned("the address of the CRL is not a URL"));
            }
            params.crl_distribution_points = vec![CrlDistributionPoint { uris: vec![crl.clone()] }];
        }
        Ok(params)
    }
}

impl Name {
    fn to_san(&self) -> Result<SanType, CaError> {
        Ok(match self {
            Self::Uri(uri) => SanType::URI(uri.as_str().try_into()?),
            Self::Dns(dns) => SanType::DnsName(dns.as_str().try_into()?),
            Self::Ip(address) => SanType::IpAddress(*address),
        })
    }

    fn is(&self, name: &GeneralName<'_>) -> bool {
        match (self, name) {
            (Self::Uri(uri), GeneralName::URI(found)) => uri == found,
            (Self::Dns(dns), GeneralName::DNSName(found)) => dns == found,
            (Self::Ip(IpAddr::V4(address)), GeneralName::IPAddress(found)) => address.octets() == *found,
            (Self::Ip(IpAddr::V6(address)), GeneralName::IPAddress(found)) => address.octets() == *found,
            (Self::Uri(_) | Self::Dns(_) | Self::Ip(_), _) => false,
        }
    }
}

/// Certifies the key in `spki` (a DER `SubjectPublicKeyInfo`) under `issuer`, whose certificate is
/// `issuer_der`, and reads the result back.
///
/// # Errors
///
/// When the key is of a kind that is not certified, or the result differs from `profile`.
pub(crate) fn issue(
    profile: &Profile,
    spki: &[u8],
    issuer: &Issuer,
    issuer_der: &[u8],
) -> Result<rcgen::Certificate, CaError> {
    check_key(spki)?;
    let key = SubjectPublicKeyInfo::from_der(spki)?;
    let certificate = profile.params()?.signed_by(&key, issuer)?;
    check(profile, certificate.der(), spki, issuer_der)?;
    Ok(certificate)
}

/// Accepts P-256, P-384, Ed25519, and RSA of 3072 to 8192 bits, in their one usual encoding: the
/// same key in another encoding would have another hash and so slip past its own revocation.
pub(super) fn check_key(spki: &[u8]) -> Result<(), CaError> {
    let refused = |why| Err(CaError::PublicKey(why));
    let Ok(([], key)) = ParsedKey::from_der(spki) else {
        return refused("it is not a SubjectPublicKeyInfo in DER");
    };
    let kind = &key.algorithm.algorithm;
    let bytes: &[u8] = &key.subject_public_key.data;
    if *kind == OID_SIG_ED25519 {
        return if bytes.len() == 32 { Ok(()) } else { refused("it is not an Ed25519 key") };
    }
    if *kind == OID_KEY_TYPE_EC_PUBLIC_KEY {
        let curve = key.algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok());
        let coordinates = match curve {
            Some(curve) if curve == OID_EC_P256 => 2 * 32,
            Some(curve) if curve == OID_NIST_EC_P384 => 2 * 48,
            Some(_) | None => return refused("its curve is not P-256 or P-384"),
        };
        let uncompressed = bytes.len() == 1 + coordinates && bytes.first() == Some(&4);
        return if uncompressed { Ok(()) } else { refused("its point is not in the uncompressed form") };
    }
    if *kind == OID_PKCS1_RSAENCRYPTION {
        let Ok(PublicKey::RSA(rsa)) = key.parsed() else {
            return refused("it is not an RSA key");
        };
        let modulus = rsa.modulus.iter().position(|byte| *byte != 0).and_then(|at| rsa.modulus.get(at..));
        let bits = modulus.map_or(0, |m| m.len() * 8 - m.first().map_or(0, |byte| byte.leading_zeros() as usize));
        return match rsa.exponent {
            _ if !RSA_BITS.contains(&bits) => refused("RSA keys must have 3072 to 8192 bits"),
            [1, 0, 1] => Ok(()),
            _ => refused("RSA keys must have the exponent 65537"),
        };
    }
    refused("it is not P-256, P-384, Ed25519 or RSA")
}

/// Reads a certificate back and compares everything in it with what was planned.
pub(crate) fn check(profile: &Profile, der: &[u8], spki: &[u8], issuer_der: &[u8]) -> Result<(), CaError> {
    let differs = |what| CaError::NotAsPlanned(what);
    let holds = |holds: bool, what| if holds { Ok(()) } else { Err(differs(what)) };
    let Ok(([], certificate)) = X509Certificate::from_der(der) else {
        return Err(differs("it is not X.509"));
    };
    let Ok(([], issuer)) = X509Certificate::from_der(issuer_der) else {
        return Err(differs("the issuer is not X.509"));
    };
    let serial = certificate.raw_serial();
    let number = serial.iter().position(|byte| *byte != 0).and_then(|at| serial.get(at..));
    holds(certificate.version() == X509Version::V3, "version")?;
    holds(number == Some(profile.serial.as_bytes()) && serial.first().is_some_and(|byte| *byte < 0x80), "serial")?;
    let validity = certificate.validity();
    holds(validity.not_before.timestamp() == profile.span.not_before.as_seconds(), "notBefore")?;
    holds(validity.not_after.timestamp() == profile.span.not_after.as_seconds(), "notAfter")?;
    holds(certificate.public_key().raw == spki, "public key")?;
    holds(certificate.issuer().as_raw() == issuer.subject().as_raw(), "issuer")?;
    let subject: Vec<_> = certificate.subject().iter_attributes().collect();
    let [common_name] = subject.as_slice() else {
        return Err(differs("subject"));
    };
    holds(common_name.as_str() == Ok(profile.common_name.as_str()), "subject")?;
    check_extensions(profile, &certificate, &issuer)?;
    certificate.verify_signature(Some(issuer.public_key())).map_err(|_| differs("signature"))
}

fn check_extensions(
    profile: &Profile,
    certificate: &X509Certificate<'_>,
    issuer: &X509Certificate<'_>,
) -> Result<(), CaError> {
    let differs = |what| CaError::NotAsPlanned(what);
    let mut left = vec!["subject key id", "authority key id", "names", "basic constraints", "key usage"];
    if profile.crl.is_some() {
        left.push("CRL address");
    }
    if !matches!(profile.kind, Kind::Authority(_)) {
        left.push("extended key usage");
    }
    let issuer_key_id = subject_key_id(issuer);
    for extension in certificate.extensions() {
        #[expect(clippy::wildcard_enum_match_arm, reason = "every extension that is not ours is a difference")]
        let (what, good) = match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => ("subject key id", !extension.critical && !id.0.is_empty()),
            ParsedExtension::AuthorityKeyIdentifier(id) => {
                let same = id.key_identifier.as_ref().is_some_and(|id| Some(id.0) == issuer_key_id);
                ("authority key id", same && !extension.critical)
            }
            ParsedExtension::SubjectAlternativeName(names) => {
                let (found, planned) = (&names.general_names, &profile.names);
                let same =
                    found.len() == planned.len() && planned.iter().zip(found).all(|(name, found)| name.is(found));
                ("names", same)
            }
            ParsedExtension::BasicConstraints(constraints) => {
                let planned = match profile.kind {
                    Kind::Client | Kind::Server => (false, None),
                    Kind::Authority(below) => (true, Some(u32::from(below))),
                };
                let found = (constraints.ca, constraints.path_len_constraint);
                ("basic constraints", extension.critical && found == planned)
            }
            ParsedExtension::KeyUsage(usage) => {
                let planned = match profile.kind {
                    Kind::Client | Kind::Server => 0b000_0001,
                    Kind::Authority(_) => 0b110_0000,
                };
                ("key usage", extension.critical && usage.flags == planned)
            }
            ParsedExtension::ExtendedKeyUsage(usage) => {
                let others = usage.any
                    || usage.code_signing
                    || usage.email_protection
                    || usage.time_stamping
                    || usage.ocsp_signing
                    || !usage.other.is_empty();
                let planned = (profile.kind == Kind::Client, profile.kind == Kind::Server);
                ("extended key usage", !others && (usage.client_auth, usage.server_auth) == planned)
            }
            ParsedExtension::CRLDistributionPoints(points) => {
                let found = match points.points.as_slice() {
                    [point] => match &point.distribution_point {
                        Some(DistributionPointName::FullName(names)) => match names.as_slice() {
                            [GeneralName::URI(uri)] => Some(*uri),
                            _ => None,
                        },
                        Some(DistributionPointName::NameRelativeToCRLIssuer(_)) | None => None,
                    },
                    _ => None,
                };
                ("CRL address", found.is_some() && found == profile.crl.as_deref())
            }
            _ => return Err(differs("an extension that nobody planned")),
        };
        let planned = left.iter().position(|expected| *expected == what);
        match planned {
            Some(at) if good => left.swap_remove(at),
            Some(_) | None => return Err(differs(what)),
        };
    }
    left.first().map_or(Ok(()), |missing| Err(differs(missing)))
}

fn subject_key_id<'a>(certificate: &'a X509Certificate<'_>) -> Option<&'a [u8]> {
    certificate.extensions().iter().find_map(|extension| {
        if let ParsedExtension::SubjectKeyIdentifier(id) = extension.parsed_extension() { Some(id.0) } else { None }
    })
}

fn date(seconds: i64) -> Result<OffsetDateTime, CaError> {
    OffsetDateTime::from_unix_timestamp(seconds).map_err(|_| CaError::NotAsPlanned("a date out of the calendar"))
}

#[cfg(test)]
#[path = "issue_tests.rs"]
mod tests;
