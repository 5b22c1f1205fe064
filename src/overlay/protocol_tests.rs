use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use proptest::prelude::*;

use super::passage::{Asked, NotPassed, read, request_headers, response_header_passes, write};
use super::*;
use crate::dialect::paths::upstream_path;
use crate::domain::endpoint::Endpoint;

fn register() -> Register {
    Register {
        protocol: VERSION,
        connector: "site-a".to_owned(),
        instance_id: "0199-1".to_owned(),
        conn_index: 1,
        version: "0.1.0".to_owned(),
        backends: vec![Offer { name: "vllm-a".to_owned(), max_concurrent: 64 }],
        max_streams: 256,
    }
}

fn text<M: Message>(message: &M) -> String {
    String::from_utf8(encode(message).unwrap().to_vec()).unwrap()
}

#[test]
fn messages_are_spelled_as_the_design_has_them() {
    assert_eq!(
        text(&FromConnector::Register(register())),
        r#"{"type":"register","protocol":1,"connector":"site-a","instance_id":"0199-1","conn_index":1,"version":"0.1.0","backends":[{"name":"vllm-a","max_concurrent":64}],"max_streams":256}
"#
    );
    let health = Health { backend: "vllm-a".to_owned(), state: State::Draining };
    assert_eq!(
        text(&FromConnector::Health(health)),
        "{\"type\":\"health\",\"backend\":\"vllm-a\",\"state\":\"draining\"}\n"
    );
    assert_eq!(text(&FromConnector::Drain {}), "{\"type\":\"drain\"}\n");
    let refused = Refused { name: "x".to_owned(), code: Word::new(Word::NOT_PERMITTED).unwrap() };
    let registered = Registered {
        accepted: vec!["a".to_owned()],
        refused: vec![refused],
        server_time: "2026-01-01T00:00:00Z".to_owned(),
    };
    assert_eq!(
        text(&FromGateway::Registered(registered)),
        r#"{"type":"registered","accepted":["a"],"refused":[{"name":"x","code":"not_permitted"}],"server_time":"2026-01-01T00:00:00Z"}
"#
    );
    let drain = FromGateway::Drain { reason: Word::new(Word::SHUTDOWN).unwrap(), deadline_s: 30 };
    assert_eq!(text(&drain), "{\"type\":\"drain\",\"reason\":\"shutdown\",\"deadline_s\":30}\n");
    let error =
        FromGateway::Error { code: Word::new(Word::REVOKED).unwrap(), retry: Retry::Never, retry_after_s: None };
    assert_eq!(text(&error), "{\"type\":\"error\",\"code\":\"revoked\",\"retry\":\"never\"}\n");
    let error = FromGateway::Error {
        code: Word::new("duplicate_instance").unwrap(),
        retry: Retry::Later,
        retry_after_s: Some(5),
    };
    assert_eq!(
        text(&error),
        "{\"type\":\"error\",\"code\":\"duplicate_instance\",\"retry\":\"later\",\"retry_after_s\":5}\n"
    );
}

#[test]
fn what_is_unknown_is_ignored_and_what_is_wrong_is_refused() {
    let read = |line: &str| decode::<FromGateway>(line.as_bytes());
    assert_eq!(read(r#"{"type":"rebalance","x":[1,2]}"#), Ok(None));
    // What the other end says is unknown here, not misunderstood.
    assert_eq!(read(r#"{"type":"register"}"#), Ok(None));
    let drain = FromGateway::Drain { reason: Word::new("a_new_one").unwrap(), deadline_s: 1 };
    assert_eq!(
        read(r#"{"later":{"type":"error"},"type":"drain","reason":"a_new_one","deadline_s":1}"#),
        Ok(Some(drain))
    );
    for wrong in [
        "",
        "[]",
        "null",
        "{}",
        r#"{"type":1}"#,
        r#"{"type":"drain"}"#,
        r#"{"type":"drain","type":"drain","reason":"a","deadline_s":1}"#,
        r#"{"type":"drain","reason":"two words","deadline_s":1}"#,
        r#"{"type":"drain","reason":"","deadline_s":1}"#,
        r#"{"type":"drain","reason":"a","deadline_s":-1}"#,
        r#"{"type":"drain","reason":"a","deadline_s":1} {}"#,
        r#"{"type":"error","code":"a","retry":"soon"}"#,
        r#"{"type":"registered","accepted":["a/b"],"refused":[],"server_time":""}"#,
        "{\"type\":\"drain\",\"reason\":\"\u{e9}\",\"deadline_s\":1}",
    ] {
        assert!(matches!(read(wrong), Err(Fault::Malformed(_))), "{wrong}");
    }
    assert!(decode::<FromGateway>(b"[\xff").is_err());
    assert_eq!(read(&"[".repeat(MAX_OBJECT + 1)), Err(Fault::TooLong));
    assert!(matches!(read(&"[".repeat(MAX_OBJECT)), Err(Fault::Malformed(_))));
}

/// What is wrong is said in the log: the other end must not be able to write lines of its own there.
#[test]
fn a_fault_stays_on_its_line() {
    let wrong = [
        r#"{"type":"health","backend":"a","state":"x\nERROR forged\r\u001b[2J"}"#,
        r#"{"type":"x\ny","type":"z\n"}"#,
        "{\"type\":\"\n\"}",
    ];
    for wrong in wrong {
        let fault = decode::<FromConnector>(wrong.as_bytes()).unwrap_err().to_string();
        assert!(!fault.contains(char::is_control), "{fault:?}");
    }
}

#[test]
fn a_register_is_bounded() {
    let wrong = |change: fn(&mut Register)| {
        let mut register = register();
        change(&mut register);
        assert!(encode(&FromConnector::Register(register)).is_err());
    };
    wrong(|r| r.backends.clear());
    wrong(|r| r.backends = vec![r.backends[0].clone(), r.backends[0].clone()]);
    wrong(|r| r.backends[0].name = "a/b".to_owned());
    wrong(|r| r.backends[0].name = "a".repeat(MAX_NAME + 1));
    wrong(|r| r.backends[0].max_concurrent = 0);
    wrong(|r| r.max_streams = 0);
    wrong(|r| r.conn_index = 8);
    wrong(|r| r.connector = "two\nlines".to_owned());
    wrong(|r| r.instance_id = String::new());
    wrong(|r| r.version = "v".repeat(257));
    wrong(|r| {
        r.backends = (0..=MAX_BACKENDS).map(|n| Offer { name: format!("b{n}"), max_concurrent: 1 }).collect();
    });
    // The longest that is allowed still fits into an object.
    let mut longest = register();
    longest.backends =
        (0..MAX_BACKENDS).map(|n| Offer { name: format!("{n:064}"), max_concurrent: u32::MAX }).collect();
    for text in [&mut longest.connector, &mut longest.instance_id, &mut longest.version] {
        *text = "\"".repeat(256);
    }
    assert!(encode(&FromConnector::Register(longest)).is_ok());
}

#[test]
fn connector_errors_have_words() {
    for error in ConnectorError::ALL {
        assert_eq!(ConnectorError::parse(error.as_str().as_bytes()), Some(error));
    }
    assert_eq!(ConnectorError::parse(b"Timeout"), None);
}

#[track_caller]
fn check(method: &str, uri: &str, expected: Result<(&str, Endpoint, Option<&str>), NotPassed>) {
    let method: Method = method.parse().unwrap();
    let got = read(&method, &uri.parse::<Uri>().unwrap());
    let got = got.map(|asked| match asked {
        Asked::Backend(target) => target,
        Asked::Control => panic!("{uri} is not the control stream"),
    });
    let got = got.as_ref().map(|t| (t.backend.as_str(), t.endpoint, t.query.as_deref())).map_err(|e| *e);
    assert_eq!(got, expected, "{method} {uri}");
}

#[test]
fn only_endpoints_pass() {
    use NotPassed::{Authority, Path, Query};
    check("POST", "https://vllm-a/v1/chat/completions", Ok(("vllm-a", Endpoint::OpenAiChatCompletions, None)));
    check("POST", "https://a/v1/messages?beta=true", Ok(("a", Endpoint::AnthropicMessages, Some("beta=true"))));
    check("GET", "https://a/v1/models", Ok(("a", Endpoint::OpenAiModels, None)));
    for path in [
        "/",
        "/metrics",
        "/v1/chat/completions/",
        "/v1/./chat/completions",
        "/v1/../metrics",
        "/v1/chat%2Fcompletions",
        "/v1/chat/completions%3Fx",
        "//v1/chat/completions",
        "/V1/chat/completions",
        "/v1/models/x",
        "/v1/models/..%2F..%2Fmetrics",
        "/api/pull",
        "/api/delete",
        "/v1/load_lora_adapter",
        "/.doorward/v1/control/",
        "/.doorward/v1/Control",
        "/v1/chat/completions;x",
    ] {
        check("POST", &format!("https://a{path}"), Err(Path));
    }
    for method in ["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "HEAD", "post", "CONNECT"] {
        check(method, "https://a/v1/chat/completions", Err(Path));
    }
    for authority in ["a:80", "user@a", "[::1]", "a:", "a~b"] {
        check("POST", &format!("https://{authority}/v1/chat/completions"), Err(Authority));
    }
    check("POST", "/v1/chat/completions", Err(Authority));
    for query in ["api_key=x", "model=y", "x=1", "beta=true&api_key=x", "beta=true&x=1", "beta=a&beta=b", ""] {
        check("POST", &format!("https://a/v1/messages?{query}"), Err(Query));
    }
}

#[test]
fn the_control_stream_is_one_path() {
    let control = |method: Method, uri: &str| read(&method, &uri.parse().unwrap());
    assert_eq!(control(Method::POST, "https://gw/.doorward/v1/control"), Ok(Asked::Control));
    assert!(control(Method::GET, "https://gw/.doorward/v1/control").is_err());
    assert!(control(Method::POST, "https://gw/.doorward/v1/control?x").is_err());
}

#[test]
fn the_gateway_writes_what_the_connector_reads() {
    for endpoint in Endpoint::ALL {
        let uri = write("vllm-a", endpoint, None);
        if endpoint == Endpoint::OpenAiModel {
            assert_eq!(uri, Err(NotPassed::Path));
        } else {
            assert_eq!(uri.unwrap().path(), upstream_path(endpoint));
        }
    }
    assert_eq!(write("a b", Endpoint::OllamaChat, None), Err(NotPassed::Authority));
    assert!(write("a", Endpoint::OllamaChat, Some("x=1")).is_err());
}

#[test]
fn headers_pass_by_list() {
    let mut headers = HeaderMap::new();
    for name in ["accept", "x-request-id", "authorization", "cookie", "host", "x-api-key", "forwarded", "connection"] {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static("v"));
    }
    headers.insert("traceparent", HeaderValue::from_bytes(b"\xff").unwrap());
    let passed = request_headers(&headers);
    let mut names: Vec<_> = passed.keys().map(HeaderName::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["accept", "x-request-id"]);

    let passes = |name: &'static str, named| response_header_passes(&HeaderName::from_static(name), named);
    assert!(passes("content-type", true) && passes("retry-after", false) && passes("x-anything", false));
    assert!(!passes("x-anything", true) && !passes("connection", false) && !passes("transfer-encoding", false));
    assert!(!passes("x-doorward-connector-error", false) && !passes("x-doorward-origin", false));
}

fn a_word() -> impl Strategy<Value = Word> {
    "[a-z0-9_]{1,64}".prop_map(|text| Word::new(&text).unwrap())
}

fn from_gateway() -> impl Strategy<Value = FromGateway> {
    let name = "[A-Za-z0-9._-]{1,64}";
    let refused = (name, a_word()).prop_map(|(name, code)| Refused { name, code });
    let lists = (prop::collection::vec(name, 0..20), prop::collection::vec(refused, 0..20), ".{0,40}");
    prop_oneof![
        lists.prop_map(|(accepted, refused, server_time)| FromGateway::Registered(Registered {
            accepted,
            refused,
            server_time
        })),
        (a_word(), any::<u32>()).prop_map(|(reason, deadline_s)| FromGateway::Drain { reason, deadline_s }),
        (a_word(), any::<bool>(), any::<Option<u32>>()).prop_map(|(code, never, retry_after_s)| FromGateway::Error {
            code,
            retry: if never { Retry::Never } else { Retry::Later },
            retry_after_s
        }),
    ]
}

proptest! {
    /// What one end writes, the other reads.
    #[test]
    fn what_is_written_is_read(message in from_gateway()) {
        let line = encode(&message).unwrap();
        prop_assert_eq!(line.iter().filter(|b| **b == b'\n').count(), 1);
        prop_assert_eq!(decode::<FromGateway>(&line[..line.len() - 1]), Ok(Some(message)));
    }

    /// No bytes make it panic, and what is read can be written.
    #[test]
    fn survives_anything(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(Some(message)) = decode::<FromConnector>(&bytes) {
            prop_assert!(encode(&message).is_ok());
        }
    }

    /// Whatever path is asked for, what a backend would get is a path of the table.
    #[test]
    fn nothing_but_the_table_comes_out(path in "/[a-z0-9./%;?&=_A-F-]{0,40}", post in any::<bool>()) {
        let method = if post { Method::POST } else { Method::GET };
        if let Ok(uri) = format!("https://vllm-a{path}").parse::<Uri>()
            && let Ok(Asked::Backend(target)) = read(&method, &uri)
        {
            prop_assert_eq!(target.path(), uri.path());
            prop_assert!(Endpoint::ALL.into_iter().any(|endpoint| upstream_path(endpoint) == uri.path()));
        }
    }
}
