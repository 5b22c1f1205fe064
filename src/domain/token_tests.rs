use proptest::prelude::*;

use super::*;

#[track_caller]
fn owner(template: &str, claims: &[(&str, Claim<'_>)]) -> Result<String, TokenFault> {
    let find = |name: &str| claims.iter().find(|(known, _)| *known == name).map_or(Claim::Absent, |(_, c)| *c);
    OwnerTemplate::parse(template).unwrap().fill(find).map(|owner| owner.to_string())
}

#[test]
fn claims_fill_whole_segments() {
    let sub = [("sub", Claim::Text("alice")), ("https://acme/team", Claim::Text("red")), ("n", Claim::NotText)];
    assert_eq!(owner("acme/sso/{sub}", &sub).unwrap(), "acme/sso/alice");
    assert_eq!(owner("acme/{https://acme/team}/{sub}", &sub).unwrap(), "acme/red/alice");
    assert_eq!(owner("{sub}", &sub).unwrap(), "alice");
    assert_eq!(owner("acme/{email}", &sub), Err(TokenFault::ClaimAbsent("email".into())));
    assert_eq!(owner("acme/{n}", &sub), Err(TokenFault::ClaimNotText("n".into())));
    assert_eq!(owner("acme/{n:hash}", &sub), Err(TokenFault::ClaimNotText("n".into())));
}

#[test]
fn what_is_no_segment_is_refused() {
    let long = "a".repeat(64);
    for odd in ["", "/", "a/b", "/a", "a/", ".", "..", "../x", "Alice", "a b", "é", "a\u{0}", "-a", "_a", &long] {
        let result = owner("acme/{sub}", &[("sub", Claim::Text(odd))]);
        assert_eq!(result, Err(TokenFault::ClaimNoSegment("sub".into())), "{odd:?}");
        // A hash of it is always a segment.
        let hash = owner("acme/{sub:hash}", &[("sub", Claim::Text(odd))]).unwrap();
        assert!(hash.starts_with("acme/h-") && hash.len() == 7 + 26, "{hash}");
    }
}

#[test]
fn the_hash_is_base32_of_sha_256() {
    // printf %s alice@corp.example | openssl sha256 -binary | base32 | tr A-Z a-z | cut -c1-26
    assert_eq!(hashed("alice@corp.example"), "h-c2iat6yroso7aitk5nq2btiead");
    assert_eq!(hashed(""), "h-4oymiquy7qobjgx36tejs35zeq");
}

#[test]
fn templates_that_could_not_become_paths_are_refused() {
    for wrong in [
        "",
        "acme",
        "acme/sso",
        "acme//{sub}",
        "/{sub}",
        "{sub}/",
        "acme/{}",
        "acme/{:hash}",
        "acme/{sub",
        "acme/sub}",
        "acme/x-{sub}",
        "acme/{sub}-x",
        "acme/{sub}{iss}",
        "acme/{a b}",
        "Acme/{sub}",
        "a/b/c/d/e/f/g/h/{sub}",
    ] {
        assert!(OwnerTemplate::parse(wrong).is_err(), "{wrong}");
    }
    assert!(OwnerTemplate::parse("{tenant}/{sub}").unwrap().begins_with_claim());
    assert!(!OwnerTemplate::parse("acme/{sub}").unwrap().begins_with_claim());
}

#[test]
fn algorithms_are_read_in_their_exact_spelling() {
    for algorithm in Algorithm::ALL {
        assert_eq!(Algorithm::parse(algorithm.as_str()), Ok(algorithm));
        assert_eq!(Algorithm::named(&algorithm.as_str().to_ascii_lowercase()), None);
    }
    assert!(Algorithm::parse("none").unwrap_err().contains("no signature"));
    assert!(Algorithm::parse("nOnE").unwrap_err().contains("no signature"));
    assert!(Algorithm::parse("HS256").unwrap_err().contains("shared secret"));
    assert!(Algorithm::parse("ES256K").is_err());
}

#[test]
fn a_subject_that_no_header_can_carry_is_not_shown() {
    let token = |subject: Option<&str>| Token {
        issuer: "sso".into(),
        subject: subject.map(Into::into),
        owner: OwnerPath::parse("a").unwrap(),
        expires_at: Timestamp::FAR_FUTURE,
    };
    assert_eq!(token(Some("1234")).visible_subject().as_deref(), Some("sso/1234"));
    for odd in [Some("a\r\nx-doorward-owner: root"), Some("a b"), Some("é"), None] {
        assert_eq!(token(odd).visible_subject(), None);
    }
}

proptest! {
    /// Whatever claims say, they stay below the literal part, at their depth, unaltered.
    #[test]
    fn no_claim_leaves_its_place(a in "\\PC{0,12}|[a-z0-9._/-]{0,12}", b in "[a-zA-Z0-9._/-]{0,12}") {
        let template = OwnerTemplate::parse("acme/{a}/x/{b}").unwrap();
        let filled = template.fill(|name| Claim::Text(if name == "a" { &a } else { &b }));
        match filled {
            Ok(owner) => {
                let segments: Vec<&str> = owner.as_str().split('/').collect();
                prop_assert_eq!(segments, vec!["acme", &*a, "x", &*b]);
            }
            Err(fault) => prop_assert!(matches!(fault, TokenFault::ClaimNoSegment(_))),
        }
    }

    /// No text of a template panics.
    #[test]
    fn any_template_is_read_or_refused(text in "[{}/a-z:]{0,20}|\\PC{0,20}") {
        if let Ok(template) = OwnerTemplate::parse(&text) {
            prop_assert!(template.fill(|_| Claim::Text("x")).is_ok());
        }
    }
}

/// Only what anybody could make up looks like a guess: a caller whose token has just ended, or whose
/// issuer the gateway cannot reach, is not one who guesses.
#[test]
fn guesses_are_told_from_tokens_that_ended() {
    let issuer = || Arc::<str>::from("sso");
    for guess in [
        TokenFault::Malformed,
        TokenFault::UnknownIssuer,
        TokenFault::WrongAudience,
        TokenFault::UnknownKey(issuer()),
        TokenFault::WrongSignature(issuer()),
    ] {
        assert!(guess.is_unproven(), "{guess}");
    }
    for proven in [
        TokenFault::Expired(issuer()),
        TokenFault::NotYetValid(issuer()),
        TokenFault::ClaimNoSegment("sub".into()),
        TokenFault::NoKeys(issuer()),
        TokenFault::StaleKeys(issuer()),
    ] {
        assert!(!proven.is_unproven(), "{proven}");
    }
}
