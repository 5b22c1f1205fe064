//! Keys of issuers: which are taken, and that proofs end with the key, the issuer and the rules that
//! they rest on.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::rsa::KeySize;
use doorward::domain::timestamp::Timestamp;
use doorward::domain::token::TokenFault;
use doorward::token::issuers::Issuers;
use doorward::token::keys::KeySet;
use jsonwebtoken::Algorithm;
use serde_json::{Value, json};

use crate::support::{AUDIENCE, Signer, base64url, claims, jwks, rsa_key};
use crate::token_attacks::{ISSUER, WithKeys, config_of, configured, entry, fault, now, owner, place};

#[test]
fn unsound_keys_are_passed_over() {
    let good = Signer::new("good", Algorithm::ES256);
    let rsa = Signer::new("rsa", Algorithm::RS256);
    let changed = |signer: &Signer, change: &dyn Fn(&mut Value)| {
        let mut jwk = signer.jwk();
        change(&mut jwk);
        jwk
    };
    let short = Signer { key: rsa_key(KeySize::Rsa2048), ..rsa.clone() };
    let small_n =
        base64url(&doorward::domain::base64url::decode(short.jwk()["n"].as_str().unwrap().as_bytes()).unwrap()[128..]);
    let odd = [
        changed(&rsa, &|jwk| jwk["n"] = json!(small_n)),
        changed(&rsa, &|jwk| jwk["n"] = json!("")),
        changed(&rsa, &|jwk| jwk["e"] = json!("AQ")),
        changed(&rsa, &|jwk| jwk["e"] = json!("Ag")),
        changed(&rsa, &|jwk| jwk["e"] = json!("")),
        changed(&rsa, &|jwk| jwk["e"] = json!("AQAB==")),
        changed(&rsa, &|jwk| jwk["use"] = json!("enc")),
        changed(&rsa, &|jwk| jwk["use"] = json!(["sig"])),
        changed(&rsa, &|jwk| jwk["key_ops"] = json!(["encrypt"])),
        changed(&rsa, &|jwk| jwk["alg"] = json!("RSA-OAEP")),
        changed(&rsa, &|jwk| jwk["alg"] = json!("HS256")),
        changed(&rsa, &|jwk| jwk["alg"] = json!("ES256")),
        changed(&rsa, &|jwk| jwk["kty"] = json!("oct")),
        changed(&rsa, &|jwk| jwk["d"] = json!("AQAB")),
        changed(&rsa, &|jwk| jwk["kid"] = json!(7)),
        changed(&good, &|jwk| jwk["crv"] = json!("P-384")),
        changed(&good, &|jwk| jwk["crv"] = json!("secp256k1")),
        changed(&good, &|jwk| jwk["x"] = jwk["y"].clone()),
        changed(&good, &|jwk| jwk["x"] = json!(format!("AA{}", jwk["x"].as_str().unwrap()))),
        changed(&good, &|jwk| drop(jwk.as_object_mut().unwrap().remove("y"))),
        json!({ "kty": "OKP", "crv": "X25519", "x": base64url([9; 32]) }),
        json!({ "kty": "OKP", "crv": "Ed25519", "x": base64url([9; 31]) }),
        json!({}),
        json!(null),
        json!([]),
        json!("key"),
    ];
    for odd in odd {
        let parse = |keys: Value| KeySet::parse(json!({ "keys": keys }).to_string().as_bytes()).unwrap();
        assert!(parse(json!([odd])).is_empty(), "{odd}");
        // The others count.
        assert_eq!(parse(json!([odd, good.jwk()])).len(), 1);
    }
    // A zero in front of the modulus is a habit of some.
    let n = doorward::domain::base64url::decode(rsa.jwk()["n"].as_str().unwrap().as_bytes()).unwrap();
    let padded = changed(&rsa, &|jwk| jwk["n"] = json!(base64url([vec![0], n.clone()].concat())));
    let keys = KeySet::parse(json!({ "keys": [padded] }).to_string().as_bytes()).unwrap();
    let issuers = configured(&entry("sso", ISSUER, &[Algorithm::RS256], "")).with_keys(&place("sso"), &keys, now());
    assert_eq!(owner(&issuers, &rsa.token(&claims(ISSUER, "alice"))), "acme/sso/alice");
}

#[test]
fn documents_that_are_no_key_sets_are_refused_whole() {
    let signer = Signer::new("k", Algorithm::ES256);
    let jwk = signer.jwk();
    for odd in [
        "".to_owned(),
        "<html><body>Sign in</body></html>".to_owned(),
        "{}".to_owned(),
        "[]".to_owned(),
        "{\"keys\":{}}".to_owned(),
        "{\"keys\":[],\"keys\":[]}".to_owned(),
        "{\"keys\":[]".to_owned(),
        json!({ "keys": vec![jwk.clone(); 65] }).to_string(),
        json!({ "keys": [jwk], "x": "x".repeat(256 * 1024) }).to_string(),
    ] {
        assert!(KeySet::parse(odd.as_bytes()).is_err(), "{odd}");
    }
    assert!(KeySet::parse(b"{\"keys\":[]}").unwrap().is_empty());
}

/// The published examples of the RFCs, which no library of ours has made.
#[test]
fn the_examples_of_the_rfcs_verify() {
    let check = |jwk: Value, algorithm, token: &str| {
        let keys = KeySet::parse(json!({ "keys": [jwk] }).to_string().as_bytes()).unwrap();
        let key = keys.fitting(None, algorithm).next().unwrap();
        let (signed, signature) = token.rsplit_once('.').unwrap();
        let signature = doorward::domain::base64url::decode(signature.as_bytes()).unwrap();
        assert!(key.verifies(algorithm, signed.as_bytes(), &signature));
        assert!(!key.verifies(algorithm, signed.as_bytes(), &signature[1..]));
        assert!(!key.verifies(algorithm, &signed.as_bytes()[1..], &signature));
    };
    // RFC 8037, appendix A.4
    check(
        json!({ "kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo" }),
        doorward::domain::token::Algorithm::EdDsa,
        "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg",
    );
    // RFC 7515, appendix A.3
    check(
        json!({
            "kty": "EC", "crv": "P-256",
            "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
            "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
        }),
        doorward::domain::token::Algorithm::Es256,
        "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q",
    );
}

/// A proof is worth what its issuer says now.
#[test]
fn proofs_end_with_their_key_their_issuer_and_their_rules() {
    let (old, new) = (Signer::new("1", Algorithm::ES256), Signer::new("2", Algorithm::ES256));
    let sections = entry("sso", ISSUER, &[Algorithm::ES256], "");
    let issuers = configured(&sections).keys("sso", &[&old]);
    let token = old.token(&claims(ISSUER, "alice"));
    let prove = |issuers: &Issuers| issuers.prove(token.as_bytes(), now());
    let proof = prove(&issuers).unwrap();
    // Remembered: the very same proof, and no second signature.
    assert!(Arc::ptr_eq(&proof, &prove(&issuers).unwrap()));
    // The same keys fetched again: still remembered.
    let again = issuers.keys("sso", &[&old]);
    assert!(Arc::ptr_eq(&proof, &prove(&again).unwrap()));
    // A key more: proven anew, and the old proof holds.
    let both = issuers.keys("sso", &[&old, &new]);
    assert!(!Arc::ptr_eq(&proof, &prove(&both).unwrap()));
    assert_eq!(both.weigh(&proof).unwrap().token.owner.as_str(), "acme/sso/alice");
    // The key is gone, or another has its name.
    let unknown = TokenFault::UnknownKey("sso".into());
    for gone in [issuers.keys("sso", &[&new]), issuers.keys("sso", &[]), issuers.keys("sso", &[&new.named("1")])] {
        assert_eq!(gone.weigh(&proof).unwrap_err(), unknown);
        assert!(prove(&gone).is_err());
    }
    let renamed = issuers.keys("sso", &[&old.named("other")]);
    assert_eq!(renamed.weigh(&proof).unwrap_err(), unknown);
    // A reload that changes nothing for it.
    let reloaded = both.reconfigured(&config_of(&sections).issuers);
    assert!(Arc::ptr_eq(&prove(&both).unwrap(), &prove(&reloaded).unwrap()));
    // Reloads that do.
    let reloaded = |sections: &str| both.reconfigured(&config_of(sections).issuers);
    let moved = reloaded(&entry("sso", ISSUER, &[Algorithm::ES256], "owner = \"acme/new/{sub}\""));
    assert_eq!(moved.weigh(&proof).unwrap().token.owner.as_str(), "acme/new/alice");
    let other_algorithm = reloaded(&entry("sso", ISSUER, &[Algorithm::RS256], ""));
    assert!(matches!(other_algorithm.weigh(&proof), Err(TokenFault::AlgorithmNotAllowed(..))));
    let other_audience = reloaded(&sections.replace(AUDIENCE, "other"));
    assert_eq!(other_audience.weigh(&proof).unwrap_err(), TokenFault::WrongAudience);
    assert_eq!(reloaded("").weigh(&proof).unwrap_err(), TokenFault::UnknownIssuer);
    let elsewhere = reloaded(&sections.replace("sso.test", "elsewhere.test"));
    assert_eq!(elsewhere.weigh(&proof).unwrap_err(), TokenFault::NoKeys("sso".into()));
}

#[test]
fn keys_of_an_issuer_that_is_not_heard_from_lapse() {
    let signer = Signer::new("k", Algorithm::ES256);
    let issuers = configured(&entry("sso", ISSUER, &[Algorithm::ES256], "stale_max = \"10m\""));
    let mut claims = claims(ISSUER, "alice");
    claims["exp"] = json!(now().as_seconds() + 7200);
    let token = signer.token(&claims);
    assert_eq!(fault(&issuers, &token), TokenFault::NoKeys("sso".into()));
    let fetched = now();
    let keys = KeySet::parse(jwks(&[&signer]).as_bytes()).unwrap();
    let issuers = issuers.with_keys(&place("sso"), &keys, fetched);
    let end = fetched.after(Duration::from_secs(600));
    let last = Timestamp::from_millis(end.as_millis() - 1);
    let proof = issuers.prove(token.as_bytes(), last).unwrap();
    let vouched = issuers.weigh(&proof).unwrap();
    assert_eq!(vouched.ends_at(), end);
    assert_eq!(vouched.check(last), Ok(()));
    // What is remembered lapses with the keys.
    assert_eq!(vouched.check(end), Err(TokenFault::StaleKeys("sso".into())));
    assert_eq!(issuers.prove(token.as_bytes(), end).unwrap_err(), TokenFault::StaleKeys("sso".into()));
    // Heard from again, they hold again.
    let issuers = issuers.with_keys(&place("sso"), &keys, end);
    assert!(issuers.prove(token.as_bytes(), end).is_ok());
}
