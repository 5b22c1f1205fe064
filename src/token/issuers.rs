//! Who may vouch for callers, with which keys, at one moment; and tokens that were proven.
//!
//! Invariant: a token is believed on the word of one `[[issuer]]`, whose `iss` and audience it has,
//! under a key which that issuer has now. A proof is weighed anew for every decision: when the
//! issuer, its rules or its key are gone, so is the caller.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};

use crate::config::{Issuer, KeySource};
use crate::domain::owner_template::OwnerTemplate;
use crate::domain::timestamp::Timestamp;
use crate::domain::token::{Algorithm, Token, TokenFault, Vouched};
use crate::token::compact::{Claims, Header, MAX_BYTES, Presented};
use crate::token::desk::Desk;
use crate::token::keys::{Fingerprint, KeySet, MAX_TRIED};
use crate::token::location::Location;
use crate::token::proven::{Digest, Proven};

/// What an `[[issuer]]` entry says of its tokens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rules {
    /// Its name in logs.
    pub name: Arc<str>,
    /// The `iss` of its tokens.
    pub issuer: Box<str>,
    /// What their `aud` must name one of; never empty.
    pub audience: Box<[Box<str>]>,
    /// What they may be signed with; never empty.
    pub algorithms: Box<[Algorithm]>,
    /// How far the issuer's clock may be from ours.
    pub leeway: Duration,
    /// Where its callers sit.
    pub owner: OwnerTemplate,
}

/// All issuers at one moment, with their keys.
#[derive(Clone, Default, Debug)]
pub struct Issuers {
    entries: Arc<[Entry]>,
    proven: Arc<Proven<Proof>>,
}

/// One issuer at one moment.
#[derive(Clone, Debug)]
struct Entry {
    basis: Arc<Basis>,
    origin: Origin,
}

/// What proofs rest on.
#[derive(PartialEq, Eq, Debug)]
struct Basis {
    rules: Arc<Rules>,
    keys: KeySet,
}

/// Where an entry's keys are from.
#[derive(Clone, Debug)]
enum Origin {
    /// From a file: as good as the config.
    File,
    /// From the issuer, which must be heard from again.
    Fetched { location: Location, stale_max: Duration, fetched_at: Option<Timestamp>, desk: Arc<Desk> },
}

/// A token whose signature was verified, and all that is needed to weigh it again.
#[derive(Debug)]
pub struct Proof {
    basis: Arc<Basis>,
    key: Fingerprint,
    header: Header,
    claims: Claims,
    token: Arc<Token>,
}

impl Issuers {
    /// The issuers of another config. Keys that were fetched from the same place are kept: a reload
    /// must not turn callers away until the next fetch.
    #[must_use]
    pub fn reconfigured(&self, config: &[Issuer]) -> Self {
        let mut entries: Vec<Entry> = Vec::new();
        for issuer in config {
            let (keys, origin) = match &issuer.keys {
                KeySource::File(keys) => (keys.clone(), Origin::File),
                KeySource::Fetched { location, stale_max, .. } => {
                    let known = known(&self.entries, location).or_else(|| known(&entries, location));
                    let (keys, fetched_at, desk) = known.unwrap_or_default();
                    let location = location.clone();
                    (keys, Origin::Fetched { location, stale_max: *stale_max, fetched_at, desk })
                }
            };
            entries.push(Entry { basis: self.basis(&issuer.rules, keys), origin });
        }
        Self { entries: entries.into(), proven: Arc::clone(&self.proven) }
    }

    /// The issuers with keys that were just fetched from `location`.
    #[must_use]
    pub fn with_keys(&self, location: &Location, keys: &KeySet, now: Timestamp) -> Self {
        let entry = |entry: &Entry| match &entry.origin {
            Origin::Fetched { location: from, stale_max, desk, .. } if from == location => Entry {
                basis: self.basis(&entry.basis.rules, keys.clone()),
                origin: Origin::Fetched {
                    location: from.clone(),
                    stale_max: *stale_max,
                    fetched_at: Some(now),
                    desk: Arc::clone(desk),
                },
            },
            Origin::Fetched { .. } | Origin::File => entry.clone(),
        };
        Self { entries: self.entries.iter().map(entry).collect(), proven: Arc::clone(&self.proven) }
    }

    /// True when the config has none: then no credential is a token.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Where fresh keys of this issuer are asked for; `None` when it has a file.
    #[must_use]
    pub fn desk(&self, name: &str) -> Option<&Arc<Desk>> {
        self.entries.iter().find(|entry| *entry.basis.rules.name == *name).and_then(|entry| match &entry.origin {
            Origin::File => None,
            Origin::Fetched { desk, .. } => Some(desk),
        })
    }

    /// Where fresh keys of this place are asked for.
    #[must_use]
    pub fn desk_of(&self, location: &Location) -> Option<Arc<Desk>> {
        known(&self.entries, location).map(|(_, _, desk)| desk)
    }

    /// Verifies a token, or remembers that it was verified. That it is not over yet is for
    /// [`Vouched::check`].
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn prove(&self, token: &[u8], now: Timestamp) -> Result<Arc<Proof>, TokenFault> {
        if token.len() > MAX_BYTES {
            return Err(TokenFault::TooLong);
        }
        let mut key = Digest::default();
        key.copy_from_slice(digest(&SHA256, token).as_ref());
        if let Some(proof) = self.proven.find(&key)
            && self.rests_on(&proof.basis).is_some_and(|entry| entry.keys_until().is_ok_and(|until| now < until))
        {
            return Ok(proof);
        }
        let proof = Arc::new(self.verify(token, now)?);
        if now < proof.token.expires_at {
            self.proven.remember(key, Arc::clone(&proof));
        }
        Ok(proof)
    }

    /// What a proof is worth now.
    ///
    /// # Errors
    ///
    /// When the issuer is gone, its rules place the token otherwise or nowhere, or its key is gone.
    pub fn weigh(&self, proof: &Proof) -> Result<Vouched, TokenFault> {
        if let Some(entry) = self.rests_on(&proof.basis) {
            return Ok(Vouched { token: Arc::clone(&proof.token), keys_until: entry.keys_until()? });
        }
        let entry = self.entry_for(&proof.claims, proof.header.algorithm)?;
        let keys_until = entry.keys_until()?;
        let Basis { rules, keys } = &*entry.basis;
        if !keys.still_has(proof.key, proof.header.kid.as_deref(), proof.header.algorithm) {
            return Err(TokenFault::UnknownKey(Arc::clone(&rules.name)));
        }
        Ok(Vouched { token: Arc::new(rules.token(&proof.claims)?), keys_until })
    }

    fn verify(&self, token: &[u8], now: Timestamp) -> Result<Proof, TokenFault> {
        let Presented { signed, signature, header, claims } = Presented::parse(token)?;
        let entry = self.entry_for(&claims, header.algorithm)?;
        let keys_until = entry.keys_until()?;
        let Basis { rules, keys } = &*entry.basis;
        let name = || Arc::clone(&rules.name);
        if now >= keys_until {
            return Err(TokenFault::StaleKeys(name()));
        }
        let fitting: Vec<_> = keys.fitting(header.kid.as_deref(), header.algorithm).take(MAX_TRIED + 1).collect();
        if fitting.is_empty() {
            return Err(TokenFault::UnknownKey(name()));
        }
        if fitting.len() > MAX_TRIED {
            return Err(TokenFault::AmbiguousKey(name()));
        }
        let key = fitting.into_iter().find(|key| key.verifies(header.algorithm, signed, &signature));
        let key = key.ok_or_else(|| TokenFault::WrongSignature(name()))?.fingerprint();
        // From here on the issuer speaks.
        let soon = now.after(rules.leeway);
        if claims.not_before.is_some_and(|from| from > soon) {
            return Err(TokenFault::NotYetValid(name()));
        }
        if claims.issued_at.is_some_and(|at| at > soon) {
            return Err(TokenFault::IssuedInFuture(name()));
        }
        let token = Arc::new(rules.token(&claims)?);
        Ok(Proof { basis: Arc::clone(&entry.basis), key, header, claims, token })
    }

    /// The one issuer that a token claims to be of.
    fn entry_for(&self, claims: &Claims, algorithm: Algorithm) -> Result<&Entry, TokenFault> {
        let mut of_issuer = self.entries.iter().filter(|entry| entry.basis.rules.issuer == claims.issuer).peekable();
        if of_issuer.peek().is_none() {
            return Err(TokenFault::UnknownIssuer);
        }
        let mut for_us = of_issuer.filter(|entry| entry.basis.rules.is_for(claims));
        let entry = for_us.next().ok_or(TokenFault::WrongAudience)?;
        if for_us.next().is_some() {
            return Err(TokenFault::AmbiguousIssuer);
        }
        let rules = &entry.basis.rules;
        if !rules.algorithms.contains(&algorithm) {
            return Err(TokenFault::AlgorithmNotAllowed(Arc::clone(&rules.name), algorithm));
        }
        Ok(entry)
    }

    /// The entry that stands on this very basis.
    fn rests_on(&self, basis: &Arc<Basis>) -> Option<&Entry> {
        self.entries.iter().find(|entry| Arc::ptr_eq(&entry.basis, basis))
    }

    /// The basis that there is already, so that proofs go on resting on it, or a new one.
    fn basis(&self, rules: &Arc<Rules>, keys: KeySet) -> Arc<Basis> {
        let basis = Basis { rules: Arc::clone(rules), keys };
        let known = self.entries.iter().map(|entry| &entry.basis).find(|known| ***known == basis);
        known.map_or_else(|| Arc::new(basis), Arc::clone)
    }
}

/// What is known of the keys at `location`.
fn known(entries: &[Entry], location: &Location) -> Option<(KeySet, Option<Timestamp>, Arc<Desk>)> {
    entries.iter().find_map(|entry| match &entry.origin {
        Origin::Fetched { location: from, fetched_at, desk, .. } if from == location => {
            Some((entry.basis.keys.clone(), *fetched_at, Arc::clone(desk)))
        }
        Origin::Fetched { .. } | Origin::File => None,
    })
}

impl Entry {
    /// Until when the keys may be relied on.
    fn keys_until(&self) -> Result<Timestamp, TokenFault> {
        match &self.origin {
            Origin::File => Ok(Timestamp::FAR_FUTURE),
            Origin::Fetched { fetched_at: Some(at), stale_max, .. } => Ok(at.after(*stale_max)),
            Origin::Fetched { fetched_at: None, .. } => Err(TokenFault::NoKeys(Arc::clone(&self.basis.rules.name))),
        }
    }
}

impl Rules {
    fn is_for(&self, claims: &Claims) -> bool {
        self.audience.iter().any(|audience| claims.audience.contains(audience))
    }

    fn token(&self, claims: &Claims) -> Result<Token, TokenFault> {
        Ok(Token {
            issuer: Arc::clone(&self.name),
            subject: claims.subject.clone(),
            owner: self.owner.fill(|name| claims.claim(name))?,
            expires_at: claims.expires_at.after(self.leeway),
        })
    }
}
