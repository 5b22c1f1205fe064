//! The command line of the whole program.

use std::io::Write;

use clap::{Parser, Subcommand};

use crate::cli::output::Failure;
use crate::cli::{
    ca, cert, check, completions, connect, connector, dial, enroll, explain, grant, key, owner, serve, status, store,
    up, webhook,
};

/// A zero-trust overlay gateway for self-hosted LLM backends.
#[derive(Debug, Parser)]
#[command(name = "doorward", version, propagate_version = true, disable_help_subcommand = true)]
pub(super) struct Doorward {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Set everything up on the first run, then serve
    Up(up::Up),
    /// Run the gateway
    Serve(serve::Serve),
    /// Validate a config file and print every problem
    Check(check::Check),
    /// Run a connector: backends of a closed site, dialled out to the gateway
    Connect(connect::Connect),
    /// Listen on this machine for tools that cannot present a certificate
    Dial(dial::Dial),
    /// Ask the running gateway how it is
    Status(status::Status),
    /// The built-in certificate authority
    #[command(subcommand)]
    Ca(ca::Ca),
    /// Certificates for clients, connectors and operators
    #[command(subcommand)]
    Cert(cert::Cert),
    /// Certificates for machines elsewhere, with a bundle that works once
    #[command(subcommand)]
    Enroll(enroll::Enroll),
    /// Virtual keys
    #[command(subcommand)]
    Key(key::Key),
    /// Grants in the store, beside those of the config
    #[command(subcommand)]
    Grant(grant::Grant),
    /// Connectors of a running gateway: their tunnels and backends
    #[command(subcommand)]
    Connector(connector::Connector),
    /// Owners: switched off and on again
    #[command(subcommand)]
    Owner(owner::Owner),
    /// The store of this machine: backups, checks
    #[command(subcommand)]
    Store(store::Store),
    /// Webhooks: who has the last word
    #[command(subcommand)]
    Webhook(webhook::Webhook),
    /// Say whether a caller would be let in, and who decides it
    Explain(explain::Verb),
    /// Print completions for a shell
    Completions(completions::Completions),
}

impl Doorward {
    /// Reads the command line.
    pub(super) fn read() -> Result<Self, clap::Error> {
        Self::try_parse()
    }

    /// Does what the verb says.
    pub(super) fn run(self, out: &mut impl Write, err: &mut impl Write) -> Result<(), Failure> {
        match self.verb {
            Verb::Up(verb) => verb.run(out, err),
            Verb::Serve(verb) => verb.run(out, err),
            Verb::Check(verb) => verb.run(out, err),
            Verb::Connect(verb) => verb.run(out, err),
            Verb::Dial(verb) => verb.run(out),
            Verb::Status(verb) => verb.run(out, err),
            Verb::Ca(verb) => verb.run(out, err),
            Verb::Cert(verb) => verb.run(out, err),
            Verb::Enroll(verb) => verb.run(out, err),
            Verb::Key(verb) => verb.run(out, err),
            Verb::Grant(verb) => verb.run(out, err),
            Verb::Connector(verb) => verb.run(out),
            Verb::Owner(verb) => verb.run(out, err),
            Verb::Store(verb) => verb.run(out, err),
            Verb::Webhook(verb) => verb.run(out, err),
            Verb::Explain(verb) => verb.run(out),
            Verb::Completions(verb) => verb.run(out),
        }
    }
}
