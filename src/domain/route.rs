//! Models, their targets, and the order in which targets are tried.

use std::cmp::Reverse;
use std::sync::Arc;

use crate::domain::endpoint::{Endpoint, Endpoints};

/// Longest alias that can be named, in bytes.
pub const MAX_ALIAS_BYTES: usize = 256;

/// True when `text` is in the alias grammar: `[A-Za-z0-9._:/@+-]{1,256}`.
#[must_use]
pub fn is_alias(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'/' | b'@' | b'+' | b'-');
    (1..=MAX_ALIAS_BYTES).contains(&text.len()) && text.bytes().all(allowed)
}

/// Which configured backend: its place in the list of backends.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct BackendIndex(pub usize);

/// A public alias with the targets that serve it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Model {
    /// The alias that callers name.
    pub name: String,
    /// Where it is served; never empty.
    pub targets: Vec<Target>,
}

/// One place where a model is served.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    /// The backend.
    pub backend: BackendIndex,
    /// The backend's own name of the model.
    pub model: Arc<str>,
    /// Share of the traffic among targets of the same priority; at least 1.
    pub weight: u32,
    /// 1 is tried first; a higher number only when no lower one can be reached.
    pub priority: u32,
    /// When given, the target serves only these.
    pub endpoints: Option<Endpoints>,
}

impl Model {
    /// True when some target may serve `endpoint`, as [`Self::candidates`] has it.
    pub fn serves(&self, endpoint: Endpoint, speaks: impl Fn(BackendIndex) -> bool) -> bool {
        let fits = |target: &Target| target.endpoints.as_ref().is_none_or(|named| named.contain(endpoint));
        self.targets.iter().any(|target| speaks(target.backend) && fits(target))
    }

    /// The targets that may serve `endpoint`: those that name it win over those that name none.
    /// `speaks` tells whether a backend speaks the endpoint's dialect.
    pub fn candidates(&self, endpoint: Endpoint, speaks: impl Fn(BackendIndex) -> bool) -> Vec<&Target> {
        let able = || self.targets.iter().filter(|target| speaks(target.backend));
        let naming: Vec<_> = able().filter(|t| t.endpoints.as_ref().is_some_and(|e| e.contain(endpoint))).collect();
        if naming.is_empty() { able().filter(|t| t.endpoints.is_none()).collect() } else { naming }
    }
}

/// Puts candidates into the order in which they are tried: by priority, within one priority drawn
/// by weight without replacement. `draw(n)` gives a number below `n`, evenly spread.
pub fn order(mut candidates: Vec<&Target>, mut draw: impl FnMut(u64) -> u64) -> Vec<&Target> {
    candidates.sort_by_key(|target| Reverse(target.priority));
    let mut ordered = Vec::with_capacity(candidates.len());
    while let Some(best) = candidates.last().map(|target| target.priority) {
        let tier = candidates.partition_point(|target| target.priority > best);
        let total: u64 = candidates.iter().skip(tier).map(|target| u64::from(target.weight)).sum();
        let mut at = if candidates.len() - tier == 1 { 0 } else { draw(total.max(1)) };
        let chosen = candidates
            .iter()
            .skip(tier)
            .position(|target| match at.checked_sub(u64::from(target.weight)) {
                Some(rest) => {
                    at = rest;
                    false
                }
                None => true,
            })
            .unwrap_or(0);
        ordered.push(candidates.remove(tier + chosen));
    }
    ordered
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn target(backend: usize, weight: u32, priority: u32, endpoints: Option<&[&str]>) -> Target {
        let endpoints = endpoints.map(|words| Endpoints::parse(words).unwrap());
        Target { backend: BackendIndex(backend), model: "m".into(), weight, priority, endpoints }
    }

    fn candidates(targets: Vec<Target>, endpoint: Endpoint) -> Vec<usize> {
        let model = Model { name: "m".to_owned(), targets };
        assert_eq!(
            model.serves(endpoint, |backend| backend.0 < 10),
            !model.candidates(endpoint, |backend| backend.0 < 10).is_empty()
        );
        model.candidates(endpoint, |backend| backend.0 < 10).iter().map(|t| t.backend.0).collect()
    }

    #[test]
    fn a_target_that_names_the_endpoint_wins() {
        let targets = vec![target(0, 1, 1, None), target(1, 1, 1, Some(&["@embeddings"])), target(11, 1, 1, None)];
        assert_eq!(candidates(targets.clone(), Endpoint::OpenAiEmbeddings), [1]);
        assert_eq!(candidates(targets, Endpoint::OpenAiChatCompletions), [0]);
        assert!(candidates(vec![target(1, 1, 1, Some(&["@embeddings"]))], Endpoint::OpenAiChatCompletions).is_empty());
    }

    #[test]
    fn aliases_keep_to_their_grammar() {
        for good in ["llama-3.1:8b", "meta/llama@x+y_z"] {
            assert!(is_alias(good));
        }
        for wrong in ["", "a b", "ä", "a\"", &"a".repeat(257)] {
            assert!(!is_alias(wrong));
        }
    }

    proptest! {
        /// Every candidate is tried once, a lower priority number always before a higher one.
        #[test]
        fn order_is_a_permutation_by_tier(shape in prop::collection::vec((1u32..5, 1u32..4), 0..8), dice: u64) {
            let targets: Vec<_> = shape.iter().enumerate().map(|(i, (w, p))| target(i, *w, *p, None)).collect();
            let ordered = order(targets.iter().collect(), |n| dice % n);
            let mut seen: Vec<_> = ordered.iter().map(|t| t.backend.0).collect();
            prop_assert!(ordered.windows(2).all(|w| w[0].priority <= w[1].priority));
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..shape.len()).collect::<Vec<_>>());
        }
    }

    #[test]
    fn weights_are_shares() {
        let targets = [target(0, 3, 1, None), target(1, 1, 1, None)];
        let first: Vec<_> = (0..4).map(|n| order(targets.iter().collect(), |_| n)[0].backend.0).collect();
        assert_eq!(first.iter().filter(|b| **b == 0).count(), 3);
    }
}
