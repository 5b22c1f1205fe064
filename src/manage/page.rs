//! Long lists, a page at a time.
//!
//! Invariant: a page is bounded, and a cursor names a row and not a number: what is made or deleted
//! between two pages neither hides a row nor shows one twice.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::manage::fault::Fault;

/// Most entries of a page.
pub const MAX_LIMIT: u32 = 1000;
const DEFAULT_LIMIT: u32 = 100;

/// A part of a list.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "{T}Page")]
pub struct Page<T> {
    /// The entries, in the order of the list.
    pub items: Vec<T>,
    /// Where the next page begins; null on the last one.
    pub next: Option<String>,
}

/// How many entries are asked for.
pub(super) fn limit(asked: Option<u32>) -> Result<usize, Fault> {
    let limit = asked.unwrap_or(DEFAULT_LIMIT);
    if (1..=MAX_LIMIT).contains(&limit) {
        Ok(limit as usize)
    } else {
        Err(Fault::field("limit", format!("must be 1 to {MAX_LIMIT}")))
    }
}

/// The page of `rows` that follows `cursor`. `rows` are in the order of `place`, which tells them
/// apart; a cursor is the place of the last row that was given.
pub(super) fn cut<T>(
    rows: impl IntoIterator<Item = T>,
    cursor: Option<&str>,
    limit: usize,
    place: impl Fn(&T) -> String,
) -> Page<T> {
    let mut following = rows.into_iter().filter(|row| cursor.is_none_or(|cursor| place(row).as_str() > cursor));
    let items: Vec<T> = following.by_ref().take(limit).collect();
    let next = following.next().and_then(|_| items.last()).map(place);
    Page { items, next }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// However long the pages are, they make up the list.
        #[test]
        fn pages_make_up_the_list(rows in prop::collection::btree_set("[a-c]{1,4}", 0..40), limit in 1usize..7) {
            let (mut seen, mut cursor, mut pages) = (Vec::new(), None::<String>, 0);
            loop {
                let page = cut(rows.iter().cloned(), cursor.as_deref(), limit, Clone::clone);
                prop_assert!(page.items.len() <= limit);
                seen.extend(page.items);
                pages += 1;
                prop_assert!(pages <= rows.len() + 1);
                cursor = page.next;
                if cursor.is_none() {
                    break;
                }
            }
            prop_assert_eq!(seen, rows.into_iter().collect::<Vec<_>>());
        }
    }

    #[test]
    fn pages_are_bounded() {
        assert_eq!(limit(None), Ok(100));
        assert_eq!(limit(Some(1000)), Ok(1000));
        for wrong in [0, 1001, u32::MAX] {
            assert!(limit(Some(wrong)).is_err());
        }
    }
}
