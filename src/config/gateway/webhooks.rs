//! `[webhook.NAME]`: who has the last word, and what happens when there is none.

use std::net::IpAddr;
use std::time::Duration;

use http::HeaderName;
use toml::de::DeValue;

use crate::config::BackendTls;
use crate::config::connector::parse_proxy;
use crate::config::document::{Place, Table, Value};
use crate::config::gateway::grants::{PlacedGrant, optional};
use crate::config::gateway::listen::is_empty_list;
use crate::config::suggest::did_you_mean;
use crate::config::upstream::read_tls;
use crate::domain::gateway_address::GatewayAddress;
use crate::domain::network::Networks;
use crate::domain::notification::Kind;
use crate::domain::webhook::WebhookName;
use crate::webhook::address::Reach;
use crate::webhook::sign::SigningSecret;
use crate::webhook::url::WebhookUrl;

/// A `[webhook.NAME]`. Defaults are those of the example config.
#[derive(PartialEq, Eq, Debug)]
pub struct Webhook {
    /// Its name in grants, logs and records.
    pub name: WebhookName,
    /// Where it is.
    pub url: WebhookUrl,
    /// Which addresses that may be at.
    pub reach: Reach,
    /// For https.
    pub tls: BackendTls,
    /// The proxy that connects to it, asked with CONNECT; it looks the name up then.
    pub proxy: Option<GatewayAddress>,
    /// What is sent is signed with each of these; never empty, the newest first.
    pub secrets: Vec<SigningSecret>,
    /// How long the whole exchange may take.
    pub timeout: Duration,
    /// How long the connection may take, TCP and TLS.
    pub connect_timeout: Duration,
    /// What happens when there is no answer that counts.
    pub on_error: OnError,
    /// With [`OnError::Stale`]: how long after its time an allow may still be relied on.
    pub stale_max: Duration,
    /// How long an allow is remembered at most.
    pub cache_allow: Duration,
    /// How long a denial is remembered at most.
    pub cache_deny: Duration,
    /// How many questions may be under way at once.
    pub max_in_flight: u32,
    /// What it is told beyond the usual.
    pub include: Include,
    /// In which ways it may narrow what it allows.
    pub allow_overrides: Vec<Override>,
    /// How often it is asked again while a reply streams; `None` when it is not.
    pub revalidate: Option<Duration>,
    /// What it is told of after it has happened.
    pub events: Vec<Kind>,
}

/// What happens when a webhook has no answer that counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OnError {
    /// The request is refused.
    Deny,
    /// What it allowed a while ago still holds; else the request is refused.
    Stale,
    /// The request passes, where the grant accepts that.
    Allow,
}

impl OnError {
    /// The word in config.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Deny => "deny",
            Self::Stale => "stale",
            Self::Allow => "allow",
        }
    }
}

/// What a webhook is told beyond the usual.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Include {
    /// These headers of the request.
    pub headers: Vec<HeaderName>,
    /// How long the body is.
    pub content_length: bool,
    /// The body itself.
    pub body: bool,
}

/// A way in which a webhook may narrow what it allows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Override {
    /// Fewer tokens.
    MaxTokens,
    /// Less time for the reply.
    DeadlineMs,
    /// An end of the reply.
    ExpiresAt,
    /// One of the backends.
    Backend,
    /// Labels for the record.
    Labels,
}

impl Override {
    /// Every way.
    pub const ALL: [Self; 5] = [Self::MaxTokens, Self::DeadlineMs, Self::ExpiresAt, Self::Backend, Self::Labels];

    /// The word in config, and in answers.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::MaxTokens => "max_tokens",
            Self::DeadlineMs => "deadline_ms",
            Self::ExpiresAt => "expires_at",
            Self::Backend => "backend",
            Self::Labels => "labels",
        }
    }
}

/// Most secrets of one webhook: a rotation needs two.
const MAX_SECRETS: usize = 4;
/// Most headers that a webhook is told.
const MAX_HEADERS: usize = 16;
const SECOND: Duration = Duration::from_secs(1);
const STALE_MAX: Duration = Duration::from_secs(300);
const DAY: Duration = Duration::from_secs(86_400);

/// Headers whose values are credentials: no webhook is told these.
const CREDENTIALS: [&str; 6] = ["authorization", "proxy-authorization", "x-api-key", "api-key", "cookie", "set-cookie"];

/// A webhook with the place of its section.
pub(super) struct PlacedWebhook<'d> {
    pub(super) webhook: Webhook,
    place: Place<'d>,
}

/// The names of the sections, whatever is in them.
pub(super) fn webhook_names(value: Option<&Value<'_>>) -> Vec<String> {
    let sections = value.and_then(|value| value.raw().as_table());
    sections.map(|sections| sections.keys().map(|name| name.get_ref().to_string()).collect()).unwrap_or_default()
}

/// Reads every `[webhook.NAME]`. The second list has the names of those too that cannot be used, so
/// that a mistake in a webhook is not reported again at each grant.
pub(super) fn read_webhooks<'d>(value: Option<&Value<'d>>) -> (Option<Vec<PlacedWebhook<'d>>>, Vec<String>) {
    let Some(value) = value else { return (Some(Vec::new()), Vec::new()) };
    if !value.raw().is_table() {
        if value.raw().is_array() {
            value.wrong("a webhook has its name in its heading: write [webhook.NAME]");
        } else {
            value.mistyped::<()>("a table: write [webhook.NAME]");
        }
        return (None, Vec::new());
    }
    let names = webhook_names(Some(value));
    let read = value.named().into_iter().zip(&names).map(|(section, name)| read_webhook(&section, name));
    let read: Vec<Option<PlacedWebhook<'d>>> = read.collect();
    (read.into_iter().collect(), names)
}

fn read_webhook<'d>(section: &Value<'d>, name: &str) -> Option<PlacedWebhook<'d>> {
    if !section.raw().is_table() {
        section.wrong(format!("is no section: a webhook is written [webhook.{name}], with url and secrets"));
        return None;
    }
    let name = WebhookName::parse(name).map_err(|why| section.wrong(why)).ok();
    section.table(|table| {
        let url_setting = table.require("url", "such as \"https://iam.corp.example/doorward\"");
        let url = url_setting.as_ref().and_then(|value| value.parsed(WebhookUrl::parse));
        let tls = read_tls(table);
        let secrets = table.require("secrets", "a list of \"whsec_…\" (Standard Webhooks), the newest first");
        let secrets = secrets.and_then(|value| read_secrets(&value));
        let span = |name, default, least, most| table.get(name).map_or(Some(default), |v| v.span(least..=most));
        let timeout = span("timeout", SECOND, Duration::from_millis(50), 10 * SECOND);
        let connect = span("connect_timeout", Duration::from_millis(300), Duration::from_millis(10), 10 * SECOND);
        let words = [OnError::Deny, OnError::Stale, OnError::Allow].map(|on_error| (on_error.as_str(), on_error));
        let on_error = table.get("on_error").map_or(Some(OnError::Deny), |value| value.choice(&words));
        let stale_max = span("stale_max", STALE_MAX, SECOND, DAY);
        let said = stale_max != Some(STALE_MAX);
        if let (Some(setting), Some(OnError::Deny | OnError::Allow), true) = (table.get("stale_max"), on_error, said) {
            setting.place.warn("has no effect: it goes with on_error = \"stale\"");
        }
        let cache_allow = span("cache_allow", 30 * SECOND, Duration::ZERO, 300 * SECOND);
        let cache_deny = span("cache_deny", 5 * SECOND, Duration::ZERO, 60 * SECOND);
        let max_in_flight = table.get("max_in_flight").map_or(Some(256), |value| value.number(1..=10_000));
        let include = table.get("include").map_or_else(|| Some(Include::default()), |value| read_include(&value));
        let allow_networks =
            optional(table.get("allow_networks").filter(|value| !is_empty_list(value.raw())), read_networks);
        let overrides = table.get("allow_overrides").map_or(Some(Vec::new()), |value| read_overrides(&value));
        let revalidate = optional(table.get("revalidate"), read_revalidate).map(Option::flatten);
        let events = table.get("events").map_or(Some(Vec::new()), |value| read_events(&value));
        let proxy = table.get("proxy").map_or(Some(None), |value| value.parsed(parse_proxy).map(Some));

        let (url, allow_networks) = (url?, allow_networks?);
        check_url(table, &url, allow_networks.as_ref(), tls.as_ref());
        let webhook = Webhook {
            name: name?,
            reach: Reach::new(&url, allow_networks),
            url,
            tls: tls?,
            proxy: proxy?,
            secrets: secrets?,
            timeout: timeout?,
            connect_timeout: connect?,
            on_error: on_error?,
            stale_max: stale_max?,
            cache_allow: cache_allow?,
            cache_deny: cache_deny?,
            max_in_flight: max_in_flight?,
            include: include?,
            allow_overrides: overrides?,
            revalidate: revalidate?,
            events: events?,
        };
        Some(PlacedWebhook { webhook, place: section.place.clone() })
    })
}

/// What only several settings together can get wrong.
fn check_url(table: &Table<'_>, url: &WebhookUrl, allow: Option<&Networks>, tls: Option<&BackendTls>) {
    if !url.https && tls.is_some() {
        for name in ["ca_file", "client_certificate", "client_key"] {
            if let Some(setting) = table.get(name) {
                setting.wrong("goes with an https URL; this one is http, and nothing would be encrypted");
            }
        }
    }
    if let (false, Some(setting)) = (url.https, table.get("proxy")) {
        setting.wrong("goes with an https URL; http is for this machine, which needs no proxy");
    }
    let Ok(address) = url.host.parse::<IpAddr>() else { return };
    if let (Err(why), Some(setting)) = (Reach::new(url, allow.cloned()).check(address), table.get("url")) {
        setting.wrong(format!("{address} is {why}: list its network in allow_networks if that is meant"));
    }
}

fn read_secrets(value: &Value<'_>) -> Option<Vec<SigningSecret>> {
    let secrets = value.each("without a secret nobody could tell who asks", |entry| {
        let text = entry.text()?;
        let secret = SigningSecret::parse(&text.text).map_err(|why| entry.misfit(&text, &why)).ok()?;
        entry.warn_if_literal(&text);
        Some(secret)
    })?;
    if secrets.len() > MAX_SECRETS {
        return value.refuse(&format!("has {} secrets, {MAX_SECRETS} are enough to rotate", secrets.len()));
    }
    let twice = |(index, secret): (usize, &SigningSecret)| secrets.iter().skip(index + 1).any(|other| other == secret);
    if secrets.iter().enumerate().any(twice) {
        return value.refuse("has one secret twice");
    }
    Some(secrets)
}

fn read_include(value: &Value<'_>) -> Option<Include> {
    let entries = value.entries()?;
    let mut include = Include::default();
    let mut whole = true;
    for entry in &entries {
        let Some(word) = entry.text() else {
            whole = false;
            continue;
        };
        let read = match word.text.as_str() {
            "body" => {
                include.body = true;
                entry.place.warn("prompts are sent to the webhook, and no decision is cached");
                Ok(())
            }
            "content_length" => {
                include.content_length = true;
                Ok(())
            }
            other => read_header(other).map(|name| {
                if !include.headers.contains(&name) {
                    include.headers.push(name);
                }
            }),
        };
        if let Err(why) = read {
            entry.misfit(&word, &why);
            whole = false;
        }
    }
    if include.headers.len() > MAX_HEADERS {
        return value.refuse(&format!("names {} headers; at most {MAX_HEADERS} are sent", include.headers.len()));
    }
    whole.then_some(include)
}

fn read_header(word: &str) -> Result<HeaderName, String> {
    let Some(name) = word.strip_prefix("headers:") else {
        let hint = did_you_mean(word, ["body", "content_length", "headers:x-project"]);
        return Err(format!("{word:?} is not one of \"headers:NAME\", \"content_length\", \"body\"{hint}"));
    };
    if CREDENTIALS.iter().any(|credential| name.eq_ignore_ascii_case(credential)) {
        return Err(format!("{name} carries credentials, and webhooks are never told these"));
    }
    HeaderName::from_bytes(name.as_bytes()).map_err(|_| format!("{name:?} is not the name of a header"))
}

fn read_networks(value: &Value<'_>) -> Option<Networks> {
    let networks = value.list(Networks::parse)?;
    if networks == Networks::Any {
        return value.refuse("\"*\" would let whoever answers for the name lead anywhere; list the networks");
    }
    Some(networks)
}

fn read_overrides(value: &Value<'_>) -> Option<Vec<Override>> {
    let words = Override::ALL.map(|kind| (kind.as_str(), kind));
    let entries = value.entries()?;
    let read: Vec<Option<Override>> = entries.iter().map(|entry| entry.choice(&words)).collect();
    read.into_iter().collect()
}

fn read_events(value: &Value<'_>) -> Option<Vec<Kind>> {
    let parse = |text: &str| {
        Kind::parse(text).map_err(|why| format!("{why}{}", did_you_mean(text, Kind::ALL.map(Kind::as_str))))
    };
    let entries = value.entries()?;
    let read = |entry: &Value<'_>| {
        let kind = entry.parsed(parse)?;
        if kind.is_reserved() {
            entry.place.warn("is not sent in this version");
        }
        Some(kind)
    };
    let read: Vec<Option<Kind>> = entries.iter().map(read).collect();
    read.into_iter().collect()
}

fn read_revalidate(value: &Value<'_>) -> Option<Option<Duration>> {
    if matches!(value.raw(), DeValue::String(text) if text.as_ref() == "off") {
        return Some(None);
    }
    value.span(30 * SECOND..=DAY).map(Some)
}

/// Checks that every webhook that a grant names is there: of grants that cannot be read otherwise too.
pub(super) fn check_names(grants: &[Value<'_>], names: &[String]) {
    for setting in grants.iter().filter_map(|grant| setting_of(grant, "webhook")) {
        let Some(name) = setting.raw().as_str().filter(|name| WebhookName::parse(name).is_ok()) else { continue };
        if !names.iter().any(|known| known == name) {
            let hint = did_you_mean(name, names.iter().map(String::as_str));
            let known =
                if names.is_empty() { "there is none".to_owned() } else { format!("known: {}", names.join(", ")) };
            setting.wrong(format!("no [webhook.{name}] is there{hint} ({known})"));
        }
    }
}

/// A setting of a section that may be no table.
fn setting_of<'d>(section: &Value<'d>, name: &str) -> Option<Value<'d>> {
    let keys = section.raw().as_table()?.keys();
    keys.zip(section.named()).find(|(key, _)| key.get_ref() == name).map(|(_, value)| value)
}

/// Warns where what happens when a webhook fails is not what both it and a grant say.
pub(super) fn doubt(grants: &[PlacedGrant<'_>], webhooks: &[PlacedWebhook<'_>]) {
    let mut accepted: Vec<&str> = Vec::new();
    for placed in grants {
        let (Some(hooked), Some(setting)) = (&placed.grant.webhook, &placed.webhook) else { continue };
        let named = webhooks.iter().find(|placed| placed.webhook.name == hooked.name);
        let Some(on_error) = named.map(|placed| placed.webhook.on_error).filter(|_| hooked.accept_fail_open) else {
            continue;
        };
        accepted.push(hooked.name.as_str());
        if on_error != OnError::Allow {
            let (name, on_error) = (&hooked.name, on_error.as_str());
            setting.place.warn(format!("accept_fail_open has no effect: webhook {name} has on_error = {on_error:?}"));
        }
    }
    for placed in webhooks {
        if placed.webhook.on_error == OnError::Allow && !accepted.contains(&placed.webhook.name.as_str()) {
            placed.place.warn(
                "on_error = \"allow\" is one word of two: no grant here says accept_fail_open = true, and where none does a failure refuses",
            );
        }
    }
}
