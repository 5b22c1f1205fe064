//! What passes at a dial names this machine as its host, comes from no page that was not allowed, and
//! brings the token, whatever else is in its head; and the token goes no further.

use std::net::IpAddr;

use doorward::domain::origin::Origins;
use doorward::overlay::dial::Endpoint;
use doorward::overlay::dial::admit::{Hosts, Rules};
use doorward::overlay::dial::token::LocalToken;
use http::{Method, Request, Version};

const TOKEN: &str = "dial_0123456789012345678901234567890123456789012";
const PAGE: &str = "http://localhost:3000";
const NAMES: [&str; 3] = ["localhost:11434", "127.0.0.1:11434", "[::1]:11434"];

pub(super) fn check(input: &[u8]) {
    let Some((how, head)) = input.split_first() else { return };
    let (on_socket, with_token, with_page) = (how & 1 != 0, how & 2 != 0, how & 4 != 0);
    let endpoint = if on_socket {
        Endpoint::Unix("/run/llm.sock".into())
    } else {
        Endpoint::Loopback("127.0.0.1:11434".parse().expect("an address"))
    };
    let rules = Rules {
        hosts: Hosts::of(&endpoint),
        token: with_token.then(|| LocalToken::given(TOKEN)),
        origins: with_page.then(|| Origins::parse(&[PAGE]).expect("an origin")),
    };
    let mut fields = [httparse::EMPTY_HEADER; 32];
    let mut parsed = httparse::Request::new(&mut fields);
    if !parsed.parse(head).is_ok_and(|status| status.is_complete()) {
        return;
    }
    let version = if parsed.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 };
    let (method, target) = (parsed.method.unwrap_or_default(), parsed.path.unwrap_or_default());
    let mut request = Request::builder().method(method).uri(target).version(version);
    for field in parsed.headers.iter() {
        request = request.header(field.name, field.value);
    }
    let Ok(request) = request.body(()) else { return };
    let head = request.into_parts().0;
    let admitted = match rules.admit(&head) {
        Ok(admitted) => admitted,
        Err(refusal) => {
            let answer = refusal.response(target);
            assert!(answer.status().as_u16() >= 400 && answer.status() == refusal.code().0);
            return;
        }
    };
    // The fields as they came, without the help of what is checked.
    let all = |name: &str| -> Vec<&[u8]> {
        parsed.headers.iter().filter(|field| field.name.eq_ignore_ascii_case(name)).map(|field| field.value).collect()
    };
    let hosts = all("host");
    assert_eq!(hosts.len(), 1);
    let host = std::str::from_utf8(hosts[0]).expect("a host is ASCII").to_ascii_lowercase();
    if on_socket {
        let name = host.strip_prefix('[').and_then(|rest| rest.split(']').next()).or(host.split(':').next());
        let is_here = |name: &str| name == "localhost" || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
        assert!(name.is_some_and(is_here), "{host}");
    } else {
        assert!(NAMES.contains(&&*host), "{host}");
    }
    assert!(matches!(head.method, Method::GET | Method::HEAD | Method::POST) && version == Version::HTTP_11);
    let origins = all("origin");
    if origins.is_empty() {
        assert!(all("sec-fetch-site").iter().all(|site| *site == b"none"));
        assert!(admitted.origin.is_none());
    } else {
        assert!(with_page && origins == [PAGE.as_bytes()]);
        assert_eq!(admitted.origin.as_ref().map(|page| page.as_bytes()), Some(PAGE.as_bytes()));
    }
    let credentials = [all("authorization"), all("x-api-key")].concat();
    let holds = |value: &[u8], what: &[u8]| value.windows(what.len()).any(|part| part == what);
    assert!(!with_token || credentials.iter().any(|value| holds(value, TOKEN.as_bytes())));
    for (_, value) in &admitted.keys {
        assert!(credentials.contains(&value.as_bytes()) && holds(value.as_bytes(), b"dw_"));
    }
}
