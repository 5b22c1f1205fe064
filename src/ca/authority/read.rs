//! Reads an authority: what its directory holds, as parts that were found to belong together.
//!
//! Invariant: each key is that of the certificate beside it, each certificate was signed by the one
//! above it, and all are of one trust domain.

use std::path::Path;

use rcgen::{Issuer, KeyPair};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::{Authority, OlderIssuer, RootKey};
use crate::ca::contents::{
    BRIDGE_CRT, Contents, ISSUER_CRT, ISSUER_KEY, ISSUER_SINCE, OLDER_ISSUERS, OLDER_ROOTS, ROOT_CRT, ROOT_KEY,
    TRUST_DOMAIN,
};
use crate::ca::plan::Span;
use crate::ca::{CaError, checks, passphrase, x509};
use crate::domain::identity::TrustDomain;
use crate::domain::timestamp::Timestamp;

impl Authority {
    /// The authority that `contents` hold; `dir` is for messages.
    pub(in crate::ca) fn of(dir: &Path, contents: &Contents) -> Result<Self, CaError> {
        let broken = |name: &'static str| move |why: String| CaError::broken(&dir.join(name), why);
        let text = |name: &'static str| contents.get(name);
        let require = |name: &'static str| text(name).ok_or_else(|| CaError::broken(&dir.join(name), "it is missing"));
        let Some(root_pem) = text(ROOT_CRT) else {
            return Err(CaError::Missing(dir.to_owned()));
        };
        let root = checks::certificate(root_pem).map_err(broken(ROOT_CRT))?;
        let issuer_pem = require(ISSUER_CRT)?;
        let issuer = x509::certificates(issuer_pem).map_err(broken(ISSUER_CRT))?;
        let key = read_key(require(ISSUER_KEY)?).map_err(broken(ISSUER_KEY))?;

        let root_x509 = x509::parse(&root).map_err(broken(ROOT_CRT))?;
        let (domain, ours) = match text(TRUST_DOMAIN) {
            None => (checks::own_root(&root_x509).map_err(broken(ROOT_CRT))?, true),
            Some(domain) => (TrustDomain::parse(domain.trim()).map_err(broken(TRUST_DOMAIN))?, false),
        };
        let span = check_chain(&issuer, &root, &domain, ours).map_err(broken(ISSUER_CRT))?;
        let issuer_der = issuer.first().ok_or_else(|| CaError::broken(dir, "no issuer"))?;
        if !checks::is_pair(&key, &x509::parse(issuer_der).map_err(broken(ISSUER_CRT))?) {
            return Err(broken(ISSUER_KEY)("it is not the key of the certificate beside it".to_owned()));
        }
        let root_key = match text(ROOT_KEY) {
            _ if !ours => RootKey::NotOurs,
            None => RootKey::Offline,
            Some(pem) if passphrase::is_encrypted(pem) => RootKey::Encrypted,
            Some(pem) => {
                if !checks::is_pair(&read_key(pem).map_err(broken(ROOT_KEY))?, &root_x509) {
                    return Err(broken(ROOT_KEY)("it is not the key of the certificate beside it".to_owned()));
                }
                RootKey::Here
            }
        };
        let (older_roots, older_roots_pem) = match text(OLDER_ROOTS) {
            None => (Vec::new(), String::new()),
            Some(pem) => (x509::certificates(pem).map_err(broken(OLDER_ROOTS))?, pem.to_owned()),
        };
        for older in &older_roots {
            let theirs = x509::parse(older).and_then(|older| checks::own_root(&older)).map_err(broken(OLDER_ROOTS))?;
            if theirs != domain {
                return Err(broken(OLDER_ROOTS)(format!("it holds a root of the trust domain {theirs}")));
            }
        }
        let bridge = match text(BRIDGE_CRT) {
            None => None,
            Some(pem) => {
                let bridge = checks::certificate(pem).map_err(broken(BRIDGE_CRT))?;
                check_bridge(&bridge, issuer_der, &older_roots).map_err(broken(BRIDGE_CRT))?;
                Some(bridge)
            }
        };
        let older_issuers = match text(OLDER_ISSUERS) {
            None => Vec::new(),
            Some(pem) => older_issuers(pem).map_err(broken(OLDER_ISSUERS))?,
        };
        let issuer_since = text(ISSUER_SINCE).map(|at| Timestamp::parse(at.trim())).transpose();
        let issuer_since = issuer_since.map_err(|why| broken(ISSUER_SINCE)(why.to_string()))?;
        let signer = Issuer::from_ca_cert_der(issuer_der, key)?;
        let end = if root_pem.ends_with('\n') { "" } else { "\n" };
        let bundle_pem = format!("{root_pem}{end}{older_roots_pem}");
        Ok(Self {
            domain,
            root_key,
            signer,
            span,
            issuer_pem: issuer_pem.to_owned(),
            issuer,
            bridge,
            older_roots,
            bundle_pem,
            older_issuers,
            issuer_since,
            root,
        })
    }
}

/// When a certificate of our own is valid.
pub(in crate::ca) fn span_of(der: &CertificateDer<'_>) -> Result<Span, CaError> {
    x509::parse(der).map(|certificate| x509::span(&certificate)).map_err(|_| CaError::NotAsPlanned("not X.509"))
}

pub(in crate::ca) fn read_key(pem: &str) -> Result<KeyPair, String> {
    KeyPair::from_pem(pem).map_err(|_| "not a private key in PEM (PKCS#8)".to_owned())
}

/// Issuer, what is between, root: each signed the one before. When it holds: as long as all do.
pub(in crate::ca) fn check_chain(
    chain: &[CertificateDer<'static>],
    root: &CertificateDer<'static>,
    domain: &TrustDomain,
    ours: bool,
) -> Result<Span, String> {
    if ours && chain.len() > 1 {
        return Err("it holds more than one certificate".to_owned());
    }
    let parsed = chain.iter().chain([root]).map(|der| x509::parse(der)).collect::<Result<Vec<_>, _>>()?;
    let (issuer, above) = parsed.split_first().ok_or("it holds no certificate")?;
    checks::issuer(issuer, domain)?;
    let mut span = x509::span(issuer);
    let mut below = issuer;
    for (authorities_below, certificate) in above.iter().enumerate() {
        let limit = checks::authority(certificate)?;
        if limit.is_some_and(|limit| (limit as usize) < authorities_below + 1) {
            return Err(format!("{} allows fewer authorities below it (path length)", certificate.subject()));
        }
        if !checks::signed_by(below, certificate) {
            return Err(match ours {
                true => "the root beside it did not sign it".to_owned(),
                false => format!("{} was not signed by {}, which follows it", below.subject(), certificate.subject()),
            });
        }
        let theirs = x509::span(certificate);
        span.not_before = span.not_before.max(theirs.not_before);
        span.not_after = span.not_after.min(theirs.not_after);
        below = certificate;
    }
    Ok(span)
}

fn check_bridge(
    bridge: &CertificateDer<'static>,
    issuer: &CertificateDer<'static>,
    older_roots: &[CertificateDer<'static>],
) -> Result<(), String> {
    let (bridge, issuer) = (x509::parse(bridge)?, x509::parse(issuer)?);
    if bridge.public_key().raw != issuer.public_key().raw || bridge.subject().as_raw() != issuer.subject().as_raw() {
        return Err("it is not a certificate of the issuer beside it".to_owned());
    }
    for older in older_roots {
        if checks::signed_by(&bridge, &x509::parse(older)?) {
            return Ok(());
        }
    }
    Err("no root from before signed it".to_owned())
}

fn older_issuers(pem: &str) -> Result<Vec<OlderIssuer>, String> {
    let certificates = x509::certificates(pem)?;
    let keys: Result<Vec<_>, _> = PrivateKeyDer::pem_slice_iter(pem.as_bytes()).collect();
    let keys = keys.map_err(|_| "a private key in it cannot be read".to_owned())?;
    if keys.len() != certificates.len() {
        return Err("it does not hold one key for each certificate".to_owned());
    }
    certificates.into_iter().zip(keys).map(|(der, key)| older_issuer(der, &key)).collect()
}

fn older_issuer(der: CertificateDer<'static>, key: &PrivateKeyDer<'static>) -> Result<OlderIssuer, String> {
    let key = KeyPair::try_from(key).map_err(|_| "a private key in it cannot be used".to_owned())?;
    let parsed = x509::parse(&der)?;
    if !checks::is_pair(&key, &parsed) {
        return Err("a key in it is not that of the certificate before it".to_owned());
    }
    let not_after = x509::span(&parsed).not_after;
    drop(parsed);
    Ok(OlderIssuer { der, key, not_after })
}
