//! How an authority changes: rotation with overlap, a root that goes offline, an issuer that the
//! enterprise's own root has signed.
//!
//! Invariant: what was issued before stays trusted until [`finish`], which the operator asks for;
//! and each change is one step on disk (see `contents`).

use std::fs;
use std::io;
use std::path::Path;

use rcgen::KeyPair;
use zeroize::Zeroizing;

use crate::ca::authority::{Authority, RootKey, check_chain, read_key, span_of, stored_key};
use crate::ca::contents::{
    BRIDGE_CRT, BeforeEach, Contents, ISSUER_CRT, ISSUER_KEY, ISSUER_SINCE, Lock, OLDER_ISSUERS, OLDER_ROOTS, ROOT_CRT,
    ROOT_KEY, TRUST_DOMAIN,
};
use crate::ca::passphrase::{self, Passphrase};
use crate::ca::plan::LeafPlan;
use crate::ca::request::Request;
use crate::ca::{CaError, checks, files, make, x509};
use crate::domain::identity::{IdentityName, Role, TrustDomain};
use crate::domain::timestamp::Timestamp;

/// Most certificates of an imported chain, its root included.
const MAX_CHAIN: usize = 5;

/// How the root's key is reached.
#[derive(Clone, Copy, Default, Debug)]
pub struct Unlock<'a> {
    /// What opens it, when it is encrypted.
    pub passphrase: Option<&'a Passphrase>,
    /// Its file, when it is not beside the root.
    pub file: Option<&'a Path>,
}

/// A new issuer under the same root. Certificates of the old one stay good until they end.
///
/// # Errors
///
/// When the root's key cannot be had, or an earlier rotation of the root is not finished.
pub fn rotate_issuer(dir: &Path, unlock: Unlock<'_>, now: Timestamp) -> Result<Authority, CaError> {
    change(dir, |contents, authority| {
        refuse_unfinished(authority, contents)?;
        refuse_early(authority, now)?;
        let (key, _) = root_key(dir, contents, authority, unlock)?;
        let root = (authority.root(), &key);
        let (issuer, _) = make::issuer(authority.trust_domain(), root, None, (span_of(authority.root())?, now))?;
        keep_issuer(contents, authority, now);
        contents.set(ISSUER_KEY, issuer.key.serialize_pem().into());
        contents.set(ISSUER_CRT, issuer.certificate.pem().into());
        Ok(())
    })
}

/// A new root with a new issuer. The old root stays trusted until [`finish`]. Clients that know
/// only the old one go on too: the gateway shows them the issuer as the old root certified it.
/// The new root's key is kept as the old one's was, and beside it.
///
/// # Errors
///
/// When the old root's key cannot be had, or an earlier rotation of the root is not finished.
pub fn rotate_root(dir: &Path, unlock: Unlock<'_>, now: Timestamp) -> Result<Authority, CaError> {
    change(dir, |contents, authority| {
        refuse_unfinished(authority, contents)?;
        refuse_early(authority, now)?;
        let (old_key, encrypted) = root_key(dir, contents, authority, unlock)?;
        let domain = authority.trust_domain();
        let root = make::root(domain, now)?;
        let bridge = (authority.root(), &old_key, span_of(authority.root())?);
        let new_span = span_of(root.certificate.der())?;
        let (issuer, bridge) =
            make::issuer(domain, (root.certificate.der(), &root.key), Some(bridge), (new_span, now))?;
        keep_issuer(contents, authority, now);
        if let Some(old) = contents.get(ROOT_CRT).map(str::to_owned) {
            contents.set(OLDER_ROOTS, old.into());
        }
        if let Some(bridge) = bridge {
            contents.set(BRIDGE_CRT, bridge.pem().into());
        }
        contents.set(ROOT_KEY, stored_key(&root.key, unlock.passphrase.filter(|_| encrypted))?);
        contents.set(ROOT_CRT, root.certificate.pem().into());
        contents.set(ISSUER_KEY, issuer.key.serialize_pem().into());
        contents.set(ISSUER_CRT, issuer.certificate.pem().into());
        Ok(())
    })
}

/// Ends the overlap: only the newest root and issuer are trusted from now on. Whether certificates
/// are still good that this ends is the caller's to ask.
///
/// # Errors
///
/// When there is nothing to finish.
pub fn finish(dir: &Path) -> Result<Authority, CaError> {
    change(dir, |contents, authority| {
        if authority.older_roots().is_empty() && authority.older_issuer_count() == 0 {
            return Err(CaError::NotNow("no rotation is to be finished".to_owned()));
        }
        for name in [BRIDGE_CRT, OLDER_ROOTS, OLDER_ISSUERS, ISSUER_SINCE] {
            contents.remove(name);
        }
        Ok(())
    })
}

/// Takes the root's key out of the authority: encrypted into `file`, which must not exist, and then
/// off this disk. A crash in between leaves it in both places, never in none.
///
/// # Errors
///
/// When the key is not here, the passphrase does not open it, or `file` cannot be written.
pub fn export_root(dir: &Path, file: &Path, passphrase: &Passphrase) -> Result<Authority, CaError> {
    export(dir, (file, passphrase), &mut || Ok(()))
}

fn export(
    dir: &Path,
    (file, passphrase): (&Path, &Passphrase),
    before_each: BeforeEach<'_>,
) -> Result<Authority, CaError> {
    let _lock = Lock::take(dir)?;
    let mut contents = Contents::read(dir)?;
    let authority = Authority::of(dir, &contents)?;
    let (key, _) = root_key(dir, &contents, &authority, Unlock { passphrase: Some(passphrase), file: None })?;
    let text = passphrase::encrypt(key.serialized_der(), passphrase)?;
    // It is opened again before the other one goes.
    let again = passphrase::decrypt(&text, passphrase).map_err(|closed| CaError::broken(file, closed.why()))?;
    if again.as_slice() != key.serialized_der() {
        return Err(CaError::broken(file, "the encrypted key does not read back"));
    }
    before_each().map_err(CaError::io(file))?;
    files::write_new(file, text.as_bytes(), files::SECRET).map_err(|error| {
        let taken = error.kind() == io::ErrorKind::AlreadyExists;
        if taken { CaError::Exists(file.to_owned()) } else { CaError::io(file)(error) }
    })?;
    let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    files::sync_dir(parent).map_err(CaError::io(parent))?;
    contents.remove(ROOT_KEY);
    contents.place_instead(dir, before_each)?;
    Authority::open(dir)
}

/// Puts the issuer in force that somebody else's root has certified for the key of [`Request`].
/// `chain` is in PEM: the issuer, what is between, and the root, in this order. What callers have
/// from the authority before stays good until [`finish`].
///
/// # Errors
///
/// When there is no request, or the chain is not one: the text says which certificate is wrong.
pub fn import_issuer(dir: &Path, chain: &str, now: Timestamp) -> Result<Authority, CaError> {
    import(dir, chain, now, &mut || Ok(()))
}

fn import(dir: &Path, chain: &str, now: Timestamp, before_each: BeforeEach<'_>) -> Result<Authority, CaError> {
    let _lock = Lock::take(dir)?;
    let before = match Contents::read(dir) {
        Ok(contents) => Some((Authority::of(dir, &contents)?, contents)),
        Err(CaError::Missing(_)) => None,
        Err(error) => return Err(error),
    };
    let request = Request::read(dir)?.ok_or_else(|| {
        CaError::NotNow(
            "there is no request that this could be the answer to; make one with: doorward ca csr".to_owned(),
        )
    })?;
    let domain = request.trust_domain();
    let imported = check_import(chain, &request, now).map_err(CaError::NotNow)?;

    let mut contents = Contents::default();
    if let Some((authority, old)) = &before {
        refuse_unfinished(authority, old)?;
        contents = old.clone();
        keep_issuer(&mut contents, authority, now);
        // An own root stays trusted for what it has vouched for. Its key has no work left here.
        if authority.root_key() != RootKey::NotOurs
            && let Some(root) = old.get(ROOT_CRT)
        {
            if old.get(ROOT_KEY).is_some() {
                return Err(CaError::NotNow(
                    "the key of the root that this replaces is here; take it away first with: doorward ca export-root"
                        .to_owned(),
                ));
            }
            contents.set(OLDER_ROOTS, root.to_owned().into());
        }
        contents.remove(BRIDGE_CRT);
    }
    contents.set(TRUST_DOMAIN, format!("{domain}\n").into());
    contents.set(ISSUER_KEY, request.key_pem());
    contents.set(ISSUER_CRT, imported.chain_pem.into());
    contents.set(ROOT_CRT, imported.root_pem.into());
    // All that opening will check, and that a certificate comes out as planned: before it is in force.
    let tried = Authority::of(dir, &contents)?;
    try_issuing(&tried, domain, now)?;
    match before {
        None => contents.place_new(dir, before_each)?,
        Some(_) => contents.place_instead(dir, before_each)?,
    }
    Request::remove(dir)?;
    Authority::open(dir)
}

struct Imported {
    chain_pem: String,
    root_pem: String,
}

fn check_import(text: &str, request: &Request, now: Timestamp) -> Result<Imported, String> {
    let mut chain = x509::certificates(text)?;
    if chain.len() > MAX_CHAIN {
        return Err(format!("the chain has more than {MAX_CHAIN} certificates"));
    }
    if chain.len() < 2 {
        return Err("the chain must hold the issuer and, after it, all above it up to the root".to_owned());
    }
    let root = chain.pop().ok_or("no root")?;
    let issuer = chain.first().ok_or("no issuer")?;
    let parsed = x509::parse(issuer)?;
    if !checks::is_pair(request.key(), &parsed) {
        return Err(
            match chain
                .iter()
                .chain([&root])
                .any(|other| x509::parse(other).is_ok_and(|other| checks::is_pair(request.key(), &other)))
            {
                true => "the issuer must come first, and the root last".to_owned(),
                false => {
                    "the first certificate is not for the key of the request (`doorward ca csr` prints it)".to_owned()
                }
            },
        );
    }
    let top = x509::parse(&root)?;
    if !checks::signed_by(&top, &top) {
        return Err(format!("the last certificate, {}, is not a root: it did not sign itself", top.subject()));
    }
    let span = check_chain(&chain, &root, request.trust_domain(), false)?;
    if now < span.not_before {
        return Err(format!("the chain is valid from {} on: check this machine's clock", span.not_before));
    }
    if now >= span.not_after {
        return Err(format!("the chain ended at {}", span.not_after));
    }
    let pem = |der: &[u8]| {
        let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
        pem::encode_config(&pem::Pem::new("CERTIFICATE", der), config)
    };
    Ok(Imported { chain_pem: chain.iter().map(|der| pem(der)).collect(), root_pem: pem(&root) })
}

/// A name that our library writes in another way than the authority that signed the issuer would
/// break every certificate: found out now, not at the first caller.
fn try_issuing(authority: &Authority, domain: &TrustDomain, now: Timestamp) -> Result<(), CaError> {
    let name = IdentityName::parse("trial").map_err(CaError::NotNow)?;
    let serial = make::random_serial()?;
    let plan = LeafPlan::new((domain, Role::Client, &name), None, serial, authority.issuer_span(), now)?;
    let key = KeyPair::generate()?;
    authority.issue_client(&plan, &rcgen::PublicKeyData::subject_public_key_info(&key), None).map(drop)
}

fn change(
    dir: &Path,
    make: impl FnOnce(&mut Contents, &Authority) -> Result<(), CaError>,
) -> Result<Authority, CaError> {
    change_with(dir, make, &mut || Ok(()))
}

fn change_with(
    dir: &Path,
    make: impl FnOnce(&mut Contents, &Authority) -> Result<(), CaError>,
    before_each: BeforeEach<'_>,
) -> Result<Authority, CaError> {
    let _lock = Lock::take(dir)?;
    let mut contents = Contents::read(dir)?;
    let authority = Authority::of(dir, &contents)?;
    make(&mut contents, &authority)?;
    // Nothing goes into force that could not be opened again.
    Authority::of(dir, &contents)?;
    contents.place_instead(dir, before_each)?;
    Authority::open(dir)
}

/// What begins before the authority itself does, by a clock that is behind, would begin with it.
fn refuse_early(authority: &Authority, now: Timestamp) -> Result<(), CaError> {
    let begins = authority.issuer_span().not_before;
    if now < begins {
        return Err(CaError::NotNow(format!("the authority begins at {begins}: check this machine's clock")));
    }
    Ok(())
}

fn refuse_unfinished(authority: &Authority, contents: &Contents) -> Result<(), CaError> {
    if authority.older_roots().is_empty() && contents.get(BRIDGE_CRT).is_none() {
        Ok(())
    } else {
        Err(CaError::NotNow(
            "the root was rotated before, and that is not finished; when nobody needs the old root any more: \
             doorward ca rotate --finish"
                .to_owned(),
        ))
    }
}

/// The root's key, and whether it was encrypted.
fn root_key(
    dir: &Path,
    contents: &Contents,
    authority: &Authority,
    unlock: Unlock<'_>,
) -> Result<(KeyPair, bool), CaError> {
    if authority.root_key() == RootKey::NotOurs {
        return Err(CaError::NotNow(
            "the root is somebody else's: ask for a new issuer with `doorward ca csr` and `doorward ca import-issuer`"
                .to_owned(),
        ));
    }
    let (path, text) = match (unlock.file, contents.get(ROOT_KEY)) {
        (Some(file), _) => {
            let mode = files::mode(file).map_err(CaError::io(file))?;
            if mode & 0o077 != 0 {
                return Err(CaError::KeyExposed { path: file.to_owned(), mode });
            }
            (file.to_owned(), Zeroizing::new(fs::read_to_string(file).map_err(CaError::io(file))?))
        }
        (None, Some(text)) => (dir.join(ROOT_KEY), Zeroizing::new(text.to_owned())),
        (None, None) => return Err(CaError::RootOffline(dir.to_owned())),
    };
    let broken = |why: &str| CaError::broken(&path, why);
    let encrypted = passphrase::is_encrypted(&text);
    let key = if encrypted {
        let passphrase = unlock.passphrase.ok_or_else(|| CaError::Locked(path.clone()))?;
        let pkcs8 = passphrase::decrypt(&text, passphrase).map_err(|closed| broken(closed.why()))?;
        KeyPair::try_from(pkcs8.as_slice()).map_err(|_| broken("what is in it is not a private key"))?
    } else {
        read_key(&text).map_err(|why| broken(&why))?
    };
    let root = x509::parse(authority.root()).map_err(|why| broken(&why))?;
    if checks::is_pair(&key, &root) { Ok((key, encrypted)) } else { Err(broken("it is not the root's key")) }
}

/// The issuer joins those from before; of these, the ones that have ended go.
fn keep_issuer(contents: &mut Contents, authority: &Authority, now: Timestamp) {
    let mut kept = Zeroizing::new(String::new());
    let mut push = |der: &[u8], key: &KeyPair| {
        let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
        kept.push_str(&pem::encode_config(&pem::Pem::new("CERTIFICATE", der), config));
        kept.push_str(&Zeroizing::new(key.serialize_pem()));
    };
    for older in authority.older_issuers().iter().filter(|older| now < older.not_after) {
        push(&older.der, &older.key);
    }
    if let Some(issuer) = authority.issuer().filter(|_| now < authority.issuer_not_after()) {
        push(issuer, authority.signer().key());
    }
    contents.set(ISSUER_SINCE, format!("{now}\n").into());
    if kept.is_empty() {
        contents.remove(OLDER_ISSUERS);
    } else {
        contents.set(OLDER_ISSUERS, kept);
    }
}

#[cfg(test)]
#[path = "change_tests.rs"]
mod tests;
