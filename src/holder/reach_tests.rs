use std::sync::{Arc, Mutex};

use tokio::net::TcpListener;

use super::*;
use crate::holder::join::join;
use crate::holder::testing::{Desk, House, dead_address};

/// A proxy that answers `head`, and tunnels when that says 200.
async fn proxy(head: &'static [u8]) -> (ProxyUrl, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = ProxyUrl::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let heads = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let heads = Arc::clone(&heads);
            tokio::spawn(async move {
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    request.push(socket.read_u8().await.unwrap());
                }
                let request = String::from_utf8(request).unwrap();
                let to = request.split(' ').nth(1).unwrap().to_owned();
                heads.lock().unwrap().push(request);
                socket.write_all(head).await.unwrap();
                if head.starts_with(b"HTTP/1.1 200") {
                    let mut gateway = TcpStream::connect(to).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut socket, &mut gateway).await.is_ok();
                }
            });
        }
    });
    (url, asked)
}

#[test]
fn a_proxy_is_a_plain_url() {
    for good in ["http://proxy.corp.example:3128", "http://10.0.0.1:1/", "http://[::1]:3128"] {
        assert_eq!(ProxyUrl::parse(good).unwrap().to_string(), good.trim_end_matches('/'));
    }
    for bad in ["", "proxy:3128", "http://proxy", "https://proxy:3128", "socks5://proxy:1", "http://proxy:1/path"] {
        assert!(ProxyUrl::parse(bad).unwrap_err().contains("http://HOST:PORT"), "{bad}");
    }
    let said = ProxyUrl::parse("http://me:hunter2@proxy:3128").unwrap_err();
    assert!(said.contains("user name") && !said.contains("hunter2"));
}

#[tokio::test]
async fn through_a_proxy_the_gateway_is_verified_all_the_same() {
    let (house, stranger) = (House::new(), House::new());
    let desk = Desk::start(&house, house.grants()).await;
    let (url, asked) = proxy(b"HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\n").await;
    let reach = Reach { proxy: Some(url) };
    let bundle = house.bundle(vec![desk.address.clone()]);
    join(&bundle, house.place(), &reach, &house.clock).await.unwrap();
    let head = format!("CONNECT {0} HTTP/1.1\r\nHost: {0}\r\n\r\n", desk.address);
    assert_eq!(*asked.lock().unwrap(), [head], "and nothing else is told to it");
    // A proxy that puts itself in between is found out.
    let other = Desk::start(&stranger, stranger.grants()).await;
    let fresh = House::new();
    let bundle = fresh.bundle(vec![other.address.clone()]);
    assert!(join(&bundle, fresh.place(), &reach, &fresh.clock).await.is_err());
    assert!(other.seen()[0].request.is_empty());
}

#[tokio::test]
async fn what_a_proxy_says_is_bounded_and_explained() {
    let long: &'static [u8] = Box::leak(vec![b'x'; MAX_PROXY_HEAD * 2].into_boxed_slice());
    for (answer, word) in [
        (&b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n"[..], "407"),
        (b"HTTP/1.1 403 Forbidden\r\n\r\n", "does not connect to gw.test:8443 (403)"),
        (b"HTTP/1.1 101 Switching\r\n\r\n", "(101)"),
        (b"SSH-2.0-x\r\n\r\n", "not HTTP"),
        (b"HTTP/1.1 200", "broke off"),
        (b"", "closed"),
        (long, "too long"),
    ] {
        let (url, _) = proxy(answer).await;
        let reach = Reach { proxy: Some(url) };
        let gateway = GatewayAddress::parse("gw.test:8443").unwrap();
        let why = reach.open_any(&gateway).await.unwrap_err();
        assert!(matches!(&why, Why::Proxy(why) if why.contains(word)), "{word}: {why}");
    }
    let dead = dead_address().await;
    let reach = Reach { proxy: Some(ProxyUrl(dead.clone())) };
    assert!(reach.open_any(&dead).await.unwrap_err().to_string().contains("refused"));
}

#[tokio::test]
async fn every_ip_address_of_a_host_is_a_target() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = GatewayAddress::parse(&format!("localhost:{}", listener.local_addr().unwrap().port())).unwrap();
    let targets = Reach::default().targets(&address).await.unwrap();
    assert!(targets.contains(&Target::Direct(listener.local_addr().unwrap())), "{targets:?}");
    // ::1 may come first and not answer: the next one is tried.
    assert!(Reach::default().open_any(&address).await.is_ok());
}
