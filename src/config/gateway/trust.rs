//! `[ca]`, `[[trust]]` and `[[identity]]`: who may vouch for callers, and where those sit.
//!
//! Invariant: a trust domain has one owner. Two authorities for one domain could each make the
//! other's callers.

use std::collections::HashMap;

use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};

use crate::config::document::{Table, Value};
use crate::config::gateway::bundle::{self, Bundle};
use crate::config::gateway::crls::read_crls;
use crate::config::{IdentityEntry, IdentityField, IdentityMap};
use crate::domain::glob::Glob;
use crate::domain::identity::{IdentityMatch, TrustDomain};
use crate::domain::owner::OwnerPath;

/// An external authority for callers.
#[derive(Debug)]
pub struct Trust {
    /// Its name in logs.
    pub name: String,
    /// Its roots; never empty.
    pub roots: Vec<CertificateDer<'static>>,
    /// What it has revoked; empty when nothing says so.
    pub crls: Vec<CertificateRevocationListDer<'static>>,
    /// How a certificate becomes an identity.
    pub map: IdentityMap,
}

/// The authorities of the config, as far as they could be read.
pub(super) struct Authorities {
    /// Each trust domain, with what to call its owner in a message.
    owned: HashMap<TrustDomain, String>,
    /// False when an entry could not be read: then nobody knows which domains it owns.
    complete: bool,
}

/// Reads `[ca]`: the trust domain of the built-in authority.
pub(super) fn read_ca(section: Option<&Value<'_>>, authorities: &mut Authorities) -> Option<Option<TrustDomain>> {
    let Some(section) = section else { return Some(None) };
    let domain = section.table(|table| {
        let value = table.require("trust_domain", "the name of your authority, such as \"corp.example\"")?;
        let domain = value.parsed(TrustDomain::parse)?;
        authorities.owned.insert(domain.clone(), value.place.pointer());
        Some(domain)
    });
    authorities.complete &= domain.is_some();
    domain.map(Some)
}

/// Reads every `[[trust]]`.
pub(super) fn read_trust(sections: &[Value<'_>], authorities: &mut Authorities) -> Option<Vec<Trust>> {
    let mut names = HashMap::new();
    let entries: Vec<Option<Trust>> =
        sections.iter().map(|entry| read_trust_entry(entry, &mut names, authorities)).collect();
    let entries: Option<Vec<Trust>> = entries.into_iter().collect();
    authorities.complete &= entries.is_some();
    entries
}

fn read_trust_entry(
    entry: &Value<'_>,
    names: &mut HashMap<String, String>,
    authorities: &mut Authorities,
) -> Option<Trust> {
    entry.table(|table| {
        let name = table.require("name", "what logs call this authority, such as \"corp-pki\"");
        let name = name.and_then(|value| value.unique_name(names));
        let roots = table.require("roots", "a file with the root certificates: PEM, or a SPIFFE bundle (JSON)");
        let map = read_map(table, authorities);
        let roots = roots.and_then(|value| read_roots(&value, map.as_ref()));
        let crls = match (table.get("crls"), &roots) {
            (None, _) => Some(Vec::new()),
            (Some(value), Some(roots)) => read_crls(&value, roots),
            // Whose lists would they be?
            (Some(value), None) => read_crls(&value, &[]),
        };
        Some(Trust { name: name?, roots: roots?, crls: crls?, map: map? })
    })
}

/// The roots of an entry, in PEM or as a SPIFFE bundle. `map` is `None` when it could not be read.
fn read_roots(setting: &Value<'_>, map: Option<&IdentityMap>) -> Option<Vec<CertificateDer<'static>>> {
    let (file, shown) = setting.public_file()?;
    if !bundle::looks_like(&file) {
        return setting.roots();
    }
    let domains = match map {
        Some(IdentityMap::Field { .. }) => {
            return setting.refuse(&format!("{shown} is a SPIFFE bundle, which goes with map = \"spiffe\""));
        }
        Some(IdentityMap::Spiffe { trust_domains }) => trust_domains.as_slice(),
        None => &[],
    };
    let read = Bundle::parse(&file).map_err(|why| setting.wrong(format!("{shown}: {why}"))).ok()?;
    for number in &read.without_certificate {
        setting
            .place
            .warn(format!("key {number} of {shown} is meant as a root and holds no certificate: it is ignored"));
    }
    if let [_, ..] = domains {
        let foreign = |named: &&String| !domains.iter().any(|domain| domain.as_str() == *named);
        for named in read.named.iter().filter(foreign) {
            setting
                .place
                .warn(format!("{shown} has a root of the trust domain {named:?}, which is not among trust_domains"));
        }
    }
    setting.fit_as_roots(read.roots)
}

fn read_map(table: &Table<'_>, authorities: &mut Authorities) -> Option<IdentityMap> {
    let domains = table.get("trust_domains");
    let map = table.require(
        "map",
        "\"spiffe\" (with trust_domains), or { from = \"san_dns\", to = \"spiffe://pki.corp.example/client/{}\" }",
    )?;
    if map.raw().is_table() {
        if let Some(domains) = &domains {
            domains.wrong("goes with map = \"spiffe\"; here the domain is that of map.to");
        }
        return map.table(|map| read_field_map(map, authorities));
    }
    if !map.raw().is_str() {
        return map.mistyped("\"spiffe\" or a table with from and to");
    }
    map.parsed(|text| match text {
        "spiffe" => Ok(()),
        _ => Err(format!("{text:?} is neither \"spiffe\" nor {{ from = \"…\", to = \"spiffe://…/client/{{}}\" }}")),
    })?;
    let Some(domains) = domains else {
        table.missing("trust_domains", "the domains that this authority may speak for, such as [\"spire.example\"]");
        return None;
    };
    let empty = "an empty list lets the authority speak for nobody";
    let trust_domains = domains.each(empty, |value| read_owned_domain(value, authorities))?;
    Some(IdentityMap::Spiffe { trust_domains })
}

fn read_field_map(map: &Table<'_>, authorities: &mut Authorities) -> Option<IdentityMap> {
    let from = map.require("from", "\"san_dns\", \"san_email\" or \"subject_cn\"");
    let from = from.and_then(|value| {
        value.choice(&[
            ("san_dns", IdentityField::SanDns),
            ("san_email", IdentityField::SanEmail),
            ("subject_cn", IdentityField::SubjectCn),
        ])
    });
    let to = map.require("to", "such as \"spiffe://pki.corp.example/client/{}\"");
    let trust_domain = to.and_then(|value| {
        let domain = value.parsed(|text| {
            let domain = text.strip_prefix("spiffe://").and_then(|rest| rest.strip_suffix("/client/{}"));
            let domain = domain.ok_or_else(|| format!("{text:?} is not spiffe://<trust domain>/client/{{}}"))?;
            TrustDomain::parse(domain)
        })?;
        claim(&value, domain, authorities)
    });
    Some(IdentityMap::Field { from: from?, trust_domain: trust_domain? })
}

fn read_owned_domain(value: &Value<'_>, authorities: &mut Authorities) -> Option<TrustDomain> {
    let domain = value.parsed(TrustDomain::parse)?;
    claim(value, domain, authorities)
}

fn claim(value: &Value<'_>, domain: TrustDomain, authorities: &mut Authorities) -> Option<TrustDomain> {
    if let Some(owner) = authorities.owned.get(&domain) {
        return value.refuse(&format!("{domain} is already owned by {owner}; a trust domain has one authority"));
    }
    authorities.owned.insert(domain.clone(), value.place.pointer());
    Some(domain)
}

impl Authorities {
    pub(super) fn new() -> Self {
        Self { owned: HashMap::new(), complete: true }
    }

    /// Why nobody vouches for the identities that `pattern` matches; `None` when somebody does,
    /// or may.
    fn disowns(&self, pattern: &IdentityMatch) -> Option<String> {
        let domain = pattern.glob().as_str().strip_prefix("spiffe://")?.split('/').next()?;
        if !self.complete || self.owned.keys().any(|owned| owned.as_str() == domain) {
            return None;
        }
        let mut known: Vec<&str> = self.owned.keys().map(TrustDomain::as_str).collect();
        known.sort_unstable();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        Some(format!("no authority owns the trust domain {domain} (known: {known})"))
    }
}

/// Reads every `[[identity]]`.
pub(super) fn read_identities(sections: &[Value<'_>], authorities: &Authorities) -> Option<Vec<IdentityEntry>> {
    let mut seen: Vec<(IdentityMatch, String)> = Vec::new();
    let entries: Vec<Option<IdentityEntry>> =
        sections.iter().map(|entry| read_identity(entry, authorities, &mut seen)).collect();
    entries.into_iter().collect()
}

fn read_identity(
    entry: &Value<'_>,
    authorities: &Authorities,
    seen: &mut Vec<(IdentityMatch, String)>,
) -> Option<IdentityEntry> {
    entry.table(|table| {
        let matches = table.require("match", "a pattern such as \"spiffe://corp.example/client/ci-*\"");
        let matches = matches.and_then(|value| {
            let pattern = value.parsed(IdentityMatch::parse)?;
            if let Some(why) = authorities.disowns(&pattern) {
                value.wrong(why);
            }
            if let Some((other, place)) = seen.iter().find(|(other, _)| tie(other, &pattern)) {
                value.wrong(format!(
                    "can match what {place} ({}) matches, with as many literal characters: neither would win",
                    other.glob()
                ));
            }
            seen.push((pattern.clone(), value.place.pointer()));
            Some(pattern)
        });
        let owner = table.require("owner", "where these callers sit, such as \"acme/research/ci\"");
        let owner = owner.and_then(|value| value.parsed(OwnerPath::parse));
        Some(IdentityEntry { matches: matches?, owner: owner? })
    })
}

/// True when one identity could fit both patterns, and neither is the more precise.
fn tie(a: &IdentityMatch, b: &IdentityMatch) -> bool {
    let (a, b) = (a.glob(), b.glob());
    let (start, other) = (literal_start(a), literal_start(b));
    // Most pairs differ before the first `*`: cheap to see, and there may be thousands squared.
    (start.starts_with(other) || other.starts_with(start))
        && a.literal_characters() == b.literal_characters()
        && a.overlaps(b)
}

fn literal_start(glob: &Glob) -> &str {
    glob.as_str().split('*').next().unwrap_or_default()
}
