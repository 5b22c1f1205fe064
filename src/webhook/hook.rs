//! One webhook at work: remembered decisions, questions under way, and what is left when it fails.
//!
//! Invariants: of equal questions at one moment one is sent; nothing is asked while the breaker is
//! open or `max_in_flight` questions are under way; a decision that was asked for before its holder was
//! forgotten is not remembered after it; the lock is never held across an `.await`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_lc_rs::hmac;
use bytes::Bytes;
use http::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue};
use rustc_hash::FxHashMap;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use crate::clock::Clock;
use crate::config::{OnError, Webhook};
use crate::domain::key::KeyId;
use crate::domain::owner::OwnerPath;
use crate::domain::timestamp::Timestamp;
use crate::domain::webhook::{Source, Verdict, WebhookName};
use crate::telemetry::webhooks::{Figures, Lookup};
use crate::webhook::answer::{self, Decision, Ruling};
use crate::webhook::breaker::{Breaker, Leave, Look};
use crate::webhook::cache::{Cache, Keep, Key};
use crate::webhook::client::Client;
use crate::webhook::question::Told;
use crate::webhook::runner::Runner;
use crate::webhook::sign;
use crate::webhook::trouble::Trouble;

/// How much longer than its time an exchange is waited for, should its thread be held up.
const SLACK: Duration = Duration::from_millis(500);

/// Whose decisions are remembered: for the shares of the cache, and for invalidation.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Holder {
    /// The caller's key.
    pub key: Option<KeyId>,
    /// The serial number of its certificate, or else what its token says of it.
    pub other: Option<Box<str>>,
    /// The owner of its key or token.
    pub owner: Option<OwnerPath>,
    /// The owner of its identity.
    pub identity_owner: Option<OwnerPath>,
}

/// A request that a webhook is asked about.
#[derive(Clone, Debug)]
pub struct Asking {
    /// What it is told.
    pub told: Arc<Told>,
    /// Whose request it is.
    pub holder: Arc<Holder>,
    /// The request's id.
    pub request_id: Arc<str>,
    /// How often it was asked about before.
    pub again: u32,
    /// The backends that may serve it.
    pub candidates: Arc<[Arc<str>]>,
    /// When the first of the caller's credentials ends.
    pub credential_ends: Timestamp,
    /// True when what is remembered does not count.
    pub anew: bool,
}

/// What came of asking one webhook.
#[derive(Clone, Debug)]
pub struct Heard {
    /// The webhook.
    pub name: WebhookName,
    /// Its decision and where that came from, or why there is none.
    pub result: Result<(Arc<Decision>, Source), Trouble>,
}

impl Heard {
    /// What it comes to.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        match &self.result {
            Ok((decision, _)) => match decision.ruling {
                Ruling::Allow(_) => Verdict::Allow,
                Ruling::Deny(_) => Verdict::Deny,
            },
            Err(_) => Verdict::Error,
        }
    }
}

/// What a question came to.
type Answered = Result<Arc<Decision>, Trouble>;

/// One webhook.
#[derive(Debug)]
pub struct Hook {
    webhook: Arc<Webhook>,
    client: Client,
    runner: Arc<Runner>,
    clock: Clock,
    figures: Figures,
    /// Keys of decisions are HMACs under this: callers cannot aim at one another's.
    secret: hmac::Key,
    /// What a request passes with when fail-open was chosen.
    fail_open: Arc<Decision>,
    desk: Mutex<Desk>,
}

#[derive(Default, Debug)]
struct Desk {
    cache: Cache<Arc<Holder>>,
    breaker: Breaker,
    flights: FxHashMap<Key, Flight>,
    under_way: u32,
    /// How many questions were sent.
    sent: u64,
}

/// A question under way, that equal ones join.
#[derive(Debug)]
struct Flight {
    number: u64,
    holder: Arc<Holder>,
    answer: watch::Receiver<Option<Answered>>,
}

/// How to get an answer.
enum Way {
    Remembered(Arc<Decision>),
    Join(watch::Receiver<Option<Answered>>),
    Send(watch::Receiver<Option<Answered>>),
    None(Trouble),
}

impl Hook {
    /// Makes ready to ask a webhook.
    ///
    /// # Errors
    ///
    /// When its server could not be verified, or there is no randomness.
    pub fn new(webhook: &Arc<Webhook>, runner: Arc<Runner>, clock: Clock, figures: Figures) -> Result<Self, String> {
        let mut secret = [0; 32];
        aws_lc_rs::rand::fill(&mut secret).map_err(|_| "there is no randomness".to_owned())?;
        Ok(Self {
            client: Client::new(webhook)?,
            webhook: Arc::clone(webhook),
            runner,
            clock,
            figures,
            secret: hmac::Key::new(hmac::HMAC_SHA256, &secret),
            fail_open: Arc::new(Decision {
                ruling: Ruling::Allow(answer::Narrowing::default()),
                reason: None,
                ttl: None,
            }),
            desk: Mutex::default(),
        })
    }

    /// What the config says of it.
    #[must_use]
    pub const fn webhook(&self) -> &Arc<Webhook> {
        &self.webhook
    }

    /// What it said of such a request before, if that counts without asking: what most requests need,
    /// at no more cost than to find it. Whoever goes by it says so with [`recalled`](Self::recalled).
    #[must_use]
    pub fn recall(&self, told: &Told) -> Option<Arc<Decision>> {
        if !told.memorable {
            return None;
        }
        let key = self.key(told);
        self.lock().cache.fresh(&key, self.clock.steady())
    }

    /// Goes by what it said before, and counts that.
    #[must_use]
    pub fn recalled(&self, decision: Arc<Decision>) -> Heard {
        self.figures.looked_up(Lookup::Hit);
        self.heard(Ok((decision, Source::Cached)))
    }

    fn heard(&self, result: Result<(Arc<Decision>, Source), Trouble>) -> Heard {
        let heard = Heard { name: self.webhook.name.clone(), result };
        self.figures.decided(heard.verdict());
        heard
    }

    /// Decides about a request: by what is remembered, by asking, or by what is to happen when that
    /// fails. `accept_fail_open` is the word of every grant that names this webhook.
    pub async fn decide(self: &Arc<Self>, asking: &Asking, accept_fail_open: bool) -> Heard {
        let key = self.key(&asking.told);
        let result = match self.find_way(key, asking) {
            Way::Remembered(decision) => return self.recalled(decision),
            Way::Join(answer) => {
                self.figures.looked_up(Lookup::Joined);
                self.wait(answer).await.map(|decision| (decision, Source::Fresh))
            }
            Way::Send(answer) => {
                self.figures.looked_up(Lookup::Miss);
                self.wait(answer).await.map(|decision| (decision, Source::Fresh))
            }
            Way::None(trouble) => {
                self.figures.failed(trouble.kind());
                Err(trouble)
            }
        };
        self.heard(result.or_else(|trouble| self.without_answer(&key, trouble, accept_fail_open)))
    }

    /// Forgets decisions of these holders; gives how many. What is asked for them at the moment will not
    /// be remembered, and is not joined any more.
    pub fn forget(&self, whose: impl Fn(&Holder) -> bool) -> usize {
        let mut desk = self.lock();
        desk.flights.retain(|_, flight| !whose(&flight.holder));
        desk.cache.forget(|holder| whose(holder))
    }

    fn key(&self, told: &Told) -> Key {
        let mut context = hmac::Context::with_key(&self.secret);
        context.update(told.as_bytes());
        let mut key = [0; 32];
        key.copy_from_slice(context.sign().as_ref());
        key
    }

    fn find_way(self: &Arc<Self>, key: Key, asking: &Asking) -> Way {
        let now = self.clock.steady();
        let mut desk = self.lock();
        if asking.told.memorable {
            if !asking.anew
                && let Some(decision) = desk.cache.fresh(&key, now)
            {
                return Way::Remembered(decision);
            }
            if let Some(flight) = desk.flights.get(&key) {
                return Way::Join(flight.answer.clone());
            }
        }
        if desk.under_way >= self.webhook.max_in_flight {
            return Way::None(Trouble::Busy);
        }
        let Some(leave) = desk.breaker.ask(now) else { return Way::None(Trouble::Resting) };
        self.figures.breaker(desk.breaker.look());
        desk.under_way += 1;
        desk.sent += 1;
        let (tell, answer) = watch::channel(None);
        let number = desk.sent;
        if asking.told.memorable {
            desk.flights.insert(key, Flight { number, holder: Arc::clone(&asking.holder), answer: answer.clone() });
        }
        let question = Question { hook: Arc::clone(self), key, number, leave: Some(leave), tell };
        drop(desk);
        // A task of its own: others may wait for it when this caller is gone.
        self.runner.spawn(question.run(asking.clone()));
        Way::Send(answer)
    }

    async fn wait(&self, mut answer: watch::Receiver<Option<Answered>>) -> Answered {
        let longest = self.webhook.timeout + SLACK;
        match timeout(longest, answer.wait_for(Option::is_some)).await {
            Ok(Ok(answered)) => answered.clone().unwrap_or(Err(Trouble::Lost)),
            Ok(Err(_)) => Err(Trouble::Lost),
            Err(_) => Err(Trouble::TimedOut),
        }
    }

    fn without_answer(
        &self,
        key: &Key,
        trouble: Trouble,
        accept_fail_open: bool,
    ) -> Result<(Arc<Decision>, Source), Trouble> {
        match self.webhook.on_error {
            OnError::Deny => Err(trouble),
            OnError::Stale => match self.lock().cache.stale(key, self.clock.steady()) {
                Some(decision) => {
                    self.figures.looked_up(Lookup::Stale);
                    Ok((decision, Source::Stale))
                }
                None => Err(trouble),
            },
            OnError::Allow if accept_fail_open => {
                self.figures.looked_up(Lookup::FailOpen);
                Ok((Arc::clone(&self.fail_open), Source::FailOpen))
            }
            OnError::Allow => Err(trouble),
        }
    }

    /// The headers of a message.
    fn headers(&self, id: &str, now: Timestamp, body: &[u8]) -> HeaderMap {
        let seconds = now.as_seconds();
        let signature = sign::sign(&self.webhook.secrets, id, seconds, body);
        let mut headers = HeaderMap::with_capacity(8);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        headers.insert(USER_AGENT, HeaderValue::from_static("doorward-webhook/1"));
        headers.insert(HeaderName::from_static(sign::TIMESTAMP), HeaderValue::from(seconds));
        // Both are ASCII that was made here.
        for (name, value) in [(sign::ID, id), (sign::SIGNATURE, signature.as_str())] {
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(HeaderName::from_static(name), value);
            }
        }
        headers
    }

    fn lock(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Asking {
    /// What the message is known by: receivers refuse one that they have seen. The first is named after
    /// the request alone, one that is asked about it again has its number behind.
    #[must_use]
    pub fn message_id(&self) -> String {
        let Self { request_id, again, .. } = self;
        if *again == 0 { format!("dec_{request_id}") } else { format!("dec_{request_id}_{again}") }
    }
}

/// Asks a webhook once, outside of everything that bounds and remembers.
///
/// # Errors
///
/// Why there is no answer that counts.
pub async fn ask_once(hook: &Hook, asking: &Asking) -> Result<Decision, Trouble> {
    let now = hook.clock.now();
    let body = asking.told.message(&asking.request_id, now);
    let headers = hook.headers(&asking.message_id(), now, &body);
    let exchange = hook.client.post(&headers, Bytes::from(body));
    let body = timeout(hook.webhook.timeout, exchange).await.unwrap_or(Err(Trouble::TimedOut))?;
    answer::read(&body, &asking.request_id, &hook.webhook.allow_overrides, &asking.candidates)
}

/// A question under way. However it ends, its place is given back.
struct Question {
    hook: Arc<Hook>,
    key: Key,
    number: u64,
    leave: Option<Leave>,
    tell: watch::Sender<Option<Answered>>,
}

impl Question {
    async fn run(mut self, asking: Asking) {
        let begun = Instant::now();
        let answered = ask_once(&self.hook, &asking).await.map(Arc::new);
        self.hook.figures.answered(begun.elapsed());
        if let Err(trouble) = &answered {
            self.hook.figures.failed(trouble.kind());
            tracing::warn!(webhook = %self.hook.webhook.name, request = &*asking.request_id, %trouble, "no answer that counts");
        }
        self.end(Some((&asking, &answered)));
        self.tell.send_replace(Some(answered));
    }

    fn end(&mut self, came: Option<(&Asking, &Answered)>) {
        let Some(leave) = self.leave.take() else { return };
        let hook = &self.hook;
        let now = hook.clock.steady();
        let mut desk = hook.lock();
        desk.under_way = desk.under_way.saturating_sub(1);
        let failed = came.map(|(_, answered)| answered.as_ref().is_err_and(Trouble::is_its_fault));
        let before = desk.breaker.look();
        desk.breaker.ended(leave, failed, now);
        let after = desk.breaker.look();
        // Gone when what it decides about has changed since it was asked.
        let counts = desk.flights.get(&self.key).is_some_and(|flight| flight.number == self.number);
        if counts {
            desk.flights.remove(&self.key);
        }
        if let Some((asking, Ok(decision))) = came
            && counts
        {
            let webhook = &hook.webhook;
            let stale_max = if webhook.on_error == OnError::Stale { webhook.stale_max } else { Duration::ZERO };
            let caps = (webhook.cache_allow, webhook.cache_deny);
            let keep = Keep::of(decision, caps, stale_max, asking.credential_ends, hook.clock.now());
            desk.cache.put(self.key, Arc::clone(&asking.holder), decision, keep, now);
        }
        drop(desk);
        hook.figures.breaker(after);
        match (before, after) {
            (Look::Closed | Look::HalfOpen, Look::Open) => {
                tracing::error!(webhook = %hook.webhook.name, "fails, and is not asked for a while");
            }
            (Look::HalfOpen, Look::Closed) => tracing::info!(webhook = %hook.webhook.name, "answers again"),
            (Look::Closed, Look::Closed | Look::HalfOpen)
            | (Look::Open, Look::Closed | Look::HalfOpen | Look::Open)
            | (Look::HalfOpen, Look::HalfOpen) => {}
        }
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        self.end(None);
    }
}
