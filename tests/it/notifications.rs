//! What webhooks are told of after it has happened: by a real gateway, to real servers that fail,
//! hang, and come back.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use doorward::domain::grant::{Grant, Models};
use doorward::domain::key::KeyChange;
use doorward::domain::notification::Kind;
use doorward::domain::owner::OwnerPath;

use crate::support::{Hook, LONG, Message, Play, Setup, Stub, World, chat, status, until};

const MINUTES: Duration = Duration::from_secs(600);

/// A gateway that tells `hooks`, each by its name and with the kinds that it is told.
fn setup(stub: &Stub, hooks: &[(&Hook, &str, &[Kind])]) -> Setup {
    let mut setup = Setup::new(stub).manual_clock();
    for (hook, name, kinds) in hooks {
        let kinds: Vec<_> = kinds.iter().map(|kind| format!("{:?}", kind.as_str())).collect();
        setup.more += &hook.section(name, &format!("events = [{}]", kinds.join(", ")));
        setup.files.push(hook.file(name));
    }
    setup
}

async fn told(hook: &Hook, kinds: &[Kind]) -> World {
    setup(&Stub::chatty().await, &[(hook, "iam", kinds)]).start().await
}

async fn results(world: &World, webhook: &str) -> [f64; 3] {
    let mut figures = [0.0; 3];
    for (figure, result) in figures.iter_mut().zip(["delivered", "failed", "given_up"]) {
        let name = format!("doorward_notifications_total{{webhook=\"{webhook}\",result=\"{result}\"}}");
        *figure = world.metric(&name).await;
    }
    figures
}

/// Waits until so many attempts to tell `iam` came to this.
async fn counted(world: &World, result: &str, count: u32) {
    let name = format!("doorward_notifications_total{{webhook=\"iam\",result=\"{result}\"}}");
    world.metric_becomes(&name, f64::from(count)).await;
}

fn kinds(messages: &[Message]) -> Vec<&str> {
    messages.iter().map(Message::kind).collect()
}

/// Whatever is done, and whoever does it: it arrives once, in order, signed, and without secrets.
#[tokio::test]
async fn what_happens_is_told_signed_and_in_order() {
    let hook = Hook::start(status("204 No Content")).await;
    let world = told(&hook, &Kind::ALL).await;
    let key = world.make_key("acme/alice", None, &[], &[], &[]);
    let mut store = world.store();
    let change = KeyChange { disabled: Some(true), ..KeyChange::default() };
    store.update_key(&key.id, &change, world.clock.now()).unwrap();
    world.revoke_key(&key.id);
    let owner = OwnerPath::parse("acme/alice").unwrap();
    store.set_owner_disabled(&owner, true, world.clock.now()).unwrap();
    let models = Some(Models::parse(&["same"]).unwrap());
    store.set_grant(&Grant { models, ..Grant::new(owner.clone()) }, world.clock.now()).unwrap();
    store.remove_grant(&owner, world.clock.now()).unwrap();
    store.set_owner_disabled(&owner, false, world.clock.now()).unwrap();
    store.delete_key(&key.id, world.clock.now()).unwrap();
    let issued = world.certificate("alice");
    world.revoke_certificate(&issued.serial);

    let messages = hook.gets(10).await;
    assert_eq!(
        kinds(&messages),
        [
            "key.created",
            "key.updated",
            "key.revoked",
            "owner.disabled",
            "grant.set",
            "grant.deleted",
            "owner.enabled",
            "key.deleted",
            "certificate.issued",
            "certificate.revoked"
        ]
    );
    let secret = key.text.rsplit('_').next().unwrap();
    for message in &messages {
        message.assert_signed();
        assert!(message.head.starts_with("POST /hook HTTP/1.1"), "{}", message.head);
        assert_eq!(message.header("content-type"), "application/json");
        assert_eq!(message.json["id"], message.header("webhook-id"));
        assert_eq!(message.json["version"], 1);
        assert_eq!(message.json["timestamp"], world.clock.now().to_string());
        let text = String::from_utf8(message.body.clone()).unwrap() + &message.head;
        for hidden in [secret, "whsec_", "digest", "BEGIN"] {
            assert!(!text.contains(hidden), "{text}");
        }
    }
    assert_eq!(messages[2].json["data"]["key_id"], key.id.as_str());
    assert_eq!(messages[2].json["data"]["owner"], "acme/alice");
    assert_eq!(messages[9].json["data"]["serial"], issued.serial.to_string());
    counted(&world, "delivered", 10).await;
    assert_eq!(results(&world, "iam").await, [10.0, 0.0, 0.0]);
    world.metric_becomes("doorward_notifications_waiting{webhook=\"iam\"}", 0.0).await;
    assert!(hook.connections() <= 10);
}

/// Nobody is told what they did not ask for, and a webhook that is only asked is told nothing.
#[tokio::test]
async fn each_is_told_what_it_subscribes_to() {
    let hooks = [Hook::start(status("204 No Content")).await, Hook::start(status("200 OK")).await];
    let silent = Hook::start(Play::Silence).await;
    let stub = Stub::chatty().await;
    let subscribed: [(&Hook, &str, &[Kind]); 3] =
        [(&hooks[0], "keys", &[Kind::KeyCreated]), (&hooks[1], "ends", &[Kind::KeyRevoked]), (&silent, "none", &[])];
    let world = setup(&stub, &subscribed).start().await;
    let key = world.make_key("acme/alice", None, &[], &[], &[]);
    world.revoke_key(&key.id);
    assert_eq!(kinds(&hooks[0].gets(1).await), ["key.created"]);
    assert_eq!(kinds(&hooks[1].gets(1).await), ["key.revoked"]);
    assert_eq!(silent.connections(), 0);
}

/// The same id and body, a new time and signature; nothing overtakes; no attempt before its time.
#[tokio::test]
async fn what_is_not_taken_is_told_again_and_nothing_overtakes_it() {
    let hook = Hook::start(status("500 Internal Server Error")).await;
    let world = told(&hook, &[Kind::KeyCreated, Kind::KeyRevoked]).await;
    let key = world.make_key("acme/alice", None, &[], &[], &[]);
    world.revoke_key(&key.id);
    counted(&world, "failed", 1).await;
    world.metric_becomes("doorward_notifications_waiting{webhook=\"iam\"}", 2.0).await;
    assert_eq!((hook.gets(1).await.len(), results(&world, "iam").await), (1, [0.0, 1.0, 0.0]));
    world.clock.advance(Duration::from_secs(2));
    counted(&world, "failed", 2).await;
    hook.play(status("204 No Content"));
    world.clock.advance(Duration::from_secs(4));
    let messages = hook.gets(4).await;
    assert_eq!(kinds(&messages), ["key.created", "key.created", "key.created", "key.revoked"]);
    for again in &messages[1..3] {
        again.assert_signed();
        assert_eq!(again.json, messages[0].json);
        assert_eq!(again.header("webhook-id"), messages[0].header("webhook-id"));
        assert_ne!(again.header("webhook-timestamp"), messages[0].header("webhook-timestamp"));
    }
    assert_ne!(messages[3].header("webhook-id"), messages[0].header("webhook-id"));
    counted(&world, "delivered", 2).await;
    assert_eq!(results(&world, "iam").await, [2.0, 2.0, 0.0]);
}

/// Whatever way a webhook fails in, what waits for it arrives once it is well again.
#[tokio::test]
async fn every_failure_ends() {
    let other = Hook::start(status("204 No Content")).await;
    let elsewhere = format!("HTTP/1.1 302 Found\r\nlocation: {}\r\ncontent-length: 0\r\n\r\n", other.url());
    let ok = || -> crate::support::Answer { Arc::new(|_| b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_vec()) };
    let failures = [
        Play::Slam,
        Play::Babble,
        Play::Cut(ok(), 0),
        Play::Cut(ok(), 12),
        Play::Answer(Arc::new(move |_| elsewhere.clone().into_bytes())),
        Play::Answer(Arc::new(|_| b"SSH-2.0-OpenSSH\r\n".to_vec())),
        Play::Answer(Arc::new(|_| b"HTTP/1.1 403 Forbidden\r\ncontent-length: 6\r\n\r\n<html>".to_vec())),
        status("429 Too Many Requests"),
    ];
    let hook = Hook::start(failures[0].clone()).await;
    let world = told(&hook, &[Kind::KeyCreated]).await;
    for (round, failure) in (1u32..).zip(failures) {
        hook.play(failure);
        world.make_key("acme/alice", None, &[], &[], &[]);
        counted(&world, "failed", round).await;
        hook.play(Play::Answer(ok()));
        world.clock.advance(MINUTES);
        counted(&world, "delivered", round).await;
    }
    assert_eq!(other.connections(), 0, "a redirect was followed");
}

#[tokio::test]
async fn a_webhook_that_hangs_holds_up_nobody_else_and_no_request() {
    let [hung, well] = [Hook::start(Play::Silence).await, Hook::start(status("204 No Content")).await];
    let frozen = Hook::start(Play::Freeze).await;
    let stub = Stub::chatty().await;
    let created: &[Kind] = &[Kind::KeyCreated];
    let world =
        setup(&stub, &[(&hung, "hung", created), (&frozen, "frozen", created), (&well, "well", created)]).start().await;
    for count in 1..=5 {
        let key = world.key("acme/alice").await;
        well.gets(count).await;
        world.caller().key(&key).h1().await.post("/v1/chat/completions", &chat("llama")).await.assert_served();
    }
    hung.gets(1).await;
    world.metric_becomes("doorward_notifications_waiting{webhook=\"hung\"}", 5.0).await;
    world.metric_becomes("doorward_notifications_waiting{webhook=\"frozen\"}", 5.0).await;
    // Neither of the two is waited for here.
    let (server, _files) = world.into_parts();
    tokio::time::timeout(LONG, server.shut_down()).await.unwrap();
}

/// One that a webhook will never take does not stop those behind it for ever.
#[tokio::test]
async fn what_is_refused_ten_times_is_given_up() {
    let hook = Hook::start(Play::Answer(Arc::new(|message: &Message| {
        let line = if message.kind() == "key.created" { "422 Unprocessable" } else { "204 No Content" };
        format!("HTTP/1.1 {line}\r\ncontent-length: 0\r\n\r\n").into_bytes()
    })))
    .await;
    let world = told(&hook, &[Kind::KeyCreated, Kind::KeyRevoked]).await;
    let key = world.make_key("acme/alice", None, &[], &[], &[]);
    world.revoke_key(&key.id);
    for attempts in 1..=10 {
        counted(&world, "failed", attempts).await;
        world.clock.advance(MINUTES);
    }
    assert_eq!(kinds(&hook.gets(11).await)[10], "key.revoked");
    counted(&world, "delivered", 1).await;
    assert_eq!(results(&world, "iam").await, [1.0, 10.0, 1.0]);
}

#[tokio::test]
async fn what_is_older_than_a_day_is_given_up() {
    let hook = Hook::start(Play::Slam).await;
    let world = told(&hook, &[Kind::KeyCreated]).await;
    world.make_key("acme/alice", None, &[], &[], &[]);
    counted(&world, "failed", 1).await;
    world.clock.advance(Duration::from_secs(24 * 3600 + 1));
    counted(&world, "given_up", 1).await;
    hook.play(status("204 No Content"));
    let key = world.make_key("acme/bob", None, &[], &[], &[]);
    let messages = hook.gets(1).await;
    assert_eq!(messages[0].json["data"]["key_id"], key.id.as_str());
}

/// Neither a restart nor its backoff loses anything: what was queued before arrives after.
#[tokio::test]
async fn a_restart_goes_on_where_it_was() {
    let hook = Hook::start(Play::Slam).await;
    let world = told(&hook, &[Kind::KeyCreated]).await;
    let first = world.make_key("acme/alice", None, &[], &[], &[]);
    counted(&world, "failed", 1).await;
    let (server, files) = world.into_parts();
    server.shut_down().await;
    // The command line works while no gateway runs.
    let second = files.make_key("acme/alice", None, &[], &[], &[]);
    hook.play(status("204 No Content"));
    files.clock.advance(MINUTES);
    let world = World::resume(files).await;
    let messages = hook.gets(2).await;
    let ids: Vec<_> = messages.iter().map(|message| message.json["data"]["key_id"].as_str().unwrap()).collect();
    assert_eq!(ids, [first.id.as_str(), second.id.as_str()]);
    world.metric_becomes("doorward_notifications_waiting{webhook=\"iam\"}", 0.0).await;
}

/// A reload says who is told of what, and is told itself.
#[tokio::test]
async fn a_reload_changes_who_is_told_and_is_told() {
    let [one, two] = [Hook::start(status("204 No Content")).await, Hook::start(status("204 No Content")).await];
    let stub = Stub::chatty().await;
    let reloads: &[Kind] = &[Kind::ReloadSucceeded, Kind::ReloadFailed, Kind::KeyCreated];
    let mut setup_one = setup(&stub, &[(&one, "one", reloads)]);
    let setup_two = setup(&stub, &[(&two, "two", reloads)]);
    setup_one.files.extend(setup_two.files.clone());
    let (text_one, text_two) = (setup_one.text(), setup_two.text());
    let mut world = setup_one.start().await;
    world.reload("nonsense");
    world.reload(&text_one);
    let messages = one.gets(2).await;
    assert_eq!(kinds(&messages), ["reload.failed", "reload.succeeded"]);
    assert_eq!(messages[0].json["data"], serde_json::json!({"revision": 1}));
    assert_eq!(messages[1].json["data"], serde_json::json!({"revision": 2}));
    world.reload(&text_two);
    world.make_key("acme/alice", None, &[], &[], &[]);
    assert_eq!(kinds(&two.gets(2).await), ["reload.succeeded", "key.created"]);
    assert_eq!(one.seen().len(), 2, "who is not named any more is told nothing");
}

/// A server that anybody could be gets no message.
#[tokio::test]
async fn a_webhook_that_cannot_prove_itself_gets_nothing() {
    let [hook, stranger] = [Hook::start(status("204 No Content")).await, Hook::start(Play::Silence).await];
    let misnamed = Hook::named("iam.test", status("204 No Content")).await;
    let stub = Stub::chatty().await;
    let created: &[Kind] = &[Kind::KeyCreated];
    let mut setup = setup(&stub, &[(&hook, "iam", created), (&misnamed, "misnamed", created)]);
    setup.files[0].1.clone_from(&stranger.ca);
    let mut world = setup.start().await;
    world.make_key("acme/alice", None, &[], &[], &[]);
    for name in ["iam", "misnamed"] {
        let failed = format!("doorward_notifications_total{{webhook=\"{name}\",result=\"failed\"}}");
        world.metric_becomes(&failed, 1.0).await;
    }
    assert_eq!((hook.seen().len(), misnamed.seen().len()), (0, 0));
    fs::write(world.dir.path().join("iam.pem"), &hook.ca).unwrap();
    world.server.reload();
    world.clock.advance(MINUTES);
    hook.gets(1).await;
}

/// Many at once arrive all, each once and in order, over few connections.
#[tokio::test]
async fn a_burst_arrives_in_order_over_few_connections() {
    let hook = Hook::start(status("204 No Content")).await;
    let world = told(&hook, &[Kind::KeyCreated]).await;
    let made: Vec<_> = (0..200).map(|_| world.make_key("acme/alice", None, &[], &[], &[]).id).collect();
    let messages = hook.gets(200).await;
    let got: Vec<_> = messages.iter().map(|message| message.json["data"]["key_id"].as_str().unwrap()).collect();
    assert_eq!(got, made.iter().map(|id| id.as_str()).collect::<Vec<_>>());
    until(LONG, "all are taken out of the queue", || {
        world.store().first_notification("iam").unwrap().is_none().then_some(())
    })
    .await;
    assert!(hook.connections() < 100, "{}", hook.connections());
}
