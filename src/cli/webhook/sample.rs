//! `doorward webhook test`: one question about a caller that there is not, and what comes back.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::rand;
use clap::Args;
use serde::Serialize;
use tokio::runtime;
use tokio::time::Instant;

use crate::cli::output::{self, Failure, Format};
use crate::cli::place::Place;
use crate::cli::process::environment;
use crate::clock::Clock;
use crate::config::{self, Config, OnError, Webhook, did_you_mean};
use crate::domain::timestamp::Timestamp;
use crate::telemetry::metrics::Metrics;
use crate::webhook::answer::{Decision, Narrowing, Ruling};
use crate::webhook::hook::{Asking, Holder, Hook, ask_once};
use crate::webhook::question::Question;
use crate::webhook::runner::Runner;
use crate::webhook::trouble::Trouble;

/// Whom the sample is about when a denial is expected: no grant is for it.
const NOBODY: &str = "nobody/knows/this";
/// Whom it is about when no grant names the webhook.
const SOMEBODY: &str = "sample";

/// Asks a webhook about a caller that there is not, signed as every question is.
///
/// The labels of the caller's key say `sample`, so that the webhook can tell. Nothing is remembered, and
/// no request goes anywhere.
#[derive(Debug, Args)]
pub struct Test {
    /// The webhook: NAME of [webhook.NAME]
    #[arg(value_name = "NAME")]
    name: String,
    /// Ask about an owner that nobody knows, and fail unless that is denied
    #[arg(long)]
    deny_sample: bool,
    /// How to print the decision
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
    #[command(flatten)]
    place: Place,
}

impl Test {
    /// Runs the verb.
    ///
    /// # Errors
    ///
    /// When there is no such webhook, it has no answer that counts, or it allows what it should deny.
    pub fn run(self, out: &mut impl Write, err: &mut impl Write) -> Result<(), Failure> {
        let config = self.config()?;
        let webhook = find(&config, &self.name)?;
        let granted =
            config.grants.iter().find(|grant| grant.webhook.as_ref().is_some_and(|hooked| hooked.name == webhook.name));
        if granted.is_none() {
            output::warn(err, &[format!("no grant of the config names webhook {}", self.name)])?;
        }
        let owner = granted.map_or(SOMEBODY, |grant| grant.owner.as_str());
        let owner = if self.deny_sample { NOBODY } else { owner };
        let (asked, took) = ask(&config, webhook, owner)?;
        let decision = asked.map_err(|trouble| failure(webhook, &trouble))?;
        let said = Said::new(webhook, owner, &decision, took);
        match self.output {
            Format::Json => output::json(out, &said)?,
            Format::Table => said.print(out)?,
        }
        match decision.ruling {
            Ruling::Allow(_) if self.deny_sample => Err(Failure::with_hint(
                format!("webhook {} allows {NOBODY}", self.name),
                "what no rule is about should be denied: is everybody allowed?",
            )),
            Ruling::Allow(_) | Ruling::Deny(_) => Ok(()),
        }
    }

    fn config(&self) -> Result<Config, Failure> {
        let file = self.place.existing_config_file()?;
        config::load(&file, &environment)
            .map_err(|problems| Failure::Config { file: file.display().to_string(), problems })
    }
}

fn find<'c>(config: &'c Config, name: &str) -> Result<&'c Arc<Webhook>, Failure> {
    let names = || config.webhooks.iter().map(|webhook| webhook.name.as_str());
    config.webhooks.iter().find(|webhook| webhook.name.as_str() == name).ok_or_else(|| {
        let known = names().collect::<Vec<_>>().join(", ");
        let known = if known.is_empty() { "there is none".to_owned() } else { format!("known: {known}") };
        Failure::with_hint(
            format!("no [webhook.{name}] is in {}{}", config.file.display(), did_you_mean(name, names())),
            known,
        )
    })
}

/// Asks, outside of everything that remembers and bounds; and tells how long that took.
fn ask(config: &Config, webhook: &Arc<Webhook>, owner: &str) -> Result<(Result<Decision, Trouble>, Duration), Failure> {
    let clock = Clock::System;
    let figures = Metrics::default().webhooks.of(webhook.name.as_str());
    let hook = Hook::new(webhook, Arc::new(Runner::start()?), clock.clone(), figures)
        .map_err(|why| Failure::new(format!("webhook {}: {why}", webhook.name)))?;
    let asking = sample(config, webhook, owner, clock.now())?;
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let begun = Instant::now();
    let asked = runtime.block_on(ask_once(&hook, &asking));
    let took = begun.elapsed();
    // A name that is still being looked up is not waited for.
    runtime.shutdown_background();
    Ok((asked, took))
}

/// A question as the gateway would ask it, about a chat with the first model.
fn sample(config: &Config, webhook: &Webhook, owner: &str, now: Timestamp) -> Result<Asking, Failure> {
    let include = &webhook.include;
    let headers: Vec<_> = include.headers.iter().map(|name| (name.as_str(), b"sample".to_vec())).collect();
    let body = r#"{"messages":[{"role":"user","content":"sample"}]}"#;
    let backends: Vec<_> = config.backends.iter().map(|backend| backend.name.as_str()).collect();
    let told = Question {
        gateway_id: &config.gateway_id,
        config_revision: 1,
        kind: "key",
        owner: Some(owner),
        identity_owner: None,
        key_id: Some("000000000000"),
        identity: None,
        certificate_serial: None,
        certificate_expires_at: None,
        key_expires_at: None,
        labels: &[("sample", "true")],
        ip: "127.0.0.1",
        tls: "1.3",
        kx: "X25519MLKEM768",
        sni: config.listen.names.api.first().map(String::as_str),
        method: "POST",
        dialect: "openai",
        endpoint: "openai.chat_completions",
        model: config.models.first().map_or("sample", |model| &model.name),
        stream: false,
        max_tokens: Some(16),
        headers: &headers,
        content_length: include.content_length.then_some(body.len() as u64),
        body: include.body.then_some(body),
        candidates: &backends,
    }
    .told();
    let request_id = request_id(now)?;
    Ok(Asking {
        told: Arc::new(told),
        holder: Arc::new(Holder { key: None, other: None, owner: None, identity_owner: None }),
        again: 0,
        request_id: request_id.into(),
        candidates: backends.into_iter().map(Arc::from).collect(),
        credential_ends: Timestamp::FAR_FUTURE,
        anew: true,
    })
}

fn request_id(now: Timestamp) -> Result<String, Failure> {
    let mut random = [0; 10];
    rand::fill(&mut random).map_err(|_| Failure::new("the operating system gave no random bytes"))?;
    let millis = u64::try_from(now.as_millis()).unwrap_or(0);
    Ok(uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid().hyphenated().to_string())
}

fn failure(webhook: &Webhook, trouble: &Trouble) -> Failure {
    let consequence = match webhook.on_error {
        OnError::Deny => "requests are refused (authorization_unavailable) while this is so: on_error = \"deny\"",
        OnError::Stale => "what was allowed before counts for stale_max while this is so: on_error = \"stale\"",
        OnError::Allow => "requests pass unasked where a grant says accept_fail_open = true: on_error = \"allow\"",
    };
    Failure::with_hint(format!("webhook {}: {trouble}", webhook.name), consequence)
}

/// What would be decided. Field names are a contract.
#[derive(Debug, Serialize)]
struct Said<'s> {
    webhook: &'s str,
    url: String,
    owner: &'s str,
    decision: &'static str,
    /// The caller's, of a denial; as the two that follow.
    status: Option<u16>,
    public_message: Option<&'s str>,
    retry_after_s: Option<u64>,
    reason: Option<&'s str>,
    ttl_s: Option<u64>,
    /// Those that count.
    overrides: Overrides,
    took_ms: u64,
}

#[derive(Default, Debug, Serialize)]
struct Overrides {
    #[serde(skip_serializing_if = "Option::is_none")]
    max_tokens: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deadline_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    backend: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    labels: Vec<String>,
}

impl Overrides {
    fn new(narrowing: &Narrowing) -> Self {
        let labels = narrowing.labels.iter().flat_map(|labels| labels.iter());
        Self {
            max_tokens: narrowing.max_tokens,
            deadline_ms: narrowing.deadline.map(millis),
            expires_at: narrowing.expires_at.map(|at| at.to_string()),
            backend: narrowing.backend.as_deref().map(str::to_owned),
            labels: labels.map(|(name, value)| format!("wh.{name}={value}")).collect(),
        }
    }
}

impl<'s> Said<'s> {
    fn new(webhook: &'s Webhook, owner: &'s str, decision: &'s Decision, took: Duration) -> Self {
        let (overrides, denial) = match &decision.ruling {
            Ruling::Allow(narrowing) => (Overrides::new(narrowing), None),
            Ruling::Deny(denial) => (Overrides::default(), Some(denial)),
        };
        let url = &webhook.url;
        // A query may hold what is nobody's business.
        let path = url.path.split('?').next().unwrap_or_default();
        Self {
            webhook: webhook.name.as_str(),
            url: format!("{}://{}{path}", if url.https { "https" } else { "http" }, url.authority()),
            owner,
            decision: if denial.is_some() { "deny" } else { "allow" },
            status: denial.map(|denial| denial.status),
            public_message: denial.map(|denial| &*denial.message),
            retry_after_s: denial.and_then(|denial| denial.retry_after).map(|wait| wait.as_secs()),
            reason: decision.reason.as_deref(),
            ttl_s: decision.ttl.map(|ttl| ttl.as_secs()),
            overrides,
            took_ms: millis(took),
        }
    }

    fn print(&self, out: &mut impl Write) -> Result<(), Failure> {
        writeln!(
            out,
            "{} for {}: webhook {} at {}, in {} ms",
            self.decision, self.owner, self.webhook, self.url, self.took_ms
        )?;
        let overrides = &self.overrides;
        let number = |number: Option<u64>| number.map(|number| number.to_string());
        let lines = [
            ("status", self.status.map(|status| status.to_string())),
            ("public message", self.public_message.map(str::to_owned)),
            ("retry after, s", number(self.retry_after_s)),
            ("reason", self.reason.map(str::to_owned)),
            ("remembered, s", number(self.ttl_s)),
            ("max_tokens", number(overrides.max_tokens)),
            ("deadline, ms", number(overrides.deadline_ms)),
            ("expires at", overrides.expires_at.clone()),
            ("backend", overrides.backend.clone()),
            ("labels", Some(overrides.labels.join(", ")).filter(|labels| !labels.is_empty())),
        ];
        for (name, value) in lines {
            if let Some(value) = value {
                writeln!(out, "  {name:<14}  {value}")?;
            }
        }
        Ok(())
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
