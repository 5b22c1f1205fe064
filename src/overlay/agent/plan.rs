//! Which connections there should be, given those that there are.
//!
//! Invariant: pure. Every place gets as many as are wanted; none is kept for a place that the config
//! does not name any more; and of those to one place no two have the same number, since a gateway
//! takes the second for the first, dialled anew.

use crate::config::GatewayAt;
use crate::domain::gateway_address::{GatewayAddress, GatewayName};
use crate::holder::reach::{Reach, Target};

/// Numbers that connections can have: the protocol has no others.
const NUMBERS: u32 = 8;

/// The gateway as a config has it: where it is and how it is reached.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Route {
    pub(super) addresses: Vec<GatewayAddress>,
    /// Connections to each place.
    pub(super) connections: u32,
    pub(super) way: Way,
}

/// How a place is reached, and who must be there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Way {
    /// The name that the gateway's certificate must have.
    pub(super) name: GatewayName,
    pub(super) reach: Reach,
}

/// Where a connection leads.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Place {
    pub(super) target: Target,
    pub(super) way: Way,
}

/// A connection that there is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Line {
    pub(super) place: Place,
    /// Its number.
    pub(super) index: u32,
    /// True when the config still names what its place was found under.
    pub(super) named: bool,
}

/// What becomes of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fate {
    /// It is kept, and dialled again when it falls.
    Keep,
    /// Its place is not found any more, though the config names it: it is good as long as it holds.
    LetFall,
    /// It goes when others are there.
    Leave,
}

/// What is to be done.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Plan {
    /// For each connection, in the order in which they were given.
    pub(super) fates: Vec<Fate>,
    /// New ones: where to, and their numbers.
    pub(super) open: Vec<(Place, u32)>,
}

impl Route {
    pub(super) fn new(gateway: GatewayAt, reach: Reach) -> Self {
        let GatewayAt { addresses, name, connections } = gateway;
        Self { addresses, connections, way: Way { name: GatewayName::Dns(name), reach } }
    }
}

/// Decides for `lines`, when there should be `connections` to each of `places`.
pub(super) fn plan(lines: &[Line], places: &[Place], connections: u32) -> Plan {
    let mut kept: Vec<(&Place, u32)> = Vec::new();
    let count = |kept: &[(&Place, u32)], place: &Place| kept.iter().filter(|(at, _)| *at == place).count();
    let wanted = usize::try_from(connections).unwrap_or(usize::MAX);
    let mut fates = Vec::with_capacity(lines.len());
    for line in lines {
        fates.push(if !places.contains(&line.place) {
            if line.named { Fate::LetFall } else { Fate::Leave }
        } else if count(&kept, &line.place) < wanted {
            kept.push((&line.place, line.index));
            Fate::Keep
        } else {
            Fate::Leave
        });
    }
    let stays = |fate: &Fate| *fate == Fate::Keep;
    let taken = lines.iter().zip(&fates).map(|(line, fate)| (line.place.target.clone(), line.index, stays(fate)));
    let mut taken: Vec<_> = taken.collect();
    let mut open = Vec::new();
    for place in places {
        for _ in count(&kept, place)..wanted {
            let index = number(&taken, &place.target);
            taken.push((place.target.clone(), index, true));
            open.push((place.clone(), index));
        }
    }
    Plan { fates, open }
}

/// A number that no other connection to this target has that stays; then one that none has that
/// goes; then the one that the fewest have, since two addresses may be one gateway's.
fn number(taken: &[(Target, u32, bool)], target: &Target) -> u32 {
    let cost = |number: &u32| {
        let same = || taken.iter().filter(|(_, index, _)| index == number);
        let own = |staying: bool| same().filter(|(at, _, stays)| at == target && *stays == staying).count();
        (own(true), own(false), same().count())
    };
    (0..NUMBERS).min_by_key(cost).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::holder::reach::ProxyUrl;

    fn place(port: u16, proxied: bool) -> Place {
        let proxy = proxied.then(|| ProxyUrl::parse("http://proxy.test:3128").unwrap());
        let way = Way { name: GatewayName::parse("connect.test").unwrap(), reach: Reach { proxy } };
        Place { target: Target::Direct(([127, 0, 0, 1], port).into()), way }
    }

    fn line(port: u16, proxied: bool, index: u32, named: bool) -> Line {
        Line { place: place(port, proxied), index, named }
    }

    #[test]
    fn a_change_of_the_way_opens_others_before_these_go() {
        let lines = [line(1, false, 0, false), line(1, false, 1, false)];
        let made = plan(&lines, &[place(1, true)], 2);
        assert_eq!(made.fates, [Fate::Leave, Fate::Leave]);
        // Other numbers: the gateway does not take them for the same.
        assert_eq!(made.open, [(place(1, true), 2), (place(1, true), 3)]);
    }

    #[test]
    fn two_addresses_of_one_gateway_do_not_fight() {
        let made = plan(&[], &[place(1, false), place(2, false)], 2);
        assert_eq!(made.open.iter().map(|(_, index)| *index).collect::<Vec<_>>(), [0, 1, 2, 3]);
        let fewer = plan(&[line(1, false, 0, true), line(1, false, 1, true)], &[place(1, false)], 1);
        assert_eq!((fewer.fates.as_slice(), fewer.open.len()), (&[Fate::Keep, Fate::Leave][..], 0));
        let lost = plan(&[line(1, false, 0, true)], &[], 1);
        assert_eq!(lost.fates, [Fate::LetFall]);
    }

    proptest! {
        /// From any connections, towards any places: what is kept and opened is what is wanted, and
        /// carrying it out leaves nothing to do.
        #[test]
        fn a_plan_leads_there(
            before in prop::collection::btree_set((1u16..4, any::<bool>()), 0..4),
            between in 1u32..9,
            after in prop::collection::btree_set((1u16..4, any::<bool>()), 0..4),
            connections in 1u32..9,
            named in any::<bool>(),
        ) {
            let places = |set: &std::collections::BTreeSet<(u16, bool)>| -> Vec<Place> {
                set.iter().map(|(port, proxied)| place(*port, *proxied)).collect()
            };
            let first = plan(&[], &places(&before), between);
            let lines: Vec<_> =
                first.open.into_iter().map(|(place, index)| Line { place, index, named }).collect();
            let places = places(&after);
            let Plan { fates, open } = plan(&lines, &places, connections);
            prop_assert_eq!(fates.len(), lines.len());
            let mut there: Vec<_> = lines
                .iter()
                .zip(&fates)
                .filter(|(_, fate)| **fate == Fate::Keep)
                .map(|(line, _)| line.clone())
                .collect();
            there.extend(open.into_iter().map(|(place, index)| Line { place, index, named }));
            for place in &places {
                let to = there.iter().filter(|line| line.place == *place);
                prop_assert_eq!(to.count(), connections as usize);
            }
            prop_assert!(there.iter().all(|line| places.contains(&line.place) && line.index < NUMBERS));
            for (line, fate) in lines.iter().zip(&fates) {
                let expected = !places.contains(&line.place) && named;
                prop_assert_eq!(*fate == Fate::LetFall, expected);
            }
            for place in places.iter().filter(|one| places.iter().filter(|it| it.target == one.target).count() == 1) {
                let mut numbers: Vec<_> =
                    there.iter().filter(|line| line.place == *place).map(|line| line.index).collect();
                numbers.sort_unstable();
                numbers.dedup();
                prop_assert_eq!(numbers.len(), connections as usize);
            }
            let again = plan(&there, &places, connections);
            prop_assert!(again.open.is_empty() && again.fates.iter().all(|fate| *fate == Fate::Keep));
            if places.len() * connections as usize <= NUMBERS as usize && lines.is_empty() {
                let mut numbers: Vec<_> = there.iter().map(|line| line.index).collect();
                numbers.sort_unstable();
                numbers.dedup();
                prop_assert_eq!(numbers.len(), there.len());
            }
        }
    }
}
