//! `[[issuer]]`: who may vouch for callers with tokens.
//!
//! Invariant: for each token there is at most one entry that could take it. Two entries with one
//! `iss` have no audience in common.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::CertificateDer;

use crate::config::document::{Table, Value};
use crate::domain::owner_template::OwnerTemplate;
use crate::domain::token::Algorithm;
use crate::token::issuers::Rules;
use crate::token::keys::KeySet;
use crate::token::location::{KeyUrl, Location};

/// An `[[issuer]]` entry.
#[derive(Debug)]
pub struct Issuer {
    /// What it says of tokens.
    pub rules: Arc<Rules>,
    /// Where the issuer's keys come from.
    pub keys: KeySource,
}

/// Where an issuer's keys come from.
#[derive(Debug)]
pub enum KeySource {
    /// A file, already read.
    File(KeySet),
    /// The issuer.
    Fetched {
        /// Where they are.
        location: Location,
        /// Private roots for its server; empty: the roots of the operating system.
        roots: Vec<CertificateDer<'static>>,
        /// From one fetch to the next.
        refresh: Duration,
        /// How long keys are relied on after the last fetch that succeeded.
        stale_max: Duration,
    },
}

/// Longest `iss` or `aud` that is compared, in bytes.
const MAX_TEXT_BYTES: usize = 512;
const DEFAULT_LEEWAY: Duration = Duration::from_secs(60);
const MAX_LEEWAY: Duration = Duration::from_secs(300);
const DEFAULT_REFRESH: Duration = Duration::from_secs(300);
const DEFAULT_STALE_MAX: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

/// What entries so far have claimed: `iss` and one audience, with the place.
type Taken = HashMap<(Box<str>, Box<str>), String>;

/// Reads every `[[issuer]]`.
pub(super) fn read_issuers(sections: &[Value<'_>]) -> Option<Vec<Issuer>> {
    let (mut names, mut taken) = (HashMap::new(), Taken::new());
    let read: Vec<Option<Issuer>> = sections.iter().map(|entry| read_issuer(entry, &mut names, &mut taken)).collect();
    let issuers: Vec<Issuer> = read.into_iter().collect::<Option<_>>()?;
    for (index, (issuer, section)) in issuers.iter().zip(sections).enumerate() {
        let before = issuers.iter().take(index);
        if let Some(other) = before.clone().find(|other| disagree(&other.keys, &issuer.keys)) {
            let name = &other.rules.name;
            section.wrong(format!("its keys are where issuer {name}'s are, which are fetched with another ca_file"));
        }
    }
    Some(issuers)
}

/// True when one place would be fetched in two ways.
fn disagree(one: &KeySource, other: &KeySource) -> bool {
    match (one, other) {
        (KeySource::Fetched { location: a, roots: x, .. }, KeySource::Fetched { location: b, roots: y, .. }) => {
            a == b && x != y
        }
        (KeySource::File(_), _) | (_, KeySource::File(_)) => false,
    }
}

fn read_issuer(entry: &Value<'_>, names: &mut HashMap<String, String>, taken: &mut Taken) -> Option<Issuer> {
    entry.table(|table| {
        let name = table.require("name", "what logs call this issuer, such as \"keycloak\"");
        let name = name.and_then(|value| value.unique_name(names));
        let (issuer, source) = read_source(table);
        let audience = table.require("audience", "what the tokens' aud must name, such as \"doorward\"");
        let audience = audience.and_then(|value| read_audience(&value, issuer.as_deref(), taken));
        let how = "what tokens may be signed with, such as [\"ES256\", \"RS256\"]";
        let algorithms = table.require("algorithms", how).and_then(|value| read_algorithms(&value));
        let leeway = table.get("leeway").map_or(Some(DEFAULT_LEEWAY), |v| v.span(Duration::ZERO..=MAX_LEEWAY));
        let owner = table.require("owner", "where its callers sit, such as \"acme/sso/{sub}\"");
        let owner = owner.and_then(|value| {
            let owner = value.parsed(OwnerTemplate::parse)?;
            if owner.begins_with_claim() {
                value.place.warn("begins with a claim: the issuer may place its callers anywhere on the owner tree");
            }
            Some(owner)
        });
        let algorithms = algorithms?;
        let source = source.and_then(|source| source.checked(&algorithms));
        let rules = Rules {
            name: name?.into(),
            issuer: issuer?,
            audience: audience?,
            algorithms,
            leeway: leeway?,
            owner: owner?,
        };
        Some(Issuer { rules: Arc::new(rules), keys: source? })
    })
}

/// Keys as far as they could be read, with the setting that named them.
struct Source<'d> {
    setting: Value<'d>,
    keys: KeySource,
}

impl Source<'_> {
    /// Keys in a file can be looked through at once.
    fn checked(self, algorithms: &[Algorithm]) -> Option<KeySource> {
        if let KeySource::File(keys) = &self.keys
            && !algorithms.iter().any(|algorithm| keys.has(*algorithm))
        {
            return self.setting.refuse("holds no public key for any of algorithms");
        }
        Some(self.keys)
    }
}

/// The `iss`, and where the keys are: one of `url`, `jwks_url` and `jwks_file`. Each as far as it
/// could be read.
fn read_source<'d>(table: &Table<'d>) -> (Option<Box<str>>, Option<Source<'d>>) {
    let [url, jwks_url, jwks_file] = ["url", "jwks_url", "jwks_file"].map(|name| table.get(name));
    let issuer = table.get("issuer");
    let written = || [&url, &jwks_url, &jwks_file].into_iter().flatten();
    if let Some(second) = written().nth(1) {
        second.wrong("one of url, jwks_url and jwks_file says where the keys are");
    }
    if written().count() == 0 {
        let how =
            "the issuer's URL, such as \"https://sso.corp.example/realms/llm\"; or jwks_url or jwks_file with issuer";
        table.missing("url", how);
    }
    if let Some(setting) = url {
        if let Some(issuer) = issuer {
            issuer.wrong("goes with jwks_url and jwks_file; with url, that is the iss of the tokens");
        }
        let fetching = read_fetching(table);
        let url = setting.parsed(|text| {
            let url = KeyUrl::parse(text)?;
            if url.has_query() { Err("an issuer's URL has no query (?…)".to_owned()) } else { Ok(url) }
        });
        let issuer = url.as_ref().map(|url| url.as_str().into());
        let keys = url.zip(fetching).map(|(url, fetching)| fetching.of(Location::Discovery(url)));
        return (issuer, keys.map(|keys| Source { setting, keys }));
    }
    let source = match (jwks_url, jwks_file) {
        (Some(setting), _) => {
            let (url, fetching) = (setting.parsed(KeyUrl::parse), read_fetching(table));
            let keys = url.zip(fetching).map(|(url, fetching)| fetching.of(Location::Keys(url)));
            keys.map(|keys| Source { setting, keys })
        }
        (None, Some(setting)) => {
            for useless in ["ca_file", "refresh", "stale_max"].into_iter().filter_map(|name| table.get(name)) {
                useless.wrong("goes with url and jwks_url; a file is read again when it changes");
            }
            setting.key_set().map(|keys| Source { keys: KeySource::File(keys), setting })
        }
        (None, None) => {
            read_fetching(table);
            return (None, None);
        }
    };
    if issuer.is_none() {
        table.missing("issuer", "the iss of the tokens, to the letter; only url says it by itself");
    }
    (issuer.and_then(|value| value.parsed(|text| exact(text, "the iss"))), source)
}

/// How keys are fetched.
struct Fetching {
    roots: Vec<CertificateDer<'static>>,
    refresh: Duration,
    stale_max: Duration,
}

impl Fetching {
    fn of(self, location: Location) -> KeySource {
        let Self { roots, refresh, stale_max } = self;
        KeySource::Fetched { location, roots, refresh, stale_max }
    }
}

fn read_fetching(table: &Table<'_>) -> Option<Fetching> {
    let roots = table.get("ca_file").map_or(Some(Vec::new()), |value| value.roots());
    let refresh = table.get("refresh").map_or(Some(DEFAULT_REFRESH), |v| v.span(Duration::from_secs(1)..=DAY));
    let stale_setting = table.get("stale_max");
    let stale_max =
        stale_setting.as_ref().map_or(Some(DEFAULT_STALE_MAX), |v| v.span(Duration::from_secs(1)..=7 * DAY));
    let (refresh, stale_max) = (refresh?, stale_max?);
    if stale_max < refresh {
        let place = stale_setting.map_or_else(|| table.place_of("stale_max"), |setting| setting.place);
        place.wrong("is shorter than refresh (it is 1h when left out): keys would lapse between two fetches");
        return None;
    }
    Some(Fetching { roots: roots?, refresh, stale_max })
}

fn read_audience(value: &Value<'_>, issuer: Option<&str>, taken: &mut Taken) -> Option<Box<[Box<str>]>> {
    let one = |value: &Value<'_>| {
        let audience: Box<str> = value.parsed(|text| match text {
            "*" => Err("an audience is compared to the letter: \"*\" would be one of that name".to_owned()),
            _ => exact(text, "an audience"),
        })?;
        if let Some(issuer) = issuer {
            let key = (issuer.into(), audience.clone());
            if let Some(other) = taken.get(&key) {
                return value.refuse(&format!("tokens of {issuer} for {audience:?} are those of {other} already"));
            }
            taken.insert(key, value.place.pointer());
        }
        Some(audience)
    };
    if value.raw().is_str() {
        let mut one = one;
        return one(value).map(|audience| Box::from([audience]));
    }
    value.each("an empty list would take no token", one).map(Into::into)
}

fn read_algorithms(value: &Value<'_>) -> Option<Box<[Algorithm]>> {
    value.each("an empty list would take no token", |entry| entry.parsed(Algorithm::parse)).map(Into::into)
}

/// Text that is compared to the letter.
fn exact(text: &str, what: &str) -> Result<Box<str>, String> {
    if (1..=MAX_TEXT_BYTES).contains(&text.len()) && text.trim() == text {
        return Ok(text.into());
    }
    Err(format!("{what} has 1 to {MAX_TEXT_BYTES} bytes, and no spaces around it"))
}

impl Value<'_> {
    /// The keys of a JWKS file.
    fn key_set(&self) -> Option<KeySet> {
        let (bytes, shown) = self.public_file()?;
        KeySet::parse(&bytes).map_err(|why| self.wrong(format!("{shown}: {why}"))).ok()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};

    use crate::config::parse;

    const REST: &str = "[listen]\naddress = \"127.0.0.1:0\"\nnames = { api = [\"llm.test\"] }\nclient_auth = \"off\"\n\
                        [ca]\ntrust_domain = \"corp.test\"\n";

    #[test]
    fn one_place_is_not_fetched_in_two_ways() {
        let directory = tempfile::tempdir().unwrap();
        let mut root = CertificateParams::default();
        root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = root.self_signed(&KeyPair::generate().unwrap()).unwrap().pem();
        fs::write(directory.path().join("roots.pem"), root).unwrap();
        let entry = |name: &str, more: &str| {
            format!(
                "[[issuer]]\nname = \"{name}\"\nurl = \"https://sso.corp.test\"\naudience = \"{name}\"\n\
                 algorithms = [\"ES256\"]\nowner = \"acme/{{sub}}\"\n{more}\n"
            )
        };
        let load = |first: &str, second: &str| {
            let text = format!("{REST}{}{}", entry("one", first), entry("two", second));
            parse(&text, &directory.path().join("doorward.toml"), &|_| None)
        };
        let roots = "ca_file = \"roots.pem\"";
        assert_eq!(load(roots, roots).unwrap().watched, [directory.path().join("roots.pem")]);
        assert!(load("", "refresh = \"1m\"").is_ok());
        let problems = load("", roots).unwrap_err();
        let said: Vec<_> = problems.iter().map(ToString::to_string).collect();
        assert_eq!(
            said,
            ["line 14: issuer[1]: its keys are where issuer one's are, which are fetched with another ca_file"]
        );
    }
}
