//! Which addresses are dialled: all that the configured names stand for, so that every replica of a
//! gateway has a tunnel.
//!
//! Invariant: make before break. A connection that the config does not want any more goes when one
//! that it wants is registered.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::domain::gateway_address::GatewayAddress;
use crate::holder::reach::Target;
use crate::overlay::agent::keep::{Keeper, Lifeline, There, Wanted};
use crate::overlay::agent::plan::{Fate, Line, Place, Plan, Route, plan};
use crate::overlay::agent::site::{Site, draw};
use crate::overlay::backoff::{Backoff, Ended};

/// How often names are looked up while they can be.
const LOOK_UP: Duration = Duration::from_secs(60);
/// Most addresses that are dialled.
const MAX_TARGETS: usize = 64;

/// What every address stood for when it was looked up last.
type Known = HashMap<GatewayAddress, Vec<Target>>;

/// A connection that is kept by a task of its own.
struct Kept {
    place: Place,
    index: u32,
    /// What its place was found under.
    address: GatewayAddress,
    /// It goes as soon as others are there.
    leaving: bool,
    wanted: watch::Sender<Wanted>,
    there: Arc<There>,
}

/// Keeps connections to every address, until it is told to stop and all of them have ended.
pub(super) async fn dial_all(site: Arc<Site>, mut route: watch::Receiver<Arc<Route>>, lifeline: Lifeline) {
    let mut keepers = JoinSet::new();
    let mut kept: Vec<Kept> = Vec::new();
    let mut known = Known::new();
    let mut before: Option<Arc<Route>> = None;
    let (mut stop, mut wake) = (lifeline.stop.clone(), lifeline.wake.clone());
    let mut backoff = Backoff::default();
    // Connections tell here that they are registered.
    let arrived = Arc::new(Notify::new());
    loop {
        let now = Arc::clone(&route.borrow_and_update());
        // What was found on another way is of no use on this one.
        if before.as_ref().is_none_or(|before| before.way != now.way) {
            known.clear();
        }
        before = Some(Arc::clone(&now));
        let missing = tokio::select! {
            missing = look_up(&now, &mut known) => missing,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        let opened = follow(&now, &known, &mut kept);
        for (place, index, address) in opened {
            let (wanted, receiver) = watch::channel(Wanted::Yes);
            let there = Arc::new(There::new(Arc::clone(&arrived)));
            let keeper = Keeper { place: place.clone(), index, wanted: receiver, there: Arc::clone(&there) };
            keepers.spawn(keeper.keep(Arc::clone(&site), lifeline.clone()));
            kept.push(Kept { place, index, address, leaving: false, wanted, there });
        }
        let wait = if missing {
            backoff.next_wait(Ended::Lost(None), draw).max(Duration::from_secs(1))
        } else {
            backoff = Backoff::default();
            LOOK_UP
        };
        let mut waited = std::pin::pin!(sleep(wait));
        let stopped = loop {
            let_go(&mut kept);
            tokio::select! {
                () = arrived.notified() => {}
                () = &mut waited => break false,
                Ok(()) = wake.changed() => break false,
                Ok(()) = route.changed() => break false,
                _ = stop.wait_for(|stop| *stop) => break true,
            }
        };
        if stopped {
            break;
        }
        while keepers.try_join_next().is_some() {}
    }
    while keepers.join_next().await.is_some() {}
}

/// Tells every connection whether it is wanted, and gives those that are to be opened.
fn follow(route: &Route, known: &Known, kept: &mut Vec<Kept>) -> Vec<(Place, u32, GatewayAddress)> {
    // Nobody listens any more: its connection has fallen, and was not dialled again.
    kept.retain(|kept| !kept.wanted.is_closed());
    let mut found: Vec<(&GatewayAddress, Place)> = Vec::new();
    for address in &route.addresses {
        for target in known.get(address).into_iter().flatten() {
            let place = Place { target: target.clone(), way: route.way.clone() };
            if found.len() < MAX_TARGETS && !found.iter().any(|(_, other)| *other == place) {
                found.push((address, place));
            }
        }
    }
    let named = |kept: &Kept| kept.place.way == route.way && route.addresses.contains(&kept.address);
    let lines = kept.iter().map(|kept| Line { place: kept.place.clone(), index: kept.index, named: named(kept) });
    let places: Vec<_> = found.iter().map(|(_, place)| place.clone()).collect();
    let Plan { fates, open } = plan(&lines.collect::<Vec<_>>(), &places, route.connections);
    for (kept, fate) in kept.iter_mut().zip(fates) {
        kept.leaving = fate == Fate::Leave;
        let wanted = if fate == Fate::LetFall { Wanted::WhileItHolds } else { Wanted::Yes };
        kept.wanted.send_if_modified(|before| std::mem::replace(before, wanted) != wanted);
    }
    let under = |place: &Place| found.iter().find(|(_, other)| other == place).map(|(address, _)| (*address).clone());
    let opened = open.into_iter().filter_map(|(place, index)| {
        let address = under(&place)?;
        Some((place, index, address))
    });
    opened.collect()
}

/// Lets those go that are to leave, once another is registered that stays.
fn let_go(kept: &mut Vec<Kept>) {
    if kept.iter().any(|kept| !kept.leaving && kept.there.is()) {
        kept.retain(|kept| {
            if kept.leaving {
                tracing::info!(gateway = %kept.place.target, index = kept.index, "this connection is not wanted any more");
                kept.wanted.send_replace(Wanted::No);
            }
            !kept.leaving
        });
    }
}

/// Looks up every name. One that cannot be looked up keeps what it stood for. True when some name
/// stands for nothing.
async fn look_up(route: &Route, known: &mut Known) -> bool {
    known.retain(|address, _| route.addresses.contains(address));
    for address in &route.addresses {
        match route.way.reach.targets(address).await {
            Ok(found) => {
                known.insert(address.clone(), found);
            }
            Err(why) => tracing::warn!(%address, "the gateway's address cannot be looked up: {why}"),
        }
    }
    route.addresses.iter().any(|address| known.get(address).is_none_or(Vec::is_empty))
}
