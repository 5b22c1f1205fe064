//! One tunnel, from its handshake to its end.
//!
//! Invariant: what the certificate says is known before a word is read, and judged anew when the
//! connector registers; nothing is asked of the connector before it has, but to register.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use crate::gate::connection::Peer;
use crate::gate::roles::{Arrived, RoleServer};
use crate::gate::{Gateway, View};
use crate::overlay::hub::control::{Control, Driven, Ended, Opened, limit, open};
use crate::overlay::hub::pulse::{Beat, Pulse};
use crate::overlay::hub::tunnel::{End, Holder, Orders, Parts, Tunnel, connector_name, word};
use crate::overlay::hub::tunnels::{Entry, Tunnels};
use crate::overlay::protocol::{ALPN, FromConnector, FromGateway, Refused, Register, Registered, Retry, VERSION, Word};
use crate::telemetry::metrics::HandshakeFailure;

/// When a connector that is one too many may try again, in seconds.
const CLONE_RETRY: u32 = 60;
/// The code of a refusal that only time cures: what is revoked cannot be known at the moment.
const UNAVAILABLE: &str = "unavailable";
/// How long requests have to find out how they ended, when a connection has.
const READ_OUT: Duration = Duration::from_secs(1);

/// Serves the `connect` names.
#[derive(Debug)]
pub struct Hub(Arc<Tunnels>);

impl Hub {
    /// Its tunnels go into `tunnels`.
    #[must_use]
    pub const fn new(tunnels: Arc<Tunnels>) -> Self {
        Self(tunnels)
    }
}

impl RoleServer for Hub {
    fn serve(&self, arrived: Arrived) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let tunnels = Arc::clone(&self.0);
        Box::pin(async move { serve(&tunnels, arrived).await })
    }
}

async fn serve(tunnels: &Arc<Tunnels>, arrived: Arrived) {
    let Arrived { stream, peer, gateway, place: _place } = arrived;
    // Whoever offers no protocol at all has passed the handshake too.
    if stream.get_ref().1.alpn_protocol() != Some(ALPN) {
        return gateway.metrics.handshake_failed(HandshakeFailure::Protocol);
    }
    let address = peer.address;
    let Some(holder) = holder(&gateway.view(), peer) else {
        tracing::warn!(%address, "refused a connector: the certificate is not a connector's of this authority");
        return gateway.metrics.handshake_failed(HandshakeFailure::Certificate);
    };
    let until = Instant::now() + tunnels.pace().register;
    let opening = async {
        let mut opened = Box::pin(open(stream)).await?;
        let first = opened.control.next().await;
        Ok::<_, Ended>((opened, first))
    };
    let (opened, first) = match timeout_at(until, opening).await {
        Ok(Ok(begun)) => begun,
        Ok(Err(ended)) => {
            tracing::debug!(connector = %holder.name, %address, %ended, "a connector has left before it registered");
            return gateway.metrics.tunnels.refused("lost");
        }
        Err(_) => {
            tracing::warn!(connector = %holder.name, %address, "a connector has not registered in time");
            return gateway.metrics.tunnels.refused("late");
        }
    };
    Box::pin(registered(tunnels, &gateway, holder, opened, first)).await;
}

/// What metrics call a connector: only names in the config are labels.
fn label<'n>(tunnels: &Tunnels, connector: &'n str) -> &'n str {
    if tunnels.is_given_any(connector) { connector } else { "other" }
}

/// Who has dialled, if it is a connector.
fn holder(view: &View, peer: Peer) -> Option<Holder> {
    let verified = view.settings.connectors.as_ref()?.identify(&peer.chain)?;
    let name = connector_name(&verified.identity)?.into();
    Some(Holder { name, peer: verified, chain: peer.chain.into(), address: peer.address })
}

/// A refusal, as the connector is told of it.
struct No {
    code: &'static str,
    retry: Retry,
    after: Option<u32>,
}

impl No {
    const fn never(code: &'static str) -> Self {
        Self { code, retry: Retry::Never, after: None }
    }

    const fn later(code: &'static str, after: Option<u32>) -> Self {
        Self { code, retry: Retry::Later, after }
    }
}

/// Goes on with a connection whose first message has come, or something else in its place.
async fn registered(
    tunnels: &Arc<Tunnels>,
    gateway: &Arc<Gateway>,
    holder: Holder,
    opened: Opened,
    first: Result<FromConnector, Ended>,
) {
    let Opened { mut control, mut connection, requests, ping_pong } = opened;
    let name = Arc::clone(&holder.name);
    let entered = async {
        let register = check(gateway, &holder, first)?;
        let limit = limit(&requests, register.max_streams);
        if limit == 0 {
            return Err(No::never(Word::BAD_REGISTER));
        }
        let offers = tunnels.offers(&holder.name, &register);
        let counted = gateway.metrics.tunnels.one(label(tunnels, &holder.name));
        let parts = Parts { requests, offers, limit, since: gateway.clock.now(), counted };
        let tunnel = Arc::new(Tunnel::new(tunnels.next_number(), holder, &register, parts));
        enter(tunnels, &tunnel).await?;
        Ok(tunnel)
    };
    let tunnel = match entered.await {
        Ok(tunnel) => tunnel,
        Err(No { code, retry, after }) => {
            gateway.metrics.tunnels.refused(code);
            if let Some(code) = word(code) {
                control.say(&FromGateway::Error { code, retry, retry_after_s: after });
            }
            return control.part(connection).await;
        }
    };
    let Holder { address, .. } = tunnel.holder;
    tracing::info!(connector = %name, instance = %tunnel.instance, index = tunnel.index, %address, version = %tunnel.version, "a connector has registered");
    let _open = gateway.metrics.tunnels.opens();
    let ends =
        Ends { control: &mut control, connection: &mut connection, pulse: Pulse::new(ping_pong, tunnels.pace()) };
    let end = carry(tunnels, gateway, &tunnel, ends).await;
    tunnels.remove(&tunnel);
    if end == End::Lost {
        read_out(&tunnel).await;
    }
    gateway.metrics.tunnels.ended(label(tunnels, &name), end.as_str());
    tracing::info!(connector = %name, instance = %tunnel.instance, index = tunnel.index, reason = end.as_str(), "a tunnel has ended");
    // Before anything is said: what is cut is cut at once.
    tunnel.cut(match end {
        End::Lost | End::Drained => "the tunnel was lost",
        End::Silent => "the connector does not answer",
        End::Kicked | End::Replaced => "the tunnel was closed",
        End::Revoked | End::Expired => "the connector's certificate is not good any more",
        End::Protocol => "the connector does not keep to the protocol",
    });
    if let Some(message) = last_word(end) {
        control.say(&message);
    }
    control.part(connection).await;
}

/// A connection that has ended may have brought whole replies that nobody has read yet. Each request
/// finds that out by itself, or that its reply is not whole.
async fn read_out(tunnel: &Tunnel) {
    tunnel.leaves();
    let reading = async {
        while tunnel.streams() > 0 {
            tunnel.ordered().await;
            if tunnel.take_orders().close.is_some() {
                return;
            }
        }
    };
    // What is not over by then is cut.
    let _ = timeout(READ_OUT, reading).await.is_ok();
}

/// Reads the first message, and judges the certificate as of now.
fn check(gateway: &Gateway, holder: &Holder, first: Result<FromConnector, Ended>) -> Result<Register, No> {
    let bad = |why: &dyn std::fmt::Display| {
        tracing::warn!(connector = %holder.name, address = %holder.address, %why, "a connector has not registered");
        No::never(Word::BAD_REGISTER)
    };
    let register = match first {
        Ok(FromConnector::Register(register)) => register,
        Ok(FromConnector::Health(_) | FromConnector::Drain {}) => return Err(bad(&"something else came first")),
        Err(ended) => return Err(bad(&ended)),
    };
    if register.protocol != VERSION {
        return Err(bad(&format!("it speaks version {} of the protocol", register.protocol)));
    }
    if register.connector != *holder.name {
        return Err(bad(&format!("it calls itself {:?}", register.connector)));
    }
    let view = gateway.view();
    if view.snapshot.denies(&holder.peer) {
        tracing::warn!(connector = %holder.name, address = %holder.address, "refused a connector: its certificate is revoked");
        return Err(No::never(Word::REVOKED));
    }
    if view.stale || gateway.is_draining() {
        return Err(No::later(UNAVAILABLE, None));
    }
    Ok(register)
}

/// Lets a tunnel in. Before a second process is refused, the first one is asked whether it is still
/// there.
async fn enter(tunnels: &Tunnels, tunnel: &Arc<Tunnel>) -> Result<(), No> {
    // The second time, the dead ones are out; if others were quicker, those are alive.
    for _ in 0..2 {
        let others = match tunnels.enter(tunnel) {
            Entry::Entered(replaced) => {
                if let Some(replaced) = replaced {
                    // A certificate that was renewed, or a link that is dead: then PINGs will tell.
                    replaced.leaves();
                    replaced.drain(Word::REPLACED, tunnels.pace().drain);
                }
                return Ok(());
            }
            Entry::Full(others) => others,
        };
        for dead in silent(&others, tunnels.pace().probe).await {
            tunnels.remove(&dead);
            dead.close(End::Replaced);
        }
    }
    tracing::warn!(
        connector = %tunnel.holder.name, instance = %tunnel.instance, address = %tunnel.holder.address,
        "refused a connector: another process is connected with the same identity; is its key copied?"
    );
    Err(No::later(Word::DUPLICATE_INSTANCE, Some(CLONE_RETRY)))
}

/// The links of processes of which no link answers.
async fn silent(links: &[Arc<Tunnel>], patience: Duration) -> Vec<Arc<Tunnel>> {
    let asked = links.iter().map(|link| timeout(patience, link.probe()));
    let answers = join_all(asked).await;
    let mut alive: HashMap<&str, bool> = HashMap::new();
    for (link, answer) in links.iter().zip(&answers) {
        *alive.entry(&*link.instance).or_default() |= matches!(answer, Ok(Ok(())));
    }
    links.iter().filter(|link| alive.get(&*link.instance) == Some(&false)).cloned().collect()
}

/// `registered`: which names are accepted.
fn answer(gateway: &Gateway, tunnel: &Tunnel, accepted: &[Box<str>]) -> FromGateway {
    let offered = tunnel.offers().iter().map(|offer| &offer.name);
    let refused: Vec<_> = offered.filter(|name| !accepted.contains(name)).collect();
    if !refused.is_empty() {
        tracing::warn!(connector = %tunnel.holder.name, ?refused, "a connector offers names that the config does not give it");
    }
    FromGateway::Registered(Registered {
        accepted: accepted.iter().map(ToString::to_string).collect(),
        refused: refused
            .into_iter()
            .filter_map(|name| Some(Refused { name: name.to_string(), code: word(Word::NOT_PERMITTED)? }))
            .collect(),
        server_time: gateway.clock.now().to_string(),
    })
}

/// What a tunnel's task talks with.
struct Ends<'e> {
    control: &'e mut Control,
    connection: &'e mut Driven,
    pulse: Pulse,
}

/// Looks after a tunnel until it has to end.
async fn carry(tunnels: &Tunnels, gateway: &Gateway, tunnel: &Tunnel, ends: Ends<'_>) -> End {
    let Ends { control, connection, mut pulse } = ends;
    let mut told = tunnels.accepted(tunnel);
    control.say(&answer(gateway, tunnel, &told));
    let mut deadline = Deadline::default();
    let mut listening = true;
    loop {
        if tunnel.is_leaving() && tunnel.streams() == 0 {
            return End::Drained;
        }
        tokio::select! {
            biased;
            () = tunnel.ordered() => {
                let Orders { close, drain, finish, probes, renamed } = tunnel.take_orders();
                if let Some(end) = close {
                    return end;
                }
                if let Some((reason, span)) = drain {
                    deadline.order(Instant::now() + span, reason != Word::REPLACED);
                    let deadline_s = u32::try_from(span.as_secs()).unwrap_or(u32::MAX);
                    if let Some(reason) = word(reason) {
                        control.say(&FromGateway::Drain { reason, deadline_s });
                    }
                }
                let accepted = tunnels.accepted(tunnel);
                if renamed && accepted != told {
                    control.say(&answer(gateway, tunnel, &accepted));
                    told = accepted;
                }
                if finish {
                    tunnel.leaves();
                }
                pulse.ask(probes);
            }
            beat = pulse.beat() => match beat {
                Beat::Answered(span) => tunnel.answered_in(span),
                Beat::Asked => {}
                Beat::Silent => return End::Silent,
                Beat::Broken => return End::Lost,
            },
            message = control.next(), if listening => match message {
                Ok(FromConnector::Health(health)) => tunnel.set_health(&health.backend, health.state),
                Ok(FromConnector::Drain {}) => {
                    tunnel.leaves();
                    deadline.announce(Instant::now() + tunnels.pace().linger);
                }
                Ok(FromConnector::Register(_)) => return End::Protocol,
                Err(Ended::Wrong(fault)) => {
                    tracing::warn!(connector = %tunnel.holder.name, %fault, "a connector does not keep to the protocol");
                    return End::Protocol;
                }
                // Who leaves may end the control stream before the last reply.
                Err(Ended::Lost(_)) if tunnel.is_leaving() => listening = false,
                Err(Ended::Lost(_)) => return End::Lost,
            },
            () = deadline.over() => return End::Drained,
            () = connection.over() => return End::Lost,
        }
    }
}

/// When a tunnel ends, whatever is under way on it.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
struct Deadline {
    at: Option<Instant>,
    /// It was ordered, and nothing that the connector says moves it.
    firm: bool,
}

impl Deadline {
    /// It has to end by `at`. A link that has a successor, where that is not `firm`, has the time that
    /// its connector wants, once it wants any.
    fn order(&mut self, at: Instant, firm: bool) {
        if firm || self.at.is_none() {
            self.at = Some(self.at.map_or(at, |earlier| earlier.min(at)));
        }
        self.firm |= firm;
    }

    /// The connector has announced that it leaves: it ends the link itself, by `at` at the latest.
    fn announce(&mut self, at: Instant) {
        if !self.firm {
            self.at = Some(at);
        }
    }

    async fn over(self) {
        match self.at {
            Some(at) => sleep_until(at).await,
            None => std::future::pending().await,
        }
    }
}

/// What the connector is told when a tunnel ends for a reason of ours.
fn last_word(end: End) -> Option<FromGateway> {
    let error = |code, retry| Some(FromGateway::Error { code: word(code)?, retry, retry_after_s: None });
    let now = |reason| Some(FromGateway::Drain { reason: word(reason)?, deadline_s: 0 });
    match end {
        End::Revoked => error(Word::REVOKED, Retry::Never),
        End::Protocol => error(Word::BAD_MESSAGE, Retry::Later),
        End::Kicked => now(Word::OPERATOR),
        End::Expired => now(Word::CERT_EXPIRING),
        End::Lost | End::Silent | End::Drained | End::Replaced => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_leaves_has_the_time_that_it_wants_unless_it_is_told_to_go() {
        let now = Instant::now();
        let after = |seconds| now + Duration::from_secs(seconds);
        for (steps, expected) in [
            (&[(Some(false), 30)][..], 30),
            // It was replaced, and says that it ends by itself; in either order.
            (&[(Some(false), 30), (None, 3600)], 3600),
            (&[(None, 3600), (Some(false), 30)], 3600),
            // The gateway stops.
            (&[(None, 3600), (Some(true), 30)], 30),
            (&[(Some(true), 30), (None, 3600)], 30),
            (&[(Some(false), 30), (Some(true), 60), (None, 3600)], 30),
            (&[(Some(true), 60), (Some(true), 30)], 30),
        ] {
            let mut deadline = Deadline::default();
            for (ordered, seconds) in steps {
                match ordered {
                    Some(firm) => deadline.order(after(*seconds), *firm),
                    None => deadline.announce(after(*seconds)),
                }
            }
            assert_eq!(deadline.at, Some(after(expected)), "{steps:?}");
        }
    }
}
