//! `doorward key`

use std::io::Write;
use std::time::Duration;

use aws_lc_rs::rand;
use clap::{Args, Subcommand};
use serde::Serialize;

use crate::cli::output::{self, Failure, Format};
use crate::cli::place::Place;
use crate::clock::Clock;
use crate::config::did_you_mean;
use crate::domain::endpoint::Endpoints;
use crate::domain::grant::{GrantTree, Models};
use crate::domain::key::{KeyId, KeyRecord, Narrowing, NewKey};
use crate::domain::network::Networks;
use crate::domain::owner::OwnerPath;
use crate::domain::timestamp::{Timestamp, parse_span};
use crate::store::rows::Revoked;

/// Virtual keys.
#[derive(Debug, Subcommand)]
pub enum Key {
    /// Make a key; it is shown once
    Create(Create),
    /// List all keys, without their secrets
    List(List),
    /// Revoke a key for good, within a second
    Revoke(Revoke),
}

/// Makes a key. Without limits of its own it may do what its owner's grants say.
#[derive(Debug, Args)]
pub struct Create {
    /// Whom the key belongs to, such as acme/research/alice
    #[arg(long, value_name = "PATH", value_parser = OwnerPath::parse)]
    owner: OwnerPath,
    /// When it ends: a span (30d) or a time (2027-01-31T00:00:00Z)
    #[arg(long, value_name = "WHEN", value_parser = When::parse)]
    expires: Option<When>,
    /// Networks that it works from; may be repeated
    #[arg(long = "network", value_name = "CIDR")]
    networks: Vec<String>,
    /// Endpoints or groups that it may call; may be repeated
    #[arg(long = "endpoint", value_name = "NAME")]
    endpoints: Vec<String>,
    /// Models that it may name; may be repeated
    #[arg(long = "model", value_name = "GLOB")]
    models: Vec<String>,
    /// How to print the result
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
    #[command(flatten)]
    place: Place,
}

/// Lists all keys.
#[derive(Debug, Args)]
pub struct List {
    /// How to print the result
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
    #[command(flatten)]
    place: Place,
}

/// Revokes a key.
#[derive(Debug, Args)]
pub struct Revoke {
    /// The public id: 12 characters between dw_ and the second _
    #[arg(value_parser = KeyId::parse)]
    id: KeyId,
    #[command(flatten)]
    place: Place,
}

impl Key {
    /// Runs the verb.
    ///
    /// # Errors
    ///
    /// When an argument is wrong or the store cannot be read or written.
    pub fn run(self, out: &mut impl Write, err: &mut impl Write) -> Result<(), Failure> {
        match self {
            Self::Create(verb) => verb.run(out, err),
            Self::List(verb) => verb.run(out),
            Self::Revoke(verb) => verb.run(out),
        }
    }
}

/// A key as verbs print it.
#[derive(Debug, Serialize)]
struct Shown<'a> {
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    owner: &'a str,
    state: &'static str,
    networks: Option<Vec<String>>,
    endpoints: Option<Vec<String>>,
    models: Option<Vec<String>>,
    created_at: String,
    expires_at: Option<String>,
    revoked_at: Option<String>,
}

impl<'a> Shown<'a> {
    fn new(record: &'a KeyRecord, key: Option<&'a str>, now: Timestamp) -> Self {
        Self {
            id: record.id.as_str(),
            key,
            owner: record.owner.as_str(),
            state: record.state(now).as_str(),
            networks: record.narrowing.networks.as_ref().map(Networks::entries),
            endpoints: record.narrowing.endpoints.as_ref().map(Endpoints::entries),
            models: record.narrowing.models.as_ref().map(Models::entries),
            created_at: record.created_at.to_string(),
            expires_at: record.expires_at.map(|at| at.to_string()),
            revoked_at: record.revoked_at.map(|at| at.to_string()),
        }
    }
}

impl Create {
    fn run(self, out: &mut impl Write, err: &mut impl Write) -> Result<(), Failure> {
        let now = Clock::System.now();
        let expires_at = self.expires.map(|when| when.after(now));
        let mut wrong = Vec::new();
        if expires_at.is_some_and(|at| at <= now) {
            wrong.push("--expires is not in the future".to_owned());
        }
        let narrowing = Narrowing {
            networks: list("--network", &self.networks, Networks::parse, &mut wrong),
            endpoints: list("--endpoint", &self.endpoints, endpoints, &mut wrong),
            models: list("--model", &self.models, Models::parse, &mut wrong),
        };
        if !wrong.is_empty() {
            return Err(Failure::Usage(wrong));
        }
        let (mut store, pepper) = self.place.store_and_pepper()?;
        let key = create(&self.owner)?;
        let record = KeyRecord {
            narrowing,
            expires_at,
            ..KeyRecord::new(key.id(), self.owner.clone(), pepper.digest(&key), now)
        };
        store.create_key(&record).map_err(Failure::new)?;
        self.advise(&record, err)?;
        match self.output {
            Format::Json => output::json(out, &Shown::new(&record, Some(key.reveal()), now)),
            Format::Table => {
                writeln!(err, "The key is shown this once; only its hash is kept.")?;
                writeln!(out, "{}", key.reveal())?;
                Ok(())
            }
        }
    }

    /// Says what will surprise the owner of the key.
    fn advise(&self, record: &KeyRecord, err: &mut impl Write) -> Result<(), Failure> {
        if record.expires_at.is_none() {
            writeln!(err, "warning: the key never expires; --expires 30d would end it")?;
        }
        let Some(config) = self.place.config_if_any() else { return Ok(()) };
        let tree = GrantTree::new(config.grants);
        if tree.on_path(&record.owner).all(|grant| grant.require.is_none()) {
            writeln!(
                err,
                "warning: no grant on the path of {} names `require`, so the key opens nothing yet",
                record.owner
            )?;
        }
        Ok(())
    }
}

/// A new random key.
///
/// # Errors
///
/// When the machine gives no randomness.
pub fn create(owner: &OwnerPath) -> Result<NewKey, Failure> {
    let (mut id, mut secret) = ([0; 8], zeroize::Zeroizing::new([0; 32]));
    rand::fill(&mut id)
        .and_then(|()| rand::fill(&mut *secret))
        .map_err(|_| Failure::new(format!("no randomness to make a key for {owner}")))?;
    Ok(NewKey::from_random(id, &secret))
}

/// When something ends, as it is written.
#[derive(Clone, Copy, Debug)]
enum When {
    /// This long from now.
    In(Duration),
    /// At this time.
    At(Timestamp),
}

impl When {
    fn parse(text: &str) -> Result<Self, String> {
        parse_span(text)
            .map(Self::In)
            .or_else(|_| Timestamp::parse(text).map(Self::At))
            .map_err(|_| "neither a span such as 30d nor a time such as 2027-01-31T00:00:00Z".to_owned())
    }

    fn after(self, now: Timestamp) -> Timestamp {
        match self {
            Self::In(span) => now.after(span),
            Self::At(at) => at,
        }
    }
}

/// Endpoints, with the nearest known word for each that is wrong.
fn endpoints(entries: &[String]) -> Result<Endpoints, Vec<(usize, String)>> {
    let near = |(index, why): (usize, String)| {
        let word = entries.get(index).map_or("", String::as_str);
        (index, format!("{why}{}", did_you_mean(word, Endpoints::vocabulary())))
    };
    Endpoints::parse(entries).map_err(|wrong| wrong.into_iter().map(near).collect())
}

/// A list that was given as a repeated option; what is wrong with it is added to `wrong`.
fn list<T>(
    option: &str,
    entries: &[String],
    parse: impl Fn(&[String]) -> Result<T, Vec<(usize, String)>>,
    wrong: &mut Vec<String>,
) -> Option<T> {
    if entries.is_empty() {
        return None;
    }
    parse(entries).map_err(|faults| wrong.extend(faults.into_iter().map(|(_, why)| format!("{option}: {why}")))).ok()
}

impl List {
    fn run(self, out: &mut impl Write) -> Result<(), Failure> {
        let now = Clock::System.now();
        let keys = self.place.existing_store()?.list_keys().map_err(Failure::new)?;
        let shown: Vec<_> = keys.iter().map(|record| Shown::new(record, None, now)).collect();
        match self.output {
            Format::Json => output::json(out, &shown),
            Format::Table => {
                let join = |list: &Option<Vec<String>>| list.as_ref().map_or("-".to_owned(), |list| list.join(","));
                let row = |key: &Shown<'_>| {
                    vec![
                        key.id.to_owned(),
                        key.owner.to_owned(),
                        key.state.to_owned(),
                        key.expires_at.clone().unwrap_or_else(|| "never".to_owned()),
                        join(&key.networks),
                        join(&key.endpoints),
                        join(&key.models),
                    ]
                };
                let head = ["ID", "OWNER", "STATE", "EXPIRES", "NETWORKS", "ENDPOINTS", "MODELS"];
                output::table(out, &head, &shown.iter().map(row).collect::<Vec<_>>())
            }
        }
    }
}

impl Revoke {
    fn run(self, out: &mut impl Write) -> Result<(), Failure> {
        let mut store = self.place.existing_store()?;
        match store.revoke_key(&self.id, Clock::System.now()).map_err(Failure::new)? {
            Revoked::Revoked => writeln!(out, "{} is revoked", self.id)?,
            Revoked::AlreadyRevoked => writeln!(out, "{} was revoked before", self.id)?,
            Revoked::Unknown => {
                return Err(Failure::with_hint(
                    format!("no key has the id {}", self.id),
                    "`doorward key list` shows all ids",
                ));
            }
        }
        Ok(())
    }
}
