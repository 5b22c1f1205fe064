//! From a checked config to what the request path reads.

use std::sync::Arc;

use rustls::ServerConfig;

use crate::backend::transport::Way;
use crate::ca::authority::Authority;
use crate::ca::plan::SERVER_TTL;
use crate::cli::ca;
use crate::cli::output::Failure;
use crate::clock::Clock;
use crate::config::{ClientAuth, Config, ServerCertificate};
use crate::domain::grant::GrantTree;
use crate::domain::timestamp::Timestamp;
use crate::gate::Settings;
use crate::gate::roles::RoleTls;
use crate::overlay::protocol;
use crate::tls::server::{CurrentCertificate, api_config, certified_key, connect_config, provider, refusing_config};
use crate::tls::verify::CallerVerifier;
use crate::webhook::hooks::{Webhooks, Workshop};

/// Makes a checked config ready for the request path. Also tells when it must be made anew because
/// the internal certificate has used up two thirds of its life.
pub(super) fn settings(
    config: Config,
    generation: u64,
    clock: &Clock,
    (workshop, webhooks): (&Workshop, &Webhooks),
) -> Result<(Settings, Option<Timestamp>), Failure> {
    let said = |why: String| Failure::new(why);
    let authority = match &config.trust_domain {
        None => None,
        Some(domain) => Some(open_authority(&config, domain.as_str())?),
    };
    let builtin = authority.as_ref().map(|authority| (authority.trust_domain().clone(), authority.anchors()));
    let verifier = CallerVerifier::new(config.listen.client_auth, builtin, &config.trust, clock.clone(), provider())
        .map_err(said)?;
    let (key, renew_at) = match (&config.listen.certificate, &authority) {
        (ServerCertificate::Files { chain, key, .. }, _) => {
            (certified_key(chain.clone(), key.clone_key()).map_err(said)?, None)
        }
        (ServerCertificate::Internal, Some(authority)) => {
            let now = clock.now();
            let (chain, key) = authority.issue_server(&server_names(&config), now).map_err(Failure::new)?;
            let life = SERVER_TTL.min(authority.issuer_not_after().since(now));
            (certified_key(chain, key).map_err(said)?, Some(now.after(life * 2 / 3)))
        }
        (ServerCertificate::Internal, None) => {
            return Err(Failure::with_hint(
                "listen.certificate is \"internal\" and there is no [ca]",
                "add a [ca] section",
            ));
        }
    };
    let certificate = Arc::new(CurrentCertificate::new(key));
    let tls = api_config(Arc::clone(&verifier), certificate, config.listen.tls12).map_err(said)?;
    let ways = config.backends.iter().map(|backend| Way::new(backend).map(Arc::new)).collect::<Result<_, _>>();
    let connect = match &authority {
        Some(authority) if !config.listen.names.connect.is_empty() => Some(connect(&config, authority, clock)?),
        Some(_) | None => None,
    };
    let renew_at = connect.as_ref().map(|connect| connect.renew_at).into_iter().chain(renew_at).min();
    let models = config.models.iter().enumerate().map(|(index, model)| (model.name.clone(), index)).collect();
    let settings = Settings {
        generation,
        grants: GrantTree::new(config.grants.iter().cloned()),
        keys: config.keys.iter().map(|key| (key.id, Arc::new(key.clone()))).collect(),
        models,
        webhooks: workshop.make(&config.webhooks, webhooks).map_err(said)?,
        ways: ways.map_err(said)?,
        connectors: connect.as_ref().map(|connect| Arc::clone(&connect.verifier)),
        root: authority.as_ref().map(|authority| authority.root().clone()),
        verifier,
        tls: RoleTls {
            api: Arc::new(tls),
            enroll: None,
            connect: connect.map(|connect| connect.tls),
            refusing: Arc::new(refusing_config().map_err(said)?),
        },
        config,
    };
    Ok((settings, renew_at))
}

/// What the `connect` names are served with.
struct Connect {
    verifier: Arc<CallerVerifier>,
    tls: Arc<ServerConfig>,
    renew_at: Timestamp,
}

/// An internal certificate for the `connect` names, and a verifier to which no external authority
/// has a say.
fn connect(config: &Config, authority: &Authority, clock: &Clock) -> Result<Connect, Failure> {
    let builtin = Some((authority.trust_domain().clone(), authority.anchors()));
    let verifier = CallerVerifier::new(ClientAuth::Required, builtin, &[], clock.clone(), provider());
    let verifier = verifier.map_err(Failure::new)?;
    let now = clock.now();
    let (chain, key) = authority.issue_server(&config.listen.names.connect, now).map_err(Failure::new)?;
    let certificate = CurrentCertificate::new(certified_key(chain, key).map_err(Failure::new)?);
    let tls = connect_config(Arc::clone(&verifier), Arc::new(certificate), protocol::ALPN).map_err(Failure::new)?;
    let life = SERVER_TTL.min(authority.issuer_not_after().since(now));
    Ok(Connect { verifier, tls: Arc::new(tls), renew_at: now.after(life * 2 / 3) })
}

/// Opens the authority that the config names.
pub(super) fn open_authority(config: &Config, domain: &str) -> Result<Authority, Failure> {
    let authority = Authority::open(&ca::directory(&config.state_dir)).map_err(|error| ca::said(&error, domain))?;
    if authority.trust_domain().as_str() != domain {
        return Err(Failure::with_hint(
            format!(
                "[ca] trust_domain is {domain}, the authority in the state directory is {}'s",
                authority.trust_domain()
            ),
            "the trust domain of an authority cannot change: set it back, or use another state directory",
        ));
    }
    Ok(authority)
}

/// What the internal certificate is good for: the `api` names, and the addresses at which clients
/// without a name reach the listener.
pub(in crate::cli) fn server_names(config: &Config) -> Vec<String> {
    let mut names = config.listen.names.api.clone();
    let address = config.listen.address.ip().to_canonical();
    let addresses = if address.is_unspecified() {
        vec!["127.0.0.1".to_owned(), "::1".to_owned()]
    } else {
        vec![address.to_string()]
    };
    for address in addresses {
        if !names.contains(&address) {
            names.push(address);
        }
    }
    names
}
