//! From a file to a checked [`Config`], or to every reason why not.

use std::path::{Path, PathBuf};

use crate::config::document::{Findings, Table};
use crate::config::files::read_bounded;
use crate::config::gateway::backends::{read_backends, read_connectors};
use crate::config::gateway::grants::{self, read_grants};
use crate::config::gateway::issuers::read_issuers;
use crate::config::gateway::keys::read_keys;
use crate::config::gateway::listen::{Authority, read_admin, read_listen};
use crate::config::gateway::models::read_models;
use crate::config::gateway::record::{read_gateway_id, read_record, read_store};
use crate::config::gateway::trust::{Authorities, read_ca, read_identities, read_trust};
use crate::config::gateway::webhooks::{self, read_webhooks};
use crate::config::parse::{parse_as, read_text, whole};
use crate::config::process::{DEFAULT_STATE_DIR, read_log, read_state_dir};
use crate::config::{Config, Problem};

/// Where the config is looked for when nobody names it.
const PLACES: [&str; 2] = ["./doorward.toml", "/etc/doorward/doorward.toml"];

/// The variable that may name the config file.
const VARIABLE: &str = "DOORWARD_CONFIG";

/// Finds the config file: `explicit`, or `$DOORWARD_CONFIG`, or the usual places. A file that
/// somebody named is not looked for: that it is missing is for [`load`] to say.
///
/// # Errors
///
/// When nobody named a file and none is in the usual places; the problem lists them.
pub fn find(explicit: Option<&Path>, environment: &dyn Fn(&str) -> Option<String>) -> Result<PathBuf, Problem> {
    find_among(explicit, environment, &PLACES.map(Path::new))
}

fn find_among(
    explicit: Option<&Path>,
    environment: &dyn Fn(&str) -> Option<String>,
    places: &[&Path],
) -> Result<PathBuf, Problem> {
    if let Some(file) = explicit {
        return Ok(file.to_owned());
    }
    if let Some(file) = environment(VARIABLE).filter(|file| !file.is_empty()) {
        return Ok(file.into());
    }
    if let Some(file) = places.iter().find(|file| file.is_file()) {
        return Ok((*file).to_owned());
    }
    let places: Vec<_> = places.iter().map(|file| file.display().to_string()).collect();
    Err(whole(format!(
        "no config file: --config is not given, ${VARIABLE} is not set, there is no {}",
        places.join(" and no ")
    )))
}

/// Reads and checks a config file, with everything that it refers to.
///
/// # Errors
///
/// Every problem, in the order of lines; a mistake in the TOML itself comes alone.
pub fn load(file: &Path, environment: &dyn Fn(&str) -> Option<String>) -> Result<Config, Vec<Problem>> {
    parse(&read_text(file)?, file, environment)
}

/// The state directory that a config file names, whatever else is in the file: verbs that change
/// state must not need the secrets that serving needs.
///
/// # Errors
///
/// When the file cannot be read, is not TOML, or its `state_dir` is not text.
pub fn state_dir(file: &Path) -> Result<PathBuf, Vec<Problem>> {
    let failed = |why: String| vec![whole(why)];
    let bytes = read_bounded(file).map_err(|error| failed(format!("cannot read {}: {error}", file.display())))?;
    let text = std::str::from_utf8(&bytes).map_err(|_| failed("is not UTF-8".to_owned()))?;
    let root: toml::Table = text.parse().map_err(|error: toml::de::Error| failed(error.message().to_owned()))?;
    let named = match root.get("state_dir") {
        None => DEFAULT_STATE_DIR,
        Some(value) => value.as_str().ok_or_else(|| failed("state_dir is not text".to_owned()))?,
    };
    let file = std::path::absolute(file).map_err(|error| failed(error.to_string()))?;
    Ok(file.parent().unwrap_or(Path::new("/")).join(named))
}

/// Checks the text of a config file. `file` is what it was read from: relative paths start there.
///
/// # Errors
///
/// As [`load`].
pub fn parse(text: &str, file: &Path, environment: &dyn Fn(&str) -> Option<String>) -> Result<Config, Vec<Problem>> {
    let (config, Findings { problems: _, warnings, watched }) = parse_as(text, file, environment, read)?;
    Ok(Config { watched, warnings, ..config })
}

fn read(root: &Table<'_>, file: PathBuf) -> Option<Config> {
    let sections = |name| root.get(name).map(|value| value.sections()).unwrap_or_default();

    let state_dir = read_state_dir(root);
    let gateway_id = read_gateway_id(root);
    let log = read_log(root.get("log").as_ref());
    let record = read_record(root.get("record").as_ref(), state_dir.as_deref());
    let state_stale_max = read_store(root.get("store").as_ref());

    let mut authorities = Authorities::new();
    let trust_domain = read_ca(root.get("ca").as_ref(), &mut authorities);
    let trust_sections = sections("trust");
    let trust = read_trust(&trust_sections, &mut authorities);
    let identity_sections = sections("identity");
    let identities = read_identities(&identity_sections, &authorities);

    let listen_section = root.require("listen", "[listen] with address, names and client_auth");
    let authority = Authority { built_in: root.has("ca"), external: !trust_sections.is_empty() };
    let listen = listen_section.as_ref().and_then(|value| read_listen(value, authority));
    let admin = read_admin(root.get("admin").as_ref(), authority);
    if let (Some(listen), Some(section), Some((admin, api))) = (&listen, &listen_section, admin)
        && (admin == listen.address || api == Some(listen.address))
        && listen.address.port() != 0
    {
        section.wrong("address is that of [admin] too");
    }

    let issuers = read_issuers(&sections("issuer"));
    let grant_sections = sections("grant");
    let grants = read_grants(&grant_sections);
    let keys = read_keys(&sections("key"), grants.as_deref());
    let no_connectors = if !authority.built_in {
        Some("needs a [ca]: only the built-in authority makes connectors")
    } else if listen.as_ref().is_some_and(|listen| listen.names.connect.is_empty()) {
        Some(
            "needs `connect` in [listen] names: the host name that connectors dial, such as [\"connect.corp.example\"]",
        )
    } else {
        None
    };
    let (backends, declared) = read_backends(&sections("backend"), no_connectors);
    let connectors = read_connectors(&sections("connector"), backends.as_deref());
    let models = read_models(&sections("model"), &declared);
    let (webhooks, webhook_names) = read_webhooks(root.get("webhook").as_ref());
    webhooks::check_names(&grant_sections, &webhook_names);
    if let (Some(grants), Some(webhooks)) = (&grants, &webhooks) {
        webhooks::doubt(grants, webhooks);
    }

    let (listen, identities, grants, models) = (listen?, identities?, grants?, models?);
    let placed: Vec<_> = identities.iter().zip(identity_sections.iter().map(|section| &section.place)).collect();
    grants::doubt(&grants, &placed, listen.client_auth, &models);
    Some(Config {
        file,
        state_dir: state_dir?,
        gateway_id: gateway_id?,
        listen,
        admin: admin?.0,
        admin_api: admin?.1,
        log: log?,
        record: record?,
        state_stale_max: state_stale_max?,
        trust_domain: trust_domain?,
        trust: trust?,
        identities,
        grant_lines: grants.iter().map(|placed| (placed.grant.owner.clone(), placed.lines.clone())).collect(),
        issuers: issuers?,
        grants: grants.into_iter().map(|placed| placed.grant).collect(),
        keys: keys?,
        backends: backends?,
        connectors: connectors?,
        models,
        webhooks: webhooks?.into_iter().map(|placed| placed.webhook.into()).collect(),
        watched: Vec::new(),
        warnings: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_wins() {
        let directory = tempfile::tempdir().unwrap();
        let (here, etc) = (directory.path().join("a.toml"), directory.path().join("b.toml"));
        let places = [here.as_path(), etc.as_path()];
        let set = |name: &str| (name == "DOORWARD_CONFIG").then(|| "/from/env".to_owned());
        let unset = |_: &str| None;

        let error = find_among(None, &unset, &places).unwrap_err().to_string();
        assert!(error.contains("a.toml") && error.contains("b.toml") && error.contains("DOORWARD_CONFIG"), "{error}");
        std::fs::write(&etc, "").unwrap();
        assert_eq!(find_among(None, &unset, &places), Ok(etc.clone()));
        std::fs::write(&here, "").unwrap();
        assert_eq!(find_among(None, &unset, &places), Ok(here.clone()));
        assert_eq!(find_among(None, &set, &places), Ok("/from/env".into()));
        assert_eq!(find_among(Some(Path::new("x")), &set, &places), Ok("x".into()));
        assert_eq!(find_among(None, &|_| Some(String::new()), &places), Ok(here.clone()));
    }

    #[test]
    fn an_unreadable_file_is_one_problem() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("doorward.toml");
        let problems = load(&file, &|_| None).unwrap_err();
        assert!(problems.len() == 1 && problems[0].message.starts_with("cannot read"), "{problems:?}");
        std::fs::write(&file, b"state_dir = \"x\"\ngateway_id = \"\xff\"\n").unwrap();
        let problems = load(&file, &|_| None).unwrap_err();
        assert_eq!(problems[0].to_string(), "line 2: is not UTF-8");
    }
}
