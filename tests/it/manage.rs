//! The verbs on keys, grants and owners: that they take effect at the gate, that each means the same
//! on this machine and through the admin API, and what they refuse.

use std::collections::HashSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use doorward::domain::key::{KeyDigest, KeyId, PresentedKey};
use doorward::domain::timestamp::Timestamp;
use http::Method;
use serde_json::{Value, json};
use tokio::task::spawn_blocking;

use crate::support::{Key, LONG, Line, Setup, Stub, World, chat, within};

/// Asks for something, and expects it to be done.
async fn done(line: &mut Line, method: Method, path: &str, body: Value) -> Value {
    let answer = line.ask(method, path, &body.to_string()).await;
    assert!((200..300).contains(&answer.status), "{path} {body}: {}", String::from_utf8_lossy(&answer.body));
    answer.json()
}

/// Asks for something, and expects it to be refused with this code.
async fn refused(line: &mut Line, method: Method, path: &str, body: Value, code: &str) -> Value {
    let problem = line.ask(method, path, &body.to_string()).await.json();
    assert_eq!(problem["code"], code, "{path} {body}: {problem}");
    problem
}

fn as_key(made: &Value) -> Key {
    let id = KeyId::parse(made["id"].as_str().unwrap()).unwrap();
    Key { id, text: made["key"].as_str().unwrap().to_owned() }
}

/// Waits until a chat with this key gets this status. A key that is not known, not yet or not any
/// more, looks the same whether its failures are limited already or not.
async fn becomes(world: &World, key: &Key, expected: u16) {
    let caller = world.caller().key(key);
    within(LONG, &format!("a chat becomes {expected}"), async {
        loop {
            // Each over a connection of its own: one with many refusals may be closed.
            let status = caller.chat(&chat("llama")).await.status;
            if status == expected || (expected, status) == (401, 429) {
                break;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn what_is_done_through_the_api_counts_at_the_gate() {
    let world = World::open(&Stub::chatty().await).await;
    let mut line = world.socket().await;
    let made = done(&mut line, Method::POST, "/v1/keys", json!({"owner": "acme/app", "expires_at": "1h"})).await;
    assert_eq!((&made["state"], &made["warnings"]), (&"active".into(), &json!([])));
    let key = as_key(&made);
    let path = format!("/v1/keys/{}", key.id);
    becomes(&world, &key, 200).await;

    // Switched off and on; narrowed and widened again.
    done(&mut line, Method::PATCH, &path, json!({"disabled": true})).await;
    becomes(&world, &key, 401).await;
    done(&mut line, Method::PATCH, &path, json!({"disabled": false, "models": ["same"]})).await;
    becomes(&world, &key, 404).await;
    done(&mut line, Method::PATCH, &path, json!({"models": null})).await;
    becomes(&world, &key, 200).await;

    // The owner above it.
    done(&mut line, Method::POST, "/v1/owners/acme/disable", json!({})).await;
    becomes(&world, &key, 401).await;
    let shown = line.get(&path).await.json();
    assert_eq!((&shown["state"], shown.get("key")), (&"owner_disabled".into(), None));
    done(&mut line, Method::POST, "/v1/owners/acme/enable", json!({})).await;
    becomes(&world, &key, 200).await;

    // A grant in the store, beside that of the config.
    done(&mut line, Method::PUT, "/v1/grants/acme%2Fapp", json!({"models": ["same"]})).await;
    becomes(&world, &key, 404).await;
    assert_eq!(line.fetch(Method::DELETE, "/v1/grants/acme%2Fapp").await.status, 200);
    becomes(&world, &key, 200).await;

    // Both keys work until the overlap is over.
    let rotated = done(&mut line, Method::POST, &format!("{path}/rotate"), json!({"overlap": "10m"})).await;
    let next = as_key(&rotated);
    assert_eq!((rotated["rotated_from"].as_str(), rotated["key"] == made["key"]), (Some(key.id.as_str()), false));
    becomes(&world, &next, 200).await;
    becomes(&world, &key, 200).await;
    assert_eq!(done(&mut line, Method::POST, &format!("{path}/revoke"), json!({})).await["newly"], true);
    becomes(&world, &key, 401).await;
    assert_eq!(done(&mut line, Method::POST, &format!("{path}/revoke"), json!({})).await["newly"], false);
    let path = format!("/v1/keys/{}", next.id);
    assert_eq!(line.fetch(Method::DELETE, &path).await.status, 200);
    becomes(&world, &next, 401).await;
    assert_eq!(line.get(&path).await.status, 404);
    assert_eq!(line.fetch(Method::DELETE, &path).await.status, 404);
}

#[tokio::test]
async fn a_key_keeps_to_the_times_that_its_owners_grants_allow() {
    let grants = r#"
[[grant]]
owner = "acme"
require = "key"
networks = ["127.0.0.0/8"]
endpoints = ["*"]
models = ["*"]
"#;
    let world = Setup::new(&Stub::chatty().await).grants(grants).manual_clock().start().await;
    let mut line = world.socket().await;
    let ttl = json!({"default_key_ttl": "30d", "max_key_ttl": "90d"});
    done(&mut line, Method::PUT, "/v1/grants/acme%2Fteam", ttl).await;
    let now = world.clock.now();
    let day = |days: u64| now.after(Duration::from_secs(days * 86_400)).to_string();

    let made = done(&mut line, Method::POST, "/v1/keys", json!({"owner": "acme/team/a"})).await;
    assert_eq!((&made["expires_at"], &made["warnings"]), (&day(30).into(), &json!([])));
    let made = done(&mut line, Method::POST, "/v1/keys", json!({"owner": "acme/team/a", "expires_at": "90d"})).await;
    assert_eq!(made["expires_at"], day(90));
    let long = json!({"owner": "acme/team/a", "expires_at": "91d"});
    let problem = refused(&mut line, Method::POST, "/v1/keys", long, "not_allowed").await;
    assert!(problem["detail"].as_str().unwrap().contains("acme/team"), "{problem}");
    assert_eq!((&problem["status"], &problem["errors"][0]["field"]), (&403.into(), &"expires_at".into()));
    let endless = done(&mut line, Method::POST, "/v1/keys", json!({"owner": "acme/other"})).await;
    assert_eq!(endless["expires_at"], Value::Null);
    assert!(endless["warnings"][0].as_str().unwrap().contains("never expires"), "{endless}");

    // An update and a rotation keep to it too; the limit counts from when a key was made.
    let path = format!("/v1/keys/{}", made["id"].as_str().unwrap());
    world.clock.advance(Duration::from_secs(86_400));
    refused(&mut line, Method::PATCH, &path, json!({"expires_at": "90d"}), "not_allowed").await;
    let changed = done(&mut line, Method::PATCH, &path, json!({"expires_at": null})).await;
    assert_eq!(changed["expires_at"], day(30));
    let rotated = done(&mut line, Method::POST, &format!("{path}/rotate"), json!({})).await;
    assert_eq!((&rotated["expires_at"], &rotated["old_expires_at"]), (&day(31).into(), &day(2).into()));
    refused(&mut line, Method::POST, &format!("{path}/rotate"), json!({"expires_at": "91d"}), "not_allowed").await;
    world.clock.advance(Duration::from_secs(40 * 86_400));
    refused(&mut line, Method::POST, &format!("{path}/rotate"), json!({}), "conflict").await;
}

#[tokio::test]
async fn wrong_fields_are_all_named_and_nothing_is_done() {
    let world = World::open(&Stub::by_hand().await).await;
    let mut line = world.socket().await;
    let wrong = json!({
        "owner": "Acme", "expires_at": "soon", "not_before": "5", "uses": 0, "networks": ["10.0.0.1/8"],
        "endpoints": ["@chatt"], "models": [], "bound_to": "alice", "labels": {"A b": ""}, "note": "", "external_id": " ",
    });
    let problem = refused(&mut line, Method::POST, "/v1/keys", wrong.clone(), "invalid_request").await;
    let named: HashSet<_> =
        problem["errors"].as_array().unwrap().iter().map(|e| e["field"].as_str().unwrap()).collect();
    assert_eq!(named, wrong.as_object().unwrap().keys().map(String::as_str).collect(), "{problem}");
    for body in [
        json!({}),
        json!({"owner": "acme", "expires": "1h"}),
        json!({"owner": "acme", "uses": -1}),
        json!({"owner": "acme", "uses": "1"}),
        json!({"owner": "acme", "uses": 5_000_000_000_u64}),
        json!({"owner": "acme", "networks": "*"}),
        json!({"owner": "acme", "refund_on_failure": true}),
        json!({"owner": "acme", "expires_at": "2020-01-01T00:00:00Z"}),
        json!({"owner": "acme", "expires_at": "1h", "not_before": "2h"}),
        json!({"owner": "acme", "id": "0123456789ab"}),
        json!({"owner": "acme", "key": "dw_0123456789ab_x"}),
    ] {
        refused(&mut line, Method::POST, "/v1/keys", body, "invalid_request").await;
    }
    for (method, path) in [
        (Method::GET, "/v1/keys/0123456789AB"),
        (Method::GET, "/v1/keys/..%2Fowners"),
        (Method::GET, "/v1/keys/0123456789ab%00"),
        (Method::DELETE, "/v1/grants/%2e%2e"),
        (Method::DELETE, "/v1/grants/acme%252Fapp"),
        (Method::GET, "/v1/grants/acme%2F%2Fapp"),
        (Method::GET, "/v1/keys?state=open"),
        (Method::GET, "/v1/keys?cursor=x"),
    ] {
        let answer = line.fetch(method, path).await;
        assert_eq!((answer.status, &answer.json()["code"]), (400, &"invalid_request".into()), "{path}");
    }
    refused(&mut line, Method::POST, "/v1/owners/%2Fetc/disable", json!({}), "invalid_request").await;
    refused(&mut line, Method::PUT, "/v1/grants/acme", json!({}), "invalid_request").await;
    let both = json!({"default_key_ttl": "2d", "max_key_ttl": "1d"});
    refused(&mut line, Method::PUT, "/v1/grants/acme", both, "invalid_request").await;
    refused(&mut line, Method::PUT, "/v1/grants/acme", json!({"owner": "other", "require": "key"}), "invalid_request")
        .await;
    for path in ["/v1/keys", "/v1/owners"] {
        assert_eq!(line.get(path).await.json()["items"], json!([]), "{path}");
    }
}

#[tokio::test]
async fn a_list_comes_in_pages_whatever_changes_between_them() {
    let world = World::open(&Stub::by_hand().await).await;
    let mut line = world.socket().await;
    let mut made = Vec::new();
    for number in 0..7 {
        let owner = if number % 2 == 0 { "acme/even" } else { "acme/odd" };
        let key = done(&mut line, Method::POST, "/v1/keys", json!({"owner": owner, "expires_at": "1h"})).await;
        made.push(key["id"].as_str().unwrap().to_owned());
    }
    let ids = |page: &Value| -> Vec<String> {
        page["items"].as_array().unwrap().iter().map(|key| key["id"].as_str().unwrap().to_owned()).collect()
    };
    let first = line.get("/v1/keys?limit=3").await.json();
    assert_eq!(ids(&first).len(), 3);
    // Gone between two pages: the last of the first page, and one that is still to come.
    let all: Vec<String> = ids(&line.get("/v1/keys").await.json());
    for gone in [&all[2], &all[4]] {
        assert_eq!(line.fetch(Method::DELETE, &format!("/v1/keys/{gone}")).await.status, 200);
    }
    let next = first["next"].as_str().unwrap();
    let rest = line.get(&format!("/v1/keys?limit=1000&cursor={next}")).await.json();
    assert_eq!((ids(&rest), &rest["next"]), (vec![all[3].clone(), all[5].clone(), all[6].clone()], &Value::Null));
    let even = line.get("/v1/keys?owner=acme%2Feven&state=active").await.json();
    assert!(even["items"].as_array().unwrap().iter().all(|key| key["owner"] == "acme/even"), "{even}");
    let none = line.get("/v1/keys?owner=acme%2Feve").await.json();
    assert_eq!(none["items"], json!([]));
}

/// What the config lists is shown and cannot be changed, wherever it is asked for.
#[tokio::test]
async fn keys_of_the_config_are_listed_after_those_of_the_store() {
    let mut setup = Setup::new(&Stub::chatty().await);
    let elsewhere = doorward::manage::keys::mint().unwrap();
    let sha256 = KeyDigest::plain(&PresentedKey::parse(elsewhere.reveal().as_bytes()).unwrap()).to_hex();
    let id = elsewhere.id();
    setup.more = format!(
        "[[key]]\nid = \"{id}\"\nowner = \"acme/listed\"\nsha256 = \"{sha256}\"\nexpires_at = \"2099-01-01T00:00:00Z\"\n"
    );
    let world = setup.start().await;
    let mut line = world.socket().await;
    let made = done(&mut line, Method::POST, "/v1/keys", json!({"owner": "acme/x", "expires_at": "1h"})).await;
    becomes(&world, &Key { id, text: elsewhere.reveal().to_owned() }, 200).await;
    let first = line.get("/v1/keys?limit=1").await.json();
    assert_eq!((&first["items"][0]["id"], &first["items"][0]["source"]), (&made["id"], &"store".into()));
    let next = first["next"].as_str().unwrap();
    let last = line.get(&format!("/v1/keys?limit=1&cursor={next}")).await.json();
    let listed = &last["items"][0];
    assert_eq!(
        (&listed["id"], &listed["source"], &last["next"]),
        (&id.as_str().into(), &"config".into(), &Value::Null)
    );
    assert_eq!(&line.get(&format!("/v1/keys/{id}")).await.json(), listed);
    for verb in ["revoke", "rotate"] {
        refused(&mut line, Method::POST, &format!("/v1/keys/{id}/{verb}"), json!({}), "conflict").await;
    }
    refused(&mut line, Method::PATCH, &format!("/v1/keys/{id}"), json!({"disabled": true}), "conflict").await;
    let none = line.get("/v1/keys?owner=acme%2Flisted&state=revoked").await.json();
    assert_eq!(none["items"], json!([]));
}

/// Of many who change one key at once, each is done or refused as a whole.
#[tokio::test]
async fn concurrent_changes_leave_a_key_whole() {
    let world = World::open(&Stub::by_hand().await).await;
    let mut line = world.socket().await;
    let made = done(&mut line, Method::POST, "/v1/keys", json!({"owner": "acme/app", "expires_at": "1h"})).await;
    let path = format!("/v1/keys/{}", made["id"].as_str().unwrap());
    let mut lines = Vec::new();
    for _ in 0..8 {
        lines.push(world.socket().await);
    }
    let changes = lines.iter_mut().enumerate().map(|(number, line)| {
        let path = path.clone();
        async move {
            let body = json!({"note": format!("n{number}"), "external_id": format!("n{number}")});
            done(line, Method::PATCH, &path, body).await
        }
    });
    futures_util::future::join_all(changes).await;
    let shown = line.get(&path).await.json();
    assert_eq!(shown["note"], shown["external_id"], "two changes were mixed: {shown}");
    // One external id, one key, however many ask at once.
    let created = lines.iter_mut().map(|line| async move {
        let body = json!({"owner": "acme/app", "expires_at": "1h", "external_id": "one"});
        line.ask(Method::POST, "/v1/keys", &body.to_string()).await.status
    });
    let mut statuses = futures_util::future::join_all(created).await;
    statuses.sort_unstable();
    assert_eq!(statuses, [201, 409, 409, 409, 409, 409, 409, 409]);
    // One rotation of many replaces it at a time, and each new key is another.
    let rotate = format!("{path}/rotate");
    let rotated = lines.iter_mut().map(|line| done(line, Method::POST, &rotate, json!({})));
    let keys: HashSet<_> = futures_util::future::join_all(rotated).await.iter().map(|made| as_key(made).text).collect();
    assert_eq!(keys.len(), 8);
}

#[tokio::test]
async fn an_import_can_be_made_again() {
    let world = Setup::new(&Stub::chatty().await).start().await;
    let mut line = world.socket().await;
    let elsewhere = doorward::manage::keys::mint().unwrap();
    let presented = PresentedKey::parse(elsewhere.reveal().as_bytes()).unwrap();
    let import = json!({"keys": [
        {"owner": "acme/a", "external_id": "crm-1", "expires_at": "30d", "labels": {"team": "x"}},
        {"owner": "acme/b", "id": elsewhere.id().as_str(), "sha256": KeyDigest::plain(&presented).to_hex()},
    ]});
    let first = done(&mut line, Method::POST, "/v1/keys/import", import.clone()).await;
    let outcomes = |answer: &Value| -> Vec<String> {
        answer["keys"].as_array().unwrap().iter().map(|key| key["outcome"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(outcomes(&first), ["created", "created"]);
    assert_eq!(first["keys"][1].get("key"), None);
    assert_eq!(first["warnings"], json!(["1 of the keys never expires"]));
    becomes(&world, &as_key(&first["keys"][0]), 200).await;
    becomes(&world, &Key { id: elsewhere.id(), text: elsewhere.reveal().to_owned() }, 200).await;

    let again = done(&mut line, Method::POST, "/v1/keys/import", import.clone()).await;
    assert_eq!(outcomes(&again), ["unchanged", "unchanged"]);
    assert_eq!((&again["keys"][0]["id"], again["keys"][0].get("key")), (&first["keys"][0]["id"], None));

    let mut other = import.clone();
    other["keys"][0]["labels"] = json!({"team": "y"});
    other["keys"][1]["external_id"] = "crm-2".into();
    other["keys"].as_array_mut().unwrap().push(json!({"owner": "acme/c", "external_id": "crm-3", "expires_at": "1d"}));
    let third = done(&mut line, Method::POST, "/v1/keys/import", other).await;
    assert_eq!(outcomes(&third), ["conflict", "conflict", "created"]);

    // One wrong key, and none is stored.
    for (wrong, field) in [
        (json!({"owner": "acme/d"}), "external_id"),
        (json!({"owner": "acme/d", "id": "0123456789ab"}), "sha256"),
        (json!({"owner": "acme/d", "sha256": "00".repeat(32)}), "id"),
        (json!({"owner": "acme/d", "id": "0123456789ab", "sha256": "00"}), "sha256"),
        (json!({"owner": "acme//d", "external_id": "crm-9"}), "owner"),
        (json!({"owner": "acme/d", "external_id": "crm-8"}), "external_id"),
        (json!({"owner": "acme/d", "external_id": "crm-9", "expires_at": "2020-01-01T00:00:00Z"}), "expires_at"),
    ] {
        let keys = json!({"keys": [{"owner": "acme/d", "external_id": "crm-8"}, wrong]});
        let problem = refused(&mut line, Method::POST, "/v1/keys/import", keys, "invalid_request").await;
        assert_eq!(problem["errors"][0]["field"], format!("keys[1].{field}"), "{problem}");
    }
    for wrong in
        [json!({}), json!({"keys": []}), json!({"keys": [{"owner": "a", "external_id": "b", "expires": "1d"}]})]
    {
        refused(&mut line, Method::POST, "/v1/keys/import", wrong, "invalid_request").await;
    }
    assert_eq!(line.get("/v1/keys?owner=acme%2Fd").await.json()["items"], json!([]));
}

/// How a verb reaches the gateway, and the options for it.
type Way = (&'static str, Vec<String>);

/// What a verb printed, with what is different each time taken out.
#[derive(Debug, PartialEq)]
struct Said {
    code: Option<i32>,
    out: Value,
    err: String,
}

struct Program {
    dir: PathBuf,
    ways: Vec<Way>,
}

impl Program {
    fn run(&self, way: &Way, arguments: &[&str]) -> (Said, Value) {
        let arguments: Vec<_> = arguments.iter().map(|argument| argument.replace("WAY", way.0)).collect();
        let mut command = Command::new(env!("CARGO_BIN_EXE_doorward"));
        let output =
            command.current_dir(&self.dir).args(&arguments).args(&way.1).args(["--output", "json"]).output().unwrap();
        let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
        let out: Value = if out.is_empty() { Value::Null } else { serde_json::from_str(&out).unwrap() };
        let mut plain = out.clone();
        plain_of(&mut plain, way.0);
        let err = err.replace(way.0, "WAY");
        // How clap spells the usage depends on the options that were given.
        let err = err.lines().filter(|line| !line.starts_with("Usage:")).collect::<Vec<_>>().join("\n");
        (Said { code: output.status.code(), out: plain, err }, out)
    }

    /// Runs a verb in every way; gives what it printed in each.
    fn same(&self, arguments: &[&str]) -> Vec<Value> {
        let mut said = self.ways.iter().map(|way| self.run(way, arguments));
        let (first, out) = said.next().unwrap();
        let mut all = vec![out];
        for (other, out) in said {
            assert_eq!(other, first, "{arguments:?}");
            all.push(out);
        }
        all
    }

    /// The same, on the key that each way has.
    fn same_on(&self, keys: &[Value], arguments: &[&str]) -> Vec<Value> {
        let said: Vec<_> = self
            .ways
            .iter()
            .zip(keys)
            .map(|(way, key)| {
                let id = key["id"].as_str().unwrap();
                self.run(
                    way,
                    &arguments.iter().map(|argument| if *argument == "ID" { id } else { argument }).collect::<Vec<_>>(),
                )
            })
            .collect();
        for (other, _) in &said {
            let strip = |said: &Said| {
                said.err.split_whitespace().filter(|word| KeyId::parse(word).is_err()).collect::<Vec<_>>().join(" ")
            };
            assert_eq!(
                (&other.out, other.code, strip(other)),
                (&said[0].0.out, said[0].0.code, strip(&said[0].0)),
                "{arguments:?}"
            );
        }
        said.into_iter().map(|(_, out)| out).collect()
    }
}

fn plain_of(value: &mut Value, way: &str) {
    match value {
        Value::String(text) => {
            *text = if Timestamp::parse(text).is_ok() {
                "TIME".to_owned()
            } else if KeyId::parse(text).is_ok() {
                "ID".to_owned()
            } else if text.starts_with("dw_") {
                "KEY".to_owned()
            } else {
                text.replace(way, "WAY")
            };
        }
        // What the other ways made is in lists too.
        Value::Array(values) => {
            values.retain(|value| !WAYS.iter().any(|other| *other != way && value.to_string().contains(other)));
            values.iter_mut().for_each(|value| plain_of(value, way));
        }
        Value::Object(fields) => fields.values_mut().for_each(|value| plain_of(value, way)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

const WAYS: [&str; 3] = ["local", "socket", "remote"];

/// Each verb gives the same document, the same words and the same exit code, wherever it is done.
#[tokio::test]
async fn a_verb_is_the_same_here_on_the_socket_and_from_afar() {
    let world = Setup::new(&Stub::by_hand().await).admin_api().start().await;
    let config = vec!["--config".to_owned(), world.file.display().to_string()];
    let operator = world.dir.path().join("operator").display().to_string();
    let socket = format!("unix:{}", world.server.admin_api().socket().display());
    let remote = format!("https://localhost:{}", world.server.admin_api().address().unwrap().port());
    let ways = vec![
        (WAYS[0], config.clone()),
        (WAYS[1], vec!["--admin".to_owned(), socket]),
        (WAYS[2], vec!["--admin".to_owned(), remote, "--operator".to_owned(), operator.clone()]),
    ];
    let program = Program { dir: world.dir.path().to_owned(), ways };
    for way in WAYS {
        let keys = format!("{{\"owner\":\"acme/{way}/i\",\"external_id\":\"{way}-9\",\"expires_at\":\"5d\"}}\n");
        fs::write(world.dir.path().join(format!("{way}.jsonl")), keys).unwrap();
    }
    spawn_blocking(move || {
        let issue = ["cert", "issue", "ops", "--role", "operator", "--out", &operator];
        let (issued, _) = program.run(&("local", config), &issue);
        assert_eq!(issued.code, Some(0), "{issued:?}");
        let made = the_same_is_made(&program);
        the_same_becomes_of(&program, &made);
        the_same_is_refused(&program);
    })
    .await
    .unwrap();
}

/// Grants and keys are made; gives the keys.
fn the_same_is_made(program: &Program) -> Vec<Value> {
    let all = |arguments: &[&str]| program.same(arguments);

    all(&["grant", "set", "acme/WAY", "--default-key-ttl", "30d", "--max-key-ttl", "90d", "--model", "l*"]);
    all(&[
        "grant",
        "set",
        "acme/WAY/deep",
        "--require",
        "either",
        "--network",
        "*",
        "--endpoint",
        "@chat",
        "--expires",
        "90d",
    ]);
    assert_eq!(all(&["grant", "show", "acme/WAY/x"])[0]["grants"][0]["source"], "config");
    assert!(all(&["grant", "list"])[0].as_array().unwrap().len() >= 3);
    let made = all(&[
        "key",
        "create",
        "--owner",
        "acme/WAY/x",
        "--uses",
        "3",
        "--refund-on-failure",
        "--network",
        "127.0.0.1",
        "--model",
        "*",
        "--label",
        "team=x",
        "--label",
        "cost=1",
        "--note",
        "for the demo",
        "--external-id",
        "WAY-1",
        "--not-before",
        "1h",
        "--bind",
        "spiffe://corp.test/client/*",
    ]);
    assert!(made.iter().all(|made| made["warnings"].as_array().unwrap().len() == 1), "{made:?}");
    all(&["key", "list", "--owner", "acme/WAY"]);
    all(&["key", "list", "--only", "not_yet"]);
    made
}

fn the_same_becomes_of(program: &Program, made: &[Value]) {
    let all = |arguments: &[&str]| program.same(arguments);
    program.same_on(made, &["key", "show", "ID"]);
    program.same_on(
        made,
        &["key", "update", "ID", "--disable", "--clear", "uses", "--clear", "label", "--expires", "20d"],
    );
    program.same_on(made, &["key", "update", "ID"]);
    let rotated = program.same_on(made, &["key", "rotate", "ID", "--overlap", "1h"]);
    assert!(rotated.iter().all(|made| made["key"].is_string() && made["old_expires_at"].is_string()));
    program.same_on(made, &["key", "revoke", "ID"]);
    program.same_on(made, &["key", "revoke", "ID"]);
    program.same_on(made, &["key", "rotate", "ID"]);
    program.same_on(made, &["key", "delete", "ID"]);
    program.same_on(made, &["key", "delete", "ID"]);
    let imported = all(&["key", "import", "WAY.jsonl"]);
    assert!(imported.iter().all(|done| done["keys"][0]["key"].is_string()), "{imported:?}");
    assert_eq!(all(&["key", "import", "WAY.jsonl"])[2]["keys"][0]["outcome"], "unchanged");
    all(&["owner", "disable", "acme/WAY"]);
    all(&["owner", "disable", "acme/WAY"]);
    all(&["owner", "list"]);
    all(&["key", "list", "--owner", "acme/WAY", "--only", "owner_disabled"]);
    all(&["owner", "enable", "acme/WAY/x"]);
    all(&["owner", "enable", "acme/WAY"]);
    all(&["grant", "remove", "acme/WAY"]);
    all(&["cert", "list"]);
    all(&["cert", "list", "--expiring", "2d"]);
    all(&["cert", "revoke", "--name", "WAY"]);
    all(&["cert", "revoke", "--name", "WAY", "--reason", "superseded"]);
}

/// What is refused is refused with the same words.
fn the_same_is_refused(program: &Program) {
    let all = |arguments: &[&str]| program.same(arguments);
    for (arguments, code) in [
        (&["key", "show", "0123456789ab"][..], 1),
        (&["key", "create", "--owner", "acme/WAY", "--network", "10.0.0.1/8", "--endpoint", "@chatt"], 2),
        (&["key", "create", "--owner", "acme/WAY", "--expires", "2020-01-01T00:00:00Z"], 2),
        (&["key", "create", "--owner", "acme/WAY/deep", "--external-id", "WAY-9"], 1),
        (&["grant", "set", "acme/WAY"], 1),
        (&["grant", "remove", "acme/WAY"], 1),
        (&["grant", "remove", "acme"], 1),
        (&["cert", "revoke", "--serial", "0123"], 1),
    ] {
        all(arguments);
        let (said, _) = program.run(&program.ways[0], arguments);
        assert_eq!(said.code, Some(code), "{said:?}");
        assert!(said.err.starts_with("error: "), "{said:?}");
    }
}
