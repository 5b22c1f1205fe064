//! The command line: the only place that puts the parts together.
//!
//! Rules for all output: results go to stdout and everything else to stderr; `--output json` is
//! one JSON document with stable names; errors say what was wrong and what to do (`hint:`), begin
//! with `error:`, and end without a full stop; exit 0 is done, 1 failed, 2 wrong usage. A secret
//! is never an argument.

pub mod admin_api;
pub mod ca;
pub mod cert;
pub mod check;
pub mod completions;
pub mod connect;
pub mod connector;
pub mod desk;
pub mod dial;
pub mod discover;
pub mod enroll;
pub mod explain;
pub mod grant;
pub mod inspect;
pub mod join;
pub mod key;
pub mod output;
pub mod owner;
pub mod place;
pub mod process;
pub mod reach;
pub mod remote;
pub mod renew;
pub mod root_key;
pub mod serve;
pub mod server;
pub mod status;
pub mod store;
pub mod up;
pub mod usage;
pub mod webhook;

use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::cli::output::Failure;

/// A zero-trust overlay gateway for self-hosted LLM backends.
#[derive(Debug, Parser)]
#[command(name = "doorward", version, propagate_version = true, disable_help_subcommand = true)]
struct Doorward {
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

const WRONG_USAGE: u8 = 2;

/// Reads the command line, does what it says, and reports.
pub fn main(out: &mut impl Write, err: &mut impl Write) -> ExitCode {
    let doorward = match Doorward::try_parse() {
        Ok(doorward) => doorward,
        Err(error) => {
            // Help and version are results; wrong usage is not.
            let code = if error.use_stderr() { ExitCode::from(WRONG_USAGE) } else { ExitCode::SUCCESS };
            let _ = error.print().is_ok();
            return code;
        }
    };
    let result = match doorward.verb {
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
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // A reader that has enough (`| head`) is no failure of ours to report.
        Err(Failure::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(failure) => {
            let _ = write!(err, "{failure}").is_ok();
            if matches!(failure, Failure::Usage(_)) { ExitCode::from(WRONG_USAGE) } else { ExitCode::FAILURE }
        }
    }
}
