//! `doorward status`

use std::collections::BTreeMap;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use tokio::runtime;

use crate::cli::output::{self, Failure, Format};
use crate::cli::place::find;
use crate::cli::process::environment;
use crate::config;

const TIMEOUT: Duration = Duration::from_secs(5);

/// Asks the running gateway how it is.
#[derive(Debug, Args)]
pub struct Status {
    /// Config file [default: $DOORWARD_CONFIG, ./doorward.toml, /etc/doorward/doorward.toml]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// How to print the result
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
}

#[derive(Debug, Serialize)]
struct Report {
    admin: SocketAddr,
    ready: bool,
    state: String,
    connections: u64,
    requests_in_flight: u64,
    tunnels: u64,
    keys: u64,
    requests: BTreeMap<String, u64>,
    records_dropped: u64,
    callers_share_an_address: bool,
}

impl Status {
    /// Runs the verb.
    ///
    /// # Errors
    ///
    /// When the gateway does not answer or is not ready.
    pub fn run(self, out: &mut impl Write, err: &mut impl Write) -> Result<(), Failure> {
        let file = find(self.config.as_deref())?;
        let config = config::load(&file, &environment)
            .map_err(|problems| Failure::Config { file: file.display().to_string(), problems })?;
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let report = runtime.block_on(ask(config.admin)).map_err(|error| {
            Failure::with_hint(
                format!("no gateway answers at {}: {}", config.admin, output::causes(&error.without_url())),
                "start it with `doorward serve`",
            )
        })?;
        match self.output {
            Format::Json => output::json(out, &report)?,
            Format::Table => {
                let mut rows = vec![
                    vec!["state".to_owned(), report.state.clone()],
                    vec!["connections".to_owned(), report.connections.to_string()],
                    vec!["requests in flight".to_owned(), report.requests_in_flight.to_string()],
                    vec!["tunnels".to_owned(), report.tunnels.to_string()],
                    vec!["keys".to_owned(), report.keys.to_string()],
                    vec!["records dropped".to_owned(), report.records_dropped.to_string()],
                ];
                rows.extend(
                    report.requests.iter().map(|(what, number)| vec![format!("requests {what}"), number.to_string()]),
                );
                output::table(out, &["WHAT", "VALUE"], &rows)?;
            }
        }
        if report.callers_share_an_address {
            writeln!(
                err,
                "warning: all callers come from one address: something in front hides theirs, and networks decide nothing"
            )?;
            writeln!(err, "hint: docs/addresses.md tells what to do, such as listen.proxy_protocol")?;
        }
        if report.ready { Ok(()) } else { Err(Failure::new(format!("the gateway is {}", report.state))) }
    }
}

async fn ask(admin: SocketAddr) -> Result<Report, reqwest::Error> {
    let client = reqwest::Client::builder().no_proxy().timeout(TIMEOUT).build()?;
    let ready = client.get(format!("http://{admin}/readyz")).send().await?;
    let is_ready = ready.status().is_success();
    let state = ready.text().await?.trim().to_owned();
    let metrics = client.get(format!("http://{admin}/metrics")).send().await?.error_for_status()?.text().await?;
    let value = |name: &str| {
        let lines = metrics.lines().filter_map(|line| line.split_once(' '));
        lines.filter(|(series, _)| *series == name).find_map(|(_, value)| value.parse().ok()).unwrap_or(0)
    };
    Ok(Report {
        admin,
        ready: is_ready,
        state,
        connections: value("doorward_connections"),
        requests_in_flight: value("doorward_requests_in_flight"),
        tunnels: value("doorward_tunnels"),
        keys: value("doorward_keys"),
        requests: by_outcome(&metrics),
        records_dropped: value("doorward_records_dropped"),
        callers_share_an_address: value("doorward_callers_share_an_address") > 0,
    })
}

/// Requests by outcome, or by code where they were refused.
fn by_outcome(metrics: &str) -> BTreeMap<String, u64> {
    let mut sums = BTreeMap::new();
    for line in metrics.lines() {
        let Some((labels, number)) =
            line.strip_prefix("doorward_requests_total{").and_then(|rest| rest.split_once("} "))
        else {
            continue;
        };
        let label = |name: &str| {
            labels
                .split(',')
                .find_map(|pair| pair.strip_prefix(name)?.strip_prefix("=\"")?.strip_suffix('"'))
                .unwrap_or("")
        };
        let what = if label("code").is_empty() { label("outcome") } else { label("code") };
        *sums.entry(what.to_owned()).or_insert(0) += number.parse().unwrap_or(0);
    }
    sums
}
