//! The desk: what the gateway does on its `enroll` names, and what it does about certificates when
//! nobody asks.
//!
//! Invariant: whoever comes here is a stranger until a bundle's secret or a certificate's key has said
//! otherwise. Each connection is bounded in number, bytes and time; signing and the store are never on
//! the threads of the request path; every request leaves a record.

pub mod clerk;
mod http;
mod lists;
pub mod office;
mod record;
pub mod refusal;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use tokio::sync::{Semaphore, watch};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

pub use lists::listed;

use crate::clock::Clock;
use crate::enroll::office::{Office, Visitor};
use crate::enroll::refusal::Refusal;
use crate::gate::Gateway;
use crate::gate::arrival::Admission;
use crate::gate::connection::Patience;
use crate::gate::roles::{Arrived, RoleServer};

/// Connections at once, and from one address (IPv6: one /64).
const MAX_CONNECTIONS: u32 = 256;
const MAX_CONNECTIONS_PER_ADDRESS: u32 = 64;
/// Longer than the store waits for another process.
const SIGNING: Duration = Duration::from_secs(15);
/// How long open connections may take to end when the gateway stops.
const LAST: Duration = Duration::from_secs(2);

/// Serves the `enroll` names. Cheap to clone; every clone is the same desk.
#[derive(Clone, Debug)]
pub struct Desk(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// `None` while no name is for enrollment.
    office: ArcSwapOption<Office>,
    /// The newest list of what is revoked, in DER.
    list: ArcSwapOption<Bytes>,
    admission: Arc<Admission>,
    open: Semaphore,
    /// One at a time: the store takes one writer, and threads that wait for it would only be threads.
    turn: Arc<Semaphore>,
    closing: watch::Sender<bool>,
    patience: Patience,
}

impl Desk {
    /// A desk that signs in `office`, when there is one. A head, and a body, may take as long as
    /// `patience` has for heads.
    #[must_use]
    pub fn new(office: Option<Office>, patience: Patience) -> Self {
        Self(Arc::new(Shared {
            office: ArcSwapOption::from_pointee(office),
            list: ArcSwapOption::empty(),
            admission: Arc::new(Admission::new(MAX_CONNECTIONS, MAX_CONNECTIONS_PER_ADDRESS)),
            open: Semaphore::new(MAX_CONNECTIONS as usize),
            turn: Arc::new(Semaphore::new(1)),
            closing: watch::Sender::new(false),
            patience,
        }))
    }

    /// Signs in another office from now on: after a reload.
    pub fn replace(&self, office: Option<Office>) {
        self.0.office.store(office.map(Arc::new));
    }

    /// Takes no further request, and waits for a moment until those that came are answered: a bundle
    /// that was used must not lose its certificate on the way.
    pub async fn close(&self) {
        self.0.closing.send_replace(true);
        drop(timeout(LAST, self.0.open.acquire_many(MAX_CONNECTIONS)).await);
    }

    fn office(&self) -> Result<Arc<Office>, Refusal> {
        self.0.office.load_full().ok_or_else(|| Refusal::unavailable("no name is for enrollment any more"))
    }

    /// Does what blocks, and waits for its turn.
    async fn sign<T: Send + 'static>(
        &self,
        gateway: &Arc<Gateway>,
        visitor: Visitor,
        work: impl FnOnce(&Office, &Visitor, &Clock) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        let gone = || Refusal::unavailable("the signing broke off");
        let (office, clock) = (self.office()?, gateway.clock.clone());
        let turn = Arc::clone(&self.0.turn);
        let done = async {
            let turn = turn.acquire_owned().await.map_err(|_| gone())?;
            let done = spawn_blocking(move || {
                let _turn = turn;
                work(&office, &visitor, &clock)
            });
            done.await.map_err(|_| gone())?
        };
        timeout(SIGNING, done).await.unwrap_or_else(|_| Err(Refusal::too_slow()))
    }
}

impl RoleServer for Desk {
    fn serve(&self, arrived: Arrived) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let desk = self.clone();
        Box::pin(async move {
            let (Some(_place), Ok(_open)) =
                (desk.0.admission.enter_from(arrived.peer.address), desk.0.open.try_acquire())
            else {
                return arrived.gateway.metrics.connection_turned_away();
            };
            http::connection(&desk, arrived).await;
        })
    }
}
