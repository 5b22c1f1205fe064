use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::config::parse;
use crate::webhook::way::{LOOKING_UP, Resolver};

/// The one webhook of a config with this URL and these settings.
fn webhook(url: &str, settings: &str) -> Arc<Webhook> {
    let text = format!(
        "[listen]\naddress = \"127.0.0.1:0\"\nnames = {{ api = [\"llm.test\"] }}\nclient_auth = \"off\"\n\
         [ca]\ntrust_domain = \"corp.test\"\n\
         [webhook.iam]\nurl = \"{url}\"\nsecrets = [\"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\"]\n{settings}\n"
    );
    let config = parse(&text, std::path::Path::new("/nowhere/doorward.toml"), &|_| None);
    Arc::clone(&config.unwrap_or_else(|problems| panic!("{problems:?}")).webhooks[0])
}

fn run<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test)
}

async fn ask(client: &Client) -> Result<Bytes, Trouble> {
    timeout(Duration::from_secs(10), client.post(&HeaderMap::new(), Bytes::from_static(b"{}"))).await.unwrap()
}

/// A server that answers every connection's first bytes with `answer` and counts connections.
async fn server(answer: &'static [u8]) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let connections = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&connections);
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                let mut piece = [0; 4096];
                while socket.read(&mut piece).await.is_ok_and(|read| read > 0) {
                    socket.write_all(answer).await.unwrap();
                }
            });
        }
    });
    (address, connections)
}

fn resolving_to(webhook: &Arc<Webhook>, addresses: &[&str]) -> Client {
    let fixed = addresses.iter().map(|address| address.parse().unwrap()).collect();
    client_with(webhook, Resolver::Fixed(fixed))
}

fn client_with(webhook: &Webhook, resolver: Resolver) -> Client {
    let mut client = Client::new(webhook).unwrap();
    client.way.resolver = resolver;
    client
}

/// Look-ups that nobody waits for any more still keep their threads: there are never many of one
/// webhook's, however many questions were given up.
#[test]
fn a_name_that_nobody_answers_for_keeps_few_threads() {
    run(async {
        let asked = Arc::new(AtomicUsize::new(0));
        let webhook = webhook("https://iam.corp.example", "");
        let client = client_with(&webhook, Resolver::Silent(Arc::clone(&asked)));
        for _ in 0..2 * LOOKING_UP {
            let headers = HeaderMap::new();
            let given_up = timeout(Duration::from_millis(1), client.post(&headers, Bytes::new())).await;
            assert!(given_up.is_err());
        }
        assert_eq!(asked.load(Ordering::SeqCst), LOOKING_UP);
    });
}

/// Asserted at the resolver: of these addresses none is connected to, and nothing is sent.
#[test]
fn a_name_that_leads_inside_is_refused_before_any_connect() {
    run(async {
        for inside in ["169.254.169.254", "10.0.0.1", "fd00:ec2::254", "0.0.0.0", "::ffff:169.254.169.254"] {
            let client = resolving_to(&webhook("http://localhost:9", ""), &[inside]);
            let trouble = ask(&client).await.unwrap_err();
            assert!(matches!(trouble, Trouble::AddressRefused { address: Some(_), .. }), "{inside}: {trouble}");
        }
        let nowhere = resolving_to(&webhook("http://localhost:9", ""), &[]);
        assert_eq!(ask(&nowhere).await.unwrap_err().kind(), "address_refused");
    });
}

/// Of several addresses the ones that may be are tried, in their order.
#[test]
fn the_address_that_was_looked_at_is_connected_to() {
    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}";
    run(async {
        let (address, connections) = server(ANSWER).await;
        let webhook = webhook(&format!("http://localhost:{}", address.port()), "");
        let client = resolving_to(&webhook, &["169.254.169.254", "127.0.0.1"]);
        for _ in 0..3 {
            assert_eq!(ask(&client).await.unwrap(), "{}");
        }
        assert_eq!(connections.load(Ordering::SeqCst), 1, "connections are used again");
    });
}

#[test]
fn what_is_no_answer() {
    for (answer, kind) in [
        (&b"HTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n"[..], "status"),
        (b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1/\r\ncontent-length: 0\r\n\r\n", "status"),
        (b"HTTP/1.1 403 Forbidden\r\ncontent-type: text/html\r\ncontent-length: 2\r\n\r\nno", "status"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", "status"),
        (b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 2\r\n\r\n{}", "content_type"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", "content_type"),
        (
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-encoding: gzip\r\ncontent-length: 2\r\n\r\n{}",
            "encoding",
        ),
        (b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 65537\r\n\r\n{}", "too_long"),
        (b"SSH-2.0-OpenSSH_9\r\n", "broken"),
    ] {
        run(async {
            let (address, _) = server(answer).await;
            let client = Client::new(&webhook(&format!("http://{address}"), "")).unwrap();
            assert_eq!(ask(&client).await.unwrap_err().kind(), kind, "{}", String::from_utf8_lossy(answer));
        });
    }
}

/// A chunked answer has no length to look at, and is cut all the same.
#[test]
fn an_endless_answer_is_cut() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            let head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
            socket.write_all(head).await.unwrap();
            while socket.write_all(b"400\r\n").await.is_ok() && socket.write_all(&[b' '; 1026]).await.is_ok() {}
        });
        let client = Client::new(&webhook(&format!("http://{address}"), "")).unwrap();
        let trouble = ask(&client).await.unwrap_err();
        assert!(matches!(trouble.kind(), "too_long" | "broken"), "{trouble}");
    });
}

/// Nobody listens: one attempt more, and no third.
#[test]
fn nobody_there_is_tried_once_more() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let client = Client::new(&webhook(&format!("http://{address}"), "")).unwrap();
        assert_eq!(ask(&client).await.unwrap_err().kind(), "connect");
    });
}

/// A question of which a byte may have been read is never sent twice.
#[test]
fn a_question_that_was_read_is_not_sent_again() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&seen);
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let mut piece = [0; 16];
                if socket.read(&mut piece).await.is_ok_and(|read| read > 0) {
                    count.fetch_add(1, Ordering::SeqCst);
                }
            }
        });
        let client = Client::new(&webhook(&format!("http://{address}"), "")).unwrap();
        assert_eq!(ask(&client).await.unwrap_err(), Trouble::Broken);
        assert_eq!(seen.load(Ordering::SeqCst), 1);
    });
}
