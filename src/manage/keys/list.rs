//! Keys, shown.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::domain::key::{KeyId, KeyRecord};
use crate::domain::owner::OwnerPath;
use crate::domain::timestamp::Timestamp;
use crate::manage::fault::Fault;
use crate::manage::fields::Reading;
use crate::manage::keys::{Key, State, read_id, unknown};
use crate::manage::operation::{Method, Operation};
use crate::manage::page::{self, Page};
use crate::manage::{Manager, Source};

/// Lists keys without their secrets: those of the store, oldest first, then those of the config.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ListKeys {
    /// Only those of this owner and of owners below.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Only those in this state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// `next` of the page before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Most entries of a page: 1 to 1000, 100 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub limit: Option<u32>,
}

impl Operation for ListKeys {
    type Answer = Page<Key>;

    const NAME: &'static str = "listKeys";
    const SUMMARY: &'static str = "List keys, without their secrets";
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/keys";

    fn perform(self, manager: &mut Manager<'_>) -> Result<Self::Answer, Fault> {
        let now = manager.now;
        let mut reading = Reading::default();
        let owner = reading.optional("owner", self.owner.as_deref(), OwnerPath::parse);
        let state = reading.optional("state", self.state.as_deref(), State::parse);
        let place = reading.optional("cursor", self.cursor.as_deref(), Place::read);
        reading.finish()?;
        let limit = page::limit(self.limit)?;
        let disabled = manager.disabled_owners()?;
        let wanted = |record: &KeyRecord| {
            owner.as_ref().is_none_or(|owner| record.owner.is_within(owner.as_str()))
                && state.is_none_or(|state| State::of(record, &disabled, now) == state)
        };
        // One more than the page holds tells whether there is a next one.
        let mut found: Vec<(KeyRecord, Source)> = Vec::new();
        let mut place = place.unwrap_or(Place::Store(None));
        while let Place::Store(after) = place
            && found.len() <= limit
        {
            let batch = manager.store.keys_after(after, BATCH)?;
            let last = batch.last().map(|record| (record.created_at, record.id));
            place = if batch.len() < BATCH { Place::Config(None) } else { Place::Store(last) };
            found.extend(batch.into_iter().filter(wanted).map(|record| (record, Source::Store)));
        }
        if let Place::Config(after) = place {
            let mut listed: Vec<_> = manager.policy.keys().iter().filter(|record| Some(record.id) > after).collect();
            listed.sort_by_key(|record| record.id);
            found.extend(listed.into_iter().filter(|record| wanted(record)).cloned().map(|key| (key, Source::Config)));
        }
        let more = found.len() > limit;
        found.truncate(limit);
        let next = found.last().filter(|_| more).map(|(record, source)| Place::of(record, *source).to_string());
        let last_used = manager.store.last_used()?;
        let shown = |(record, source): &(KeyRecord, Source)| {
            Key::new((record, *source), &disabled, last_used.get(&record.id).copied(), now)
        };
        Ok(Page { items: found.iter().map(shown).collect(), next })
    }
}

/// How many keys are read from the store at once.
const BATCH: usize = 1000;

/// Where a page ends: the keys of the store come first, by age, then those of the config, by id.
#[derive(Clone, Copy, Debug)]
enum Place {
    Store(Option<(Timestamp, KeyId)>),
    Config(Option<KeyId>),
}

impl Place {
    const fn of(record: &KeyRecord, source: Source) -> Self {
        match source {
            Source::Store => Self::Store(Some((record.created_at, record.id))),
            Source::Config => Self::Config(Some(record.id)),
        }
    }

    fn read(text: &str) -> Result<Self, String> {
        let wrong = || "is not the `next` of a page".to_owned();
        let (age, id) = text.rsplit_once('-').ok_or_else(wrong)?;
        let id = KeyId::parse(id).map_err(|_| wrong())?;
        if age == "config" {
            return Ok(Self::Config(Some(id)));
        }
        let created_at = Timestamp::from_millis(age.parse().map_err(|_| wrong())?);
        Ok(Self::Store(Some((created_at, id))))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Store(Some((created_at, id))) => write!(f, "{}-{id}", created_at.as_millis()),
            Self::Config(Some(id)) => write!(f, "config-{id}"),
            Self::Store(None) | Self::Config(None) => Ok(()),
        }
    }
}

/// Shows a key without its secret.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ShowKey {
    /// Its public id: 12 characters between dw_ and the second _.
    pub id: String,
}

impl Operation for ShowKey {
    type Answer = Key;

    const NAME: &'static str = "showKey";
    const SUMMARY: &'static str = "Show a key, without its secret";
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/keys/{id}";

    fn perform(self, manager: &mut Manager<'_>) -> Result<Self::Answer, Fault> {
        let id = read_id(&self.id)?;
        if let Some(listed) = manager.policy.keys().iter().find(|record| record.id == id) {
            let last_used_at = manager.store.last_used_at(&id)?;
            return Ok(Key::new((listed, Source::Config), &manager.disabled_owners()?, last_used_at, manager.now));
        }
        let record = manager.store.key(&id)?.ok_or_else(|| unknown(&id, manager.policy))?;
        manager.shown(&record)
    }
}
