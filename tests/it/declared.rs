//! Keys that live in the config; owners and grants in the store; what they take away is gone.

use doorward::cli::key;
use doorward::domain::grant::{Grant, Models, Require};
use doorward::domain::key::{KeyDigest, PresentedKey};
use doorward::domain::owner::OwnerPath;
use doorward::domain::refusal::CredentialFault;
use http::Method;

use crate::support::{Key, OPEN, Setup, Stub, Whole, World, chat, live};

fn owner(path: &str) -> OwnerPath {
    OwnerPath::parse(path).unwrap()
}

/// A key that was made elsewhere, and the `[[key]]` that lists it.
fn listed(settings: &str) -> (Key, String) {
    let made = key::create(&owner("acme/x")).unwrap();
    let sha256 = KeyDigest::plain(&PresentedKey::parse(made.reveal().as_bytes()).unwrap()).to_hex();
    let section = format!("\n[[key]]\nid = \"{}\"\nowner = \"acme/x\"\nsha256 = \"{sha256}\"\n{settings}\n", made.id());
    (Key { id: made.id(), text: made.reveal().to_owned() }, section)
}

#[tokio::test]
async fn a_key_of_the_config_works_as_one_of_the_store() {
    let stub = Stub::chatty().await;
    let (plain, first) = listed("");
    let (narrow, second) = listed("models = [\"same\"]");
    let (off, third) = listed("disabled = true");
    let setup = || Setup::new(&stub).grants(&format!("{OPEN}{first}{second}{third}"));
    let mut world = setup().start().await;
    let with = |key: &Key| world.caller().key(key);
    with(&plain).chat(&chat("llama")).await.assert_served();
    with(&narrow).chat(&chat("same")).await.assert_served();
    with(&narrow).chat(&chat("llama")).await.assert_refused(&world, 404, "model_not_found").await;
    let record = with(&off).chat(&chat("llama")).await.assert_refused(&world, 401, "invalid_credentials").await;
    assert_eq!(record["detail"], CredentialFault::KeyDisabled(off.id).to_string());
    assert_eq!((&record["key_id"], &record["owner"]), (&off.id.as_str().into(), &"acme/x".into()));
    // Another secret under a listed id.
    let other = key::create(&owner("acme/x")).unwrap();
    let forged = Key { id: plain.id, text: other.reveal().to_owned() };
    with(&forged).chat(&chat("llama")).await.assert_refused(&world, 401, "invalid_credentials").await;
    let mut line = with(&plain).h1().await;
    line.chat(&chat("llama")).await.assert_served();
    world.reload(&setup().grants(OPEN).text());
    line.chat(&chat("llama")).await.assert_refused(&world, 401, "invalid_credentials").await;
}

/// Of a key in both places the config's holds; but what is revoked in the store is revoked.
#[tokio::test]
async fn a_key_in_config_and_store_is_the_configs_until_it_is_revoked() {
    let stub = Stub::chatty().await;
    let (key, section) = listed("models = [\"same\"]");
    let world = Setup::new(&stub).grants(&format!("{OPEN}{section}")).start().await;
    let mut line = world.caller().key(&key).h2().await;
    let digest = KeyDigest::plain(&PresentedKey::parse(key.text.as_bytes()).unwrap());
    let before = world.generation();
    world.key_like("acme/x", |record| doorward::domain::key::KeyRecord { id: key.id, digest, ..record }).await;
    world.changed_since(before).await;
    line.chat(&chat("same")).await.assert_served();
    line.chat(&chat("llama")).await.assert_refused(&world, 404, "model_not_found").await;
    let before = world.generation();
    world.revoke_key(&key.id);
    world.changed_since(before).await;
    line.chat(&chat("same")).await.assert_refused(&world, 401, "invalid_credentials").await;
    // To forget the revocation would revive the key, and to change it would do nothing.
    let mut admin = world.socket().await;
    let path = format!("/v1/keys/{}", key.id);
    for (method, path, body) in [
        (Method::DELETE, path.clone(), None),
        (Method::PATCH, path.clone(), Some(r#"{"disabled":true}"#)),
        (Method::POST, format!("{path}/rotate"), Some("{}")),
    ] {
        let answer = match body {
            None => admin.fetch(method, &path).await,
            Some(body) => {
                let mut request = admin.json(&path, body);
                *request.method_mut() = method;
                Whole::of(admin.send(request).await.unwrap()).await
            }
        };
        assert_eq!((answer.status, answer.json()["code"].as_str()), (409, Some("conflict")), "{path}");
    }
    line.chat(&chat("same")).await.assert_refused(&world, 401, "invalid_credentials").await;
}

/// A model that is served by nobody in the endpoint's dialect any more is none: for live streams too.
#[tokio::test]
async fn a_stream_whose_backend_gave_up_its_dialect_ends() {
    let stub = Stub::by_hand().await;
    let setup = || Setup::new(&stub);
    let mut world = setup().start().await;
    let mut line = world.caller().key(&world.key("acme/x").await).h2().await;
    let (flow, exchange) = live(&mut line, &stub).await;
    let changed = setup().text().replace(r#"["openai", "anthropic", "ollama"]"#, r#"["anthropic"]"#);
    assert_ne!(changed, setup().text());
    world.reload(&changed);
    let ((text, broke), _) = tokio::join!(flow.end(), exchange.closed());
    assert!(broke.is_some() && text.contains("\"code\":\"model_not_found\""), "{text} {broke:?}");
}

/// A grant in the store narrows what the config grants, opens what nobody has named, and goes.
#[tokio::test]
async fn a_grant_in_the_store_is_in_force_beside_the_configs() {
    let stub = Stub::chatty().await;
    let world = World::open(&stub).await;
    let mut line = world.caller().key(&world.key("acme/x").await).h1().await;
    line.chat(&chat("llama")).await.assert_served();
    let narrow = Grant { models: Some(Models::parse(&["same"]).unwrap()), ..Grant::new(owner("acme")) };
    let before = world.generation();
    assert!(world.store().set_grant(&narrow, world.clock.now()).unwrap());
    world.changed_since(before).await;
    line.chat(&chat("llama")).await.assert_refused(&world, 404, "model_not_found").await;
    line.chat(&chat("same")).await.assert_served();
    let before = world.generation();
    assert!(world.store().remove_grant(&narrow.owner, world.clock.now()).unwrap());
    world.changed_since(before).await;
    line.chat(&chat("llama")).await.assert_served();

    let mut stranger = world.caller().key(&world.key("other/x").await).h1().await;
    stranger.chat(&chat("llama")).await.assert_refused(&world, 403, "no_grant").await;
    let open = Grant {
        require: Some(Require::Key),
        networks: Some(doorward::domain::network::Networks::Any),
        endpoints: Some(doorward::domain::endpoint::Endpoints::parse(&["*"]).unwrap()),
        models: Some(Models::parse(&["*"]).unwrap()),
        ..Grant::new(owner("other"))
    };
    let before = world.generation();
    world.store().set_grant(&open, world.clock.now()).unwrap();
    world.changed_since(before).await;
    stranger.chat(&chat("llama")).await.assert_served();
}

/// Switching an owner off ends live streams of its keys and of its certificates, and of nobody
/// else; switching it on lets them call again.
#[tokio::test]
async fn promise_02_a_disabled_owner_is_refused_at_once_and_its_streams_end() {
    let stub = Stub::by_hand().await;
    let world = World::open(&stub).await;
    let key = world.key("acme/people/x").await;
    let other = world.key("acme/others").await;
    // Certificates of this world sit on acme/people.
    let callers = [
        world.caller().key(&key),
        world.caller().certificate(&world.certificate("alice")),
        world.caller().key(&other).certificate(&world.certificate("bob")),
    ];
    let mut flows = Vec::new();
    for caller in &callers {
        flows.push(live(&mut caller.h1().await, &stub).await);
    }
    let (mut spared, mut spared_exchange) = live(&mut world.caller().key(&other).h1().await, &stub).await;
    let people = owner("acme/people");
    assert!(world.store().set_owner_disabled(&people, true, world.clock.now()).unwrap());
    for (flow, exchange) in flows {
        let id = flow.request_id();
        let ((text, broke), _) = tokio::join!(flow.end(), exchange.closed());
        assert!(broke.is_some() && text.contains("invalid_credentials"), "{text:?}");
        let record = world.record(&id).await;
        assert_eq!(record["detail"], "owner acme/people is disabled", "{record}");
    }
    for caller in &callers {
        caller.chat(&chat("llama")).await.assert_refused(&world, 401, "invalid_credentials").await;
    }
    spared_exchange.chunk("data: [DONE]\n\n").await;
    spared.until("[DONE]").await;
    spared_exchange.end().await;
    assert_eq!(spared.end().await.1, None);
    let before = world.generation();
    assert!(world.store().set_owner_disabled(&people, false, world.clock.now()).unwrap());
    world.changed_since(before).await;
    let (flow, exchange) = live(&mut callers[0].h1().await, &stub).await;
    exchange.end().await;
    drop(flow);
}
