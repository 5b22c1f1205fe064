use super::*;

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
