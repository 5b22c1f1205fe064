//! JSON that readers take differently: what was authorised is what every reader behind the gateway
//! finds.

use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};

use crate::client::{chat_head, connect, last, replies, talk};
use crate::gateway::{Gateway, OPEN, OPEN_THERE};

async fn send(gateway: &Gateway, key: &str, body: &[u8]) -> Vec<u16> {
    let head = chat_head(key, &format!("Content-Length: {}\r\n", body.len()));
    let bytes = [head.as_bytes(), body, &last(&gateway.key)].concat();
    replies(&talk(connect(gateway).await, &bytes).await).iter().map(|reply| reply.status).collect()
}

#[tokio::test]
async fn what_readers_take_differently_is_refused() {
    let gateway = Gateway::start().await;
    let deep = |n: usize| format!(r#"{{"model":"open","x":{}{}}}"#, "[".repeat(n), "]".repeat(n));
    let mut bodies: Vec<(Vec<u8>, u16)> = [
        (r#"{"model":"open","model":"secret"}"#, 400),
        (r#"{"model":"secret","model":"open"}"#, 400),
        (r#"{"model":"open","\u006dodel":"secret"}"#, 400),
        (r#"{"\u006Dodel":"secret","model":"open"}"#, 400),
        (r#"{"model":"open","Model":"secret"}"#, 400),
        (r#"{"MODEL":"secret","model":"open"}"#, 400),
        (r#"{"Model":"open"}"#, 400),
        ("{\"model\":\"open\",\"\u{17f}tream\":true}", 400),
        ("{\"model\":\"open\",\"max_to\u{212a}ens\":9}", 400),
        (r#"{"model":"open","\u017ftream":true}"#, 400),
        (r#"{"model":"open","stream":"true"}"#, 400),
        (r#"{"model":"open","stream":1}"#, 400),
        (r#"{"model":["open"]}"#, 400),
        (r#"{"model":{"a":"open"}}"#, 400),
        (r#"{"model":1}"#, 400),
        (r#"{"model":null}"#, 400),
        (r#"{"model":""}"#, 400),
        (r#"{"model":" open"}"#, 400),
        (r#"{"model":"open\u0000"}"#, 400),
        (r#"{"model":"open\n"}"#, 400),
        ("{\"model\":\"\u{ff4f}pen\"}", 400),
        (r#"{"model":"OPEN"}"#, 404),
        (r#"{"model":"open:latest"}"#, 404),
        (r#"{"model":"backends-own/open"}"#, 404),
        (r#"{"model":"library/open"}"#, 404),
        (r#"{"model":"secret"}"#, 404),
        (r#"{"model":"nothing"}"#, 404),
        (r#"{"model":"open"} {"model":"secret"}"#, 400),
        (r#"{"model":"open"}{"#, 400),
        (r#"{"model":"open"},"#, 400),
        ("{\"model\":\"open\"}\0", 400),
        ("\u{feff}{\"model\":\"open\"}", 400),
        (r#"[{"model":"open"}]"#, 400),
        (r#""open""#, 400),
        ("", 400),
        ("  \r\n", 400),
        (r#"{"model":"open",}"#, 400),
        (r#"{"model":"open" "x":1}"#, 400),
        (r#"{'model':'open'}"#, 400),
        (r#"{model:"open"}"#, 400),
        (r#"{"model":"open"/*,"model":"secret"*/}"#, 400),
        ("{\"model\":\"open\"}//", 400),
        (r#"{"model":"open","x":NaN}"#, 400),
        (r#"{"model":"open","x":Infinity}"#, 400),
        (r#"{"model":"open","x":1e999}"#, 400),
        (r#"{"model":"open","x":-1e400}"#, 400),
        (r#"{"model":"open","x":01}"#, 400),
        (r#"{"model":"open","x":0x1}"#, 400),
        (r#"{"model":"open","x":.5}"#, 400),
        (r#"{"model":"open","x":+1}"#, 400),
        (r#"{"model":"open","x":True}"#, 400),
        (r#"{"model":"open","x":"\x41"}"#, 400),
        ("{\"model\":\"open\",\"x\":\"a\nb\"}", 400),
        (r#"{"model":"open","a":{"b":1,"b":2}}"#, 400),
        (r#"{"model":"open","a":[{"b":1,"\u0062":2}]}"#, 400),
        (r#"{"model":"open","\ud800":1}"#, 400),
        (r#"{"model":"open","a\u0000":1}"#, 400),
        (r#"{"model":"open","stream_options":{"include_usage":true,"Include_Usage":false}}"#, 400),
        (r#"{"model":"open","stream_options":[]}"#, 400),
        (r#"{"model":"open","max_tokens":-1}"#, 400),
        (r#"{"model":"open","max_tokens":1.5}"#, 400),
        (r#"{"model":"open","max_tokens":"9"}"#, 400),
        (r#"{"model":"open","max_tokens":99999999999999999999}"#, 400),
    ]
    .map(|(body, status)| (body.as_bytes().to_vec(), status))
    .to_vec();
    bodies.push((b"{\"model\":\"open\",\"x\":\"\xff\"}".to_vec(), 400));
    bodies.push((b"{\"model\":\"open\",\"x\":\"\xed\xa0\x80\"}".to_vec(), 400));
    bodies.push((b"{\"model\":\"open\",\"x\":\"\xc0\x80\"}".to_vec(), 400));
    bodies.push(("{\"model\":\"open\"}".encode_utf16().flat_map(u16::to_le_bytes).collect(), 400));
    bodies.push((deep(64).into_bytes(), 400));
    bodies.push((deep(100_000).into_bytes(), 400));
    bodies.push((format!(r#"{{"model":"{}"}}"#, "a".repeat(257)).into_bytes(), 400));
    for (body, status) in bodies {
        assert_eq!(send(&gateway, &gateway.narrow, &body).await, [status, 200], "{}", body.escape_ascii());
    }
    assert!(gateway.backend.take().is_empty());
    gateway.until_quiet().await;
}

#[tokio::test]
async fn what_passes_names_one_model_for_every_reader() {
    let gateway = Gateway::start().await;
    let deep = format!(r#"{{"x":{}{},"model":"open"}}"#, "[".repeat(63), "]".repeat(63));
    let long = format!(r#"{{"x":{},"model":"open"}}"#, "9".repeat(300));
    let keys = format!(
        r#"{{{}"model":"open"}}"#,
        (0..5000).fold(String::new(), |text, n| format!("{text}\"k{n}\":{{\"model\":\"secret\"}},"))
    );
    let bodies = [
        r#"{"model":"open"}"#,
        " \t\r\n{ \"model\" \n:\t\"open\" }\r\n ",
        r#"{"\u006d\u006f\u0064\u0065\u006c":"open"}"#,
        r#"{"model":"\u006fpen"}"#,
        r#"{"model":"op\u0065n","x":"\"model\":\"secret\""}"#,
        r#"{"x":{"model":"secret","Model":"secret"},"model":"open"}"#,
        r#"{"model":"open","models":["secret"],"tools":[{"model":"secret"}]}"#,
        r#"{"model":"open","stream":null,"max_tokens":5.0e1}"#,
        r#"{"model":"open","x":"\ud800"}"#,
        r#"{"model":"open","x":"\u2028","y":1e308}"#,
        r#"{"model":"open","__proto__":{"model":"secret"},"constructor":1}"#,
        r#"{"model":"open","mod\u0435l":"secret"}"#,
        &deep,
        &long,
        &keys,
    ];
    for body in bodies {
        assert_eq!(send(&gateway, &gateway.narrow, body.as_bytes()).await, [200, 200], "{body:.200}");
        let seen = gateway.backend.take();
        assert_eq!(seen.len(), 1, "{body:.200}");
        let there = seen[0].body.as_slice();
        assert_eq!(models(there), [OPEN_THERE], "{}", there.escape_ascii());
        let text = std::str::from_utf8(there).unwrap();
        assert!(!text.contains(&format!("\"{OPEN}\"")) && !text.contains(r"\u006fpen"), "{text:.200}");
    }
    gateway.until_quiet().await;
}

/// What any reader could take for the model: every member of the outer object whose name comes out
/// as `model` in whatever case.
fn models(body: &[u8]) -> Vec<String> {
    struct Members;
    impl<'de> Visitor<'de> for Members {
        type Value = Vec<String>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut models = Vec::new();
            while let Some(key) = map.next_key::<String>()? {
                if key.eq_ignore_ascii_case("model") {
                    models.push(map.next_value::<String>()?);
                } else {
                    map.next_value::<IgnoredAny>()?;
                }
            }
            Ok(models)
        }
    }
    serde_json::Deserializer::from_slice(body).deserialize_map(Members).unwrap()
}

/// The size, however it is announced.
#[tokio::test]
async fn large_bodies() {
    let gateway =
        Gateway::with(crate::gateway::Setup { listen: "max_body_bytes = 100_000", ..Default::default() }).await;
    let body = |length: usize| {
        let (start, end) = (r#"{"model":"open","x":""#, r#""}"#);
        format!("{start}{}{end}", "a".repeat(length - start.len() - end.len()))
    };
    assert_eq!(send(&gateway, &gateway.narrow, body(100_000).as_bytes()).await, [200, 200]);
    assert_eq!(send(&gateway, &gateway.narrow, body(100_001).as_bytes()).await, [413, 200]);
    // Longer than what is read and thrown away.
    assert_eq!(send(&gateway, &gateway.narrow, body(2_000_000).as_bytes()).await, [413]);
    let chunked = |body: String, size: usize| {
        let head = chat_head(&gateway.narrow, "Connection: close\r\nTransfer-Encoding: chunked\r\n");
        let chunks = body.as_bytes().chunks(size).fold(Vec::new(), |mut all, chunk| {
            all.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            all.extend_from_slice(chunk);
            all.extend_from_slice(b"\r\n");
            all
        });
        [head.as_bytes(), &chunks, b"0\r\n\r\n"].concat()
    };
    let status = async |bytes: Vec<u8>| crate::client::statuses(&gateway, &bytes).await;
    assert_eq!(status(chunked(body(100_000), 1)).await, [200]);
    assert_eq!(status(chunked(body(100_001), 1)).await, [413]);
    assert_eq!(status(chunked(body(100_001), 70_000)).await, [413]);
    let seen = gateway.backend.take();
    assert!(seen.len() == 2 && seen.iter().all(|seen| models(&seen.body) == [OPEN_THERE]));
    gateway.until_quiet().await;
}
