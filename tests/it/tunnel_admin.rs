//! What operators see of connectors, and what they do to them.

use http::Method;
use serde_json::{Value, json};

use crate::support::{Site, register};
use crate::tunnels::{DONE, EVENT, assert_broken, caller, connected, site_a, streaming, world};

const CONNECTORS: &str = "/v1/connectors";

#[tokio::test]
async fn connectors_are_listed() {
    let world = world().await;
    let mut operator = world.socket().await;
    let absent = |connector: &str, backend: &str| json!({"connector": connector, "backends": [{"name": backend, "state": "absent"}], "tunnels": []});
    let listed = operator.get(CONNECTORS).await.json();
    assert_eq!(listed, json!({"items": [absent("site-a", "vllm-a"), absent("site-b", "vllm-b")], "next": null}));

    let issued = site_a(&world);
    let mut site = Site::dial(&world, &issued).await;
    site.say(&register("site-a", "one", 3, &["vllm-a", "not-given"]));
    assert_eq!(site.hear().await["type"], "registered");
    let mut line = caller(&world).await.h2().await;
    let _streams = streaming(&mut line, &mut site).await;
    crate::support::until(crate::support::LONG, "the round trip is known", || {
        world.server.gateway().tunnels.all()[0].rtt()
    })
    .await;
    let mut listed = operator.get(CONNECTORS).await.json();
    let tunnel = listed["items"][0]["tunnels"][0].take();
    assert_eq!(listed["items"][0]["backends"], json!([{"name": "vllm-a", "state": "up"}]));
    for (field, value) in [
        ("instance", json!("one")),
        ("index", json!(3)),
        ("address", json!("127.0.0.1")),
        ("version", json!("0.0.0")),
        ("leaving", json!(false)),
        ("streams", json!(1)),
        ("certificate_ends", json!(issued.not_after.to_string())),
    ] {
        assert_eq!(tunnel[field], value, "{tunnel}");
    }
    assert!(tunnel["rtt_micros"].as_u64().unwrap() > 0);

    // One that the config gives nothing is seen too.
    let other = world.certificate_as(doorward::domain::identity::Role::Connector, "site-z", None);
    let mut stray = Site::dial(&world, &other).await;
    stray.say(&register("site-z", "one", 0, &["vllm-a"]));
    assert_eq!(stray.hear().await["accepted"], json!([]));
    let listed = operator.get(CONNECTORS).await.json();
    let names: Vec<_> = listed["items"].as_array().unwrap().iter().map(|item| item["connector"].clone()).collect();
    assert_eq!(names, ["site-a", "site-b", "site-z"]);
    assert_eq!(listed["items"][2]["backends"], json!([]));
    let page = operator.get("/v1/connectors?limit=1&cursor=site-a").await.json();
    assert_eq!((&page["items"][0]["connector"], &page["next"]), (&json!("site-b"), &json!("site-b")));
    // No label of a metric is of its making.
    drop(stray);
    world.metric_becomes("doorward_tunnel_ends_total{connector=\"other\",reason=\"lost\"}", 1.0).await;
}

#[tokio::test]
async fn a_connector_is_drained_by_an_operator() {
    let (world, mut site) = connected().await;
    let mut line = caller(&world).await.h1().await;
    let (mut flow, _asked, mut stream) = streaming(&mut line, &mut site).await;
    let mut operator = world.socket().await;
    let done = operator.ask(Method::POST, "/v1/connectors/site-a/drain", "{}").await;
    assert_eq!((done.status, done.json()), (200, json!({"connector": "site-a", "tunnels": 1})));
    assert_eq!(site.hear().await, json!({"type": "drain", "reason": "operator", "deadline_s": 30}));
    let listed = operator.get(CONNECTORS).await.json();
    assert_eq!(listed["items"][0]["tunnels"][0]["leaving"], true);
    assert_eq!(listed["items"][0]["backends"][0]["state"], "absent");
    stream.send_data(EVENT.into(), false).unwrap();
    flow.until(EVENT).await;
    stream.send_data(DONE.into(), true).unwrap();
    assert_eq!(flow.end().await.1, None);
    site.over().await;
    world.metric_becomes("doorward_tunnels", 0.0).await;
}

#[tokio::test]
async fn a_connector_is_kicked_by_an_operator() {
    let (world, mut site) = connected().await;
    let mut line = caller(&world).await.h2().await;
    let (mut flow, _asked, mut stream) = streaming(&mut line, &mut site).await;
    stream.send_data(EVENT.into(), false).unwrap();
    flow.until(EVENT).await;
    let mut operator = world.socket().await;
    let done = operator.ask(Method::POST, "/v1/connectors/site-a/kick", "").await;
    assert_eq!((done.status, done.json()), (200, json!({"connector": "site-a", "tunnels": 1})));
    assert_eq!(site.hear().await, json!({"type": "drain", "reason": "operator", "deadline_s": 0}));
    let id = flow.request_id();
    assert_broken(&world, flow, &id).await;
    site.over().await;
    // It may come back.
    drop(Site::registered(&world, &site_a(&world), "one", &["vllm-a"]).await);
    world.metric_becomes("doorward_tunnels", 0.0).await;
    for path in ["/v1/connectors/site-a/kick", "/v1/connectors/site-c/drain"] {
        let answer = operator.ask(Method::POST, path, "").await;
        assert_eq!((answer.status, &answer.json()["code"]), (404, &Value::from("not_found")), "{path}");
    }
}
