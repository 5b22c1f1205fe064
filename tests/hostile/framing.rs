//! Where an HTTP/1.1 request ends: whatever two readers could disagree on is refused or closes the
//! connection, and nothing behind it becomes a request that was not admitted.

use crate::client::{Reply, chat, chat_head, connect, last, replies, statuses, talk};
use crate::gateway::{Gateway, OPEN, OPEN_THERE, SECRET};

const CLOSES: bool = false;
const GOES_ON: bool = true;

/// What is sent, which statuses come back for it, whether the request behind it on the same
/// connection is answered, and how many requests the backend gets.
struct Row {
    name: &'static str,
    bytes: Vec<u8>,
    statuses: Vec<u16>,
    then: bool,
    admitted: usize,
}

fn row(name: &'static str, bytes: impl Into<Vec<u8>>, statuses: &[u16], then: bool) -> Row {
    let admitted = statuses.iter().filter(|status| **status == 200).count();
    Row { name, bytes: bytes.into(), statuses: statuses.to_vec(), then, admitted }
}

/// A chat request whose head has `headers` and whose body is `body` as it stands.
fn with(key: &str, headers: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    [chat_head(key, headers).as_bytes(), body.as_ref()].concat()
}

async fn check(gateway: &Gateway, rows: Vec<Row>) {
    for row in rows {
        let bytes = [row.bytes.as_slice(), &last(&gateway.key)].concat();
        let came = replies(&talk(connect(gateway).await, &bytes).await);
        let mut expected = row.statuses.clone();
        if row.then == GOES_ON {
            expected.push(200);
        }
        let statuses: Vec<u16> = came.iter().map(|reply| reply.status).collect();
        assert_eq!(statuses, expected, "{}", row.name);
        let seen = gateway.backend.take();
        assert_eq!(seen.len(), row.admitted, "{}: {seen:#?}", row.name);
        assert!(seen.iter().all(|seen| seen.json()["model"] == OPEN_THERE), "{}: {seen:#?}", row.name);
    }
}

fn body() -> String {
    format!("{{\"model\":\"{OPEN}\"}}")
}

fn chunked() -> String {
    format!("{:x}\r\n{}\r\n0\r\n\r\n", body().len(), body())
}

/// A request in disguise: with the narrow key, for the model that it may not name.
fn hidden(gateway: &Gateway) -> Vec<u8> {
    let body = format!("{{\"model\":\"{SECRET}\"}}");
    with(&gateway.narrow, &format!("Content-Length: {}\r\n", body.len()), body)
}

#[tokio::test]
async fn lengths_and_codings() {
    let gateway = Gateway::start().await;
    let key = gateway.narrow.clone();
    let (body, chunked) = (body(), chunked());
    let length = format!("Content-Length: {}\r\n", body.len());
    let te = "Transfer-Encoding: chunked\r\n";
    let behind = |bytes: &str| [bytes.as_bytes(), &hidden(&gateway)].concat();
    let sized = |name, headers: &str, statuses: &[u16], then| row(name, with(&key, headers, &body), statuses, then);
    let coded = |name, headers: &str, statuses: &[u16], then| row(name, with(&key, headers, &chunked), statuses, then);
    let mut rows = vec![
        sized("plain", &length, &[200], GOES_ON),
        coded("chunked", te, &[200], GOES_ON),
        row("length, then coding", with(&key, &format!("{length}{te}"), behind(&chunked)), &[200], CLOSES),
        row("coding, then length", with(&key, &format!("{te}Content-Length: 4\r\n"), behind(&chunked)), &[200], CLOSES),
        coded("gzip, chunked", "Transfer-Encoding: gzip, chunked\r\n", &[400], CLOSES),
        coded("chunked, chunked", "Transfer-Encoding: chunked, chunked\r\n", &[400], CLOSES),
        coded("chunked twice", &format!("{te}{te}"), &[400], CLOSES),
        coded("any case", "tRANSFER-eNCODING: CHUNKED\r\n", &[200], GOES_ON),
        coded("a tab before", "Transfer-Encoding:\tchunked\r\n", &[200], GOES_ON),
        sized("the same length twice", &format!("{length}{length}"), &[200], GOES_ON),
        sized("a leading zero", &format!("Content-Length: 0{}\r\n", body.len()), &[400], CLOSES),
        row("length 0", with(&key, "Content-Length: 0\r\n", ""), &[400], GOES_ON),
        row("no body", with(&key, "", ""), &[400], GOES_ON),
    ];
    for value in
        ["chunked, gzip", "identity", "xchunked", "chunked;q=1", "", "\u{b}chunked", "chunked\u{c}", "chun ked"]
    {
        rows.push(coded("an unknown coding", &format!("Transfer-Encoding: {value}\r\n"), &[400], CLOSES));
    }
    for value in ["15, 15", "+15", "0xf", "-1", "1e1", "15 15", "", "18446744073709551616", "99999999999999999999999"] {
        rows.push(sized("no length", &format!("Content-Length: {value}\r\n"), &[400], CLOSES));
    }
    rows.push(sized("two lengths", &format!("{length}Content-Length: 3\r\n"), &[400], CLOSES));
    rows.push(row("coding on HTTP/1.0", with(&key, te, &chunked).replace_version("1.0"), &[400], CLOSES));
    check(&gateway, rows).await;
    gateway.until_quiet().await;
}

#[tokio::test]
async fn chunks() {
    let gateway = Gateway::start().await;
    let key = gateway.narrow.clone();
    let body = body();
    let size = format!("{:x}", body.len());
    let rows = [
        (format!("{size};a=b\r\n{body}\r\n0;x=\"y\"\r\n\r\n"), 200, GOES_ON),
        (format!("000{size}\r\n{body}\r\n000\r\n\r\n"), 200, GOES_ON),
        (format!("1\r\n{{\r\n{:x}\r\n{}\r\n0\r\n\r\n", body.len() - 1, &body[1..]), 200, GOES_ON),
        (
            format!(
                "{size}\r\n{body}\r\n0\r\nContent-Length: 5\r\nTransfer-Encoding: x\r\nHost: evil\r\nAuthorization: Bearer x\r\n\r\n"
            ),
            200,
            GOES_ON,
        ),
        (format!("{size};a\n{body}\r\n0\r\n\r\n"), 400, CLOSES),
        (format!("{size}\n{body}\n0\n\n"), 400, CLOSES),
        (format!("0x{size}\r\n{body}\r\n0\r\n\r\n"), 400, CLOSES),
        (format!("1000000000000000{size}\r\n{body}\r\n0\r\n\r\n"), 400, CLOSES),
        (format!("-{size}\r\n{body}\r\n0\r\n\r\n"), 400, CLOSES),
        (format!(" {size}\r\n{body}\r\n0\r\n\r\n"), 400, CLOSES),
        (format!("{size}\r\n{body}0\r\n\r\n"), 400, CLOSES),
        (format!("{size}\r\n{body}\r\n0\r\nno colon\r\n\r\n"), 400, CLOSES),
        (format!("{size}\r\n{body}\r\n0\r\nX: {}\r\n\r\n", "a".repeat(80_000)), 400, CLOSES),
        (format!("{size};{}\r\n{body}\r\n0\r\n\r\n", "a".repeat(80_000)), 400, CLOSES),
    ];
    let rows = rows.into_iter().map(|(chunks, status, then)| {
        row("chunks", with(&key, "Transfer-Encoding: chunked\r\n", chunks), &[status], then)
    });
    check(&gateway, rows.collect()).await;
    gateway.until_quiet().await;
}

#[tokio::test]
async fn heads() {
    let gateway = Gateway::start().await;
    let key = gateway.narrow.clone();
    let plain = |headers: &str| String::from_utf8(chat(&key, headers, "")).unwrap();
    let many = |count: usize| plain(&"x: y\r\n".repeat(count));
    let mut rows = vec![
        row("100 headers", many(96), &[200], GOES_ON),
        row("101 headers", many(97), &[431], CLOSES),
        row("a huge header", plain(&format!("x: {}\r\n", "a".repeat(70_000))), &[431], CLOSES),
        row("lines before", format!("\r\n\r\n{}", plain("")), &[200], GOES_ON),
        row(
            "bytes above ASCII",
            [
                &b"POST /v1/chat/completions HTTP/1.1\r\naccept: \xff\xfe\r\n"[..],
                plain("").split_once("\r\n").unwrap().1.as_bytes(),
            ]
            .concat(),
            &[200],
            GOES_ON,
        ),
    ];
    rows[4].admitted = 1;
    for headers in [
        "x: a\r\n b\r\n",
        "x: a\r\n\tb\r\n",
        "x : a\r\n",
        " x: a\r\n",
        ": a\r\n",
        "x\r\n",
        "x: a\0b\r\n",
        "x\0y: a\r\n",
        "x: a\rb\r\n",
        "x: a\r\r\n",
        "x y: a\r\n",
        "x(y): a\r\n",
        "x\u{e9}: a\r\n",
        "Content-Length : 3\r\n",
        "x: \u{7f}\r\n",
    ] {
        rows.push(row("an odd header", plain(headers), &[400], CLOSES));
    }
    for start in [
        "POST  /v1/chat/completions HTTP/1.1",
        "POST\t/v1/chat/completions\tHTTP/1.1",
        " POST /v1/chat/completions HTTP/1.1",
        "POST /v1/chat/completions  HTTP/1.1",
        "POST /v1/chat completions HTTP/1.1",
        "POST /v1/chat/completions HTTP/1.2",
        "POST /v1/chat/completions HTTP/2.0",
        "POST /v1/chat/completions http/1.1",
        "POST /v1/chat/completions HTTP/1.1 ",
        "POST /v1/chat/completions",
        "P(ST /v1/chat/completions HTTP/1.1",
        "/v1/chat/completions HTTP/1.1",
    ] {
        let bytes = plain("").replacen("POST /v1/chat/completions HTTP/1.1", start, 1);
        rows.push(row("an odd request line", bytes, &[400], CLOSES));
    }
    check(&gateway, rows).await;
    gateway.until_quiet().await;
}

/// Hosts, targets and methods that the parser passes and the gateway must judge.
#[tokio::test]
async fn targets() {
    let gateway = Gateway::start().await;
    let key = gateway.narrow.clone();
    let plain = String::from_utf8(chat(&key, "", "")).unwrap();
    let host = |lines: &str| plain.replacen("Host: localhost\r\n", lines, 1);
    let target = |target: &str| plain.replacen("/v1/chat/completions", target, 1);
    let rows = vec![
        row("no Host", host(""), &[400], GOES_ON),
        row("two Hosts", host("Host: localhost\r\nHost: localhost\r\n"), &[400], GOES_ON),
        row("two other Hosts", host("Host: localhost\r\nHost: evil.example\r\n"), &[400], GOES_ON),
        row("an empty Host", host("Host:\r\n"), &[400], GOES_ON),
        row("a list", host("Host: localhost, evil.example\r\n"), &[400], GOES_ON),
        row("userinfo", host("Host: x@localhost\r\n"), &[400], GOES_ON),
        row("a trailing dot", host("Host: localhost.\r\n"), &[400], GOES_ON),
        row("another host", host("Host: evil.example\r\n"), &[421], GOES_ON),
        row("an address under a name", host("Host: 127.0.0.1\r\n"), &[421], GOES_ON),
        row("capitals and a port", host("Host: LOCALHOST:1\r\n"), &[200], GOES_ON),
        row("a name of the same role", host("Host: api.example\r\n"), &[200], GOES_ON),
        row("the absolute form", target("https://localhost/v1/chat/completions"), &[200], GOES_ON),
        row("the absolute form of another", target("https://evil.example/v1/chat/completions"), &[400], GOES_ON),
        row(
            "another in the Host",
            host("Host: evil.example\r\n").replacen(" /v1", " https://localhost/v1", 1),
            &[400],
            GOES_ON,
        ),
        row("userinfo in the target", target("https://x@localhost/v1/chat/completions"), &[400], GOES_ON),
        row("another port", target("https://localhost:1/v1/chat/completions"), &[400], GOES_ON),
        row("the authority form", target("localhost:443"), &[400], GOES_ON),
        row("the asterisk form", target("*"), &[400], GOES_ON),
        row("a tunnel", plain.replacen("POST /v1/chat/completions", "CONNECT localhost:443", 1), &[400], CLOSES),
        row("a tunnel to a path", plain.replacen("POST", "CONNECT", 1), &[405], CLOSES),
        row("lower case", plain.replacen("POST", "post", 1), &[405], GOES_ON),
        row(
            "another protocol",
            host(
                "Host: localhost\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n",
            ),
            &[200],
            GOES_ON,
        ),
        row("a socket", host("Host: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"), &[200], GOES_ON),
        row(
            "odd coding where no body is read",
            plain
                .replacen("POST /v1/chat/completions", "GET /v1/models", 1)
                .replacen("Content-Length", "Transfer-Encoding: gzip, chunked\r\nX", 1)
                .replacen(&body(), &chunked(), 1),
            &[403],
            CLOSES,
        ),
    ];
    check(&gateway, rows).await;
    // HTTP/1.0 cannot show that a reply was cut off.
    for line in ["", "Connection: keep-alive\r\n"] {
        let old = plain.replacen("HTTP/1.1\r\n", &format!("HTTP/1.0\r\n{line}"), 1);
        assert_eq!(statuses(&gateway, &[old.as_bytes(), &last(&key)].concat()).await, [505]);
    }
    assert!(gateway.backend.take().is_empty());
    gateway.until_quiet().await;
}

/// A refusal consumes its own body and nothing else: what follows is a request of its own.
#[tokio::test]
async fn refusals_and_what_follows_them() {
    let gateway = Gateway::start().await;
    let key = gateway.narrow.clone();
    let hidden = hidden(&gateway);
    let length = hidden.len();
    let as_body = |start: &str, credentials: &str| {
        let head = format!(
            "{start} HTTP/1.1\r\nHost: localhost\r\n{credentials}Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
        );
        [head.as_bytes(), &hidden].concat()
    };
    let bearer = format!("Authorization: Bearer {key}\r\n");
    let rows = vec![
        row("nobody", as_body("POST /v1/chat/completions", ""), &[401], GOES_ON),
        row("an unknown path", as_body("POST /nowhere", &bearer), &[404], GOES_ON),
        row("an odd path", as_body("POST /v1//chat/completions", &bearer), &[400], GOES_ON),
        row("another method", as_body("PUT /v1/chat/completions", &bearer), &[405], GOES_ON),
        row("an endpoint that is not granted", as_body("POST /v1/embeddings", &bearer), &[403], GOES_ON),
        row("a body that is a request", as_body("POST /v1/chat/completions", &bearer), &[400], GOES_ON),
        row(
            "a list with a body",
            as_body("GET /v1/models", &format!("Authorization: Bearer {}\r\n", gateway.key)),
            &[200],
            GOES_ON,
        ),
        row("two whole ones", [chat(&key, "", ""), chat(&key, "", "")].concat(), &[200, 200], GOES_ON),
    ];
    let rows =
        rows.into_iter().map(|row| if row.name == "a list with a body" { Row { admitted: 0, ..row } } else { row });
    check(&gateway, rows.collect()).await;
    // Leave to send is asked for: a refusal leaves it open whether the body comes, so it closes.
    let asked = with("nobody", "Expect: 100-continue\r\nContent-Length: 400\r\n", "");
    assert_eq!(statuses(&gateway, &asked).await, [401]);
    let asked = chat(&key, "Connection: close\r\nExpect: 100-continue\r\n", "");
    let came: Vec<Reply> = replies(&talk(connect(&gateway).await, &asked).await);
    assert_eq!(came.iter().map(|reply| reply.status).collect::<Vec<_>>(), [100, 200]);
    assert_eq!(gateway.backend.take().len(), 1);
    gateway.until_quiet().await;
}

trait ReplaceVersion {
    fn replace_version(self, version: &str) -> Vec<u8>;
}

impl ReplaceVersion for Vec<u8> {
    fn replace_version(self, version: &str) -> Vec<u8> {
        String::from_utf8(self).unwrap().replacen("HTTP/1.1", &format!("HTTP/{version}"), 1).into_bytes()
    }
}
