//! Which addresses are dialled: all that the configured names stand for, so that every replica of a
//! gateway has a tunnel.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::config::GatewayAt;
use crate::holder::reach::Target;
use crate::overlay::agent::keep::{Keeper, Lifeline};
use crate::overlay::agent::site::{Site, draw};
use crate::overlay::backoff::{Backoff, Ended};

/// How often names are looked up while they can be.
const LOOK_UP: Duration = Duration::from_secs(60);
/// Most addresses that are dialled.
const MAX_TARGETS: usize = 64;

/// Keeps connections to every address, until it is told to stop and all of them have ended.
pub(super) async fn dial_all(site: Arc<Site>, gateway: GatewayAt, lifeline: Lifeline) {
    let mut keepers = JoinSet::new();
    // For each address: whether it is still wanted.
    let mut wanted: HashMap<Target, watch::Sender<bool>> = HashMap::new();
    let mut known: HashMap<usize, Vec<Target>> = HashMap::new();
    let (mut stop, mut wake) = (lifeline.stop.clone(), lifeline.wake.clone());
    let mut backoff = Backoff::default();
    loop {
        let missing = look_up(&site, &gateway, &mut known).await;
        let targets: HashSet<_> = known.values().flatten().take(MAX_TARGETS).cloned().collect();
        wanted.retain(|target, sender| {
            sender.send_if_modified(|wanted| {
                std::mem::replace(wanted, targets.contains(target)) != targets.contains(target)
            });
            // Nobody listens any more: its connections have fallen, and were not dialled again.
            !sender.is_closed()
        });
        for target in targets {
            wanted.entry(target.clone()).or_insert_with(|| {
                let (sender, receiver) = watch::channel(true);
                for index in 0..gateway.connections {
                    let keeper = Keeper { target: target.clone(), index, wanted: receiver.clone() };
                    keepers.spawn(keeper.keep(Arc::clone(&site), lifeline.clone()));
                }
                sender
            });
        }
        let wait = if missing {
            backoff.next_wait(Ended::Lost(None), draw).max(Duration::from_secs(1))
        } else {
            backoff = Backoff::default();
            LOOK_UP
        };
        tokio::select! {
            () = sleep(wait) => {}
            Ok(()) = wake.changed() => {}
            _ = stop.wait_for(|stop| *stop) => break,
        }
        while keepers.try_join_next().is_some() {}
    }
    while keepers.join_next().await.is_some() {}
}

/// Looks up every name. One that cannot be looked up keeps what it stood for. True when some name
/// stands for nothing.
async fn look_up(site: &Site, gateway: &GatewayAt, known: &mut HashMap<usize, Vec<Target>>) -> bool {
    for (index, address) in gateway.addresses.iter().enumerate() {
        match site.reach.targets(address).await {
            Ok(found) => {
                known.insert(index, found);
            }
            Err(why) => tracing::warn!(%address, "the gateway's address cannot be looked up: {why}"),
        }
    }
    (0..gateway.addresses.len()).any(|index| known.get(&index).is_none_or(Vec::is_empty))
}
