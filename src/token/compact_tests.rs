use proptest::prelude::*;
use serde_json::json;

use super::*;

fn encoded(text: &str) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let bits: Vec<u8> = text.bytes().flat_map(|byte| (0..8).rev().map(move |at| byte >> at & 1)).collect();
    let sextet = |six: &[u8]| (0..6).fold(0, |number, at| number * 2 + six.get(at).copied().unwrap_or(0));
    bits.chunks(6).map(|six| char::from(ALPHABET[usize::from(sextet(six))])).collect()
}

fn token(header: &str, payload: &str) -> String {
    format!("{}.{}.c2ln", encoded(header), encoded(payload))
}

#[test]
fn the_parts_are_read() {
    let payload = r#"{"iss":"i","aud":["a","b"],"exp":10.25,"nbf":5,"iat":6,"team":"red","n":1,"roles":["x"]}"#;
    let text = token(r#"{"alg":"RS256","kid":"k","typ":"JWT"}"#, payload);
    let read = Presented::parse(text.as_bytes()).unwrap();
    assert_eq!(read.header, Header { algorithm: Algorithm::Rs256, kid: Some("k".into()) });
    assert_eq!((read.signature.as_slice(), read.signed), (&b"sig"[..], text.rsplit_once('.').unwrap().0.as_bytes()));
    let claims = read.claims;
    assert_eq!((&*claims.issuer, &claims.subject), ("i", &None));
    assert_eq!(claims.audience.iter().map(|a| &**a).collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(claims.expires_at, Timestamp::from_millis(10_250));
    assert_eq!(claims.not_before.zip(claims.issued_at), Some((Timestamp::from_seconds(5), Timestamp::from_seconds(6))));
    assert_eq!(claims.claim("team"), Claim::Text("red"));
    assert_eq!(claims.claim("n"), Claim::NotText);
    assert_eq!(claims.claim("roles"), Claim::NotText);
    assert_eq!(claims.claim("ro"), Claim::Absent);
}

#[test]
fn what_every_token_must_have() {
    let good = r#"{"iss":"i","aud":"a","exp":1}"#;
    let header = r#"{"alg":"ES256"}"#;
    assert!(Presented::parse(token(header, good).as_bytes()).is_ok());
    for (from, to, field) in [
        (r#""iss":"i","#, "", "iss"),
        (r#""i""#, "1", "iss"),
        (r#""aud":"a","#, "", "aud"),
        (r#","exp":1"#, "", "exp"),
        (r#"{"iss""#, r#"{"sub":5,"iss""#, "sub"),
        (r#"{"iss""#, r#"{"nbf":"1","iss""#, "nbf"),
        (r#"{"iss""#, r#"{"iat":null,"iss""#, "iat"),
    ] {
        let odd = good.replace(from, to);
        let fault = Presented::parse(token(header, &odd).as_bytes()).unwrap_err();
        assert_eq!(fault, TokenFault::Field(field), "{odd}");
    }
}

#[test]
fn what_is_bound_to_a_key_is_no_bearer_token() {
    let bound = r#"{"iss":"i","aud":"a","exp":1,"cnf":{"jkt":"x"}}"#;
    let fault = Presented::parse(token(r#"{"alg":"ES256"}"#, bound).as_bytes()).unwrap_err();
    assert_eq!(fault, TokenFault::Bound);
}

#[test]
fn a_logout_is_no_access() {
    let logout =
        r#"{"iss":"i","aud":"a","exp":1,"sub":"s","events":{"http://schemas.openid.net/event/backchannel-logout":{}}}"#;
    let fault = Presented::parse(token(r#"{"alg":"ES256"}"#, logout).as_bytes()).unwrap_err();
    assert_eq!(fault, TokenFault::WrongType);
}

/// A key has no dot, nor has the placeholder.
#[test]
fn tokens_are_told_from_keys() {
    assert!(is_token(b"a.b.c") && is_token(b"."));
    assert!(!is_token(b"dw_0123456789ab_xyz") && !is_token(b"certificate") && !is_token(b""));
}

proptest! {
    /// What is read is what was said, in any script and with any escapes.
    #[test]
    fn claims_are_read_as_they_were_said(
        issuer in "\\PC{0,12}",
        subject in prop::option::of("\\PC{0,12}"),
        audience in prop::collection::vec("\\PC{0,6}", 1..4),
        seconds in 0..253_402_207_200_i64,
        name in "[a-z]{4,8}",
        text in any::<String>(),
    ) {
        let mut payload = json!({ "iss": issuer, "aud": audience, "exp": seconds });
        payload[&name] = json!(text);
        if let Some(subject) = &subject {
            payload["sub"] = json!(subject);
        }
        let text_token = token(r#"{"alg":"PS256"}"#, &payload.to_string());
        let read = Presented::parse(text_token.as_bytes()).unwrap();
        prop_assert_eq!(&*read.claims.issuer, &*issuer);
        prop_assert_eq!(read.claims.subject.as_deref(), subject.as_deref());
        prop_assert_eq!(read.claims.audience.iter().map(|a| a.to_string()).collect::<Vec<_>>(), audience);
        prop_assert_eq!(read.claims.expires_at, Timestamp::from_seconds(seconds));
        prop_assert_eq!(read.claims.claim(&name), Claim::Text(&text));
        prop_assert_eq!(read.claims.claim(&format!("{name}-")), Claim::Absent);
    }
}
