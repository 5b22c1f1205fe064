//! Looks after all tunnels: what is revoked, what has ended, what a reload changes, what has to
//! drain; and who has come and gone.
//!
//! Invariant: a tunnel is judged by every new view, and by the clock, within `TICK`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval};

use crate::domain::timestamp::Timestamp;
use crate::gate::{Gateway, View};
use crate::overlay::hub::tunnel::{End, Tunnel, connector_name};
use crate::overlay::protocol::Word;

const TICK: Duration = Duration::from_millis(100);

/// Judges the tunnels of `gateway` again and again. Ends when its task is ended.
pub async fn watch(gateway: Arc<Gateway>) {
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut drained = false;
    loop {
        tick.tick().await;
        let (view, now) = (gateway.view(), gateway.clock.now());
        for tunnel in gateway.tunnels.all() {
            if let Some(end) = judge(&tunnel, &view, now) {
                tunnel.close(end);
            }
        }
        if gateway.is_draining() && !drained {
            drained = true;
            let span = view.settings.config.listen.drain;
            gateway.tunnels.all().iter().for_each(|tunnel| tunnel.drain(Word::SHUTDOWN, span));
        }
    }
}

/// Why a tunnel has to end, if it has to.
fn judge(tunnel: &Tunnel, view: &View, now: Timestamp) -> Option<End> {
    let holder = &tunnel.holder;
    if now >= holder.peer.not_after {
        return Some(End::Expired);
    }
    // Each has its own mark: one that enters between two looks is judged by the next.
    if tunnel.judged.swap(view.generation, Ordering::Relaxed) == view.generation {
        return None;
    }
    if view.snapshot.denies(&holder.peer) {
        return Some(End::Revoked);
    }
    // A reload may have taken the authority away.
    let verified = view.settings.connectors.as_ref().and_then(|connectors| connectors.identify(&holder.chain));
    match verified {
        Some(peer) if connector_name(&peer.identity) == Some(&*holder.name) => None,
        Some(_) | None => Some(End::Revoked),
    }
}

/// Tells which connectors have come and gone, as pairs of a name and whether it is there. `tell` may
/// block. What comes and goes between two looks is not told.
pub async fn announce(gateway: Arc<Gateway>, tell: impl Fn(&str, bool) + Send + Sync + 'static) {
    let tell = Arc::new(tell);
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut before = BTreeSet::new();
    loop {
        tick.tick().await;
        let now: BTreeSet<Arc<str>> =
            gateway.tunnels.all().iter().map(|tunnel| Arc::clone(&tunnel.holder.name)).collect();
        let gone = before.difference(&now).map(|name| (Arc::clone(name), false));
        let come = now.difference(&before).map(|name| (Arc::clone(name), true));
        let news: Vec<_> = gone.chain(come).collect();
        before = now;
        if !news.is_empty() {
            let tell = Arc::clone(&tell);
            // A panic in there is in the log; the next news are told all the same.
            let telling = spawn_blocking(move || news.iter().for_each(|(name, there)| tell(name, *there)));
            let _ = telling.await.is_ok();
        }
    }
}
