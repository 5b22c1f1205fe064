//! The connector's end of the control stream.
//!
//! Invariant: how a backend is is known before it is offered. A gateway takes what is offered to be up, and
//! the links of a process share what is said: a `down` that is only a guess could overtake, on one link, the
//! `up` of another.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::{RecvStream, SendStream};
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::holder::reach::Target;
use crate::overlay::agent::site::Site;
use crate::overlay::protocol::lines::Lines;
use crate::overlay::protocol::{
    FromConnector, FromGateway, Health, MAX_STREAMS, Register, Registered, Retry, State, VERSION, Word, decode, encode,
};

/// How often the state of every backend is said, changed or not.
const EVERY: Duration = Duration::from_secs(30);
/// How long the gateway may take to make room for an object.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the gateway said, for the connection.
#[derive(Debug)]
pub(super) enum Event {
    /// Requests may come.
    Registered,
    /// The gateway is about to close the connection.
    Drain { deadline: Duration, replaced: bool },
    /// The gateway closes the connection.
    Error { code: String, retry: Retry, after: Option<Duration> },
    /// The stream is over.
    Broken(String),
}

/// What the connection has the control stream say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Order {
    /// Nothing special.
    Stay,
    /// That we are about to leave.
    Drain,
    /// Nothing more: requests have ended.
    End,
}

/// Who registers, and where.
#[derive(Debug)]
pub(super) struct Who {
    pub(super) connector: String,
    pub(super) index: u32,
    pub(super) gateway: Target,
}

/// Both halves of the stream.
pub(super) struct Stream {
    pub(super) receive: RecvStream,
    pub(super) send: SendStream<Bytes>,
}

/// Speaks until the stream is over or it is told to end it.
pub(super) async fn speak(
    site: Arc<Site>,
    who: Who,
    mut stream: Stream,
    mut orders: watch::Receiver<Order>,
    events: mpsc::Sender<Event>,
) {
    let over = match converse(&site, &who, &mut stream, &mut orders, &events).await {
        Ok(()) => {
            // The connection closes when this stream, its last one, has ended on both sides.
            let _ = stream.send.send_data(Bytes::new(), true).is_ok();
            return;
        }
        Err(why) => Event::Broken(why),
    };
    let _ = events.send(over).await.is_ok();
}

async fn converse(
    site: &Site,
    who: &Who,
    stream: &mut Stream,
    orders: &mut watch::Receiver<Order>,
    events: &mpsc::Sender<Event>,
) -> Result<(), String> {
    let offers = site.offers();
    let names: Vec<_> = offers.iter().map(|offer| offer.name.clone()).collect();
    let mut leaving = orders.clone();
    tokio::select! {
        () = site.knows(&names) => {}
        _ = leaving.wait_for(|order| *order != Order::Stay) => {}
    }
    let register = Register {
        protocol: VERSION,
        connector: who.connector.clone(),
        instance_id: site.instance_id.clone(),
        conn_index: who.index,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        backends: offers,
        max_streams: MAX_STREAMS,
    };
    say(&mut stream.send, &FromConnector::Register(register)).await?;
    let mut health = site.health.subscribe();
    let mut said = BTreeMap::new();
    let mut tick = interval(EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut lines = Lines::default();
    let mut announced = false;
    loop {
        tokio::select! {
            data = poll_fn(|context| stream.receive.poll_data(context)) => {
                let data = data.ok_or("the gateway ended the control stream")?.map_err(|error| error.to_string())?;
                lines.push(&data);
                while let Some(line) = lines.next_line().map_err(|fault| fault.to_string())? {
                    if let Some(message) = decode(&line).map_err(|fault| fault.to_string())? {
                        hear(message, who, events).await;
                    }
                }
                let _ = stream.receive.flow_control().release_capacity(data.len()).is_ok();
            }
            _ = tick.tick() => {
                said.clear();
                tell_health(&names, &mut stream.send, &mut health, &mut said).await?;
            }
            Ok(()) = health.changed() => tell_health(&names, &mut stream.send, &mut health, &mut said).await?,
            changed = orders.changed() => {
                let order = *orders.borrow_and_update();
                match order {
                    _ if changed.is_err() => return Ok(()),
                    Order::Stay => {}
                    // Where nothing was under way, the end comes before the drain could be said.
                    Order::Drain | Order::End if !announced => {
                        say(&mut stream.send, &FromConnector::Drain {}).await?;
                        announced = true;
                        if order == Order::End {
                            return Ok(());
                        }
                    }
                    Order::Drain => {}
                    Order::End => return Ok(()),
                }
            }
        }
    }
}

/// Says of each backend that this connection has declared how it is, unless that was said before. One
/// that a reload has taken away gets no more requests, and one that has not answered yet gets none on a guess.
async fn tell_health(
    names: &[String],
    send: &mut SendStream<Bytes>,
    health: &mut watch::Receiver<BTreeMap<String, Option<State>>>,
    said: &mut BTreeMap<String, State>,
) -> Result<(), String> {
    let states = health.borrow_and_update().clone();
    for name in names {
        let state = states.get(name).map_or(State::Draining, |state| state.unwrap_or(State::Down));
        if said.insert(name.clone(), state) != Some(state) {
            say(send, &FromConnector::Health(Health { backend: name.clone(), state })).await?;
        }
    }
    Ok(())
}

async fn hear(message: FromGateway, Who { gateway, index, .. }: &Who, events: &mpsc::Sender<Event>) {
    let event = match message {
        FromGateway::Registered(Registered { accepted, refused, server_time }) => {
            tracing::info!(%gateway, index, accepted = accepted.join(","), server_time, "registered");
            for refused in refused {
                tracing::warn!(%gateway, index, backend = refused.name, code = %refused.code, "the gateway sends no requests for this name: its config does not give it to this connector");
            }
            Event::Registered
        }
        FromGateway::Drain { reason, deadline_s } => {
            let replaced = reason.as_str() == Word::REPLACED;
            // It was us who have dialled anew.
            if !replaced {
                tracing::info!(%gateway, index, %reason, deadline_s, "the gateway drains this connection");
            }
            Event::Drain { deadline: Duration::from_secs(deadline_s.into()), replaced }
        }
        FromGateway::Error { code, retry, retry_after_s } => {
            let after = retry_after_s.map(|seconds| Duration::from_secs(seconds.into()));
            tracing::debug!(%gateway, index, %code, ?retry, ?after, "the gateway closes this connection");
            Event::Error { code: code.to_string(), retry, after }
        }
    };
    let _ = events.send(event).await.is_ok();
}

/// Sends an object, as soon as there is room.
async fn say(send: &mut SendStream<Bytes>, message: &FromConnector) -> Result<(), String> {
    let mut line = encode(message).map_err(|fault| fault.to_string())?;
    while !line.is_empty() {
        send.reserve_capacity(line.len());
        if send.capacity() == 0 {
            let room = timeout(PATIENCE, poll_fn(|context| send.poll_capacity(context))).await;
            let room = room.map_err(|_| "the gateway does not read the control stream".to_owned())?;
            room.ok_or("the control stream is closed")?.map_err(|error| error.to_string())?;
        }
        let piece = line.split_to(send.capacity().min(line.len()));
        if !piece.is_empty() {
            send.send_data(piece, false).map_err(|error| error.to_string())?;
        }
    }
    Ok(())
}
