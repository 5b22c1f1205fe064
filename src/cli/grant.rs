//! `doorward grant`

use std::io::Write;

use clap::{Args, Subcommand};

use crate::cli::key::when;
use crate::cli::output::{self, Failure, Format};
use crate::cli::reach::{Reach, said};
use crate::clock::Clock;
use crate::domain::grant::Require;
use crate::domain::owner::OwnerPath;
use crate::manage::grants::{self, ListGrants, RemoveGrant, SetGrant, ShowGrants};
use crate::manage::page;

/// Grants in the store, beside those of the config. Of two on one node both apply.
#[derive(Debug, Subcommand)]
pub enum Grant {
    /// Put a grant on a node, in the place of the store's that was there
    Set(Box<Set>),
    /// List the grants of the config and of the store
    List(List),
    /// Show the grants on the path of an owner: all of them apply
    Show(Show),
    /// Take the store's grant of a node away
    Remove(Remove),
}

/// Puts a grant on a node. What is not named is left to the path's other grants.
#[derive(Debug, Args)]
pub struct Set {
    /// The node, such as acme/research
    #[arg(value_name = "PATH", value_parser = OwnerPath::parse)]
    owner: OwnerPath,
    /// Which credentials: certificate, key, both or either
    #[arg(long, value_name = "WHICH", value_parser = Require::parse)]
    require: Option<Require>,
    /// Networks that callers may come from; may be repeated
    #[arg(long = "network", value_name = "CIDR")]
    networks: Vec<String>,
    /// Endpoints or groups that they may call; may be repeated
    #[arg(long = "endpoint", value_name = "NAME")]
    endpoints: Vec<String>,
    /// Models that they may name; may be repeated
    #[arg(long = "model", value_name = "GLOB")]
    models: Vec<String>,
    /// Web pages that may call, by origin (scheme, host, port); may be repeated
    #[arg(long = "cors-origin", value_name = "ORIGIN")]
    cors_origins: Vec<String>,
    /// When everything at and below the node ends: a span (30d) or a time (2027-01-31T00:00:00Z)
    #[arg(long, value_name = "WHEN", value_parser = when)]
    expires: Option<String>,
    /// How long a key lives that is made without an expiry, such as 30d
    #[arg(long, value_name = "SPAN")]
    default_key_ttl: Option<String>,
    /// How long a key may live at most, such as 90d
    #[arg(long, value_name = "SPAN")]
    max_key_ttl: Option<String>,
    /// Webhook that has the last word: a [webhook.NAME] of the config
    #[arg(long, value_name = "NAME")]
    webhook: Option<String>,
    /// Let requests pass when the webhook fails; it must say so too, with on_error = "allow"
    #[arg(long, requires = "webhook")]
    accept_fail_open: bool,
    /// How to print the result
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
    #[command(flatten)]
    reach: Reach,
}

/// Lists grants, by node.
#[derive(Debug, Args)]
pub struct List {
    /// How to print the result
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
    #[command(flatten)]
    reach: Reach,
}

/// Shows the grants on a path, root first.
#[derive(Debug, Args)]
pub struct Show {
    /// The owner, such as acme/research/alice
    #[arg(value_name = "PATH", value_parser = OwnerPath::parse)]
    owner: OwnerPath,
    /// How to print the result
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
    #[command(flatten)]
    reach: Reach,
}

/// Takes a grant away.
#[derive(Debug, Args)]
pub struct Remove {
    /// The node, such as acme/research
    #[arg(value_name = "PATH", value_parser = OwnerPath::parse)]
    owner: OwnerPath,
    /// How to print the result
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
    #[command(flatten)]
    reach: Reach,
}

impl Grant {
    /// Runs the verb.
    ///
    /// # Errors
    ///
    /// When an argument is wrong, or the store or the gateway cannot be reached.
    pub fn run(self, out: &mut impl Write, err: &mut impl Write) -> Result<(), Failure> {
        match self {
            Self::Set(verb) => verb.run(out, err),
            Self::List(verb) => verb.run(out),
            Self::Show(verb) => verb.run(out),
            Self::Remove(verb) => verb.run(out),
        }
    }
}

impl Set {
    fn run(self, out: &mut impl Write, err: &mut impl Write) -> Result<(), Failure> {
        let named = |entries: Vec<String>| (!entries.is_empty()).then_some(entries);
        let asked = SetGrant {
            owner: self.owner.to_string(),
            require: self.require.map(|require| require.as_str().to_owned()),
            networks: named(self.networks),
            endpoints: named(self.endpoints),
            models: named(self.models),
            cors_origins: named(self.cors_origins),
            expires_at: self.expires,
            default_key_ttl: self.default_key_ttl,
            max_key_ttl: self.max_key_ttl,
            webhook: self.webhook,
            accept_fail_open: self.accept_fail_open.then_some(true),
        };
        // Before a store is made for it.
        asked.check(Clock::System.now()).map_err(said)?;
        let done = self.reach.any()?.perform(asked)?;
        if self.output == Format::Json {
            return output::json(out, &done);
        }
        output::warn(err, &done.warnings)?;
        print(&[done.grant], self.output, out)
    }
}

impl List {
    fn run(self, out: &mut impl Write) -> Result<(), Failure> {
        let all = self.reach.existing()?.all(|cursor| ListGrants { cursor, limit: Some(page::MAX_LIMIT) })?;
        print(&all, self.output, out)
    }
}

impl Show {
    fn run(self, out: &mut impl Write) -> Result<(), Failure> {
        let shown = self.reach.existing()?.perform(ShowGrants { owner: self.owner.to_string() })?;
        match self.output {
            Format::Json => output::json(out, &shown),
            Format::Table => print(&shown.grants, self.output, out),
        }
    }
}

impl Remove {
    fn run(self, out: &mut impl Write) -> Result<(), Failure> {
        let done = self.reach.existing()?.perform(RemoveGrant { owner: self.owner.to_string() })?;
        match self.output {
            Format::Json => output::json(out, &done)?,
            Format::Table => writeln!(out, "the grant on {} is removed", done.owner)?,
        }
        Ok(())
    }
}

fn print(all: &[grants::Grant], format: Format, out: &mut impl Write) -> Result<(), Failure> {
    if format == Format::Json {
        return output::json(out, &all);
    }
    let or = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let row = |grant: &grants::Grant| {
        vec![
            grant.owner.clone(),
            grant.source.as_str().to_owned(),
            or(&grant.require),
            output::cell(grant.networks.as_ref()),
            output::cell(grant.endpoints.as_ref()),
            output::cell(grant.models.as_ref()),
            or(&grant.expires_at),
            or(&grant.default_key_ttl),
            or(&grant.max_key_ttl),
            or(&grant.webhook),
        ]
    };
    let head = [
        "OWNER",
        "SOURCE",
        "REQUIRE",
        "NETWORKS",
        "ENDPOINTS",
        "MODELS",
        "EXPIRES",
        "DEFAULT TTL",
        "MAX TTL",
        "WEBHOOK",
    ];
    output::table(out, &head, &all.iter().map(row).collect::<Vec<_>>())
}
