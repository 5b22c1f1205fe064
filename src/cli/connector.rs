//! `doorward connector`

use std::io::Write;

use clap::{Args, Subcommand};

use crate::cli::output::{self, Failure, Format};
use crate::cli::reach::Reach;
use crate::domain::identity::IdentityName;
use crate::manage::connectors::{self, DrainConnector, EndedTunnels, KickConnector, ListConnectors};
use crate::manage::page;

/// Connectors of a running gateway.
#[derive(Debug, Subcommand)]
pub enum Connector {
    /// List connectors, their backends and their tunnels
    List(List),
    /// End a connector's tunnels after the requests under way; it dials again
    Drain(End),
    /// End a connector's tunnels at once; it dials again, unless its certificate is revoked
    Kick(End),
}

/// Lists connectors, by name.
#[derive(Debug, Args)]
pub struct List {
    /// How to print the result
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
    #[command(flatten)]
    reach: Reach,
}

/// Which connector.
#[derive(Debug, Args)]
pub struct End {
    /// The name in its certificate, such as site-a
    #[arg(value_name = "NAME", value_parser = IdentityName::parse)]
    connector: IdentityName,
    /// How to print the result
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
    #[command(flatten)]
    reach: Reach,
}

impl Connector {
    /// Runs the verb.
    ///
    /// # Errors
    ///
    /// When the gateway cannot be reached, or no tunnel of the connector is open.
    pub fn run(self, out: &mut impl Write) -> Result<(), Failure> {
        match self {
            Self::List(verb) => verb.run(out),
            Self::Drain(verb) => {
                let operation = DrainConnector { connector: verb.connector.as_str().to_owned() };
                print(&verb.reach.running()?.perform(operation)?, verb.output, "drain", out)
            }
            Self::Kick(verb) => {
                let operation = KickConnector { connector: verb.connector.as_str().to_owned() };
                print(&verb.reach.running()?.perform(operation)?, verb.output, "close", out)
            }
        }
    }
}

fn print(done: &EndedTunnels, format: Format, what: &str, out: &mut impl Write) -> Result<(), Failure> {
    if format == Format::Json {
        return output::json(out, done);
    }
    let tunnels = usize::try_from(done.tunnels).unwrap_or(usize::MAX);
    writeln!(out, "{} of {} {what}", output::count(tunnels, "tunnel"), done.connector)?;
    Ok(())
}

impl List {
    fn run(self, out: &mut impl Write) -> Result<(), Failure> {
        let all = self.reach.running()?.all(|cursor| ListConnectors { cursor, limit: Some(page::MAX_LIMIT) })?;
        if self.output == Format::Json {
            return output::json(out, &all);
        }
        let rows: Vec<_> = all.iter().flat_map(rows).collect();
        output::table(out, &["CONNECTOR", "STATE", "ADDRESS", "VERSION", "RTT", "STREAMS", "BACKENDS"], &rows)
    }
}

/// A row for each tunnel; one for a connector that has none.
fn rows(connector: &connectors::Connector) -> Vec<Vec<String>> {
    let backends: Vec<_> = connector.backends.iter().map(|it| format!("{} {}", it.name, it.state)).collect();
    let backends = if backends.is_empty() { "-".to_owned() } else { backends.join(", ") };
    let row = |cells: [String; 5]| {
        let mut row = vec![connector.connector.clone()];
        row.extend(cells);
        row.push(backends.clone());
        row
    };
    if connector.tunnels.is_empty() {
        let none = || "-".to_owned();
        return vec![row(["not connected".to_owned(), none(), none(), none(), none()])];
    }
    let tunnels = connector.tunnels.iter().map(|tunnel| {
        row([
            if tunnel.leaving { "leaving" } else { "connected" }.to_owned(),
            tunnel.address.clone(),
            tunnel.version.clone(),
            tunnel.rtt_micros.map_or_else(|| "-".to_owned(), |rtt| format!("{}.{:03} ms", rtt / 1000, rtt % 1000)),
            tunnel.streams.to_string(),
        ])
    });
    tunnels.collect()
}
