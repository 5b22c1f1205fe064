//! The command line of the program that is built without the gateway: what a machine beside a backend,
//! or that of a developer, needs.

use std::io::Write;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Parser, Subcommand};

use crate::cli::output::Failure;
use crate::cli::{completions, connect, dial, join, renew};

/// A connector of Doorward, the zero-trust overlay gateway for self-hosted LLM backends.
#[derive(Debug, Parser)]
#[command(name = "doorward", version = VERSION, propagate_version = true, disable_help_subcommand = true)]
pub(super) struct Doorward {
    #[command(subcommand)]
    verb: Verb,
}

const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (connector build, without the gateway)");

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run a connector: backends of a closed site, dialled out to the gateway
    Connect(connect::Connect),
    /// Listen on this machine for tools that cannot present a certificate
    Dial(dial::Dial),
    /// The certificate of this machine
    #[command(subcommand)]
    Cert(Cert),
    /// A certificate for this machine, with a bundle that works once
    #[command(subcommand)]
    Enroll(Enroll),
    /// Print completions for a shell
    Completions(completions::Completions),
}

#[derive(Debug, Subcommand)]
enum Cert {
    /// Replace a certificate and its key by new ones
    Renew(renew::Renew),
}

#[derive(Debug, Subcommand)]
enum Enroll {
    /// Turn a bundle into a key and a certificate
    Join(join::Join),
}

impl Doorward {
    /// Reads the command line. Who asks for a verb of the gateway is told why it is not here.
    pub(super) fn read() -> Result<Self, clap::Error> {
        Self::try_parse().map_err(|mut error| {
            if error.kind() == ErrorKind::InvalidSubcommand {
                let why = "this is the connector build of doorward; verbs of the gateway are in the whole program";
                drop(error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![why.into()])));
            }
            error
        })
    }

    /// Does what the verb says.
    pub(super) fn run(self, out: &mut impl Write, err: &mut impl Write) -> Result<(), Failure> {
        match self.verb {
            Verb::Connect(verb) => verb.run(out, err),
            Verb::Dial(verb) => verb.run(out),
            Verb::Cert(Cert::Renew(verb)) => verb.run(out),
            Verb::Enroll(Enroll::Join(verb)) => verb.run(out, err),
            Verb::Completions(verb) => verb.run(out),
        }
    }
}
