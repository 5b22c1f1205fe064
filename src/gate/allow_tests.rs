use proptest::prelude::*;

use super::*;
use crate::domain::webhook::{Source, Verdict};
use crate::webhook::answer::{Decision, Denial};

fn heard(index: usize, what: u8) -> Heard {
    let decided = |ruling| Ok((Arc::new(Decision { ruling, reason: None, ttl: None }), Source::Fresh));
    let result = match what {
        0 => decided(Ruling::Allow(Narrowing::default())),
        1 => decided(Ruling::Allow(Narrowing { max_tokens: Some(index as u64), ..Narrowing::default() })),
        2 => {
            let denial = Denial { status: 403, message: "no".into(), retry_after: None };
            decided(Ruling::Deny(denial))
        }
        3 => Err(Trouble::TimedOut),
        _ => Err(Trouble::Missing),
    };
    Heard { name: WebhookName::parse(&format!("w{index}")).unwrap(), result }
}

proptest! {
    /// Only if every webhook that was asked says yes does a request go on; else the first denial
    /// counts, and without one the first failure.
    #[test]
    fn all_must_allow(answers in prop::collection::vec(0u8..5, 0..6)) {
        let all: Vec<Heard> = answers.iter().enumerate().map(|(index, what)| heard(index, *what)).collect();
        let first = |verdict| all.iter().find(|heard| heard.verdict() == verdict).map(|heard| heard.name.clone());
        let (denied, failed) = (first(Verdict::Deny), first(Verdict::Error));
        match settle(&all) {
            Ok(narrowings) => {
                prop_assert_eq!((denied, failed), (None, None));
                prop_assert_eq!(narrowings.len(), answers.iter().filter(|what| **what == 1).count());
            }
            Err(Refusal::DeniedByWebhook { name, .. }) => prop_assert_eq!(Some(name), denied),
            Err(Refusal::AuthorizationUnavailable { name, .. }) => {
                prop_assert_eq!(denied, None);
                prop_assert_eq!(Some(name), failed);
            }
            Err(other) => prop_assert!(false, "{other}"),
        }
    }
}
