use http::Request;
use proptest::prelude::*;

use super::*;

const TOKEN: &str = "dial_0123456789012345678901234567890123456789012";

fn rules(token: bool) -> Rules {
    Rules {
        hosts: Hosts::of(&Endpoint::Loopback("127.0.0.1:11434".parse().unwrap())),
        token: token.then(|| LocalToken::given(TOKEN)),
        origins: Some(Origins::parse(&["http://localhost:3000"]).unwrap()),
    }
}

fn head(method: &str, target: &str, fields: &[(&str, &str)]) -> Parts {
    let mut request = Request::builder().method(method).uri(target);
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

const HERE: (&str, &str) = ("host", "127.0.0.1:11434");

#[test]
fn only_this_machines_names_are_hosts() {
    let rules = rules(false);
    for host in ["127.0.0.1:11434", "localhost:11434", "LOCALHOST:11434", "[::1]:11434"] {
        assert!(rules.admit(&head("GET", "/api/tags", &[("host", host)])).is_ok(), "{host}");
    }
    for host in [
        "",
        "evil.example",
        "evil.example:11434",
        "localhost",
        "localhost:80",
        "127.0.0.1",
        "127.0.0.2:11434",
        "localhost.:11434",
        "localhost.evil.example:11434",
        "evil.localhost:11434",
        "localhost:011434",
        "localhost:11434:11434",
        "0.0.0.0:11434",
        "[::ffff:127.0.0.1]:11434",
        "2130706433:11434",
        "user@localhost:11434",
        "localhost:11434,evil.example",
        " localhost:11434 x",
    ] {
        assert_eq!(rules.admit(&head("GET", "/", &[("host", host)])), Err(Refusal::ForeignHost), "{host}");
    }
    let two = head("GET", "/", &[HERE, ("host", "evil.example")]);
    assert_eq!(rules.admit(&two), Err(Refusal::ForeignHost));
    assert_eq!(rules.admit(&head("GET", "/", &[HERE, HERE])), Err(Refusal::ForeignHost));
    assert_eq!(rules.admit(&head("GET", "/", &[])), Err(Refusal::ForeignHost));
    assert_eq!(rules.admit(&head("GET", "http://evil.example/", &[HERE])), Err(Refusal::ForeignHost));
    assert!(rules.admit(&head("GET", "http://127.0.0.1:11434/", &[HERE])).is_ok());
}

#[test]
fn another_address_of_this_machine_is_its_own_name() {
    let hosts = Hosts::of(&Endpoint::Loopback("127.8.8.8:80".parse().unwrap()));
    for host in ["127.8.8.8", "127.8.8.8:80", "localhost", "[::1]:80"] {
        assert!(hosts.contain(host), "{host}");
    }
    assert!(!hosts.contain("127.8.8.9"));
    let hosts = Hosts::of(&Endpoint::Unix("/run/llm.sock".into()));
    for host in ["localhost", "127.0.0.1", "[::1]", "localhost:11434"] {
        assert!(hosts.contain(host), "{host}");
    }
    for host in ["", "evil.example", "localhost.evil.example", "[evil]", ":80"] {
        assert!(!hosts.contain(host), "{host}");
    }
}

#[test]
fn a_web_page_does_not_borrow_the_identity() {
    let rules = rules(false);
    for fields in [
        &[HERE, ("origin", "https://evil.example")][..],
        &[HERE, ("origin", "null")],
        &[HERE, ("origin", "")],
        &[HERE, ("origin", "http://127.0.0.1:11434")],
        &[HERE, ("origin", "http://localhost:3000"), ("origin", "http://localhost:3000")],
        &[HERE, ("sec-fetch-site", "cross-site")],
        &[HERE, ("sec-fetch-site", "same-site")],
        &[HERE, ("sec-fetch-site", "same-origin")],
        &[HERE, ("sec-fetch-site", "none"), ("sec-fetch-site", "cross-site")],
    ] {
        assert_eq!(rules.admit(&head("POST", "/v1/chat/completions", fields)), Err(Refusal::Origin), "{fields:?}");
    }
    assert!(rules.admit(&head("GET", "/", &[HERE, ("sec-fetch-site", "none")])).is_ok(), "the address bar");
    let allowed =
        head("POST", "/api/chat", &[HERE, ("origin", "http://localhost:3000"), ("sec-fetch-site", "same-site")]);
    let page = HeaderValue::from_static("http://localhost:3000");
    assert_eq!(rules.admit(&allowed).unwrap().origin, Some(page));
    // A page that may call still may not ask first: what needs leave is not given it.
    let asks = [HERE, ("origin", "http://localhost:3000"), ("access-control-request-method", "POST")];
    assert_eq!(rules.admit(&head("OPTIONS", "/api/chat", &asks)), Err(Refusal::Preflight));
    assert_eq!(rules.admit(&head("OPTIONS", "/api/chat", &[HERE])), Err(Refusal::Preflight));
}

#[test]
fn only_requests_for_models_pass() {
    let rules = rules(false);
    for method in ["GET", "HEAD", "POST"] {
        assert!(rules.admit(&head(method, "/", &[HERE])).is_ok());
    }
    for method in ["PUT", "DELETE", "PATCH", "TRACE", "BREW"] {
        assert_eq!(rules.admit(&head(method, "/", &[HERE])), Err(Refusal::Method), "{method}");
    }
    let mut old = head("GET", "/", &[HERE]);
    old.version = Version::HTTP_10;
    assert_eq!(rules.admit(&old), Err(Refusal::Version));
}

#[test]
fn the_token_is_taken_where_tools_put_a_key() {
    let rules = rules(true);
    let bearer = format!("Bearer {TOKEN}");
    for fields in [
        [HERE, ("authorization", bearer.as_str())],
        [HERE, ("authorization", &format!("bearer  {TOKEN}"))],
        [HERE, ("x-api-key", TOKEN)],
    ] {
        let admitted = rules.admit(&head("GET", "/", &fields)).unwrap();
        assert_eq!(admitted.keys, [], "the token itself stays here");
    }
    for (field, refusal) in [
        (("accept", "*/*"), Refusal::TokenMissing),
        (("authorization", ""), Refusal::TokenMissing),
        (("authorization", TOKEN), Refusal::TokenMissing),
        (("authorization", &format!("Basic {TOKEN}")), Refusal::TokenMissing),
        (("authorization", "Bearer sk-x"), Refusal::TokenWrong),
        (("authorization", "Bearer dw_x"), Refusal::TokenWrong),
        (("x-api-key", ""), Refusal::TokenWrong),
        (("x-api-key", &TOKEN[1..]), Refusal::TokenWrong),
    ] {
        assert_eq!(rules.admit(&head("GET", "/", &[HERE, field])), Err(refusal), "{field:?}");
    }
    let query = head("GET", &format!("/?key={TOKEN}"), &[HERE]);
    assert_eq!(rules.admit(&query), Err(Refusal::TokenMissing));
}

#[test]
fn of_the_tools_credentials_only_keys_go_on() {
    let admitted = |fields: &[(&str, &str)]| {
        let fields: Vec<_> = [HERE].into_iter().chain(fields.iter().copied()).collect();
        rules(false).admit(&head("POST", "/", &fields)).unwrap().keys
    };
    let key =
        |name: &'static str, value: &'static str| (HeaderName::from_static(name), HeaderValue::from_static(value));
    assert_eq!(admitted(&[]), []);
    assert_eq!(admitted(&[("authorization", "Bearer sk-secret")]), []);
    assert_eq!(admitted(&[("x-api-key", "ollama"), ("authorization", "Basic dw_x")]), []);
    assert_eq!(admitted(&[("authorization", "Bearer dw_x")]), [key("authorization", "Bearer dw_x")]);
    assert_eq!(admitted(&[("x-api-key", "dw_x"), ("authorization", "Bearer sk")]), [key("x-api-key", "dw_x")]);
    // Beside the token.
    let both = [HERE, ("authorization", &format!("Bearer {TOKEN}")), ("x-api-key", "dw_x")];
    assert_eq!(rules(true).admit(&head("POST", "/", &both)).unwrap().keys, [key("x-api-key", "dw_x")]);
}

proptest! {
    /// Whatever else a head holds: another host, a page, or no token never passes.
    #[test]
    fn nothing_talks_its_way_in(
        host in "[ -~]{0,40}",
        origin in prop::option::of("[ -~]{0,40}"),
        credential in prop::option::of("[ -~]{0,60}"),
    ) {
        let mut fields = vec![("host", host.as_str())];
        fields.extend(origin.as_deref().map(|origin| ("origin", origin)));
        fields.extend(credential.as_deref().map(|credential| ("authorization", credential)));
        if rules(true).admit(&head("POST", "/v1/chat/completions", &fields)).is_ok() {
            prop_assert!(["127.0.0.1:11434", "[::1]:11434"].contains(&&*host) || host.eq_ignore_ascii_case("localhost:11434"));
            prop_assert!(origin.is_none_or(|origin| origin == "http://localhost:3000"));
            prop_assert!(credential.is_some_and(|credential| credential.ends_with(TOKEN)));
        }
    }
}
