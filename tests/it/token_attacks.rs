//! Tokens as strangers and clever callers make them, against the code that reads and verifies them.
//! Good tokens, and forged ones with right signatures, are made by an independent library.

use std::path::Path;

use doorward::clock::Clock;
use doorward::config;
use doorward::domain::timestamp::Timestamp;
use doorward::domain::token::TokenFault;
use doorward::token::issuers::Issuers;
use doorward::token::keys::KeySet;
use doorward::token::location::{KeyUrl, Location};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::support::{AUDIENCE, Signer, base64url, claims, jwks};

pub(crate) const ISSUER: &str = "https://sso.corp.test/realms/llm";
const OTHER: &str = "https://other.corp.test";

/// The issuers of a config with these sections.
pub(crate) fn configured(sections: &str) -> Issuers {
    Issuers::default().reconfigured(&config_of(sections).issuers)
}

pub(crate) fn config_of(sections: &str) -> config::Config {
    let text = format!(
        "[listen]\naddress = \"127.0.0.1:0\"\nnames = {{ api = [\"llm.test\"] }}\nclient_auth = \"off\"\n\
         certificate = \"internal\"\n[ca]\ntrust_domain = \"corp.test\"\n{sections}"
    );
    config::parse(&text, Path::new("/nowhere/doorward.toml"), &|_| None).unwrap_or_else(|why| panic!("{why:#?}"))
}

/// An entry with keys that are fetched from `https://<name>.test/keys`.
pub(crate) fn entry(name: &str, issuer: &str, algorithms: &[Algorithm], more: &str) -> String {
    let algorithms = algorithms.iter().map(|algorithm| format!("{algorithm:?}")).collect::<Vec<_>>();
    let owner = if more.contains("owner") { "" } else { "owner = \"acme/sso/{sub}\"" };
    format!(
        "[[issuer]]\nname = \"{name}\"\nissuer = \"{issuer}\"\njwks_url = \"https://{name}.test/keys\"\n\
         audience = \"{AUDIENCE}\"\nalgorithms = {algorithms:?}\n{owner}\n{more}\n"
    )
}

pub(crate) fn place(name: &str) -> Location {
    Location::Keys(KeyUrl::parse(&format!("https://{name}.test/keys")).unwrap())
}

pub(crate) fn now() -> Timestamp {
    Clock::System.now()
}

pub(crate) trait WithKeys {
    fn keys(&self, name: &str, signers: &[&Signer]) -> Self;
}

impl WithKeys for Issuers {
    fn keys(&self, name: &str, signers: &[&Signer]) -> Self {
        self.with_keys(&place(name), &KeySet::parse(jwks(signers).as_bytes()).unwrap(), now())
    }
}

/// One issuer `sso` with the keys of `signers`, which takes their algorithms.
fn sso(signers: &[&Signer]) -> Issuers {
    let algorithms: Vec<Algorithm> = signers.iter().map(|signer| signer.algorithm).collect();
    configured(&entry("sso", ISSUER, &algorithms, "")).keys("sso", signers)
}

#[track_caller]
pub(crate) fn fault(issuers: &Issuers, token: &str) -> TokenFault {
    let proof = issuers.prove(token.as_bytes(), now());
    proof.err().unwrap_or_else(|| panic!("this passes: {token}"))
}

/// The owner that a token is placed at.
#[track_caller]
pub(crate) fn owner(issuers: &Issuers, token: &str) -> String {
    let proof = issuers.prove(token.as_bytes(), now()).unwrap_or_else(|fault| panic!("{fault}"));
    let vouched = issuers.weigh(&proof).unwrap();
    vouched.check(now()).unwrap();
    vouched.token.owner.to_string()
}

const ALL: [Algorithm; 9] = [
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::EdDSA,
];

#[test]
fn every_algorithm_verifies_and_no_other_does_in_its_place() {
    let rsa = Signer::new("rsa", Algorithm::RS256);
    let signers: Vec<Signer> = ALL
        .iter()
        .map(|algorithm| {
            let name = format!("{algorithm:?}");
            if name.starts_with('E') { Signer::new(&name, *algorithm) } else { rsa.with(*algorithm) }
        })
        .collect();
    let issuers = sso(&[&signers[0], &signers[1], &signers[2], &signers[8]]);
    for signer in &signers {
        let alone = configured(&entry("sso", ISSUER, &[signer.algorithm], "")).keys("sso", &[signer]);
        let token = signer.token(&claims(ISSUER, "alice"));
        assert_eq!(owner(&alone, &token), "acme/sso/alice", "{:?}", signer.algorithm);
        // What is not on the list is refused, though the key could.
        let expected = [Algorithm::ES256, Algorithm::ES384, Algorithm::RS256, Algorithm::EdDSA];
        if expected.contains(&signer.algorithm) {
            assert_eq!(owner(&issuers, &token), "acme/sso/alice");
        } else {
            assert!(matches!(fault(&issuers, &token), TokenFault::AlgorithmNotAllowed(..)));
        }
        // The same signature under another algorithm's name.
        let [_, payload, signature] = token.split('.').collect::<Vec<_>>()[..] else { unreachable!() };
        for other in ALL.iter().filter(|other| **other != signer.algorithm) {
            let kid = signer.kid.as_ref().unwrap();
            let header = base64url(format!("{{\"alg\":\"{other:?}\",\"kid\":\"{kid}\"}}"));
            let forged = format!("{header}.{payload}.{signature}");
            let all = configured(&entry("sso", ISSUER, &ALL, "")).keys("sso", &[signer]);
            let fault = fault(&all, &forged);
            assert!(matches!(fault, TokenFault::UnknownKey(_) | TokenFault::WrongSignature(_)), "{fault}");
        }
    }
}

#[test]
fn no_signature_and_shared_secrets_are_no_algorithms() {
    let signer = Signer::new("k", Algorithm::RS256);
    let issuers = configured(&entry("sso", ISSUER, &ALL, "")).keys("sso", &[&signer]);
    let claims = claims(ISSUER, "alice");
    let payload = base64url(claims.to_string());
    for name in ["none", "None", "NONE", "nOnE", "", "HS256", "HS384", "HS512", "rs256", "RS256 ", "ES256K", "RSA1_5"] {
        let header = base64url(format!("{{\"alg\":\"{name}\",\"kid\":\"k\"}}"));
        for signature in [base64url("x"), String::new()] {
            let fault = fault(&issuers, &format!("{header}.{payload}.{signature}"));
            assert!(matches!(fault, TokenFault::UnknownAlgorithm | TokenFault::Malformed), "{name}: {fault}");
        }
    }
    // The public key as the secret, in every form in which it goes around.
    let jwk = signer.jwk();
    let document = jwks(&[&signer]);
    for secret in [jwk.to_string(), document, jwk["n"].as_str().unwrap().to_owned()] {
        for algorithm in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
            let secret = EncodingKey::from_secret(secret.as_bytes());
            let header = Header { kid: Some("k".to_owned()), ..Header::new(algorithm) };
            let token = jsonwebtoken::encode(&header, &claims, &secret).unwrap();
            assert_eq!(fault(&issuers, &token), TokenFault::UnknownAlgorithm);
            // Under an allowed name it is just a wrong signature.
            let [_, payload, signature] = token.split('.').collect::<Vec<_>>()[..] else { unreachable!() };
            let header = base64url(r#"{"alg":"RS256","kid":"k"}"#);
            let signed = format!("{header}.{payload}");
            let mac = jsonwebtoken::crypto::sign(signed.as_bytes(), &secret, algorithm).unwrap();
            assert!(matches!(fault(&issuers, &format!("{signed}.{mac}")), TokenFault::WrongSignature(_)));
            assert!(matches!(fault(&issuers, &format!("{signed}.{signature}")), TokenFault::WrongSignature(_)));
        }
    }
    // A document with a secret in it has no key.
    let secret = json!({ "keys": [{ "kty": "oct", "k": base64url("secret"), "alg": "HS256", "kid": "k" }] });
    assert!(KeySet::parse(secret.to_string().as_bytes()).unwrap().is_empty());
}

#[test]
fn the_key_is_the_issuers_and_found_by_its_name_alone() {
    let signer = Signer::new("k", Algorithm::ES256);
    let issuers = sso(&[&signer]);
    let claims = claims(ISSUER, "alice");
    for kid in [
        "../../etc/passwd",
        "../k",
        "./k",
        "/k",
        "file:///dev/null",
        "https://evil.test/keys",
        "k' OR '1'='1",
        "k\" OR 1=1 --",
        "k; DROP TABLE keys",
        "k\u{0}",
        "K",
        " k",
        "k ",
        "*",
        "%6b",
        "\\u006b",
    ] {
        assert!(matches!(fault(&issuers, &signer.named(kid).token(&claims)), TokenFault::UnknownKey(_)), "{kid}");
    }
    for kid in ["".to_owned(), "k".repeat(257)] {
        assert_eq!(fault(&issuers, &signer.named(&kid).token(&claims)), TokenFault::Field("kid"));
    }
    // Without a name there is but one key that it can be.
    let nameless = Signer { kid: None, ..signer.clone() };
    assert_eq!(owner(&issuers, &nameless.token(&claims)), "acme/sso/alice");
    // A key that the token brings along, or says where to get, is not looked at.
    let stranger = Signer::new("k", Algorithm::ES256);
    let jwk = serde_json::from_value(stranger.jwk()).unwrap();
    let text = || Some("https://evil.test/keys".to_owned());
    for (name, header) in [
        ("jwk", Header { jwk: Some(jwk), ..stranger.header() }),
        ("jku", Header { jku: text(), ..stranger.header() }),
        ("x5u", Header { x5u: text(), ..stranger.header() }),
        ("x5c", Header { x5c: Some(vec!["MIIB".to_owned()]), ..stranger.header() }),
        ("crit", Header { crit: Some(vec!["exp".to_owned()]), ..stranger.header() }),
        ("crit", Header { crit: Some(Vec::new()), ..stranger.header() }),
    ] {
        let token = jsonwebtoken::encode(&header, &claims, &stranger.key).unwrap();
        assert_eq!(fault(&issuers, &token), TokenFault::ForbiddenHeader(name));
        // Not even with a right signature.
        let token = jsonwebtoken::encode(&header, &claims, &signer.key).unwrap();
        assert_eq!(fault(&issuers, &token), TokenFault::ForbiddenHeader(name));
    }
    let payload = claims.to_string();
    let b64 = signer.sign(r#"{"alg":"ES256","kid":"k","b64":false}"#, &payload);
    assert_eq!(fault(&issuers, &b64), TokenFault::ForbiddenHeader("b64"));
    assert!(matches!(fault(&issuers, &stranger.token(&claims)), TokenFault::WrongSignature(_)));
}

#[test]
fn issuers_do_not_speak_for_each_other() {
    let (ours, theirs) = (Signer::new("1", Algorithm::ES256), Signer::new("1", Algorithm::ES256));
    let sections = [
        entry("sso", ISSUER, &[Algorithm::ES256], ""),
        entry("other", OTHER, &[Algorithm::ES256], "owner = \"other/{sub}\""),
    ]
    .concat();
    let issuers = configured(&sections).keys("sso", &[&ours]).keys("other", &[&theirs]);
    assert_eq!(owner(&issuers, &ours.token(&claims(ISSUER, "alice"))), "acme/sso/alice");
    assert_eq!(owner(&issuers, &theirs.token(&claims(OTHER, "alice"))), "other/alice");
    // One's key under the other's name, and a kid that both have.
    for token in [ours.token(&claims(OTHER, "alice")), theirs.token(&claims(ISSUER, "alice"))] {
        assert!(matches!(fault(&issuers, &token), TokenFault::WrongSignature(_)));
    }
    // Names that look like it are others.
    for issuer in [
        "https://sso.corp.test/realms/llm/",
        "https://SSO.corp.test/realms/llm",
        "https://sso.corp.test/realms/llm ",
        "http://sso.corp.test/realms/llm",
        "https://sso.corp.test/realms",
        "sso",
        "",
    ] {
        assert_eq!(fault(&issuers, &ours.token(&claims(issuer, "alice"))), TokenFault::UnknownIssuer, "{issuer:?}");
    }
}

#[test]
fn a_token_is_for_us_or_refused() {
    let signer = Signer::new("k", Algorithm::ES256);
    let two = entry("sso", ISSUER, &[Algorithm::ES256], "")
        + &entry("admin", ISSUER, &[Algorithm::ES256], "owner = \"admin/{sub}\"")
            .replace(&format!("\"{AUDIENCE}\""), "[\"admin\", \"ops\"]");
    let issuers = configured(&two).keys("sso", &[&signer]).keys("admin", &[&signer]);
    let with = |audience: Value| {
        let mut claims = claims(ISSUER, "alice");
        claims["aud"] = audience;
        signer.token(&claims)
    };
    for good in [json!("doorward"), json!(["doorward"]), json!(["x", "doorward", ""])] {
        assert_eq!(owner(&issuers, &with(good)), "acme/sso/alice");
    }
    assert_eq!(owner(&issuers, &with(json!(["ops"]))), "admin/alice");
    for bad in [json!("other"), json!("Doorward"), json!("doorward "), json!("doorwar"), json!("*"), json!([""])] {
        assert_eq!(fault(&issuers, &with(bad.clone())), TokenFault::WrongAudience, "{bad}");
    }
    for bad in
        [json!([]), json!(null), json!(1), json!({ "0": "doorward" }), json!([["doorward"]]), json!(["doorward", 1])]
    {
        assert_eq!(fault(&issuers, &with(bad.clone())), TokenFault::Field("aud"), "{bad}");
    }
    // For both at once it is nobody's.
    assert_eq!(fault(&issuers, &with(json!(["doorward", "admin"]))), TokenFault::AmbiguousIssuer);
}

/// `(exp, nbf, iat)` in seconds from now, and what becomes of it with a leeway of a minute.
#[test]
fn times_are_kept() {
    let signer = Signer::new("k", Algorithm::ES256);
    let issuers = sso(&[&signer]);
    let base = now().as_seconds();
    let check = |change: &dyn Fn(&mut Value)| {
        let mut claims = claims(ISSUER, "alice");
        change(&mut claims);
        let token = signer.token(&claims);
        let at = Timestamp::from_seconds(base);
        issuers.prove(token.as_bytes(), at).and_then(|proof| issuers.weigh(&proof)?.check(at)).err()
    };
    let expired = Some(TokenFault::Expired("sso".into()));
    let early = Some(TokenFault::NotYetValid("sso".into()));
    let future = Some(TokenFault::IssuedInFuture("sso".into()));
    for (name, offset, expected) in [
        ("exp", 1, None),
        ("exp", -59, None),
        ("exp", -60, expired.clone()),
        ("exp", -100_000, expired),
        ("nbf", -100_000, None),
        ("nbf", 60, None),
        ("nbf", 61, early),
        ("iat", 60, None),
        ("iat", 61, future),
    ] {
        assert_eq!(check(&|claims| claims[name] = json!(base + offset)), expected, "{name} {offset}");
    }
    // Seconds may have a fraction.
    assert_eq!(check(&|claims| claims["exp"] = json!(f64::from(u32::try_from(base).unwrap()) - 59.5)), None);
    assert_eq!(
        check(&|claims| claims["exp"] = json!(f64::from(u32::try_from(base).unwrap()) - 60.5)),
        Some(TokenFault::Expired("sso".into()))
    );
    for name in ["exp", "nbf", "iat"] {
        let odd = [
            json!(null),
            json!("9999999999"),
            json!(true),
            json!([base + 300]),
            json!({ "$numberLong": "9999999999" }),
            json!(-1),
            json!(1e300),
            json!(u64::MAX),
            json!(i64::MAX),
        ];
        for odd in odd {
            assert_eq!(check(&|claims| claims[name] = odd.clone()), Some(TokenFault::Field(name)), "{name} {odd}");
        }
    }
    let without = check(&|claims| drop(claims.as_object_mut().unwrap().remove("exp")));
    assert_eq!(without, Some(TokenFault::Field("exp")));
    // The others may be absent.
    assert_eq!(check(&|claims| drop(claims.as_object_mut().unwrap().remove("iat"))), None);
}

#[test]
fn claims_become_owners_unaltered_or_not_at_all() {
    let signer = Signer::new("k", Algorithm::ES256);
    let issuers = sso(&[&signer]);
    let with = |subject: Value| {
        let mut claims = claims(ISSUER, "alice");
        claims["sub"] = subject;
        signer.token(&claims)
    };
    assert_eq!(owner(&issuers, &with(json!("a.b_c-1"))), "acme/sso/a.b_c-1");
    for odd in
        ["", "/", "a/b", "../admin", "..", ".", "Alice", "alice ", "älice", "al\u{131}ce", "a\u{200d}b", "a\u{0}b"]
    {
        assert_eq!(fault(&issuers, &with(json!(odd))), TokenFault::ClaimNoSegment("sub".into()), "{odd:?}");
    }
    for odd in [json!(["alice"]), json!(1), json!(null), json!({ "a": "alice" }), json!(true)] {
        assert_eq!(fault(&issuers, &with(odd.clone())), TokenFault::Field("sub"), "{odd}");
    }
    let other = entry("sso", ISSUER, &[Algorithm::ES256], "owner = \"acme/{tenant}/{https://corp.test/user:hash}\"");
    let issuers = configured(&other).keys("sso", &[&signer]);
    let mut good = claims(ISSUER, "x");
    good["tenant"] = json!("red");
    good["https://corp.test/user"] = json!("Alice@corp.test");
    let placed = owner(&issuers, &signer.token(&good));
    assert!(placed.starts_with("acme/red/h-") && placed.len() == 11 + 26, "{placed}");
    for (claim, odd, expected) in [
        ("tenant", json!(["red"]), TokenFault::ClaimNotText("tenant".into())),
        ("tenant", json!(7), TokenFault::ClaimNotText("tenant".into())),
        ("tenant", json!("red/blue"), TokenFault::ClaimNoSegment("tenant".into())),
        (
            "https://corp.test/user",
            json!(["Alice@corp.test"]),
            TokenFault::ClaimNotText("https://corp.test/user".into()),
        ),
    ] {
        let mut claims = good.clone();
        claims[claim] = odd;
        assert_eq!(fault(&issuers, &signer.token(&claims)), expected);
        claims.as_object_mut().unwrap().remove(claim);
        assert_eq!(fault(&issuers, &signer.token(&claims)), TokenFault::ClaimAbsent(claim.into()));
    }
}

/// Readers differ on JSON like this. Each has a right signature.
#[test]
fn ambiguous_json_is_refused_though_it_is_signed() {
    let signer = Signer::new("k", Algorithm::ES256);
    let issuers = sso(&[&signer]);
    let header = r#"{"alg":"ES256","kid":"k"}"#;
    let payload = claims(ISSUER, "alice").to_string();
    assert_eq!(owner(&issuers, &signer.sign(header, &payload)), "acme/sso/alice");
    let inner = payload.strip_prefix('{').unwrap();
    for odd in [
        format!("{{\"sub\":\"root\",{inner}"),
        format!("{{\"\\u0073ub\":\"root\",{inner}"),
        format!("{{\"x\":{{\"a\":1,\"a\":2}},{inner}"),
        format!("{payload}{payload}"),
        format!("{payload} x"),
        format!("\u{feff}{payload}"),
        format!("[{payload}]"),
        format!("{{\"x\":{}1{},{inner}", "[".repeat(100), "]".repeat(100)),
        format!("{{\"x\":\"\\ud800\",{inner}"),
        format!("{{\"x\":NaN,{inner}"),
        "{\"x\":1,}".to_owned(),
        format!("{{'x':1,{inner}"),
        format!("{{/**/{inner}"),
        String::new(),
        "null".to_owned(),
        "\"x\"".to_owned(),
    ] {
        let fault = fault(&issuers, &signer.sign(header, &odd));
        assert!(matches!(fault, TokenFault::NotJson("payload") | TokenFault::Malformed), "{odd}: {fault}");
    }
    for odd in [
        r#"{"alg":"none","alg":"ES256","kid":"k"}"#,
        r#"{"alg":"ES256","kid":"x","kid":"k"}"#,
        r#"{"alg":"ES256","\u006bid":"x","kid":"k"}"#,
        r#"{"alg":"ES256","kid":"k"}{}"#,
        r#"["ES256"]"#,
    ] {
        assert_eq!(fault(&issuers, &signer.sign(odd, &payload)), TokenFault::NotJson("header"), "{odd}");
    }
    for (odd, expected) in [
        (r#"{"kid":"k"}"#, TokenFault::Field("alg")),
        (r#"{"alg":["ES256"],"kid":"k"}"#, TokenFault::Field("alg")),
        (r#"{"ALG":"ES256","kid":"k"}"#, TokenFault::Field("alg")),
        (r#"{"alg":"ES256","kid":1}"#, TokenFault::Field("kid")),
        (r#"{"alg":"ES256","kid":null}"#, TokenFault::Field("kid")),
        (r#"{"alg":"ES256","kid":"k","typ":1}"#, TokenFault::Field("typ")),
        (r#"{"alg":"ES256","kid":"k","typ":"logout+jwt"}"#, TokenFault::WrongType),
        (r#"{"alg":"ES256","kid":"k","typ":"dpop+jwt"}"#, TokenFault::WrongType),
        (r#"{"alg":"ES256","kid":"k","typ":""}"#, TokenFault::WrongType),
    ] {
        assert_eq!(fault(&issuers, &signer.sign(odd, &payload)), expected, "{odd}");
    }
    for typ in ["JWT", "jwt", "at+jwt", "application/at+jwt"] {
        let header = format!(r#"{{"typ":"{typ}","alg":"ES256","kid":"k","x5t":"abc"}}"#);
        assert_eq!(owner(&issuers, &signer.sign(&header, &payload)), "acme/sso/alice");
    }
}

/// One token has one spelling, and its signature one form.
#[test]
fn damaged_tokens_are_refused() {
    for algorithm in [Algorithm::ES256, Algorithm::RS256, Algorithm::EdDSA] {
        let signer = Signer::new("k", algorithm);
        let issuers = sso(&[&signer]);
        let good = signer.token(&claims(ISSUER, "alice"));
        let [header, payload, signature] = good.split('.').collect::<Vec<_>>()[..] else { unreachable!() };
        for odd in [
            format!("{good}."),
            format!(".{good}"),
            format!("{good}="),
            format!("{good}=="),
            format!("{good} "),
            format!(" {good}"),
            format!("{good}\n"),
            format!("{good}\u{0}"),
            format!("{good}A"),
            format!("{good}AAAA"),
            format!("{header}=.{payload}.{signature}"),
            format!("{header}. {payload}.{signature}"),
            format!("{header}.{payload}"),
            format!("{header}.{payload}."),
            format!("{header}..{signature}"),
            format!(".{payload}.{signature}"),
            format!("{header}.{payload}.{signature}.{signature}"),
            format!("{header}.{payload}.{}", signature.replace(['-', '_'], "+")) + "/",
            "..".to_owned(),
            ".".to_owned(),
            "a.b.c".to_owned(),
        ] {
            let fault = fault(&issuers, &odd);
            assert!(matches!(fault, TokenFault::Malformed | TokenFault::WrongSignature(_)), "{odd:?}: {fault}");
        }
        for length in 0..good.len() {
            drop(fault(&issuers, &good[..length]));
        }
        // Signatures of other lengths, empty ones and all zeros.
        let bytes = |count| base64url(vec![0u8; count]);
        for signature in [1, 32, 63, 64, 65, 72, 96, 128, 256].map(bytes) {
            let fault = fault(&issuers, &format!("{header}.{payload}.{signature}"));
            assert!(matches!(fault, TokenFault::WrongSignature(_)), "{fault}");
        }
        assert_eq!(owner(&issuers, &good), "acme/sso/alice");
    }
}

/// A signature in the form that certificates have, and the second half of the group.
#[test]
fn elliptic_signatures_have_the_one_fixed_form() {
    let signer = Signer::new("k", Algorithm::ES256);
    let issuers = sso(&[&signer]);
    let good = signer.token(&claims(ISSUER, "alice"));
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let raw = doorward::domain::base64url::decode(signature.as_bytes()).unwrap();
    let integer = |half: &[u8]| {
        let mut half = half.iter().copied().skip_while(|byte| *byte == 0).collect::<Vec<u8>>();
        if half[0] >= 0x80 {
            half.insert(0, 0);
        }
        [vec![2, u8::try_from(half.len()).unwrap()], half].concat()
    };
    let inside = [integer(&raw[..32]), integer(&raw[32..])].concat();
    let der = [vec![0x30, u8::try_from(inside.len()).unwrap()], inside].concat();
    for odd in [der, [raw.clone(), vec![0]].concat(), [vec![0], raw.clone()].concat(), raw[..32].repeat(2)] {
        let fault = fault(&issuers, &format!("{signed}.{}", base64url(odd)));
        assert!(matches!(fault, TokenFault::WrongSignature(_)), "{fault}");
    }
    // r and n - s verify as well: ECDSA has two signatures for a text. What is believed is the
    // same text, so the caller gains nothing.
    const ORDER: [u8; 32] = [
        0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc, 0xe6, 0xfa, 0xad,
        0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
    ];
    let mut twin = raw[..32].to_vec();
    let (mut other, mut borrow) = ([0; 32], 0i16);
    for at in (0..32).rev() {
        let difference = i16::from(ORDER[at]) - i16::from(raw[32 + at]) - borrow;
        borrow = i16::from(difference < 0);
        other[at] = u8::try_from(difference.rem_euclid(256)).unwrap();
    }
    twin.extend(other);
    assert_eq!(owner(&issuers, &format!("{signed}.{}", base64url(twin))), "acme/sso/alice");
}

#[test]
fn huge_tokens_are_not_even_read() {
    let signer = Signer::new("k", Algorithm::ES256);
    let issuers = sso(&[&signer]);
    let with = |length: usize| {
        let mut claims = claims(ISSUER, "alice");
        claims["x"] = json!("x".repeat(length));
        signer.token(&claims)
    };
    let limit = doorward::token::compact::MAX_BYTES;
    let base = with(0).len();
    let fits = with((limit - base) / 4 * 3 - 3);
    assert!(fits.len() <= limit && fits.len() > limit - 8, "{}", fits.len());
    assert_eq!(owner(&issuers, &fits), "acme/sso/alice");
    for length in [limit - base, 10 * limit, 100 * limit] {
        assert_eq!(fault(&issuers, &with(length)), TokenFault::TooLong);
    }
    assert_eq!(fault(&issuers, &".".repeat(limit)), TokenFault::Malformed);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// No bytes make the reader panic, and none of them pass.
    #[test]
    fn no_bytes_pass(bytes in prop::collection::vec(any::<u8>(), 0..200), text in "[A-Za-z0-9_.=-]{0,200}") {
        let issuers = configured(&entry("sso", ISSUER, &ALL, ""));
        prop_assert!(issuers.prove(&bytes, now()).is_err());
        prop_assert!(issuers.prove(text.as_bytes(), now()).is_err());
    }

    /// A token with one character changed, or some cut out or put in, does not pass.
    #[test]
    fn no_change_passes(at: prop::sample::Index, byte: u8, kind in 0..3) {
        thread_local!(static MADE: (Issuers, String) = {
            let signer = Signer::new("k", Algorithm::ES256);
            (sso(&[&signer]), signer.token(&claims(ISSUER, "alice")))
        });
        MADE.with(|(issuers, token)| {
            let mut bytes = token.clone().into_bytes();
            let at = at.index(bytes.len());
            match kind {
                0 => bytes[at] = byte,
                1 => drop(bytes.remove(at)),
                _ => bytes.insert(at, byte),
            }
            prop_assume!(bytes != token.as_bytes());
            prop_assert!(issuers.prove(&bytes, now()).is_err());
            Ok(())
        })?;
    }

    /// Whatever is between the dots, with whatever JSON: read or refused.
    #[test]
    fn any_json_is_read_or_refused(header in "\\PC{0,60}", payload in "\\PC{0,120}", signature: Vec<u8>) {
        let token = [base64url(&header), base64url(&payload), base64url(&signature)].join(".");
        let issuers = configured(&entry("sso", ISSUER, &ALL, ""));
        prop_assert!(issuers.prove(token.as_bytes(), now()).is_err());
    }
}
