//! `doorward key update`, `rotate`, `revoke` and `delete`

use std::io::Write;

use clap::{Args, ValueEnum};

use super::{Limits, named, print, reveal, when};
use crate::cli::output::{self, Failure, Format};
use crate::cli::reach::Reach;
use crate::domain::key::KeyId;
use crate::domain::timestamp::parse_span;
use crate::manage::fields::Change;
use crate::manage::keys::{DeleteKey, RevokeKey, RotateKey, UpdateKey};

/// Changes the fields that are named, and no other.
#[derive(Debug, Args)]
pub struct Update {
    /// The public id: 12 characters between dw_ and the second _
    #[arg(value_parser = KeyId::parse)]
    id: KeyId,
    #[command(flatten)]
    limits: Limits,
    /// Take a field away; may be repeated
    #[arg(long = "clear", value_enum, value_name = "FIELD")]
    cleared: Vec<Field>,
    /// Switch the key off
    #[arg(long, conflicts_with = "enable")]
    disable: bool,
    /// Switch the key on again
    #[arg(long)]
    enable: bool,
    /// How to print the result
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
    #[command(flatten)]
    reach: Reach,
}

/// A field that can be taken away.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Field {
    Expires,
    NotBefore,
    Uses,
    Network,
    Endpoint,
    Model,
    Bind,
    Label,
    Note,
    ExternalId,
}

impl Update {
    pub(super) fn run(self, out: &mut impl Write, err: &mut impl Write) -> Result<(), Failure> {
        let limits = self.limits.clone();
        let labels = limits.labels()?;
        let asked = UpdateKey {
            id: self.id.to_string(),
            expires_at: self.change(Field::Expires, "--expires", limits.expires)?,
            not_before: self.change(Field::NotBefore, "--not-before", limits.not_before)?,
            uses: self.change(Field::Uses, "--uses", limits.uses)?,
            refund_on_failure: limits.refund_on_failure.then_some(true),
            networks: self.change(Field::Network, "--network", named(limits.networks))?,
            endpoints: self.change(Field::Endpoint, "--endpoint", named(limits.endpoints))?,
            models: self.change(Field::Model, "--model", named(limits.models))?,
            bound_to: self.change(Field::Bind, "--bind", limits.bound_to)?,
            disabled: match (self.disable, self.enable) {
                (true, _) => Some(true),
                (false, true) => Some(false),
                (false, false) => None,
            },
            labels: self.change(Field::Label, "--label", (!labels.is_empty()).then_some(labels))?,
            note: self.change(Field::Note, "--note", limits.note)?,
            external_id: self.change(Field::ExternalId, "--external-id", limits.external_id)?,
        };
        let changed = self.reach.existing()?.perform(asked)?;
        if self.output == Format::Json {
            return output::json(out, &changed);
        }
        output::warn(err, &changed.warnings)?;
        print(&changed.key, self.output, out)
    }

    fn change<T>(&self, field: Field, option: &str, value: Option<T>) -> Result<Change<T>, Failure> {
        match (value, self.cleared.contains(&field)) {
            (Some(_), true) => Err(Failure::Usage(vec![format!("{option} is given a value and cleared")])),
            (Some(value), false) => Ok(Change::Set(value)),
            (None, true) => Ok(Change::Clear),
            (None, false) => Ok(Change::Keep),
        }
    }
}

/// Makes a new key with the policy of an old one, which ends after the overlap.
#[derive(Debug, Args)]
pub struct Rotate {
    /// The public id of the old one
    #[arg(value_parser = KeyId::parse)]
    id: KeyId,
    /// How long the old one may be used beside the new one [default: 24h]
    #[arg(long, value_name = "SPAN", value_parser = span)]
    overlap: Option<String>,
    /// When the new one ends: a span or a time [default: as long as the old one was made for]
    #[arg(long, value_name = "WHEN", value_parser = when)]
    expires: Option<String>,
    /// How to print the result
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
    #[command(flatten)]
    reach: Reach,
}

impl Rotate {
    pub(super) fn run(self, out: &mut impl Write, err: &mut impl Write) -> Result<(), Failure> {
        let asked = RotateKey { id: self.id.to_string(), overlap: self.overlap, expires_at: self.expires };
        let rotated = self.reach.existing()?.perform(asked)?;
        if self.output == Format::Json {
            return output::json(out, &rotated);
        }
        output::warn(err, &rotated.warnings)?;
        let ends = rotated.old_expires_at.as_deref().unwrap_or("never");
        writeln!(err, "{} ends at {ends}; the new key is {}.", self.id, rotated.key.id)?;
        reveal(&rotated.key, out, err)
    }
}

/// Checks a span and keeps its spelling.
fn span(text: &str) -> Result<String, String> {
    parse_span(text).map(|_| text.to_owned())
}

/// Revokes a key.
#[derive(Debug, Args)]
pub struct Revoke {
    /// The public id: 12 characters between dw_ and the second _
    #[arg(value_parser = KeyId::parse)]
    id: KeyId,
    /// How to print the result
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
    #[command(flatten)]
    reach: Reach,
}

impl Revoke {
    pub(super) fn run(self, out: &mut impl Write) -> Result<(), Failure> {
        let done = self.reach.existing()?.perform(RevokeKey { id: self.id.to_string() })?;
        match (self.output, done.newly) {
            (Format::Json, _) => output::json(out, &done)?,
            (Format::Table, true) => writeln!(out, "{} is revoked", done.id)?,
            (Format::Table, false) => writeln!(out, "{} was revoked before", done.id)?,
        }
        Ok(())
    }
}

/// Forgets a key. Revoking it would keep it listed.
#[derive(Debug, Args)]
pub struct Delete {
    /// The public id: 12 characters between dw_ and the second _
    #[arg(value_parser = KeyId::parse)]
    id: KeyId,
    /// How to print the result
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
    #[command(flatten)]
    reach: Reach,
}

impl Delete {
    pub(super) fn run(self, out: &mut impl Write) -> Result<(), Failure> {
        let done = self.reach.existing()?.perform(DeleteKey { id: self.id.to_string() })?;
        match self.output {
            Format::Json => output::json(out, &done)?,
            Format::Table => writeln!(out, "{} is deleted", done.id)?,
        }
        Ok(())
    }
}
