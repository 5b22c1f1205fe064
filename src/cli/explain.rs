//! `doorward explain`

use std::io::Write;
use std::net::IpAddr;

use clap::{ArgGroup, Args};

use crate::cli::output::{self, Failure, Format};
use crate::cli::reach::Reach;
use crate::manage::explain::{CheckSaid, Explain, Explained, Said};

/// Says whether a caller would be let in, and who decides it: every check of the gate in its order,
/// with each grant and key that has a say.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("caller").required(true).multiple(true).args(["key", "identity"]))]
pub struct Verb {
    /// The caller's key, by its public id
    #[arg(long, value_name = "ID")]
    key: Option<String>,
    /// The identity that its certificate proves, such as spiffe://corp.example/client/alice
    #[arg(long, value_name = "URI")]
    identity: Option<String>,
    /// The address that it comes from
    #[arg(long, value_name = "IP")]
    from: IpAddr,
    /// The endpoint that it calls, such as openai.chat_completions
    #[arg(long, value_name = "NAME")]
    endpoint: String,
    /// The model that it names
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// When: a span from now (30d) or a time (2027-01-31T00:00:00Z); now, when absent
    #[arg(long, value_name = "WHEN")]
    at: Option<String>,
    /// How to print the result
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
    #[command(flatten)]
    reach: Reach,
}

impl Verb {
    /// Runs the verb.
    ///
    /// # Errors
    ///
    /// When the question makes no sense, or the store or the gateway cannot be reached.
    pub fn run(self, out: &mut impl Write) -> Result<(), Failure> {
        let question = Explain {
            key: self.key,
            identity: self.identity,
            from: self.from.to_string(),
            endpoint: self.endpoint,
            model: self.model,
            at: self.at,
        };
        let explained = self.reach.existing()?.perform(question)?;
        match self.output {
            Format::Json => output::json(out, &explained),
            Format::Table => print(&explained, out),
        }
    }
}

fn print(explained: &Explained, out: &mut impl Write) -> Result<(), Failure> {
    let rows: Vec<_> = explained.checks.iter().flat_map(rows).collect();
    output::table(out, &["CHECK", "NAME", "RESULT", "BY", "SAYS"], &rows)?;
    writeln!(out)?;
    match (&explained.status, &explained.code, &explained.reason) {
        (Some(status), Some(code), Some(reason)) => writeln!(out, "refused: {status} {code}: {reason}")?,
        _ => writeln!(out, "allowed{}", explained.until.as_ref().map(|at| format!(" until {at}")).unwrap_or_default())?,
    }
    for webhook in explained.webhooks.iter().filter(|_| explained.allowed) {
        writeln!(out, "webhook: {} is asked", webhook.name)?;
    }
    for target in &explained.targets {
        writeln!(out, "target: {} as {}", target.backend, target.model)?;
    }
    Ok(())
}

/// One row for each who has a say; one at least.
fn rows(check: &CheckSaid) -> Vec<Vec<String>> {
    let result = if check.passed { "passed" } else { "refused" };
    let mut rows: Vec<_> =
        check.said.iter().map(|said| vec![String::new(), String::new(), String::new(), by(said), says(said)]).collect();
    if rows.is_empty() {
        rows.push(vec![String::new(), String::new(), String::new(), "-".to_owned(), "-".to_owned()]);
    }
    for (cell, text) in
        rows.first_mut().into_iter().flatten().zip([check.number.to_string(), check.name.clone(), result.to_owned()])
    {
        *cell = text;
    }
    rows
}

fn by(said: &Said) -> String {
    match (&said.grant, &said.key, said.line) {
        (Some(grant), _, Some(line)) => format!("grant {grant} (config, line {line})"),
        (Some(grant), _, None) => format!("grant {grant} (store)"),
        (None, Some(key), _) => format!("key {key}"),
        (None, None, _) => "-".to_owned(),
    }
}

fn says(said: &Said) -> String {
    let verdict = if said.admits { "" } else { ": refuses" };
    format!("{} {}{verdict}", said.setting, said.words.join(","))
}
