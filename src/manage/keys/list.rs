//! Keys, shown.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::domain::key::{KeyId, KeyRecord};
use crate::domain::owner::OwnerPath;
use crate::domain::timestamp::Timestamp;
use crate::manage::Manager;
use crate::manage::fault::Fault;
use crate::manage::fields::Reading;
use crate::manage::keys::{Key, State, read_id, unknown};
use crate::manage::operation::{Method, Operation};
use crate::manage::page::{self, Page};

/// Lists keys without their secrets, oldest first.
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
        let mut place = reading.optional("cursor", self.cursor.as_deref(), read_place);
        reading.finish()?;
        let limit = page::limit(self.limit)?;
        let disabled = manager.disabled_owners()?;
        let wanted = |record: &KeyRecord| {
            owner.as_ref().is_none_or(|owner| record.owner.is_within(owner.as_str()))
                && state.is_none_or(|state| State::of(record, &disabled, now) == state)
        };
        // One more than the page holds tells whether there is a next one.
        let mut found: Vec<KeyRecord> = Vec::new();
        loop {
            let batch = manager.store.keys_after(place, BATCH)?;
            place = batch.last().map(place_of);
            let is_last = batch.len() < BATCH;
            found.extend(batch.into_iter().filter(wanted));
            if is_last || found.len() > limit {
                break;
            }
        }
        let more = found.len() > limit;
        found.truncate(limit);
        let next = found.last().filter(|_| more).map(|record| written(place_of(record)));
        let last_used = manager.store.last_used()?;
        let shown = |record: &KeyRecord| Key::new(record, &disabled, last_used.get(&record.id).copied(), now);
        Ok(Page { items: found.iter().map(shown).collect(), next })
    }
}

/// How many keys are read from the store at once.
const BATCH: usize = 1000;

const fn place_of(record: &KeyRecord) -> (Timestamp, KeyId) {
    (record.created_at, record.id)
}

fn written((created_at, id): (Timestamp, KeyId)) -> String {
    format!("{}-{id}", created_at.as_millis())
}

fn read_place(text: &str) -> Result<(Timestamp, KeyId), String> {
    let wrong = || "is not the `next` of a page".to_owned();
    let (created_at, id) = text.rsplit_once('-').ok_or_else(wrong)?;
    let created_at = created_at.parse().map_err(|_| wrong())?;
    Ok((Timestamp::from_millis(created_at), KeyId::parse(id).map_err(|_| wrong())?))
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
        let record = manager.store.key(&id)?.ok_or_else(|| unknown(&id))?;
        manager.shown(&record)
    }
}
