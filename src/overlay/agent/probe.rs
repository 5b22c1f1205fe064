//! How a backend is: asked once for all connections, with a request that costs it nothing.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{sleep, timeout};

use crate::backend::Upstream;
use crate::overlay::agent::offered::Served;
use crate::overlay::agent::site::Site;
use crate::overlay::protocol::State;

/// From one question to the next.
const EVERY: Duration = Duration::from_secs(5);
/// The same while the backend is down: everybody waits for it.
const EVERY_WHILE_DOWN: Duration = Duration::from_secs(1);
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(4);
/// A backend that was up is called down only when it has failed so often in a row.
const FAILURES: u32 = 2;
/// Longest answer that is read, in bytes; of a longer one the connection is closed.
const MAX_ANSWER: usize = 64 * 1024;

/// Asks a backend again and again, and says in `site.health` how it is.
pub(super) async fn probe(site: Arc<Site>, served: Arc<Served>) {
    let name = served.name();
    let (mut failures, mut said) = (0, None);
    loop {
        let answer = timeout(PATIENCE, ask(&site, &served.upstream, &served.site.probe)).await;
        let answer = answer.unwrap_or_else(|_| Err("no answer in time".to_owned()));
        failures = if answer.is_ok() { 0 } else { failures + 1 };
        let state = match said {
            Some(State::Up) if (1..FAILURES).contains(&failures) => State::Up,
            _ if failures == 0 => State::Up,
            _ => State::Down,
        };
        if said != Some(state) {
            match &answer {
                Ok(()) => tracing::info!(backend = name, "the backend is up"),
                Err(why) => tracing::warn!(backend = name, "the backend is down: {why}"),
            }
            said = Some(state);
        }
        site.health
            .send_if_modified(|health| health.get_mut(name).is_some_and(|before| before.replace(state) != Some(state)));
        sleep(if state == State::Up { EVERY } else { EVERY_WHILE_DOWN }).await;
    }
}

/// Any answer below 500 is one: a server that has no such path is there all the same.
async fn ask(site: &Site, upstream: &Arc<Upstream>, path: &str) -> Result<(), String> {
    let pool = site.pools.of(upstream);
    // A new connection: an idle one may be closed already, and whether it can be opened is the point.
    let mut lease = pool.lease_new(upstream).await.map_err(|error| error.to_string())?;
    let mut head = Vec::from(b"GET ");
    for part in [upstream.base_path.as_bytes(), path.as_bytes(), b" HTTP/1.1\r\nhost: ", upstream.host.as_bytes()] {
        head.extend_from_slice(part);
    }
    head.extend_from_slice(b"\r\naccept: */*\r\nconnection: close\r\n\r\n");
    let (status, _) = lease.exchange(vec![Bytes::from(head)]).await.map_err(|failure| failure.to_string())?;
    let mut read = 0;
    while let Some(data) = poll_fn(|context| lease.poll_body(context)).await {
        read += data.map_err(|error| error.to_string())?.len();
        if read > MAX_ANSWER {
            break;
        }
    }
    if status.is_server_error() { Err(format!("it answers {status}")) } else { Ok(()) }
}
