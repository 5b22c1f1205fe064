//! `doorward key`

mod change;
mod import;

use std::collections::BTreeMap;
use std::io::Write;

use clap::{Args, Subcommand};

use crate::cli::output::{self, Failure, Format};
use crate::cli::reach::{Reach, said};
use crate::clock::Clock;
use crate::domain::key::{KeyId, NewKey};
use crate::domain::owner::OwnerPath;
use crate::domain::timestamp::{Timestamp, parse_span};
use crate::manage::fields::WHEN;
use crate::manage::keys::{self, CreateKey, ListKeys, ShowKey, State};
use crate::manage::page;

/// Virtual keys.
#[derive(Debug, Subcommand)]
pub enum Key {
    /// Make a key; it is shown once
    Create(Box<Create>),
    /// List keys, without their secrets
    List(List),
    /// Show a key, without its secret
    Show(Show),
    /// Change fields of a key
    Update(Box<change::Update>),
    /// Put a new key in the place of one
    Rotate(change::Rotate),
    /// Revoke a key for good, within a second
    Revoke(change::Revoke),
    /// Forget a key; it is refused within a second
    Delete(change::Delete),
    /// Store many keys; the same import may be made again
    Import(import::Import),
    /// Read a key on standard input and print what a config file may list of it
    Hash(import::Hash),
}

/// Makes a key. Without limits of its own it may do what its owner's grants say.
#[derive(Debug, Args)]
pub struct Create {
    /// Whom the key belongs to, such as acme/research/alice
    #[arg(long, value_name = "PATH", value_parser = OwnerPath::parse)]
    owner: OwnerPath,
    #[command(flatten)]
    limits: Limits,
    /// How to print the result
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
    #[command(flatten)]
    reach: Reach,
}

/// The limits of a key, and what is written beside it.
#[derive(Clone, Debug, Default, Args)]
pub struct Limits {
    /// When it ends: a span (30d) or a time (2027-01-31T00:00:00Z)
    #[arg(long, value_name = "WHEN", value_parser = when)]
    expires: Option<String>,
    /// Before this it is refused: a span or a time
    #[arg(long, value_name = "WHEN", value_parser = when)]
    not_before: Option<String>,
    /// How often it may be used
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    uses: Option<u32>,
    /// Give a use back that ended without a backend's answer
    #[arg(long, requires = "uses")]
    refund_on_failure: bool,
    /// Networks that it works from; may be repeated
    #[arg(long = "network", value_name = "CIDR")]
    networks: Vec<String>,
    /// Endpoints or groups that it may call; may be repeated
    #[arg(long = "endpoint", value_name = "NAME")]
    endpoints: Vec<String>,
    /// Models that it may name; may be repeated
    #[arg(long = "model", value_name = "GLOB")]
    models: Vec<String>,
    /// The identity over whose connections alone it works; * is allowed in its last segment
    #[arg(long = "bind", value_name = "IDENTITY")]
    bound_to: Option<String>,
    /// Your own words about it; may be repeated
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = label)]
    labels: Vec<(String, String)>,
    /// A remark, in one line
    #[arg(long, value_name = "TEXT")]
    note: Option<String>,
    /// What another system calls it; no two keys have the same
    #[arg(long, value_name = "ID")]
    external_id: Option<String>,
}

/// Lists keys, oldest first.
#[derive(Debug, Args)]
pub struct List {
    /// Only those of this owner and of owners below
    #[arg(long, value_name = "PATH", value_parser = OwnerPath::parse)]
    owner: Option<OwnerPath>,
    /// Only those in this state: active, not_yet, expired, revoked, disabled, owner_disabled, spent
    #[arg(long, value_name = "STATE", value_parser = State::parse)]
    only: Option<State>,
    /// How to print the result
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
    #[command(flatten)]
    reach: Reach,
}

/// Shows a key.
#[derive(Debug, Args)]
pub struct Show {
    /// The public id: 12 characters between dw_ and the second _
    #[arg(value_parser = KeyId::parse)]
    id: KeyId,
    /// How to print the result
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
    #[command(flatten)]
    reach: Reach,
}

impl Key {
    /// Runs the verb.
    ///
    /// # Errors
    ///
    /// When an argument is wrong, or the store or the gateway cannot be reached.
    pub fn run(self, out: &mut impl Write, err: &mut impl Write) -> Result<(), Failure> {
        match self {
            Self::Create(verb) => verb.run(out, err),
            Self::List(verb) => verb.run(out),
            Self::Show(verb) => verb.run(out),
            Self::Update(verb) => verb.run(out, err),
            Self::Rotate(verb) => verb.run(out, err),
            Self::Revoke(verb) => verb.run(out),
            Self::Delete(verb) => verb.run(out),
            Self::Import(verb) => verb.run(out, err),
            Self::Hash(verb) => verb.run(out),
        }
    }
}

impl Create {
    fn run(self, out: &mut impl Write, err: &mut impl Write) -> Result<(), Failure> {
        let Limits { expires, not_before, uses, networks, endpoints, models, .. } = self.limits.clone();
        let asked = CreateKey {
            owner: self.owner.to_string(),
            expires_at: expires,
            not_before,
            uses,
            refund_on_failure: self.limits.refund_on_failure.then_some(true),
            networks: named(networks),
            endpoints: named(endpoints),
            models: named(models),
            bound_to: self.limits.bound_to.clone(),
            labels: self.limits.labels()?,
            note: self.limits.note.clone(),
            external_id: self.limits.external_id.clone(),
        };
        // Before a store is made for it.
        asked.check(Clock::System.now()).map_err(said)?;
        let made = self.reach.any()?.perform(asked)?;
        match self.output {
            Format::Json => output::json(out, &made),
            Format::Table => {
                output::warn(err, &made.warnings)?;
                reveal(&made.key, out, err)
            }
        }
    }
}

/// Shows the secret of a key that was just made.
fn reveal(key: &keys::Key, out: &mut impl Write, err: &mut impl Write) -> Result<(), Failure> {
    let secret = key.key.as_ref().ok_or_else(|| Failure::new("the answer holds no key"))?;
    writeln!(err, "The key is shown this once; only its hash is kept.")?;
    writeln!(out, "{}", secret.reveal())?;
    Ok(())
}

impl Limits {
    fn labels(&self) -> Result<BTreeMap<String, String>, Failure> {
        let mut all = BTreeMap::new();
        for (name, value) in &self.labels {
            if all.insert(name.clone(), value.clone()).is_some() {
                return Err(Failure::Usage(vec![format!("--label: {name} comes twice")]));
            }
        }
        Ok(all)
    }
}

/// A list that was given as a repeated option.
fn named(entries: Vec<String>) -> Option<Vec<String>> {
    (!entries.is_empty()).then_some(entries)
}

/// Checks when something ends or begins, and keeps its spelling.
pub(super) fn when(text: &str) -> Result<String, String> {
    let known = parse_span(text).is_ok() || Timestamp::parse(text).is_ok();
    if known { Ok(text.to_owned()) } else { Err(WHEN.to_owned()) }
}

fn label(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').ok_or_else(|| "is not NAME=VALUE, such as team=search".to_owned())?;
    Ok((pair.0.to_owned(), pair.1.to_owned()))
}

/// A new random key.
///
/// # Errors
///
/// When the machine gives no randomness.
pub fn create(owner: &OwnerPath) -> Result<NewKey, Failure> {
    keys::mint().map_err(|fault| Failure::new(format!("{fault} to make a key for {owner}")))
}

impl List {
    fn run(self, out: &mut impl Write) -> Result<(), Failure> {
        let keys = self.reach.existing()?.all(|cursor| ListKeys {
            owner: self.owner.as_ref().map(ToString::to_string),
            state: self.only.map(|state| state.as_str().to_owned()),
            cursor,
            limit: Some(page::MAX_LIMIT),
        })?;
        match self.output {
            Format::Json => output::json(out, &keys),
            Format::Table => {
                let row = |key: &keys::Key| {
                    vec![
                        key.id.clone(),
                        key.owner.clone(),
                        key.state.as_str().to_owned(),
                        key.expires_at.clone().unwrap_or_else(|| "never".to_owned()),
                        output::cell(key.networks.as_ref()),
                        output::cell(key.endpoints.as_ref()),
                        output::cell(key.models.as_ref()),
                    ]
                };
                let head = ["ID", "OWNER", "STATE", "EXPIRES", "NETWORKS", "ENDPOINTS", "MODELS"];
                output::table(out, &head, &keys.iter().map(row).collect::<Vec<_>>())
            }
        }
    }
}

impl Show {
    fn run(self, out: &mut impl Write) -> Result<(), Failure> {
        let key = self.reach.existing()?.perform(ShowKey { id: self.id.to_string() })?;
        print(&key, self.output, out)
    }
}

/// Prints one key.
fn print(key: &keys::Key, format: Format, out: &mut impl Write) -> Result<(), Failure> {
    if format == Format::Json {
        return output::json(out, key);
    }
    let or = |text: &Option<String>, none: &str| text.clone().unwrap_or_else(|| none.to_owned());
    let labels: Vec<_> = key.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let uses = key.uses_left.map(|left| left.to_string());
    let rows = [
        ("id", key.id.clone()),
        ("kept in", key.source.as_str().to_owned()),
        ("owner", key.owner.clone()),
        ("state", key.state.as_str().to_owned()),
        ("networks", output::cell(key.networks.as_ref())),
        ("endpoints", output::cell(key.endpoints.as_ref())),
        ("models", output::cell(key.models.as_ref())),
        ("created", or(&key.created_at, "-")),
        ("not before", or(&key.not_before, "-")),
        ("expires", or(&key.expires_at, "never")),
        ("revoked", or(&key.revoked_at, "-")),
        ("uses left", or(&uses, "any number")),
        ("bound to", or(&key.bound_to, "-")),
        ("labels", if labels.is_empty() { "-".to_owned() } else { labels.join(",") }),
        ("note", or(&key.note, "-")),
        ("last used", or(&key.last_used_at, "-")),
        ("rotated from", or(&key.rotated_from, "-")),
        ("external id", or(&key.external_id, "-")),
    ];
    let rows: Vec<_> = rows.into_iter().map(|(what, value)| vec![what.to_owned(), value]).collect();
    output::table(out, &["WHAT", "VALUE"], &rows)
}
