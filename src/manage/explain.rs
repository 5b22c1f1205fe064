//! Why a caller is let in or refused: every check in order, with whoever has a say in it.
//!
//! Invariant: the answer is the gate's. The same [`Check`]s are made on the same
//! [`Standing`]; nothing is decided in here.

use std::net::IpAddr;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::{Declared, IdentityEntry, did_you_mean};
use crate::dialect::paths;
use crate::domain::endpoint::Endpoint;
use crate::domain::explain::{Check, Question, Voice};
use crate::domain::grant::{Certified, Credentials, DecidedBy, GrantTree, OwnerTree, Standing};
use crate::domain::identity::{Identity, Role};
use crate::domain::key::{KeyId, KeyRecord};
use crate::domain::owner::OwnerPath;
use crate::domain::refusal::{CredentialFault, Refusal};
use crate::domain::route::BackendIndex;
use crate::domain::timestamp::Timestamp;
use crate::manage::fault::{Code, Fault};
use crate::manage::fields::{Reading, when};
use crate::manage::operation::{Method, Operation};
use crate::manage::{Manager, Source};

/// Explains whether a caller would be let in.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Explain {
    /// The id of the caller's key. A key, an identity, or both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The identity that the caller's certificate proves: a SPIFFE ID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// The address that the caller comes from.
    pub from: String,
    /// The endpoint that it calls, such as `openai.chat_completions`.
    pub endpoint: String,
    /// The model that it names; for endpoints that take one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// When: a span from now, or a time. Now, when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
}

/// What the gate would say.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Explained {
    /// True when every check passes.
    pub allowed: bool,
    /// The HTTP status of the refusal.
    pub status: Option<u16>,
    /// The code of the refusal.
    pub code: Option<String>,
    /// What the gateway's record says of it.
    pub reason: Option<String>,
    /// Whom the key belongs to, or else the identity.
    pub owner: Option<String>,
    /// Whom the identity belongs to, when there is a key too.
    pub identity_owner: Option<String>,
    /// Every check, in the order in which they are made. The first that does not pass decides.
    pub checks: Vec<CheckSaid>,
    /// The webhooks that would be asked, in their order, after all checks have passed.
    pub webhooks: Vec<Webhook>,
    /// Where the request could go; in no order.
    pub targets: Vec<Target>,
    /// When the answer ends, if nothing changes.
    pub until: Option<String>,
}

/// One check.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct CheckSaid {
    /// Its number in the published order.
    pub number: u8,
    /// Its name.
    pub name: String,
    /// True when it passes.
    pub passed: bool,
    /// The code that it refuses with.
    pub code: Option<String>,
    /// Why it refuses.
    pub reason: Option<String>,
    /// Everybody who has a say in it.
    pub said: Vec<Said>,
}

/// What a grant or a key says of a check.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Said {
    /// The node of the grant.
    pub grant: Option<String>,
    /// The key.
    pub key: Option<String>,
    /// Where the grant is kept.
    pub source: Option<Source>,
    /// Its line in the config file.
    pub line: Option<usize>,
    /// The setting.
    pub setting: String,
    /// What it says.
    pub words: Vec<String>,
    /// False when this alone refuses the caller.
    pub admits: bool,
}

/// A webhook that has the last word.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "WebhookAsked")]
pub struct Webhook {
    /// Its name.
    pub name: String,
    /// Whether every grant that names it accepts that requests pass when it fails.
    pub accept_fail_open: bool,
}

/// Where a model is served.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Target {
    /// The backend.
    pub backend: String,
    /// The backend's own name of the model.
    pub model: String,
}

/// A request that can be understood.
struct Asked {
    address: IpAddr,
    endpoint: Endpoint,
    now: Timestamp,
    key: Option<KeyId>,
    identity: Option<Identity>,
}

impl Operation for Explain {
    type Answer = Explained;

    const NAME: &'static str = "explain";
    const SUMMARY: &'static str = "Explain whether a caller would be let in: every check in order, and what decides it";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/explain";
    const CHANGES: bool = false;

    fn perform(self, manager: &mut Manager<'_>) -> Result<Explained, Fault> {
        let asked = self.read(manager.now)?;
        let nothing = Declared::default();
        let config = manager.policy.config.as_ref().map_err(Clone::clone)?.as_ref().unwrap_or(&nothing);
        let credentials = Credentials {
            key: asked.key.map(|id| manager.known_key(&id)).transpose()?.map(Arc::new),
            certificate: asked.identity.as_ref().map(|identity| manager.certified(identity, config)).transpose()?,
            token: None,
        };
        let trees = (GrantTree::new(config.grants.clone()), GrantTree::new(manager.store.list_grants()?));
        let disabled = manager.disabled_owners()?;
        let owners = OwnerTree { config: &trees.0, store: &trees.1, disabled: &disabled };
        self.explain(&asked, config, &credentials, owners)
    }
}

impl Explain {
    fn read(&self, now: Timestamp) -> Result<Asked, Fault> {
        let mut reading = Reading::default();
        let address = reading.value("from", &self.from, |text| {
            text.parse()
                .map(|address: IpAddr| address.to_canonical())
                .map_err(|_| format!("{text:?} is not an IP address"))
        });
        let endpoint = reading.value("endpoint", &self.endpoint, |text| {
            let known = || Endpoint::ALL.into_iter().map(Endpoint::name);
            let found = Endpoint::ALL.into_iter().find(|endpoint| endpoint.name() == text);
            found.ok_or_else(|| format!("{text:?} is not an endpoint{}", did_you_mean(text, known())))
        });
        let key = reading.optional("key", self.key.as_deref(), KeyId::parse);
        let identity = reading.optional("identity", self.identity.as_deref(), Identity::external);
        let at = reading.optional("at", self.at.as_deref(), |text| when(text, now));
        if self.key.is_none() && self.identity.is_none() {
            reading.wrong("key", "name a key, an identity, or both: a caller without any is refused");
        }
        if endpoint.is_some_and(takes_model) && self.model.is_none() {
            reading.wrong("model", "is missing: this endpoint takes one");
        }
        reading.finish()?;
        match (address, endpoint) {
            (Some(address), Some(endpoint)) => Ok(Asked { address, endpoint, now: at.unwrap_or(now), key, identity }),
            _ => Err(Fault::new(Code::InvalidRequest, "the question cannot be read")),
        }
    }

    fn explain(
        &self,
        asked: &Asked,
        config: &Declared,
        credentials: &Credentials,
        owners: OwnerTree<'_>,
    ) -> Result<Explained, Fault> {
        let models = config.models.as_ref().ok_or_else(|| unreadable("models"))?;
        let named = self.model.as_deref().filter(|_| takes_model(asked.endpoint));
        let model = named.and_then(|name| models.iter().find(|model| model.name == name));
        let speaks = |backend: BackendIndex| {
            config.backends.get(backend.0).is_some_and(|(_, dialects)| dialects.contains(&asked.endpoint.dialect()))
        };
        let candidates = model.map(|model| model.candidates(asked.endpoint, speaks)).unwrap_or_default();
        let question = Question {
            address: asked.address,
            lent_to: None,
            endpoint: asked.endpoint,
            model: named,
            // A model that nobody serves at this endpoint is none there.
            model_exists: !candidates.is_empty(),
        };
        let standing = Standing::new(owners, credentials);
        let role = asked.identity.as_ref().map(Identity::role).filter(|role| *role != Role::Client);
        let mut decided = role.map(|role| Refusal::InvalidCredentials(CredentialFault::WrongRole(role.as_str())));
        let mut checks = Vec::new();
        for check in Check::NEW.into_iter().filter(|check| *check != Check::Origin) {
            let refusal = check.decide(&standing, &question, asked.now).err();
            let said =
                check.voices(&standing, &question).into_iter().map(|voice| said(voice, owners, config)).collect();
            checks.push(CheckSaid {
                number: check.number(),
                name: check.as_str().to_owned(),
                passed: refusal.is_none(),
                code: refusal.as_ref().map(|refusal| refusal.code().as_str().to_owned()),
                reason: refusal.as_ref().map(ToString::to_string),
                said,
            });
            decided = decided.or(refusal);
        }
        let key_owner = credentials.key.as_ref().map(|key| key.owner.to_string());
        let identity_owner = credentials
            .certificate
            .as_ref()
            .and_then(|certificate| certificate.owner.as_ref())
            .map(OwnerPath::to_string);
        let until = standing.expires_at();
        Ok(Explained {
            allowed: decided.is_none(),
            status: decided.as_ref().map(|refusal| refusal.status().as_u16()),
            code: decided.as_ref().map(|refusal| refusal.code().as_str().to_owned()),
            reason: decided.as_ref().map(ToString::to_string),
            identity_owner: key_owner.as_ref().and(identity_owner.clone()),
            owner: key_owner.or(identity_owner),
            checks,
            webhooks: standing
                .webhooks()
                .into_iter()
                // What the gateway answers by itself goes nowhere.
                .filter(|_| !paths::is_answered_here(asked.endpoint))
                .map(|hooked| Webhook { name: hooked.name.to_string(), accept_fail_open: hooked.accept_fail_open })
                .collect(),
            targets: candidates
                .into_iter()
                .filter_map(|target| {
                    let (backend, _) = config.backends.get(target.backend.0)?;
                    Some(Target { backend: backend.clone(), model: target.model.to_string() })
                })
                .collect(),
            until: (decided.is_none() && until < Timestamp::FAR_FUTURE).then(|| until.to_string()),
        })
    }
}

impl Manager<'_> {
    /// The key, as the gate sees it: of one that is in both places the config's holds, unless the
    /// store has revoked it.
    fn known_key(&self, id: &KeyId) -> Result<KeyRecord, Fault> {
        let stored = self.store.key(id)?;
        let listed = self.policy.keys().iter().find(|key| key.id == *id);
        match (stored, listed) {
            (Some(stored), Some(_)) if stored.revoked_at.is_some() => Ok(stored),
            (_, Some(listed)) => Ok(listed.clone()),
            (Some(stored), None) => Ok(stored),
            (None, None) => Err(Fault::new(Code::NotFound, format!("no key has the id {id}"))
                .hint("the gate would say 401 invalid_credentials; `doorward key list` shows all ids")),
        }
    }

    /// A certificate of this identity that has not ended.
    fn certified(&self, identity: &Identity, config: &Declared) -> Result<Certified, Fault> {
        let entries = config.identities.as_ref().ok_or_else(|| unreadable("identities"))?;
        let denied = self.store.denied()?;
        Ok(Certified {
            owner: IdentityEntry::owner_of(entries, identity),
            not_after: Timestamp::FAR_FUTURE,
            revoked: denied.subjects.contains(identity.uri()),
            identity: Arc::new(identity.clone()),
        })
    }
}

fn takes_model(endpoint: Endpoint) -> bool {
    !paths::is_answered_here(endpoint) || endpoint == Endpoint::OpenAiModel
}

fn unreadable(what: &str) -> Fault {
    Fault::new(Code::Failed, format!("the {what} of the config cannot be read"))
        .hint("`doorward check` shows every problem of a config")
}

fn said(voice: Voice<'_>, owners: OwnerTree<'_>, config: &Declared) -> Said {
    let source = voice.grant.map(|grant| if owners.is_configs(grant) { Source::Config } else { Source::Store });
    let line = voice
        .grant
        .filter(|_| source == Some(Source::Config))
        .and_then(|grant| config.grant_lines.get(&grant.owner))
        .map(|lines| lines.line_of(voice.setting));
    let (grant, key) = match voice.by {
        DecidedBy::Grant(owner) => (Some(owner.to_string()), None),
        DecidedBy::Key(id) => (None, Some(id.to_string())),
        DecidedBy::Nobody => (None, None),
    };
    Said { grant, key, source, line, setting: voice.setting.to_owned(), words: voice.words, admits: voice.admits }
}
