//! Webhooks that are asked again while a reply streams.
//!
//! Invariant: what ends a request here is what would have refused it at the beginning: a denial, or
//! no answer where `on_error` does not let that pass; who is asked, and whether a failure passes, is
//! what the grants say by then. The asking ends with the request.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::domain::refusal::Refusal;
use crate::domain::webhook::Hooked;
use crate::gate::allow::{ROUNDS, hear, over, period, settle};
use crate::gate::route::Routed;
use crate::gate::subject::Subject;
use crate::gate::{Gateway, View};

/// How often it is looked whether it is time.
const LOOK: Duration = Duration::from_secs(1);

/// A task that asks again, until it is dropped.
#[derive(Debug)]
pub struct Revalidation(JoinHandle<()>);

impl Drop for Revalidation {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// From now on asks again about a request whose reply streams, if one of its webhooks wants that.
pub fn revalidate(gateway: &Arc<Gateway>, routed: &mut Routed, view: &View, subject: Subject) {
    let admitted = &mut routed.admitted;
    if !admitted.request.stream || period(view, &admitted.hooks).is_none() {
        return;
    }
    let asking = again(Arc::clone(gateway), admitted.hooks.clone(), subject);
    admitted.live.revalidated_by(Revalidation(tokio::spawn(asking)));
}

async fn again(gateway: Arc<Gateway>, mut hooks: Vec<Hooked>, subject: Subject) {
    // Beyond what was asked before the request went on.
    for turn in ROUNDS.. {
        // A reload may have changed how often.
        let Some(pause) = period(&gateway.view(), &hooks) else { return };
        let due = gateway.clock.steady() + pause;
        while gateway.clock.steady() < due {
            sleep(LOOK).await;
        }
        let view = gateway.view();
        // A word of two may have been taken back since.
        let decided = subject.live().facts().decide(&view, gateway.clock.now());
        let settled = match decided {
            Ok(decided) => {
                hooks = decided.hooks;
                once(&view, &hooks, (&subject, turn)).await
            }
            Err(refusal) => Err(refusal),
        };
        if let Err(refusal) = settled {
            subject.live().end(refusal);
            return;
        }
    }
}

async fn once(view: &View, hooks: &[Hooked], (subject, turn): (&Subject, u32)) -> Result<(), Refusal> {
    let wanted: Vec<Hooked> =
        hooks.iter().filter(|hooked| period(view, std::slice::from_ref(hooked)).is_some()).cloned().collect();
    let heard = hear(view, &wanted, subject, (true, turn)).await?;
    for (name, narrowing) in settle(&heard)? {
        if let Some(at) = narrowing.expires_at {
            subject.live().limit(at, over(&name));
        }
    }
    Ok(())
}
