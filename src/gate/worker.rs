//! One thread of the request path: its own runtime, listener, upstream connections and live
//! requests. Nothing on the request path crosses threads.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use aws_lc_rs::rand;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::runtime;
use tokio::task::AbortHandle;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::backend::pool::Pools;
use crate::domain::refusal::Refusal;
use crate::gate::Gateway;
use crate::gate::arrival::Admission;
use crate::gate::connection::{Order, Patience, Supervised};
use crate::gate::listener;
use crate::gate::live::LiveRequests;
use crate::gate::used::UsedKeys;

/// How often live requests are compared with what is in force now.
const LIVE_TICK: Duration = Duration::from_millis(100);
/// Connections are looked at every so many ticks.
const CONNECTION_TICKS: u32 = 10;
/// Used keys are told of every so many ticks.
const USED_TICKS: u32 = 5;
/// From the end of the drain, for connectors to be told of the end.
const FAREWELL: Duration = Duration::from_secs(2);
const BACKLOG: i32 = 4096;

/// What the requests of one thread share.
#[derive(Debug)]
pub struct Worker {
    /// What all threads share.
    pub gateway: Arc<Gateway>,
    /// Upstream connections of this thread.
    pub pools: Pools,
    /// Requests in flight in this thread.
    pub live: LiveRequests,
    /// Keys that were used in this thread and are not yet told of.
    pub used: UsedKeys,
    connections: Mutex<Vec<Weak<Supervised>>>,
    dice: AtomicU64,
}

impl Worker {
    fn new(gateway: Arc<Gateway>) -> Self {
        let mut seed = [0; 8];
        // The dice only spread load; any seed will do.
        let _ = rand::fill(&mut seed).is_ok();
        Self {
            gateway,
            pools: Pools::default(),
            live: LiveRequests::default(),
            used: UsedKeys::default(),
            connections: Mutex::default(),
            dice: AtomicU64::new(u64::from_ne_bytes(seed)),
        }
    }

    /// A number below `below`, evenly spread; 0 when `below` is 0. For spreading load, not for
    /// secrets (`SplitMix64`).
    pub fn draw(&self, below: u64) -> u64 {
        let mut z = self.dice.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)).checked_rem(below).unwrap_or(0)
    }

    /// Puts a connection under the sweeper's eye.
    pub fn watch(&self, supervised: &Arc<Supervised>) {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(supervised));
    }

    /// Keeps time for connections and live requests, until the drain is over.
    async fn sweep(&self, patience: Patience, accepting: &AbortHandle) {
        let mut tick = interval(LIVE_TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut seen = 0;
        let mut drain_ends = None;
        let mut quiet = false;
        for count in 0u32.. {
            tick.tick().await;
            let now = Instant::now();
            let view = self.gateway.view();
            if view.generation != seen {
                seen = view.generation;
                self.live.decide_again(&view, self.gateway.clock.now());
            } else {
                self.live.end_expired(&view, self.gateway.clock.now());
            }
            self.live.close_stuck(now, patience);
            if count.is_multiple_of(USED_TICKS) {
                self.used.tell(&self.gateway.claims);
            }
            if count.is_multiple_of(CONNECTION_TICKS) {
                self.each_connection(|connection| connection.sweep(now, patience));
                self.pools.sweep(now);
            }
            if self.gateway.is_draining() {
                accepting.abort();
                self.each_connection(|connection| connection.give(Order::Drain));
                let mut ends = *drain_ends.get_or_insert(now + view.settings.config.listen.drain);
                if self.gateway.is_hurried() {
                    ends = ends.min(now);
                    drain_ends = Some(ends);
                }
                if now >= ends {
                    self.live.end_all(&Refusal::Overloaded("The gateway is shutting down."));
                }
                let too_late = now >= ends + Duration::from_secs(1);
                if too_late {
                    self.each_connection(|connection| connection.give(Order::Close));
                }
                if !quiet && (too_late || (self.live.count() == 0 && self.each_connection(|_| ()) == 0)) {
                    quiet = true;
                    self.gateway.worker_is_quiet();
                }
                // A tunnel is on one worker and carries requests of all: the last one lets go of it.
                if quiet && self.gateway.all_are_quiet() {
                    self.gateway.tunnels.finish();
                    if self.gateway.tunnels.is_empty() || now >= ends + FAREWELL {
                        return;
                    }
                }
            }
        }
    }

    /// Does something with each open connection; gives their number.
    fn each_connection(&self, act: impl Fn(&Supervised)) -> usize {
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        connections.retain(|connection| connection.upgrade().inspect(|connection| act(connection)).is_some());
        connections.len()
    }
}

/// The threads of the request path.
#[derive(Debug)]
pub struct Workers {
    threads: Vec<JoinHandle<()>>,
    address: SocketAddr,
}

impl Workers {
    /// Starts `count` threads that share `address`.
    ///
    /// # Errors
    ///
    /// When the address cannot be bound, or a thread cannot be started.
    pub fn start(gateway: &Arc<Gateway>, address: SocketAddr, count: usize, patience: Patience) -> io::Result<Self> {
        let listeners = bind(address, count)?;
        let address = listeners.first().map_or(Ok(address), TcpListener::local_addr)?;
        let listen = &gateway.view().settings.config.listen;
        let admission = Arc::new(Admission::new(listen.max_connections, listen.max_connections_per_address));
        let mut threads = Vec::new();
        for (index, listener) in listeners.into_iter().enumerate() {
            let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
            let gateway = Arc::clone(gateway);
            let admission = Arc::clone(&admission);
            gateway.worker_begins();
            let run = move || {
                runtime.block_on(async move {
                    let worker = Arc::new(Worker::new(gateway));
                    let accepting = tokio::spawn(listener::run(Arc::clone(&worker), listener, admission));
                    worker.sweep(patience, &accepting.abort_handle()).await;
                    worker.used.tell(&worker.gateway.claims);
                });
            };
            threads.push(thread::Builder::new().name(format!("worker-{index}")).spawn(run)?);
        }
        Ok(Self { threads, address })
    }

    /// Where the threads listen.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until the gateway was told to drain and all threads are done.
    pub fn join(self) {
        for thread in self.threads {
            // A panic of a worker has been counted and logged where it happened.
            let _ = thread.join().is_ok();
        }
    }
}

/// Binds one address `count` times. A first bind without `SO_REUSEPORT` finds out whether another
/// process has the port: with the option, two gateways would silently share the traffic.
fn bind(address: SocketAddr, count: usize) -> io::Result<Vec<TcpListener>> {
    let open = |address: SocketAddr, share: bool| -> io::Result<TcpListener> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        if address.is_ipv6() {
            socket.set_only_v6(false)?;
        }
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(share)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(socket.into())
    };
    let alone = open(address, false)?;
    let address = alone.local_addr()?;
    if count <= 1 {
        return Ok(vec![alone]);
    }
    drop(alone);
    (0..count).map(|_| open(address, true)).collect()
}
