//! What any certificate says, for people. Nothing is decided by it.

use rustls_pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;

use crate::ca::plan::Span;
use crate::ca::x509;

/// What a certificate says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Description {
    /// Its subject.
    pub subject: String,
    /// Who it says has issued it.
    pub issuer: String,
    /// Its serial number in hexadecimal, without leading zeros.
    pub serial: String,
    /// When it is valid.
    pub span: Span,
    /// Its subject alternative names, as `URI:…`, `DNS:…` and so on.
    pub names: Vec<String>,
    /// The kind of its key, such as `P-256`.
    pub key: String,
    /// True when it may sign other certificates.
    pub is_ca: bool,
    /// SHA-256 of the whole certificate in hexadecimal.
    pub sha256: String,
}

impl Description {
    /// Reads a certificate in DER.
    ///
    /// # Errors
    ///
    /// When it is none.
    pub fn read(der: &CertificateDer<'_>) -> Result<Self, String> {
        let parsed = x509::parse(der)?;
        let serial: Vec<u8> = parsed.raw_serial().iter().copied().skip_while(|byte| *byte == 0).collect();
        let names = parsed.subject_alternative_name().map_err(|_| "its names cannot be read".to_owned())?;
        let names = names.map_or_else(Vec::new, |names| names.value.general_names.iter().map(name).collect());
        Ok(Self {
            subject: printable(&parsed.subject().to_string()),
            issuer: printable(&parsed.issuer().to_string()),
            serial: hex(&serial),
            span: x509::span(&parsed),
            names,
            key: key(parsed.public_key()),
            is_ca: parsed.is_ca(),
            sha256: hex(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, der).as_ref()),
        })
    }
}

fn key(key: &x509_parser::x509::SubjectPublicKeyInfo<'_>) -> String {
    use x509_parser::oid_registry::{
        OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_PKCS1_RSAENCRYPTION, OID_SIG_ED25519,
    };
    let kind = &key.algorithm.algorithm;
    if *kind == OID_SIG_ED25519 {
        return "Ed25519".to_owned();
    }
    if *kind == OID_KEY_TYPE_EC_PUBLIC_KEY {
        return match key.algorithm.parameters.as_ref().and_then(|curve| curve.as_oid().ok()) {
            Some(curve) if curve == OID_EC_P256 => "P-256".to_owned(),
            Some(curve) if curve == OID_NIST_EC_P384 => "P-384".to_owned(),
            Some(_) | None => "elliptic curve".to_owned(),
        };
    }
    if *kind == OID_PKCS1_RSAENCRYPTION {
        return match key.parsed() {
            Ok(parsed) => format!("RSA {}", parsed.key_size()),
            Err(_) => "RSA".to_owned(),
        };
    }
    kind.to_id_string()
}

fn name(name: &GeneralName<'_>) -> String {
    let text = |kind: &str, text: &str| format!("{kind}:{}", printable(text));
    match name {
        GeneralName::URI(uri) => text("URI", uri),
        GeneralName::DNSName(dns) => text("DNS", dns),
        GeneralName::RFC822Name(address) => text("email", address),
        GeneralName::IPAddress(bytes) => match <[u8; 4]>::try_from(*bytes) {
            Ok(v4) => format!("IP:{}", std::net::Ipv4Addr::from(v4)),
            Err(_) => match <[u8; 16]>::try_from(*bytes) {
                Ok(v6) => format!("IP:{}", std::net::Ipv6Addr::from(v6)),
                Err(_) => "IP:malformed".to_owned(),
            },
        },
        GeneralName::DirectoryName(directory) => text("DirName", &directory.to_string()),
        GeneralName::RegisteredID(id) => text("RID", &id.to_id_string()),
        GeneralName::OtherName(id, _) => text("other", &id.to_id_string()),
        GeneralName::X400Address(_) => "X400".to_owned(),
        GeneralName::EDIPartyName(_) => "EDI".to_owned(),
        GeneralName::Invalid(..) => "malformed".to_owned(),
    }
}

/// A certificate of a stranger must not move the cursor of whoever looks at it.
fn printable(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { char::REPLACEMENT_CHARACTER } else { character }).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
