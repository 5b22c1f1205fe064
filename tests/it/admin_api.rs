//! The admin API: who is let in, what is refused before an operation is asked, and that what is
//! served is what is documented.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use doorward::admin::api::{openapi, route};
use doorward::domain::identity::Role;
use http::Method;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use crate::support::{Caller, ChannelBody, LONG, Process, Setup, Stub, Whole, World, full, until, within};

const CERTIFICATES: &str = "/v1/certificates";

async fn world() -> World {
    Setup::new(&Stub::by_hand().await).admin_api().start().await
}

/// It was refused with this code, in the shape of RFC 9457.
#[track_caller]
fn assert_problem(answer: &Whole, status: u16, code: &str) -> Value {
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    assert_eq!((answer.status, answer.header("content-type")), (status, Some("application/problem+json")), "{text}");
    let problem = answer.json();
    assert_eq!((&problem["code"], &problem["status"]), (&code.into(), &status.into()), "{text}");
    assert!(problem["detail"].as_str().unwrap().len() > 5, "{text}");
    problem
}

#[track_caller]
fn assert_done(answer: &Whole) -> Value {
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    assert!((200..300).contains(&answer.status), "{} {text}", answer.status);
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(
        (answer.header("cache-control"), answer.header("x-content-type-options")),
        (Some("no-store"), Some("nosniff"))
    );
    answer.json()
}

#[tokio::test]
async fn the_socket_is_private_and_goes_with_the_gateway() {
    let world = world().await;
    let path = world.server.admin_api().socket().to_owned();
    assert_eq!(path, world.state.join("admin.sock"));
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    assert_done(&world.socket().await.get(CERTIFICATES).await);
    let (server, _prepared) = world.into_parts();
    server.shut_down().await;
    assert!(!path.exists());
}

/// The kernel says who is there. What the mode of the socket says is opened up for this test.
#[tokio::test]
#[expect(clippy::print_stderr, reason = "a skipped test says so")]
async fn another_uid_is_turned_away_whatever_the_mode_of_the_socket() {
    let world = world().await;
    let path = world.server.admin_api().socket().to_owned();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
    for directory in [world.state.as_path(), world.dir.path()] {
        fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let run = |uid: &str, arguments: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", uid, "--clear-groups"]).args(arguments);
        tokio::task::spawn_blocking(move || command.output())
    };
    let path = path.to_str().unwrap();
    let curl = ["curl", "-sS", "--max-time", "10", "--unix-socket", path, "http://localhost/v1/certificates"];
    let Ok(own) = run("0", &curl).await.unwrap() else { return eprintln!("SKIPPED: needs setpriv and curl") };
    if !own.status.success() {
        return eprintln!("SKIPPED: needs root: {}", String::from_utf8_lossy(&own.stderr));
    }
    assert!(String::from_utf8_lossy(&own.stdout).starts_with(r#"{"items":"#), "{own:?}");
    // It is not the file system that turns the other one away.
    let writable = run("65534", &["test", "-w", path]).await.unwrap().unwrap();
    assert!(writable.status.success(), "{writable:?}");
    let other = run("65534", &curl).await.unwrap().unwrap();
    assert!(!other.status.success() && other.stdout.is_empty(), "{other:?}");
}

#[tokio::test]
async fn only_operators_of_the_built_in_authority_get_in() {
    let world = world().await;
    let operator = world.certificate_as(Role::Operator, "ops", None);
    for mut line in world.operator().certificate(&operator).both().await {
        assert_done(&line.get(CERTIFICATES).await);
    }
    for role in [Role::Client, Role::Connector] {
        let other = world.certificate_as(role, "someone", None);
        for mut line in world.operator().certificate(&other).both().await {
            assert_problem(&line.get(CERTIFICATES).await, 401, "invalid_credentials");
            assert_problem(&line.get("/openapi.json").await, 401, "invalid_credentials");
            assert_problem(&line.get("/v1/nothing").await, 401, "invalid_credentials");
        }
    }
    // Without a certificate of this authority the handshake itself fails.
    assert_no_answer(&world.operator()).await;
    let stranger = Setup::new(&Stub::by_hand().await).write();
    let foreign = stranger.certificate_as(Role::Operator, "ops", None);
    assert_no_answer(&world.operator().certificate(&foreign)).await;
    // A key is no credential here.
    let key = world.key("acme").await;
    assert_no_answer(&world.operator().key(&key)).await;
}

/// In TLS 1.3 the client learns of a refused certificate with its first read.
async fn assert_no_answer(caller: &Caller) {
    let Ok(mut stream) = caller.tls(&["http/1.1"]).await else { return };
    let request = format!("GET {CERTIFICATES} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    if stream.write_all(request.as_bytes()).await.is_err() {
        return;
    }
    let mut bytes = Vec::new();
    let end = within(LONG, "the connection ends", stream.read_to_end(&mut bytes)).await;
    assert!(end.is_err() && bytes.is_empty(), "{}", String::from_utf8_lossy(&bytes));
}

/// An operator's rights are those of now, on open connections too.
#[tokio::test]
async fn a_revoked_operator_is_refused_on_an_open_connection() {
    let world = world().await;
    let operator = |name| world.certificate_as(Role::Operator, name, None);
    let (one, two) = (operator("one"), operator("two"));
    let mut open = [world.operator().certificate(&one).h1().await, world.operator().certificate(&two).h2().await];
    for line in &mut open {
        assert_done(&line.get(CERTIFICATES).await);
    }
    let generation = world.generation();
    // By one of the operators, through the API itself.
    let path = format!("/v1/certificates/{}/revoke", two.serial);
    let done = assert_done(&open[0].ask(Method::POST, &path, "{}").await);
    assert_eq!(done["newly"], true);
    assert_done(&open[0].ask(Method::POST, "/v1/names/one/revoke", r#"{"reason":"key-compromise"}"#).await);
    world.changed_since(generation).await;
    for line in &mut open {
        within(LONG, "the revocation counts", async { while line.get(CERTIFICATES).await.status == 200 {} }).await;
        assert_problem(&line.get(CERTIFICATES).await, 401, "invalid_credentials");
    }
}

/// A body may take half a minute, in which an operator can be revoked.
#[tokio::test]
async fn an_operator_who_is_revoked_while_the_body_comes_changes_nothing() {
    let world = world().await;
    let operator = world.certificate_as(Role::Operator, "ops", None);
    let mut line = world.operator().certificate(&operator).h2().await;
    let (pieces, body) = ChannelBody::channel();
    let mut request = line.request(Method::POST, "/v1/keys", body);
    request.headers_mut().insert("content-type", "application/json".parse().unwrap());
    pieces.send(Bytes::from_static(b"{\"owner\"")).await.unwrap();
    let answer = tokio::spawn(async move { line.send(request).await });
    let before = world.generation();
    world.revoke_name("ops");
    world.changed_since(before).await;
    pieces.send(Bytes::from_static(b":\"acme/x\"}")).await.unwrap();
    drop(pieces);
    assert_problem(&Whole::of(answer.await.unwrap().unwrap()).await, 401, "invalid_credentials");
    assert_eq!(world.store().list_keys().unwrap(), []);
}

/// A store that was moved away is not changed where it lies now: nobody would heed it.
#[tokio::test]
async fn a_store_that_is_gone_is_said_to_be() {
    let world = Setup::new(&Stub::by_hand().await).admin_api().manual_clock().start().await;
    let operator = world.certificate_as(Role::Operator, "ops", None);
    let (mut line, mut remote) = (world.socket().await, world.operator().certificate(&operator).h1().await);
    assert_done(&line.get(CERTIFICATES).await);
    let (path, away) = (world.state.join("doorward.db"), world.state.join("away"));
    let raw = rusqlite::Connection::open(&path).unwrap();
    raw.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    drop(raw);
    fs::rename(&path, &away).unwrap();
    let revoke = format!("/v1/certificates/{}/revoke", operator.serial);
    for line in [&mut line, &mut remote] {
        assert_problem(&line.ask(Method::POST, &revoke, "{}").await, 500, "failed");
    }
    assert!(!path.exists(), "an empty store was made in its place");
    // Who is revoked by now is not known, so operators elsewhere are not let in.
    world.metric_becomes("doorward_store_readable", 0.0).await;
    let before = world.generation();
    world.clock.advance(Duration::from_secs(61));
    world.changed_since(before).await;
    let answer = remote.get(CERTIFICATES).await;
    assert_problem(&answer, 503, "store_unavailable");
    assert_eq!(answer.header("retry-after"), Some("1"));
    fs::rename(&away, &path).unwrap();
    world.metric_becomes("doorward_store_readable", 1.0).await;
    within(LONG, "the store is back", async { while remote.get(CERTIFICATES).await.status != 200 {} }).await;
    assert_eq!(assert_done(&line.ask(Method::POST, &revoke, "{}").await)["newly"], true);
}

/// Whoever has a certificate of the authority gets through the handshake, and no further.
#[tokio::test]
async fn others_cannot_take_the_operators_places() {
    let world = world().await;
    let other = world.operator().certificate(&world.certificate("alice"));
    let mut held = Vec::new();
    for _ in 0..80 {
        // Some are turned away, which the client sees later.
        held.extend(other.tls(&["h2"]).await);
    }
    assert!(held.len() > 16, "{}", held.len());
    let operator = world.operator().certificate(&world.certificate_as(Role::Operator, "ops", None));
    for mut line in operator.both().await {
        assert_done(&line.get(CERTIFICATES).await);
    }
}

/// Strangers who never finish their handshakes hold few places each, and nobody waits behind them.
#[tokio::test]
async fn strangers_cannot_hold_all_handshakes() {
    let world = world().await;
    let address = world.server.admin_api().address().unwrap();
    let mut held = Vec::new();
    for _ in 0..8 {
        held.push(TcpStream::connect(address).await.unwrap());
    }
    // Accepting is in order, so once this one is turned away those before it have their places.
    let mut ninth = TcpStream::connect(address).await.unwrap();
    let read = within(LONG, "one too many is closed", ninth.read(&mut [0])).await;
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    let operator = world.operator().certificate(&world.certificate_as(Role::Operator, "ops", None));
    let elsewhere = operator.calling_from("127.0.0.2".parse().unwrap());
    for mut line in elsewhere.both().await {
        assert_done(&line.get(CERTIFICATES).await);
    }
    drop(held);
}

/// What a reload makes is in force for operators too.
#[tokio::test]
async fn a_reload_keeps_operators_and_takes_over_names() {
    let setup = Setup::new(&Stub::by_hand().await).admin_api();
    let changed = setup.text().replace("\"other.test\"", "\"new.test\"");
    let mut world = setup.start().await;
    world.reload(&changed);
    let operator = world.certificate_as(Role::Operator, "ops", None);
    for (name, status) in [("new.test", 200), ("llm.test", 200), ("other.test", 421)] {
        let mut line = world.operator().certificate(&operator).h1().await;
        let mut request = line.request(Method::GET, CERTIFICATES, full(""));
        request.headers_mut().insert("host", name.parse().unwrap());
        assert_eq!(Whole::of(line.send(request).await.unwrap()).await.status, status, "{name}");
    }
    // Its own certificate has the new name.
    assert_done(&world.operator().named("new.test").certificate(&operator).h1().await.get(CERTIFICATES).await);
    // Of settings: the operator's certificate makes a new view in its own time.
    let refused = world.server.gateway().view().settings.generation;
    let elsewhere = fs::read_to_string(&world.file).unwrap().replace("api_address = \"127.0.0.1:0\"", "");
    world.reload(&elsewhere);
    assert_eq!(world.server.gateway().view().settings.generation, refused, "a listener cannot go without a restart");
}

#[tokio::test]
async fn an_operators_certificate_ends_on_an_open_connection() {
    let world = Setup::new(&Stub::by_hand().await).admin_api().manual_clock().start().await;
    let operator = world.certificate_as(Role::Operator, "ops", Some(Duration::from_secs(600)));
    let mut line = world.operator().certificate(&operator).h1().await;
    assert_done(&line.get(CERTIFICATES).await);
    world.clock.advance(Duration::from_secs(600));
    assert_problem(&line.get(CERTIFICATES).await, 401, "invalid_credentials");
}

/// A browser that resolves a name of somebody else's to this listener sends that name, and its
/// pages send an Origin.
#[tokio::test]
async fn hosts_and_pages_of_others_are_refused() {
    let world = world().await;
    let operator = world.certificate_as(Role::Operator, "ops", None);
    let port = world.server.admin_api().address().unwrap().port();
    for (host, status, code) in [
        ("localhost", 200, ""),
        ("llm.test", 200, ""),
        ("LLM.test:8445", 200, ""),
        (&*format!("127.0.0.1:{port}"), 200, ""),
        ("127.0.0.2", 421, "misdirected"),
        ("connect.test", 421, "misdirected"),
        ("evil.test", 421, "misdirected"),
        ("localhost.evil.test", 421, "misdirected"),
        ("user@localhost", 400, "invalid_host"),
        ("", 400, "invalid_host"),
    ] {
        let mut line = world.operator().certificate(&operator).h1().await;
        let mut request = line.request(Method::GET, CERTIFICATES, full(""));
        request.headers_mut().insert("host", host.parse().unwrap());
        let answer = Whole::of(line.send(request).await.unwrap()).await;
        assert_eq!(answer.status, status, "{host}");
        if status != 200 {
            assert_problem(&answer, status, code);
        }
    }
    for (head, status) in [
        ("Host: localhost", 200),
        ("Host: localhost:80", 200),
        ("Host: llm.test", 421),
        ("Host: evil.test", 421),
        ("Host: localhost\r\nHost: localhost", 400),
        ("Host: localhost\r\nOrigin: http://evil.test", 403),
        ("Host: localhost\r\nOrigin: null", 403),
        ("Accept: */*", 400),
    ] {
        let answer = raw(&world, &format!("GET {CERTIFICATES} HTTP/1.1\r\n{head}\r\nConnection: close\r\n\r\n")).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{head:?}: {answer}");
    }
    let absolute = "GET http://evil.test/v1/certificates HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    assert!(raw(&world, absolute).await.starts_with("HTTP/1.1 400 "));
    // A preflight gets nothing that a browser could take for a yes.
    let preflight = "OPTIONS /v1/certificates HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost\r\n\
                     Access-Control-Request-Method: POST\r\nConnection: close\r\n\r\n";
    let answer = raw(&world, preflight).await.to_lowercase();
    assert!(answer.starts_with("http/1.1 403 ") && !answer.contains("access-control"), "{answer}");
}

/// What the socket answers to these bytes.
async fn raw(world: &World, bytes: &str) -> String {
    let mut stream = UnixStream::connect(world.server.admin_api().socket()).await.unwrap();
    stream.write_all(bytes.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // What was sent and not read ends in a reset, after the answer.
    drop(within(LONG, "the socket answers", stream.read_to_end(&mut answer)).await);
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn what_is_no_operation_is_refused() {
    let world = world().await;
    let mut line = world.socket().await;
    for path in [
        "/",
        "/v1",
        "/v1/",
        "/v1/certificates/",
        "/v1//certificates",
        "/v1/Certificates",
        "/v1/certificates/../keys",
        "/v1/certificates/%2e%2e/revoke",
        "/v2/certificates",
        "/metrics",
        "/openapi.yaml",
        "/v1/names/%ff/revoke",
    ] {
        let answer = line.get(path).await;
        assert!(matches!(answer.status, 404 | 405), "{path}: {}", answer.status);
        assert_problem(&answer, answer.status, if answer.status == 404 { "not_found" } else { "method_not_allowed" });
    }
    let answer = line.fetch(Method::PUT, CERTIFICATES).await;
    assert_problem(&answer, 405, "method_not_allowed");
    assert_eq!(answer.header("allow"), Some("GET"));
    assert_problem(&line.fetch(Method::POST, "/openapi.json").await, 405, "method_not_allowed");
    assert_eq!(line.fetch(Method::HEAD, CERTIFICATES).await.status, 405);
}

#[tokio::test]
async fn requests_are_strict() {
    let world = world().await;
    let mut line = world.socket().await;
    for (query, field) in [
        ("limt=5", "limt"),
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=x", "limit"),
        ("limit=1&limit=1", "limit"),
        ("expiring=soon", "expiring"),
        ("access_token=dw_secret", "access_token"),
    ] {
        let problem = assert_problem(&line.get(&format!("{CERTIFICATES}?{query}")).await, 400, "invalid_request");
        assert_eq!(problem["errors"][0]["field"], field, "{problem}");
        assert!(!problem.to_string().contains("dw_secret"));
    }
    let revoke = "/v1/names/alice/revoke";
    for body in [
        "[]",
        "null",
        "{",
        "{}{}",
        r#"{"reason":5}"#,
        r#"{"reason":"keyCompromise"}"#,
        r#"{"reasons":"superseded"}"#,
        r#"{"reason":"superseded","reason":"unspecified"}"#,
        r#"{"name":"bob"}"#,
        &format!("{}1{}", "[".repeat(500), "]".repeat(500)),
    ] {
        assert_problem(&line.ask(Method::POST, revoke, body).await, 400, "invalid_request");
    }
    assert_problem(&line.ask(Method::POST, &format!("{revoke}?reason=superseded"), "{}").await, 400, "invalid_request");
    assert_problem(&line.ask(Method::POST, "/v1/names/%2e%2e%2fops/revoke", "{}").await, 400, "invalid_request");
    assert_problem(&line.ask(Method::GET, CERTIFICATES, "{}").await, 400, "invalid_request");
    let form = line.request(Method::POST, revoke, full("reason=superseded"));
    assert_problem(&Whole::of(line.send(form).await.unwrap()).await, 415, "unsupported_media_type");
    // Nothing of all that was done.
    assert_eq!(assert_done(&line.get(CERTIFICATES).await)["items"], Value::Array(Vec::new()));
    assert_done(&line.ask(Method::POST, revoke, "").await);
}

#[tokio::test]
async fn bodies_and_heads_are_bounded() {
    let world = world().await;
    let long = format!(r#"{{"reason":"{}"}}"#, "x".repeat(70_000));
    let mut line = world.socket().await;
    assert_problem(&line.ask(Method::POST, "/v1/names/alice/revoke", &long).await, 413, "body_too_large");
    let chunk = format!("{:x}\r\n{}\r\n", 70_000, "x".repeat(70_000));
    let head = "POST /v1/names/alice/revoke HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
                Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n";
    assert!(raw(&world, &format!("{head}{chunk}0\r\n\r\n")).await.starts_with("HTTP/1.1 413 "));
    let huge = format!("GET /v1/certificates HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "x".repeat(40_000));
    assert!(raw(&world, &huge).await.starts_with("HTTP/1.1 431 "));
}

/// The document, the file that is checked in, and the router say the same.
///
/// `UPDATE=1` writes the file anew; look at the difference.
#[tokio::test]
async fn the_openapi_document_is_the_router() {
    let world = world().await;
    let mut line = world.socket().await;
    let served = line.get(openapi::PATH).await;
    assert_done(&served);
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/openapi.json");
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&file, &served.body).unwrap();
    }
    let (filed, served_text) = (fs::read_to_string(&file).unwrap(), String::from_utf8_lossy(&served.body));
    let differs = filed.lines().zip(served_text.lines()).position(|(filed, served)| filed != served);
    assert!(filed == served_text, "UPDATE=1 writes docs/openapi.json; it differs at line {differs:?}");

    let document = served.json();
    assert_eq!(document["openapi"], "3.1.1");
    let mut documented = 0;
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            documented += 1;
            let route = route::all().iter().find(|route| operation["operationId"] == route.name).unwrap();
            assert_eq!((route.path, route.method.as_str()), (path.as_str(), &*method.to_uppercase()));
            // Every field of the request is a parameter or in the body, once.
            let mut fields: Vec<String> = Vec::new();
            for parameter in operation["parameters"].as_array().unwrap_or(&Vec::new()) {
                let place = if path.contains(&format!("{{{}}}", parameter["name"].as_str().unwrap())) {
                    "path"
                } else {
                    "query"
                };
                assert_eq!(parameter["in"], place, "{path} {parameter}");
                fields.push(parameter["name"].as_str().unwrap().to_owned());
            }
            if let Some(reference) = operation.pointer("/requestBody/content/application~1json/schema/$ref") {
                let schema = resolve(&document, reference);
                assert_eq!(schema["additionalProperties"], false, "{path}: unknown fields must be refused");
                fields.extend(schema["properties"].as_object().unwrap().keys().cloned());
            }
            fields.sort();
            let mut known: Vec<String> = route.request["properties"].as_object().unwrap().keys().cloned().collect();
            known.sort();
            assert_eq!(fields, known, "{path}");
            // The router has the path: whatever it thinks of the values, it knows the method.
            let target = path
                .replace("{serial}", "zz")
                .replace("{name}", "..")
                .replace("{id}", "-")
                .replace("{owner}", "-")
                .replace("{connector}", "-");
            let answer = line.ask(method.to_uppercase().parse().unwrap(), &target, "").await;
            assert!(!matches!(answer.status, 404 | 405), "{method} {target}: {}", answer.status);
        }
    }
    assert_eq!(documented, route::all().len());
    let mut references = Vec::new();
    gather_references(&document, &mut references);
    assert!(references.len() > documented);
    for reference in references {
        assert!(resolve(&document, reference).is_object(), "{reference} leads nowhere");
    }
}

#[track_caller]
fn resolve<'d>(document: &'d Value, reference: &Value) -> &'d Value {
    document.pointer(reference.as_str().unwrap().strip_prefix('#').unwrap()).unwrap_or(&Value::Null)
}

fn gather_references<'d>(value: &'d Value, into: &mut Vec<&'d Value>) {
    match value {
        Value::Object(fields) => {
            into.extend(fields.get("$ref"));
            fields.values().for_each(|value| gather_references(value, into));
        }
        Value::Array(values) => values.iter().for_each(|value| gather_references(value, into)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Who changed what is in the log; reading is not.
#[tokio::test]
async fn every_change_is_logged_with_who_made_it() {
    let mut setup = Setup::new(&Stub::by_hand().await).admin_api();
    setup.more = "[log]\nlevel = \"trace\"".to_owned();
    let program = Process::serve(&setup).await;
    let mut line = program.caller().named("localhost").unix(&program.files.state.join("admin.sock")).await;
    assert_done(&line.get(CERTIFICATES).await);
    assert_done(&line.ask(Method::POST, "/v1/names/alice/revoke", r#"{"reason":"superseded"}"#).await);
    assert_problem(&line.ask(Method::POST, "/v1/certificates/0a/revoke", "{}").await, 404, "not_found");
    let body = r#"{"owner":"acme/app","expires_at":"1h","note":"for the log"}"#;
    let made = assert_done(&line.ask(Method::POST, "/v1/keys", body).await);
    let key = made["key"].as_str().unwrap().to_owned();
    let import = r#"{"keys":[{"owner":"acme/app","external_id":"crm-1","expires_at":"1h"}]}"#;
    let imported = assert_done(&line.ask(Method::POST, "/v1/keys/import", import).await);
    let other = imported["keys"][0]["key"].as_str().unwrap().to_owned();
    let uid = fs::metadata(&program.files.state).unwrap().uid();
    let said = until(LONG, "both are in the log", || {
        let log = program.log();
        let lines: Vec<_> = log.lines().filter(|line| line.contains("admin API: ")).map(str::to_owned).collect();
        (lines.len() >= 4).then_some(lines)
    })
    .await;
    assert_eq!(said.len(), 4, "{said:#?}");
    // A key in the wrong place, and what would be a line of the log in the name of a field.
    let misplaced = format!("/v1/keys/{key}/revoke");
    assert_problem(&line.ask(Method::POST, &misplaced, "{}").await, 400, "invalid_request");
    for import in
        [format!(r#"{{"keys":["{key}"]}}"#), r#"{"keys":[{"x\n  INFO admin API: done who=forged":"a"}]}"#.to_owned()]
    {
        assert_problem(&line.ask(Method::POST, "/v1/keys/import", &import).await, 400, "invalid_request");
    }
    let not_done = until(LONG, "the refused are in the log", || {
        let log = program.log();
        (log.lines().filter(|line| line.contains("admin API: not done")).count() >= 4).then_some(log)
    })
    .await;
    assert!(!not_done.lines().any(|line| line.contains("who=forged")), "{not_done}");
    assert!(not_done.contains(&format!("dw_{}_…", made["id"].as_str().unwrap())), "{not_done}");
    let id = made["id"].as_str().unwrap();
    let expected = [
        ["revokeName", "superseded", "done"],
        ["revokeCertificate", "0a", "not_found"],
        ["createKey", "for the log", id],
        ["importKeys", "(not shown)", "done"],
    ];
    for (line, words) in said.iter().zip(expected) {
        assert!(line.contains(&format!("uid {uid}")) && words.iter().all(|word| line.contains(word)), "{line}");
    }
    for secret in [&key[16..], &other[16..]] {
        assert!(!program.log().contains(secret), "a secret is in the log");
    }
}
