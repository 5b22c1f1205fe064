//! Keys of limited use: each use is claimed once, durably, after every check and before the backend.

use std::time::Duration;

use doorward::domain::key::{KeyChange, KeyId, KeyRecord, Uses};
use doorward::store::rows::Updated;
use futures_util::future::join_all;
use http::HeaderValue;
use tokio::sync::watch;

use crate::support::{
    CHAT, Caller, Key, LONG, Line, Process, Setup, Stub, Whole, World, chat, json_reply, live, until, within,
};

const RACERS: usize = 200;

async fn limited(world: &World, left: u32, refund_on_failure: bool) -> Key {
    let uses = Some(Uses { left, refund_on_failure });
    world.key_like("acme/x", |key| KeyRecord { uses, ..key }).await
}

fn left(world: &World, key: &KeyId) -> u32 {
    world.store().key(key).unwrap().unwrap().uses.unwrap().left
}

/// Connections of both kinds for as many requests at once; every one can carry one request.
async fn lines(caller: &Caller) -> Vec<Line> {
    let mut lines = Vec::new();
    for _ in 0..4 {
        let h2 = caller.h2().await;
        lines.extend((0..35).map(|_| h2.stream()));
    }
    for _ in lines.len()..RACERS {
        lines.push(caller.h1().await);
    }
    lines
}

/// Sends one request with the key over each line, all at once; gives how many were served. All
/// others got what a spent key gets.
async fn race(lines: &mut [Line], key: &Key) -> usize {
    let bearer = HeaderValue::from_str(&format!("Bearer {}", key.text)).unwrap();
    let body = chat("llama");
    let ask = async |line: &mut Line| {
        let mut request = line.json(CHAT, &body);
        request.headers_mut().insert("authorization", bearer.clone());
        Whole::of(line.send(request).await.unwrap()).await
    };
    let answers = join_all(lines.iter_mut().map(ask)).await;
    let refused = answers.iter().filter(|answer| {
        answer.status == 401 && answer.json().pointer("/error/code").unwrap() == "invalid_credentials"
    });
    let served = answers.iter().filter(|answer| answer.status == 200).count();
    assert_eq!(served + refused.count(), lines.len());
    served
}

/// 200 requests race for one use, 50 times, over four threads' connections of both kinds.
#[tokio::test]
async fn promise_05_one_use_is_one_use_however_many_race_for_it() {
    let stub = Stub::chatty().await;
    let mut setup = Setup::new(&stub).listen("max_connections_per_address = 1000");
    setup.workers = 4;
    let world = setup.start().await;
    let mut lines = lines(&world.caller()).await;
    assert_eq!(lines.len(), RACERS);
    for round in 1..=50 {
        let key = limited(&world, 1, false).await;
        assert_eq!(race(&mut lines, &key).await, 1, "round {round}");
        assert_eq!(stub.seen().len(), round, "what was refused was not forwarded");
        assert_eq!(left(&world, &key.id), 0);
    }
    let key = limited(&world, 57, false).await;
    let served = race(&mut lines, &key).await + race(&mut lines, &key).await;
    assert_eq!((served, stub.seen().len()), (57, 107));
}

/// What was claimed stays claimed over a restart, and what was left can still be had.
#[tokio::test]
async fn promise_05_uses_are_counted_over_restarts() {
    let stub = Stub::chatty().await;
    let mut setup = Setup::new(&stub).listen("max_connections_per_address = 1000");
    setup.workers = 2;
    let mut world = setup.start().await;
    let (once, some) = (limited(&world, 1, false).await, limited(&world, 250, false).await);
    let mut served = 0;
    for restart in 0..3 {
        let mut lines = lines(&world.caller()).await;
        assert_eq!(race(&mut lines, &once).await, usize::from(restart == 0));
        served += race(&mut lines, &some).await;
        drop(lines);
        world = world.restart(2).await;
    }
    assert_eq!(served, 250);
    let mut line = world.caller().key(&once).h1().await;
    let record = line.chat(&chat("llama")).await.assert_refused(&world, 401, "invalid_credentials").await;
    assert_eq!(record["detail"], format!("key {} is spent", once.id));
}

/// A gateway that is killed in the middle has counted every use that it has let pass.
#[tokio::test]
async fn promise_05_kill_9_gives_no_use_twice() {
    const CALLERS: usize = 8;
    let stub = Stub::chatty().await;
    let process = Process::serve(&Setup::new(&stub)).await;
    let uses = Some(Uses { left: 1000, refund_on_failure: false });
    let key = process.files.make_key_like("acme/x", |key| KeyRecord { uses, ..key });
    let mut first = process.caller().key(&key).h1().await;
    within(LONG, "the key is in force", async { while first.get("/v1/models").await.status != 200 {} }).await;
    let (served, mut counted) = watch::channel(0u32);
    for _ in 0..CALLERS {
        let (caller, served) = (process.caller().key(&key), served.clone());
        tokio::spawn(async move {
            let mut line = caller.h2().await;
            // Until the gateway is gone.
            while let Ok(answer) = line.send(line.json(CHAT, &chat("llama"))).await {
                assert_eq!(answer.status(), 200);
                served.send_modify(|count| *count += 1);
            }
        });
    }
    assert!(within(LONG, "requests are served", counted.wait_for(|count| *count >= 100)).await.is_ok());
    process.signal("KILL");
    drop(served);
    let over = async { while counted.changed().await.is_ok() {} };
    within(LONG, "the callers notice", over).await;
    let (served, seen) = (*counted.borrow(), u32::try_from(stub.seen().len()).unwrap());
    let claimed = 1000 - process.files.store().key(&key.id).unwrap().unwrap().uses.unwrap().left;
    assert!(served <= seen && seen <= claimed, "{served} served, {seen} forwarded, {claimed} claimed");
    assert!(claimed as usize <= served as usize + CALLERS, "{served} served, {claimed} claimed");
}

/// A request that an earlier check refuses takes nothing: the last of them is the model.
#[tokio::test]
async fn a_refused_request_takes_no_use() {
    let stub = Stub::chatty().await;
    let world = World::open(&stub).await;
    let key = limited(&world, 1, false).await;
    let caller = world.caller().key(&key);
    let mut line = caller.h1().await;
    caller.post("/v1/nowhere", "{}").await.assert_refused(&world, 404, "not_found").await;
    line.chat("{").await.assert_refused(&world, 400, "invalid_body").await;
    line.chat(&chat("unknown")).await.assert_refused(&world, 404, "model_not_found").await;
    // Nor does a list that the gateway answers by itself.
    assert_eq!(line.get("/v1/models").await.status, 200);
    assert_eq!(left(&world, &key.id), 1);
    stub.assert_untouched();
    line.chat(&chat("llama")).await.assert_served();
    line.chat(&chat("llama")).await.assert_refused(&world, 401, "invalid_credentials").await;
}

/// 11 before 12: a spent key is not told that no backend can be reached.
#[tokio::test]
async fn a_use_is_claimed_before_a_target_is_chosen() {
    let stub = Stub::chatty().await;
    let mut setup = Setup::new(&stub);
    setup.backends = setup.backends.replace(&stub.address.to_string(), "127.0.0.1:1");
    let world = setup.start().await;
    let key = limited(&world, 1, false).await;
    let mut line = world.caller().key(&key).h1().await;
    line.chat(&chat("llama")).await.assert_refused(&world, 503, "no_backend").await;
    assert_eq!(left(&world, &key.id), 0, "a failure of the backend gives nothing back");
    line.chat(&chat("llama")).await.assert_refused(&world, 401, "invalid_credentials").await;
}

/// With `refund_on_failure`, a use whose backend failed is given back, and no other.
#[tokio::test]
async fn a_failure_of_the_backend_is_given_back_to_keys_that_say_so() {
    let stub = Stub::by_hand().await;
    let world = World::open(&stub).await;
    let given_back = async |world: &World, key: &Key, expected: u32| {
        until(LONG, "the use is counted", || (left(world, &key.id) == expected).then_some(())).await;
    };
    for refund in [true, false] {
        let back = if refund { 3 } else { 2 };
        let key = limited(&world, 3, refund).await;
        let caller = world.caller().key(&key);
        // The backend breaks before its answer.
        let body = chat("llama");
        let mut line = caller.h1().await;
        let (answer, ()) = tokio::join!(line.chat(&body), async { drop(stub.next().await) });
        answer.assert_refused(&world, 502, "backend_broke").await;
        given_back(&world, &key, back).await;
        // It says itself that it failed.
        let failing = async {
            stub.next()
                .await
                .reply("HTTP/1.1 500 Oops\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}")
                .await;
        };
        let (answer, ()) = tokio::join!(line.chat(&body), failing);
        assert_eq!(answer.status, 500);
        given_back(&world, &key, if refund { 3 } else { 1 }).await;
        // It breaks off in the middle.
        let (flow, exchange) = live(&mut line, &stub).await;
        drop(exchange);
        assert!(flow.end().await.1.is_some());
        given_back(&world, &key, if refund { 3 } else { 0 }).await;
    }
    // A whole answer is paid for, and so is one whose caller left.
    let key = limited(&world, 2, true).await;
    let body = chat("llama");
    let mut line = world.caller().key(&key).h1().await;
    let good = async { stub.next().await.reply(json_reply("{}")).await };
    let (answer, ()) = tokio::join!(line.chat(&body), good);
    answer.assert_served();
    assert_eq!(left(&world, &key.id), 1);
    let (flow, exchange) = live(&mut line, &stub).await;
    let id = flow.request_id();
    drop((flow, line));
    assert!(exchange.closed().await < LONG);
    assert_eq!(world.record(&id).await["outcome"], "caller_gone");
    assert_eq!(left(&world, &key.id), 0);
}

/// The request that took the last use goes on when the others learn that the key is spent.
#[tokio::test]
async fn the_last_use_is_not_cut_short() {
    let stub = Stub::by_hand().await;
    let world = World::open(&stub).await;
    let key = limited(&world, 1, false).await;
    let caller = world.caller().key(&key);
    let before = world.generation();
    let (mut flow, mut exchange) = live(&mut caller.h2().await, &stub).await;
    world.changed_since(before).await;
    let answer = caller.chat(&chat("llama")).await;
    let record = answer.assert_refused(&world, 401, "invalid_credentials").await;
    assert!(record["detail"].as_str().unwrap().ends_with("is spent"), "{record}");
    exchange.chunk("data: [DONE]\n\n").await;
    flow.until("[DONE]").await;
    exchange.end().await;
    assert_eq!(flow.end().await.1, None);
    // More uses are in force like any other change.
    let more = KeyChange { uses: Some(Some(Uses { left: 1, refund_on_failure: false })), ..KeyChange::default() };
    let before = world.generation();
    assert!(matches!(world.store().update_key(&key.id, &more, world.clock.now()).unwrap(), Updated::Changed(_)));
    world.changed_since(before).await;
    drop(live(&mut caller.h1().await, &stub).await);
}

/// When a key was last used is in the store soon after, and costs no change of what is in force.
#[tokio::test]
async fn the_last_use_of_a_key_is_written_down() {
    let stub = Stub::chatty().await;
    let world = Setup::new(&stub).manual_clock().start().await;
    let [used, unused] = [world.key("acme/x").await, world.key("acme/x").await];
    let before = world.generation();
    let mut line = world.caller().key(&used).h1().await;
    line.chat(&chat("llama")).await.assert_served();
    world.clock.advance(Duration::from_secs(5));
    // What the gateway answers by itself is a use, too.
    assert_eq!(line.get("/v1/models").await.status, 200);
    let at = world.clock.now();
    let store = world.store();
    until(LONG, "the use is written", || (store.last_used_at(&used.id).unwrap() == Some(at)).then_some(())).await;
    assert_eq!(store.last_used_at(&unused.id).unwrap(), None);
    assert_eq!(world.generation(), before);
    // What was noted last is written when the gateway ends.
    world.clock.advance(Duration::from_secs(5));
    line.chat(&chat("llama")).await.assert_served();
    let at = world.clock.now();
    let (server, prepared) = world.into_parts();
    drop(line);
    server.shut_down().await;
    assert_eq!(prepared.store().last_used_at(&used.id).unwrap(), Some(at));
}
