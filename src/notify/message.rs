//! What is sent: one JSON object.

use serde::Serialize;
use serde_json::Value;

use crate::store::queue::Queued;

/// The version of the message's form.
const VERSION: u8 = 1;

/// The body of a message. Field names are a contract: see docs/notifications.md.
#[derive(Debug, Serialize)]
struct Message<'m> {
    version: u8,
    r#type: &'m str,
    id: &'m str,
    timestamp: String,
    gateway: Gateway<'m>,
    data: Value,
}

#[derive(Debug, Serialize)]
struct Gateway<'m> {
    id: &'m str,
}

/// The body for something that waits: the same in every attempt.
///
/// # Errors
///
/// When what the store holds of it is no JSON.
pub fn body(queued: &Queued, gateway_id: &str) -> Result<Vec<u8>, serde_json::Error> {
    serde_json::to_vec(&Message {
        version: VERSION,
        r#type: &queued.kind,
        id: &queued.id,
        timestamp: queued.at.to_string(),
        gateway: Gateway { id: gateway_id },
        data: serde_json::from_str(&queued.data)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::timestamp::Timestamp;

    fn queued(data: &str) -> Queued {
        Queued {
            number: 7,
            id: "evt_1".to_owned(),
            kind: "doorward.event.owner.disabled".to_owned(),
            at: Timestamp::from_millis(1_795_000_000_250),
            data: data.to_owned(),
            refusals: 2,
            failures: 3,
            due_at: Timestamp::from_seconds(1),
        }
    }

    #[test]
    fn the_form_is_the_published_one() {
        let body = body(&queued(r#"{"owner":"acme"}"#), "gw \"1\"\n").unwrap();
        let expected = r#"{"version":1,"type":"doorward.event.owner.disabled","id":"evt_1","timestamp":"2026-11-18T11:06:40.250Z","gateway":{"id":"gw \"1\"\n"},"data":{"owner":"acme"}}"#;
        assert_eq!(String::from_utf8(body).unwrap(), expected);
    }

    #[test]
    fn a_row_that_is_no_json_is_an_error() {
        assert!(body(&queued("{"), "gw").is_err());
    }
}
